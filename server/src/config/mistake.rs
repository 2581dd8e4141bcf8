//! What can be wrong with flags, each mistake naming its flag.
//!
//! Promise: a message repeats no secret; values of flags are paths, URLs and numbers.
//! Not known here: how mistakes are found.

use std::fmt;
use std::time::Duration;

use super::cluster::ClusterError;
use super::duration::show_duration;
use super::tls::TlsMistake;
use super::url::UrlError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// A flag without its dashes, a variable, or a word that is neither.
    source: String,
    problem: Problem,
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

    #[error("not implemented by this release")]
    Absent,
    #[error("not implemented by this release; only {unless} is accepted")]
    AbsentUnless { unless: &'static str },
    #[error(
        "not implemented by this release, and a server does not start with less protection than \
         was asked for"
    )]
    ProtectionAbsent,
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
    #[error("is required when --listen-client-urls is set explicitly")]
    AdvertiseUnset,
    #[error("does not go with --key-provider={provider}")]
    OtherProvider { provider: &'static str },
    #[error("is required with --key-provider=passphrase")]
    PassphraseUnset,
}

impl Mistake {
    pub fn new(source: &str, problem: impl Into<Problem>) -> Self {
        Self {
            source: source.to_owned(),
            problem: problem.into(),
        }
    }

    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    fn is_variable(&self) -> bool {
        self.source.starts_with("ETCD_") || self.source.starts_with("SEALKV_")
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, problem } = self;
        match problem {
            Problem::NotAFlag => write!(f, "{source:?} {problem}"),
            Problem::ElectionTooShort { .. } | Problem::ElectionTooLong { .. } => {
                write!(f, "--{source}{problem}")
            }
            _ if self.is_variable() => write!(f, "{source}: {problem}"),
            _ => write!(f, "--{source}: {problem}"),
        }
    }
}
