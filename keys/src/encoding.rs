//! Reading and writing the crate's own bytes.
//!
//! Promise: a reader never reads past its end, never allocates by a length it has not seen the
//! bytes of, and complains about bytes left over.

use thiserror::Error;

/// Bytes that are not what they should be. Says what, and never shows them.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    #[error("ends too early")]
    Truncated,
    #[error("has {count} bytes too many")]
    TrailingBytes { count: usize },
    #[error("has format {found}, which this release does not know")]
    UnknownFormat { found: u16 },
    #[error("has cipher suite {found}, which this release does not know")]
    UnknownSuite { found: u8 },
    #[error("has {found} as its {field}, which this release does not know")]
    UnknownValue { field: &'static str, found: u64 },
    #[error("breaks a rule of its format: {rule}")]
    Invalid { rule: &'static str },
}

pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub(crate) fn bool(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(DecodeError::UnknownValue {
                field,
                found: u64::from(found),
            }),
        }
    }

    /// `u32 length ‖ bytes`.
    pub(crate) fn bytes32(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u32()?;
        self.take(usize::try_from(length).map_err(|_| DecodeError::Truncated)?)
    }

    /// `u16 length ‖ bytes`.
    pub(crate) fn bytes16(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(DecodeError::TrailingBytes { count }),
        }
    }
}

pub(crate) fn put_bytes32(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("keys and prefixes are far below 4 GiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A count as four bytes; a table with four billion rows does not fit in memory.
pub(crate) fn put_count32(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("ids are u32, so there are no more rows than that");
    out.extend_from_slice(&count.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_longer_than_the_bytes_is_truncation() {
        let mut reader = Reader::new(&[0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(reader.bytes32(), Err(DecodeError::Truncated));
    }

    #[test]
    fn bytes_left_over_are_counted() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(
            reader.finish(),
            Err(DecodeError::TrailingBytes { count: 2 })
        );
    }
}
