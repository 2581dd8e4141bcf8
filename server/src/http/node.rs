//! What the pages ask of a member.
//!
//! Not known here: how a member knows.

use std::fmt;

use crate::metrics::metrics;

/// A member, as far as its pages show it.
pub trait Node: Clone + Send + Sync + 'static {
    /// Displayed as etcd words it: `etcdserver: no leader`.
    type ReadError: fmt::Display + Send;

    /// Reads at most one key, without its value, as a client's range would; linearizable or from
    /// this member's own state. Ends by itself within the request timeout.
    fn read(&self, linearizable: bool) -> impl Future<Output = Result<(), Self::ReadError>> + Send;

    fn condition(&self) -> Condition;

    /// Whether authentication is on.
    fn asks_for_names(&self) -> bool;
}

/// Who the members are, for the peer port's page.
pub trait Cluster: Clone + Send + Sync + 'static {
    fn id(&self) -> u64;

    /// By id.
    fn members(&self) -> Vec<ListedMember>;
}

/// In etcd's order; what is empty or false is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct ListedMember {
    pub id: u64,
    #[serde(rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    /// Empty until it has started.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(rename = "clientURLs", skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

/// At one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    pub member_id: u64,
    /// 0 for none.
    pub leader_id: u64,
    pub term: u64,
    pub has_leader: bool,
    pub is_leader: bool,
    pub is_learner: bool,
    /// Whether this member can open sealed values.
    pub root_opened: bool,
    pub committed_index: u64,
    pub applied_index: u64,
    pub revision: i64,
    /// -1 before the first compaction.
    pub compact_revision: i64,
    pub auth_revision: u64,
    pub keys: u64,
    pub disk_bytes: u64,
    pub logical_bytes: u64,
    /// `None`: no quota.
    pub quota_bytes: Option<u64>,
    pub alarms: Vec<MemberAlarm>,
    /// Ids of all members, this one among them.
    pub members: Vec<u64>,
    pub prefix_keys: u64,
    /// Of all prefix keys.
    pub key_versions: u64,
    /// As `/version` names it.
    pub cluster_version: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberAlarm {
    pub member_id: u64,
    pub kind: AlarmKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlarmKind {
    NoSpace,
    Corrupt,
}

impl AlarmKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
        }
    }
}

impl Condition {
    /// Into the gauges, just before they are scraped.
    pub(super) fn measure(&self) {
        let metrics = metrics();
        metrics.set_server_id(self.member_id);
        for (gauge, on) in [
            (&metrics.has_leader, self.has_leader),
            (&metrics.is_leader, self.is_leader),
            (&metrics.is_learner, self.is_learner),
            (&metrics.root_opened, self.root_opened),
        ] {
            gauge.set(i64::from(on));
        }
        for (gauge, count) in [
            (&metrics.proposals_committed, self.committed_index),
            (&metrics.proposals_applied, self.applied_index),
            (&metrics.keys, self.keys),
            (&metrics.auth_revision, self.auth_revision),
            (&metrics.prefix_keys, self.prefix_keys),
            (&metrics.key_versions, self.key_versions),
            (&metrics.db_total_bytes, self.disk_bytes),
            (&metrics.db_in_use_bytes, self.logical_bytes),
            (&metrics.quota_bytes, self.quota_bytes.unwrap_or(0)),
        ] {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        metrics.current_revision.set(self.revision);
        metrics.compact_revision.set(self.compact_revision);
        metrics.peers.set_known(self.member_id, &self.members);
        metrics.alarms.reset();
        for alarm in &self.alarms {
            let member = format!("{:x}", alarm.member_id);
            metrics
                .alarms
                .with_label_values(&[&member, alarm.kind.name()])
                .set(1);
        }
    }
}
