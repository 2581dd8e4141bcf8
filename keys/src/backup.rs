//! The key of one data backup, and what a backup says about how to open it.
//!
//! Promise: a backup opens with ROOT alone, and ROOT with the provider of the member that made it
//! or out of a key bundle; a section opens only in the place it was sealed for.
//! Not known here: what a backup holds.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::aead::{Aead, NONCE_BYTES, NotAuthentic, TAG_BYTES, Xaes256Gcm};
use crate::bundle::KeyBundle;
use crate::encoding::{DecodeError, Reader};
use crate::keyring::Keyring;
use crate::member_key::{DirectoryId, MemberKey};
use crate::provider::{Provider, ProviderError, ProviderKind, SlotContext};
use crate::root::Root;
use crate::root_key::RootKey;
use crate::secret::{Commitment, Secret, random};
use crate::slot::{SlotKeyPair, SlotPublicKey, WrappedToSlot};
use crate::table::{KeyTable, KeyringId};
use crate::wrapped::{KeyKind, WrappedKey};

const FORMAT: u8 = 1;

/// How much longer a section is than its plaintext.
pub const BACKUP_SECTION_OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// Seals the sections of one backup.
pub struct BackupKey {
    aead: Xaes256Gcm,
}

impl BackupKey {
    pub(crate) fn from_secret(secret: &Secret) -> Self {
        let aead = Xaes256Gcm::new(&secret.derive(KeyKind::Backup.encryption_label()));
        Self { aead }
    }

    /// `place` says which section of which backup it is.
    pub fn seal(&self, place: &[u8], plaintext: &[u8]) -> Vec<u8> {
        self.seal_with_nonce(place, plaintext, &random())
    }

    pub(crate) fn seal_with_nonce(
        &self,
        place: &[u8],
        plaintext: &[u8],
        nonce: &[u8; NONCE_BYTES],
    ) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(BACKUP_SECTION_OVERHEAD_BYTES + plaintext.len());
        sealed.extend_from_slice(nonce);
        self.aead
            .seal(nonce, &associated_data(place), plaintext, &mut sealed);
        sealed
    }

    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, NotAuthentic> {
        let (nonce, sealed) = sealed.split_first_chunk().ok_or(NotAuthentic)?;
        self.aead.open(nonce, &associated_data(place), sealed)
    }
}

fn associated_data(place: &[u8]) -> Vec<u8> {
    [b"sealkv/backup/1\0", place].concat()
}

/// The way from a provider to the key of one backup. Holds nothing that the provider does not
/// guard.
#[derive(Clone, PartialEq, Eq)]
pub struct BackupEnvelope {
    keyring_id: KeyringId,
    root_version: u32,
    root_commitment: Commitment,
    slot_id: u32,
    wrapped_root: WrappedToSlot,
    holder: SlotContext,
    provider: ProviderKind,
    wrapped_slot: Vec<u8>,
    wrapped_key: WrappedKey,
}

/// A backup that does not open. Says what is needed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OpenBackupError {
    #[error(
        "it was made by a member whose key provider is {needed} (member {member_id:x}): give the \
         {} of that member", needed.holds()
    )]
    OtherProvider {
        needed: ProviderKind,
        member_id: u64,
    },
    #[error("it needs the root key of member {member_id:x}: {source}")]
    Provider {
        member_id: u64,
        source: ProviderError,
    },
    #[error("its envelope was changed, or was put together from others")]
    NotAuthentic,
    #[error(
        "it needs root key version {needed_version} of keyring {needed}, and the key bundle holds \
         version {found_version} of keyring {found}"
    )]
    OtherRoot {
        needed: KeyringId,
        needed_version: u32,
        found: KeyringId,
        found_version: u32,
    },
}

impl MemberKey {
    /// A key for a new backup, and the way to it through this member's slot. Nothing while the
    /// member's own slot does not open ROOT.
    pub fn seal_backup(
        &self,
        keyring: &Keyring,
        table: &KeyTable,
    ) -> Option<(BackupKey, BackupEnvelope)> {
        let outline = self.outline();
        let slot = table.slot_of_public_key(&outline.slot_public_key)?;
        let root = keyring.root();
        let fits = table.keyring_id() == Some(root.keyring_id())
            && table.root_version() == Some(root.version());
        let secret = Secret::random();
        fits.then(|| {
            let envelope = BackupEnvelope {
                keyring_id: root.keyring_id(),
                root_version: root.version(),
                root_commitment: root.commitment(),
                slot_id: slot.id,
                wrapped_root: slot.wrapped_root.clone(),
                holder: SlotContext {
                    member_id: outline.member_id,
                    directory_id: outline.directory_id,
                    public_key: outline.slot_public_key,
                },
                provider: outline.provider,
                wrapped_slot: self.wrapped_slot().to_vec(),
                wrapped_key: root.wrap_backup(&secret),
            };
            (BackupKey::from_secret(&secret), envelope)
        })
    }
}

impl BackupEnvelope {
    pub fn keyring_id(&self) -> KeyringId {
        self.keyring_id
    }

    pub fn root_version(&self) -> u32 {
        self.root_version
    }

    /// The member whose provider opens it.
    pub fn member_id(&self) -> u64 {
        self.holder.member_id
    }

    pub fn provider(&self) -> ProviderKind {
        self.provider
    }

    /// ROOT, by the provider of the member that made the backup.
    pub fn open_root(&self, provider: &dyn Provider) -> Result<RootKey, OpenBackupError> {
        let member_id = self.member_id();
        if provider.kind() != self.provider {
            let needed = self.provider;
            return Err(OpenBackupError::OtherProvider { needed, member_id });
        }
        let secret = provider
            .unwrap(&self.holder, &self.wrapped_slot)
            .map_err(|source| OpenBackupError::Provider { member_id, source })?;
        let slot = SlotKeyPair::from_secret(secret);
        if slot.public() != self.holder.public_key {
            return Err(OpenBackupError::NotAuthentic);
        }
        let place = (self.keyring_id, self.root_version);
        let commitment = &self.root_commitment;
        let root = Root::unwrap(&self.wrapped_root, &slot, self.slot_id, place, commitment)
            .map_err(|NotAuthentic| OpenBackupError::NotAuthentic)?;
        Ok(RootKey::of(Arc::new(root)))
    }

    /// Whether a key bundle holds the ROOT that this needs; known without its passphrase.
    pub fn check_bundle(&self, bundle: &KeyBundle) -> Result<(), OpenBackupError> {
        self.check_root(bundle.keyring_id(), bundle.root_version())
    }

    fn check_root(&self, found: KeyringId, found_version: u32) -> Result<(), OpenBackupError> {
        if (found, found_version) == (self.keyring_id, self.root_version) {
            return Ok(());
        }
        Err(OpenBackupError::OtherRoot {
            needed: self.keyring_id,
            needed_version: self.root_version,
            found,
            found_version,
        })
    }

    /// The key of the backup's sections.
    pub fn open(&self, root: &RootKey) -> Result<BackupKey, OpenBackupError> {
        self.check_root(root.keyring_id(), root.version())?;
        let secret = root.root().unwrap_backup(&self.wrapped_key);
        let secret = secret.map_err(|_| OpenBackupError::NotAuthentic)?;
        Ok(BackupKey::from_secret(&secret))
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend_from_slice(self.keyring_id.as_bytes());
        out.extend_from_slice(&self.root_version.to_be_bytes());
        out.extend_from_slice(&self.root_commitment.0);
        out.extend_from_slice(&self.slot_id.to_be_bytes());
        out.extend_from_slice(self.wrapped_root.as_bytes());
        out.extend_from_slice(&self.holder.member_id.to_be_bytes());
        out.extend_from_slice(self.holder.directory_id.as_bytes());
        out.extend_from_slice(self.holder.public_key.as_bytes());
        out.push(self.provider.code());
        let length = u16::try_from(self.wrapped_slot.len());
        let length = length.expect("member.key has room for no more either");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&self.wrapped_slot);
        out.extend_from_slice(self.wrapped_key.as_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let format = reader.u8()?;
        if format != FORMAT {
            let found = u16::from(format);
            return Err(DecodeError::UnknownFormat { found });
        }
        let envelope = Self {
            keyring_id: KeyringId::from_bytes(reader.array()?),
            root_version: reader.u32()?,
            root_commitment: Commitment(reader.array()?),
            slot_id: reader.u32()?,
            wrapped_root: WrappedToSlot::read(&mut reader)?,
            holder: SlotContext {
                member_id: reader.u64()?,
                directory_id: DirectoryId::from_bytes(reader.array()?),
                public_key: SlotPublicKey::from_bytes(reader.array()?),
            },
            provider: ProviderKind::read(&mut reader)?,
            wrapped_slot: reader.bytes16()?.to_vec(),
            wrapped_key: WrappedKey::read(&mut reader, KeyKind::Backup)?,
        };
        reader.finish()?;
        Ok(envelope)
    }
}

impl fmt::Debug for BackupEnvelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackupEnvelope(member {:x})", self.member_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::SlotHolder;
    use crate::provider::file::FileProvider;
    use crate::provider::passphrase::{Argon2Cost, PassphraseProvider};
    use crate::table::change::KeyChange;

    fn provider(byte: u8) -> FileProvider {
        FileProvider::from_secret(&Secret::from_bytes([byte; 32]))
    }

    /// A member with the keyring that it gave birth to.
    fn member() -> (MemberKey, KeyTable, Keyring) {
        let member = MemberKey::create(7, DirectoryId::random(), &provider(1)).expect("a key file");
        let holder = SlotHolder {
            member_id: 7,
            provider: ProviderKind::File,
            public_key: member.slot().public(),
        };
        let birth = Keyring::birth(&[holder]).expect("one slot");
        let mut table = KeyTable::new();
        table.apply(&KeyChange::Init(birth), 0).expect("the first");
        let keyring = Keyring::open_table(&table, member.slot().clone()).expect("its own slot");
        (member, table, keyring)
    }

    #[test]
    fn a_backup_opens_with_the_provider_of_the_member_that_made_it_and_no_other() {
        let (member, table, keyring) = member();
        let (key, envelope) = member.seal_backup(&keyring, &table).expect("enrolled");
        let envelope = BackupEnvelope::decode(&envelope.encode()).expect("as encoded");
        let sealed = key.seal(b"first", b"rows");
        let root = envelope.open_root(&provider(1)).expect("the same key file");
        assert!(root.fits(&table));
        let opened = envelope.open(&root).expect("its root");
        assert_eq!(opened.open(b"first", &sealed).expect("its place"), b"rows");
        assert!(opened.open(b"second", &sealed).is_err());
        let refused = envelope.open_root(&provider(2)).err();
        assert!(matches!(
            refused,
            Some(OpenBackupError::Provider { member_id: 7, .. })
        ));
    }

    #[test]
    fn every_flipped_bit_of_an_envelope_is_refused() {
        let (member, table, keyring) = member();
        let (key, envelope) = member.seal_backup(&keyring, &table).expect("enrolled");
        let sealed = key.seal(b"", b"rows");
        let bytes = envelope.encode();
        // One bit of each byte: every bit would be HPKE a thousand times over.
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            let opened = BackupEnvelope::decode(&changed)
                .ok()
                .and_then(|envelope| {
                    let root = envelope.open_root(&provider(1)).ok()?;
                    envelope.open(&root).ok()
                })
                .is_some_and(|opened| opened.open(b"", &sealed).is_ok());
            assert!(!opened, "byte {at}");
        }
        assert!(BackupEnvelope::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(BackupEnvelope::decode(&[&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn a_key_bundle_opens_the_backups_of_its_keyring_and_no_other() {
        let (maker, table, keyring) = member();
        let (key, envelope) = maker.seal_backup(&keyring, &table).expect("enrolled");
        let sealed = key.seal(b"first", b"rows");
        let passphrase = PassphraseProvider::new(b"x".to_vec(), Argon2Cost::FLOOR).expect("usable");
        let root = envelope.open_root(&provider(1)).expect("the key file");
        let bundle = KeyBundle::seal(&root, &passphrase).expect("sealed");
        assert_eq!(envelope.check_bundle(&bundle), Ok(()));
        let root = bundle.open(&passphrase).expect("the passphrase");
        let opened = envelope.open(&root).expect("its root");
        assert_eq!(opened.open(b"first", &sealed).expect("its place"), b"rows");

        let (maker, table, keyring) = member();
        let (_, other) = maker.seal_backup(&keyring, &table).expect("enrolled");
        assert!(matches!(
            other.check_bundle(&bundle),
            Err(OpenBackupError::OtherRoot { .. })
        ));
        assert!(other.open(&root).is_err());
    }

    #[test]
    fn a_member_that_is_not_enrolled_seals_no_backup() {
        let (_, table, keyring) = member();
        let other = MemberKey::create(8, DirectoryId::random(), &provider(1)).expect("a key file");
        assert!(other.seal_backup(&keyring, &table).is_none());
    }

    /// The bytes of a section do not change from release to release.
    #[test]
    fn a_section_is_the_documented_bytes() {
        let key = BackupKey::from_secret(&Secret::from_bytes([1; 32]));
        let sealed = key.seal_with_nonce(b"place", b"rows", &[2; NONCE_BYTES]);
        let derived = Secret::from_bytes([1; 32]).derive(b"sealkv/backup/1/encrypt");
        let mut expected = vec![2; NONCE_BYTES];
        let aead = Xaes256Gcm::new(&derived);
        aead.seal(
            &[2; NONCE_BYTES],
            b"sealkv/backup/1\0place",
            b"rows",
            &mut expected,
        );
        assert_eq!(sealed, expected);
        assert_eq!(sealed.len(), 4 + BACKUP_SECTION_OVERHEAD_BYTES);
    }
}
