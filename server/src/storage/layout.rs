//! What stands where in the store.
//!
//! | keyspace     | row key                                | row                                  |
//! |--------------|----------------------------------------|--------------------------------------|
//! | `Meta`       | revision (main i64 ‖ sub u32)          | key, versions, lease, cause, tags    |
//! | `Value`      | revision (main i64 ‖ sub u32)          | the sealed value as it was proposed  |
//! | `Lease`      | chosen by the lessor: an id            | a lease                              |
//! | `KeyTable`   | chosen by the key table: ids           | wrapped keys, prefixes, slots        |
//! | `Raft`       | a fixed name                           | applied log id, membership           |
//! | `Plugin`     | chosen by the plugin tables: ids       | states, cursors, dead letters        |
//! | `PluginBlob` | SHA-256 ‖ chunk number                 | a piece of a plugin                  |
//! | `System`     | a fixed name                           | format, counters, members, alarms, users, roles |
//!
//! Row keys are revisions, ids and fixed names: no key, value or user name stands in one. Numbers
//! in row keys are big-endian. Every row but those of `Value` is
//! `format u8 | suite u8 | storage_key_id u32 | nonce[24] | ciphertext | tag[16]`, sealed by the
//! member's storage key with `"sealkv/row/1" ‖ keyspace u8 ‖ row key` as associated data. A `Value`
//! row is sealed already and goes in as it is: its own seal names its key, and its meta row has its
//! tag.
//!
//! The store itself owns two rows, read and written by no one else:
//!
//! * `System` / [`FORMAT_KEY`]: [`FORMAT`] as u16. Read before anything else.
//! * every keyspace / `00`: the last batch, see `marker.rs`. Every other row key is greater.

use std::fmt;

use bytes::Bytes;

/// The layout this release writes and the only one it reads.
pub const FORMAT: u16 = 1;

/// Where [`FORMAT`] stands in `System`.
pub const FORMAT_KEY: &[u8] = b"format";

/// Smaller than every other row key, so that scans begin behind it.
pub(crate) const MARKER_KEY: &[u8] = &[0];

/// The number stands in the associated data of every row and never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Keyspace {
    Meta = 1,
    Value = 2,
    Lease = 3,
    KeyTable = 4,
    /// Applied log id and membership.
    Raft = 5,
    Plugin = 6,
    PluginBlob = 7,
    /// Format, counters, members, alarms.
    System = 8,
}

impl Keyspace {
    pub const COUNT: usize = 8;

    pub const ALL: [Keyspace; Self::COUNT] = [
        Keyspace::Meta,
        Keyspace::Value,
        Keyspace::Lease,
        Keyspace::KeyTable,
        Keyspace::Raft,
        Keyspace::Plugin,
        Keyspace::PluginBlob,
        Keyspace::System,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Keyspace::Meta => "meta",
            Keyspace::Value => "value",
            Keyspace::Lease => "lease",
            Keyspace::KeyTable => "key-table",
            Keyspace::Raft => "raft",
            Keyspace::Plugin => "plugin",
            Keyspace::PluginBlob => "plugin-blob",
            Keyspace::System => "system",
        }
    }

    /// The number in associated data.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The place in [`Keyspace::ALL`].
    pub(crate) const fn ordinal(self) -> usize {
        self as usize - 1
    }
}

impl fmt::Display for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A row key in a message: it holds no secret, only a place.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredKey(pub Bytes);

impl StoredKey {
    pub(crate) fn copy(key: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(key))
    }
}

impl fmt::Display for StoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_the_keyspaces_are_frozen() {
        let numbers = Keyspace::ALL.map(|keyspace| (keyspace.number(), keyspace.name()));
        let frozen = [
            (1, "meta"),
            (2, "value"),
            (3, "lease"),
            (4, "key-table"),
            (5, "raft"),
            (6, "plugin"),
            (7, "plugin-blob"),
            (8, "system"),
        ];
        assert_eq!(numbers, frozen);
        for (ordinal, keyspace) in Keyspace::ALL.into_iter().enumerate() {
            assert_eq!(keyspace.ordinal(), ordinal);
        }
    }
}
