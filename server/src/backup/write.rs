//! From a pinned view to the bytes of a backup.
//!
//! Two passes over the view: the first measures, so that the header can say what is in it and a
//! download can show how much is left; the second seals. Neither holds more than a section.

use std::collections::BTreeMap;

use bytes::Bytes;
use keys::{BACKUP_SECTION_OVERHEAD_BYTES, BackupKey, SealedHeader};
use sha2::{Digest, Sha256};

use super::header::{DataKey, Header};
use super::{LENGTH_BYTES, SHA256_BYTES, padding, place, sha256};
use crate::apply::snapshot::{Export, SnapshotChunk, export, rows_of};
use crate::mvcc::read_view::ReadView;
use crate::storage::{Keyspace, StorageError};

/// What the first pass found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    pub records: u64,
    pub sections: u32,
    pub body_bytes: u64,
    pub data_keys: Vec<DataKey>,
}

/// Reads the whole view: not for an async thread.
pub fn measure(view: &ReadView) -> Result<Measured, StorageError> {
    let mut measured = Measured::default();
    let mut values: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    for chunk in export(view) {
        let chunk = chunk?;
        measured.sections += 1;
        measured.body_bytes += section_bytes(&chunk);
        for (keyspace, _, row) in rows_of(&chunk) {
            measured.records += u64::from(keyspace == Keyspace::Meta);
            // A value whose header cannot be read travels as it is.
            if keyspace == Keyspace::Value
                && let Ok(header) = SealedHeader::parse(&row)
            {
                let key = (header.prefix_key_id, header.dek_version);
                *values.entry(key).or_default() += 1;
            }
        }
    }
    let data_key = |((prefix_key_id, dek_version), values)| DataKey {
        prefix_key_id,
        dek_version,
        values,
    };
    measured.data_keys = values.into_iter().map(data_key).collect();
    Ok(measured)
}

fn section_bytes(chunk: &SnapshotChunk) -> u64 {
    (LENGTH_BYTES + chunk.len() + BACKUP_SECTION_OVERHEAD_BYTES) as u64
}

/// The bytes of a backup, piece by piece: the head, each section, and the end.
pub struct BackupWriter {
    key: BackupKey,
    chunks: Export,
    head: Option<Vec<u8>>,
    head_sha256: [u8; SHA256_BYTES],
    sections: u32,
    number: u32,
    digest: Sha256,
    written: u64,
    padding: u64,
    done: bool,
}

impl BackupWriter {
    /// `header` with what was measured of the same view.
    #[must_use]
    pub fn new(view: &ReadView, header: &Header, key: BackupKey) -> Self {
        let head = header.encode();
        let length = head.len() as u64 + header.body_bytes;
        Self {
            key,
            chunks: export(view),
            head_sha256: sha256(&head),
            head: Some(head),
            sections: header.sections,
            number: 0,
            digest: Sha256::new(),
            written: 0,
            padding: padding(length),
            done: false,
        }
    }

    /// Of everything before the closing SHA-256.
    #[must_use]
    pub fn total_bytes(&self, header: &Header) -> u64 {
        let head = header.encode().len() as u64;
        head + header.body_bytes + padding(head + header.body_bytes)
    }

    fn piece(&mut self) -> Result<Bytes, StorageError> {
        if let Some(head) = self.head.take() {
            return Ok(self.note(head));
        }
        if self.number < self.sections
            && let Some(chunk) = self.chunks.next()
        {
            let section = self.section(&chunk?);
            return Ok(self.note(section));
        }
        // The view is pinned: the second pass finds what the first did.
        self.done = true;
        let zeros = vec![0; usize::try_from(self.padding).unwrap_or_default()];
        Ok(self.note(zeros))
    }

    fn section(&mut self, chunk: &SnapshotChunk) -> Vec<u8> {
        let last = self.number + 1 == self.sections;
        let place = place(&self.head_sha256, self.number, last);
        self.number += 1;
        let sealed = self.key.seal(&place, chunk);
        let length = u32::try_from(sealed.len()).expect("a chunk is about a megabyte");
        [&length.to_be_bytes()[..], &sealed].concat()
    }

    fn note(&mut self, piece: Vec<u8>) -> Bytes {
        self.digest.update(&piece);
        self.written += piece.len() as u64;
        piece.into()
    }

    /// What closes the file, once every piece is out.
    #[must_use]
    pub fn sha256(self) -> Bytes {
        Bytes::copy_from_slice(&self.digest.finalize())
    }
}

impl Iterator for BackupWriter {
    type Item = Result<Bytes, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let piece = self.piece();
        self.done |= piece.is_err();
        Some(piece)
    }
}
