//! The index of a whole history, for a fast start.
//!
//! Promise: the same tree of keys as recording the changes one by one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::iter::Peekable;
use std::vec;

use super::index::Change;
use super::key_history::KeyHistory;
use super::tree::{Entry, Tree};

/// Sorts the parts by key, each on a thread of its own, and builds the tree from their merge.
///
/// Each part is ascending by revision, and so are the parts.
pub(crate) fn load(mut parts: Vec<Vec<Change>>) -> Tree {
    std::thread::scope(|scope| {
        for part in &mut parts {
            // Stable: the changes of a key stay ascending by revision.
            scope.spawn(|| part.sort_by(|a, b| a.key().cmp(b.key())));
        }
    });
    let mut changes = Merge::new(parts).peekable();
    Tree::load(std::iter::from_fn(|| next_entry(&mut changes)))
}

/// All changes of the next key.
fn next_entry(changes: &mut Peekable<Merge>) -> Option<Entry> {
    let first = changes.next()?;
    let key = first.key().clone();
    let mut history = match first {
        Change::Put { latest, .. } => KeyHistory::put(latest),
        Change::Delete { at, .. } => KeyHistory::tombstone(at),
    };
    while let Some(change) = changes.next_if(|change| *change.key() == key) {
        match change {
            Change::Put { latest, .. } => history.push_put(latest),
            Change::Delete { at, .. } => history.push_tombstone(at),
        }
    }
    let key = key[..].into();
    Some(Entry { key, history })
}

/// Sorted parts as one, ascending by key and then by part.
struct Merge {
    parts: Vec<vec::IntoIter<Change>>,
    heads: BinaryHeap<Reverse<Head>>,
}

struct Head {
    change: Change,
    part: usize,
}

impl Merge {
    fn new(parts: Vec<Vec<Change>>) -> Self {
        let parts = parts.into_iter().map(Vec::into_iter).collect();
        let heads = BinaryHeap::new();
        let mut merge = Self { parts, heads };
        (0..merge.parts.len()).for_each(|part| merge.refill(part));
        merge
    }

    fn refill(&mut self, part: usize) {
        let change = self.parts[part].next();
        let head = change.map(|change| Reverse(Head { change, part }));
        self.heads.extend(head);
    }
}

impl Iterator for Merge {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        let Reverse(head) = self.heads.pop()?;
        self.refill(head.part);
        Some(head.change)
    }
}

impl Head {
    fn order(&self) -> (&[u8], usize) {
        (self.change.key(), self.part)
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}
