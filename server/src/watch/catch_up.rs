//! Watchers that are behind: fed from history until the board can take them.
//!
//! Promise: nothing is skipped and nothing repeated on the way; a watcher whose history is gone
//! is told so, with the compact revision, and so is one whose history cannot be read. One read of history serves every watcher that needs it,
//! and nobody starves: who has waited longest decides what is read.
//! Not known here: gRPC, who publishes.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::board::matching;
use super::hub::Shared;
use super::shared::SharedRevision;
use super::watcher::Seat;
use crate::metrics::metrics;
use crate::mvcc::history;
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::ReadError;
use crate::mvcc::read_view::ReadView;

/// Events that are read for one turn, about, and what they may hold: so much is in memory for a
/// stream that has taken a delivery and reads no further.
const EVENTS_MAX: usize = 1_000;
const BYTES_MAX: usize = 1 << 20;
/// Events that are read from storage at once to begin with.
const CHUNK_EVENTS_MIN: usize = 16;

#[derive(Default)]
pub(super) struct CatchUp {
    waiting: Mutex<Waiting>,
    woken: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// The one that has waited longest in front.
    seats: VecDeque<Seat>,
    /// Something has happened since the last turn.
    woken: bool,
    stopped: bool,
}

impl CatchUp {
    pub(super) fn add(&self, seats: Vec<Seat>) {
        if seats.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock();
        waiting.seats.extend(seats);
        waiting.woken = true;
        metrics().slow_watchers.set(count(&waiting.seats));
        self.woken.notify_one();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.lock().seats.len()
    }

    /// Some stream has room again, or some watcher is gone.
    pub(super) fn wake(&self) {
        self.waiting.lock().woken = true;
        self.woken.notify_one();
    }

    pub(super) fn stop(&self) {
        self.waiting.lock().stopped = true;
        self.woken.notify_all();
    }

    /// Returns when there may be something to do; false when it is over.
    pub(super) fn wait(&self) -> bool {
        let mut waiting = self.waiting.lock();
        while !waiting.woken && !waiting.stopped {
            self.woken.wait(&mut waiting);
        }
        !waiting.stopped
    }

    /// Moves some watchers on; false if none can be moved now.
    pub(super) fn turn(&self, hub: &Shared) -> bool {
        let mut seats = {
            let mut waiting = self.waiting.lock();
            waiting.woken = false;
            if waiting.stopped {
                return false;
            }
            std::mem::take(&mut waiting.seats)
        };
        let before = seats.len();
        let view = hub.view();
        sort_out(&mut seats, &view, hub);
        let sorted_out = seats.len() < before;
        let moved = feed(&mut seats, &view, hub);
        let mut waiting = self.waiting.lock();
        // Newcomers queue behind those that were here.
        seats.extend(waiting.seats.drain(..));
        waiting.seats = seats;
        metrics().slow_watchers.set(count(&waiting.seats));
        moved || sorted_out
    }
}

fn count(seats: &VecDeque<Seat>) -> i64 {
    i64::try_from(seats.len()).unwrap_or(i64::MAX)
}

/// Lets go of those that are cancelled, that have lost their history, or that are in step.
fn sort_out(seats: &mut VecDeque<Seat>, view: &ReadView, hub: &Shared) {
    let compact_revision = view.compact_revision_now();
    seats.retain(|seat| {
        if seat.watcher.is_cancelled() {
            return false;
        }
        if seat.next < compact_revision {
            seat.watcher
                .outbox()
                .push_compacted(&seat.watcher, compact_revision);
            return false;
        }
        if seat.next > view.revision {
            hub.hand_over(seat.clone());
            return false;
        }
        true
    });
}

/// Reads history once, for the first that has room and whoever else can use it.
fn feed(seats: &mut VecDeque<Seat>, view: &ReadView, hub: &Shared) -> bool {
    let spare = hub.spare();
    let Some(first) = seats
        .iter()
        .position(|seat| seat.watcher.outbox().has_room(spare))
    else {
        return false;
    };
    let from = seats[first].next;
    let range = match seats.len() {
        1 => seats[first].watcher.range.clone(),
        _ => KeyRange::all(),
    };
    let (revisions, to) = match read(view, from, &range, hub) {
        Ok(Some(part)) => part,
        // A compaction came in between, which the next turn sees.
        Ok(None) => return view.compact_revision_now() > from,
        Err(error) => {
            tracing::error!(%error, from, "cannot read history for a watcher");
            if let Some(Seat { watcher, .. }) = seats.remove(first) {
                watcher.outbox().push_failed(&watcher, error);
            }
            return true;
        }
    };
    for seat in seats
        .iter_mut()
        .filter(|seat| (from..=to).contains(&seat.next))
    {
        give(seat, &revisions, to, spare);
    }
    let served = seats.remove(first);
    seats.extend(served);
    true
}

/// Revisions that touch the range, and up to where these are all.
type Part = (Vec<Arc<SharedRevision>>, i64);

/// The revisions from `from` to the one that is returned beside them; none if a compaction has
/// taken them. What could be read before an error is given out first.
fn read(
    view: &ReadView,
    from: i64,
    range: &KeyRange,
    hub: &Shared,
) -> Result<Option<Part>, ReadError> {
    let mut revisions = Vec::new();
    let (mut next, mut bytes, mut events, mut chunk) = (from, 0, 0, CHUNK_EVENTS_MIN);
    while next <= view.revision && events < EVENTS_MAX && bytes < BYTES_MAX {
        let part = match history::events(view, next, view.revision, range, chunk) {
            Ok(part) => part,
            Err(ReadError::Compacted | ReadError::ViewTooOld) => break,
            Err(error) if next == from => return Err(error),
            Err(_) => break,
        };
        for revision in part.revisions {
            let shared = SharedRevision::new(revision, hub.held());
            bytes += shared.bytes();
            events += shared.events().len();
            revisions.push(Arc::new(shared));
        }
        next = part.next;
        // Values may be large: how many are read at once grows while they are not.
        chunk = (chunk * 2).min(EVENTS_MAX);
    }
    Ok((next > from).then_some((revisions, next - 1)))
}

/// Moves the watcher behind `to` if its outbox takes what it wants of these revisions.
fn give(seat: &mut Seat, revisions: &[Arc<SharedRevision>], to: i64, spare: bool) {
    let new = &revisions[revisions.partition_point(|it| it.revision() < seat.next)..];
    let events: Vec<_> = new
        .iter()
        .flat_map(|it| matching(it, &seat.watcher))
        .collect();
    let outbox = seat.watcher.outbox();
    if events.is_empty() || outbox.push_events(&seat.watcher, events, to, spare).is_ok() {
        seat.next = to + 1;
    }
}
