//! The engine without a disk, for simulation and tests.
//!
//! Promise: the same snapshots and atomicity as the engine on disk. Versions that no snapshot can
//! see go when their row is written again.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::batch::is_ordered;
use super::engine::{Engine, EngineSnapshot, Rows, StoredChange};
use super::error::EngineError;
use super::layout::Keyspace;

/// How many rows a scan takes under one lock.
const SCAN_CHUNK_ROWS: usize = 256;

/// A row by batch number, oldest first; no bytes from the batch that deleted it.
type Versions = Vec<(u64, Option<Bytes>)>;

#[derive(Clone, Default)]
pub(crate) struct MemoryEngine {
    shared: Arc<Shared>,
}

/// Lock order: `tables`, then `snapshots`.
#[derive(Default)]
struct Shared {
    tables: RwLock<Tables>,
    /// How many snapshots stand at each batch number.
    snapshots: Mutex<BTreeMap<u64, usize>>,
}

#[derive(Default)]
struct Tables {
    committed: u64,
    /// The batch that a power cut leaves in any case; none where power never fails.
    persisted: Option<u64>,
    rows: [BTreeMap<Bytes, Versions>; Keyspace::COUNT],
}

impl Engine for MemoryEngine {
    fn commit(&self, changes: Vec<StoredChange>) -> Result<(), EngineError> {
        let mut tables = self.shared.tables.write();
        let batch = tables.committed + 1;
        let pinned = self.shared.snapshots.lock().keys().next().copied();
        let oldest = pinned.into_iter().chain(tables.persisted).min();
        for change in changes {
            let table = &mut tables.rows[change.keyspace.ordinal()];
            let versions = table.entry(change.key).or_default();
            forget_unseen(versions, oldest.unwrap_or(batch));
            versions.push((batch, change.row));
        }
        tables.committed = batch;
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn EngineSnapshot> {
        let tables = self.shared.tables.read();
        let at = tables.committed;
        *self.shared.snapshots.lock().entry(at).or_default() += 1;
        let shared = Arc::clone(&self.shared);
        Box::new(MemorySnapshot(Arc::new(Pin { shared, at })))
    }

    fn persist(&self) -> Result<(), EngineError> {
        let mut tables = self.shared.tables.write();
        if tables.persisted.is_some() {
            tables.persisted = Some(tables.committed);
        }
        Ok(())
    }

    fn merge(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        let tables = self.shared.tables.read();
        let rows = tables.rows.iter().flatten();
        let newest = rows.filter_map(|(key, versions)| {
            let row = versions.last()?.1.as_ref()?;
            Some(key.len() + row.len())
        });
        newest.sum::<usize>() as u64
    }

    fn retire(&self) {}
}

#[cfg(test)]
impl MemoryEngine {
    /// Remembers what a power cut may take.
    pub(crate) fn with_power_cuts() -> Self {
        let engine = Self::default();
        engine.shared.tables.write().persisted = Some(0);
        engine
    }

    /// What is found after a crash. Of the newest batches that were not persisted, `lost` are
    /// gone; it is told how many there are.
    pub(crate) fn crash(&self, lost: impl FnOnce(u64) -> u64) -> Self {
        let tables = self.shared.tables.read();
        let persisted = tables.persisted.unwrap_or(tables.committed);
        let at = tables.committed - lost(tables.committed - persisted);
        let newest = |versions: &Versions| {
            let newer = versions.partition_point(|(batch, _)| *batch <= at);
            let newest = versions[..newer].last();
            newest.filter(|(_, row)| row.is_some()).cloned()
        };
        let survivors = |rows: &BTreeMap<Bytes, Versions>| {
            rows.iter()
                .filter_map(|(key, versions)| Some((key.clone(), vec![newest(versions)?])))
                .collect()
        };
        let tables = Tables {
            committed: at,
            persisted: Some(at),
            rows: tables.rows.each_ref().map(survivors),
        };
        let shared = Shared {
            tables: RwLock::new(tables),
            snapshots: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }
}

/// Keeps what a snapshot at `oldest` sees and everything newer.
fn forget_unseen(versions: &mut Versions, oldest: u64) {
    let newer = versions.partition_point(|(batch, _)| *batch <= oldest);
    versions.drain(..newer.saturating_sub(1));
}

struct MemorySnapshot(Arc<Pin>);

/// Keeps the versions of one batch number alive.
struct Pin {
    shared: Arc<Shared>,
    at: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut snapshots = self.shared.snapshots.lock();
        if let Some(count) = snapshots.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                snapshots.remove(&self.at);
            }
        }
    }
}

impl Pin {
    fn visible(&self, versions: &Versions) -> Option<Bytes> {
        let newer = versions.partition_point(|(batch, _)| *batch <= self.at);
        versions[..newer].last()?.1.clone()
    }

    fn chunk(
        &self,
        keyspace: Keyspace,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Vec<(Bytes, Option<Bytes>)> {
        if !is_ordered((from, to)) {
            return Vec::new();
        }
        let tables = self.shared.tables.read();
        let rows = tables.rows[keyspace.ordinal()].range::<[u8], _>((from, to));
        rows.take(SCAN_CHUNK_ROWS)
            .map(|(key, versions)| (key.clone(), self.visible(versions)))
            .collect()
    }
}

impl EngineSnapshot for MemorySnapshot {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let tables = self.0.shared.tables.read();
        let versions = tables.rows[keyspace.ordinal()].get(key);
        Ok(versions.and_then(|versions| self.0.visible(versions)))
    }

    fn scan(&self, keyspace: Keyspace, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Rows {
        let pin = Arc::clone(&self.0);
        let to = to.map(Bytes::copy_from_slice);
        let mut from = Some(from.map(Bytes::copy_from_slice));
        let chunks = std::iter::from_fn(move || {
            let start = from.take()?;
            let rows = pin.chunk(keyspace, slice(&start), slice(&to));
            from = rows.last().map(|(key, _)| Bound::Excluded(key.clone()));
            Some(rows)
        });
        let present = chunks.flatten().filter_map(|(key, row)| Some((key, row?)));
        Box::new(present.map(Ok))
    }
}

fn slice(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    bound.as_ref().map(|bytes| &bytes[..])
}
