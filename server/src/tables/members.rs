//! What members say of themselves. Who is a member is raft's membership; this is the rest.

use std::collections::BTreeMap;

use proto::sealkv::replicated as wire;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberAttributes {
    pub name: String,
    pub client_urls: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    attributes: BTreeMap<u64, MemberAttributes>,
}

impl Members {
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&MemberAttributes> {
        self.attributes.get(&id)
    }

    /// By id.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &MemberAttributes)> {
        self.attributes
            .iter()
            .map(|(&id, attributes)| (id, attributes))
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
        }
    }

    pub(crate) fn from_row(row: wire::MemberRow) -> Self {
        MemberAttributes {
            name: row.name,
            client_urls: row.client_urls,
        }
    }
}
