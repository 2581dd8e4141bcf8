//! What a reader sees: one revision of everything, taken together.
//!
//! Promise: revision, compact revision and storage snapshot belong together; a view is published
//! once per applied batch, after the batch is committed and the index updated.
//! Not known here: who reads, keys, raft.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::RwLock;

use super::index::Index;
use crate::lease::table::LeaseTable;
use crate::storage::View;
use crate::tables::alarms::Alarms;
use crate::tables::auth::AuthTable;
use crate::tables::members::Members;
use crate::tables::plugins::PluginTable;

/// Cheap to clone and to hold; what it pins on disk is freed when the last holder drops it.
#[derive(Clone)]
pub struct ReadView {
    /// The newest revision; 1 in an empty store.
    pub revision: i64,
    /// -1 before the first compaction.
    pub compact_revision: i64,
    pub applied_index: u64,
    pub applied_term: u64,
    /// The newest clock value of the log.
    pub clock_ms: i64,
    pub store: View,
    /// Shared and ahead of this view: it is asked for this view's revisions.
    pub index: Arc<RwLock<Index>>,
    /// Shared and ahead of this view, as etcd's lessor is.
    pub leases: Arc<RwLock<LeaseTable>>,
    pub key_table: Arc<keys::KeyTable>,
    pub members: Arc<Members>,
    pub plugins: Arc<PluginTable>,
    pub alarms: Arc<Alarms>,
    /// The release of etcd that the cluster is to go back to, while a downgrade is under way.
    pub downgrade: Option<Arc<str>>,
    pub auth: Arc<AuthTable>,
    /// What counts towards the space quota, the same on every member.
    pub stored_bytes: u64,
    pub(crate) compacting: CompactMark,
}

/// Up to where the index may have lost history by now: set before the first slice of a compaction
/// runs, read after the last row of a read.
#[derive(Clone, Debug)]
pub(crate) struct CompactMark(Arc<AtomicI64>);

impl CompactMark {
    pub(crate) fn new(compact_revision: i64) -> Self {
        CompactMark(Arc::new(AtomicI64::new(compact_revision)))
    }

    pub(crate) fn set(&self, compact_revision: i64) {
        self.0.store(compact_revision, Ordering::SeqCst);
    }

    pub(crate) fn get(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl ReadView {
    /// The newest compact revision of this member, which may be newer than this view's.
    #[must_use]
    pub fn compact_revision_now(&self) -> i64 {
        self.compacting.get()
    }
}
