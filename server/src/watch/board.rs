//! The watchers that have been given everything so far, found by key.
//!
//! Promise: a watcher that stands here has been given every matching revision up to the board's;
//! one whose outbox is full leaves the board with the first revision that it was not given.
//! Not known here: threads, history.

use std::collections::{HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::interval::IntervalMap;
use super::shared::{EventRef, SharedRevision};
use super::watcher::{Seat, Watcher};

/// Revisions that are remembered so that a watcher a little behind needs no disk.
const RECENT_REVISIONS: usize = 1_024;
const RECENT_BYTES: usize = 8 << 20;

pub(super) struct Board {
    /// Every revision up to this one has been given out.
    revision: i64,
    slots: Vec<Option<Taken>>,
    free: Vec<usize>,
    by_serial: HashMap<u64, usize>,
    exact: HashMap<Bytes, Vec<usize>>,
    ranges: IntervalMap<usize>,
    recent: Recent,
}

struct Taken {
    seat: Seat,
    /// Events of the batch that is being given out.
    pending: Vec<EventRef>,
}

impl Board {
    pub(super) fn new(revision: i64) -> Self {
        Board {
            revision,
            slots: Vec::new(),
            free: Vec::new(),
            by_serial: HashMap::new(),
            exact: HashMap::new(),
            ranges: IntervalMap::default(),
            recent: Recent::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_serial.len()
    }

    /// Gives out revisions, ascending. Returns the watchers that had no room.
    pub(super) fn publish(&mut self, batch: Vec<Arc<SharedRevision>>, spare: bool) -> Vec<Seat> {
        let mut touched = Vec::new();
        for revision in batch {
            // What a snapshot brought already is no news.
            if revision.revision() > self.revision {
                self.revision = revision.revision();
                self.gather(&revision, &mut touched);
                self.recent.push(revision);
            }
        }
        let mut behind = Vec::new();
        for slot in touched {
            behind.extend(self.deliver(slot, spare));
        }
        behind
    }

    fn gather(&mut self, revision: &Arc<SharedRevision>, touched: &mut Vec<usize>) {
        let Board {
            slots,
            exact,
            ranges,
            ..
        } = self;
        for (at, event) in revision.events().iter().enumerate() {
            let mut found = |slot: &usize| {
                let Some(taken) = &mut slots[*slot] else {
                    return;
                };
                let Seat { watcher, next } = &taken.seat;
                if revision.revision() >= *next && watcher.wants(event.kind) {
                    if taken.pending.is_empty() {
                        touched.push(*slot);
                    }
                    taken.pending.push(EventRef::new(revision, at));
                }
            };
            if let Some(slots) = exact.get(&event.record.key) {
                slots.iter().for_each(&mut found);
            }
            ranges.stab(&event.record.key, &mut found);
        }
    }

    /// Returns the watcher if it has no room for what is pending.
    fn deliver(&mut self, slot: usize, spare: bool) -> Option<Seat> {
        let taken = self.slots[slot].as_mut()?;
        let events = std::mem::take(&mut taken.pending);
        let first = events.first()?.revision();
        let watcher = Arc::clone(&taken.seat.watcher);
        if watcher.is_cancelled() {
            self.vacate(slot);
            return None;
        }
        if watcher
            .outbox()
            .push_events(&watcher, events, self.revision, spare)
            .is_ok()
        {
            return None;
        }
        let mut seat = self.vacate(slot)?;
        seat.next = first;
        Some(seat)
    }

    /// Seats a watcher that needs nothing older than what is remembered; gives back any other.
    pub(super) fn seat(&mut self, mut seat: Seat, spare: bool) -> Result<(), Seat> {
        if seat.next <= self.revision {
            let Some(events) = self.recent.since(&seat) else {
                return Err(seat);
            };
            let watcher = &seat.watcher;
            if !events.is_empty()
                && watcher
                    .outbox()
                    .push_events(watcher, events, self.revision, spare)
                    .is_err()
            {
                return Err(seat);
            }
            seat.next = self.revision + 1;
        }
        self.take(seat);
        Ok(())
    }

    fn take(&mut self, seat: Seat) {
        let watcher = Arc::clone(&seat.watcher);
        let taken = Some(Taken {
            seat,
            pending: Vec::new(),
        });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = taken;
                slot
            }
            None => {
                self.slots.push(taken);
                self.slots.len() - 1
            }
        };
        self.by_serial.insert(watcher.serial(), slot);
        match watcher.range.as_single() {
            Some(key) => self.exact.entry(key.clone()).or_default().push(slot),
            None => self
                .ranges
                .insert(watcher.range.key().clone(), end_of(&watcher), slot),
        }
    }

    fn vacate(&mut self, slot: usize) -> Option<Seat> {
        let Taken { seat, .. } = self.slots[slot].take()?;
        self.free.push(slot);
        self.by_serial.remove(&seat.watcher.serial());
        match seat.watcher.range.as_single() {
            Some(key) => {
                if let Some(slots) = self.exact.get_mut(key) {
                    slots.retain(|it| *it != slot);
                    if slots.is_empty() {
                        self.exact.remove(key);
                    }
                }
            }
            None => self
                .ranges
                .remove(seat.watcher.range.key(), &end_of(&seat.watcher), &slot),
        }
        Some(seat)
    }

    pub(super) fn remove(&mut self, watcher: &Watcher) {
        if let Some(&slot) = self.by_serial.get(&watcher.serial()) {
            self.vacate(slot);
        }
    }

    /// Revisions up to this one were not given out: everybody leaves, to be caught up.
    pub(super) fn lapse(&mut self, revision: i64) -> Vec<Seat> {
        let next = self.revision + 1;
        self.revision = self.revision.max(revision);
        self.recent = Recent::default();
        let slots = 0..self.slots.len();
        let mut seats: Vec<Seat> = slots.filter_map(|slot| self.vacate(slot)).collect();
        for seat in &mut seats {
            seat.next = seat.next.max(next);
        }
        seats
    }

    /// Up to which revision these watchers have been given everything; none if one of them has
    /// not, or starts only later, or if there are none.
    pub(super) fn progress(&self, watchers: &[Arc<Watcher>]) -> Option<i64> {
        let in_step = |watcher: &Arc<Watcher>| {
            self.by_serial.contains_key(&watcher.serial()) && watcher.progress_from <= self.revision
        };
        (!watchers.is_empty() && watchers.iter().all(in_step)).then_some(self.revision)
    }
}

/// The first key behind a watcher's range.
fn end_of(watcher: &Watcher) -> Option<Bytes> {
    match watcher.range.bounds().1 {
        Bound::Excluded(end) => Some(Bytes::copy_from_slice(end)),
        Bound::Included(_) | Bound::Unbounded => None,
    }
}

/// The newest revisions, without a gap up to the board's.
#[derive(Default)]
struct Recent {
    revisions: VecDeque<Arc<SharedRevision>>,
    bytes: usize,
}

impl Recent {
    fn push(&mut self, revision: Arc<SharedRevision>) {
        self.bytes += revision.bytes();
        self.revisions.push_back(revision);
        while self.revisions.len() > RECENT_REVISIONS || self.bytes > RECENT_BYTES {
            let Some(oldest) = self.revisions.pop_front() else {
                return;
            };
            self.bytes -= oldest.bytes();
        }
    }

    /// What the watcher has not been given; none if some of it is not remembered.
    fn since(&self, seat: &Seat) -> Option<Vec<EventRef>> {
        if self.revisions.front()?.revision() > seat.next {
            return None;
        }
        let from = self
            .revisions
            .partition_point(|it| it.revision() < seat.next);
        Some(
            self.revisions
                .iter()
                .skip(from)
                .flat_map(|it| matching(it, &seat.watcher))
                .collect(),
        )
    }
}

/// The events of a revision that a watcher wants, in order.
pub(super) fn matching(revision: &Arc<SharedRevision>, watcher: &Watcher) -> Vec<EventRef> {
    let events = revision.events().iter().enumerate();
    events
        .filter(|(_, event)| watcher.matches(event))
        .map(|(at, _)| EventRef::new(revision, at))
        .collect()
}
