//! The store's logical clock.
//!
//! Promise: the order of revisions is the order of their stored keys.

use std::fmt;

/// One write: the transaction's number and the place of the write in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    pub main: i64,
    pub sub: u32,
}

impl Revision {
    /// `main` i64 ‖ `sub` u32, big-endian.
    pub const BYTES: usize = 12;

    /// Greater than every revision that is ever written.
    pub const MAX: Revision = Revision::new(i64::MAX, u32::MAX);

    pub const fn new(main: i64, sub: u32) -> Self {
        Self { main, sub }
    }

    /// The row key of this revision. Revisions are never negative, so the sign bit sorts rightly.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }

    /// Gives nothing for bytes of another length or a negative revision.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (main, sub) = bytes.split_first_chunk::<8>()?;
        let main = i64::from_be_bytes(*main);
        let sub = u32::from_be_bytes(sub.try_into().ok()?);
        (main >= 0).then_some(Self { main, sub })
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.main, self.sub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn revision() -> impl Strategy<Value = Revision> {
        (0..=i64::MAX, any::<u32>()).prop_map(|(main, sub)| Revision { main, sub })
    }

    proptest! {
        #[test]
        fn stored_keys_sort_as_revisions_do(a in revision(), b in revision()) {
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
            prop_assert_eq!(Revision::from_bytes(&a.to_bytes()), Some(a));
        }

        #[test]
        fn foreign_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let parsed = Revision::from_bytes(&bytes);
            let valid = bytes.len() == Revision::BYTES && bytes[0] < 0x80;
            prop_assert_eq!(parsed.is_some(), valid);
        }
    }
}
