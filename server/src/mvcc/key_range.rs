//! Which keys a request means.
//!
//! Promise: `(key, range_end)` of the wire is read here and nowhere else.

use std::ops::Bound;

use bytes::Bytes;

/// etcd's `range_end` for "every key from `key` on".
const FROM_KEY: &[u8] = b"\0";

/// One key, the keys of `[key, range_end)`, or every key from one on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    key: Bytes,
    end: End,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum End {
    /// `key` alone.
    Single,
    /// Every key below this one.
    Before(Bytes),
    Unbounded,
}

impl KeyRange {
    /// An empty `range_end` means one key, `"\0"` every key from `key` on.
    ///
    /// A `range_end` at or below `key` gives a range without keys, as in etcd.
    pub fn from_wire(key: Bytes, range_end: Bytes) -> Self {
        let end = match &range_end[..] {
            [] => End::Single,
            FROM_KEY => End::Unbounded,
            _ => End::Before(range_end),
        };
        Self { key, end }
    }

    pub fn single(key: Bytes) -> Self {
        let end = End::Single;
        Self { key, end }
    }

    pub fn from_key(key: Bytes) -> Self {
        let end = End::Unbounded;
        Self { key, end }
    }

    pub fn all() -> Self {
        Self::from_key(Bytes::new())
    }

    /// Every key that starts with `prefix`.
    pub fn prefix(prefix: Bytes) -> Self {
        let Some(last) = prefix.iter().rposition(|byte| *byte != u8::MAX) else {
            return Self::from_key(prefix);
        };
        let mut end = prefix[..=last].to_vec();
        end[last] += 1;
        let end = End::Before(end.into());
        Self { key: prefix, end }
    }

    /// The same range in memory of its own: keys that were read from a message hold on to all of it.
    #[must_use]
    pub fn detached(&self) -> Self {
        let end = match &self.end {
            End::Before(end) => End::Before(Bytes::copy_from_slice(end)),
            end => end.clone(),
        };
        let key = Bytes::copy_from_slice(&self.key);
        Self { key, end }
    }

    /// The first key that may be in the range.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// What `from_wire` reads back: empty for one key, `"\0"` for no bound.
    pub fn range_end(&self) -> Bytes {
        match &self.end {
            End::Single => Bytes::new(),
            End::Before(end) => end.clone(),
            End::Unbounded => Bytes::from_static(FROM_KEY),
        }
    }

    /// The only key of the range, if it was asked for as one.
    pub fn as_single(&self) -> Option<&Bytes> {
        matches!(self.end, End::Single).then_some(&self.key)
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Single => key == self.key,
            End::Before(end) => key >= &self.key[..] && key < &end[..],
            End::Unbounded => key >= &self.key[..],
        }
    }

    /// No key can be in it.
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, End::Before(end) if *end <= self.key)
    }

    pub fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        let end = match &self.end {
            End::Single => Bound::Included(&self.key[..]),
            End::Before(end) => Bound::Excluded(&end[..]),
            End::Unbounded => Bound::Unbounded,
        };
        (Bound::Included(&self.key[..]), end)
    }

    /// `key` lies past every key of the range.
    pub(crate) fn ends_before(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Single => key > &self.key[..],
            End::Before(end) => key >= &end[..],
            End::Unbounded => false,
        }
    }

    /// Every key of `other` is in this range. A range without keys is covered by all.
    pub fn covers(&self, other: &KeyRange) -> bool {
        if other.is_empty() {
            return true;
        }
        if other.key < self.key {
            return false;
        }
        match (&self.end, &other.end) {
            (_, End::Single) => self.contains(&other.key),
            (End::Unbounded, _) => true,
            (End::Before(own), End::Before(theirs)) => theirs <= own,
            (End::Single | End::Before(_), _) => false,
        }
    }

    /// Some key can be in both.
    pub fn overlaps(&self, other: &KeyRange) -> bool {
        let apart = self.ends_before(&other.key) || other.ends_before(&self.key);
        !(apart || self.is_empty() || other.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(key: &'static [u8], end: &'static [u8]) -> KeyRange {
        KeyRange::from_wire(Bytes::from_static(key), Bytes::from_static(end))
    }

    #[test]
    fn the_four_forms_of_the_wire_are_told_apart() {
        assert!(range(b"a", b"").contains(b"a") && !range(b"a", b"").contains(b"aa"));
        assert!(range(b"a", b"c").contains(b"b") && !range(b"a", b"c").contains(b"c"));
        assert!(range(b"b", b"\0").contains(b"z") && !range(b"b", b"\0").contains(b"a"));
        assert!(range(b"\0", b"\0").contains(b"\0"));
        assert_eq!(
            range(b"a", b"").as_single(),
            Some(&Bytes::from_static(b"a"))
        );
    }

    #[test]
    fn an_inverted_range_has_no_keys() {
        assert!(range(b"b", b"b").is_empty() && range(b"b", b"a").is_empty());
        assert!(!range(b"b", b"a").contains(b"b"));
        assert!(!range(b"b", b"a").overlaps(&KeyRange::all()));
        assert!(range(b"z", b"").covers(&range(b"b", b"a")));
    }

    #[test]
    fn a_single_key_does_not_cover_an_open_range_from_it() {
        assert!(!range(b"a", b"").covers(&range(b"a", b"\0")));
        assert!(!range(b"a", b"b").covers(&range(b"a", b"\0")));
    }

    #[test]
    fn a_prefix_of_the_greatest_bytes_is_open_ended() {
        assert_eq!(
            KeyRange::prefix(Bytes::from_static(b"\xff\xff")).range_end(),
            &b"\0"[..]
        );
        assert_eq!(
            KeyRange::prefix(Bytes::from_static(b"a\xff")).range_end(),
            &b"b"[..]
        );
        assert_eq!(KeyRange::prefix(Bytes::new()), KeyRange::all());
    }

    fn short() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(0u8..3, 0..3).prop_map(Bytes::from)
    }

    fn any_range() -> impl Strategy<Value = KeyRange> {
        (short(), short()).prop_map(|(key, end)| KeyRange::from_wire(key, end))
    }

    fn every_short_key() -> Vec<Vec<u8>> {
        let mut keys = vec![Vec::new()];
        for length in 0..4 {
            let longer: Vec<_> = keys
                .iter()
                .filter(|key| key.len() == length)
                .cloned()
                .collect();
            for key in longer {
                keys.extend((0u8..3).map(|byte| [&key[..], &[byte]].concat()));
            }
        }
        keys
    }

    proptest! {
        #[test]
        fn the_wire_form_reads_back(range in any_range()) {
            let again = KeyRange::from_wire(range.key().clone(), range.range_end());
            prop_assert_eq!(again, range);
        }

        #[test]
        fn covering_and_overlapping_agree_with_the_keys(a in any_range(), b in any_range()) {
            let keys = every_short_key();
            let shared = keys.iter().any(|key| a.contains(key) && b.contains(key));
            prop_assert!(!shared || a.overlaps(&b));
            if a.covers(&b) {
                prop_assert!(keys.iter().all(|key| !b.contains(key) || a.contains(key)));
            }
            let missed = keys.iter().any(|key| b.contains(key) && !a.contains(key));
            prop_assert_eq!(missed, missed && !a.covers(&b));
        }

        #[test]
        fn bounds_say_what_contains_says(range in any_range(), key in short()) {
            use std::ops::RangeBounds;
            prop_assert_eq!(RangeBounds::<[u8]>::contains(&range.bounds(), &key[..]), range.contains(&key));
        }

        #[test]
        fn a_prefix_range_has_exactly_the_keys_with_the_prefix(prefix in short()) {
            let range = KeyRange::prefix(prefix.clone());
            for key in every_short_key() {
                prop_assert_eq!(range.contains(&key), key.starts_with(&prefix));
            }
        }
    }
}
