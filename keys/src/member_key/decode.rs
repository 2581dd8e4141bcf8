//! Reading `member.key`: its parts before anything is opened, and its storage keys after.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::{
    CHECKSUM_BYTES, DirectoryId, FORMAT, MAGIC, MemberKeyError, MemberKeyOutline, storage_key_info,
};
use crate::aead::{NONCE_BYTES, TAG_BYTES};
use crate::encoding::{DecodeError, Reader};
use crate::provider::ProviderKind;
use crate::secret::Commitment;
use crate::slot::{SlotKeyPair, SlotPublicKey, WrappedToSlot};
use crate::storage_key::{StorageKey, StorageKeys, commitment_of};
use crate::table::KeyringId;

/// The file's parts, borrowed from its bytes.
pub(super) struct Decoded<'a> {
    pub(super) outline: MemberKeyOutline,
    pub(super) wrapped_slot: &'a [u8],
    pub(super) other_slots: Vec<SlotPublicKey>,
    pub(super) storage_keys: Vec<DecodedStorageKey>,
    pub(super) body: &'a [u8],
    pub(super) nonce: &'a [u8; NONCE_BYTES],
    pub(super) tag: &'a [u8; TAG_BYTES],
}

pub(super) struct DecodedStorageKey {
    id: u32,
    commitment: Commitment,
    /// Of this member's slot first, then of the others in their order.
    wrapped: Vec<WrappedToSlot>,
}

impl Decoded<'_> {
    pub(super) fn open_storage_keys(
        &self,
        slot: &SlotKeyPair,
        position: usize,
    ) -> Result<StorageKeys, MemberKeyError> {
        let mut keys = BTreeMap::new();
        for stored in &self.storage_keys {
            let refused = MemberKeyError::StorageKey {
                storage_key_id: stored.id,
            };
            let info = storage_key_info(&self.outline.directory_id, stored.id);
            let wrapped = stored.wrapped.get(position).ok_or(refused)?;
            let secret = wrapped
                .unwrap(slot, &info, &stored.commitment)
                .map_err(|_| refused)?;
            if commitment_of(&secret) != stored.commitment {
                return Err(refused);
            }
            keys.insert(stored.id, StorageKey::from_secret(secret));
        }
        let rule = "there is a storage key";
        StorageKeys::new(keys).ok_or(MemberKeyError::Malformed(DecodeError::Invalid { rule }))
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Decoded<'_>, MemberKeyError> {
    let (rest, checksum) = bytes
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(MemberKeyError::Damaged)?;
    if Sha256::digest(rest)[..] != checksum[..] {
        return Err(MemberKeyError::Damaged);
    }
    let malformed = MemberKeyError::Malformed(DecodeError::Truncated);
    let (rest, tag) = rest.split_last_chunk().ok_or(malformed)?;
    let (body, nonce) = rest.split_last_chunk().ok_or(malformed)?;
    decode_body(body, nonce, tag).map_err(MemberKeyError::Malformed)
}

fn decode_body<'a>(
    body: &'a [u8],
    nonce: &'a [u8; NONCE_BYTES],
    tag: &'a [u8; TAG_BYTES],
) -> Result<Decoded<'a>, DecodeError> {
    let mut reader = Reader::new(body);
    if reader.array()? != *MAGIC {
        let rule = "begins as a member.key";
        return Err(DecodeError::Invalid { rule });
    }
    let format = reader.u16()?;
    if format != FORMAT {
        return Err(DecodeError::UnknownFormat { found: format });
    }
    let outline = MemberKeyOutline {
        member_id: reader.u64()?,
        directory_id: DirectoryId(reader.array()?),
        keyring_id: read_keyring_id(&mut reader)?,
        slot_public_key: SlotPublicKey::from_bytes(reader.array()?),
        provider: ProviderKind::read(&mut reader)?,
    };
    let wrapped_slot = reader.bytes16()?;
    let other_slots = (0..reader.u16()?)
        .map(|_| reader.array().map(SlotPublicKey::from_bytes))
        .collect::<Result<Vec<_>, _>>()?;
    if !other_slots.is_sorted_by(|a, b| a < b) {
        let rule = "other slots ascend";
        return Err(DecodeError::Invalid { rule });
    }
    let storage_keys = (0..reader.u16()?)
        .map(|_| read_storage_key(&mut reader, other_slots.len() + 1))
        .collect::<Result<Vec<_>, _>>()?;
    if !storage_keys.is_sorted_by(|a, b| a.id < b.id) {
        let rule = "storage keys ascend";
        return Err(DecodeError::Invalid { rule });
    }
    reader.finish()?;
    Ok(Decoded {
        outline,
        wrapped_slot,
        other_slots,
        storage_keys,
        body,
        nonce,
        tag,
    })
}

fn read_keyring_id(reader: &mut Reader<'_>) -> Result<Option<KeyringId>, DecodeError> {
    let known = reader.bool("keyring known")?;
    let bytes: [u8; 16] = reader.array()?;
    match (known, bytes) {
        (true, bytes) => Ok(Some(KeyringId::from_bytes(bytes))),
        (false, bytes) if bytes == [0; 16] => Ok(None),
        (false, _) => Err(DecodeError::Invalid {
            rule: "an unknown keyring id is zeros",
        }),
    }
}

fn read_storage_key(
    reader: &mut Reader<'_>,
    slots: usize,
) -> Result<DecodedStorageKey, DecodeError> {
    Ok(DecodedStorageKey {
        id: reader.u32()?,
        commitment: Commitment(reader.array()?),
        wrapped: (0..slots)
            .map(|_| WrappedToSlot::read(reader))
            .collect::<Result<_, _>>()?,
    })
}
