//! The passphrase: stretched by Argon2id (RFC 9106) into the key that wraps the slot.
//!
//! Promise: a passphrase is never cheaper to try than the floor; a record that asks for more than
//! the ceiling is refused before any memory is taken.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use super::{Provider, ProviderError, ProviderKind, SlotContext, unwrap_under, wrap_under};
use crate::aead::{NONCE_BYTES, Xaes256Gcm};
use crate::encoding::{DecodeError, Reader};
use crate::secret::{SECRET_BYTES, Secret, SecretBytes, random};

const FORMAT: u8 = 1;
const SUITE_ARGON2ID_XAES_256_GCM: u8 = 1;
pub(crate) const SALT_BYTES: usize = 16;
const PROLOGUE_BYTES: usize = 2 + SALT_BYTES + 3 * size_of::<u32>();
const PASSPHRASE_BYTES_MAX: usize = 4096;

/// What one try of a passphrase costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "Argon2id cost of {memory_kib} KiB, {passes} passes, {lanes} lanes is outside \
     19456 KiB to 4 GiB, 2 to 64 passes, 1 to 64 lanes"
)]
pub struct Argon2CostError {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Argon2Cost {
    /// 256 MiB, three passes, four lanes.
    pub const DEFAULT: Self = Self {
        memory_kib: 256 * 1024,
        passes: 3,
        lanes: 4,
    };
    /// 19 MiB, two passes, one lane: nothing cheaper is taken.
    pub const FLOOR: Self = Self {
        memory_kib: 19 * 1024,
        passes: 2,
        lanes: 1,
    };
    const CEILING: Self = Self {
        memory_kib: 4 * 1024 * 1024,
        passes: 64,
        lanes: 64,
    };

    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, Argon2CostError> {
        let (floor, ceiling) = (Self::FLOOR, Self::CEILING);
        let within = (floor.memory_kib..=ceiling.memory_kib).contains(&memory_kib)
            && (floor.passes..=ceiling.passes).contains(&passes)
            && (floor.lanes..=ceiling.lanes).contains(&lanes);
        if !within {
            return Err(Argon2CostError {
                memory_kib,
                passes,
                lanes,
            });
        }
        Ok(Self {
            memory_kib,
            passes,
            lanes,
        })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for number in [self.memory_kib, self.passes, self.lanes] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let cost = Self::new(reader.u32()?, reader.u32()?, reader.u32()?);
        let rule = "Argon2id costs lie between their floor and ceiling";
        cost.map_err(|_| DecodeError::Invalid { rule })
    }
}

/// A passphrase file that cannot be used.
#[derive(Debug, Error)]
pub enum PassphraseError {
    #[error("passphrase file {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the passphrase is empty")]
    Empty,
    #[error("the passphrase is longer than 4096 bytes")]
    TooLong,
}

pub struct PassphraseProvider {
    passphrase: SecretBytes,
    /// For slots wrapped from now on; what is wrapped already keeps its own.
    cost: Argon2Cost,
}

impl PassphraseProvider {
    /// Takes the bytes as they are.
    pub fn new(passphrase: Vec<u8>, cost: Argon2Cost) -> Result<Self, PassphraseError> {
        let passphrase = Zeroizing::new(passphrase);
        match passphrase.len() {
            0 => Err(PassphraseError::Empty),
            1..=PASSPHRASE_BYTES_MAX => Ok(Self { passphrase, cost }),
            _ => Err(PassphraseError::TooLong),
        }
    }

    /// Reads a passphrase; one newline at its end is an editor's, not part of it.
    pub fn from_file(path: &Path, cost: Argon2Cost) -> Result<Self, PassphraseError> {
        let at = |source| PassphraseError::Io {
            path: path.to_owned(),
            source,
        };
        // Room for the longest passphrase, its newline, and one byte that shows it is too long:
        // the buffer never moves and leaves no copy behind.
        let most = PASSPHRASE_BYTES_MAX + 3;
        let mut bytes = Zeroizing::new(Vec::with_capacity(most));
        File::open(path)
            .map_err(at)?
            .take(most as u64)
            .read_to_end(&mut bytes)
            .map_err(at)?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        Self::new(std::mem::take(&mut *bytes), cost)
    }

    pub(crate) fn cost(&self) -> Argon2Cost {
        self.cost
    }

    /// What the passphrase is with this salt, at this cost.
    pub(crate) fn stretched(
        &self,
        salt: &[u8; SALT_BYTES],
        cost: Argon2Cost,
    ) -> Result<Secret, ProviderError> {
        let refused = ProviderError::Argon2Memory {
            memory_kib: cost.memory_kib,
        };
        let Argon2Cost {
            memory_kib,
            passes,
            lanes,
        } = cost;
        let params =
            Params::new(memory_kib, passes, lanes, Some(SECRET_BYTES)).map_err(|_| refused)?;
        let mut stretched = [0; SECRET_BYTES];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(&self.passphrase, salt, &mut stretched)
            .map_err(|_| refused)?;
        let key = Secret::from_bytes(stretched);
        stretched.zeroize();
        Ok(key)
    }

    fn aead(&self, salt: &[u8; SALT_BYTES], cost: Argon2Cost) -> Result<Xaes256Gcm, ProviderError> {
        let key = self.stretched(salt, cost)?;
        Ok(Xaes256Gcm::new(
            &key.derive(b"sealkv/provider/passphrase/1/encrypt"),
        ))
    }

    fn wrap_with(
        &self,
        context: &SlotContext,
        slot_secret: &Secret,
        salt: &[u8; SALT_BYTES],
        nonce: &[u8; NONCE_BYTES],
    ) -> Result<Vec<u8>, ProviderError> {
        let mut prologue = vec![FORMAT, SUITE_ARGON2ID_XAES_256_GCM];
        prologue.extend_from_slice(salt);
        self.cost.write(&mut prologue);
        let aead = self.aead(salt, self.cost)?;
        let prologue = (self.kind(), &prologue[..]);
        Ok(wrap_under(&aead, prologue, context, slot_secret, nonce))
    }
}

impl Provider for PassphraseProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Passphrase
    }

    fn wrap(&self, context: &SlotContext, slot_secret: &Secret) -> Result<Vec<u8>, ProviderError> {
        self.wrap_with(context, slot_secret, &random(), &random())
    }

    fn unwrap(&self, context: &SlotContext, wrapped: &[u8]) -> Result<Secret, ProviderError> {
        let (salt, cost) =
            read_prologue(wrapped).map_err(|error| ProviderError::Malformed(self.kind(), error))?;
        let aead = self.aead(&salt, cost)?;
        unwrap_under(&aead, (self.kind(), PROLOGUE_BYTES), context, wrapped)
    }
}

fn read_prologue(wrapped: &[u8]) -> Result<([u8; SALT_BYTES], Argon2Cost), DecodeError> {
    let mut reader = Reader::new(wrapped);
    let format = reader.u8()?;
    if format != FORMAT {
        let found = u16::from(format);
        return Err(DecodeError::UnknownFormat { found });
    }
    let suite = reader.u8()?;
    if suite != SUITE_ARGON2ID_XAES_256_GCM {
        return Err(DecodeError::UnknownSuite { found: suite });
    }
    let salt = reader.array()?;
    Ok((salt, Argon2Cost::read(&mut reader)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member_key::DirectoryId;
    use crate::slot::SlotKeyPair;

    fn provider(passphrase: &[u8]) -> PassphraseProvider {
        PassphraseProvider::new(passphrase.to_vec(), Argon2Cost::FLOOR).expect("usable")
    }

    fn from_file(content: &[u8]) -> Result<PassphraseProvider, PassphraseError> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), content).expect("written");
        PassphraseProvider::from_file(file.path(), Argon2Cost::FLOOR)
    }

    fn context(slot: &SlotKeyPair) -> SlotContext {
        SlotContext {
            member_id: 1,
            directory_id: DirectoryId::from_bytes([2; 16]),
            public_key: slot.public(),
        }
    }

    #[test]
    fn only_the_passphrase_opens_what_it_wrapped() {
        let slot = SlotKeyPair::generate();
        let wrapped = provider(b"correct horse")
            .wrap(&context(&slot), slot.secret())
            .expect("wrapped");
        // The record's own cost counts, not the provider's.
        let dearer = Argon2Cost::new(20 * 1024, 3, 2).expect("within bounds");
        let same = PassphraseProvider::new(b"correct horse".to_vec(), dearer).expect("usable");
        let opened = same.unwrap(&context(&slot), &wrapped);
        assert!(opened.ok().as_ref() == Some(slot.secret()));
        assert_eq!(
            provider(b"correct horsf")
                .unwrap(&context(&slot), &wrapped)
                .err(),
            Some(ProviderError::WrongKey(ProviderKind::Passphrase))
        );
    }

    #[test]
    fn one_newline_at_the_end_is_not_part_of_the_passphrase() {
        for (content, passphrase) in [
            (&b"secret"[..], &b"secret"[..]),
            (b"secret\n", b"secret"),
            (b"secret\r\n", b"secret"),
            (b"secret\n\n", b"secret\n"),
            (b" secret ", b" secret "),
        ] {
            let provider = from_file(content).expect("usable");
            assert_eq!(&provider.passphrase[..], passphrase);
        }
    }

    #[test]
    fn empty_and_endless_passphrases_are_refused() {
        assert!(matches!(from_file(b"").err(), Some(PassphraseError::Empty)));
        assert!(matches!(
            from_file(b"\n").err(),
            Some(PassphraseError::Empty)
        ));
        assert!(from_file(&[b'x'; PASSPHRASE_BYTES_MAX]).is_ok());
        let long = from_file(&[b'x'; PASSPHRASE_BYTES_MAX + 1]).err();
        assert!(matches!(long, Some(PassphraseError::TooLong)));
        let path = Path::new("/nonexistent/passphrase");
        let missing = PassphraseProvider::from_file(path, Argon2Cost::FLOOR).err();
        assert!(matches!(missing, Some(PassphraseError::Io { .. })));
    }

    #[test]
    fn costs_outside_their_bounds_are_refused() {
        assert!(Argon2Cost::new(19 * 1024, 2, 1).is_ok());
        assert!(Argon2Cost::new(19 * 1024 - 1, 2, 1).is_err());
        assert!(Argon2Cost::new(19 * 1024, 1, 1).is_err());
        assert!(Argon2Cost::new(19 * 1024, 2, 0).is_err());
        assert!(Argon2Cost::new(u32::MAX, 2, 1).is_err());
    }

    #[test]
    fn a_record_that_asks_for_all_memory_is_refused_before_it_gets_any() {
        let mut record = vec![FORMAT, SUITE_ARGON2ID_XAES_256_GCM];
        record.extend_from_slice(&[0; SALT_BYTES]);
        record.extend_from_slice(&[0xff; 12]);
        record.extend_from_slice(&[0; 72]);
        let slot = SlotKeyPair::generate();
        assert!(matches!(
            provider(b"x").unwrap(&context(&slot), &record).err(),
            Some(ProviderError::Malformed(
                ProviderKind::Passphrase,
                DecodeError::Invalid { .. }
            ))
        ));
    }
}
