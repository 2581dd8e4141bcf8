//! An order-statistic B-tree of keys: the number of live keys and their greatest modification
//! revision stand beside every subtree.
//!
//! Promise: lookups, changes and the summary of any range take O(log n).
//! Not known here: what readers see, compaction.
//!
//! Keys live in the leaves; an inner node keeps for each child a lower bound of its keys and an
//! upper bound of those before it. The bound of a node's first child is not read.

use std::ops::{Bound, ControlFlow};

use super::key_history::KeyHistory;
use super::revision::Revision;

/// Entries of a leaf, children of an inner node.
const NODE_MAX: usize = 32;

/// Loaded nodes have room for a few more keys before they split.
const LOADED_MAX: usize = 28;

/// A smaller node is merged with a neighbour if both fit into one.
const UNDERFULL: usize = 8;

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: Box<[u8]>,
    pub(crate) history: KeyHistory,
}

/// What a subtree or a range holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Keys, deleted ones with a history included.
    pub(crate) entries: u64,
    pub(crate) live: u64,
    /// Of the live keys; 0 without any.
    pub(crate) max_mod_revision: i64,
}

#[derive(Debug)]
enum Node {
    Leaf(Vec<Entry>),
    /// Never empty.
    Inner(Vec<Child>),
}

#[derive(Debug)]
struct Child {
    lower: Box<[u8]>,
    summary: Summary,
    node: Box<Node>,
}

#[derive(Debug)]
pub(crate) struct Tree {
    root: Node,
    summary: Summary,
}

/// What a change of one key did to its subtree.
struct Changed {
    liveness: Liveness,
    /// The part that no longer fits, to stand behind the subtree.
    split: Option<Child>,
}

/// Whether a change created a key, deleted one, or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    Same,
    Born,
    Died,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            root: Node::Leaf(Vec::new()),
            summary: Summary::default(),
        }
    }
}

impl Tree {
    pub(crate) fn summary(&self) -> Summary {
        self.summary
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&KeyHistory> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let place = find(entries, key).ok()?;
                    return Some(&entries[place].history);
                }
                Node::Inner(children) => node = &children[child_of(children, key)].node,
            }
        }
    }

    /// The keys of `(from, to)`, both ends as bounds.
    pub(crate) fn summarize(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Summary {
        summarize(&self.root, &self.summary, from, to)
    }

    /// Visits keys from `from` on, ascending, until the visitor breaks. Subtrees that `wanted`
    /// refuses are passed over.
    pub(crate) fn visit<'a>(
        &'a self,
        from: Bound<&[u8]>,
        wanted: &impl Fn(&Summary) -> bool,
        visitor: &mut impl FnMut(&'a Entry) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        visit(&self.root, from, wanted, visitor)
    }

    /// Visits keys from `from` on, ascending, until the visitor breaks. It must leave the newest
    /// revision of each key as it is.
    pub(crate) fn visit_mut(
        &mut self,
        from: Bound<&[u8]>,
        visitor: &mut impl FnMut(&[u8], &mut KeyHistory) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        visit_mut(&mut self.root, from, visitor)
    }

    /// Changes the history of one key; `change` is given nothing for a key that is not there and
    /// returns what is to be there then.
    pub(crate) fn change(
        &mut self,
        key: &[u8],
        change: impl FnOnce(Option<&mut KeyHistory>) -> Option<KeyHistory>,
    ) -> Liveness {
        let changed = change_node(&mut self.root, &mut self.summary, key, change);
        if let Some(right) = changed.split {
            let node = std::mem::replace(&mut self.root, Node::Leaf(Vec::new()));
            let left = Child {
                lower: Box::default(),
                summary: self.summary,
                node: Box::new(node),
            };
            self.summary.add(&right.summary);
            let mut children = Vec::with_capacity(NODE_MAX);
            children.extend([left, right]);
            self.root = Node::Inner(children);
        }
        changed.liveness
    }

    /// Removes a key with its history.
    pub(crate) fn remove(&mut self, key: &[u8]) {
        if remove(&mut self.root, key) {
            self.summary = self.root.summarize();
        }
        while let Node::Inner(children) = &mut self.root
            && children.len() == 1
            && let Some(only) = children.pop()
        {
            self.root = *only.node;
        }
    }

    /// Entries ascending by key, no key twice.
    pub(crate) fn load(entries: impl Iterator<Item = Entry>) -> Self {
        let mut level = Vec::new();
        let mut entries = entries.peekable();
        while entries.peek().is_some() {
            let mut leaf = Vec::with_capacity(NODE_MAX);
            leaf.extend(entries.by_ref().take(LOADED_MAX));
            level.push(Child::over(Node::Leaf(leaf)));
        }
        while level.len() > 1 {
            let mut children = level.into_iter().peekable();
            let mut above = Vec::new();
            while children.peek().is_some() {
                let mut inner = Vec::with_capacity(NODE_MAX);
                inner.extend(children.by_ref().take(LOADED_MAX));
                above.push(Child::over(Node::Inner(inner)));
            }
            level = above;
        }
        level.pop().map_or_else(Self::default, |root| Self {
            summary: root.summary,
            root: *root.node,
        })
    }
}

impl Summary {
    fn add(&mut self, other: &Summary) {
        self.entries += other.entries;
        self.live += other.live;
        self.max_mod_revision = self.max_mod_revision.max(other.max_mod_revision);
    }

    fn add_entry(&mut self, entry: &Entry) {
        self.entries += 1;
        if let Some(latest) = entry.history.live() {
            self.live += 1;
            self.max_mod_revision = self.max_mod_revision.max(latest.modified.main);
        }
    }
}

impl Node {
    fn summarize(&self) -> Summary {
        let mut summary = Summary::default();
        match self {
            Node::Leaf(entries) => entries.iter().for_each(|entry| summary.add_entry(entry)),
            Node::Inner(children) => {
                children
                    .iter()
                    .for_each(|child| summary.add(&child.summary));
            }
        }
        summary
    }

    fn len(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.len(),
            Node::Inner(children) => children.len(),
        }
    }
}

impl Child {
    /// `node` is not empty.
    fn over(node: Node) -> Self {
        let lower = match &node {
            Node::Leaf(entries) => entries.first().map(|entry| &entry.key),
            Node::Inner(children) => children.first().map(|child| &child.lower),
        };
        Self {
            lower: lower.cloned().unwrap_or_default(),
            summary: node.summarize(),
            node: Box::new(node),
        }
    }
}

fn find(entries: &[Entry], key: &[u8]) -> Result<usize, usize> {
    entries.binary_search_by(|entry| (*entry.key).cmp(key))
}

/// The child that has the key or would have it.
fn child_of(children: &[Child], key: &[u8]) -> usize {
    children[1..].partition_point(|child| &*child.lower <= key)
}

/// The first child that may have keys from `from` on.
fn child_from(children: &[Child], from: Bound<&[u8]>) -> usize {
    match from {
        Bound::Included(key) | Bound::Excluded(key) => child_of(children, key),
        Bound::Unbounded => 0,
    }
}

/// The first entry from `from` on.
fn entry_from(entries: &[Entry], from: Bound<&[u8]>) -> usize {
    match from {
        Bound::Included(key) => entries.partition_point(|entry| &*entry.key < key),
        Bound::Excluded(key) => entries.partition_point(|entry| &*entry.key <= key),
        Bound::Unbounded => 0,
    }
}

/// The first entry past `to`.
fn entry_past(entries: &[Entry], to: Bound<&[u8]>) -> usize {
    match to {
        Bound::Included(key) => entries.partition_point(|entry| &*entry.key <= key),
        Bound::Excluded(key) => entries.partition_point(|entry| &*entry.key < key),
        Bound::Unbounded => entries.len(),
    }
}

fn summarize(node: &Node, whole: &Summary, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Summary {
    if (from, to) == (Bound::Unbounded, Bound::Unbounded) {
        return *whole;
    }
    let mut summary = Summary::default();
    match node {
        Node::Leaf(entries) => {
            let (first, end) = (entry_from(entries, from), entry_past(entries, to));
            let entries = entries.get(first..end).unwrap_or_default();
            entries.iter().for_each(|entry| summary.add_entry(entry));
        }
        Node::Inner(children) => {
            let first = child_from(children, from);
            let last = match to {
                Bound::Unbounded => children.len() - 1,
                _ => child_from(children, to),
            };
            let touched = children.iter().enumerate().take(last + 1).skip(first);
            for (place, child) in touched {
                let from = if place == first {
                    from
                } else {
                    Bound::Unbounded
                };
                let to = if place == last { to } else { Bound::Unbounded };
                summary.add(&summarize(&child.node, &child.summary, from, to));
            }
        }
    }
    summary
}

fn visit<'a>(
    node: &'a Node,
    from: Bound<&[u8]>,
    wanted: &impl Fn(&Summary) -> bool,
    visitor: &mut impl FnMut(&'a Entry) -> ControlFlow<()>,
) -> ControlFlow<()> {
    match node {
        Node::Leaf(entries) => {
            let first = entry_from(entries, from);
            entries[first..].iter().try_for_each(visitor)
        }
        Node::Inner(children) => {
            let first = child_from(children, from);
            for (place, child) in children.iter().enumerate().skip(first) {
                let from = if place == first {
                    from
                } else {
                    Bound::Unbounded
                };
                if wanted(&child.summary) {
                    visit(&child.node, from, wanted, visitor)?;
                }
            }
            ControlFlow::Continue(())
        }
    }
}

fn visit_mut(
    node: &mut Node,
    from: Bound<&[u8]>,
    visitor: &mut impl FnMut(&[u8], &mut KeyHistory) -> ControlFlow<()>,
) -> ControlFlow<()> {
    match node {
        Node::Leaf(entries) => {
            let first = entry_from(entries, from);
            let mut entries = entries[first..].iter_mut();
            entries.try_for_each(|entry| visitor(&entry.key, &mut entry.history))
        }
        Node::Inner(children) => {
            let first = child_from(children, from);
            for (place, child) in children.iter_mut().enumerate().skip(first) {
                let from = if place == first {
                    from
                } else {
                    Bound::Unbounded
                };
                visit_mut(&mut child.node, from, visitor)?;
            }
            ControlFlow::Continue(())
        }
    }
}

/// `summary` is the node's own and is brought up to date, but only for what stays in the node if
/// it splits.
fn change_node(
    node: &mut Node,
    summary: &mut Summary,
    key: &[u8],
    change: impl FnOnce(Option<&mut KeyHistory>) -> Option<KeyHistory>,
) -> Changed {
    match node {
        Node::Leaf(entries) => change_leaf(entries, summary, key, change),
        Node::Inner(children) => {
            let place = child_of(children, key);
            let child = &mut children[place];
            let before = child.summary;
            let mut changed = change_node(&mut child.node, &mut child.summary, key, change);
            let after = child.summary;
            match changed.split.take() {
                None => follow(summary, &before, &after, children),
                Some(right) => {
                    changed.split = insert_child(children, place + 1, right);
                    *summary = sum(children);
                }
            }
            changed
        }
    }
}

/// The sum of the children changed as one of them did.
fn follow(summary: &mut Summary, before: &Summary, after: &Summary, children: &[Child]) {
    summary.entries = summary.entries - before.entries + after.entries;
    summary.live = summary.live - before.live + after.live;
    if after.max_mod_revision >= summary.max_mod_revision {
        summary.max_mod_revision = after.max_mod_revision;
    } else if before.max_mod_revision == summary.max_mod_revision {
        summary.max_mod_revision = sum(children).max_mod_revision;
    }
}

fn sum(children: &[Child]) -> Summary {
    let mut summary = Summary::default();
    children
        .iter()
        .for_each(|child| summary.add(&child.summary));
    summary
}

fn change_leaf(
    entries: &mut Vec<Entry>,
    summary: &mut Summary,
    key: &[u8],
    change: impl FnOnce(Option<&mut KeyHistory>) -> Option<KeyHistory>,
) -> Changed {
    match find(entries, key) {
        Ok(place) => {
            let history = &mut entries[place].history;
            let was_live = history.live().map(|latest| latest.modified);
            change(Some(history));
            let is_live = history.live().map(|latest| latest.modified);
            let liveness = note_change(summary, entries, was_live, is_live);
            Changed {
                liveness,
                split: None,
            }
        }
        Err(place) => {
            let Some(history) = change(None) else {
                return Changed {
                    liveness: Liveness::Same,
                    split: None,
                };
            };
            let is_live = history.live().map(|latest| latest.modified);
            let key = key.into();
            let split = insert_entry(entries, place, Entry { key, history });
            let liveness = match split {
                None => {
                    summary.entries += 1;
                    note_change(summary, entries, None, is_live)
                }
                Some(_) => {
                    *summary = Summary::default();
                    entries.iter().for_each(|entry| summary.add_entry(entry));
                    is_live.map_or(Liveness::Same, |_| Liveness::Born)
                }
            };
            Changed { liveness, split }
        }
    }
}

/// Brings the summary of a leaf up to date after the newest revision of one of its keys changed.
fn note_change(
    summary: &mut Summary,
    entries: &[Entry],
    was_live: Option<Revision>,
    is_live: Option<Revision>,
) -> Liveness {
    if let Some(modified) = is_live {
        summary.max_mod_revision = summary.max_mod_revision.max(modified.main);
    }
    match (was_live, is_live) {
        (None, Some(_)) => {
            summary.live += 1;
            Liveness::Born
        }
        (Some(_), None) => {
            summary.live -= 1;
            let live = entries.iter().filter_map(|entry| entry.history.live());
            let newest = live.map(|latest| latest.modified.main).max();
            summary.max_mod_revision = newest.unwrap_or_default();
            Liveness::Died
        }
        _ => Liveness::Same,
    }
}

fn insert_entry(entries: &mut Vec<Entry>, place: usize, entry: Entry) -> Option<Child> {
    let right = insert(entries, place, entry)?;
    Some(Child::over(Node::Leaf(right)))
}

fn insert_child(children: &mut Vec<Child>, place: usize, child: Child) -> Option<Child> {
    let right = insert(children, place, child)?;
    Some(Child::over(Node::Inner(right)))
}

/// Inserts into a full vector by splitting it; the right part is returned.
///
/// What comes in ascending order fills its leaves: only the new one goes to the right then.
fn insert<T>(items: &mut Vec<T>, place: usize, item: T) -> Option<Vec<T>> {
    if items.len() < NODE_MAX {
        items.reserve_exact(NODE_MAX - items.len());
        items.insert(place, item);
        return None;
    }
    let middle = if place == items.len() {
        place
    } else {
        items.len() / 2
    };
    let mut right = Vec::with_capacity(NODE_MAX);
    right.extend(items.drain(middle..));
    match place.checked_sub(middle) {
        Some(place) => right.insert(place, item),
        None => items.insert(place, item),
    }
    Some(right)
}

/// Returns whether the key was there. The caller sums up the node again.
fn remove(node: &mut Node, key: &[u8]) -> bool {
    match node {
        Node::Leaf(entries) => {
            let found = find(entries, key);
            if let Ok(place) = found {
                entries.remove(place);
            }
            found.is_ok()
        }
        Node::Inner(children) => {
            let place = child_of(children, key);
            let child = &mut children[place];
            if !remove(&mut child.node, key) {
                return false;
            }
            child.summary = child.node.summarize();
            if child.node.len() < UNDERFULL {
                merge_around(children, place);
            }
            true
        }
    }
}

/// Merges an underfull child with a neighbour. It stays as it is if no neighbour has room, or if
/// there is none: then it may even be empty, which every walk passes over.
fn merge_around(children: &mut Vec<Child>, place: usize) {
    let lefts = [place.checked_sub(1), Some(place)];
    let fits = |left: &usize| {
        let pair = children.get(*left).zip(children.get(*left + 1));
        pair.is_some_and(|(left, right)| left.node.len() + right.node.len() <= NODE_MAX)
    };
    if let Some(left) = lefts.into_iter().flatten().find(fits) {
        let right = children.remove(left + 1);
        children[left].absorb(right);
    }
}

impl Child {
    fn absorb(&mut self, right: Child) {
        match (&mut *self.node, *right.node) {
            (Node::Leaf(entries), Node::Leaf(more)) => entries.extend(more),
            (Node::Inner(children), Node::Inner(mut more)) => {
                // Its bound was not read so far and may be above its keys.
                if let Some(first) = more.first_mut() {
                    first.lower = right.lower;
                }
                children.extend(more);
            }
            // Neighbours are of one height.
            (Node::Leaf(_), Node::Inner(_)) | (Node::Inner(_), Node::Leaf(_)) => {
                unreachable!("neighbours in a tree are of one height")
            }
        }
        self.summary.add(&right.summary);
    }
}

#[cfg(test)]
impl Tree {
    /// Panics unless order, bounds, summaries and height are as promised.
    pub(crate) fn check(&self) {
        check(&self.root, &self.summary, None, None);
    }

    pub(crate) fn height(&self) -> usize {
        height(&self.root)
    }
}

#[cfg(test)]
fn height(node: &Node) -> usize {
    match node {
        Node::Leaf(_) => 1,
        Node::Inner(children) => {
            let heights: Vec<_> = children.iter().map(|child| height(&child.node)).collect();
            assert!(heights.windows(2).all(|pair| pair[0] == pair[1]));
            1 + heights[0]
        }
    }
}

#[cfg(test)]
fn check(node: &Node, summary: &Summary, from: Option<&[u8]>, below: Option<&[u8]>) {
    assert_eq!(node.summarize(), *summary);
    assert!(node.len() <= NODE_MAX);
    match node {
        Node::Leaf(entries) => {
            assert!(entries.windows(2).all(|pair| pair[0].key < pair[1].key));
            for Entry { key, .. } in entries {
                assert!(from.is_none_or(|from| from <= &**key));
                assert!(below.is_none_or(|below| &**key < below));
            }
        }
        Node::Inner(children) => {
            let lowers = || children.iter().skip(1).map(|child| &*child.lower);
            let starts = std::iter::once(from).chain(lowers().map(Some));
            let ends = lowers().map(Some).chain([below]);
            for (child, (from, below)) in children.iter().zip(starts.zip(ends)) {
                check(&child.node, &child.summary, from, below);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::Latest;

    fn put(main: i64) -> KeyHistory {
        KeyHistory::put(Latest {
            modified: Revision::new(main, 0),
            created: main,
            version: 1,
            lease: 0,
            value_bytes: 0,
        })
    }

    fn key(number: u32) -> [u8; 4] {
        number.to_be_bytes()
    }

    /// Every residue once, in an order without a pattern.
    fn scattered(count: u32) -> impl Iterator<Item = u32> {
        (0..count).map(move |number| (u64::from(number) * 7_919 % u64::from(count)) as u32)
    }

    fn filled(numbers: impl Iterator<Item = u32>) -> Tree {
        let mut tree = Tree::default();
        for (place, number) in numbers.enumerate() {
            let liveness = tree.change(&key(number), |_| Some(put(2 + place as i64)));
            assert_eq!(liveness, Liveness::Born);
        }
        tree.check();
        tree
    }

    #[test]
    fn keys_in_any_order_keep_the_tree_flat() {
        for tree in [
            filled(0..40_000),
            filled((0..40_000).rev()),
            filled(scattered(40_000)),
        ] {
            assert_eq!(tree.summary().live, 40_000);
            assert!(tree.height() <= 4, "height {}", tree.height());
            assert!((0..40_000).all(|number| tree.get(&key(number)).is_some()));
            assert!(tree.get(&key(40_000)).is_none());
        }
    }

    #[test]
    fn ascending_keys_fill_their_leaves() {
        fn leaves(node: &Node) -> usize {
            match node {
                Node::Leaf(_) => 1,
                Node::Inner(children) => children.iter().map(|child| leaves(&child.node)).sum(),
            }
        }
        assert_eq!(leaves(&filled(0..32_000).root), 1_000);
    }

    /// Bytes beside the keys themselves; the copies of keys that bound subtrees count.
    fn memory(node: &Node) -> usize {
        size_of::<Node>()
            + match node {
                Node::Leaf(entries) => entries.capacity() * size_of::<Entry>(),
                Node::Inner(children) => {
                    let below = |child: &Child| child.lower.len() + memory(&child.node);
                    let below = children.iter().map(below).sum::<usize>();
                    children.capacity() * size_of::<Child>() + below
                }
            }
    }

    #[test]
    fn a_key_costs_at_most_110_bytes_beside_its_own() {
        let entries = (0..50_000).map(|number| Entry {
            key: key(number).into(),
            history: put(2),
        });
        let trees = [
            filled(0..50_000),
            filled(scattered(50_000)),
            Tree::load(entries),
        ];
        for tree in trees {
            let bytes = memory(&tree.root) / 50_000;
            assert!(bytes <= 110, "{bytes}");
        }
    }

    #[test]
    fn removing_every_key_leaves_an_empty_leaf() {
        for order in [scattered(5_003).collect::<Vec<_>>(), (0..5_003).collect()] {
            let mut tree = filled(0..5_003);
            for (removed, number) in order.into_iter().enumerate() {
                tree.remove(&key(number));
                tree.remove(&key(number));
                assert_eq!(tree.summary().entries, 5_003 - 1 - removed as u64);
                if removed % 100 == 0 {
                    tree.check();
                }
            }
            tree.check();
            assert_eq!(tree.height(), 1);
        }
    }

    #[test]
    fn a_loaded_tree_is_the_tree_of_its_changes() {
        for count in [0, 1, 27, 28, 29, 784, 785, 30_000] {
            let entries = (0..count).map(|number| Entry {
                key: key(number).into(),
                history: put(2),
            });
            let tree = Tree::load(entries);
            tree.check();
            assert_eq!(tree.summary().entries, u64::from(count));
        }
    }
}
