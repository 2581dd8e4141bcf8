//! One batch: header, sealed records, whole blocks.
//!
//! Promise: a batch opens only in the segment, at the number and behind the batch it was sealed
//! for, and every byte of its blocks is authenticated.

use bytes::Bytes;

use super::error::{Damage, LogError};
use super::record::Record;

/// What a batch starts on and fills whole multiples of: the smallest unit a disk writes at once.
pub(super) const BLOCK_BYTES: usize = 512;
pub(super) const HEADER_BYTES: usize = 52;
/// The length of the authentication tag at the end of every sealed block.
pub const TAG_BYTES: usize = 16;

const MAGIC: &[u8; 8] = b"sealkvRL";
const FORMAT: u8 = 1;

/// The authenticated cipher under which batches lie. The key is the caller's matter.
pub trait BlockSealer: Send + Sync + 'static {
    /// How much longer a sealed block is than its plaintext; the same for all.
    fn overhead_bytes(&self) -> usize;
    /// Ends with a tag of [`TAG_BYTES`]. None: it cannot seal now (no randomness).
    fn seal_block(&self, associated_data: &[u8], plaintext: &[u8]) -> Option<Vec<u8>>;
    /// None: the bytes, or their place, are not what was sealed.
    fn open_block(&self, associated_data: &[u8], sealed: &[u8]) -> Option<Vec<u8>>;
}

pub(super) type Tag = [u8; TAG_BYTES];

/// Where a batch stands in the order of all batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) batch: u64,
    /// The tag of the batch before; zeros before the first.
    pub(super) chain: Tag,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) place: Place,
    pub(super) sealed_bytes: usize,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let length = u32::try_from(self.sealed_bytes).expect("a batch is smaller than a segment");
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8] = FORMAT;
        bytes[12..16].copy_from_slice(&length.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.place.segment.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.place.batch.to_be_bytes());
        bytes[32..48].copy_from_slice(&self.place.chain);
        let sum = crc32c::crc32c(&bytes[..48]);
        bytes[48..].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// None if there is no header at the start of `bytes`.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        let readable = bytes.starts_with(MAGIC)
            && bytes[8..12] == [FORMAT, 0, 0, 0]
            && bytes[48..] == crc32c::crc32c(&bytes[..48]).to_be_bytes();
        readable.then(|| Self {
            place: Place {
                segment: u64_at(bytes, 16),
                batch: u64_at(bytes, 24),
                chain: array_at(bytes, 32),
            },
            sealed_bytes: u32::from_be_bytes(array_at(bytes, 12)) as usize,
        })
    }

    pub(super) fn batch_bytes(&self) -> usize {
        HEADER_BYTES + self.sealed_bytes
    }
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_be_bytes(array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("the slice has the length of the array")
}

/// What a batch with this many bytes of records takes on disk.
pub(super) fn batch_bytes(records_bytes: usize, sealer: &dyn BlockSealer) -> usize {
    (HEADER_BYTES + sealer.overhead_bytes() + records_bytes).next_multiple_of(BLOCK_BYTES)
}

/// A batch ready to be written.
pub(super) struct SealedBatch {
    pub(super) bytes: Vec<u8>,
    pub(super) tag: Tag,
}

/// Seals records for their place.
pub(super) fn seal(
    place: Place,
    mut records: Vec<u8>,
    sealer: &dyn BlockSealer,
) -> Result<SealedBatch, LogError> {
    let sealed_bytes = batch_bytes(records.len(), sealer) - HEADER_BYTES;
    records.resize(sealed_bytes - sealer.overhead_bytes(), 0);
    let header = Header {
        place,
        sealed_bytes,
    }
    .encode();
    let sealed = sealer
        .seal_block(&header, &records)
        .ok_or(LogError::NotSealed)?;
    // The header, already authenticated, says this length: a batch that breaks it would be lost.
    assert_eq!(sealed.len(), sealed_bytes, "the sealer keeps its overhead");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + sealed_bytes);
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&sealed);
    Ok(SealedBatch {
        tag: tag_of(&sealed),
        bytes,
    })
}

fn tag_of(sealed: &[u8]) -> Tag {
    *sealed
        .last_chunk()
        .expect("the header's length was checked to hold a tag")
}

/// A batch as it was found.
pub(super) struct OpenedBatch {
    pub(super) header: Header,
    pub(super) tag: Tag,
    pub(super) records: Vec<Record>,
}

/// Opens the batch at the start of `bytes`, which reach to the end of the segment. `follows`: the
/// number and chain it must have, if the batch before is known.
pub(super) fn open(
    bytes: &[u8],
    segment: u64,
    follows: Option<(u64, Tag)>,
    sealer: &dyn BlockSealer,
) -> Result<OpenedBatch, Damage> {
    let header = Header::parse(bytes).ok_or(Damage::HeaderUnreadable)?;
    check_place(&header, segment, follows)?;
    if header.sealed_bytes < sealer.overhead_bytes().max(TAG_BYTES)
        || header.batch_bytes() > bytes.len()
    {
        return Err(Damage::PastEnd);
    }
    let sealed = &bytes[HEADER_BYTES..header.batch_bytes()];
    let plaintext = sealer
        .open_block(&bytes[..HEADER_BYTES], sealed)
        .ok_or(Damage::NotAuthentic)?;
    let records = Record::decode_all(Bytes::from(plaintext)).ok_or(Damage::RecordUnreadable)?;
    Ok(OpenedBatch {
        header,
        tag: tag_of(sealed),
        records,
    })
}

fn check_place(header: &Header, segment: u64, follows: Option<(u64, Tag)>) -> Result<(), Damage> {
    let found = header.place;
    if found.segment != segment {
        return Err(Damage::ForeignSegment {
            found: found.segment,
        });
    }
    match follows {
        Some((batch, _)) if found.batch != batch => Err(Damage::NumberGap { found: found.batch }),
        Some((_, chain)) if found.chain != chain => Err(Damage::ChainBroken),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{LogEntry, LogPosition};
    use super::super::test_sealer::TestSealer;
    use super::*;

    fn sealed(place: Place, payload_bytes: usize) -> SealedBatch {
        let mut records = Vec::new();
        Record::Entry(LogEntry {
            position: LogPosition { term: 1, index: 1 },
            kind: 1,
            payload: vec![7; payload_bytes].into(),
        })
        .encode(&mut records);
        seal(place, records, &TestSealer::new(1)).expect("the test sealer always seals")
    }

    const PLACE: Place = Place {
        segment: 1,
        batch: 5,
        chain: [9; TAG_BYTES],
    };

    #[test]
    fn a_batch_fills_whole_blocks_whatever_its_length() {
        for payload_bytes in 0..1200 {
            let batch = sealed(PLACE, payload_bytes);
            assert_eq!(batch.bytes.len() % BLOCK_BYTES, 0);
            let opened = open(&batch.bytes, 1, Some((5, PLACE.chain)), &TestSealer::new(1))
                .unwrap_or_else(|damage| panic!("{payload_bytes}: {damage}"));
            assert_eq!(opened.tag, batch.tag);
            assert_eq!(opened.records.len(), 1);
        }
    }

    #[test]
    fn no_flipped_bit_of_a_batch_goes_unnoticed() {
        let batch = sealed(PLACE, 500);
        for at in 0..batch.bytes.len() {
            let mut bytes = batch.bytes.clone();
            bytes[at] ^= 0x10;
            assert!(open(&bytes, 1, Some((5, PLACE.chain)), &TestSealer::new(1)).is_err());
        }
    }

    #[test]
    fn a_batch_opens_at_its_own_place_only() {
        let bytes = sealed(PLACE, 10).bytes;
        let sealer = TestSealer::new(1);
        let damage = |segment, follows| open(&bytes, segment, follows, &sealer).err();
        assert_eq!(damage(1, None), None);
        assert_eq!(damage(2, None), Some(Damage::ForeignSegment { found: 1 }));
        assert_eq!(
            damage(1, Some((4, PLACE.chain))),
            Some(Damage::NumberGap { found: 5 })
        );
        assert_eq!(damage(1, Some((5, [0; 16]))), Some(Damage::ChainBroken));
        let other_key = open(&bytes, 1, None, &TestSealer::new(2)).err();
        assert_eq!(other_key, Some(Damage::NotAuthentic));
    }

    #[test]
    fn a_length_past_the_end_is_refused_without_reading_there() {
        let bytes = sealed(PLACE, 600).bytes;
        let cut = open(&bytes[..BLOCK_BYTES], 1, None, &TestSealer::new(1));
        assert_eq!(cut.err(), Some(Damage::PastEnd));
    }
}
