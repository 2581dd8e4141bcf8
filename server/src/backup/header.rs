//! The header of a backup, parsed once.

use bytes::Bytes;
use keys::BackupEnvelope;
use prost::Message;
use proto::sealkv::backup as wire;

use super::{FORMAT, MAGIC, PREAMBLE_BYTES};

/// A header has a few dozen bytes for each data key version; more is not one of ours.
pub(super) const HEADER_BYTES_MAX: u32 = 16 << 20;

/// What a backup says of itself without being opened.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    pub cluster_id: u64,
    /// The member that made it; its key provider opens it.
    pub member_id: u64,
    pub envelope: BackupEnvelope,
    pub revision: i64,
    pub compact_revision: i64,
    /// Of history: one for each put and each delete of a key.
    pub records: u64,
    pub sections: u32,
    /// Of all sections with their lengths.
    pub body_bytes: u64,
    /// What the values lie under, ascending.
    pub data_keys: Vec<DataKey>,
    pub storage_version: String,
    pub layout: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataKey {
    pub prefix_key_id: u32,
    pub dek_version: u32,
    /// How many values lie under it.
    pub values: u64,
}

/// Why bytes are no header of this release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    #[error("is no backup of sealkv")]
    NotABackup,
    #[error("has format {found}, which needs a newer release than this one")]
    Format { found: u16 },
    #[error("has rows of layout {found}, which this release does not know")]
    Layout { found: u32 },
    #[error("has a damaged header")]
    Damaged,
}

impl Header {
    /// With all that stands before the first section.
    pub(super) fn encode(&self) -> Vec<u8> {
        let header = wire::Header {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            envelope: self.envelope.encode().into(),
            revision: self.revision,
            compact_revision: self.compact_revision,
            records: self.records,
            sections: self.sections,
            body_bytes: self.body_bytes,
            data_keys: self.data_keys.iter().map(|key| key.to_wire()).collect(),
            storage_version: self.storage_version.clone(),
            layout: u32::from(self.layout),
        };
        let length = u32::try_from(header.encoded_len()).expect("a header is far below 4 GiB");
        let mut out = Vec::with_capacity(PREAMBLE_BYTES + header.encoded_len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        header
            .encode(&mut out)
            .expect("a Vec grows as it is written");
        out
    }

    /// How long the header is that follows the preamble.
    pub(super) fn length(preamble: &[u8; PREAMBLE_BYTES]) -> Result<u32, BadHeader> {
        let rest = preamble.strip_prefix(MAGIC).ok_or(BadHeader::NotABackup)?;
        let (format, length) = rest.split_first_chunk().ok_or(BadHeader::Damaged)?;
        let found = u16::from_be_bytes(*format);
        if found != FORMAT {
            return Err(BadHeader::Format { found });
        }
        let length = length.try_into().map_err(|_| BadHeader::Damaged)?;
        let length = u32::from_be_bytes(length);
        (length <= HEADER_BYTES_MAX)
            .then_some(length)
            .ok_or(BadHeader::Damaged)
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, BadHeader> {
        let header = wire::Header::decode(bytes).map_err(|_| BadHeader::Damaged)?;
        let found = header.layout;
        let layout = u16::try_from(found).ok();
        let layout = layout.filter(|layout| *layout == crate::storage::layout::FORMAT);
        let layout = layout.ok_or(BadHeader::Layout { found })?;
        Ok(Self {
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            envelope: BackupEnvelope::decode(&header.envelope).map_err(|_| BadHeader::Damaged)?,
            revision: header.revision,
            compact_revision: header.compact_revision,
            records: header.records,
            sections: header.sections,
            body_bytes: header.body_bytes,
            data_keys: header.data_keys.into_iter().map(DataKey::from).collect(),
            storage_version: header.storage_version,
            layout,
        })
    }
}

impl DataKey {
    fn to_wire(self) -> wire::DataKey {
        wire::DataKey {
            prefix_key_id: self.prefix_key_id,
            dek_version: self.dek_version,
            values: self.values,
        }
    }
}

impl From<wire::DataKey> for DataKey {
    fn from(key: wire::DataKey) -> Self {
        DataKey {
            prefix_key_id: key.prefix_key_id,
            dek_version: key.dek_version,
            values: key.values,
        }
    }
}
