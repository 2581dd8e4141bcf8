//! How much memory answers may take that wait for their clients to read them.
//!
//! Promise: answers that may be large are built a few at a time, in the order in which they were
//! asked for, and none is begun while those that are being sent hold more than they should. Who
//! finds too many waiting in front, or sees nothing move for too long, is refused; nothing is lost
//! by it.
//! A single answer may be larger than all the room: then it is alone.
//! Not known here: what is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Answers that are being built at once.
const TURNS: usize = 8;
/// Answers that may wait for their turn.
const WAITING_MAX: usize = 16_384;
/// How long they may while nobody at all gets a turn: those in front are stuck.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// What answers that are being sent may hold before none is begun.
const HELD_BYTES: usize = 192 << 20;
/// Past this even small ones wait for their turn.
const HELD_BYTES_MAX: usize = 2 * HELD_BYTES;
/// Answers below it are not counted.
const SMALL_BYTES: usize = 64 << 10;

/// Too many wait already, or nothing has moved for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many large answers are on their way")]
pub struct Full;

/// Cloning shares it.
#[derive(Clone, Debug)]
pub struct Room {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    held: AtomicUsize,
    freed: Notify,
    /// Turns given so far.
    given: AtomicUsize,
    held_bytes: usize,
    wait_max: Duration,
}

/// Leave to build one answer. Clones share it: what builds the answer on a thread of its own keeps
/// one, since it goes on when the call is given up.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    shared: Arc<Shared>,
    _turn: Option<Arc<OwnedSemaphorePermit>>,
}

/// What an answer takes until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    shared: Arc<Shared>,
    bytes: usize,
}

/// Counts one that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Default for Room {
    fn default() -> Self {
        Room::new(HELD_BYTES, WAIT_MAX)
    }
}

impl Room {
    fn new(held_bytes: usize, wait_max: Duration) -> Self {
        Room {
            shared: Arc::new(Shared {
                turns: Arc::new(Semaphore::new(TURNS)),
                waiting: AtomicUsize::new(0),
                held: AtomicUsize::new(0),
                freed: Notify::new(),
                given: AtomicUsize::new(0),
                held_bytes,
                wait_max,
            }),
        }
    }

    /// A turn for an answer that may be large; for one that is `small`, at once unless there is
    /// no memory left at all.
    pub(super) async fn enter(&self, small: bool) -> Result<Turn, Full> {
        let shared = &self.shared;
        if small && shared.held.load(Ordering::Relaxed) < HELD_BYTES_MAX.max(shared.held_bytes) {
            return Ok(Turn {
                shared: Arc::clone(shared),
                _turn: None,
            });
        }
        let _waiting = Waiting(&shared.waiting);
        if shared.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            return Err(Full);
        }
        let mut turn = std::pin::pin!(self.turn());
        loop {
            let given = shared.given.load(Ordering::Relaxed);
            match tokio::time::timeout(shared.wait_max, &mut turn).await {
                Ok(turn) => return Ok(turn),
                Err(_) if shared.given.load(Ordering::Relaxed) != given => {}
                Err(_) => return Err(Full),
            }
        }
    }

    /// As `enter`, for the answer to what is done already: it waits its time and goes on.
    pub(super) async fn enter_late(&self, small: bool) -> Turn {
        self.enter(small).await.unwrap_or_else(|Full| Turn {
            shared: Arc::clone(&self.shared),
            _turn: None,
        })
    }

    async fn turn(&self) -> Turn {
        let shared = &self.shared;
        let turn = Arc::clone(&shared.turns).acquire_owned().await;
        loop {
            // Registered before the look, so that what is freed in between is heard of.
            let mut freed = std::pin::pin!(shared.freed.notified());
            freed.as_mut().enable();
            if shared.held.load(Ordering::Acquire) < shared.held_bytes {
                shared.given.fetch_add(1, Ordering::Relaxed);
                return Turn {
                    shared: Arc::clone(shared),
                    // It is closed never.
                    _turn: turn.ok().map(Arc::new),
                };
            }
            freed.await;
        }
    }

    #[cfg(test)]
    fn held(&self) -> usize {
        self.shared.held.load(Ordering::Relaxed)
    }
}

impl Turn {
    /// The answer is built, and its message has this many bytes. While it is being sent it takes
    /// up to twice that: the buffer it is encoded into grows by doubling.
    pub(super) fn built(self, bytes: usize) -> Option<Held> {
        if bytes < SMALL_BYTES {
            return None;
        }
        let bytes = bytes.saturating_mul(2);
        self.shared.held.fetch_add(bytes, Ordering::AcqRel);
        Some(Held {
            shared: Arc::clone(&self.shared),
            bytes,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.held.fetch_sub(self.bytes, Ordering::AcqRel);
        self.shared.freed.notify_waiters();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[tokio::test(start_paused = true)]
    async fn nothing_large_is_begun_while_what_is_sent_holds_too_much() {
        let room = Room::new(MIB, WAIT_MAX);
        let first = room.enter(false).await.unwrap().built(MIB).unwrap();
        assert_eq!(room.held(), 2 * MIB);
        let second = tokio::spawn({
            let room = room.clone();
            async move { room.enter(false).await.map(|turn| turn.built(MIB)) }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        room.enter(true).await.unwrap();
        drop(first);
        assert!(second.await.unwrap().unwrap().is_some());
        assert_eq!(room.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_sees_nothing_move_is_refused_and_leaves_the_queue() {
        let room = Room::new(MIB, WAIT_MAX);
        let held = room.enter(false).await.unwrap().built(MIB);
        assert_eq!(room.enter(false).await.unwrap_err(), Full);
        drop(held);
        room.enter(false).await.unwrap();
        assert_eq!(room.shared.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_few_are_built_at_once_and_small_answers_are_not_counted() {
        let room = Room::default();
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            turns.push(room.enter(false).await.unwrap());
        }
        let mut next = Box::pin(room.enter(false));
        assert!(futures::poll!(&mut next).is_pending());
        assert!(turns.pop().unwrap().built(SMALL_BYTES - 1).is_none());
        assert!(next.await.unwrap().built(SMALL_BYTES).is_some());
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_leaves_its_turn_to_the_work_it_began() {
        let room = Room::default();
        let mut working = Vec::new();
        for _ in 0..TURNS {
            let turn = room.enter(false).await.unwrap();
            working.push(turn.clone());
        }
        let mut next = Box::pin(room.enter(false));
        assert!(futures::poll!(&mut next).is_pending());
        working.pop();
        next.await.unwrap();
    }
}
