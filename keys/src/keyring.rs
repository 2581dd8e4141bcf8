//! The keyring: the secrets of the key table, opened by one member's slot.
//!
//! Promise: a value is sealed under the current data key of its longest prefix and opens only
//! under the key its header names. What is minted here is used only after it was applied to a
//! table and opened from it again.
//! Not known here: when changes are proposed, who may ask.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use thiserror::Error;

use crate::dek::Dek;
use crate::encoding::DecodeError;
use crate::kek::Kek;
use crate::provider::ProviderKind;
use crate::root::Root;
use crate::root_key::RootKey;
use crate::sealed::SealedHeader;
use crate::secret::Secret;
use crate::slot::{InvalidSlotPublicKey, SlotKeyPair, SlotPublicKey};
use crate::table::change::{AcknowledgeRoot, AddPrefix, EnrolSlot, KeyringInit, NewSlot, Rotate};
use crate::table::{FIRST_ID, FIRST_VERSION, KeyTable, KeyringId, PrefixKey};
use crate::wrapped::KeyKind;

/// ROOT does not open. Single prefixes that do not open are listed by [`Keyring::unopened`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OpenKeyringError {
    #[error("the cluster has no keyring yet")]
    NotInitialised,
    #[error("this member's slot is not in the key table")]
    NoSlot,
    /// Damage, or someone wrapped another key to this slot.
    #[error("root key version {root_version} does not open with slot {slot_id}")]
    Root { slot_id: u32, root_version: u32 },
    /// A copy of a root key from before a rotation, or of another keyring.
    #[error("the root key at hand is not version {root_version} of this keyring")]
    OtherRoot { root_version: u32 },
}

/// A value cannot be sealed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SealError {
    #[error("the cluster has no keyring yet")]
    NotInitialised,
    /// The keyring is older than the table, or this key does not open.
    #[error("data key version {dek_version} of prefix key {prefix_key_id} is not in memory")]
    KeyAbsent {
        prefix_key_id: u32,
        dek_version: u32,
    },
}

/// A value cannot be opened. Says which key and never why.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OpenError {
    #[error("sealed value {0}")]
    Malformed(DecodeError),
    #[error("data key version {dek_version} of prefix key {prefix_key_id} is not in memory")]
    KeyAbsent {
        prefix_key_id: u32,
        dek_version: u32,
    },
    /// Damaged or moved.
    #[error(
        "a value under data key version {dek_version} of prefix key {prefix_key_id} does not open"
    )]
    NotAuthentic {
        prefix_key_id: u32,
        dek_version: u32,
    },
}

/// A change cannot be made.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum MintError {
    #[error("the cluster has no keyring yet")]
    NotInitialised,
    /// Refresh the keyring from this table first.
    #[error("the keyring in memory is not the one of this key table")]
    OtherKeyring,
    #[error("a keyring needs a slot to open it")]
    NoSlots,
    #[error("the public key of member {member_id:x} {source}")]
    PublicKey {
        member_id: u64,
        source: InvalidSlotPublicKey,
    },
    #[error("this prefix has key {prefix_key_id} already")]
    PrefixTaken { prefix_key_id: u32 },
    #[error("this prefix has no key of its own")]
    UnknownPrefix,
    #[error("prefix key {prefix_key_id} is not in memory")]
    KeyAbsent { prefix_key_id: u32 },
    #[error("every id of this kind has been used")]
    IdsExhausted,
}

/// Who holds the private half of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotHolder {
    /// 0 for a slot that no member holds.
    pub member_id: u64,
    pub provider: ProviderKind,
    pub public_key: SlotPublicKey,
}

/// A key of the table that this member's ROOT does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnopenedKey {
    pub kind: KeyKind,
    pub prefix_key_id: u32,
    /// 0 for a KEK.
    pub dek_version: u32,
}

/// A clone shares the opened keys.
#[derive(Clone)]
pub struct Keyring {
    opened: Arc<Opened>,
}

struct Opened {
    keyring_id: KeyringId,
    /// What opened ROOT; none for a copy of ROOT.
    slot: Option<(u32, Arc<SlotKeyPair>)>,
    root: Arc<Root>,
    keks: BTreeMap<u32, Arc<Kek>>,
    deks: HashMap<SealedHeader, Arc<Dek>>,
    unopened: Vec<UnopenedKey>,
}

/// Opening.
impl Keyring {
    pub fn open_table(table: &KeyTable, slot: Arc<SlotKeyPair>) -> Result<Self, OpenKeyringError> {
        let (slot_id, root) = open_root(table, &slot)?;
        let by = Some((slot_id, slot));
        Ok(Self::with_root(table, by, Arc::new(root), None))
    }

    /// For a restored member, until a slot of its own is in the table.
    pub fn open_with_root(table: &KeyTable, root: &RootKey) -> Result<Self, OpenKeyringError> {
        if !table.is_initialised() {
            return Err(OpenKeyringError::NotInitialised);
        }
        if !root.fits(table) {
            let root_version = table.root_version().unwrap_or_default();
            return Err(OpenKeyringError::OtherRoot { root_version });
        }
        Ok(Self::with_root(table, None, Arc::clone(root.root()), None))
    }

    /// The keyring of a newer table: opens what is new, drops what is gone, shares the rest.
    pub fn refresh(&self, table: &KeyTable) -> Result<Self, OpenKeyringError> {
        let before = &*self.opened;
        let same_root = table.keyring_id() == Some(before.keyring_id)
            && table.root_version() == Some(before.root.version())
            && table.root_commitment() == Some(before.root.commitment());
        let root = Arc::clone(&before.root);
        let Some((_, slot)) = &before.slot else {
            return if same_root {
                Ok(Self::with_root(table, None, root, Some(before)))
            } else {
                Self::open_with_root(table, &RootKey::of(root))
            };
        };
        let slot = Arc::clone(slot);
        if !same_root {
            return Self::open_table(table, slot);
        }
        let row = table.slot_of_public_key(&slot.public());
        let by = (row.ok_or(OpenKeyringError::NoSlot)?.id, slot);
        Ok(Self::with_root(table, Some(by), root, Some(before)))
    }

    fn with_root(
        table: &KeyTable,
        slot: Option<(u32, Arc<SlotKeyPair>)>,
        root: Arc<Root>,
        before: Option<&Opened>,
    ) -> Self {
        let mut opened = Opened {
            keyring_id: root.keyring_id(),
            slot,
            root,
            keks: BTreeMap::new(),
            deks: HashMap::new(),
            unopened: Vec::new(),
        };
        for prefix_key in table.prefix_keys() {
            opened.add(prefix_key, before);
        }
        Self {
            opened: Arc::new(opened),
        }
    }

    pub fn keyring_id(&self) -> KeyringId {
        self.opened.keyring_id
    }

    pub fn root_version(&self) -> u32 {
        self.opened.root.version()
    }

    /// Whether a slot of the table opened ROOT, and not a copy of it.
    pub fn is_by_slot(&self) -> bool {
        self.opened.slot.is_some()
    }

    pub(crate) fn root(&self) -> &Root {
        &self.opened.root
    }

    /// Keys of the table that do not open: their values cannot be read or written here.
    pub fn unopened(&self) -> &[UnopenedKey] {
        &self.opened.unopened
    }

    /// What this member may say in the log, having opened ROOT by its slot.
    pub fn acknowledgement(&self) -> Option<AcknowledgeRoot> {
        let (slot_id, _) = self.opened.slot.as_ref()?;
        Some(AcknowledgeRoot {
            slot_id: *slot_id,
            root_version: self.root_version(),
        })
    }
}

fn open_root(table: &KeyTable, slot: &SlotKeyPair) -> Result<(u32, Root), OpenKeyringError> {
    let (Some(keyring_id), Some(root_version), Some(commitment)) = (
        table.keyring_id(),
        table.root_version(),
        table.root_commitment(),
    ) else {
        return Err(OpenKeyringError::NotInitialised);
    };
    let row = table
        .slot_of_public_key(&slot.public())
        .ok_or(OpenKeyringError::NoSlot)?;
    let place = (keyring_id, root_version);
    let root = Root::unwrap(&row.wrapped_root, slot, row.id, place, &commitment).map_err(|_| {
        OpenKeyringError::Root {
            slot_id: row.id,
            root_version,
        }
    })?;
    Ok((row.id, root))
}

impl Opened {
    /// Ids and versions are never used twice, so what was open under one before is still it.
    fn add(&mut self, prefix_key: &PrefixKey, before: Option<&Opened>) {
        let id = prefix_key.id;
        let kek = match before.and_then(|it| it.keks.get(&id)) {
            Some(kek) => Arc::clone(kek),
            None => match self.root.unwrap_kek(id, &prefix_key.wrapped_kek) {
                Ok(kek) => Arc::new(kek),
                Err(error) => return self.unopened.push(error.into()),
            },
        };
        for version in prefix_key.versions() {
            let header = SealedHeader {
                prefix_key_id: id,
                dek_version: version.version,
            };
            match before.and_then(|it| it.deks.get(&header)) {
                Some(dek) => {
                    self.deks.insert(header, Arc::clone(dek));
                }
                None => match kek.unwrap_dek(version.version, &version.wrapped) {
                    Ok(dek) => {
                        self.deks.insert(header, Arc::new(dek));
                    }
                    Err(error) => self.unopened.push(error.into()),
                },
            }
        }
        self.keks.insert(id, kek);
    }
}

/// Values.
impl Keyring {
    /// Seals under the current key of the longest prefix of `key`.
    pub fn seal(&self, table: &KeyTable, key: &[u8], value: &[u8]) -> Result<Vec<u8>, SealError> {
        let prefix_key = table.prefix_for(key).ok_or(SealError::NotInitialised)?;
        let current = prefix_key.current().ok_or(SealError::NotInitialised)?;
        let header = SealedHeader {
            prefix_key_id: prefix_key.id,
            dek_version: current.version,
        };
        let dek = self.opened.deks.get(&header);
        let dek = dek.filter(|_| table.keyring_id() == Some(self.opened.keyring_id));
        let dek = dek.ok_or(SealError::KeyAbsent {
            prefix_key_id: header.prefix_key_id,
            dek_version: header.dek_version,
        })?;
        Ok(dek.seal(key, value))
    }

    /// Opens under the key that the value's header names, whatever the table says of it.
    pub fn open(&self, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let header = SealedHeader::parse(sealed).map_err(OpenError::Malformed)?;
        let SealedHeader {
            prefix_key_id,
            dek_version,
        } = header;
        let dek = self.opened.deks.get(&header).ok_or(OpenError::KeyAbsent {
            prefix_key_id,
            dek_version,
        })?;
        dek.open(key, sealed).map_err(|_| OpenError::NotAuthentic {
            prefix_key_id,
            dek_version,
        })
    }
}

/// Minting, for the leader. Nothing minted is in use until its entry is applied.
impl Keyring {
    /// A new keyring for a cluster that has none; its first slots are `holders`.
    pub fn birth(holders: &[SlotHolder]) -> Result<KeyringInit, MintError> {
        if holders.is_empty() {
            return Err(MintError::NoSlots);
        }
        let keyring_id = KeyringId::random();
        let root = Root::from_secret(keyring_id, FIRST_VERSION, Secret::random());
        let kek = Kek::from_secret(keyring_id, FIRST_ID, Secret::random());
        let slots = (FIRST_ID..)
            .zip(holders)
            .map(|(slot_id, holder)| new_slot(&root, slot_id, holder))
            .collect::<Result<_, _>>()?;
        Ok(KeyringInit {
            keyring_id,
            root_commitment: root.commitment(),
            wrapped_kek: root.wrap_kek(&kek),
            wrapped_dek: kek.mint_dek(FIRST_VERSION),
            slots,
        })
    }

    /// Wraps ROOT for one more holder.
    pub fn mint_slot(&self, table: &KeyTable, holder: &SlotHolder) -> Result<EnrolSlot, MintError> {
        self.check_same(table)?;
        let slot_id = given(table.next_slot_id())?;
        Ok(EnrolSlot {
            slot_id,
            root_version: self.root_version(),
            slot: new_slot(&self.opened.root, slot_id, holder)?,
        })
    }

    /// A key of its own for a prefix that has none.
    pub fn mint_prefix(&self, table: &KeyTable, prefix: &[u8]) -> Result<AddPrefix, MintError> {
        self.check_same(table)?;
        if let Some(taken) = table.prefix_key_of(prefix) {
            return Err(MintError::PrefixTaken {
                prefix_key_id: taken.id,
            });
        }
        let prefix_key_id = given(table.next_prefix_key_id())?;
        let kek = Kek::from_secret(self.keyring_id(), prefix_key_id, Secret::random());
        Ok(AddPrefix {
            root_version: self.root_version(),
            prefix_key_id,
            prefix: prefix.to_vec(),
            wrapped_kek: self.opened.root.wrap_kek(&kek),
            wrapped_dek: kek.mint_dek(FIRST_VERSION),
        })
    }

    /// A new data key version for exactly this prefix.
    pub fn mint_rotation(&self, table: &KeyTable, prefix: &[u8]) -> Result<Rotate, MintError> {
        self.check_same(table)?;
        let prefix_key = table.prefix_key_of(prefix);
        let prefix_key = prefix_key.ok_or(MintError::UnknownPrefix)?;
        let prefix_key_id = prefix_key.id;
        let kek = self.opened.keks.get(&prefix_key_id);
        let kek = kek.ok_or(MintError::KeyAbsent { prefix_key_id })?;
        let version = given(Some(prefix_key.next_version()))?;
        Ok(Rotate {
            prefix_key_id,
            version,
            wrapped_dek: kek.mint_dek(version),
        })
    }

    fn check_same(&self, table: &KeyTable) -> Result<(), MintError> {
        let keyring_id = table.keyring_id().ok_or(MintError::NotInitialised)?;
        if keyring_id != self.keyring_id() || table.root_version() != Some(self.root_version()) {
            return Err(MintError::OtherKeyring);
        }
        Ok(())
    }
}

fn new_slot(root: &Root, slot_id: u32, holder: &SlotHolder) -> Result<NewSlot, MintError> {
    let member_id = holder.member_id;
    let wrapped_root = root
        .wrap_for(&holder.public_key, slot_id)
        .map_err(|source| MintError::PublicKey { member_id, source })?;
    Ok(NewSlot {
        member_id,
        provider: holder.provider,
        public_key: holder.public_key,
        wrapped_root,
    })
}

/// The next id of a counter, unless it has given out all of them.
fn given(next: Option<u32>) -> Result<u32, MintError> {
    match next {
        None => Err(MintError::NotInitialised),
        Some(0) => Err(MintError::IdsExhausted),
        Some(id) => Ok(id),
    }
}

#[cfg(test)]
mod tests;
