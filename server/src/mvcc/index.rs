//! Every key in memory with its revisions.
//!
//! Promise: what a reader at a revision sees does not change while the index grows.
//! Not known here: values, the disk, locks.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::key_history::{KeyHistory, Latest, Seen};
use super::key_range::KeyRange;
use super::revision::Revision;

/// A key as a reader at some revision sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub key: Bytes,
    pub modified: Revision,
    /// Nothing if the key was put or deleted since: then its meta row at `modified` has the facts.
    pub latest: Option<Latest>,
}

/// A part of a range, read under one lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    pub found: Vec<Found>,
    /// Where the next chunk goes on (`after`), nothing at the end of the range.
    pub resume: Option<Bytes>,
}

/// What a compare of a range depended on: equal guards mean the same live keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    pub live_keys: u64,
    /// The greatest of the live keys' modification revisions, 0 without any.
    pub max_mod_revision: i64,
}

/// One write of the history, as its meta row tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put { key: Bytes, latest: Latest },
    Delete { key: Bytes, at: Revision },
}

#[derive(Default)]
pub struct Index {
    keys: BTreeMap<Box<[u8]>, KeyHistory>,
}

impl Index {
    /// Gives nothing for a key that is deleted or not yet created at `at`.
    pub fn get(&self, key: &[u8], at: i64) -> Option<Found> {
        found(key, self.keys.get(key)?.seen(at)?)
    }

    /// At most `limit` keys that are live at `at`, ascending, all greater than `after`.
    pub fn range(
        &self,
        range: &KeyRange,
        at: i64,
        limit: usize,
        after: Option<&[u8]>,
    ) -> Vec<Found> {
        self.entries(range, after)
            .filter_map(|(key, history)| found(key, history.seen(at)?))
            .take(limit)
            .collect()
    }

    /// As `range`, but also stops after having looked at `walk_max` keys, live or not.
    pub fn range_chunk(
        &self,
        range: &KeyRange,
        at: i64,
        walk_max: usize,
        after: Option<&[u8]>,
    ) -> Chunk {
        let mut chunk = Chunk::default();
        let mut entries = self.entries(range, after);
        let mut last = None;
        for (key, history) in entries.by_ref().take(walk_max) {
            last = Some(key);
            chunk
                .found
                .extend(history.seen(at).and_then(|seen| found(key, seen)));
        }
        if entries.next().is_some() {
            chunk.resume = last.map(|key| Bytes::copy_from_slice(key));
        }
        chunk
    }

    /// How many keys of the range are live at `at`.
    pub fn count(&self, range: &KeyRange, at: i64) -> u64 {
        let live = self
            .entries(range, None)
            .filter(|(_, history)| history.seen(at).is_some());
        live.count() as u64
    }

    /// The guard of the range at the newest revision.
    pub fn guard(&self, range: &KeyRange) -> Guard {
        let live = self
            .entries(range, None)
            .filter_map(|(_, history)| history.live());
        live.fold(Guard::default(), |guard, latest| Guard {
            live_keys: guard.live_keys + 1,
            max_mod_revision: guard.max_mod_revision.max(latest.modified.main),
        })
    }

    /// Records a put; its revision is greater than every one before.
    pub fn put(&mut self, key: Bytes, latest: Latest) {
        match self.keys.get_mut(&key[..]) {
            Some(history) => history.push_put(latest),
            None => {
                self.keys.insert(key[..].into(), KeyHistory::put(latest));
            }
        }
    }

    /// Records a deletion; its revision is greater than every one before.
    pub fn delete(&mut self, key: &[u8], at: Revision) {
        match self.keys.get_mut(key) {
            Some(history) => history.push_tombstone(at),
            None => {
                self.keys.insert(key.into(), KeyHistory::tombstone(at));
            }
        }
    }

    /// Forgets what no reader at `at` or later sees of the next `keys_max` keys after `resume`.
    ///
    /// Gives the revisions whose rows may go, and where to go on; nothing at the end.
    pub fn compact_slice(
        &mut self,
        at: i64,
        resume: Option<Bytes>,
        keys_max: usize,
    ) -> (Vec<Revision>, Option<Bytes>) {
        let from = resume.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let keys = self.keys.range_mut::<[u8], _>((from, Bound::Unbounded));
        let mut dropped = Vec::new();
        let mut emptied = Vec::new();
        let mut last = None;
        let mut walked = 0;
        for (key, history) in keys.take(keys_max) {
            if !history.compact(at, &mut dropped) {
                emptied.push(key.clone());
            }
            last = Some(key);
            walked += 1;
        }
        let last = last
            .filter(|_| walked == keys_max)
            .map(|key| Bytes::copy_from_slice(key));
        for key in emptied {
            self.keys.remove(&key);
        }
        (dropped, last)
    }

    /// The index of a whole history. Each part is ascending by revision, and so are the parts.
    pub fn bulk_load(parts: Vec<Vec<Change>>) -> Self {
        let mut index = Self::default();
        for change in parts.into_iter().flatten() {
            match change {
                Change::Put { key, latest } => index.put(key, latest),
                Change::Delete { key, at } => index.delete(&key, at),
            }
        }
        index
    }

    /// Live keys.
    pub fn len(&self) -> u64 {
        self.guard(&KeyRange::all()).live_keys
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn entries<'a>(
        &'a self,
        range: &'a KeyRange,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = (&'a [u8], &'a KeyHistory)> {
        let from = match after {
            Some(after) if after >= &range.key()[..] => Bound::Excluded(after),
            _ => Bound::Included(&range.key()[..]),
        };
        let keys = self.keys.range::<[u8], _>((from, Bound::Unbounded));
        keys.map(|(key, history)| (&key[..], history))
            .take_while(|(key, _)| !range.ends_before(key))
    }
}

fn found(key: &[u8], seen: Seen) -> Option<Found> {
    let key = Bytes::copy_from_slice(key);
    Some(match seen {
        Seen::Newest(latest) => Found {
            key,
            modified: latest.modified,
            latest: Some(latest),
        },
        Seen::Older(modified) => Found {
            key,
            modified,
            latest: None,
        },
    })
}
