//! One watch of one client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::outbox::Outbox;
use super::room::Place;
use crate::metrics::{Held, metrics};
use crate::mvcc::event::{Event, Kind};
use crate::mvcc::key_range::KeyRange;

/// Kinds of change that a client does not want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    pub no_put: bool,
    pub no_delete: bool,
}

/// What is watched, and for whom. It is cancelled by its stream; the hub notices when it meets it.
pub struct Watcher {
    serial: u64,
    /// Chosen by the client or its stream.
    pub id: i64,
    pub range: KeyRange,
    pub filters: Filters,
    /// No progress is told below this revision.
    pub(super) progress_from: i64,
    outbox: Arc<Outbox>,
    cancelled: AtomicBool,
    _counted: Held,
    _place: Place,
}

impl Watcher {
    pub(super) fn new(
        serial: u64,
        id: i64,
        range: KeyRange,
        filters: Filters,
        progress_from: i64,
        outbox: &Arc<Outbox>,
        place: Place,
    ) -> Self {
        let outbox = Arc::clone(outbox);
        let cancelled = AtomicBool::new(false);
        let _counted = Held::new(&metrics().watchers);
        Watcher {
            serial,
            id,
            range,
            filters,
            progress_from,
            outbox,
            cancelled,
            _counted,
            _place: place,
        }
    }

    /// Its number in this hub, never used twice.
    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Nothing that is delivered to it from now on will be looked at.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) || self.outbox.is_closed()
    }

    pub(super) fn wants(&self, kind: Kind) -> bool {
        match kind {
            Kind::Put => !self.filters.no_put,
            Kind::Delete => !self.filters.no_delete,
        }
    }

    pub(super) fn matches(&self, event: &Event) -> bool {
        self.wants(event.kind) && self.range.contains(&event.record.key)
    }
}

/// A watcher and the first revision that it has not been given.
#[derive(Clone)]
pub(super) struct Seat {
    pub(super) watcher: Arc<Watcher>,
    pub(super) next: i64,
}
