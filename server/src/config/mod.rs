//! What a server is told at its start: flags and variables, made one valid [`Config`].
//!
//! Promise: a `Config` that exists is consistent; all mistakes are reported together, each naming
//! its flag; no flag is taken and ignored.
//! Not known here: the data directory, sockets, how to open a key.

mod allow_list;
mod auth_token;
mod cluster;
mod config_file;
mod discovery;
mod duration;
mod feature_gates;
mod flag_syntax;
mod flag_table;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod help;
mod log;
mod mistake;
mod settle;
mod tls;
mod tracing;
mod url;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use allow_list::AllowList;
pub use auth_token::AuthToken;
pub use cluster::{ClusterError, InitialCluster};
pub use discovery::{Credentials, DiscoveryService, SrvDiscovery};
pub use duration::{parse_duration, show_duration};
pub use feature_gates::{FeatureGates, FeatureState, Gate};
pub use flag_syntax::Given;
pub use flag_table::{FLAGS, FlagSpec, Group, Kind, Standing};
pub use help::{flags_help, flags_markdown};
pub use mistake::{Mistake, Problem, Source};
pub use tls::{
    AllowedNames, CipherSuite, OwnCertificate, PemPair, SelfSigned, TlsSettings, TlsVersion,
    TlsVersions,
};
pub use tracing::{SAMPLES_PER, Tracing};
pub use url::{MemberUrl, Place, UrlError};

/// etcd's release whose behaviour this server has.
pub const ETCD_VERSION: &str = "3.7.1";
/// The cluster version that goes with it.
pub const ETCD_CLUSTER_VERSION: &str = "3.7.0";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// Where the raft log is, if not in the data directory.
    pub wal_dir: Option<PathBuf>,
    /// The raft log is not synced: a power cut loses what was acknowledged.
    pub unsafe_no_fsync: bool,
    /// Keep all memory out of swap.
    pub lock_memory: bool,
    /// Sorted, as all lists of URLs here.
    pub listen_client_urls: Vec<MemberUrl>,
    /// HTTP moves here from the client URLs; empty: it stays with them.
    pub listen_client_http_urls: Vec<MemberUrl>,
    pub listen_metrics_urls: Vec<MemberUrl>,
    pub json_gateway: bool,
    /// Where the processor's time goes is told on the client URLs.
    pub profiles: bool,
    /// Origins whose pages may read answers.
    pub cors: AllowList,
    /// Hosts that plain HTTP requests may name.
    pub host_whitelist: AllowList,
    /// How long calls take is counted too.
    pub extensive_metrics: bool,
    pub advertise_client_urls: Vec<MemberUrl>,
    pub listen_peer_urls: Vec<MemberUrl>,
    pub advertise_peer_urls: Vec<MemberUrl>,
    /// Parsed, but held against name and peer URLs only by [`Config::check_bootstrap`].
    pub initial_cluster: InitialCluster,
    /// Where the initial cluster is to be asked for instead, before the first start.
    pub discovery_srv: Option<SrvDiscovery>,
    /// Or where its members find each other.
    pub discovery_service: Option<DiscoveryService>,
    pub initial_cluster_state: ClusterState,
    pub initial_cluster_token: String,
    /// Refuse what would leave the cluster without a quorum of started, connected members.
    pub strict_reconfig_check: bool,
    pub learners_max: usize,
    /// Out of this member's data, a cluster of it alone.
    pub force_new_cluster: bool,
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,
    /// Of a client request; a gRPC message may be 512 KiB larger.
    pub request_bytes_max: usize,
    pub txn_ops_max: usize,
    /// `None`: no quota.
    pub quota_bytes: Option<u64>,
    /// `None`: history stays until a client compacts it.
    pub auto_compaction: Option<AutoCompaction>,
    pub compaction_batch_limit: usize,
    pub compaction_sleep_interval: Duration,
    /// `None`: the members' data is not compared.
    pub corrupt_check_interval: Option<Duration>,
    /// Not zero.
    pub compact_hash_check_interval: Duration,
    pub features: FeatureGates,
    pub concurrent_streams_max: u32,
    pub keepalive: Keepalive,
    /// The least time between pings of a client that has something open.
    pub client_ping_interval_min: Duration,
    pub reuse_port: bool,
    pub client_tls: TlsSettings,
    pub peer_tls: TlsSettings,
    /// At least 100 ms.
    pub watch_progress_interval: Duration,
    pub warning_apply_duration: Duration,
    pub warning_unary_request_duration: Duration,
    /// `None`: no spans are made.
    pub tracing: Option<Tracing>,
    pub auth_token: AuthToken,
    pub key_source: KeySource,
    pub log_level: LogLevel,
    pub log_format: LogFormat,
    /// At least one.
    pub log_outputs: Vec<LogOutput>,
    /// `None`: files grow.
    pub log_rotation: Option<LogRotation>,
    /// Flags that were given and cannot mean anything here: each is logged once.
    pub meaningless_flags: Vec<&'static str>,
    /// Variables that look like flags and are none.
    pub unknown_variables: Vec<String>,
    /// Where all this was read from, if not from flags and variables.
    pub file: Option<ConfigFile>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    pub path: PathBuf,
    /// Flags and variables that were given beside it, which etcd ignores then, and so do we.
    pub ignored: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    New,
    Existing,
}

/// What history is kept when the leader compacts by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// That of this long; not zero.
    Periodic(Duration),
    /// The newest so many revisions; not zero.
    Revision(i64),
}

/// Pings from the server to its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// `None`: no pings.
    pub interval: Option<Duration>,
    pub timeout: Duration,
}

/// Where the root of the keys is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// Made beside a new data directory at the first start.
    GeneratedKeyFile {
        path: PathBuf,
    },
    /// Must exist.
    KeyFile {
        path: PathBuf,
    },
    Passphrase {
        path: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Console,
}

impl LogLevel {
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOutput {
    Stderr,
    Stdout,
    Journal,
    File(PathBuf),
}

/// When a log file is set aside, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRotation {
    pub bytes_max: u64,
    pub age_days_max: Option<u32>,
    pub backups_max: Option<usize>,
    /// Name them by the machine's time zone instead of UTC.
    pub local_time: bool,
    pub compress: bool,
}

/// What a command line without a subcommand asks for.
#[derive(Debug)]
pub enum Asked {
    Serve(Box<Config>),
    Help,
    Version,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// The flags cannot be read.
    Flags(Vec<Mistake>),
    /// They can, and contradict themselves or this release.
    Configuration(Vec<Mistake>),
}

impl ConfigError {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Flags(_) => 2,
            Self::Configuration(_) => 1,
        }
    }

    pub fn mistakes(&self) -> &[Mistake] {
        match self {
            Self::Flags(mistakes) | Self::Configuration(mistakes) => mistakes,
        }
    }
}

/// A flag wins here over its variables, since etcd lets it.
fn named_file(
    arguments: &Given,
    environment: &[(String, String)],
) -> Result<Option<PathBuf>, Vec<Mistake>> {
    let from = match arguments.text("config-file") {
        Some(path) => Some(path),
        None => flag_syntax::variable("config-file", environment)?.map(|(_, path)| path),
    };
    Ok(from.filter(|path| !path.is_empty()).map(PathBuf::from))
}

impl Config {
    /// Arguments without the program's name; the environment as pairs.
    pub fn ask(
        arguments: &[String],
        environment: &[(String, String)],
    ) -> Result<Asked, ConfigError> {
        let alone = Given::read_only_arguments(arguments).map_err(ConfigError::Flags)?;
        if alone.help {
            return Ok(Asked::Help);
        }
        if alone.version {
            return Ok(Asked::Version);
        }
        if let Some(path) = named_file(&alone, environment).map_err(ConfigError::Flags)? {
            return Self::from_file(&path, &alone, environment);
        }
        let given = Given::read(arguments, environment).map_err(ConfigError::Flags)?;
        let mut config = settle::settle(&given).map_err(ConfigError::Configuration)?;
        let unknown = flag_syntax::unknown_variables(environment);
        config.unknown_variables = unknown.map(str::to_owned).collect();
        Ok(Asked::Serve(Box::new(config)))
    }

    /// The file alone decides, as in etcd; what stood beside it is kept for a warning.
    fn from_file(
        path: &Path,
        beside: &Given,
        environment: &[(String, String)],
    ) -> Result<Asked, ConfigError> {
        let given = config_file::read(path).map_err(ConfigError::Configuration)?;
        let mut config = settle::settle(&given).map_err(ConfigError::Configuration)?;
        let flags = beside.specs().map(|(spec, _)| format!("--{}", spec.name));
        let variables = flag_syntax::set_variables(environment).map(str::to_owned);
        let ignored = flags.chain(variables).filter(|name| {
            !matches!(
                name.as_str(),
                "--config-file" | "ETCD_CONFIG_FILE" | "SEALKV_CONFIG_FILE"
            )
        });
        config.file = Some(ConfigFile {
            path: path.to_owned(),
            ignored: ignored.collect(),
        });
        config.meaningless_flags.extend(given.retired());
        Ok(Asked::Serve(Box::new(config)))
    }

    /// For a data directory that holds nothing yet: the initial cluster must have this member,
    /// under the peer URLs it advertises. Later the directory knows better and this is not asked.
    pub fn check_bootstrap(&self) -> Result<(), ConfigError> {
        self.initial_cluster
            .check(&self.name, &self.advertise_peer_urls)
            .map_err(|error| {
                ConfigError::Configuration(vec![Mistake::new("initial-cluster", error)])
            })
    }

    /// As [`Config::check_bootstrap`], for a member that joins a cluster that exists: its own URLs
    /// are looked for among the members'.
    pub fn check_join(&self) -> Result<(), ConfigError> {
        self.initial_cluster
            .check_join(&self.name)
            .map_err(|error| {
                ConfigError::Configuration(vec![Mistake::new("initial-cluster", error)])
            })
    }

    /// How long a request may take: queueing, disk, and one election.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }

    /// Where connections to peers come from, with the feature gate SetMemberLocalAddr: the first
    /// address among the advertised peer URLs that is neither a loopback nor unspecified.
    pub fn peer_local_address(&self) -> Option<IpAddr> {
        if !self.features.enabled(Gate::SetMemberLocalAddr) {
            return None;
        }
        let hosts = self.advertise_peer_urls.iter().filter_map(MemberUrl::ip);
        let mut usable = hosts.filter(|ip| !ip.is_loopback() && !ip.is_unspecified());
        usable.next()
    }

    /// The largest gRPC message a client may send.
    pub fn message_bytes_max(&self) -> usize {
        self.request_bytes_max.saturating_add(512 * 1024)
    }
}

/// What the tests of every part ask.
#[cfg(test)]
mod asking {
    use super::*;

    /// Without an environment.
    pub(super) fn ask(arguments: &[&str]) -> Result<Config, ConfigError> {
        let arguments: Vec<_> = arguments.iter().map(|&a| a.to_owned()).collect();
        match Config::ask(&arguments, &[])? {
            Asked::Serve(config) => Ok(*config),
            other => panic!("{other:?}"),
        }
    }

    /// Of flags that contradict themselves or each other.
    pub(super) fn mistakes(arguments: &[&str]) -> Vec<String> {
        let error = ask(arguments).unwrap_err();
        assert_eq!(error.exit_code(), 1, "{error:?}");
        error.mistakes().iter().map(ToString::to_string).collect()
    }
}
