//! From a data directory and a key provider to an identity, storage keys and a state.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use keys::{
    Argon2Cost, DirectoryId, FileProvider, MemberKey, PassphraseProvider, Provider, RootKey,
    StorageKeys,
};

use super::StartError;
use super::join::Place;
use crate::apply::Machine;
use crate::config::{Config, KeySource};
use crate::raft::{Identity, cluster_id, member_id};
use crate::storage::log::{DirectoryDisk, LogDisk, LogOptions, RaftLog};
use crate::storage::{DataDir, Store, StoreOptions};

/// What stands before raft can start.
pub(super) struct Opened {
    pub(super) directory: DataDir,
    pub(super) member_key: MemberKey,
    /// The root key of a restored member, until its own slot opens it.
    pub(super) inherited: Option<RootKey>,
    pub(super) identity: Identity,
    pub(super) store: Store,
    pub(super) machine: Machine,
    pub(super) log: RaftLog,
    /// The members of the cluster to bootstrap; none once an entry has been applied, and none for
    /// a member that joins.
    pub(super) bootstrap: Option<Members>,
    /// Members that may know this one by another directory.
    pub(super) may_know: Members,
}

impl Opened {
    /// In place of what the initial cluster was thought to be.
    pub(super) fn bootstrap_with(&mut self, config: &Config) {
        let members = bootstrap_members(config);
        self.may_know.clone_from(&members);
        self.bootstrap = Some(members);
    }
}

/// Names and peer URLs by member id.
pub(super) type Members = BTreeMap<u64, (String, Vec<String>)>;

/// `place`: where a member without data joins a cluster; none for one that bootstraps.
pub(super) fn open(
    config: &Config,
    directory: DataDir,
    place: Option<Place>,
) -> Result<Opened, StartError> {
    warn_of_open_directory(&config.data_dir);
    if let Some(wal_dir) = &config.wal_dir {
        warn_of_open_directory(wal_dir);
    }
    let has_member_key = directory.member_key().exists();
    if directory.has_state() && !has_member_key {
        return Err(StartError::MemberKeyLost {
            path: config.data_dir.clone(),
        });
    }
    let provider = open_provider(&config.key_source, has_member_key)?;
    if directory.has_state() {
        resume(config, directory, provider.as_ref())
    } else {
        let first = match place {
            Some(place) => First::joining(config, place),
            None => First::of_new_cluster(config)?,
        };
        begin(config, directory, provider.as_ref(), first)
    }
}

/// Who a member without data is to be.
struct First {
    cluster_id: u64,
    member_id: u64,
    joined: bool,
    members: Members,
}

impl First {
    fn of_new_cluster(config: &Config) -> Result<Self, StartError> {
        config.check_bootstrap().map_err(StartError::Config)?;
        let members = bootstrap_members(config);
        let ids: Vec<u64> = members.keys().copied().collect();
        let own_urls: Vec<String> = config
            .advertise_peer_urls
            .iter()
            .map(|url| url.as_str().to_owned())
            .collect();
        Ok(Self {
            cluster_id: cluster_id(&ids),
            member_id: member_id(&own_urls, &config.initial_cluster_token),
            joined: false,
            members,
        })
    }

    fn joining(config: &Config, place: Place) -> Self {
        tracing::info!(
            name = config.name,
            member = format_args!("{:x}", place.member_id),
            cluster = format_args!("{:x}", place.cluster_id),
            "joining an existing cluster"
        );
        Self {
            cluster_id: place.cluster_id,
            member_id: place.member_id,
            joined: true,
            members: place.members,
        }
    }
}

/// A start that is not the first.
fn resume(
    config: &Config,
    directory: DataDir,
    provider: &dyn Provider,
) -> Result<Opened, StartError> {
    let lost = |what| StartError::Identity {
        path: config.data_dir.clone(),
        what,
    };
    let member_key = MemberKey::load(&directory.member_key(), provider)?;
    let storage_keys = member_key.storage_keys().clone();
    let identity = read_identity(&directory, &storage_keys, &member_key)?;
    let inherited = RootKey::load_inherited(&directory.inherited_root(), &storage_keys)?;
    let store = directory.open_state(storage_keys.clone(), StoreOptions::default())?;
    let store = store.ok_or_else(|| lost("has no state"))?;
    let machine = Machine::recover(store.clone(), identity.member_id)?;
    let disk = log_disk(&directory, !config.unsafe_no_fsync)?;
    let bootstrap = match machine.applied().last {
        None if identity.joined => None,
        None => {
            config.check_bootstrap().map_err(StartError::Config)?;
            Some(bootstrap_members(config))
        }
        Some(_) if !RaftLog::exists(&*disk)? => {
            return Err(lost(
                "has lost its raft log, and with it this member's votes: make this member anew with: \
                 sealkv member rebuild --endpoints OTHER_MEMBERS -- THIS_MEMBERS_FLAGS",
            ));
        }
        Some(_) => None,
    };
    let log = RaftLog::open(disk, Arc::new(storage_keys), LogOptions::default())?;
    Ok(Opened {
        directory,
        member_key,
        inherited,
        identity,
        store,
        machine,
        log,
        may_know: bootstrap.clone().unwrap_or_default(),
        bootstrap,
    })
}

/// The first start, or the next attempt at one that a crash cut short.
fn begin(
    config: &Config,
    mut directory: DataDir,
    provider: &dyn Provider,
    first: First,
) -> Result<Opened, StartError> {
    let own_id = first.member_id;
    let member_key = own_member_key(config, &directory, provider, own_id)?;
    let identity = Identity {
        cluster_id: first.cluster_id,
        member_id: own_id,
        name: config.name.clone(),
        directory_id: *member_key.outline().directory_id.as_bytes(),
        joined: first.joined,
    };
    let storage_keys = member_key.storage_keys().clone();
    write_identity(&directory, &storage_keys, &identity)?;
    let staged = directory.stage(storage_keys.clone(), StoreOptions::default())?;
    let machine = Machine::create(staged.store().clone(), own_id)?;
    let store = directory.publish(staged, None)?;
    let log = RaftLog::open(
        log_disk(&directory, !config.unsafe_no_fsync)?,
        Arc::new(storage_keys),
        LogOptions::default(),
    )?;
    Ok(Opened {
        directory,
        member_key,
        inherited: None,
        identity,
        store,
        machine,
        log,
        bootstrap: (!first.joined).then(|| first.members.clone()),
        may_know: first.members,
    })
}

fn own_member_key(
    config: &Config,
    directory: &DataDir,
    provider: &dyn Provider,
    own_id: u64,
) -> Result<MemberKey, StartError> {
    let path = directory.member_key();
    if path.exists() {
        let begun = MemberKey::load(&path, provider)?;
        let found = begun.outline().member_id;
        if found != own_id {
            let path = config.data_dir.clone();
            return Err(StartError::OtherMember {
                path,
                found,
                given: own_id,
            });
        }
        return Ok(begun);
    }
    let made =
        MemberKey::create(own_id, DirectoryId::random(), provider).map_err(StartError::Provider)?;
    made.save(&path)?;
    Ok(made)
}

pub(super) fn log_disk(directory: &DataDir, syncs: bool) -> Result<Arc<dyn LogDisk>, StartError> {
    let disk = DirectoryDisk::open(&directory.log()).map_err(|source| StartError::Io {
        what: "cannot open the raft log",
        source,
    })?;
    Ok(Arc::new(if syncs { disk } else { disk.without_syncs() }))
}

fn bootstrap_members(config: &Config) -> Members {
    config
        .initial_cluster
        .members()
        .map(|(name, urls)| {
            let urls: Vec<String> = urls.iter().map(|url| url.as_str().to_owned()).collect();
            (
                member_id(&urls, &config.initial_cluster_token),
                (name.to_owned(), urls),
            )
        })
        .collect()
}

/// The provider that the flags name. `data_exists`: a key file that is missing must not be made.
pub fn open_provider(
    source: &KeySource,
    data_exists: bool,
) -> Result<Box<dyn Provider>, StartError> {
    Ok(match source {
        KeySource::GeneratedKeyFile { path } => {
            let (provider, generated) = FileProvider::load_or_generate(path, data_exists)?;
            if generated {
                warn_of_generated_key(path);
            }
            Box::new(provider)
        }
        KeySource::KeyFile { path } => Box::new(FileProvider::load(path)?),
        KeySource::Passphrase { path } => {
            Box::new(PassphraseProvider::from_file(path, Argon2Cost::DEFAULT)?)
        }
    })
}

/// etcd's advice, too: everything in it is sealed, and still nobody else's to read.
fn warn_of_open_directory(path: &Path) {
    let Ok(mode) = std::fs::metadata(path).map(|found| found.permissions().mode() & 0o777) else {
        return;
    };
    if mode & 0o077 != 0 {
        tracing::warn!(
            directory = %path.display(),
            mode = format!("{mode:03o}"),
            "check file permission: a directory of data should be its owner's alone (700)"
        );
    }
}

fn warn_of_generated_key(path: &Path) {
    tracing::warn!(
        key_file = %path.display(),
        data_dir = %path.with_extension("").display(),
        "generated a root key file beside the data directory; it protects only data that leaves \
         this machine without it: move it elsewhere and name it with --root-key-file, or use \
         --key-provider=passphrase"
    );
}

/// The row key of the sealed identity file, and a keyspace number that no store uses.
const IDENTITY_ROW: (u8, &[u8]) = (255, b"identity");

pub(super) fn write_identity(
    directory: &DataDir,
    storage_keys: &StorageKeys,
    identity: &Identity,
) -> Result<(), StartError> {
    let sealed = storage_keys.seal_row(IDENTITY_ROW.0, IDENTITY_ROW.1, &identity.encode());
    Ok(directory.write_identity(&sealed)?)
}

fn read_identity(
    directory: &DataDir,
    storage_keys: &StorageKeys,
    member_key: &MemberKey,
) -> Result<Identity, StartError> {
    let wrong = |what| StartError::Identity {
        path: directory.root().join("identity"),
        what,
    };
    let sealed = directory
        .read_identity()?
        .ok_or_else(|| wrong("is missing"))?;
    let bytes = storage_keys
        .open_row(IDENTITY_ROW.0, IDENTITY_ROW.1, &sealed)
        .map_err(|_| wrong("is damaged or of another directory"))?;
    let identity = Identity::decode(&bytes).ok_or_else(|| wrong("is of another release"))?;
    let outline = member_key.outline();
    if identity.member_id != outline.member_id
        || identity.directory_id != *outline.directory_id.as_bytes()
    {
        return Err(wrong("and member.key belong to different members"));
    }
    Ok(identity)
}
