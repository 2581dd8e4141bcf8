//! The bytes of a sealed value, read without any key.
//!
//! Not known here: keys; whether the value opens.

use crate::aead::{NONCE_BYTES, TAG_BYTES};
use crate::encoding::DecodeError;

const FORMAT: u8 = 1;
const SUITE_XAES_256_GCM: u8 = 1;
pub(crate) const HEADER_BYTES: usize = 12;

/// How much longer a sealed value is than its plaintext.
pub const SEALED_VALUE_OVERHEAD_BYTES: usize = HEADER_BYTES + NONCE_BYTES + TAG_BYTES;

/// Which key a value says it is sealed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SealedHeader {
    pub prefix_key_id: u32,
    pub dek_version: u32,
}

impl SealedHeader {
    /// Refuses what is too short to be a sealed value, and formats, suites and flags this release
    /// does not know.
    pub fn parse(sealed: &[u8]) -> Result<Self, DecodeError> {
        let (header, _, _) = split(sealed)?;
        let [format, suite, flags @ .., i0, i1, i2, i3, v0, v1, v2, v3] = *header;
        if format != FORMAT {
            let found = u16::from(format);
            return Err(DecodeError::UnknownFormat { found });
        }
        if suite != SUITE_XAES_256_GCM {
            return Err(DecodeError::UnknownSuite { found: suite });
        }
        let flags = u16::from_be_bytes(flags);
        if flags != 0 {
            return Err(DecodeError::UnknownValue {
                field: "flags",
                found: u64::from(flags),
            });
        }
        Ok(Self {
            prefix_key_id: u32::from_be_bytes([i0, i1, i2, i3]),
            dek_version: u32::from_be_bytes([v0, v1, v2, v3]),
        })
    }

    pub(crate) fn encode(self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..2].copy_from_slice(&[FORMAT, SUITE_XAES_256_GCM]);
        header[4..8].copy_from_slice(&self.prefix_key_id.to_be_bytes());
        header[8..].copy_from_slice(&self.dek_version.to_be_bytes());
        header
    }
}

/// The tag that closes a sealed value: its identity in a meta row.
pub fn tag(sealed: &[u8]) -> Result<[u8; TAG_BYTES], DecodeError> {
    split(sealed)?;
    sealed.last_chunk().copied().ok_or(DecodeError::Truncated)
}

/// How long the plaintext is: what request limits count.
pub fn plaintext_len(sealed: &[u8]) -> Result<usize, DecodeError> {
    sealed
        .len()
        .checked_sub(SEALED_VALUE_OVERHEAD_BYTES)
        .ok_or(DecodeError::Truncated)
}

type Parts<'a> = (&'a [u8; HEADER_BYTES], &'a [u8; NONCE_BYTES], &'a [u8]);

/// Header, nonce, and ciphertext with its tag, of something long enough to have all three.
pub(crate) fn split(sealed: &[u8]) -> Result<Parts<'_>, DecodeError> {
    plaintext_len(sealed)?;
    let (header, rest) = sealed.split_first_chunk().ok_or(DecodeError::Truncated)?;
    let (nonce, rest) = rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
    Ok((header, nonce, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(header: [u8; HEADER_BYTES]) -> Vec<u8> {
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(&[0; NONCE_BYTES + 3 + TAG_BYTES]);
        bytes
    }

    const HEADER: SealedHeader = SealedHeader {
        prefix_key_id: 0x0102_0304,
        dek_version: 0x0506_0708,
    };

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let bytes = sealed(HEADER.encode());
        assert_eq!(bytes[..12], [1, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(SealedHeader::parse(&bytes), Ok(HEADER));
        assert_eq!(plaintext_len(&bytes), Ok(3));
    }

    #[test]
    fn what_is_too_short_for_header_nonce_and_tag_is_refused() {
        let bytes = sealed(HEADER.encode());
        for end in 0..SEALED_VALUE_OVERHEAD_BYTES {
            let cut = &bytes[..end];
            assert_eq!(SealedHeader::parse(cut), Err(DecodeError::Truncated));
            assert_eq!(tag(cut), Err(DecodeError::Truncated));
            assert_eq!(plaintext_len(cut), Err(DecodeError::Truncated));
        }
    }

    #[test]
    fn unknown_formats_suites_and_flags_are_refused() {
        for (index, error) in [
            (0, DecodeError::UnknownFormat { found: 2 }),
            (1, DecodeError::UnknownSuite { found: 2 }),
            (
                2,
                DecodeError::UnknownValue {
                    field: "flags",
                    found: 0x200,
                },
            ),
            (
                3,
                DecodeError::UnknownValue {
                    field: "flags",
                    found: 2,
                },
            ),
        ] {
            let mut header = HEADER.encode();
            header[index] = 2;
            assert_eq!(SealedHeader::parse(&sealed(header)), Err(error));
        }
    }
}
