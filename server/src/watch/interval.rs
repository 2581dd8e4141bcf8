//! Which ranges contain a key: an interval treap.
//!
//! Promise: finding the `k` ranges that contain a key costs O(log n + k) or so, whatever the
//! ranges; equal ranges share a node.
//! Not known here: what stands behind a range.

use bytes::Bytes;

/// `None` stands above every key.
type End = Option<Bytes>;

fn is_below(key: &[u8], end: &End) -> bool {
    end.as_ref().is_none_or(|end| key < &end[..])
}

fn greater(a: &End, b: &End) -> End {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b).clone()),
        _ => None,
    }
}

struct Node<T> {
    begin: Bytes,
    end: End,
    /// The greatest end in this subtree.
    end_max: End,
    priority: u64,
    items: Vec<T>,
    left: Link<T>,
    right: Link<T>,
}

type Link<T> = Option<Box<Node<T>>>;

impl<T> Node<T> {
    fn order(&self, begin: &[u8], end: &End) -> std::cmp::Ordering {
        let ends = match (end, &self.end) {
            (Some(a), Some(b)) => a.cmp(b),
            (None, None) => std::cmp::Ordering::Equal,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(_), None) => std::cmp::Ordering::Less,
        };
        begin.cmp(&self.begin[..]).then(ends)
    }

    fn update(&mut self) {
        let mut end_max = self.end.clone();
        for child in [&self.left, &self.right].into_iter().flatten() {
            end_max = greater(&end_max, &child.end_max);
        }
        self.end_max = end_max;
    }
}

/// Items by the range that they are interested in.
pub(super) struct IntervalMap<T> {
    root: Link<T>,
    /// State of the generator of priorities (xorshift): shape is chance, results are not.
    chance: u64,
}

impl<T> Default for IntervalMap<T> {
    fn default() -> Self {
        IntervalMap {
            root: None,
            chance: 0x9e37_79b9_7f4a_7c15,
        }
    }
}

impl<T: PartialEq> IntervalMap<T> {
    /// `end` is the first key behind the range, none for a range without end.
    pub(super) fn insert(&mut self, begin: Bytes, end: End, item: T) {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let root = self.root.take();
        self.root = Some(insert(root, begin, end, item, self.chance));
    }

    pub(super) fn remove(&mut self, begin: &[u8], end: &End, item: &T) {
        let root = self.root.take();
        self.root = remove(root, begin, end, item);
    }

    /// Calls `found` with every item whose range contains the key.
    pub(super) fn stab(&self, key: &[u8], found: &mut impl FnMut(&T)) {
        stab(&self.root, key, found);
    }
}

fn insert<T>(link: Link<T>, begin: Bytes, end: End, item: T, priority: u64) -> Box<Node<T>> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let Some(mut node) = link else {
        let end_max = end.clone();
        let items = vec![item];
        return Box::new(Node {
            begin,
            end,
            end_max,
            priority,
            items,
            left: None,
            right: None,
        });
    };
    match node.order(&begin, &end) {
        Equal => {
            node.items.push(item);
            return node;
        }
        Less => {
            let left = insert(node.left.take(), begin, end, item, priority);
            if left.priority > node.priority {
                return rotate_right(node, left);
            }
            node.left = Some(left);
        }
        Greater => {
            let right = insert(node.right.take(), begin, end, item, priority);
            if right.priority > node.priority {
                return rotate_left(node, right);
            }
            node.right = Some(right);
        }
    }
    node.update();
    node
}

/// `left` goes above `node`.
fn rotate_right<T>(mut node: Box<Node<T>>, mut left: Box<Node<T>>) -> Box<Node<T>> {
    node.left = left.right.take();
    node.update();
    left.right = Some(node);
    left.update();
    left
}

/// `right` goes above `node`.
fn rotate_left<T>(mut node: Box<Node<T>>, mut right: Box<Node<T>>) -> Box<Node<T>> {
    node.right = right.left.take();
    node.update();
    right.left = Some(node);
    right.update();
    right
}

fn remove<T: PartialEq>(link: Link<T>, begin: &[u8], end: &End, item: &T) -> Link<T> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let mut node = link?;
    match node.order(begin, end) {
        Equal => {
            if let Some(at) = node.items.iter().position(|it| it == item) {
                node.items.swap_remove(at);
            }
            if node.items.is_empty() {
                return merge(node.left.take(), node.right.take());
            }
        }
        Less => node.left = remove(node.left.take(), begin, end, item),
        Greater => node.right = remove(node.right.take(), begin, end, item),
    }
    node.update();
    Some(node)
}

/// Everything in `left` sorts before everything in `right`.
fn merge<T>(left: Link<T>, right: Link<T>) -> Link<T> {
    let (mut left, mut right) = match (left, right) {
        (Some(left), Some(right)) => (left, right),
        (one, other) => return one.or(other),
    };
    if left.priority > right.priority {
        left.right = merge(left.right.take(), Some(right));
        left.update();
        Some(left)
    } else {
        right.left = merge(Some(left), right.left.take());
        right.update();
        Some(right)
    }
}

fn stab<T>(link: &Link<T>, key: &[u8], found: &mut impl FnMut(&T)) {
    let Some(node) = link else { return };
    if !is_below(key, &node.end_max) {
        return;
    }
    stab(&node.left, key, found);
    if key < &node.begin[..] {
        return;
    }
    if is_below(key, &node.end) {
        node.items.iter().for_each(&mut *found);
    }
    stab(&node.right, key, found);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn short() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(0u8..4, 0..3).prop_map(Bytes::from)
    }

    fn any_range() -> impl Strategy<Value = (Bytes, End)> {
        (short(), proptest::option::of(short()))
    }

    fn found(map: &IntervalMap<usize>, key: &[u8]) -> Vec<usize> {
        let mut items = Vec::new();
        map.stab(key, &mut |item| items.push(*item));
        items.sort_unstable();
        items
    }

    proptest! {
        #[test]
        fn a_key_finds_exactly_the_ranges_that_contain_it(
            ranges in proptest::collection::vec(any_range(), 0..40),
            removed in proptest::collection::vec(any::<bool>(), 40),
            keys in proptest::collection::vec(short(), 1..20),
        ) {
            let mut map = IntervalMap::default();
            for (item, (begin, end)) in ranges.iter().enumerate() {
                map.insert(begin.clone(), end.clone(), item);
            }
            for (item, (begin, end)) in ranges.iter().enumerate().filter(|(item, _)| removed[*item]) {
                map.remove(begin, end, &item);
            }
            for key in keys {
                let expected: Vec<usize> = ranges
                    .iter()
                    .enumerate()
                    .filter(|(item, (begin, end))| !removed[*item] && *begin <= key && is_below(&key, end))
                    .map(|(item, _)| item)
                    .collect();
                prop_assert_eq!(found(&map, &key), expected);
            }
        }
    }

    #[test]
    fn ten_thousand_nested_ranges_stay_shallow() {
        fn depth<T>(link: &Link<T>) -> usize {
            link.as_ref()
                .map_or(0, |node| 1 + depth(&node.left).max(depth(&node.right)))
        }
        let mut map = IntervalMap::default();
        for item in 0..10_000_u32 {
            map.insert(Bytes::copy_from_slice(&item.to_be_bytes()), None, item);
        }
        assert!(depth(&map.root) < 64, "{} levels", depth(&map.root));
    }
}
