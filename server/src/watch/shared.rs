//! One revision's events, shared by every watcher that is told of them.
//!
//! Promise: an event is made ready for the wire once, by the first that needs it, however many
//! watchers want it; its bytes are forgotten with the last that holds the revision, and counted
//! until then.
//! Not known here: how a value is opened, where a previous one is read, what the wire looks like.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::mvcc::event::{Event, RevisionEvents};

/// What an event costs in a queue beside its key and values, about.
const EVENT_OVERHEAD_BYTES: usize = 128;

/// Bytes that are held by revisions in queues, in the hub's memory of recent ones, and on their
/// way to clients.
#[derive(Clone, Debug, Default)]
pub(super) struct HeldBytes(Arc<AtomicUsize>);

impl HeldBytes {
    pub(super) fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// All events of one revision, with room for what is made of them.
pub struct SharedRevision {
    source: Arc<RevisionEvents>,
    made: Vec<Made>,
    /// Held while something is made, so that nobody makes it twice.
    making: Mutex<()>,
    bytes: usize,
    /// Of previous records, which nobody may ask for.
    prev_bytes: AtomicUsize,
    held: HeldBytes,
}

/// What goes to clients.
#[derive(Default)]
struct Made {
    event: OnceLock<Bytes>,
    prev: OnceLock<Option<Bytes>>,
}

impl SharedRevision {
    pub(super) fn new(source: Arc<RevisionEvents>, held: &HeldBytes) -> Self {
        let bytes = source.events.iter().map(event_bytes).sum();
        held.0.fetch_add(bytes, Ordering::Relaxed);
        let made = source.events.iter().map(|_| Made::default()).collect();
        SharedRevision {
            source,
            made,
            making: Mutex::new(()),
            bytes,
            prev_bytes: AtomicUsize::new(0),
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

    /// What it takes in memory, about, without previous records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for SharedRevision {
    fn drop(&mut self) {
        let bytes = self.bytes + self.prev_bytes.load(Ordering::Relaxed);
        self.held.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Twice the value: sealed, and as clients see it when somebody asked for it.
pub(super) fn event_bytes(event: &Event) -> usize {
    EVENT_OVERHEAD_BYTES + 2 * (event.record.key.len() + event.value.len())
}

/// One event of a shared revision.
#[derive(Clone)]
pub struct EventRef {
    revision: Arc<SharedRevision>,
    at: usize,
}

/// Bytes that were made of an event, and what they are counted by.
struct Counted {
    bytes: Bytes,
    _revision: Arc<SharedRevision>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl EventRef {
    /// `at` is a place in the revision's events.
    pub(super) fn new(revision: &Arc<SharedRevision>, at: usize) -> Self {
        EventRef {
            revision: Arc::clone(revision),
            at,
        }
    }

    /// The only event of its revision.
    #[cfg(test)]
    pub(crate) fn alone(event: Event) -> Self {
        Self::alone_of(event, &HeldBytes::default())
    }

    #[cfg(test)]
    fn alone_of(event: Event, held: &HeldBytes) -> Self {
        let source = RevisionEvents {
            revision: event.record.at.main,
            events: vec![event],
        };
        EventRef::new(&Arc::new(SharedRevision::new(Arc::new(source), held)), 0)
    }

    #[must_use]
    pub fn event(&self) -> &Event {
        &self.revision.source.events[self.at]
    }

    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision.revision()
    }

    /// The event as clients see it; `make` is called unless somebody has made it.
    pub fn make<E>(&self, make: impl FnOnce(&Event) -> Result<Bytes, E>) -> Result<&Bytes, E> {
        self.once(&self.made_here().event, make, |_| {})
    }

    /// The record before as clients see it, if there is one to be had; `make` is called unless
    /// somebody has made it.
    pub fn make_prev<E>(
        &self,
        make: impl FnOnce(&Event) -> Result<Option<Bytes>, E>,
    ) -> Result<Option<&Bytes>, E> {
        let prev = self.once(&self.made_here().prev, make, |prev| {
            let bytes = prev.as_ref().map_or(0, Bytes::len);
            self.revision.prev_bytes.fetch_add(bytes, Ordering::Relaxed);
            self.revision.held.0.fetch_add(bytes, Ordering::Relaxed);
        })?;
        Ok(prev.as_ref())
    }

    /// What [`EventRef::make`] has made.
    #[must_use]
    pub fn made(&self) -> Option<&Bytes> {
        self.made_here().event.get()
    }

    /// What [`EventRef::make_prev`] has made.
    #[must_use]
    pub fn made_prev(&self) -> Option<&Option<Bytes>> {
        self.made_here().prev.get()
    }

    /// What was made of this event, for who keeps it longer than the event: it counts as held
    /// until the last has let go of it.
    #[must_use]
    pub fn share(&self, made: &Bytes) -> Bytes {
        Bytes::from_owner(Counted {
            bytes: made.clone(),
            _revision: Arc::clone(&self.revision),
        })
    }

    fn made_here(&self) -> &Made {
        &self.revision.made[self.at]
    }

    fn once<'a, T, E>(
        &'a self,
        cell: &'a OnceLock<T>,
        make: impl FnOnce(&Event) -> Result<T, E>,
        count: impl FnOnce(&T),
    ) -> Result<&'a T, E> {
        if let Some(made) = cell.get() {
            return Ok(made);
        }
        let _making = self.revision.making.lock();
        if let Some(made) = cell.get() {
            return Ok(made);
        }
        let made = make(self.event())?;
        count(&made);
        Ok(cell.get_or_init(|| made))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::command::RecordRef;
    use crate::mvcc::event::{Cause, Kind};
    use crate::mvcc::revision::Revision;

    fn shared(held: &HeldBytes) -> EventRef {
        let event = Event {
            kind: Kind::Put,
            record: RecordRef {
                key: Bytes::from_static(b"k"),
                at: Revision::new(2, 0),
                created: 2,
                version: 1,
                lease: 0,
                value_bytes: 0,
            },
            value: Bytes::from_static(b"sealed"),
            prev: None,
            cause: Cause::Client,
            hops: 0,
        };
        EventRef::alone_of(event, held)
    }

    #[test]
    fn many_threads_make_an_event_once_and_share_its_bytes() {
        let (event, made) = (shared(&HeldBytes::default()), AtomicUsize::new(0));
        let make = |_: &Event| -> Result<Bytes, Infallible> {
            made.fetch_add(1, Ordering::Relaxed);
            std::thread::yield_now();
            Ok(Bytes::from(b"opened".to_vec()))
        };
        let barrier = std::sync::Barrier::new(8);
        let got = std::thread::scope(|scope| {
            let one = || {
                barrier.wait();
                event.make(make).unwrap().as_ptr() as usize
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
            let joined = threads.into_iter().map(|thread| thread.join().unwrap());
            joined.collect::<Vec<_>>()
        });
        assert_eq!(made.load(Ordering::Relaxed), 1);
        assert!(got.iter().all(|at| *at == got[0]), "one memory for all");
    }

    #[test]
    fn what_could_not_be_made_is_tried_again() {
        let event = shared(&HeldBytes::default());
        assert_eq!(event.make(|_| Err("no key yet")), Err("no key yet"));
        assert_eq!(event.made(), None);
        let made = event.make(|_| Ok::<_, &str>(Bytes::from_static(b"opened")));
        assert_eq!(made.unwrap(), "opened");
        assert_eq!(event.made().unwrap(), "opened");
        assert_eq!(event.made_prev(), None);
    }

    #[test]
    fn bytes_on_their_way_are_counted_until_the_last_is_gone() {
        let held = HeldBytes::default();
        let event = shared(&held);
        let queued = held.now();
        let make = |_: &Event| Ok::<_, Infallible>(Some(Bytes::from_static(b"before")));
        let prev = event.share(event.make_prev(make).unwrap().unwrap());
        assert_eq!(prev, "before");
        drop(event);
        assert_eq!(held.now(), queued + b"before".len());
        drop(prev);
        assert_eq!(held.now(), 0);
    }
}
