//! A new member's data directory out of a backup, offline.
//!
//! Promise: the directory appears whole, by one rename, after every section of the backup has
//! authenticated and everything is synced; after any error there is none. An existing directory is
//! refused, and so is a directory for the raft log that is not empty; an error leaves that as it was.
//! The same backup makes one member or several, each by a run of its own, with a cluster
//! id of its own by etcd's rule. The member's storage key and slot are new. What a killed restore left
//! beside the directory starts nobody, and goes with the next one.
//! Not known here: how a running member works.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keys::{Argon2Cost, DirectoryId, KeyBundle, MemberKey, PassphraseProvider, Provider, RootKey};
use thiserror::Error;

use super::bootstrap::{Members, log_disk, open_provider, write_identity};
use super::{StartError, is_full};
use crate::apply::Machine;
use crate::apply::restore::{Beginning, Begun, begin_anew};
use crate::apply::snapshot::{SnapshotError, SnapshotLoader};
use crate::backup::{BackupError, BackupReader, Summary};
use crate::config::{InitialCluster, KeySource, MemberUrl};
use crate::raft::{Identity, cluster_id, first_membership, member_id};
use crate::storage::log::{LogOptions, LogPosition, RaftLog};
use crate::storage::{DataDir, DirectoryError, StoreOptions};

/// What is to be made of a backup.
#[derive(Debug)]
pub struct Restore {
    pub data_dir: PathBuf,
    /// Where the raft log is to lie, if not in the data directory.
    pub wal_dir: Option<PathBuf>,
    pub name: String,
    pub initial_cluster: InitialCluster,
    pub advertise_peer_urls: Vec<MemberUrl>,
    pub cluster_token: String,
    /// What the restored member is started with. It opens the backup, unless a bundle does.
    pub key_source: KeySource,
    pub bundle: Option<Bundle>,
    pub skip_hash_check: bool,
    /// If not 0: how far the revision moves; everything up to there counts as compacted then.
    pub revision_bump: i64,
}

/// A key bundle, and the file with its passphrase.
#[derive(Debug)]
pub struct Bundle {
    pub path: PathBuf,
    pub passphrase_file: PathBuf,
}

impl Bundle {
    pub fn load(&self) -> Result<KeyBundle, BundleError> {
        Ok(KeyBundle::load(&self.path)?)
    }

    pub fn open(&self, bundle: &KeyBundle) -> Result<RootKey, BundleError> {
        let path = &self.passphrase_file;
        let passphrase = PassphraseProvider::from_file(path, Argon2Cost::DEFAULT)?;
        Ok(bundle.open(&passphrase)?)
    }
}

/// Why a key bundle is of no use. One line for a person.
#[derive(Debug, Error)]
pub enum BundleError {
    #[error(transparent)]
    File(#[from] keys::KeyBundleError),
    #[error("--bundle-passphrase-file: {0}")]
    Passphrase(#[from] keys::PassphraseError),
    #[error(transparent)]
    Open(#[from] keys::OpenBundleError),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    pub cluster_id: u64,
    pub member_id: u64,
    pub revision: i64,
    pub backup: Summary,
}

/// Why nothing was restored. One line for a person.
#[derive(Debug, Error)]
pub enum RestoreFailed {
    #[error("data-dir {} exists and is not empty: a restore makes a new one", .0.display())]
    Exists(PathBuf),
    #[error(
        "--wal-dir {} is in the data directory, which is yet to be made: leave it out, or name a \
         place beside it", .0.display()
    )]
    LogInside(PathBuf),
    #[error("--initial-cluster: {0}")]
    Cluster(#[from] crate::config::ClusterError),
    #[error("the backup {0}")]
    Backup(#[from] BackupError),
    #[error(
        "the backup is opened by the {provider} provider of member {member_id:x}: give that \
         member's key file as --root-key-file, or its passphrase as --passphrase-file ({source})"
    )]
    NoProvider {
        provider: keys::ProviderKind,
        member_id: u64,
        source: StartError,
    },
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("the backup does not open: {0}")]
    Sealed(#[from] keys::OpenBackupError),
    #[error("the backup's {0}")]
    Content(#[from] SnapshotError),
    #[error(transparent)]
    State(#[from] crate::apply::restore::RestoreError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("no space left on the disk of {}; nothing was kept", .0.display())]
    DiskFull(PathBuf),
    #[error("{} cannot be written: {reason}; nothing was kept", path.display())]
    Unwritable { path: PathBuf, reason: String },
}

impl RestoreFailed {
    /// What the engine under the rows says of a disk, in an operator's words.
    fn of_disk(self, data_dir: &Path, wal_dir: Option<&Path>) -> Self {
        let path = || data_dir.to_owned();
        match self {
            Self::Content(SnapshotError::Storage(_)) | Self::State(_) | Self::Start(_)
                if is_full(parent_of(data_dir)) =>
            {
                Self::DiskFull(path())
            }
            Self::Start(StartError::Log(_)) if wal_dir.is_some_and(is_full) => {
                Self::DiskFull(wal_dir.map_or_else(path, Path::to_owned))
            }
            Self::Content(SnapshotError::Storage(error)) => Self::Unwritable {
                path: path(),
                reason: deepest(&error),
            },
            other => other,
        }
    }
}

fn deepest(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(below) => deepest(below),
        None => error.to_string(),
    }
}

impl From<DirectoryError> for RestoreFailed {
    fn from(error: DirectoryError) -> Self {
        RestoreFailed::Start(error.into())
    }
}

impl Restore {
    /// Blocks for as long as it reads and writes, but for the raft log's own thread.
    pub async fn run(&self, backup: impl Read) -> Result<Restored, RestoreFailed> {
        self.initial_cluster
            .check(&self.name, &self.advertise_peer_urls)?;
        let in_use = fs::read_dir(&self.data_dir).is_ok_and(|mut files| files.next().is_some());
        if in_use || self.data_dir.is_file() {
            return Err(RestoreFailed::Exists(self.data_dir.clone()));
        }
        let wal_dir = self.log_outside()?;
        let reader = BackupReader::new(backup)?;
        let (root, provider) = self.open(&reader)?;
        let mut staging = Staging::new(&self.data_dir)?;
        staging.keep_log_in(wal_dir.as_deref())?;
        let directory = &mut staging.directory;
        let restored = self.fill(reader, &root, &*provider, directory).await;
        let restored =
            restored.map_err(|error| error.of_disk(&self.data_dir, wal_dir.as_deref()))?;
        staging.publish(&self.data_dir)?;
        Ok(restored)
    }

    /// None where the log would lie anyway.
    fn log_outside(&self) -> Result<Option<PathBuf>, RestoreFailed> {
        let Some(wal_dir) = &self.wal_dir else {
            return Ok(None);
        };
        let whole = |path: &Path| std::path::absolute(path).map_err(at(path));
        let (data_dir, wanted) = (whole(&self.data_dir)?, whole(wal_dir)?);
        if wanted == DataDir::log_in(&data_dir) {
            return Ok(None);
        }
        if wanted.starts_with(&data_dir) {
            return Err(RestoreFailed::LogInside(wal_dir.clone()));
        }
        Ok(Some(wanted))
    }

    /// The root key of the backup, and the provider of the member to be.
    fn open(
        &self,
        reader: &BackupReader<impl Read>,
    ) -> Result<(RootKey, Box<dyn Provider>), RestoreFailed> {
        let envelope = &reader.header().envelope;
        if let Some(bundle) = &self.bundle {
            let loaded = bundle.load()?;
            envelope.check_bundle(&loaded)?;
            let root = bundle.open(&loaded)?;
            return Ok((root, open_provider(&self.key_source, false)?));
        }
        let provider = open_provider(&self.key_source, true);
        let provider = provider.map_err(|source| RestoreFailed::NoProvider {
            provider: envelope.provider(),
            member_id: envelope.member_id(),
            source,
        })?;
        Ok((envelope.open_root(&*provider)?, provider))
    }

    async fn fill(
        &self,
        mut reader: BackupReader<impl Read>,
        root: &RootKey,
        provider: &dyn Provider,
        directory: &mut DataDir,
    ) -> Result<Restored, RestoreFailed> {
        let key = reader.header().envelope.open(root)?;
        let (identity, members) = self.identity();
        let mut member_key = MemberKey::create(identity.member_id, DirectoryId::random(), provider)
            .map_err(StartError::Provider)?;
        member_key.set_keyring_id(reader.header().envelope.keyring_id());
        let identity = Identity {
            directory_id: *member_key.outline().directory_id.as_bytes(),
            ..identity
        };
        member_key
            .save(&directory.member_key())
            .map_err(StartError::from)?;
        let storage_keys = member_key.storage_keys().clone();
        let inherited = directory.inherited_root();
        root.save_inherited(&inherited, &storage_keys)
            .map_err(at(&inherited))?;
        write_identity(directory, &storage_keys, &identity)?;

        let staged = directory.stage(storage_keys.clone(), StoreOptions::default())?;
        let mut loader = SnapshotLoader::new(staged.store().clone());
        while let Some(chunk) = reader.chunk(&key)? {
            loader.chunk(&chunk)?;
        }
        let backup = reader.finish(self.skip_hash_check)?;
        let (store, _) = loader.finish(None)?;
        let beginning = Beginning {
            membership: first_membership(&members).expect("an initial cluster has members"),
            member_ids: members.keys().copied().collect(),
            root: root.clone(),
            revision_bump: self.revision_bump,
        };
        let begun = begin_anew(&store, &beginning)?;
        // What a member could not be recovered from is no backup worth a directory.
        Machine::check(&store).map_err(StartError::from)?;
        drop((store, directory.publish(staged, None)?));
        begin_log(directory, storage_keys, begun).await?;
        Ok(Restored {
            cluster_id: identity.cluster_id,
            member_id: identity.member_id,
            revision: begun.revision,
            backup,
        })
    }

    /// By etcd's rule; the directory's id is the caller's to set.
    fn identity(&self) -> (Identity, Members) {
        let token = &self.cluster_token;
        let texts = |urls: &[MemberUrl]| -> Vec<String> {
            urls.iter().map(|url| url.as_str().to_owned()).collect()
        };
        let members: Members = self
            .initial_cluster
            .members()
            .map(|(name, urls)| {
                let urls = texts(urls);
                (member_id(&urls, token), (name.to_owned(), urls))
            })
            .collect();
        let ids: Vec<u64> = members.keys().copied().collect();
        let identity = Identity {
            cluster_id: cluster_id(&ids),
            member_id: member_id(&texts(&self.advertise_peer_urls), token),
            name: self.name.clone(),
            directory_id: [0; 16],
            joined: false,
        };
        (identity, members)
    }
}

/// A log without entries, as behind a snapshot: whoever joins gets the state, not the entries.
async fn begin_log(
    directory: &DataDir,
    storage_keys: keys::StorageKeys,
    begun: Begun,
) -> Result<(), RestoreFailed> {
    let position = LogPosition {
        term: begun.position.term,
        index: begun.position.index,
    };
    let disk = log_disk(directory, true)?;
    let log = RaftLog::open(disk, Arc::new(storage_keys), LogOptions::default());
    let log = log.map_err(StartError::from)?;
    log.purge(position).await.map_err(StartError::from)?;
    log.flush().await.map_err(StartError::from)?;
    log.close().await.map_err(StartError::from)?;
    Ok(())
}

/// A directory beside the one that is to be made, removed unless it is published.
struct Staging {
    directory: DataDir,
    /// Outside, as long as nobody's: it was empty, and its lock is held.
    log: Option<LogOutside>,
}

struct LogOutside {
    path: PathBuf,
    is_made: bool,
}

/// Behind the name of the directory that is to be made, with the process's id behind it.
const STAGING: &str = ".restoring-";

impl Staging {
    fn new(data_dir: &Path) -> Result<Self, RestoreFailed> {
        sweep(data_dir);
        let mut name = data_dir.as_os_str().to_owned();
        name.push(format!("{STAGING}{}", std::process::id()));
        let staging = Self {
            directory: DataDir::open(Path::new(&name))?,
            log: None,
        };
        staging.directory.begin()?;
        Ok(staging)
    }

    fn keep_log_in(&mut self, wal_dir: Option<&Path>) -> Result<(), RestoreFailed> {
        let is_made = wal_dir.is_some_and(|path| !path.exists());
        self.directory.keep_log_in(wal_dir)?;
        self.log = wal_dir.map(|path| LogOutside {
            path: path.to_owned(),
            is_made,
        });
        Ok(())
    }

    fn publish(&mut self, data_dir: &Path) -> Result<(), RestoreFailed> {
        self.directory.finish()?;
        fs::rename(self.directory.root(), data_dir).map_err(at(data_dir))?;
        self.log = None;
        let parent = parent_of(data_dir);
        let synced = File::open(parent).and_then(|parent| parent.sync_all());
        synced.map_err(at(parent))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(LogOutside { path, is_made }) = &self.log {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                let _ = fs::remove_file(entry.path());
            }
            if *is_made {
                let _ = fs::remove_dir(path);
            }
        }
        // There is none once it was published.
        let _ = fs::remove_dir_all(self.directory.root());
    }
}

/// Removes what restores of the same directory left that were killed: nobody holds their lock.
fn sweep(data_dir: &Path) {
    let Some(name) = data_dir.file_name() else {
        return;
    };
    let prefix = [name.as_encoded_bytes(), STAGING.as_bytes()].concat();
    let beside = fs::read_dir(parent_of(data_dir)).into_iter().flatten();
    for path in beside.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default();
        if !name.as_encoded_bytes().starts_with(&prefix) {
            continue;
        }
        if !DataDir::is_in_use(&path) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn parent_of(path: &Path) -> &Path {
    let parent = path.parent();
    let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> RestoreFailed {
    let path = path.to_owned();
    move |source| RestoreFailed::Io { path, source }
}
