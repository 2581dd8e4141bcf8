//! What waits to be sent on one stream.
//!
//! Promise: bounded. A full outbox takes no events: their watcher falls behind and is caught up
//! from history once there is room. Answers that say nothing but a revision are bounded by what
//! the client asked for.
//! Not known here: gRPC.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::shared::{EventRef, event_bytes};
use super::watcher::Watcher;
use crate::metrics::metrics;
use crate::mvcc::read::ReadError;

/// Events that may wait on one stream.
const EVENTS_MAX: usize = 16_384;
/// What they may hold, about; one larger delivery may wait alone.
const BYTES_MAX: usize = 8 << 20;
/// Progress answers that may wait; the client asks again for those that are left out.
const PROGRESS_MAX: usize = 128;

/// What a stream has to tell its client.
pub enum Parcel {
    /// Whole revisions, in order. Everything up to `revision` that the watcher wants has been
    /// delivered with this.
    Events {
        watcher: Arc<Watcher>,
        events: Vec<EventRef>,
        revision: i64,
    },
    /// The history that the watcher still needed is gone; it gets nothing more.
    Compacted {
        watcher: Arc<Watcher>,
        compact_revision: i64,
    },
    /// What the watcher still needed cannot be read; it gets nothing more.
    Failed {
        watcher: Arc<Watcher>,
        error: ReadError,
    },
    /// Everything up to `revision` has been delivered to the watcher, or with -1 to all of them.
    Progress { watch_id: i64, revision: i64 },
}

/// The outbox has no room.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Default)]
struct Queue {
    parcels: VecDeque<Parcel>,
    events: usize,
    bytes: usize,
    progress: usize,
    /// Somebody found no room since it was last emptied.
    refused: bool,
    closed: bool,
}

/// The queue between the hub and one stream.
pub struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
    /// Told when there is room again after somebody found none.
    room: Arc<dyn Fn() + Send + Sync>,
}

impl Outbox {
    pub(super) fn new(room: Arc<dyn Fn() + Send + Sync>) -> Self {
        Outbox {
            queue: Mutex::default(),
            filled: Notify::new(),
            room,
        }
    }

    /// `spare` is false when the hub holds more than it should: only empty outboxes take more.
    pub(super) fn push_events(
        &self,
        watcher: &Arc<Watcher>,
        events: Vec<EventRef>,
        revision: i64,
        spare: bool,
    ) -> Result<(), Full> {
        let bytes: usize = events.iter().map(|event| event_bytes(event.event())).sum();
        let mut queue = self.queue.lock();
        if !queue.has_room(spare) {
            queue.refused = true;
            return Err(Full);
        }
        queue.events += events.len();
        queue.bytes += bytes;
        metrics().events_sent.inc_by(events.len() as u64);
        let watcher = Arc::clone(watcher);
        queue.parcels.push_back(Parcel::Events {
            watcher,
            events,
            revision,
        });
        drop(queue);
        self.filled.notify_one();
        Ok(())
    }

    /// One per watcher at most, so it needs no bound.
    pub(super) fn push_compacted(&self, watcher: &Arc<Watcher>, compact_revision: i64) {
        let watcher = Arc::clone(watcher);
        let parcel = Parcel::Compacted {
            watcher,
            compact_revision,
        };
        self.queue.lock().parcels.push_back(parcel);
        self.filled.notify_one();
    }

    /// One per watcher at most, as above.
    pub(super) fn push_failed(&self, watcher: &Arc<Watcher>, error: ReadError) {
        let watcher = Arc::clone(watcher);
        let parcel = Parcel::Failed { watcher, error };
        self.queue.lock().parcels.push_back(parcel);
        self.filled.notify_one();
    }

    pub(super) fn push_progress(&self, watch_id: i64, revision: i64) {
        let mut queue = self.queue.lock();
        if queue.progress >= PROGRESS_MAX {
            return;
        }
        queue.progress += 1;
        queue
            .parcels
            .push_back(Parcel::Progress { watch_id, revision });
        drop(queue);
        self.filled.notify_one();
    }

    /// Whether events may be pushed; if not, `room` will be told.
    pub(super) fn has_room(&self, spare: bool) -> bool {
        let mut queue = self.queue.lock();
        let room = queue.has_room(spare);
        queue.refused |= !room;
        room
    }

    /// The next parcel; none once the hub has stopped. Nothing is lost if the future is dropped.
    pub async fn next(&self) -> Option<Parcel> {
        loop {
            {
                let mut queue = self.queue.lock();
                if let Some(parcel) = queue.pop() {
                    let empty = queue.parcels.is_empty();
                    let tell = queue.refused && (empty || queue.is_half_empty());
                    queue.refused &= !tell;
                    drop(queue);
                    if tell {
                        (self.room)();
                    }
                    return Some(parcel);
                }
                if queue.closed {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.queue.lock().closed
    }

    /// Forgets what waits, and everything that comes.
    pub fn close(&self) {
        let mut queue = self.queue.lock();
        *queue = Queue {
            closed: true,
            ..Queue::default()
        };
        drop(queue);
        self.filled.notify_one();
        (self.room)();
    }
}

impl Queue {
    fn has_room(&self, spare: bool) -> bool {
        let small = self.events < EVENTS_MAX && self.bytes < BYTES_MAX;
        !self.closed && (self.parcels.is_empty() || (spare && small))
    }

    fn is_half_empty(&self) -> bool {
        self.events <= EVENTS_MAX / 2 && self.bytes <= BYTES_MAX / 2
    }

    fn pop(&mut self) -> Option<Parcel> {
        let parcel = self.parcels.pop_front()?;
        match &parcel {
            Parcel::Events { events, .. } => {
                self.events -= events.len();
                let bytes: usize = events.iter().map(|event| event_bytes(event.event())).sum();
                self.bytes -= bytes;
            }
            Parcel::Progress { .. } => self.progress -= 1,
            Parcel::Compacted { .. } | Parcel::Failed { .. } => {}
        }
        Some(parcel)
    }
}
