//! Every key in memory with its revisions.
//!
//! Promise: what a reader at a revision sees does not change while the index grows, nor by a
//! compaction at or below that revision. Below the compact revision answers mean nothing: whoever
//! reads checks it, afterwards too.
//! Not known here: values, the disk, locks.

use std::collections::VecDeque;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use super::bulk_load;
use super::key_history::{KeyHistory, Latest, Seen};
use super::key_range::KeyRange;
use super::revision::Revision;
use super::tree::{Entry, Liveness, Summary, Tree};

/// How many births and deaths of keys are remembered, to count at a revision just past.
const RECENT_MAX: usize = 16_384;

/// How many bytes their keys may take.
const RECENT_KEY_BYTES_MAX: usize = 4 << 20;

/// How many keys a chunk looks at under one lock.
const CHUNK_WALK_MAX: usize = 4_096;

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

/// Some 100 bytes a key beside the key's own, and 16 for each older revision.
#[derive(Debug, Default)]
pub struct Index {
    tree: Tree,
    /// The greatest revision recorded.
    newest: i64,
    recent: Recent,
}

/// Which keys were born and died lately, ascending by revision.
#[derive(Debug, Default)]
struct Recent {
    changes: VecDeque<RecentChange>,
    key_bytes: usize,
    /// Every birth and death after this revision is remembered.
    complete_after: i64,
}

#[derive(Debug)]
struct RecentChange {
    main: i64,
    key: Box<[u8]>,
    is_birth: bool,
}

impl Index {
    /// Gives nothing for a key that is deleted or not yet created at `at`.
    pub fn get(&self, key: &[u8], at: i64) -> Option<Found> {
        let seen = self.tree.get(key)?.seen(at)?;
        Some(Found::new(Bytes::copy_from_slice(key), seen))
    }

    /// At most `limit` keys that are live at `at`, ascending, all greater than `after`.
    ///
    /// `limit` is at least 1. It walks the whole range if few of its keys are live: see `range_chunk`.
    pub fn range(
        &self,
        range: &KeyRange,
        at: i64,
        limit: usize,
        after: Option<&[u8]>,
    ) -> Vec<Found> {
        self.walk(range, at, limit, usize::MAX, after).found
    }

    /// As `range`, but also stops after a fixed number of keys, live or not, so that a lock around
    /// it is not held long. `found` may be empty with more to come.
    pub fn range_chunk(
        &self,
        range: &KeyRange,
        at: i64,
        limit: usize,
        after: Option<&[u8]>,
    ) -> Chunk {
        self.walk(range, at, limit, CHUNK_WALK_MAX, after)
    }

    /// How many keys of the range are live at `at`.
    ///
    /// O(log n) at the newest revision. At an older one it is corrected by the keys born and
    /// deleted since, or the range is walked, whichever is shorter.
    pub fn count(&self, range: &KeyRange, at: i64) -> u64 {
        let summary = self.summarize(range);
        if at >= self.newest {
            return summary.live;
        }
        match self.recent.after(at) {
            Some(changes) if changes.len() as u64 <= summary.entries => {
                let births = changes.clone().filter(|change| change.is_birth_in(range));
                let deaths = changes.filter(|change| change.is_death_in(range));
                summary.live + deaths.count() as u64 - births.count() as u64
            }
            _ => self.count_by_walk(range, at),
        }
    }

    /// The guard of the range at the newest revision, in O(log n).
    pub fn guard(&self, range: &KeyRange) -> Guard {
        let summary = self.summarize(range);
        Guard {
            live_keys: summary.live,
            max_mod_revision: summary.max_mod_revision,
        }
    }

    /// Records a put; its revision is greater than every one recorded for the key.
    pub fn put(&mut self, key: Bytes, latest: Latest) {
        let liveness = self.tree.change(&key, |history| match history {
            Some(history) => {
                history.push_put(latest);
                None
            }
            None => Some(KeyHistory::put(latest)),
        });
        self.note(&key, latest.modified, liveness);
    }

    /// Records a deletion; its revision is greater than every one recorded for the key.
    pub fn delete(&mut self, key: &[u8], at: Revision) {
        let liveness = self.tree.change(key, |history| match history {
            Some(history) => {
                history.push_tombstone(at);
                None
            }
            None => Some(KeyHistory::tombstone(at)),
        });
        self.note(key, at, liveness);
    }

    /// Forgets what no reader at `at` or later sees of the next `keys_max` keys after `resume`.
    ///
    /// Of each key the newest revision up to `at` stays, unless it is a tombstone older than `at`.
    /// Gives the revisions whose rows may go, and where to go on; nothing at the end.
    pub fn compact_slice(
        &mut self,
        at: i64,
        resume: Option<Bytes>,
        keys_max: usize,
    ) -> (Vec<Revision>, Option<Bytes>) {
        let from = resume.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut dropped = Vec::new();
        let mut emptied = Vec::<Box<[u8]>>::new();
        let mut walked = 0;
        let mut last = None;
        let end = self.tree.visit_mut(from, &mut |key, history| {
            walked += 1;
            if !history.compact(at, &mut dropped) {
                emptied.push(key.into());
            }
            if walked < keys_max {
                return ControlFlow::Continue(());
            }
            last = Some(Bytes::copy_from_slice(key));
            ControlFlow::Break(())
        });
        emptied.iter().for_each(|key| self.tree.remove(key));
        (dropped, last.filter(|_| end.is_break()))
    }

    /// The index of a whole history. Each part is ascending by revision, and so are the parts.
    pub fn bulk_load(parts: Vec<Vec<Change>>) -> Self {
        let newest = parts.iter().filter_map(|part| part.last());
        let newest = newest
            .map(|change| change.revision().main)
            .max()
            .unwrap_or_default();
        Self {
            tree: bulk_load::load(parts),
            newest,
            recent: Recent {
                complete_after: newest,
                ..Recent::default()
            },
        }
    }

    /// Live keys.
    pub fn len(&self) -> u64 {
        self.tree.summary().live
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn summarize(&self, range: &KeyRange) -> Summary {
        let (from, to) = range.bounds();
        self.tree.summarize(from, to)
    }

    fn walk(
        &self,
        range: &KeyRange,
        at: i64,
        limit: usize,
        walk_max: usize,
        after: Option<&[u8]>,
    ) -> Chunk {
        let from = match after {
            Some(after) if after >= &range.key()[..] => Bound::Excluded(after),
            _ => Bound::Included(&range.key()[..]),
        };
        let mut keys = KeyBuffer::default();
        let mut walked = 0;
        let mut last: Option<&Entry> = None;
        let has_more = self.visit(range, from, at, &mut |entry| {
            if walked == walk_max || keys.len() == limit {
                return ControlFlow::Break(());
            }
            walked += 1;
            last = Some(entry);
            if let Some(seen) = entry.history.seen(at) {
                keys.push(&entry.key, seen);
            }
            ControlFlow::Continue(())
        });
        let resume = last.filter(|_| has_more.is_break());
        Chunk {
            found: keys.into_found(),
            resume: resume.map(|entry| Bytes::copy_from_slice(&entry.key)),
        }
    }

    /// Breaks if the visitor did, continues at the end of the range.
    fn visit<'a>(
        &'a self,
        range: &KeyRange,
        from: Bound<&[u8]>,
        at: i64,
        visitor: &mut impl FnMut(&'a Entry) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // At the newest revision nobody sees a deleted key.
        let wanted = |summary: &Summary| summary.live > 0 || at < self.newest;
        let mut outcome = ControlFlow::Continue(());
        let _ = self.tree.visit(from, &wanted, &mut |entry| {
            if range.ends_before(&entry.key) {
                return ControlFlow::Break(());
            }
            outcome = visitor(entry);
            outcome
        });
        outcome
    }

    fn count_by_walk(&self, range: &KeyRange, at: i64) -> u64 {
        let mut count = 0;
        let from = Bound::Included(&range.key()[..]);
        let _ = self.visit(range, from, at, &mut |entry| {
            count += u64::from(entry.history.seen(at).is_some());
            ControlFlow::Continue(())
        });
        count
    }

    fn note(&mut self, key: &[u8], at: Revision, liveness: Liveness) {
        self.newest = self.newest.max(at.main);
        let is_birth = match liveness {
            Liveness::Same => return,
            Liveness::Born => true,
            Liveness::Died => false,
        };
        self.recent.push(RecentChange {
            main: at.main,
            key: key.into(),
            is_birth,
        });
    }
}

impl Recent {
    /// Nothing if some of them are forgotten.
    fn after(&self, at: i64) -> Option<impl ExactSizeIterator<Item = &RecentChange> + Clone> {
        let first = self.changes.partition_point(|change| change.main <= at);
        (at >= self.complete_after).then(|| self.changes.range(first..))
    }

    fn push(&mut self, change: RecentChange) {
        self.key_bytes += change.key.len();
        self.changes.push_back(change);
        while self.changes.len() > RECENT_MAX || self.key_bytes > RECENT_KEY_BYTES_MAX {
            let Some(forgotten) = self.changes.pop_front() else {
                return;
            };
            self.key_bytes -= forgotten.key.len();
            self.complete_after = forgotten.main;
        }
    }
}

impl RecentChange {
    fn is_birth_in(&self, range: &KeyRange) -> bool {
        self.is_birth && range.contains(&self.key)
    }

    fn is_death_in(&self, range: &KeyRange) -> bool {
        !self.is_birth && range.contains(&self.key)
    }
}

impl Found {
    fn new(key: Bytes, seen: Seen) -> Self {
        let (modified, latest) = match seen {
            Seen::Newest(latest) => (latest.modified, Some(latest)),
            Seen::Older(modified) => (modified, None),
        };
        Self {
            key,
            modified,
            latest,
        }
    }
}

impl Change {
    pub fn key(&self) -> &Bytes {
        match self {
            Change::Put { key, .. } | Change::Delete { key, .. } => key,
        }
    }

    pub fn revision(&self) -> Revision {
        match self {
            Change::Put { latest, .. } => latest.modified,
            Change::Delete { at, .. } => *at,
        }
    }
}

/// The keys of a chunk in one allocation.
#[derive(Default)]
struct KeyBuffer {
    bytes: Vec<u8>,
    /// With the end of each key.
    seen: Vec<(usize, Seen)>,
}

impl KeyBuffer {
    fn len(&self) -> usize {
        self.seen.len()
    }

    fn push(&mut self, key: &[u8], seen: Seen) {
        self.bytes.extend_from_slice(key);
        self.seen.push((self.bytes.len(), seen));
    }

    fn into_found(self) -> Vec<Found> {
        let mut keys = Bytes::from(self.bytes);
        let mut start = 0;
        let found = self.seen.into_iter().map(|(end, seen)| {
            let key = keys.split_to(end - start);
            start = end;
            Found::new(key, seen)
        });
        found.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What the index is compared with: every revision of every key in plain maps.
    #[derive(Clone, Default)]
    struct Model {
        keys: BTreeMap<Bytes, Vec<(Revision, Option<Latest>)>>,
        newest: i64,
    }

    impl Model {
        fn seen(&self, key: &Bytes, at: i64) -> Option<Found> {
            let history = self.keys.get(key)?;
            let (modified, put) = history.iter().rfind(|(revision, _)| revision.main <= at)?;
            let latest = (*put)?;
            let is_newest = history.last()?.0 == *modified;
            Some(Found {
                key: key.clone(),
                modified: *modified,
                latest: is_newest.then_some(latest),
            })
        }

        fn range(&self, range: &KeyRange, at: i64) -> Vec<Found> {
            let keys = self.keys.keys().filter(|key| range.contains(key));
            keys.filter_map(|key| self.seen(key, at)).collect()
        }

        fn guard(&self, range: &KeyRange) -> Guard {
            let live = self.range(range, i64::MAX);
            let newest = live.iter().map(|found| found.modified.main).max();
            Guard {
                live_keys: live.len() as u64,
                max_mod_revision: newest.unwrap_or_default(),
            }
        }

        fn compact(&mut self, at: i64) -> Vec<Revision> {
            let mut dropped = Vec::new();
            for history in self.keys.values_mut() {
                let kept = history
                    .iter()
                    .rfind(|(revision, _)| revision.main <= at)
                    .copied();
                history.retain(|(revision, _)| {
                    let is_kept = kept.is_some_and(|(kept, put)| {
                        kept == *revision && (put.is_some() || kept.main == at)
                    });
                    let stays = revision.main > at || is_kept;
                    dropped.extend((!stays).then_some(*revision));
                    stays
                });
            }
            self.keys.retain(|_, history| !history.is_empty());
            dropped.sort();
            dropped
        }

        fn history(&self) -> Vec<Change> {
            let mut changes = Vec::new();
            for (key, history) in &self.keys {
                changes.extend(history.iter().map(|(at, put)| match put {
                    Some(latest) => Change::Put {
                        key: key.clone(),
                        latest: *latest,
                    },
                    None => Change::Delete {
                        key: key.clone(),
                        at: *at,
                    },
                }));
            }
            changes.sort_by_key(Change::revision);
            changes
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Puts and deletes of one transaction.
        Txn(Vec<(u16, bool)>),
        /// Deletes every live key of a range.
        DeleteRange(u16, u16),
        /// Compacts at this share (of 8) of the revisions so far, in slices of so many keys.
        Compact(u8, usize),
    }

    fn step(keys: u16) -> impl Strategy<Value = Step> {
        let txn = prop::collection::vec((0..keys, any::<bool>()), 1..20);
        prop_oneof![
            8 => txn.prop_map(Step::Txn),
            1 => (0..keys, 0..keys).prop_map(|(from, to)| Step::DeleteRange(from, to)),
            1 => (0..=8u8, 1..50usize).prop_map(|(share, slice)| Step::Compact(share, slice)),
        ]
    }

    fn key(number: u16) -> Bytes {
        Bytes::from(format!("/registry/{number:05}"))
    }

    fn put(index: &mut Index, model: &mut Model, key: Bytes, modified: Revision) {
        let before = model.seen(&key, i64::MAX).and_then(|found| found.latest);
        let latest = Latest {
            modified,
            created: before.map_or(modified.main, |before| before.created),
            version: before.map_or(1, |before| before.version + 1),
            lease: modified.main % 3,
            value_bytes: modified.sub,
        };
        index.put(key.clone(), latest);
        model
            .keys
            .entry(key)
            .or_default()
            .push((modified, Some(latest)));
    }

    fn delete(index: &mut Index, model: &mut Model, key: Bytes, at: Revision) {
        if model.seen(&key, i64::MAX).is_some() {
            index.delete(&key, at);
            model.keys.entry(key).or_default().push((at, None));
        }
    }

    fn compact(index: &mut Index, at: i64, slice: usize) -> Vec<Revision> {
        let mut resume = None;
        let mut all = Vec::new();
        loop {
            let (dropped, next) = index.compact_slice(at, resume, slice);
            all.extend(dropped);
            resume = next;
            if resume.is_none() {
                all.sort();
                return all;
            }
        }
    }

    fn apply(index: &mut Index, model: &mut Model, step: &Step) {
        let main = model.newest.max(1) + 1;
        match step {
            Step::Txn(writes) => {
                model.newest = main;
                let mut written = std::collections::BTreeSet::new();
                for (sub, (number, is_put)) in writes.iter().enumerate() {
                    let at = Revision::new(main, sub as u32);
                    match written.insert(*number).then_some(is_put) {
                        Some(true) => put(index, model, key(*number), at),
                        Some(false) => delete(index, model, key(*number), at),
                        None => (),
                    }
                }
            }
            Step::DeleteRange(from, to) => {
                model.newest = main;
                let range = KeyRange::from_wire(key(*from), key(*to));
                for (sub, found) in model.range(&range, i64::MAX).into_iter().enumerate() {
                    delete(index, model, found.key, Revision::new(main, sub as u32));
                }
            }
            Step::Compact(share, slice) => {
                let at = model.newest * i64::from(*share) / 8;
                assert_eq!(compact(index, at, *slice), model.compact(at));
            }
        }
    }

    /// Nobody may read below it any more.
    fn compacted_by(step: &Step, model: &Model) -> i64 {
        match step {
            Step::Compact(share, _) => model.newest * i64::from(*share) / 8,
            Step::Txn(_) | Step::DeleteRange(..) => 0,
        }
    }

    fn ranges(keys: u16, from: u16, to: u16) -> [KeyRange; 5] {
        [
            KeyRange::all(),
            KeyRange::single(key(from)),
            KeyRange::from_key(key(to)),
            KeyRange::from_wire(key(from), key(to)),
            KeyRange::from_wire(key(from.min(to)), key(keys / 2)),
        ]
    }

    fn in_chunks(index: &Index, range: &KeyRange, at: i64, limit: usize) -> Vec<Found> {
        let mut all = Vec::new();
        let mut after: Option<Bytes> = None;
        loop {
            let chunk = index.range_chunk(range, at, limit, after.as_deref());
            assert!(chunk.found.len() <= limit);
            all.extend(chunk.found);
            after = chunk.resume;
            if after.is_none() {
                return all;
            }
        }
    }

    fn assert_same(index: &Index, model: &Model, range: &KeyRange, at: i64) {
        let expected = model.range(range, at);
        assert_eq!(index.range(range, at, usize::MAX, None), expected);
        assert_eq!(index.count(range, at), expected.len() as u64);
        assert_eq!(in_chunks(index, range, at, 3), expected);
        let half = expected.len() / 2;
        if let Some(after) = expected.get(half) {
            let rest = index.range(range, at, 5, Some(&after.key));
            let end = expected.len().min(half + 6);
            assert_eq!(rest, expected[half + 1..end]);
        }
        for found in expected {
            assert_eq!(index.get(&found.key, at), Some(found));
        }
    }

    /// Splits at places that no revision spans or does: a part may end within a transaction.
    fn parts(history: Vec<Change>, count: usize) -> Vec<Vec<Change>> {
        let length = (history.len() / count).max(1);
        history.chunks(length).map(<[Change]>::to_vec).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_index_agrees_with_the_model(
            steps in prop::collection::vec(step(300), 1..60),
            from in 0..300u16,
            to in 0..300u16,
        ) {
            let (mut index, mut model) = (Index::default(), Model::default());
            let mut compacted = 0;
            for step in &steps {
                apply(&mut index, &mut model, step);
                index.tree.check();
                compacted = compacted_by(step, &model).max(compacted);
                for range in ranges(300, from, to) {
                    prop_assert_eq!(index.guard(&range), model.guard(&range));
                }
            }
            for at in [compacted, (compacted + model.newest) / 2, model.newest, i64::MAX] {
                for range in ranges(300, from, to) {
                    assert_same(&index, &model, &range, at);
                }
            }
        }

        #[test]
        fn a_loaded_index_goes_on_as_the_one_that_grew(
            before in prop::collection::vec(step(200), 1..40),
            after in prop::collection::vec(step(200), 1..20),
            count in 1..5usize,
        ) {
            let (mut index, mut model) = (Index::default(), Model::default());
            let mut compacted = 0;
            for step in &before {
                apply(&mut index, &mut model, step);
                compacted = compacted_by(step, &model).max(compacted);
            }
            let mut loaded = Index::bulk_load(parts(model.history(), count));
            loaded.tree.check();
            for at in [compacted, (compacted + model.newest) / 2, model.newest] {
                let all = KeyRange::all();
                prop_assert_eq!(
                    loaded.range(&all, at, usize::MAX, None),
                    index.range(&all, at, usize::MAX, None)
                );
                prop_assert_eq!(loaded.count(&all, at), index.count(&all, at));
            }
            compacted = model.newest;
            for step in &after {
                apply(&mut loaded, &mut model, step);
                compacted = compacted_by(step, &model).max(compacted);
            }
            for range in ranges(200, 20, 150) {
                prop_assert_eq!(loaded.guard(&range), model.guard(&range));
                for at in compacted..=model.newest {
                    let expected = model.range(&range, at).len() as u64;
                    prop_assert_eq!(loaded.count(&range, at), expected);
                }
            }
        }
    }

    #[test]
    fn a_count_just_past_does_not_walk_and_one_long_past_is_still_right() {
        let mut index = Index::default();
        let births = RECENT_MAX as i64 + 1_000;
        for main in 2..2 + births {
            let latest = Latest {
                modified: Revision::new(main, 0),
                created: main,
                version: 1,
                lease: 0,
                value_bytes: 0,
            };
            index.put(Bytes::copy_from_slice(&main.to_be_bytes()), latest);
        }
        assert_eq!(index.recent.changes.len(), RECENT_MAX);
        assert_eq!(index.recent.complete_after, 1_001);
        assert!(index.recent.after(1_000).is_none());
        for at in [1, 2, 500, 1_000, 1_001, 1_002, births, births + 1, i64::MAX] {
            let expected = (at.min(births + 1) - 1) as u64;
            assert_eq!(index.count(&KeyRange::all(), at), expected, "at {at}");
        }
    }

    #[test]
    fn great_keys_are_soon_forgotten_and_counted_by_a_walk() {
        let mut index = Index::default();
        for main in 2..12 {
            let latest = Latest {
                modified: Revision::new(main, 0),
                created: main,
                version: 1,
                lease: 0,
                value_bytes: 0,
            };
            index.put(Bytes::from(vec![main as u8; 1 << 20]), latest);
        }
        assert_eq!(index.recent.changes.len(), 4);
        assert_eq!(index.recent.key_bytes, 4 << 20);
        for at in 1..12 {
            assert_eq!(index.count(&KeyRange::all(), at), (at - 1) as u64);
        }
    }

    #[test]
    fn a_chunk_of_deleted_keys_is_empty_and_goes_on() {
        let mut index = Index::default();
        let keys = CHUNK_WALK_MAX as u32 * 2;
        for number in 0..keys {
            let latest = Latest {
                modified: Revision::new(2, number),
                created: 2,
                version: 1,
                lease: 0,
                value_bytes: 0,
            };
            index.put(Bytes::copy_from_slice(&number.to_be_bytes()), latest);
        }
        for number in 0..keys {
            index.delete(&number.to_be_bytes(), Revision::new(3, number));
        }
        let all = KeyRange::all();
        let newest = index.range_chunk(&all, 3, 10, None);
        assert_eq!(newest, Chunk::default());
        assert_eq!(index.count(&all, 3), 0);
        let chunk = index.range_chunk(&all, 2, 1, None);
        assert_eq!(chunk.found.len(), 1);
        assert!(
            index
                .range_chunk(&all, 2, 1, chunk.resume.as_deref())
                .resume
                .is_some()
        );
        assert_eq!(in_chunks(&index, &all, 1, 100), []);
    }

    #[test]
    fn a_guard_sees_a_put_and_a_deletion_in_its_range_and_none_outside() {
        let mut index = Index::default();
        let latest = |main| Latest {
            modified: Revision::new(main, 0),
            created: main,
            version: 1,
            lease: 0,
            value_bytes: 0,
        };
        let range = KeyRange::prefix(Bytes::from_static(b"b"));
        for (main, key) in [(2, "a"), (3, "b1"), (4, "b2"), (5, "c")] {
            index.put(Bytes::from_static(key.as_bytes()), latest(main));
        }
        let guard = index.guard(&range);
        assert_eq!((guard.live_keys, guard.max_mod_revision), (2, 4));
        index.delete(b"a", Revision::new(6, 0));
        index.put(Bytes::from_static(b"c"), latest(7));
        assert_eq!(index.guard(&range), guard);
        index.delete(b"b2", Revision::new(8, 0));
        assert_ne!(index.guard(&range), guard);
        index.put(Bytes::from_static(b"b2"), latest(9));
        assert_eq!(index.guard(&range).max_mod_revision, 9);
    }
}
