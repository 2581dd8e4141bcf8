//! What can be wrong with flags, each mistake naming its flag.
//!
//! Promise: a message repeats no secret; values of flags are paths, URLs and numbers.
//! Not known here: how mistakes are found.

use std::fmt;
use std::time::Duration;

use super::cluster::ClusterError;
use super::duration::show_duration;
use super::tls::TlsMistake;
use super::url::{MemberUrl, UrlError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    source: Source,
    problem: Problem,
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A flag without its dashes, or a word that is none.
    Argument(String),
    Variable(String),
    /// A key of the configuration file; no line for what is missing from it.
    File {
        file: String,
        line: Option<u64>,
        key: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("flag provided but not defined")]
    Unknown,
    #[error("is not a valid flag")]
    NotAFlag,
    #[error("flag needs an argument")]
    NoValue,
    #[error("must be true or false")]
    Bool,
    #[error("must be a whole number that is not negative")]
    Unsigned,
    #[error("must be a whole number")]
    Signed,
    #[error("must be a duration such as 100ms or 1h30m")]
    Duration,
    #[error("is set, and so is the environment variable {variable}: unset one of them")]
    Shadowed { variable: String },
    #[error("both {etcd} and {ours} are set: unset one of them")]
    TwoVariables { etcd: String, ours: String },

    #[error("unrecognized feature gate: {name}")]
    UnknownGate { name: String },
    #[error("missing bool value for {name}")]
    GateWithoutValue { name: String },
    #[error(
        "invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"
    )]
    GateNotBool { name: String, value: String },
    #[error(
        "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint"
    )]
    PersistWithoutCheckpoint,
    #[error("not implemented by this release")]
    Absent,
    #[error("not implemented by this release; only {unless} is accepted")]
    AbsentUnless { unless: &'static str },
    #[error("must be simple, or jwt,sign-method=METHOD with pub-key=, priv-key= and ttl=")]
    TokenKind,
    #[error(
        "sign-method must be one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, \
         EdDSA, HS256, HS384 and HS512"
    )]
    TokenMethod,
    #[error("has an option that is unknown or given twice")]
    TokenOption,
    #[error("must not be empty")]
    Empty,
    #[error("must be {allowed}")]
    Choice { allowed: &'static str },
    #[error("must be >0")]
    Zero,
    #[error("must be at most {most}")]
    TooLarge { most: u64 },
    #[error("must be at least {}", show_duration(*least))]
    TooShort { least: Duration },
    #[error(
        "[{election_ms}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat_ms}ms]"
    )]
    ElectionTooShort { election_ms: u64, heartbeat_ms: u64 },
    #[error("[{election_ms}ms] is too long, and should be set less than 50000ms")]
    ElectionTooLong { election_ms: u64 },
    #[error("{0}")]
    Url(#[from] UrlError),
    #[error("{0}")]
    Cluster(#[from] ClusterError),
    #[error("{0}")]
    Tls(#[from] TlsMistake),
    #[error(
        "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
         \"discovery-endpoints\" or \"discovery-srv\""
    )]
    TwoBootstraps,
    #[error("means nothing without --discovery-srv")]
    NoDiscovery,
    #[error("both --discovery-token and --discovery-endpoints must be set")]
    HalfDiscovery,
    #[error("must not contain empty endpoints")]
    EmptyEndpoint,
    #[error("has no password: write NAME:PASSWORD, or set --discovery-password")]
    NoPassword,
    #[error("means nothing without --discovery-user")]
    NoUser,
    #[error("is required when --listen-client-urls is set explicitly")]
    AdvertiseUnset,
    #[error("does not go with --key-provider={provider}")]
    OtherProvider { provider: &'static str },
    #[error("is required with --key-provider=passphrase")]
    PassphraseUnset,
    #[error(
        "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {url}"
    )]
    BothOn { url: MemberUrl },
    #[error("{origin:?} is no origin: it must be http://HOST or https://HOST, maybe with a port")]
    NotAnOrigin { origin: String },
    #[error("{output} does not go with other outputs")]
    OutputNotAlone { output: &'static str },
    #[error("{why}")]
    RotationJson { why: String },
    #[error("needs exactly one file among --log-outputs")]
    RotationNeedsOneFile,

    #[error("cannot read {path}: {error}")]
    FileUnread { path: String, error: String },
    #[error("{why}")]
    Yaml { why: String },
    #[error("is no key of etcd's configuration file and no flag of this server")]
    UnknownKey,
    #[error("must be {wanted}")]
    WrongType { wanted: &'static str },
    #[error("belongs under {section}")]
    InSection { section: &'static str },
    #[error("belongs at the top of the file")]
    AtTop,
}

impl Mistake {
    /// Of a flag, a variable or a word of the command line.
    pub fn new(source: &str, problem: impl Into<Problem>) -> Self {
        let is_variable = source.starts_with("ETCD_") || source.starts_with("SEALKV_");
        let wrap = if is_variable {
            Source::Variable
        } else {
            Source::Argument
        };
        Self {
            source: wrap(source.to_owned()),
            problem: problem.into(),
        }
    }

    pub(super) fn of(source: Source, problem: Problem) -> Self {
        Self { source, problem }
    }

    pub(super) fn in_file(file: &str, line: Option<u64>, key: &str, problem: Problem) -> Self {
        let source = Source::File {
            file: file.to_owned(),
            line,
            key: key.to_owned(),
        };
        Self { source, problem }
    }

    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, problem } = self;
        match (source, problem) {
            (Source::Argument(word), Problem::NotAFlag) => write!(f, "{word:?} {problem}"),
            (_, Problem::ElectionTooShort { .. } | Problem::ElectionTooLong { .. }) => {
                write!(f, "{source}{problem}")
            }
            (Source::File { key, .. }, _) if key.is_empty() => write!(f, "{source}{problem}"),
            _ => write!(f, "{source}: {problem}"),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(flag) => write!(f, "--{flag}"),
            Self::Variable(name) => f.write_str(name),
            Self::File { file, line, key } => match line {
                Some(line) => write!(f, "{file}:{line}: {key}"),
                None => write!(f, "{file}: {key}"),
            },
        }
    }
}
