//! Sealed rows: batches go in, views come out.
//!
//! Promise: what a view returns was sealed by this member for exactly this place, or is a value
//! whose own seal its reader checks.
//! Not known here: what rows mean, which engine keeps them.

use std::ops::Bound::{Excluded, Included};
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::batch::{Batch, is_ordered};
use super::engine::{Engine, EngineSnapshot, Rows, StoredChange};
use super::error::StorageError;
use super::fjall::FjallEngine;
use super::layout::{FORMAT, FORMAT_KEY, Keyspace, MARKER_KEY};
use super::memory::MemoryEngine;
use super::sealed::{self, RowSealer};
use crate::mvcc::Revision;

/// Revisions this close together are neighbours: a scan passes over the rows between them.
const DENSE_GAP: i64 = 8;

/// From so many neighbours on, one scan is cheaper than a read for each.
const DENSE_RUN_MIN: usize = 4;

/// How much memory and journal the store may take.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Blocks of rows kept in memory.
    pub cache_bytes: u64,
    /// The engine's journals, at least 64 MiB; opening replays them.
    pub journal_bytes_max: u64,
    /// Rows of one keyspace that wait in memory before they become a table.
    pub memtable_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 48 << 20,
            journal_bytes_max: 128 << 20,
            memtable_bytes: 16 << 20,
        }
    }
}

/// Every row of one member. Cloning shares it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Box<dyn Engine>,
    sealer: Arc<dyn RowSealer>,
}

impl Store {
    /// A new store in an empty or missing directory.
    pub fn create(
        dir: &Path,
        sealer: impl RowSealer + 'static,
        options: StoreOptions,
    ) -> Result<Self, StorageError> {
        Self::begin(Box::new(FjallEngine::open(dir, options)?), sealer)
    }

    /// The store that `create` left there, after a crash up to some committed batch.
    pub fn open(
        dir: &Path,
        sealer: impl RowSealer + 'static,
        options: StoreOptions,
    ) -> Result<Self, StorageError> {
        Self::resume(Box::new(FjallEngine::open(dir, options)?), sealer)
    }

    /// A new store that is gone with its last handle.
    pub fn in_memory(sealer: impl RowSealer + 'static) -> Self {
        Self::begin(Box::new(MemoryEngine::default()), sealer)
            .expect("the memory engine refuses nothing")
    }

    fn begin(
        engine: Box<dyn Engine>,
        sealer: impl RowSealer + 'static,
    ) -> Result<Self, StorageError> {
        let store = Self::over(engine, sealer);
        let mut batch = store.batch();
        batch.put(Keyspace::System, FORMAT_KEY, &FORMAT.to_be_bytes());
        store.commit(batch)?;
        Ok(store)
    }

    fn resume(
        engine: Box<dyn Engine>,
        sealer: impl RowSealer + 'static,
    ) -> Result<Self, StorageError> {
        let store = Self::over(engine, sealer);
        let format = store.view().get(Keyspace::System, FORMAT_KEY)?;
        let format = format.ok_or(StorageError::NoFormat)?;
        let found = <[u8; 2]>::try_from(&format[..]).map(u16::from_be_bytes);
        match found {
            Ok(FORMAT) => Ok(store),
            Ok(found) => Err(StorageError::UnknownFormat { found }),
            Err(_) => Err(StorageError::NoFormat),
        }
    }

    fn over(engine: Box<dyn Engine>, sealer: impl RowSealer + 'static) -> Self {
        let sealer = Arc::new(sealer);
        let shared = Arc::new(Shared { engine, sealer });
        Self { shared }
    }

    pub fn batch(&self) -> Batch {
        Batch::default()
    }

    /// Makes the batch visible to later views, whole. It survives a kill of the process; a power
    /// cut may take it with everything after it, until [`Store::persist`].
    ///
    /// After an error nothing may be written any more: what the engine has is unknown.
    pub fn commit(&self, batch: Batch) -> Result<(), StorageError> {
        let mut changes = Vec::with_capacity(batch.len());
        for (keyspace, rows) in batch.into_keyspaces() {
            for (key, row) in rows {
                let row = row.map(|row| sealed::seal(&*self.shared.sealer, keyspace, &key, row));
                changes.push(StoredChange { keyspace, key, row });
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        Ok(self.shared.engine.commit(changes)?)
    }

    /// What is committed now; later batches do not change it.
    pub fn view(&self) -> View {
        View {
            snapshot: Arc::from(self.shared.engine.snapshot()),
            sealer: Arc::clone(&self.shared.sealer),
        }
    }

    /// Returns when everything committed before the call is in synced tables, so that the raft
    /// log may be purged up to it. Slow: call it on a thread of its own.
    pub fn persist(&self) -> Result<(), StorageError> {
        Ok(self.shared.engine.persist()?)
    }

    pub fn disk_bytes(&self) -> u64 {
        self.shared.engine.disk_bytes()
    }

    /// The directory goes when the last view and handle are dropped.
    pub(crate) fn retire(&self) {
        self.shared.engine.retire();
    }
}

/// The store at one moment. Cloning shares it; it costs the engine old versions while it lives.
#[derive(Clone)]
pub struct View {
    snapshot: Arc<dyn EngineSnapshot>,
    sealer: Arc<dyn RowSealer>,
}

impl View {
    pub fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let stored = self.snapshot.get(keyspace, key);
        let stored = stored.map_err(|source| StorageError::Keyspace { keyspace, source })?;
        stored
            .map(|row| sealed::open(&*self.sealer, keyspace, key, row))
            .transpose()
    }

    /// A sealed value as it was put. Its own seal is checked by whoever opens it.
    pub fn value(&self, revision: Revision) -> Result<Option<Bytes>, StorageError> {
        self.get(Keyspace::Value, &revision.to_bytes())
    }

    /// The rows of a range of row keys, ascending, opened one by one.
    pub fn scan<'a>(&self, keyspace: Keyspace, keys: impl RangeBounds<&'a [u8]>) -> Scan {
        let (from, to) = (keys.start_bound().cloned(), keys.end_bound().cloned());
        let from = match from {
            Included(key) if key > MARKER_KEY => from,
            Excluded(key) if key >= MARKER_KEY => from,
            _ => Excluded(MARKER_KEY),
        };
        Scan {
            keyspace,
            rows: is_ordered((from, to)).then(|| self.snapshot.scan(keyspace, from, to)),
            sealer: Arc::clone(&self.sealer),
        }
    }

    /// The values of many revisions, in the order asked for.
    ///
    /// They are fetched in revision order, neighbours by one scan: about 1 µs each where the
    /// revisions are dense.
    pub fn values(&self, revisions: &[Revision]) -> Result<Vec<Option<Bytes>>, StorageError> {
        let mut order: Vec<usize> = (0..revisions.len()).collect();
        order.sort_unstable_by_key(|place| revisions[*place]);
        let mut values = vec![None; revisions.len()];
        let dense = |a: &usize, b: &usize| revisions[*b].main - revisions[*a].main <= DENSE_GAP;
        for run in order.chunk_by(dense) {
            if run.len() < DENSE_RUN_MIN {
                for place in run {
                    values[*place] = self.value(revisions[*place])?;
                }
            } else {
                self.scan_values(revisions, run, &mut values)?;
            }
        }
        Ok(values)
    }

    /// `run` holds places in `revisions`, ascending by revision.
    fn scan_values(
        &self,
        revisions: &[Revision],
        run: &[usize],
        values: &mut [Option<Bytes>],
    ) -> Result<(), StorageError> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(());
        };
        let from = revisions[*first].to_bytes();
        let to = revisions[*last].to_bytes();
        let mut places = run.iter().copied().peekable();
        for row in self.scan(Keyspace::Value, &from[..]..=&to[..]) {
            let (key, value) = row?;
            while places
                .next_if(|place| revisions[*place].to_bytes()[..] < key[..])
                .is_some()
            {}
            while let Some(place) =
                places.next_if(|place| revisions[*place].to_bytes()[..] == key[..])
            {
                values[place] = Some(value.clone());
            }
        }
        Ok(())
    }
}

/// Rows with their keys, ascending, opened as they are taken. It keeps its view alive.
pub struct Scan {
    keyspace: Keyspace,
    rows: Option<Rows>,
    sealer: Arc<dyn RowSealer>,
}

impl Iterator for Scan {
    type Item = Result<(Bytes, Bytes), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let keyspace = self.keyspace;
        let row = self.rows.as_mut()?.next()?;
        let row = row.map_err(|source| StorageError::Keyspace { keyspace, source });
        Some(row.and_then(|(key, row)| {
            let row = sealed::open(&*self.sealer, keyspace, &key, row)?;
            Ok((key, row))
        }))
    }
}
