//! Taking compacted history away, in slices.
//!
//! Promise: a compaction is in force for readers once it is applied; this only frees what nobody
//! can ask for any more. It holds the index for a few hundred keys at a time, writes batches of its
//! own, and never touches a row that apply writes. A crash loses nothing: a compaction that was
//! not finished runs again from the start after recovery.
//! Not known here: when to compact, raft.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::RwLock;

use super::index::Index;
use super::read_view::ReadView;
use crate::apply::{Poison, rows};
use crate::storage::{Keyspace, Store, View};

/// Drives one slice after another; lives on a thread of its own.
pub struct Compactor {
    store: Store,
    index: Arc<RwLock<Index>>,
    publisher: Arc<ArcSwap<ReadView>>,
    running: Option<Running>,
}

/// A pass over all keys.
struct Running {
    compact_revision: i64,
    resume: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more of this compaction: call again, after a pause that suits the load.
    Working { rows_removed: usize },
    /// Everything at or below this compact revision that may go is gone.
    Finished { compact_revision: i64 },
}

impl Compactor {
    pub(crate) fn new(
        store: Store,
        index: Arc<RwLock<Index>>,
        publisher: Arc<ArcSwap<ReadView>>,
    ) -> Self {
        Compactor {
            store,
            index,
            publisher,
            running: None,
        }
    }

    /// Removes what at most `keys_max` keys have to lose. A failure poisons the member as one of
    /// apply does.
    pub fn slice(&mut self, keys_max: usize) -> Result<Progress, Poison> {
        let Some(running) = self.start()? else {
            return Ok(Progress::Finished {
                compact_revision: self.publisher.load().compact_revision,
            });
        };
        let compact_revision = running.compact_revision;
        let (dropped, resume) =
            self.index
                .write()
                .compact_slice(compact_revision, running.resume, keys_max);
        let mut batch = self.store.batch();
        for at in &dropped {
            batch.delete(Keyspace::Meta, &at.to_bytes());
            batch.delete(Keyspace::Value, &at.to_bytes());
        }
        let finished = resume.is_none();
        if finished {
            batch.put(
                Keyspace::System,
                rows::COMPACTED,
                &compact_revision.to_be_bytes(),
            );
        }
        self.store.commit(batch)?;
        if finished {
            return Ok(Progress::Finished { compact_revision });
        }
        self.running = Some(Running {
            compact_revision,
            resume,
        });
        Ok(Progress::Working {
            rows_removed: dropped.len(),
        })
    }

    /// The pass that is under way, or a new one if a compaction was published since the last.
    fn start(&mut self) -> Result<Option<Running>, Poison> {
        if let Some(running) = self.running.take() {
            return Ok(Some(running));
        }
        let view = self.publisher.load();
        let compact_revision = view.compact_revision;
        let due = finished(&self.store.view())?.is_none_or(|finished| finished < compact_revision);
        Ok((due && compact_revision > 0).then_some(Running {
            compact_revision,
            resume: None,
        }))
    }
}

/// The last compact revision whose bytes are gone from this store.
fn finished(view: &View) -> Result<Option<i64>, Poison> {
    let row = view.get(Keyspace::System, rows::COMPACTED)?;
    Ok(row.and_then(|row| Some(i64::from_be_bytes(row[..].try_into().ok()?))))
}
