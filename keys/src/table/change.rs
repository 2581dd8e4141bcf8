//! Changes of the key table, and their bytes in a replicated command.
//!
//! A change carries only wrapped keys. Its fields are read by anyone; it is made by
//! [`Keyring`](crate::Keyring), which alone can wrap.

use crate::encoding::{DecodeError, Reader, put_bytes32, put_count32};
use crate::provider::ProviderKind;
use crate::secret::Commitment;
use crate::slot::{SlotPublicKey, WrappedToSlot};
use crate::table::KeyringId;
use crate::wrapped::{KeyKind, WrappedKey};

const FORMAT: u8 = 1;

/// The birth of a keyring: ROOT version 1, slots from id 1, the empty prefix's key with id 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyringInit {
    pub keyring_id: KeyringId,
    pub(crate) root_commitment: Commitment,
    pub wrapped_kek: WrappedKey,
    pub wrapped_dek: WrappedKey,
    pub slots: Vec<NewSlot>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSlot {
    /// 0 for a slot that no member holds.
    pub member_id: u64,
    pub provider: ProviderKind,
    pub public_key: SlotPublicKey,
    pub wrapped_root: WrappedToSlot,
}

/// Wraps the present ROOT to one more slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolSlot {
    pub slot_id: u32,
    pub root_version: u32,
    pub slot: NewSlot,
}

/// The slot's holder says that it opened this ROOT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcknowledgeRoot {
    pub slot_id: u32,
    pub root_version: u32,
}

/// Gives a prefix a key of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddPrefix {
    pub root_version: u32,
    pub prefix_key_id: u32,
    pub prefix: Vec<u8>,
    pub wrapped_kek: WrappedKey,
    pub wrapped_dek: WrappedKey,
}

/// Starts a new data key version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotate {
    pub prefix_key_id: u32,
    pub version: u32,
    pub wrapped_dek: WrappedKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoveSlot {
    pub slot_id: u32,
}

/// Takes no new values under this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseVersion {
    pub prefix_key_id: u32,
    pub version: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChange {
    Init(KeyringInit),
    EnrolSlot(EnrolSlot),
    AcknowledgeRoot(AcknowledgeRoot),
    AddPrefix(AddPrefix),
    Rotate(Rotate),
    RemoveSlot(RemoveSlot),
    CloseVersion(CloseVersion),
}

impl KeyChange {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        match self {
            Self::Init(it) => put_init(&mut out, it),
            Self::EnrolSlot(it) => {
                out.push(2);
                put_u32s(&mut out, &[it.slot_id, it.root_version]);
                put_slot(&mut out, &it.slot);
            }
            Self::AcknowledgeRoot(it) => {
                out.push(3);
                put_u32s(&mut out, &[it.slot_id, it.root_version]);
            }
            Self::AddPrefix(it) => put_add_prefix(&mut out, it),
            Self::Rotate(it) => {
                out.push(5);
                put_u32s(&mut out, &[it.prefix_key_id, it.version]);
                out.extend_from_slice(it.wrapped_dek.as_bytes());
            }
            Self::RemoveSlot(it) => {
                out.push(6);
                put_u32s(&mut out, &[it.slot_id]);
            }
            Self::CloseVersion(it) => {
                out.push(7);
                put_u32s(&mut out, &[it.prefix_key_id, it.version]);
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let format = reader.u8()?;
        if format != FORMAT {
            let found = u16::from(format);
            return Err(DecodeError::UnknownFormat { found });
        }
        let change = match reader.u8()? {
            1 => Self::Init(read_init(&mut reader)?),
            2 => Self::EnrolSlot(EnrolSlot {
                slot_id: reader.u32()?,
                root_version: reader.u32()?,
                slot: read_slot(&mut reader)?,
            }),
            3 => Self::AcknowledgeRoot(AcknowledgeRoot {
                slot_id: reader.u32()?,
                root_version: reader.u32()?,
            }),
            4 => Self::AddPrefix(read_add_prefix(&mut reader)?),
            5 => Self::Rotate(Rotate {
                prefix_key_id: reader.u32()?,
                version: reader.u32()?,
                wrapped_dek: WrappedKey::read(&mut reader, KeyKind::Dek)?,
            }),
            6 => Self::RemoveSlot(RemoveSlot {
                slot_id: reader.u32()?,
            }),
            7 => Self::CloseVersion(CloseVersion {
                prefix_key_id: reader.u32()?,
                version: reader.u32()?,
            }),
            found => {
                return Err(DecodeError::UnknownValue {
                    field: "key change",
                    found: u64::from(found),
                });
            }
        };
        reader.finish()?;
        Ok(change)
    }
}

fn put_u32s(out: &mut Vec<u8>, numbers: &[u32]) {
    for number in numbers {
        out.extend_from_slice(&number.to_be_bytes());
    }
}

fn put_init(out: &mut Vec<u8>, init: &KeyringInit) {
    out.push(1);
    out.extend_from_slice(init.keyring_id.as_bytes());
    out.extend_from_slice(&init.root_commitment.0);
    out.extend_from_slice(init.wrapped_kek.as_bytes());
    out.extend_from_slice(init.wrapped_dek.as_bytes());
    put_count32(out, init.slots.len());
    init.slots.iter().for_each(|slot| put_slot(out, slot));
}

fn read_init(reader: &mut Reader<'_>) -> Result<KeyringInit, DecodeError> {
    let keyring_id = KeyringId::from_bytes(reader.array()?);
    let root_commitment = Commitment(reader.array()?);
    let wrapped_kek = WrappedKey::read(reader, KeyKind::Kek)?;
    let wrapped_dek = WrappedKey::read(reader, KeyKind::Dek)?;
    let count = reader.u32()?;
    Ok(KeyringInit {
        keyring_id,
        root_commitment,
        wrapped_kek,
        wrapped_dek,
        slots: (0..count)
            .map(|_| read_slot(reader))
            .collect::<Result<_, _>>()?,
    })
}

fn put_add_prefix(out: &mut Vec<u8>, add: &AddPrefix) {
    out.push(4);
    put_u32s(out, &[add.root_version, add.prefix_key_id]);
    put_bytes32(out, &add.prefix);
    out.extend_from_slice(add.wrapped_kek.as_bytes());
    out.extend_from_slice(add.wrapped_dek.as_bytes());
}

fn read_add_prefix(reader: &mut Reader<'_>) -> Result<AddPrefix, DecodeError> {
    Ok(AddPrefix {
        root_version: reader.u32()?,
        prefix_key_id: reader.u32()?,
        prefix: reader.bytes32()?.to_vec(),
        wrapped_kek: WrappedKey::read(reader, KeyKind::Kek)?,
        wrapped_dek: WrappedKey::read(reader, KeyKind::Dek)?,
    })
}

fn put_slot(out: &mut Vec<u8>, slot: &NewSlot) {
    out.extend_from_slice(&slot.member_id.to_be_bytes());
    out.push(slot.provider.code());
    out.extend_from_slice(slot.public_key.as_bytes());
    out.extend_from_slice(slot.wrapped_root.as_bytes());
}

fn read_slot(reader: &mut Reader<'_>) -> Result<NewSlot, DecodeError> {
    Ok(NewSlot {
        member_id: reader.u64()?,
        provider: ProviderKind::read(reader)?,
        public_key: SlotPublicKey::from_bytes(reader.array()?),
        wrapped_root: WrappedToSlot::read(reader)?,
    })
}
