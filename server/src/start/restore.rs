//! A new member's data directory out of a backup, offline.
//!
//! Promise: the directory appears whole, by one rename, after every section of the backup has
//! authenticated and everything is synced; after any error there is none. An existing directory is
//! refused. The same backup makes one member or several, each by a run of its own, with a cluster
//! id of its own by etcd's rule. The member's storage key and slot are new.
//! Not known here: how a running member works.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keys::{DirectoryId, MemberKey, Provider};
use thiserror::Error;

use super::StartError;
use super::bootstrap::{Members, log_disk, open_provider, write_identity};
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
    pub name: String,
    pub initial_cluster: InitialCluster,
    pub advertise_peer_urls: Vec<MemberUrl>,
    pub cluster_token: String,
    /// Opens the backup, and is what the restored member is started with.
    pub key_source: KeySource,
    pub skip_hash_check: bool,
    /// If not 0: how far the revision moves; everything up to there counts as compacted then.
    pub revision_bump: i64,
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
        let reader = BackupReader::new(backup)?;
        let envelope = &reader.header().envelope;
        let (provider, member_id) = (envelope.provider(), envelope.member_id());
        let provider =
            open_provider(&self.key_source, true).map_err(|source| RestoreFailed::NoProvider {
                provider,
                member_id,
                source,
            })?;
        let staging = Staging::new(&self.data_dir);
        let restored = self.fill(reader, &*provider, &staging.path).await?;
        staging.publish(&self.data_dir)?;
        Ok(restored)
    }

    async fn fill(
        &self,
        mut reader: BackupReader<impl Read>,
        provider: &dyn Provider,
        path: &Path,
    ) -> Result<Restored, RestoreFailed> {
        let opened = reader.header().envelope.open(provider)?;
        let (identity, members) = self.identity();
        let mut directory = DataDir::open(path)?;
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
        let inherited = directory.inherited_slot();
        opened
            .slot
            .save_inherited(&inherited, &storage_keys)
            .map_err(at(&inherited))?;
        write_identity(&directory, &storage_keys, &identity)?;

        let staged = directory.stage(storage_keys.clone(), StoreOptions::default())?;
        let mut loader = SnapshotLoader::new(staged.store().clone());
        while let Some(chunk) = reader.chunk(&opened.key)? {
            loader.chunk(&chunk)?;
        }
        let backup = reader.finish(self.skip_hash_check)?;
        let (store, _) = loader.finish(None)?;
        let beginning = Beginning {
            membership: first_membership(&members).expect("an initial cluster has members"),
            member_ids: members.keys().copied().collect(),
            slot_id: opened.slot_id,
            revision_bump: self.revision_bump,
        };
        let begun = begin_anew(&store, &beginning)?;
        // What a member could not be recovered from is no backup worth a directory.
        let machine = Machine::recover(store, identity.member_id).map_err(StartError::from)?;
        drop((machine, directory.publish(staged, None)?));
        begin_log(&directory, storage_keys, begun).await?;
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
    path: PathBuf,
}

impl Staging {
    fn new(data_dir: &Path) -> Self {
        let mut name = data_dir.as_os_str().to_owned();
        name.push(format!(".restoring-{}", std::process::id()));
        Self { path: name.into() }
    }

    fn publish(&self, data_dir: &Path) -> Result<(), RestoreFailed> {
        fs::rename(&self.path, data_dir).map_err(at(data_dir))?;
        let parent = data_dir
            .parent()
            .filter(|path| !path.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let directory = fs::File::open(parent).and_then(|parent| parent.sync_all());
        directory.map_err(at(parent))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // There is none once it was published.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> RestoreFailed {
    let path = path.to_owned();
    move |source| RestoreFailed::Io { path, source }
}
