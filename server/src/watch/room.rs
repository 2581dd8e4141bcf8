//! Memory for open watchers.
//!
//! Promise: bounded. What is past it is refused before anything is kept of it; a place is given
//! back when the hub has forgotten its watcher.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::mvcc::key_range::KeyRange;

/// What all watchers of a member may take together: 260,000 of short keys.
const WATCHERS_BYTES: usize = 512 << 20;
/// What one takes beside its keys, its stream's side included, about.
const WATCHER_BYTES: usize = 2 << 10;

/// There is no memory for another watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory for another watcher")]
pub struct NoRoom;

/// Cloning shares it.
#[derive(Clone, Debug)]
pub(super) struct Room {
    taken: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// A watcher's part, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    taken: Arc<AtomicUsize>,
    bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        Room::new(WATCHERS_BYTES)
    }
}

impl Room {
    fn new(bytes_max: usize) -> Self {
        Room {
            taken: Arc::default(),
            bytes_max,
        }
    }

    pub(super) fn take(&self, range: &KeyRange) -> Result<Place, NoRoom> {
        let bytes = WATCHER_BYTES + range.key().len() + range.range_end().len();
        let fits = |taken: usize| {
            let sum = taken.checked_add(bytes)?;
            (sum <= self.bytes_max).then_some(sum)
        };
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map_err(|_| NoRoom)?;
        Ok(Place {
            taken: Arc::clone(&self.taken),
            bytes,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_is_past_the_bound_is_refused_until_a_place_is_given_back() {
        let room = Room::new(3 * WATCHER_BYTES);
        let short = KeyRange::single(Bytes::from_static(b"k"));
        let long = KeyRange::single(Bytes::from(vec![b'k'; WATCHER_BYTES]));
        let first = room.take(&short).unwrap();
        assert_eq!(room.take(&long).unwrap_err(), NoRoom);
        let second = room.take(&short).unwrap();
        assert_eq!(room.take(&short).unwrap_err(), NoRoom);
        drop((first, second));
        room.take(&long).unwrap();
        assert_eq!(room.taken.load(Ordering::Relaxed), 0);
    }
}
