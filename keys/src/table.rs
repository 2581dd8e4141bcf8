//! The key table: the replicated, secret-free state that says which keys there are.
//!
//! Promise: the same changes in the same order give the same table and the same bytes on every
//! member; ids are never used twice; a change minted on an older table has no effect.
//! Not known here: secrets, randomness, clocks, who asked for a change.

pub(crate) mod change;
mod encode;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use thiserror::Error;

use crate::encoding::DecodeError;
use crate::provider::ProviderKind;
use crate::sealed::SealedHeader;
use crate::secret::{Commitment, random};
use crate::slot::{SlotPublicKey, WrappedToSlot};
use crate::wrapped::WrappedKey;
use change::{
    AcknowledgeRoot, AddPrefix, CloseVersion, EnrolSlot, KeyChange, KeyringInit, RemoveSlot, Rotate,
};

/// ROOT's version at birth, and the first DEK version of every prefix key.
pub(crate) const FIRST_VERSION: u32 = 1;
/// The id of the first slot, and of the empty prefix's key.
pub(crate) const FIRST_ID: u32 = 1;

/// Which keyring a cluster has; it survives a restore.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyringId([u8; 16]);

impl KeyringId {
    pub(crate) fn random() -> Self {
        Self(random())
    }

    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for KeyringId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyringId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyringId({self})")
    }
}

/// A slot that ROOT is wrapped to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub id: u32,
    /// The member whose provider holds the private half; 0 for none.
    pub member_id: u64,
    pub provider: ProviderKind,
    pub public_key: SlotPublicKey,
    pub wrapped_root: WrappedToSlot,
    /// Whether its holder has said that it opened the present ROOT.
    pub proven: bool,
}

/// Whether new values may be sealed under a data key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DekState {
    Open,
    /// Values under it can be read; none may be written.
    Closed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DekVersion {
    pub version: u32,
    pub state: DekState,
    /// By the clock of the entry that made it.
    pub created_ms: i64,
    pub wrapped: WrappedKey,
}

/// The key of a prefix, with the versions of its data key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixKey {
    pub id: u32,
    pub prefix: Vec<u8>,
    pub wrapped_kek: WrappedKey,
    versions: BTreeMap<u32, DekVersion>,
    next_version: u32,
}

impl PrefixKey {
    /// Ascending by version; never empty.
    pub fn versions(&self) -> impl DoubleEndedIterator<Item = &DekVersion> {
        self.versions.values()
    }

    pub fn version(&self, version: u32) -> Option<&DekVersion> {
        self.versions.get(&version)
    }

    /// The version that new values are sealed under: the newest that is open. A closed version
    /// always has an open one after it.
    pub fn current(&self) -> Option<&DekVersion> {
        self.versions()
            .rev()
            .find(|version| version.state == DekState::Open)
    }

    pub(crate) fn next_version(&self) -> u32 {
        self.next_version
    }

    fn push_version(&mut self, wrapped: WrappedKey, created_ms: i64) -> u32 {
        let version = self.next_version;
        self.versions.insert(
            version,
            DekVersion {
                version,
                state: DekState::Open,
                created_ms,
                wrapped,
            },
        );
        // An exhausted counter stays at 0, which no change names.
        self.next_version = version.checked_add(1).unwrap_or(0);
        version
    }
}

/// Why a change has no effect. Every member refuses it alike.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum KeyChangeRefusal {
    #[error("the cluster has a keyring already")]
    AlreadyInitialised,
    #[error("the cluster has no keyring yet")]
    NotInitialised,
    /// Minted on an older table; mint again on this one.
    #[error("the key table has moved on since this change was made")]
    Stale,
    #[error("slot {slot_id} has this member id or public key already")]
    SlotTaken { slot_id: u32 },
    #[error("there is no slot {slot_id}")]
    UnknownSlot { slot_id: u32 },
    /// Nobody else has proven that ROOT can be opened.
    #[error("slot {slot_id} is the last one that is known to open the root key")]
    LastProvenSlot { slot_id: u32 },
    #[error("this prefix has key {prefix_key_id} already")]
    PrefixTaken { prefix_key_id: u32 },
    #[error("there is no prefix key {prefix_key_id}")]
    UnknownPrefixKey { prefix_key_id: u32 },
    #[error("prefix key {prefix_key_id} has no data key version {version}")]
    UnknownVersion { prefix_key_id: u32, version: u32 },
    /// New values need it; rotate first.
    #[error("data key version {version} of prefix key {prefix_key_id} is the current one")]
    CurrentVersion { prefix_key_id: u32, version: u32 },
}

/// Why a sealed value may not be written under a key. It is sealed again on the table as it is.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum WriteRefusal {
    #[error("the cluster has no keyring yet")]
    NotInitialised,
    #[error("sealed under prefix key {found}, but the longest matching prefix has {expected}")]
    WrongPrefixKey { expected: u32, found: u32 },
    #[error("prefix key {prefix_key_id} has no data key version {version}")]
    UnknownVersion { prefix_key_id: u32, version: u32 },
    #[error("data key version {version} of prefix key {prefix_key_id} is closed for writing")]
    ClosedVersion { prefix_key_id: u32, version: u32 },
}

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    Initialised,
    SlotEnrolled { slot_id: u32 },
    RootAcknowledged { slot_id: u32 },
    PrefixAdded { prefix_key_id: u32 },
    Rotated { prefix_key_id: u32, version: u32 },
    SlotRemoved { slot_id: u32 },
    VersionClosed { prefix_key_id: u32, version: u32 },
}

/// A clone shares everything with its original and costs one counter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyTable {
    /// Nothing until `KeyringInit` is applied.
    keyring: Option<Arc<KeyringState>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyringState {
    keyring_id: KeyringId,
    root_version: u32,
    root_commitment: Commitment,
    slots: BTreeMap<u32, Arc<Slot>>,
    next_slot_id: u32,
    prefix_keys: BTreeMap<u32, Arc<PrefixKey>>,
    next_prefix_key_id: u32,
    /// The id of each prefix's key, to find the longest match.
    by_prefix: BTreeMap<Vec<u8>, u32>,
}

/// Lookups.
impl KeyTable {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_initialised(&self) -> bool {
        self.keyring.is_some()
    }

    pub fn keyring_id(&self) -> Option<KeyringId> {
        self.keyring.as_ref().map(|it| it.keyring_id)
    }

    pub fn root_version(&self) -> Option<u32> {
        self.keyring.as_ref().map(|it| it.root_version)
    }

    pub(crate) fn root_commitment(&self) -> Option<Commitment> {
        self.keyring.as_ref().map(|it| it.root_commitment)
    }

    /// Ascending by id.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        let slots = self.keyring.iter().flat_map(|it| it.slots.values());
        slots.map(AsRef::as_ref)
    }

    pub fn slot(&self, slot_id: u32) -> Option<&Slot> {
        Some(self.keyring.as_ref()?.slots.get(&slot_id)?.as_ref())
    }

    pub fn slot_of_member(&self, member_id: u64) -> Option<&Slot> {
        self.slots().find(|slot| slot.member_id == member_id)
    }

    pub fn slot_of_public_key(&self, public_key: &SlotPublicKey) -> Option<&Slot> {
        self.slots().find(|slot| slot.public_key == *public_key)
    }

    /// The members that have said that they opened the present ROOT.
    pub fn proven_members(&self) -> impl Iterator<Item = u64> + '_ {
        let proven = self.slots().filter(|slot| slot.proven);
        proven.map(|slot| slot.member_id).filter(|id| *id != 0)
    }

    /// In byte order of their prefixes.
    pub fn prefix_keys(&self) -> impl Iterator<Item = &PrefixKey> {
        self.keyring.iter().flat_map(|it| {
            let ids = it.by_prefix.values();
            ids.filter_map(|id| it.prefix_keys.get(id).map(AsRef::as_ref))
        })
    }

    pub fn prefix_key(&self, prefix_key_id: u32) -> Option<&PrefixKey> {
        let keys = &self.keyring.as_ref()?.prefix_keys;
        Some(keys.get(&prefix_key_id)?.as_ref())
    }

    /// The key of exactly this prefix.
    pub fn prefix_key_of(&self, prefix: &[u8]) -> Option<&PrefixKey> {
        self.prefix_key(*self.keyring.as_ref()?.by_prefix.get(prefix)?)
    }

    /// The key that a record's value belongs under: that of its longest matching prefix. Nothing
    /// only before there is a keyring.
    pub fn prefix_for(&self, key: &[u8]) -> Option<&PrefixKey> {
        self.prefix_key(self.keyring.as_ref()?.longest_match(key)?)
    }

    /// The rule for every newly sealed value: its prefix key is that of the longest match, its
    /// version exists and is open for writing. A version stays open after a rotation until it is
    /// closed, so that values sealed just before a rotation are not sealed twice.
    pub fn check_sealed(&self, key: &[u8], header: &SealedHeader) -> Result<(), WriteRefusal> {
        let prefix_key = self.prefix_for(key).ok_or(WriteRefusal::NotInitialised)?;
        let SealedHeader {
            prefix_key_id,
            dek_version: version,
        } = *header;
        if prefix_key.id != prefix_key_id {
            return Err(WriteRefusal::WrongPrefixKey {
                expected: prefix_key.id,
                found: prefix_key_id,
            });
        }
        match prefix_key.version(version).map(|it| it.state) {
            Some(DekState::Open) => Ok(()),
            Some(DekState::Closed) => Err(WriteRefusal::ClosedVersion {
                prefix_key_id,
                version,
            }),
            None => Err(WriteRefusal::UnknownVersion {
                prefix_key_id,
                version,
            }),
        }
    }

    /// What the next slot is called, if the keyring has one to give.
    pub(crate) fn next_slot_id(&self) -> Option<u32> {
        self.keyring.as_ref().map(|it| it.next_slot_id)
    }

    pub(crate) fn next_prefix_key_id(&self) -> Option<u32> {
        self.keyring.as_ref().map(|it| it.next_prefix_key_id)
    }
}

/// Bytes.
impl KeyTable {
    pub fn encode(&self) -> Vec<u8> {
        encode::encode(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        encode::decode(bytes)
    }
}

/// Changes, as `apply` makes them. A refused change leaves the table as it was.
impl KeyTable {
    /// `clock_ms` is the clock of the entry that carries the change.
    pub fn apply(
        &mut self,
        change: &KeyChange,
        clock_ms: i64,
    ) -> Result<Applied, KeyChangeRefusal> {
        match change {
            KeyChange::Init(init) => self.init(init, clock_ms),
            KeyChange::EnrolSlot(enrol) => self.enrol_slot(enrol),
            KeyChange::AcknowledgeRoot(acknowledge) => self.acknowledge_root(acknowledge),
            KeyChange::AddPrefix(add) => self.add_prefix(add, clock_ms),
            KeyChange::Rotate(rotate) => self.rotate(rotate, clock_ms),
            KeyChange::RemoveSlot(remove) => self.remove_slot(remove),
            KeyChange::CloseVersion(close) => self.close_version(close),
        }
    }

    /// Taken only if there is no keyring.
    pub fn init(&mut self, init: &KeyringInit, clock_ms: i64) -> Result<Applied, KeyChangeRefusal> {
        if self.keyring.is_some() {
            return Err(KeyChangeRefusal::AlreadyInitialised);
        }
        let mut state = KeyringState {
            keyring_id: init.keyring_id,
            root_version: FIRST_VERSION,
            root_commitment: init.root_commitment,
            slots: BTreeMap::new(),
            next_slot_id: FIRST_ID,
            prefix_keys: BTreeMap::new(),
            next_prefix_key_id: FIRST_ID,
            by_prefix: BTreeMap::new(),
        };
        for slot in &init.slots {
            state.check_slot_free(slot.member_id, &slot.public_key)?;
            state.push_slot(slot);
        }
        let (kek, dek) = (&init.wrapped_kek, &init.wrapped_dek);
        state.push_prefix(&[], kek.clone(), dek.clone(), clock_ms);
        self.keyring = Some(Arc::new(state));
        Ok(Applied::Initialised)
    }

    pub fn enrol_slot(&mut self, enrol: &EnrolSlot) -> Result<Applied, KeyChangeRefusal> {
        let state = self.state()?;
        let slot = &enrol.slot;
        state.check_slot_free(slot.member_id, &slot.public_key)?;
        if enrol.root_version != state.root_version || enrol.slot_id != state.next_slot_id {
            return Err(KeyChangeRefusal::Stale);
        }
        let slot_id = self.state_mut()?.push_slot(slot);
        Ok(Applied::SlotEnrolled { slot_id })
    }

    /// Saying it twice is fine; saying it of another ROOT is not.
    pub fn acknowledge_root(
        &mut self,
        acknowledge: &AcknowledgeRoot,
    ) -> Result<Applied, KeyChangeRefusal> {
        let slot_id = acknowledge.slot_id;
        if acknowledge.root_version != self.state()?.root_version {
            return Err(KeyChangeRefusal::Stale);
        }
        let slots = &mut self.state_mut()?.slots;
        let slot = slots
            .get_mut(&slot_id)
            .ok_or(KeyChangeRefusal::UnknownSlot { slot_id })?;
        Arc::make_mut(slot).proven = true;
        Ok(Applied::RootAcknowledged { slot_id })
    }

    /// Existing records stay under the key they have.
    pub fn add_prefix(
        &mut self,
        add: &AddPrefix,
        clock_ms: i64,
    ) -> Result<Applied, KeyChangeRefusal> {
        let state = self.state()?;
        if let Some(&prefix_key_id) = state.by_prefix.get(&add.prefix) {
            return Err(KeyChangeRefusal::PrefixTaken { prefix_key_id });
        }
        if add.root_version != state.root_version || add.prefix_key_id != state.next_prefix_key_id {
            return Err(KeyChangeRefusal::Stale);
        }
        let (kek, dek) = (add.wrapped_kek.clone(), add.wrapped_dek.clone());
        let state = self.state_mut()?;
        let prefix_key_id = state.push_prefix(&add.prefix, kek, dek, clock_ms);
        Ok(Applied::PrefixAdded { prefix_key_id })
    }

    pub fn rotate(&mut self, rotate: &Rotate, clock_ms: i64) -> Result<Applied, KeyChangeRefusal> {
        let prefix_key_id = rotate.prefix_key_id;
        let known = self.state()?.prefix_keys.get(&prefix_key_id);
        let known = known.ok_or(KeyChangeRefusal::UnknownPrefixKey { prefix_key_id })?;
        if rotate.version != known.next_version {
            return Err(KeyChangeRefusal::Stale);
        }
        let prefix_key = self.state_mut()?.prefix_key_mut(prefix_key_id)?;
        let version = prefix_key.push_version(rotate.wrapped_dek.clone(), clock_ms);
        Ok(Applied::Rotated {
            prefix_key_id,
            version,
        })
    }

    /// Refused for the last slot known to open ROOT: without one, nothing opens any more.
    pub fn remove_slot(&mut self, remove: &RemoveSlot) -> Result<Applied, KeyChangeRefusal> {
        let slot_id = remove.slot_id;
        let slots = &self.state()?.slots;
        if !slots.contains_key(&slot_id) {
            return Err(KeyChangeRefusal::UnknownSlot { slot_id });
        }
        if !slots.values().any(|slot| slot.proven && slot.id != slot_id) {
            return Err(KeyChangeRefusal::LastProvenSlot { slot_id });
        }
        self.state_mut()?.slots.remove(&slot_id);
        Ok(Applied::SlotRemoved { slot_id })
    }

    /// From here on no new value is taken under this version. Closing twice is fine.
    pub fn close_version(&mut self, close: &CloseVersion) -> Result<Applied, KeyChangeRefusal> {
        let CloseVersion {
            prefix_key_id,
            version,
        } = *close;
        let known = self.state()?.prefix_keys.get(&prefix_key_id);
        let known = known.ok_or(KeyChangeRefusal::UnknownPrefixKey { prefix_key_id })?;
        if known.current().is_some_and(|it| it.version == version) {
            return Err(KeyChangeRefusal::CurrentVersion {
                prefix_key_id,
                version,
            });
        }
        let prefix_key = self.state_mut()?.prefix_key_mut(prefix_key_id)?;
        let dek =
            prefix_key
                .versions
                .get_mut(&version)
                .ok_or(KeyChangeRefusal::UnknownVersion {
                    prefix_key_id,
                    version,
                })?;
        dek.state = DekState::Closed;
        Ok(Applied::VersionClosed {
            prefix_key_id,
            version,
        })
    }

    fn state(&self) -> Result<&KeyringState, KeyChangeRefusal> {
        self.keyring
            .as_deref()
            .ok_or(KeyChangeRefusal::NotInitialised)
    }

    /// Copies what readers still hold.
    fn state_mut(&mut self) -> Result<&mut KeyringState, KeyChangeRefusal> {
        self.keyring
            .as_mut()
            .map(Arc::make_mut)
            .ok_or(KeyChangeRefusal::NotInitialised)
    }
}

impl KeyringState {
    /// The greatest prefix not after `key` is either the longest match, or everything that matches
    /// is a prefix of what the two have in common: look again there. Each step looks at a shorter
    /// key, and the first or second is the last unless prefixes are nested around it.
    fn longest_match(&self, key: &[u8]) -> Option<u32> {
        let mut probe = key;
        loop {
            let upto = (Bound::Unbounded, Bound::Included(probe));
            let (prefix, id) = self.by_prefix.range::<[u8], _>(upto).next_back()?;
            let common = common_prefix_len(prefix, probe);
            if common == prefix.len() {
                return Some(*id);
            }
            probe = &probe[..common];
        }
    }

    fn check_slot_free(
        &self,
        member_id: u64,
        public_key: &SlotPublicKey,
    ) -> Result<(), KeyChangeRefusal> {
        let taken = self.slots.values().find(|slot| {
            slot.public_key == *public_key || (member_id != 0 && slot.member_id == member_id)
        });
        match taken {
            Some(slot) => Err(KeyChangeRefusal::SlotTaken { slot_id: slot.id }),
            None => Ok(()),
        }
    }

    fn push_slot(&mut self, slot: &change::NewSlot) -> u32 {
        let id = self.next_slot_id;
        let slot = Slot {
            id,
            member_id: slot.member_id,
            provider: slot.provider,
            public_key: slot.public_key,
            wrapped_root: slot.wrapped_root.clone(),
            proven: false,
        };
        self.slots.insert(id, Arc::new(slot));
        self.next_slot_id = id.checked_add(1).unwrap_or(0);
        id
    }

    fn push_prefix(
        &mut self,
        prefix: &[u8],
        wrapped_kek: WrappedKey,
        wrapped_dek: WrappedKey,
        created_ms: i64,
    ) -> u32 {
        let id = self.next_prefix_key_id;
        let mut prefix_key = PrefixKey {
            id,
            prefix: prefix.to_vec(),
            wrapped_kek,
            versions: BTreeMap::new(),
            next_version: FIRST_VERSION,
        };
        prefix_key.push_version(wrapped_dek, created_ms);
        self.prefix_keys.insert(id, Arc::new(prefix_key));
        self.by_prefix.insert(prefix.to_vec(), id);
        self.next_prefix_key_id = id.checked_add(1).unwrap_or(0);
        id
    }

    fn prefix_key_mut(&mut self, prefix_key_id: u32) -> Result<&mut PrefixKey, KeyChangeRefusal> {
        self.prefix_keys
            .get_mut(&prefix_key_id)
            .map(Arc::make_mut)
            .ok_or(KeyChangeRefusal::UnknownPrefixKey { prefix_key_id })
    }
}

fn common_prefix_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests;
