//! The keys that a set of permissions gives, merged.
//!
//! Promise: permissions that touch or overlap count as one; a range is covered only if every key
//! of it is, whoever gave which part.
//!
//! Source: etcd 3.7.1, `server/auth/range_perm_cache.go`.

use bytes::Bytes;

use crate::mvcc::key_range::KeyRange;

/// Disjoint half-open intervals in key order that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    intervals: Vec<Interval>,
}

/// The keys from `start` on that lie before `end`; without an end all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Interval {
    start: Bytes,
    end: Option<Bytes>,
}

impl Interval {
    fn of(range: &KeyRange) -> Self {
        let start = range.key().clone();
        let end = match range.as_single() {
            Some(key) => Some(next_key(key)),
            None if is_unbounded(range) => None,
            None => Some(range.range_end()),
        };
        Interval { start, end }
    }
}

/// The smallest key that is greater.
fn next_key(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

fn is_unbounded(range: &KeyRange) -> bool {
    range.range_end() == b"\0"[..]
}

impl Coverage {
    pub fn of<'a>(ranges: impl IntoIterator<Item = &'a KeyRange>) -> Self {
        let mut parts: Vec<Interval> = ranges
            .into_iter()
            .filter(|range| !range.is_empty())
            .map(Interval::of)
            .collect();
        parts.sort_unstable_by(|a, b| a.start.cmp(&b.start));
        let mut intervals: Vec<Interval> = Vec::new();
        for part in parts {
            match intervals.last_mut() {
                Some(last) if reaches(last, &part.start) => {
                    if ends_before(last.end.as_ref(), part.end.as_ref()) {
                        last.end = part.end;
                    }
                }
                _ => intervals.push(part),
            }
        }
        Coverage { intervals }
    }

    #[must_use]
    pub fn covers_key(&self, key: &[u8]) -> bool {
        self.starting_at_or_before(key)
            .is_some_and(|it| it.end.as_ref().is_none_or(|end| key < &end[..]))
    }

    /// A range that is the wrong way round has no keys; as in etcd whoever is given its first key is given it.
    #[must_use]
    pub fn covers(&self, range: &KeyRange) -> bool {
        if let Some(key) = range.as_single() {
            return self.covers_key(key);
        }
        if range.is_empty() {
            return self.covers_key(range.key());
        }
        let wanted = Interval::of(range);
        self.starting_at_or_before(&wanted.start)
            .is_some_and(|it| !ends_before(it.end.as_ref(), wanted.end.as_ref()))
    }

    fn starting_at_or_before(&self, key: &[u8]) -> Option<&Interval> {
        let after = self.intervals.partition_point(|it| it.start[..] <= *key);
        self.intervals.get(after.checked_sub(1)?)
    }
}

/// The interval has every key up to `key`, or all but it.
fn reaches(interval: &Interval, key: &Bytes) -> bool {
    interval.end.as_ref().is_none_or(|end| key <= end)
}

fn ends_before(one: Option<&Bytes>, other: Option<&Bytes>) -> bool {
    match (one, other) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(one), Some(other)) => one < other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(key: &'static [u8], end: &'static [u8]) -> KeyRange {
        KeyRange::from_wire(Bytes::from_static(key), Bytes::from_static(end))
    }

    #[test]
    fn one_key_gives_no_open_ended_range_from_it() {
        let one = Coverage::of(&[range(b"a", b"")]);
        assert!(one.covers(&range(b"a", b"")) && one.covers(&range(b"a", b"a\0")));
        assert!(!one.covers(&range(b"a", b"\0")) && !one.covers(&range(b"a", b"b")));
    }

    #[test]
    fn a_bounded_permission_gives_no_open_ended_range() {
        let bounded = Coverage::of(&[range(b"a", b"z")]);
        assert!(!bounded.covers(&range(b"a", b"\0")));
        assert!(Coverage::of(&[range(b"a", b"\0")]).covers(&range(b"m", b"\0")));
    }

    #[test]
    fn permissions_that_touch_count_as_one() {
        let merged = Coverage::of(&[range(b"c", b"e"), range(b"a", b"c"), range(b"e", b"")]);
        assert!(merged.covers(&range(b"a", b"e\0")));
        assert!(!merged.covers(&range(b"a", b"e\x01")));
        let apart = Coverage::of(&[range(b"a", b"b"), range(b"c", b"d")]);
        assert!(!apart.covers(&range(b"a", b"d")));
    }

    #[test]
    fn an_inverted_range_gives_nothing_and_is_given_with_its_key() {
        let some = Coverage::of(&[range(b"b", b"c")]);
        assert!(some.covers(&range(b"b", b"a")) && some.covers(&range(b"b", b"b")));
        assert!(!some.covers(&range(b"c", b"b")));
        assert_eq!(Coverage::of(&[range(b"b", b"a")]), Coverage::default());
    }

    fn short() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(0u8..3, 0..3).prop_map(Bytes::from)
    }

    fn any_range() -> impl Strategy<Value = KeyRange> {
        (short(), short()).prop_map(|(key, end)| KeyRange::from_wire(key, end))
    }

    /// Long enough that between two short keys lie some of them.
    fn every_key() -> Vec<Vec<u8>> {
        let mut keys = vec![Vec::new()];
        for length in 0..5 {
            let longer: Vec<Vec<u8>> = keys
                .iter()
                .filter(|key| key.len() == length)
                .flat_map(|key| (0u8..3).map(|byte| [&key[..], &[byte]].concat()))
                .collect();
            keys.extend(longer);
        }
        keys.push(vec![u8::MAX; 9]);
        keys
    }

    proptest! {
        #[test]
        fn a_merged_set_covers_exactly_the_ranges_whose_every_key_some_permission_gives(
            permissions in proptest::collection::vec(any_range(), 0..6),
            asked in any_range(),
        ) {
            let merged = Coverage::of(&permissions);
            let given = |key: &[u8]| permissions.iter().any(|it| it.contains(key));
            let keys = every_key();
            for key in &keys {
                prop_assert_eq!(merged.covers_key(key), given(key), "{:?}", key);
            }
            let mut wanted = keys.iter().filter(|key| asked.contains(key)).peekable();
            let expected = if wanted.peek().is_some() {
                wanted.all(|key| given(key))
            } else {
                given(asked.key())
            };
            prop_assert_eq!(merged.covers(&asked), expected);
        }
    }
}
