//! The key table: the replicated, secret-free state that says which keys there are.
//!
//! Promise: the same changes in the same order give the same table and the same bytes on every
//! member; ids are never used twice; a change minted on an older table has no effect.
//! Not known here: secrets, randomness, clocks, who asked for a change.

mod apply;
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

pub use apply::{Applied, KeyChangeRefusal};

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
}

fn common_prefix_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests;
