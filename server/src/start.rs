//! The composition root: a member from its configuration to its end.
//!
//! Order at start: key provider, slot, storage keys, log and state, raft, keyring, clients.
//! Nothing is generated beside data that it could not open.

mod bootstrap;
mod discovery;
mod join;
mod listen;
mod member;
mod memory;
mod pages;
mod plugins;
mod registry;
mod restore;

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::config::{Config, ConfigError};
use crate::shutdown::Shutdown;
use crate::storage::log::LogError;

pub use bootstrap::open_provider;
pub use discovery::DiscoveryError;
pub use memory::MemoryError;
pub use restore::{Bundle, BundleError, Restore, RestoreFailed, Restored};

/// What to do about a member that cannot go on with what it has.
const REBUILD: &str = "make this member anew with: sealkv member rebuild --endpoints OTHER_MEMBERS -- \
     THIS_MEMBERS_FLAGS";

/// Why a member did not start, or ended by itself. One line for a person.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("{}", .0.mistakes().iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Config(ConfigError),
    #[error(transparent)]
    Directory(#[from] crate::storage::DirectoryError),
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    #[error("key file: {0}")]
    KeyFile(#[from] keys::KeyFileError),
    #[error("--passphrase-file: {0}")]
    Passphrase(#[from] keys::PassphraseError),
    #[error(transparent)]
    InheritedRoot(#[from] keys::InheritedRootError),
    #[error("{0}")]
    MemberKey(#[from] keys::MemberKeyFileError),
    #[error(
        "{} holds data but no member.key: without it nothing here can be opened. Put it back, or \
         {REBUILD}", path.display()
    )]
    MemberKeyLost { path: PathBuf },
    #[error(
        "{} was begun by member {found:x}, and these flags make member {given:x}: start with the \
         flags of its first start, or remove the directory", path.display()
    )]
    OtherMember {
        path: PathBuf,
        found: u64,
        given: u64,
    },
    #[error("{} {what}", path.display())]
    Identity { path: PathBuf, what: &'static str },
    #[error("--auth-token: {0}")]
    AuthToken(#[from] crate::access::KeyError),
    #[error("key provider: {0}")]
    Provider(keys::ProviderError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    State(#[from] crate::apply::Poison),
    #[error(
        "the state has applied up to {applied} and the raft log starts at {first}: entries between \
         them are lost. As long as the other members have them, {REBUILD}; otherwise restore a backup"
    )]
    LogStartsAfterState { applied: u64, first: u64 },
    #[error(
        "member {member:x} has already been bootstrapped: the cluster knows it with another \
             data directory. A member that has lost its data comes back under a new id: {REBUILD}"
    )]
    AlreadyBootstrapped { member: u64 },
    #[error(transparent)]
    Discovery(Box<DiscoveryError>),
    #[error("{0}")]
    Join(#[from] crate::raft::JoinError),
    #[error("--force-new-cluster: {0}")]
    ForceNew(#[from] crate::raft::ForceNewError),
    /// Known before it served anybody. One that is removed later ends well, as etcd's does.
    #[error(
        "the member has been permanently removed from the cluster: its data directory must be \
         removed, and a member in its place gets a new id"
    )]
    Removed,
    #[error(transparent)]
    Traces(#[from] crate::traces::TracesError),
    #[error(transparent)]
    Memory(#[from] memory::MemoryError),
    #[error(transparent)]
    Inconsistent(#[from] crate::corruption_check::Inconsistent),
    #[error("cannot listen on {url}: {source}")]
    Listen { url: String, source: std::io::Error },
    #[error("raft: {0}")]
    Raft(String),
    #[error(
        "no space left on the disk of {}: make room and start again; nothing that was acknowledged \
         is lost ({reason})", path.display()
    )]
    DiskFull { path: PathBuf, reason: String },
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        source: std::io::Error,
    },
}

impl From<DiscoveryError> for StartError {
    fn from(error: DiscoveryError) -> Self {
        Self::Discovery(Box::new(error))
    }
}

/// Less than one segment of the raft log: the engine under the store does not pass on why it
/// could not write.
const FREE_BYTES_MIN: u64 = 64_000_000;

fn is_full(path: &std::path::Path) -> bool {
    rustix::fs::statvfs(path)
        .is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < FREE_BYTES_MIN)
}

/// Raft does not pass on why it could not write either.
fn may_be_of_a_full_disk(error: &StartError) -> bool {
    match error {
        StartError::Raft(_) => true,
        StartError::Log(LogError::Disk { source, .. }) => {
            source.kind() == std::io::ErrorKind::StorageFull
        }
        _ => false,
    }
}

/// Runs a member until it is told to stop, or cannot go on.
pub fn run(config: Config, shutdown: Shutdown) -> Result<(), StartError> {
    // Raft, replication and apply keep their threads to themselves; clients are served elsewhere.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("raft")
        .enable_all()
        .build()
        .map_err(|source| StartError::Io {
            what: "cannot start threads",
            source,
        })?;
    let mut directories = vec![config.data_dir.clone()];
    directories.extend(config.wal_dir.clone());
    let outcome = runtime.block_on(member::run(Arc::new(config), shutdown));
    let outcome = outcome.map_err(|error| match error {
        error if may_be_of_a_full_disk(&error) => {
            match directories.into_iter().find(|path| is_full(path)) {
                Some(path) => StartError::DiskFull {
                    path,
                    reason: error.to_string(),
                },
                None => error,
            }
        }
        error => error,
    });
    // A task that does not end must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    outcome
}
