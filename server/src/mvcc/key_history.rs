//! The revisions of one key.
//!
//! Promise: the newest revision is at hand; older ones cost 16 bytes each and nothing if there are
//! none, which is how most keys are.

use crate::mvcc::Revision;

/// The newest revision of a live key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latest {
    pub modified: Revision,
    /// The revision that created it.
    pub created: i64,
    /// How often it was put since then, from 1.
    pub version: i64,
    /// 0 for none.
    pub lease: i64,
    /// Length of its sealed value.
    pub value_bytes: u32,
}

/// A tombstone has version 0, as in etcd.
const TOMBSTONE_VERSION: i64 = 0;

#[derive(Clone, Debug)]
pub(crate) struct KeyHistory {
    newest: Newest,
    /// Ascending, all below `newest`.
    older: Option<Box<Older>>,
}

/// A `Latest` without the gaps that its parts have for themselves.
#[derive(Clone, Copy, Debug)]
struct Newest {
    main: i64,
    sub: u32,
    value_bytes: u32,
    created: i64,
    version: i64,
    lease: i64,
}

#[derive(Clone, Debug, Default)]
struct Older(Vec<Past>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Past {
    at: PackedRevision,
    is_tombstone: bool,
}

/// A revision in 12 bytes, so that a past one with its kind takes 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PackedRevision {
    main: [u32; 2],
    sub: u32,
}

impl From<Revision> for PackedRevision {
    fn from(revision: Revision) -> Self {
        let main = revision.main as u64;
        let main = [(main >> 32) as u32, main as u32];
        let sub = revision.sub;
        Self { main, sub }
    }
}

impl From<PackedRevision> for Revision {
    fn from(packed: PackedRevision) -> Self {
        let [high, low] = packed.main.map(u64::from);
        Revision::new((high << 32 | low) as i64, packed.sub)
    }
}

/// A key as a reader at some revision sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Newest(Latest),
    /// A put that has been overwritten or deleted since.
    Older(Revision),
}

impl KeyHistory {
    pub(crate) fn put(latest: Latest) -> Self {
        Self {
            newest: latest.into(),
            older: None,
        }
    }

    pub(crate) fn tombstone(at: Revision) -> Self {
        Self::put(tombstone(at))
    }

    pub(crate) fn live(&self) -> Option<Latest> {
        (self.newest.version != TOMBSTONE_VERSION).then(|| self.newest.into())
    }

    pub(crate) fn push_put(&mut self, latest: Latest) {
        debug_assert!(
            latest.modified > self.newest.modified(),
            "revisions only grow"
        );
        let past = self.newest_as_past();
        self.older.get_or_insert_default().0.push(past);
        self.newest = latest.into();
    }

    pub(crate) fn push_tombstone(&mut self, at: Revision) {
        self.push_put(tombstone(at));
    }

    /// The newest revision whose main number is at most `at`, unless it is a tombstone.
    pub(crate) fn seen(&self, at: i64) -> Option<Seen> {
        if self.newest.main <= at {
            return self.live().map(Seen::Newest);
        }
        let past = self.past();
        let after = past.partition_point(|past| past.revision().main <= at);
        let past = past[..after].last()?;
        (!past.is_tombstone).then(|| Seen::Older(past.revision()))
    }

    /// Forgets what no reader at `at` or later sees, and gives it to `dropped`.
    ///
    /// The newest revision up to `at` stays. If it is a tombstone it goes too, unless it was
    /// written exactly at `at`: a member that compacts then hashes the same history as one that
    /// has not yet. Returns whether anything is left.
    pub(crate) fn compact(&mut self, at: i64, dropped: &mut Vec<Revision>) -> bool {
        let is_below = |revision: Revision| revision.main <= at;
        if is_below(self.newest.modified()) {
            dropped.extend(self.past().iter().map(|past| past.revision()));
            self.older = None;
            if self.live().is_some() || self.newest.main == at {
                return true;
            }
            dropped.push(self.newest.modified());
            return false;
        }
        let past = self.past();
        let mut forgotten = past.partition_point(|past| is_below(past.revision()));
        if let Some(kept) = past[..forgotten].last()
            && !(kept.is_tombstone && kept.revision().main < at)
        {
            forgotten -= 1;
        }
        if forgotten > 0 {
            dropped.extend(past[..forgotten].iter().map(|past| past.revision()));
            self.forget(forgotten);
        }
        true
    }

    fn forget(&mut self, count: usize) {
        let Some(older) = &mut self.older else {
            return;
        };
        older.0.drain(..count);
        older.0.shrink_to(older.0.len() * 2);
        if older.0.is_empty() {
            self.older = None;
        }
    }

    fn past(&self) -> &[Past] {
        self.older.as_ref().map_or(&[], |older| &older.0)
    }

    fn newest_as_past(&self) -> Past {
        Past {
            at: self.newest.modified().into(),
            is_tombstone: self.live().is_none(),
        }
    }
}

impl Newest {
    fn modified(&self) -> Revision {
        Revision::new(self.main, self.sub)
    }
}

impl From<Latest> for Newest {
    fn from(latest: Latest) -> Self {
        Self {
            main: latest.modified.main,
            sub: latest.modified.sub,
            value_bytes: latest.value_bytes,
            created: latest.created,
            version: latest.version,
            lease: latest.lease,
        }
    }
}

impl From<Newest> for Latest {
    fn from(newest: Newest) -> Self {
        Self {
            modified: newest.modified(),
            created: newest.created,
            version: newest.version,
            lease: newest.lease,
            value_bytes: newest.value_bytes,
        }
    }
}

impl Past {
    fn revision(&self) -> Revision {
        self.at.into()
    }
}

fn tombstone(at: Revision) -> Latest {
    Latest {
        modified: at,
        created: 0,
        version: TOMBSTONE_VERSION,
        lease: 0,
        value_bytes: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_takes_48_bytes_and_a_past_revision_16() {
        assert_eq!(size_of::<KeyHistory>(), 48);
        assert_eq!(size_of::<Past>(), 16);
    }

    fn latest(main: i64, version: i64) -> Latest {
        Latest {
            modified: Revision::new(main, 0),
            created: main - version + 1,
            version,
            lease: 0,
            value_bytes: 5,
        }
    }

    /// Put at 2, 3; deleted at 5; put at 7.
    fn reborn() -> KeyHistory {
        let mut history = KeyHistory::put(latest(2, 1));
        history.push_put(latest(3, 2));
        history.push_tombstone(Revision::new(5, 1));
        history.push_put(latest(7, 1));
        history
    }

    fn compacted(at: i64) -> (KeyHistory, bool, Vec<i64>) {
        let mut history = reborn();
        let mut dropped = Vec::new();
        let left = history.compact(at, &mut dropped);
        (
            history,
            left,
            dropped.iter().map(|revision| revision.main).collect(),
        )
    }

    #[test]
    fn a_reader_sees_the_newest_put_up_to_its_revision() {
        let history = reborn();
        assert_eq!(history.seen(1), None);
        assert_eq!(history.seen(2), Some(Seen::Older(Revision::new(2, 0))));
        assert_eq!(history.seen(4), Some(Seen::Older(Revision::new(3, 0))));
        assert_eq!(history.seen(5), None);
        assert_eq!(history.seen(6), None);
        assert_eq!(history.seen(7), Some(Seen::Newest(latest(7, 1))));
    }

    #[test]
    fn compaction_keeps_what_a_reader_at_its_revision_sees() {
        assert!(compacted(1).2.is_empty());
        assert!(compacted(2).2.is_empty());
        assert_eq!(compacted(4).2, [2]);
        assert_eq!(compacted(7).2, [2, 3, 5]);
        for at in 1..9 {
            let (history, left, _) = compacted(at);
            assert!(left);
            for later in at..9 {
                assert_eq!(
                    history.seen(later),
                    reborn().seen(later),
                    "at {at}, read {later}"
                );
            }
        }
    }

    #[test]
    fn a_tombstone_exactly_at_the_compact_revision_is_kept() {
        assert_eq!(compacted(5).2, [2, 3]);
        assert_eq!(compacted(6).2, [2, 3, 5]);
        let mut history = KeyHistory::put(latest(2, 1));
        history.push_tombstone(Revision::new(4, 0));
        let mut dropped = Vec::new();
        assert!(history.compact(4, &mut dropped));
        assert_eq!(dropped, [Revision::new(2, 0)]);
        assert!(!history.compact(5, &mut dropped));
        assert_eq!(dropped, [Revision::new(2, 0), Revision::new(4, 0)]);
    }

    #[test]
    fn great_revisions_survive_packing() {
        for revision in [
            Revision::MAX,
            Revision::new(1 << 40 | 7, 3),
            Revision::default(),
        ] {
            assert_eq!(Revision::from(PackedRevision::from(revision)), revision);
        }
    }
}
