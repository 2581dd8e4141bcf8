//! What each change does to the key table.
//!
//! Promise: a change takes effect whole or is refused, alike on every member.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

use super::change::{
    AcknowledgeRoot, AddPrefix, CloseVersion, EnrolSlot, KeyChange, KeyringInit, NewSlot,
    RemoveSlot, Rotate,
};
use super::{
    DekState, DekVersion, FIRST_ID, FIRST_VERSION, KeyTable, KeyringState, PrefixKey, Slot,
};
use crate::root_key::RootKey;
use crate::slot::SlotPublicKey;
use crate::wrapped::WrappedKey;

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
        if enrol.root_version != state.root_version || !is_next(enrol.slot_id, state.next_slot_id) {
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
        let next = state.next_prefix_key_id;
        if add.root_version != state.root_version || !is_next(add.prefix_key_id, next) {
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
        if !is_next(rotate.version, known.next_version) {
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

    /// The table of a cluster that is restored from this one's backup: its members have slots of
    /// their own, and none yet. Nothing if this ROOT does not open the table.
    pub fn restored(mut self, root: &RootKey) -> Option<Self> {
        if !root.fits(&self) {
            return None;
        }
        self.state_mut().ok()?.slots.clear();
        Some(self)
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
    pub(super) fn state_mut(&mut self) -> Result<&mut KeyringState, KeyChangeRefusal> {
        self.keyring
            .as_mut()
            .map(Arc::make_mut)
            .ok_or(KeyChangeRefusal::NotInitialised)
    }
}

impl KeyringState {
    pub(super) fn check_slot_free(
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

    fn push_slot(&mut self, slot: &NewSlot) -> u32 {
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

impl PrefixKey {
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
        self.next_version = version.checked_add(1).unwrap_or(0);
        version
    }
}

/// Whether a change was minted for the counter as it is. A counter of 0 has given out every id.
fn is_next(minted: u32, next: u32) -> bool {
    minted == next && next != 0
}
