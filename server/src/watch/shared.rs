//! One revision's events, shared by every watcher that is told of them.
//!
//! Promise: a value is opened once, by the first that needs it, however many watchers want it;
//! sealed and opened bytes are forgotten with the last queue that holds the revision.
//! Not known here: how a value is opened or where a previous one is read.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::mvcc::event::{Event, RevisionEvents};

/// What an event costs in a queue beside its key and values, about.
const EVENT_OVERHEAD_BYTES: usize = 128;

/// Bytes that are held by revisions in queues and in the hub's memory of recent ones.
#[derive(Clone, Debug, Default)]
pub(super) struct HeldBytes(Arc<AtomicUsize>);

impl HeldBytes {
    pub(super) fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// All events of one revision, with room for what is opened of them.
pub struct SharedRevision {
    source: Arc<RevisionEvents>,
    opened: Vec<Opened>,
    bytes: usize,
    held: HeldBytes,
}

#[derive(Default)]
struct Opened {
    value: OnceLock<Bytes>,
    prev: OnceLock<Option<Bytes>>,
}

impl SharedRevision {
    pub(super) fn new(source: Arc<RevisionEvents>, held: &HeldBytes) -> Self {
        let bytes = source.events.iter().map(event_bytes).sum();
        held.0.fetch_add(bytes, Ordering::Relaxed);
        let opened = source.events.iter().map(|_| Opened::default()).collect();
        SharedRevision {
            source,
            opened,
            bytes,
            held: held.clone(),
        }
    }

    #[must_use]
    pub fn revision(&self) -> i64 {
        self.source.revision
    }

    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.source.events
    }

    /// What it takes in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for SharedRevision {
    fn drop(&mut self) {
        self.held.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Twice the value: sealed, and opened when somebody asked for it.
pub(super) fn event_bytes(event: &Event) -> usize {
    EVENT_OVERHEAD_BYTES + event.record.key.len() + 2 * event.value.len()
}

/// One event of a shared revision.
#[derive(Clone)]
pub struct EventRef {
    revision: Arc<SharedRevision>,
    at: usize,
}

impl EventRef {
    /// `at` is a place in the revision's events.
    pub(super) fn new(revision: &Arc<SharedRevision>, at: usize) -> Self {
        EventRef {
            revision: Arc::clone(revision),
            at,
        }
    }

    #[must_use]
    pub fn event(&self) -> &Event {
        &self.revision.source.events[self.at]
    }

    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision.revision()
    }

    /// The opened value; `open` is called unless somebody has opened it.
    pub fn value<E>(&self, open: impl FnOnce(&Event) -> Result<Bytes, E>) -> Result<Bytes, E> {
        let cell = &self.revision.opened[self.at].value;
        if let Some(value) = cell.get() {
            return Ok(value.clone());
        }
        let value = open(self.event())?;
        Ok(cell.get_or_init(|| value).clone())
    }

    /// The opened value of the record before, if there is one to be had; `read` is called unless
    /// somebody has read it.
    pub fn prev<E>(
        &self,
        read: impl FnOnce(&Event) -> Result<Option<Bytes>, E>,
    ) -> Result<Option<Bytes>, E> {
        let cell = &self.revision.opened[self.at].prev;
        if let Some(prev) = cell.get() {
            return Ok(prev.clone());
        }
        let prev = read(self.event())?;
        Ok(cell.get_or_init(|| prev).clone())
    }
}
