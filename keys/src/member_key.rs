//! `member.key`: what one member needs to open its own data directory.
//!
//! Promise: the file opens as a whole or not at all; every changed bit is noticed; a wrong
//! passphrase or key file is told apart from damage.
//! Not known here: the key table; when keys are made or rotated.
//!
//! HPKE does not say who wrapped a storage key, so the whole file is authenticated under the
//! slot's secret: nobody can add a storage key of his own for the member to write under.

mod decode;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::aead::{Aead, NONCE_BYTES};
use crate::encoding::DecodeError;
use crate::private_file;
use crate::provider::{Provider, ProviderError, ProviderKind, SlotContext};
use crate::secret::{Secret, random};
use crate::slot::{InvalidSlotPublicKey, SlotKeyPair, SlotPublicKey, WrappedToSlot};
use crate::storage_key::{StorageKey, StorageKeys};
use crate::table::KeyringId;
use decode::decode;

const MAGIC: &[u8; 17] = b"sealkv-member-key";
const FORMAT: u16 = 1;
const CHECKSUM_BYTES: usize = 32;
const FIRST_STORAGE_KEY_ID: u32 = 1;
/// A file of this size has thousands of storage keys; more is not one of ours.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The random identity of a data directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryId([u8; 16]);

impl DirectoryId {
    pub fn random() -> Self {
        Self(random())
    }

    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirectoryId({self})")
    }
}

/// `member.key` does not open. Nothing is ever made in its place.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum MemberKeyError {
    /// Not as it was written: its checksum does not fit.
    #[error("is damaged")]
    Damaged,
    #[error("is no member.key of this release: it {0}")]
    Malformed(DecodeError),
    #[error("belongs to the key provider {file}, but the server was started with {given}")]
    OtherProvider {
        file: ProviderKind,
        given: ProviderKind,
    },
    #[error("does not open: {0}")]
    Provider(ProviderError),
    /// The slot opens, but not everything here was written by its holder.
    #[error("was changed by someone who does not hold its slot")]
    NotAuthentic,
    #[error("storage key {storage_key_id} does not open")]
    StorageKey { storage_key_id: u32 },
}

#[derive(Debug, Error)]
pub enum MemberKeyFileError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} {source}", path.display())]
    Unusable {
        path: PathBuf,
        source: MemberKeyError,
    },
}

/// What `member.key` says to whoever reads it, before anything is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberKeyOutline {
    pub member_id: u64,
    pub directory_id: DirectoryId,
    /// Known once the member has applied its keyring.
    pub keyring_id: Option<KeyringId>,
    pub slot_public_key: SlotPublicKey,
    pub provider: ProviderKind,
}

impl MemberKeyOutline {
    /// Checks the checksum and the layout, but cannot tell who wrote it.
    pub fn decode(bytes: &[u8]) -> Result<Self, MemberKeyError> {
        Ok(decode(bytes)?.outline)
    }

    fn slot_context(&self) -> SlotContext {
        SlotContext {
            member_id: self.member_id,
            directory_id: self.directory_id,
            public_key: self.slot_public_key,
        }
    }
}

/// `member.key`, opened.
pub struct MemberKey {
    outline: MemberKeyOutline,
    slot: Arc<SlotKeyPair>,
    wrapped_slot: Vec<u8>,
    storage_keys: StorageKeys,
    /// Other slots that open the storage keys, by their public halves.
    other_slots: Vec<SlotPublicKey>,
}

impl MemberKey {
    /// A new slot, wrapped by `provider`, and a first storage key. For a directory without data.
    pub fn create(
        member_id: u64,
        directory_id: DirectoryId,
        provider: &dyn Provider,
    ) -> Result<Self, ProviderError> {
        let slot = SlotKeyPair::generate();
        let outline = MemberKeyOutline {
            member_id,
            directory_id,
            keyring_id: None,
            slot_public_key: slot.public(),
            provider: provider.kind(),
        };
        let wrapped_slot = provider.wrap(&outline.slot_context(), slot.secret())?;
        let first = StorageKey::from_secret(Secret::random());
        Ok(Self {
            outline,
            slot: Arc::new(slot),
            wrapped_slot,
            storage_keys: StorageKeys::new(BTreeMap::from([(FIRST_STORAGE_KEY_ID, first)]))
                .expect("one key was given"),
            other_slots: Vec::new(),
        })
    }

    pub fn outline(&self) -> &MemberKeyOutline {
        &self.outline
    }

    pub fn slot(&self) -> &Arc<SlotKeyPair> {
        &self.slot
    }

    /// As the provider wrapped it.
    pub(crate) fn wrapped_slot(&self) -> &[u8] {
        &self.wrapped_slot
    }

    pub fn storage_keys(&self) -> &StorageKeys {
        &self.storage_keys
    }

    pub fn set_keyring_id(&mut self, keyring_id: KeyringId) {
        self.outline.keyring_id = Some(keyring_id);
    }

    /// Starts a storage key that new rows are sealed under once the file is written. Gives its id,
    /// or nothing when every id has been used.
    #[must_use = "rows may be sealed under the new key only after the file is written"]
    pub fn add_storage_key(&mut self) -> Option<u32> {
        let id = self.storage_keys.newest_id().checked_add(1)?;
        let mut keys = self.storage_keys.secrets();
        keys.insert(id, StorageKey::from_secret(Secret::random()));
        self.storage_keys = StorageKeys::new(keys)?;
        Some(id)
    }

    /// Other slots that shall open the storage keys, a break-glass slot for example.
    pub fn set_other_slots(&mut self, slots: &[SlotPublicKey]) {
        self.other_slots = slots.to_vec();
        self.other_slots.retain(|it| *it != self.slot.public());
        self.other_slots.sort_unstable();
        self.other_slots.dedup();
    }

    /// Opens the file with the provider the member was started with.
    pub fn open(bytes: &[u8], provider: &dyn Provider) -> Result<Self, MemberKeyError> {
        let file = decode(bytes)?;
        let outline = file.outline;
        if outline.provider != provider.kind() {
            return Err(MemberKeyError::OtherProvider {
                file: outline.provider,
                given: provider.kind(),
            });
        }
        let secret = provider
            .unwrap(&outline.slot_context(), file.wrapped_slot)
            .map_err(MemberKeyError::Provider)?;
        let slot = SlotKeyPair::from_secret(secret);
        if slot.public() != outline.slot_public_key {
            return Err(MemberKeyError::NotAuthentic);
        }
        slot.member_key_aead()
            .open(file.nonce, &associated_data(file.body), file.tag)
            .map_err(|_| MemberKeyError::NotAuthentic)?;
        let storage_keys = file.open_storage_keys(&slot, 0)?;
        Ok(Self {
            outline,
            slot: Arc::new(slot),
            wrapped_slot: file.wrapped_slot.to_vec(),
            storage_keys,
            other_slots: file.other_slots,
        })
    }

    /// Opens the storage keys with another slot that the file was wrapped for. Such a slot cannot
    /// tell who wrote the file: use it to read a directory, never to write one.
    pub fn recover_storage_keys(
        bytes: &[u8],
        slot: &SlotKeyPair,
    ) -> Result<StorageKeys, MemberKeyError> {
        let file = decode(bytes)?;
        let position = file
            .other_slots
            .binary_search(&slot.public())
            .map_err(|_| MemberKeyError::NotAuthentic)?;
        file.open_storage_keys(slot, position + 1)
    }

    /// The bytes of the file, wrapped anew. Refuses another slot's unusable public key.
    pub fn encode(&self) -> Result<Vec<u8>, InvalidSlotPublicKey> {
        let mut bytes = self.body()?;
        let nonce: [u8; NONCE_BYTES] = random();
        let associated_data = associated_data(&bytes);
        bytes.extend_from_slice(&nonce);
        self.slot
            .member_key_aead()
            .seal(&nonce, &associated_data, &[], &mut bytes);
        let checksum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&checksum);
        Ok(bytes)
    }

    fn body(&self) -> Result<Vec<u8>, InvalidSlotPublicKey> {
        let outline = &self.outline;
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&FORMAT.to_be_bytes());
        out.extend_from_slice(&outline.member_id.to_be_bytes());
        out.extend_from_slice(outline.directory_id.as_bytes());
        out.push(u8::from(outline.keyring_id.is_some()));
        let keyring_id = outline.keyring_id.map_or([0; 16], |id| *id.as_bytes());
        out.extend_from_slice(&keyring_id);
        out.extend_from_slice(outline.slot_public_key.as_bytes());
        out.push(outline.provider.code());
        put_count16(&mut out, self.wrapped_slot.len());
        out.extend_from_slice(&self.wrapped_slot);
        put_count16(&mut out, self.other_slots.len());
        for other in &self.other_slots {
            out.extend_from_slice(other.as_bytes());
        }
        put_count16(&mut out, self.storage_keys.iter().count());
        for (id, key) in self.storage_keys.iter() {
            self.put_storage_key(&mut out, id, key)?;
        }
        Ok(out)
    }

    fn put_storage_key(
        &self,
        out: &mut Vec<u8>,
        id: u32,
        key: &StorageKey,
    ) -> Result<(), InvalidSlotPublicKey> {
        let commitment = key.commitment();
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&commitment.0);
        let info = storage_key_info(&self.outline.directory_id, id);
        for slot in [self.slot.public()].iter().chain(&self.other_slots) {
            let wrapped = WrappedToSlot::wrap(slot, &info, &commitment, key.secret())?;
            out.extend_from_slice(wrapped.as_bytes());
        }
        Ok(())
    }
}

/// The file in the file system.
impl MemberKey {
    /// Reads and opens. A missing file is an `Io` error of kind `NotFound`.
    pub fn load(path: &Path, provider: &dyn Provider) -> Result<Self, MemberKeyFileError> {
        let bytes = read(path)?;
        Self::open(&bytes, provider).map_err(|source| unusable(path, source))
    }

    /// What the file says before it is opened.
    pub fn load_outline(path: &Path) -> Result<MemberKeyOutline, MemberKeyFileError> {
        MemberKeyOutline::decode(&read(path)?).map_err(|source| unusable(path, source))
    }

    /// Writes the file, durably: a crash leaves the one before or this one.
    pub fn save(&self, path: &Path) -> Result<(), MemberKeyFileError> {
        let at = |source| MemberKeyFileError::Io {
            path: path.to_owned(),
            source,
        };
        let bytes = self.encode().map_err(|error| at(io::Error::other(error)))?;
        private_file::write(path, &bytes).map_err(at)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, MemberKeyFileError> {
    let at = |source| MemberKeyFileError::Io {
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).map_err(at)?.len() > FILE_BYTES_MAX {
        return Err(unusable(path, MemberKeyError::Damaged));
    }
    fs::read(path).map_err(at)
}

fn unusable(path: &Path, source: MemberKeyError) -> MemberKeyFileError {
    MemberKeyFileError::Unusable {
        path: path.to_owned(),
        source,
    }
}

fn associated_data(body: &[u8]) -> Vec<u8> {
    let mut bytes = b"sealkv/member-key/1\0".to_vec();
    bytes.extend_from_slice(body);
    bytes
}

fn storage_key_info(directory_id: &DirectoryId, id: u32) -> Vec<u8> {
    let mut bytes = b"sealkv/storage-key/1\0".to_vec();
    bytes.extend_from_slice(directory_id.as_bytes());
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes
}

fn put_count16(out: &mut Vec<u8>, count: usize) {
    let count = u16::try_from(count).expect("a member has few storage keys and slots");
    out.extend_from_slice(&count.to_be_bytes());
}

#[cfg(test)]
mod tests;
