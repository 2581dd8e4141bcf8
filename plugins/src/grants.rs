//! Key prefixes a plugin may watch, read and write, and what lies inside them.
//!
//! Not known here: users and roles; the server checks those as well.

use std::fmt;

/// A prefix of keys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Vec<u8>);

impl Prefix {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Prefix {
        Prefix(bytes.into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The first key after all keys with this prefix; `None` where there is none.
    pub fn end(&self) -> Option<Vec<u8>> {
        let last = self.0.iter().rposition(|byte| *byte != 0xff)?;
        let mut end = self.0[..=last].to_vec();
        end[last] += 1;
        Some(end)
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        key.starts_with(&self.0)
    }

    /// Whether all of an etcd range lies inside: an empty `range_end` is the key alone,
    /// a single zero byte everything from the key on.
    pub fn contains_range(&self, key: &[u8], range_end: &[u8]) -> bool {
        self.contains(key)
            && match (range_end, self.end()) {
                ([], _) | (_, None) => true,
                ([0], Some(_)) => false,
                (range_end, Some(end)) => range_end <= end.as_slice(),
            }
    }

    pub fn overlaps(&self, other: &Prefix) -> bool {
        self.contains(&other.0) || other.contains(&self.0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether one of the prefixes holds all of a range.
pub(crate) fn granted<'a>(
    mut prefixes: impl Iterator<Item = &'a Prefix>,
    key: &[u8],
    range_end: &[u8],
) -> bool {
    prefixes.any(|prefix| prefix.contains_range(key, range_end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_skips_its_trailing_ff() {
        assert_eq!(Prefix::new("/a").end(), Some(b"/b".to_vec()));
        assert_eq!(Prefix::new([0x61, 0xff]).end(), Some(vec![0x62]));
        assert_eq!(Prefix::new([0xff, 0xff]).end(), None);
        assert_eq!(Prefix::new("").end(), None);
    }

    #[test]
    fn a_range_that_leaves_the_prefix_is_outside() {
        let prefix = Prefix::new("/a/");
        assert!(prefix.contains_range(b"/a/x", b""));
        assert!(prefix.contains_range(b"/a/", b"/a0"));
        assert!(prefix.contains_range(b"/a/x", b"/a/y"));
        assert!(!prefix.contains_range(b"/a/x", b"/a1"));
        assert!(!prefix.contains_range(b"/a/x", b"\0"));
        assert!(!prefix.contains_range(b"/a", b""));
        assert!(!prefix.contains_range(b"/", b"/a/x"));
    }

    #[test]
    fn the_empty_prefix_holds_everything() {
        assert!(Prefix::new("").contains_range(b"x", b"\0"));
        assert!(Prefix::new("").overlaps(&Prefix::new("/a/")));
    }

    #[test]
    fn prefixes_overlap_when_one_begins_the_other() {
        assert!(Prefix::new("/a/").overlaps(&Prefix::new("/a/b/")));
        assert!(Prefix::new("/a/b/").overlaps(&Prefix::new("/a/")));
        assert!(!Prefix::new("/a/").overlaps(&Prefix::new("/b/")));
    }
}
