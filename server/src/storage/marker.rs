//! Which batch each keyspace saw last.
//!
//! A keyspace has tables of its own, but one journal serves all. Damage in the middle of that
//! journal makes the engine drop every batch behind it, while a keyspace that was written to a
//! table meanwhile still has them: opened like this, rows of different moments would be served as
//! one state. So each batch writes, in every keyspace it touches, its number and the last batch of
//! every keyspace; after a crash the greatest marker tells what the others must have.
//!
//! Row: batch number, then for each keyspace by ordinal the batch number less that of the last
//! batch that touched it (the batch number itself if none did); all as protobuf varints.

use prost::encoding::{decode_varint, encode_varint};

use super::error::StorageError;
use super::layout::Keyspace;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marker {
    /// From 1.
    batch: u64,
    /// By ordinal; 0 for a keyspace without rows.
    last: [u64; Keyspace::COUNT],
}

impl Marker {
    /// The marker of the next batch.
    pub(crate) fn next(mut self, touched: impl Iterator<Item = Keyspace>) -> Self {
        self.batch += 1;
        touched.for_each(|keyspace| self.last[keyspace.ordinal()] = self.batch);
        self
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(24);
        encode_varint(self.batch, &mut row);
        let ages = self.last.iter().map(|last| self.batch - last);
        ages.for_each(|age| encode_varint(age, &mut row));
        row
    }

    pub(crate) fn decode(mut row: &[u8]) -> Option<Self> {
        let batch = decode_varint(&mut row).ok()?;
        let mut last = [0; Keyspace::COUNT];
        for last in &mut last {
            *last = batch.checked_sub(decode_varint(&mut row).ok()?)?;
        }
        row.is_empty().then_some(Self { batch, last })
    }

    /// The newest of the markers by ordinal, if every keyspace has what it says.
    pub(crate) fn newest(markers: [Option<Self>; Keyspace::COUNT]) -> Result<Self, StorageError> {
        let newest = markers.iter().flatten().max_by_key(|marker| marker.batch);
        let newest = newest.copied().unwrap_or_default();
        for keyspace in Keyspace::ALL {
            let found = markers[keyspace.ordinal()].map_or(0, |marker| marker.batch);
            let missing = newest.last[keyspace.ordinal()];
            if found != missing {
                return Err(StorageError::Torn {
                    keyspace,
                    missing,
                    found,
                });
            }
        }
        Ok(newest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_keyspace_that_missed_a_batch_is_named() {
        let first = Marker::default().next([Keyspace::System].into_iter());
        let second = first.next([Keyspace::Meta, Keyspace::Raft].into_iter());
        let third = second.next([Keyspace::Raft].into_iter());
        let mut markers = [None; Keyspace::COUNT];
        markers[Keyspace::System.ordinal()] = Some(first);
        markers[Keyspace::Meta.ordinal()] = Some(second);
        markers[Keyspace::Raft.ordinal()] = Some(third);
        assert_eq!(Marker::newest(markers).unwrap(), third);
        markers[Keyspace::Meta.ordinal()] = None;
        let torn = Marker::newest(markers);
        let Err(StorageError::Torn {
            keyspace,
            missing,
            found,
        }) = torn
        else {
            panic!("{torn:?}")
        };
        assert_eq!((keyspace, missing, found), (Keyspace::Meta, 2, 0));
    }

    #[test]
    fn a_lost_tail_of_all_keyspaces_is_not_torn() {
        let first = Marker::default().next(Keyspace::ALL.into_iter());
        assert_eq!(Marker::newest([Some(first); 8]).unwrap(), first);
        assert_eq!(Marker::newest([None; 8]).unwrap(), Marker::default());
    }

    proptest! {
        #[test]
        fn markers_read_back(touched in prop::collection::vec(0..Keyspace::COUNT, 0..40)) {
            let touch = |marker: Marker, place: &usize| marker.next([Keyspace::ALL[*place]].into_iter());
            let marker = touched.iter().fold(Marker::default(), touch);
            prop_assert_eq!(Marker::decode(&marker.encode()), Some(marker));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(marker) = Marker::decode(&bytes) {
                prop_assert_eq!(Marker::decode(&marker.encode()), Some(marker));
            }
        }
    }
}
