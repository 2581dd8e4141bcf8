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
use keys::RowNonces;
use parking_lot::Mutex;

use super::batch::{Batch, is_ordered};
use super::engine::{Engine, EngineSnapshot, Rows, StoredChange};
use super::error::StorageError;
use super::fjall::FjallEngine;
use super::layout::{FORMAT, FORMAT_KEY, Keyspace, MARKER_KEY, StoredKey};
use super::marker::Marker;
use super::memory::MemoryEngine;
use super::sealed::{self, RowSealer};
use crate::metrics::metrics;
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
    /// Of the last batch. Held over a commit, so that batches are committed in their order.
    marker: Mutex<Marker>,
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

    pub(super) fn begin(
        engine: Box<dyn Engine>,
        sealer: impl RowSealer + 'static,
    ) -> Result<Self, StorageError> {
        let store = Self::over(engine, sealer);
        if store.view().get(Keyspace::System, FORMAT_KEY)?.is_some() {
            return Err(StorageError::Exists);
        }
        let mut batch = store.batch();
        batch.put(Keyspace::System, FORMAT_KEY, &FORMAT.to_be_bytes());
        store.commit(batch)?;
        Ok(store)
    }

    pub(super) fn resume(
        engine: Box<dyn Engine>,
        sealer: impl RowSealer + 'static,
    ) -> Result<Self, StorageError> {
        let store = Self::over(engine, sealer);
        let view = store.view();
        view.check_format()?;
        *store.shared.marker.lock() = view.marker()?;
        Ok(store)
    }

    fn over(engine: Box<dyn Engine>, sealer: impl RowSealer + 'static) -> Self {
        let shared = Shared {
            engine,
            sealer: Arc::new(sealer),
            marker: Mutex::default(),
        };
        let shared = Arc::new(shared);
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
        if batch.is_empty() {
            return Ok(());
        }
        let mut changes = Vec::with_capacity(batch.len() + Keyspace::COUNT);
        let mut touched = Vec::with_capacity(Keyspace::COUNT);
        let mut nonces = RowNonces::draw(batch.rows_to_seal());
        for (keyspace, rows) in batch.into_keyspaces() {
            touched.extend((!rows.is_empty()).then_some(keyspace));
            for (key, row) in rows {
                let row = row.map(|row| self.seal(keyspace, &key, row, &mut nonces));
                changes.push(StoredChange { keyspace, key, row });
            }
        }
        let mut marker = self.shared.marker.lock();
        let next = marker.next(touched.iter().copied());
        let row = Bytes::from(next.encode());
        let mut nonces = RowNonces::draw(touched.len());
        for keyspace in touched {
            let key = Bytes::from_static(MARKER_KEY);
            let row = Some(self.seal(keyspace, &key, row.clone(), &mut nonces));
            changes.push(StoredChange { keyspace, key, row });
        }
        let committing = metrics().backend_commit_seconds.start_timer();
        self.shared.engine.commit(changes)?;
        committing.observe_duration();
        *marker = next;
        Ok(())
    }

    fn seal(&self, keyspace: Keyspace, key: &[u8], row: Bytes, nonces: &mut RowNonces) -> Bytes {
        sealed::seal(&*self.shared.sealer, keyspace, key, row, nonces)
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

    /// Gives the space of deleted rows back, but for what views still hold. Slow, and blocks nobody
    /// but its caller: call it on a thread of its own.
    pub fn merge(&self) -> Result<(), StorageError> {
        // The engine looks for the oldest view when it starts a new table: there has to be a row.
        let mut batch = self.batch();
        batch.put(Keyspace::System, FORMAT_KEY, &FORMAT.to_be_bytes());
        self.commit(batch)?;
        Ok(self.shared.engine.merge()?)
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

    fn check_format(&self) -> Result<(), StorageError> {
        let format = self.get(Keyspace::System, FORMAT_KEY)?;
        let format = format.ok_or(StorageError::NoFormat)?;
        match <[u8; 2]>::try_from(&format[..]).map(u16::from_be_bytes) {
            Ok(FORMAT) => Ok(()),
            Ok(found) => Err(StorageError::UnknownFormat { found }),
            Err(_) => Err(StorageError::NoFormat),
        }
    }

    /// The newest marker, if no keyspace misses a batch.
    fn marker(&self) -> Result<Marker, StorageError> {
        let mut markers = [None; Keyspace::COUNT];
        for keyspace in Keyspace::ALL {
            let Some(row) = self.get(keyspace, MARKER_KEY)? else {
                continue;
            };
            let marker = Marker::decode(&row).ok_or_else(|| StorageError::Unreadable {
                keyspace,
                row: StoredKey::copy(MARKER_KEY),
            })?;
            markers[keyspace.ordinal()] = Some(marker);
        }
        Marker::newest(markers)
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
    /// They are fetched in revision order, neighbours by one scan.
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
