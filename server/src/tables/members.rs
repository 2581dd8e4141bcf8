//! What members say of themselves, and who has left. Who is a member is raft's membership; this
//! is the rest.
//!
//! Promise: an id that has left stays known as removed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::sealkv::replicated as wire;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberAttributes {
    pub name: String,
    pub client_urls: Vec<String>,
    /// The data directory that holds this member's log and votes. The same member id with
    /// another one has lost them and must not return.
    pub directory_id: [u8; 16],
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    attributes: BTreeMap<u64, MemberAttributes>,
    removed: BTreeSet<u64>,
}

impl Members {
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&MemberAttributes> {
        self.attributes.get(&id)
    }

    /// The directory that this member is known by, once it has published itself.
    #[must_use]
    pub fn directory_id(&self, id: u64) -> Option<[u8; 16]> {
        self.get(id).map(|attributes| attributes.directory_id)
    }

    /// By id.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &MemberAttributes)> {
        self.attributes
            .iter()
            .map(|(&id, attributes)| (id, attributes))
    }

    /// It was a member once and never will be again.
    #[must_use]
    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    pub(crate) fn remove(&mut self, id: u64) {
        self.attributes.remove(&id);
        self.removed.insert(id);
    }

    pub(crate) fn publish(&mut self, id: u64, attributes: MemberAttributes) {
        self.attributes.insert(id, attributes);
    }
}

impl MemberAttributes {
    pub(crate) fn to_row(&self) -> wire::MemberRow {
        wire::MemberRow {
            name: self.name.clone(),
            client_urls: self.client_urls.clone(),
            directory_id: Bytes::copy_from_slice(&self.directory_id),
        }
    }

    /// None if it is not what `to_row` makes.
    pub(crate) fn from_row(row: wire::MemberRow) -> Option<Self> {
        Some(MemberAttributes {
            name: row.name,
            client_urls: row.client_urls,
            directory_id: row.directory_id.as_ref().try_into().ok()?,
        })
    }
}
