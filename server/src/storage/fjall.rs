//! The engine on disk.
//!
//! Promise: after a crash a prefix of the committed batches is there. The engine syncs its journal
//! before it writes a table, so a power cut leaves no keyspace ahead of the journal.
//! Not known here: sealing, what rows mean. Nobody else knows fjall.

use std::fs;
use std::ops::Bound;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Database, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};

use super::engine::{Engine, EngineSnapshot, Rows, StoredChange};
use super::error::EngineError;
use super::journal;
use super::layout::Keyspace;
use super::store::StoreOptions;

/// Tables that are kept open: enough for some GiB, and few beside the sockets of clients.
const FILES_OPEN_MAX: usize = 256;
/// Threads that write tables and compact them, on machines of any size. The engine's first leaves
/// compactions to the others and asks for the next one in a loop while all of those are busy: of two,
/// one takes a core for as long as the other compacts. One alone waits for itself when its mailbox
/// is full (fjall 3.1, `worker_pool.rs`; its pull request 323).
const WORKERS: usize = 4;
/// How often `persist` looks whether the background writers are done.
const FLUSH_POLL: Duration = Duration::from_millis(2);

pub(crate) struct FjallEngine {
    shared: Arc<Shared>,
}

/// Dropped in this order: the database stops its threads before its files go.
struct Shared {
    /// By ordinal.
    keyspaces: Vec<fjall::Keyspace>,
    database: Database,
    files: Files,
}

struct Files {
    dir: PathBuf,
    retired: AtomicBool,
}

impl Drop for Files {
    fn drop(&mut self) {
        if *self.retired.get_mut() {
            // What stays behind is removed when the data directory is opened again.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

impl FjallEngine {
    pub(crate) fn open(dir: &Path, options: StoreOptions) -> Result<Self, EngineError> {
        journal::repair(dir)?;
        // Some damage is met with an assertion there.
        let database = catch_unwind(|| open_database(dir, options));
        let database = database.map_err(|_| EngineError::Damaged)??;
        let keyspaces = Keyspace::ALL.into_iter().map(|keyspace| {
            database.keyspace(keyspace.name(), || keyspace_options(options.memtable_bytes))
        });
        let keyspaces = keyspaces.collect::<Result<_, _>>().map_err(engine_error)?;
        let files = Files {
            dir: dir.to_owned(),
            retired: AtomicBool::new(false),
        };
        let shared = Arc::new(Shared {
            keyspaces,
            database,
            files,
        });
        Ok(Self { shared })
    }

    fn keyspaces(&self) -> &[fjall::Keyspace] {
        &self.shared.keyspaces
    }
}

fn open_database(dir: &Path, options: StoreOptions) -> Result<Database, EngineError> {
    Database::builder(dir)
        .cache_size(options.cache_bytes)
        .max_journaling_size(options.journal_bytes_max)
        .max_cached_files(Some(FILES_OPEN_MAX))
        .worker_threads(WORKERS)
        // Sealed bytes do not compress.
        .journal_compression(CompressionType::None)
        .open()
        .map_err(engine_error)
}

fn keyspace_options(memtable_bytes: u64) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(memtable_bytes)
        .data_block_compression_policy(CompressionPolicy::disabled())
        .index_block_compression_policy(CompressionPolicy::disabled())
}

impl Engine for FjallEngine {
    fn commit(&self, changes: Vec<StoredChange>) -> Result<(), EngineError> {
        let database = self.shared.database.clone();
        let mut batch = fjall::OwnedWriteBatch::with_capacity(database, changes.len());
        for change in changes {
            let keyspace = self.shared.keyspace(change.keyspace);
            match change.row {
                Some(row) => batch.insert(keyspace, change.key, row),
                None => batch.remove(keyspace, change.key),
            }
        }
        // Into the operating system's cache: a kill of the process loses nothing.
        batch
            .durability(Some(PersistMode::Buffer))
            .commit()
            .map_err(engine_error)
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot> {
        Box::new(FjallSnapshot {
            snapshot: self.shared.database.snapshot(),
            shared: Arc::clone(&self.shared),
        })
    }

    fn persist(&self) -> Result<(), EngineError> {
        for keyspace in self.keyspaces() {
            keyspace.rotate_memtable().map_err(engine_error)?;
        }
        let waiting = |keyspace: &fjall::Keyspace| keyspace.sealed_memtable_count() > 0;
        while self.keyspaces().iter().any(waiting) {
            // The only sign of a background writer that failed; it would be waited for for ever.
            self.shared
                .database
                .persist(PersistMode::Buffer)
                .map_err(engine_error)?;
            std::thread::sleep(FLUSH_POLL);
        }
        Ok(())
    }

    fn merge(&self) -> Result<(), EngineError> {
        self.persist()?;
        for keyspace in self.keyspaces() {
            keyspace.major_compact().map_err(engine_error)?;
        }
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        self.shared.database.disk_space().unwrap_or_default()
    }

    fn retire(&self) {
        self.shared.files.retired.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn keyspace(&self, keyspace: Keyspace) -> &fjall::Keyspace {
        &self.keyspaces[keyspace.ordinal()]
    }
}

struct FjallSnapshot {
    snapshot: Snapshot,
    shared: Arc<Shared>,
}

impl EngineSnapshot for FjallSnapshot {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let row = self.snapshot.get(self.shared.keyspace(keyspace), key);
        Ok(row.map_err(engine_error)?.map(Bytes::from))
    }

    fn scan(&self, keyspace: Keyspace, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Rows {
        let rows = self
            .snapshot
            .range::<&[u8], _>(self.shared.keyspace(keyspace), (from, to));
        // The files must outlive the iterator.
        let shared = Arc::clone(&self.shared);
        Box::new(rows.map(move |row| {
            let _open = &shared;
            let (key, row) = row.into_inner().map_err(engine_error)?;
            Ok((Bytes::from(key), Bytes::from(row)))
        }))
    }
}

fn engine_error(error: fjall::Error) -> EngineError {
    match error {
        fjall::Error::Poisoned => EngineError::Poisoned,
        other => EngineError::Fjall(Box::new(other)),
    }
}
