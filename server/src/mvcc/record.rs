//! The meta row: everything about one revision of a key but its value.
//!
//! Promise: a row written by one release is read by the next; bytes that are none are an error.
//! Not known here: sealing; the key under which it stands is its revision.
//!
//! ```text
//! format u8 = 1 | kind u8 (1 put, 2 delete) | cause u8 | hops u8 | origin u32
//!   | created i64 | version i64 | lease i64 | value bytes u32 | superseded bytes u64
//!   | value tag[16] | origin tag[16] | u32 length ‖ key | u16 length ‖ extension
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

const FORMAT: u8 = 1;
const FIXED_BYTES: usize = 8 + 24 + 4 + 8 + 32;
/// What a record takes on disk beside its key and its sealed value, about.
pub const RECORD_OVERHEAD_BYTES: u64 = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Put,
    Delete,
}

/// Why a change happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A client's request.
    Client,
    /// Its lease expired or was revoked.
    Lease,
    /// Effects of the plugin with this id; `PluginTable::by_id` knows its name.
    Plugin { id: u32 },
    /// No change: contents sent to a plugin that starts from a snapshot. Never stored.
    Snapshot,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub kind: Kind,
    pub key: Bytes,
    /// 0 of a delete, as the two below.
    pub created: i64,
    pub version: i64,
    pub lease: i64,
    pub cause: Cause,
    /// How many plugins' effects led here one from another.
    pub hops: u8,
    /// Length of the sealed value.
    pub value_bytes: u32,
    /// Bytes of the records that earlier revisions replaced or deleted, ever: what a compaction
    /// just before this revision leaves out. Said by every record as it was written.
    pub superseded_bytes: u64,
    /// The tag of the value as it is stored: binds the value's row to this one.
    pub value_tag: [u8; 16],
    /// The tag of its first sealing, which a rewrap leaves as it is.
    pub origin_tag: [u8; 16],
}

/// Bytes that are no meta row of this release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a meta row of this release")]
pub struct BadRecord;

impl Record {
    /// What it counts towards the space quota.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        stored_bytes(&self.key, self.value_bytes)
    }

    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(FIXED_BYTES + 6 + self.key.len());
        let (cause, origin) = match self.cause {
            Cause::Client => (1, 0),
            Cause::Lease => (2, 0),
            Cause::Plugin { id } => (3, id),
            Cause::Snapshot => (4, 0),
        };
        out.put_u8(FORMAT);
        out.put_u8(if self.kind == Kind::Put { 1 } else { 2 });
        out.put_u8(cause);
        out.put_u8(self.hops);
        out.put_u32(origin);
        out.put_i64(self.created);
        out.put_i64(self.version);
        out.put_i64(self.lease);
        out.put_u32(self.value_bytes);
        out.put_u64(self.superseded_bytes);
        out.put_slice(&self.value_tag);
        out.put_slice(&self.origin_tag);
        out.put_u32(u32::try_from(self.key.len()).expect("a request is far smaller than 4 GiB"));
        out.put_slice(&self.key);
        out.put_u16(0);
        out.freeze()
    }

    /// The key shares the memory of `bytes`.
    pub fn decode(mut bytes: Bytes) -> Result<Self, BadRecord> {
        if bytes.len() < FIXED_BYTES + 4 || bytes.get_u8() != FORMAT {
            return Err(BadRecord);
        }
        let kind = match bytes.get_u8() {
            1 => Kind::Put,
            2 => Kind::Delete,
            _ => return Err(BadRecord),
        };
        let cause = bytes.get_u8();
        let hops = bytes.get_u8();
        let origin = bytes.get_u32();
        let cause = match cause {
            1 => Cause::Client,
            2 => Cause::Lease,
            3 => Cause::Plugin { id: origin },
            _ => return Err(BadRecord),
        };
        let (created, version, lease) = (bytes.get_i64(), bytes.get_i64(), bytes.get_i64());
        let value_bytes = bytes.get_u32();
        let superseded_bytes = bytes.get_u64();
        let (mut value_tag, mut origin_tag) = ([0; 16], [0; 16]);
        bytes.copy_to_slice(&mut value_tag);
        bytes.copy_to_slice(&mut origin_tag);
        let key = take(&mut bytes, 4)?;
        take(&mut bytes, 2)?;
        if !bytes.is_empty() {
            return Err(BadRecord);
        }
        Ok(Record {
            kind,
            key,
            created,
            version,
            lease,
            cause,
            hops,
            value_bytes,
            superseded_bytes,
            value_tag,
            origin_tag,
        })
    }
}

/// What a revision of this key with a sealed value of this length counts towards the quota.
#[must_use]
pub fn stored_bytes(key: &[u8], value_bytes: u32) -> u64 {
    RECORD_OVERHEAD_BYTES + key.len() as u64 + u64::from(value_bytes)
}

/// A length of `width` bytes, and as many bytes.
fn take(bytes: &mut Bytes, width: usize) -> Result<Bytes, BadRecord> {
    if bytes.len() < width {
        return Err(BadRecord);
    }
    let length = usize::try_from(bytes.get_uint(width)).map_err(|_| BadRecord)?;
    if bytes.len() < length {
        return Err(BadRecord);
    }
    Ok(bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> Record {
        Record {
            kind: Kind::Put,
            key: Bytes::from_static(b"/services/a"),
            created: 3,
            version: 4,
            lease: -5,
            cause: Cause::Plugin { id: 6 },
            hops: 7,
            value_bytes: 8,
            superseded_bytes: 9,
            value_tag: [1; 16],
            origin_tag: [2; 16],
        }
    }

    #[test]
    fn a_meta_row_is_read_as_it_was_written() {
        assert_eq!(Record::decode(record().encode()), Ok(record()));
    }

    #[test]
    fn a_cut_or_lengthened_meta_row_is_refused() {
        let bytes = record().encode();
        for end in 0..bytes.len() {
            assert_eq!(
                Record::decode(bytes.slice(..end)),
                Err(BadRecord),
                "cut at {end}"
            );
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Record::decode(longer.into()), Err(BadRecord));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::decode(bytes.into());
        }
    }
}
