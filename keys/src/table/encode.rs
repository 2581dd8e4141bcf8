//! The key table's bytes: one table, one encoding; a table that decodes obeys every rule that
//! its changes keep.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{DekState, DekVersion, KeyTable, KeyringId, KeyringState, PrefixKey, Slot};
use crate::encoding::{DecodeError, Reader, put_bytes32, put_count32};
use crate::provider::ProviderKind;
use crate::secret::Commitment;
use crate::slot::{SlotPublicKey, WrappedToSlot};
use crate::wrapped::{KeyKind, WrappedKey};

const FORMAT: u16 = 1;

pub(super) fn encode(table: &KeyTable) -> Vec<u8> {
    let mut out = FORMAT.to_be_bytes().to_vec();
    out.push(u8::from(table.is_initialised()));
    let Some(state) = table.keyring.as_deref() else {
        return out;
    };
    out.extend_from_slice(state.keyring_id.as_bytes());
    out.extend_from_slice(&state.root_version.to_be_bytes());
    out.extend_from_slice(&state.root_commitment.0);
    out.extend_from_slice(&state.next_slot_id.to_be_bytes());
    out.extend_from_slice(&state.next_prefix_key_id.to_be_bytes());
    put_count32(&mut out, state.slots.len());
    for slot in state.slots.values() {
        put_slot(&mut out, slot);
    }
    put_count32(&mut out, state.prefix_keys.len());
    for prefix_key in state.prefix_keys.values() {
        put_prefix_key(&mut out, prefix_key);
    }
    out
}

pub(super) fn decode(bytes: &[u8]) -> Result<KeyTable, DecodeError> {
    let mut reader = Reader::new(bytes);
    let format = reader.u16()?;
    if format != FORMAT {
        return Err(DecodeError::UnknownFormat { found: format });
    }
    let keyring = if reader.bool("initialised")? {
        Some(Arc::new(read_state(&mut reader)?))
    } else {
        None
    };
    reader.finish()?;
    Ok(KeyTable { keyring })
}

fn read_state(reader: &mut Reader<'_>) -> Result<KeyringState, DecodeError> {
    let mut state = KeyringState {
        keyring_id: KeyringId::from_bytes(reader.array()?),
        root_version: reader.u32()?,
        root_commitment: Commitment(reader.array()?),
        next_slot_id: reader.u32()?,
        next_prefix_key_id: reader.u32()?,
        slots: BTreeMap::new(),
        prefix_keys: BTreeMap::new(),
        by_prefix: BTreeMap::new(),
    };
    for _ in 0..reader.u32()? {
        let slot = read_slot(reader)?;
        check_next_id(&state.slots, slot.id, state.next_slot_id)?;
        require(
            state
                .check_slot_free(slot.member_id, &slot.public_key)
                .is_ok(),
            "no two slots have one member or public key",
        )?;
        state.slots.insert(slot.id, Arc::new(slot));
    }
    for _ in 0..reader.u32()? {
        let prefix_key = read_prefix_key(reader)?;
        check_next_id(&state.prefix_keys, prefix_key.id, state.next_prefix_key_id)?;
        let before = state
            .by_prefix
            .insert(prefix_key.prefix.clone(), prefix_key.id);
        require(before.is_none(), "no two keys have one prefix")?;
        state
            .prefix_keys
            .insert(prefix_key.id, Arc::new(prefix_key));
    }
    require(
        state.by_prefix.contains_key(&[][..]),
        "the empty prefix has a key",
    )?;
    Ok(state)
}

/// Ids ascend, start at 1 and lie below the counter; a counter of 0 has given out all of them.
fn check_next_id<T>(sofar: &BTreeMap<u32, T>, id: u32, next: u32) -> Result<(), DecodeError> {
    let after_last = sofar.last_key_value().is_none_or(|(last, _)| id > *last);
    require(
        id != 0 && after_last && (next == 0 || id < next),
        "ids ascend and lie below their counter",
    )
}

fn put_slot(out: &mut Vec<u8>, slot: &Slot) {
    out.extend_from_slice(&slot.id.to_be_bytes());
    out.extend_from_slice(&slot.member_id.to_be_bytes());
    out.push(slot.provider.code());
    out.extend_from_slice(slot.public_key.as_bytes());
    out.extend_from_slice(slot.wrapped_root.as_bytes());
    out.push(u8::from(slot.proven));
}

fn read_slot(reader: &mut Reader<'_>) -> Result<Slot, DecodeError> {
    Ok(Slot {
        id: reader.u32()?,
        member_id: reader.u64()?,
        provider: ProviderKind::read(reader)?,
        public_key: SlotPublicKey::from_bytes(reader.array()?),
        wrapped_root: WrappedToSlot::read(reader)?,
        proven: reader.bool("proven")?,
    })
}

fn put_prefix_key(out: &mut Vec<u8>, prefix_key: &PrefixKey) {
    out.extend_from_slice(&prefix_key.id.to_be_bytes());
    put_bytes32(out, &prefix_key.prefix);
    out.extend_from_slice(prefix_key.wrapped_kek.as_bytes());
    out.extend_from_slice(&prefix_key.next_version.to_be_bytes());
    put_count32(out, prefix_key.versions.len());
    for dek in prefix_key.versions() {
        out.extend_from_slice(&dek.version.to_be_bytes());
        out.push(match dek.state {
            DekState::Open => 1,
            DekState::Closed => 2,
        });
        out.extend_from_slice(&dek.created_ms.to_be_bytes());
        out.extend_from_slice(dek.wrapped.as_bytes());
    }
}

fn read_prefix_key(reader: &mut Reader<'_>) -> Result<PrefixKey, DecodeError> {
    let mut prefix_key = PrefixKey {
        id: reader.u32()?,
        prefix: reader.bytes32()?.to_vec(),
        wrapped_kek: WrappedKey::read(reader, KeyKind::Kek)?,
        next_version: reader.u32()?,
        versions: BTreeMap::new(),
    };
    for _ in 0..reader.u32()? {
        let dek = read_dek(reader)?;
        check_next_id(&prefix_key.versions, dek.version, prefix_key.next_version)?;
        prefix_key.versions.insert(dek.version, dek);
    }
    require(
        prefix_key.current().is_some(),
        "every prefix key has a version open for writing",
    )?;
    Ok(prefix_key)
}

fn read_dek(reader: &mut Reader<'_>) -> Result<DekVersion, DecodeError> {
    Ok(DekVersion {
        version: reader.u32()?,
        state: match reader.u8()? {
            1 => DekState::Open,
            2 => DekState::Closed,
            found => {
                return Err(DecodeError::UnknownValue {
                    field: "state of a data key",
                    found: u64::from(found),
                });
            }
        },
        created_ms: reader.i64()?,
        wrapped: WrappedKey::read(reader, KeyKind::Dek)?,
    })
}

fn require(holds: bool, rule: &'static str) -> Result<(), DecodeError> {
    if holds {
        Ok(())
    } else {
        Err(DecodeError::Invalid { rule })
    }
}
