//! The records of the log and their bytes.
//!
//! Promise: `decode` takes any bytes and returns what `encode` wrote or nothing.

use bytes::{Buf, BufMut, Bytes};

/// The term and index of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    pub term: u64,
    pub index: u64,
}

/// For whom this member voted, and whether a quorum did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogVote {
    pub term: u64,
    pub member: u64,
    pub committed: bool,
}

/// An entry: to the log its kind and payload are the caller's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub position: LogPosition,
    pub kind: u8,
    pub payload: Bytes,
}

impl LogEntry {
    /// What it takes in memory and, near enough, on disk.
    pub(super) fn weight(&self) -> usize {
        self.payload.len() + ENTRY_HEADER_BYTES
    }
}

/// Everything the log says besides its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) vote: Option<LogVote>,
    pub(super) committed: Option<LogPosition>,
    pub(super) purged: Option<LogPosition>,
    /// The last entry; the purge mark if there is none.
    pub(super) last: Option<LogPosition>,
    /// The oldest segment that is still needed.
    pub(super) first_segment: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Entry(LogEntry),
    Vote(LogVote),
    Committed(Option<LogPosition>),
    TruncateAfter(Option<LogPosition>),
    Purge {
        upto: LogPosition,
        first_segment: u64,
    },
    Roll {
        segment: u64,
    },
    Head(Head),
}

const END: u8 = 0;
const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const COMMITTED: u8 = 3;
const TRUNCATE_AFTER: u8 = 4;
const PURGE: u8 = 5;
const ROLL: u8 = 6;
const HEAD: u8 = 7;

pub(super) const ENTRY_HEADER_BYTES: usize = 1 + 8 + 8 + 1 + 4;
pub(super) const POSITION_BYTES_MAX: usize = 1 + 8 + 8;
const VOTE_BYTES: usize = 8 + 8 + 1;
pub(super) const HEAD_BYTES_MAX: usize = 1 + (1 + VOTE_BYTES) + 3 * POSITION_BYTES_MAX + 8;

impl Record {
    pub(super) fn encoded_bytes_max(&self) -> usize {
        match self {
            Self::Entry(entry) => entry.weight(),
            Self::Vote(_) => 1 + VOTE_BYTES,
            Self::Committed(_) | Self::TruncateAfter(_) => 1 + POSITION_BYTES_MAX,
            Self::Purge { .. } => 1 + 8 + 8 + 8,
            Self::Roll { .. } => 1 + 8,
            Self::Head(_) => HEAD_BYTES_MAX,
        }
    }

    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        match self {
            Self::Entry(entry) => {
                to.put_u8(ENTRY);
                put_bare_position(to, entry.position);
                to.put_u8(entry.kind);
                let length = u32::try_from(entry.payload.len())
                    .expect("the log refuses entries larger than a segment");
                to.put_u32(length);
                to.extend_from_slice(&entry.payload);
            }
            Self::Vote(vote) => {
                to.put_u8(VOTE);
                put_bare_vote(to, *vote);
            }
            Self::Committed(position) => {
                to.put_u8(COMMITTED);
                put_position(to, *position);
            }
            Self::TruncateAfter(position) => {
                to.put_u8(TRUNCATE_AFTER);
                put_position(to, *position);
            }
            Self::Purge {
                upto,
                first_segment,
            } => {
                to.put_u8(PURGE);
                put_bare_position(to, *upto);
                to.put_u64(*first_segment);
            }
            Self::Roll { segment } => {
                to.put_u8(ROLL);
                to.put_u64(*segment);
            }
            Self::Head(head) => {
                to.put_u8(HEAD);
                put_head(to, head);
            }
        }
    }

    /// All records of an opened batch, or none if one of them cannot be read.
    pub(super) fn decode_all(mut from: Bytes) -> Option<Vec<Self>> {
        let mut records = Vec::new();
        while !from.is_empty() {
            if from[0] == END {
                return from.iter().all(|byte| *byte == 0).then_some(records);
            }
            records.push(Self::decode(&mut from)?);
        }
        Some(records)
    }

    fn decode(from: &mut Bytes) -> Option<Self> {
        Some(match from.try_get_u8().ok()? {
            ENTRY => Self::Entry(decode_entry(from)?),
            VOTE => Self::Vote(get_bare_vote(from)?),
            COMMITTED => Self::Committed(get_position(from)?),
            TRUNCATE_AFTER => Self::TruncateAfter(get_position(from)?),
            PURGE => Self::Purge {
                upto: get_bare_position(from)?,
                first_segment: from.try_get_u64().ok()?,
            },
            ROLL => Self::Roll {
                segment: from.try_get_u64().ok()?,
            },
            HEAD => Self::Head(get_head(from)?),
            _ => return None,
        })
    }
}

fn decode_entry(from: &mut Bytes) -> Option<LogEntry> {
    let position = get_bare_position(from)?;
    let kind = from.try_get_u8().ok()?;
    let length = from.try_get_u32().ok()? as usize;
    (length <= from.len()).then(|| LogEntry {
        position,
        kind,
        payload: from.split_to(length),
    })
}

fn put_head(to: &mut Vec<u8>, head: &Head) {
    match head.vote {
        None => to.put_u8(0),
        Some(vote) => {
            to.put_u8(1);
            put_bare_vote(to, vote);
        }
    }
    put_position(to, head.committed);
    put_position(to, head.purged);
    put_position(to, head.last);
    to.put_u64(head.first_segment);
}

fn get_head(from: &mut Bytes) -> Option<Head> {
    let vote = match from.try_get_u8().ok()? {
        0 => None,
        1 => Some(get_bare_vote(from)?),
        _ => return None,
    };
    Some(Head {
        vote,
        committed: get_position(from)?,
        purged: get_position(from)?,
        last: get_position(from)?,
        first_segment: from.try_get_u64().ok()?,
    })
}

fn put_bare_vote(to: &mut Vec<u8>, vote: LogVote) {
    to.put_u64(vote.term);
    to.put_u64(vote.member);
    to.put_u8(u8::from(vote.committed));
}

fn get_bare_vote(from: &mut Bytes) -> Option<LogVote> {
    Some(LogVote {
        term: from.try_get_u64().ok()?,
        member: from.try_get_u64().ok()?,
        committed: match from.try_get_u8().ok()? {
            0 => false,
            1 => true,
            _ => return None,
        },
    })
}

fn put_bare_position(to: &mut Vec<u8>, position: LogPosition) {
    to.put_u64(position.term);
    to.put_u64(position.index);
}

fn get_bare_position(from: &mut Bytes) -> Option<LogPosition> {
    Some(LogPosition {
        term: from.try_get_u64().ok()?,
        index: from.try_get_u64().ok()?,
    })
}

fn put_position(to: &mut Vec<u8>, position: Option<LogPosition>) {
    match position {
        None => to.put_u8(0),
        Some(position) => {
            to.put_u8(1);
            put_bare_position(to, position);
        }
    }
}

/// The outer option: whether it could be read at all.
fn get_position(from: &mut Bytes) -> Option<Option<LogPosition>> {
    match from.try_get_u8().ok()? {
        0 => Some(None),
        1 => get_bare_position(from).map(Some),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn every_kind() -> Vec<Record> {
        let position = LogPosition { term: 3, index: 7 };
        let vote = LogVote {
            term: 4,
            member: u64::MAX,
            committed: true,
        };
        vec![
            Record::Entry(LogEntry {
                position,
                kind: 2,
                payload: Bytes::from_static(b"payload"),
            }),
            Record::Entry(LogEntry {
                position,
                kind: 0,
                payload: Bytes::new(),
            }),
            Record::Vote(vote),
            Record::Committed(None),
            Record::Committed(Some(position)),
            Record::TruncateAfter(None),
            Record::TruncateAfter(Some(position)),
            Record::Purge {
                upto: position,
                first_segment: 9,
            },
            Record::Roll { segment: 2 },
            Record::Head(Head::default()),
            Record::Head(Head {
                vote: Some(vote),
                committed: Some(position),
                purged: Some(position),
                last: Some(position),
                first_segment: 1,
            }),
        ]
    }

    #[test]
    fn every_kind_of_record_reads_back_with_the_padding_behind_it() {
        let mut bytes = Vec::new();
        for record in every_kind() {
            let before = bytes.len();
            record.encode(&mut bytes);
            assert!(bytes.len() - before <= record.encoded_bytes_max());
        }
        bytes.extend_from_slice(&[0; 100]);
        assert_eq!(Record::decode_all(bytes.into()), Some(every_kind()));
    }

    #[test]
    fn a_record_cut_short_or_padding_that_is_not_zero_is_refused() {
        for record in every_kind() {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            for end in 1..bytes.len() {
                assert_eq!(Record::decode_all(bytes[..end].to_vec().into()), None);
            }
        }
        assert_eq!(Record::decode_all(Bytes::from_static(&[0, 0, 1])), None);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            if let Some(records) = Record::decode_all(bytes.clone().into()) {
                let mut again = Vec::new();
                for record in &records {
                    record.encode(&mut again);
                }
                prop_assert!(bytes.starts_with(&again));
            }
        }
    }
}
