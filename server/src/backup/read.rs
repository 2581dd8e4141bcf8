//! From the bytes of a backup back to the chunks of a state.

use std::io::{self, Read};

use bytes::Bytes;
use keys::BackupKey;
use sha2::{Digest, Sha256};

use super::header::{BadHeader, Header};
use super::{LENGTH_BYTES, PREAMBLE_BYTES, SHA256_BYTES, padding, place};

/// A chunk is about a megabyte, or one row, which a request bounds; more is not one of ours.
const SECTION_BYTES_MAX: u32 = 1 << 31;
const READ_BYTES: usize = 64 << 10;

/// Why a backup is not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Header(#[from] BadHeader),
    #[error("ends too early: it was cut off, or is still being written")]
    Truncated,
    /// It is not the one that was made.
    #[error("its hash is not the one it ends with: it was changed or damaged on its way")]
    Hash,
    #[error("has no hash at its end; --skip-hash-check takes it without")]
    NoHash,
    #[error("has bytes after its end")]
    TrailingBytes,
    #[error("section {number} is damaged, out of its place, or of another backup")]
    Section { number: u32 },
    #[error("its header does not fit what is in it")]
    OtherHeader,
}

/// What is known of a backup whose bytes have all been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Of the whole file.
    pub bytes: u64,
    /// None for a file that ends without it.
    pub sha256: Option<[u8; SHA256_BYTES]>,
}

/// Reads a backup from its beginning to its end, one section at a time.
pub struct BackupReader<R> {
    from: R,
    header: Header,
    head_sha256: [u8; SHA256_BYTES],
    digest: Sha256,
    pub(super) read: u64,
    number: u32,
    body_bytes: u64,
}

impl<R: Read> BackupReader<R> {
    /// Reads the header.
    pub fn new(mut from: R) -> Result<Self, BackupError> {
        let mut preamble = [0; PREAMBLE_BYTES];
        // A file that is shorter than this is no backup at all.
        match from.read_exact(&mut preamble) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(BadHeader::NotABackup.into());
            }
            other => other?,
        }
        let length = Header::length(&preamble)?;
        let bytes = take(&mut from, length)?;
        let mut digest = Sha256::new();
        digest.update(preamble);
        digest.update(&bytes);
        Ok(Self {
            from,
            head_sha256: digest.clone().finalize().into(),
            digest,
            read: PREAMBLE_BYTES as u64 + bytes.len() as u64,
            header: Header::decode(bytes)?,
            number: 0,
            body_bytes: 0,
        })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next section as it is; none after the last.
    fn sealed(&mut self) -> Result<Option<Bytes>, BackupError> {
        if self.number == self.header.sections {
            return Ok(None);
        }
        let length = take(&mut self.from, LENGTH_BYTES as u32)?;
        let number = self.number;
        let damaged = || BackupError::Section { number };
        let bytes: [u8; LENGTH_BYTES] = length[..].try_into().map_err(|_| damaged())?;
        let section_bytes = u32::from_be_bytes(bytes);
        self.body_bytes += LENGTH_BYTES as u64 + u64::from(section_bytes);
        if section_bytes > SECTION_BYTES_MAX || self.body_bytes > self.header.body_bytes {
            return Err(damaged());
        }
        let section = take(&mut self.from, section_bytes)?;
        for bytes in [&length, &section] {
            self.digest.update(bytes);
            self.read += bytes.len() as u64;
        }
        self.number += 1;
        Ok(Some(section))
    }

    /// The next chunk of the state; none after the last. What it is worth is known at
    /// [`BackupReader::finish`].
    pub fn chunk(&mut self, key: &BackupKey) -> Result<Option<Bytes>, BackupError> {
        let number = self.number;
        let Some(section) = self.sealed()? else {
            return Ok(None);
        };
        let last = self.number == self.header.sections;
        let opened = key.open(&place(&self.head_sha256, number, last), &section);
        let opened = opened.map_err(|_| BackupError::Section { number })?;
        Ok(Some(opened.into()))
    }

    /// Reads what is left, and checks that the file ends as it should and with its hash.
    pub fn finish(mut self, skip_hash_check: bool) -> Result<Summary, BackupError> {
        while self.sealed()?.is_some() {}
        if self.body_bytes != self.header.body_bytes {
            return Err(BackupError::OtherHeader);
        }
        // Below 512.
        let zeros = take(&mut self.from, padding(self.read) as u32)?;
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(BackupError::OtherHeader);
        }
        self.digest.update(&zeros);
        self.read += zeros.len() as u64;
        let mut trailer = Vec::new();
        let limit = SHA256_BYTES as u64 + 1;
        self.from.by_ref().take(limit).read_to_end(&mut trailer)?;
        let bytes = self.read + trailer.len() as u64;
        let computed: [u8; SHA256_BYTES] = self.digest.finalize().into();
        let sha256 = match trailer.len() {
            0 if skip_hash_check => None,
            0 => return Err(BackupError::NoHash),
            SHA256_BYTES if skip_hash_check || trailer == computed => Some(computed),
            SHA256_BYTES => return Err(BackupError::Hash),
            length if length < SHA256_BYTES => return Err(BackupError::Truncated),
            _ => return Err(BackupError::TrailingBytes),
        };
        Ok(Summary { bytes, sha256 })
    }
}

/// Exactly so many bytes, allocated as they come: a length that lies takes no memory.
fn take(from: &mut impl Read, length: u32) -> Result<Bytes, BackupError> {
    let mut bytes = Vec::with_capacity(READ_BYTES.min(length as usize));
    from.take(u64::from(length)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != u64::from(length) {
        return Err(BackupError::Truncated);
    }
    Ok(bytes.into())
}
