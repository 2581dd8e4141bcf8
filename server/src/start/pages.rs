//! What the web pages ask of this member, answered from the edge.

use crate::command::AlarmKind;
use crate::config::ETCD_CLUSTER_VERSION;
use crate::http;
use crate::mvcc::key_range::KeyRange;
use crate::raft::Consensus;
use crate::replica::Replica;
use crate::rpc::Edge;

/// A member, as its pages see it.
#[derive(Clone)]
pub(super) struct PagesNode {
    pub(super) edge: Edge,
}

/// Worded as etcd words it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct ReadFailed(String);

impl http::Node for PagesNode {
    type ReadError = ReadFailed;

    async fn read(&self, linearizable: bool) -> Result<(), ReadFailed> {
        if linearizable {
            let barrier = self.edge.replica.read_barrier().await;
            barrier.map_err(|error| ReadFailed(tonic::Status::from(error).message().to_owned()))?;
        }
        let view = self.edge.replica.view();
        // The first key there is, as etcd's health check reads one.
        let everything = KeyRange::from_wire(b"\0".as_slice().into(), b"\0".as_slice().into());
        let _ = view.index.read().range(&everything, view.revision, 1, None);
        Ok(())
    }

    fn asks_for_names(&self) -> bool {
        self.edge.replica.view().auth.is_enabled()
    }

    fn condition(&self) -> http::Condition {
        let status = self.edge.replica.status();
        let view = self.edge.replica.view();
        let everything = KeyRange::from_wire(b"\0".as_slice().into(), b"\0".as_slice().into());
        let alarms = view
            .alarms
            .iter()
            .map(|(kind, member_id)| http::MemberAlarm {
                member_id,
                kind: match kind {
                    AlarmKind::NoSpace => http::AlarmKind::NoSpace,
                    AlarmKind::Corrupt => http::AlarmKind::Corrupt,
                },
            })
            .collect();
        http::Condition {
            member_id: status.member_id,
            leader_id: status.leader,
            term: status.term,
            has_leader: status.leader != 0,
            is_leader: status.leader == status.member_id,
            is_learner: status.is_learner,
            root_opened: self.edge.sealer.is_open(),
            committed_index: status.committed_index,
            applied_index: status.applied_index,
            revision: view.revision,
            compact_revision: view.compact_revision,
            auth_revision: view.auth.revision(),
            keys: view.index.read().count(&everything, view.revision),
            disk_bytes: status.disk_bytes,
            logical_bytes: view.stored_bytes,
            quota_bytes: self.edge.limits.quota_bytes,
            alarms,
            members: self.edge.replica.members().iter().map(|m| m.id).collect(),
            prefix_keys: view.key_table.prefix_keys().count() as u64,
            key_versions: view
                .key_table
                .prefix_keys()
                .map(|key| key.versions().count() as u64)
                .sum(),
            cluster_version: view
                .downgrade
                .as_deref()
                .unwrap_or(ETCD_CLUSTER_VERSION)
                .to_owned(),
        }
    }
}

/// The cluster, as the peer port's page lists it.
#[derive(Clone)]
pub(super) struct PagesCluster(pub(super) Consensus);

impl http::Cluster for PagesCluster {
    fn id(&self) -> u64 {
        self.0.peers().identity().cluster_id
    }

    fn members(&self) -> Vec<http::ListedMember> {
        let members = Replica::members(&self.0).into_iter();
        members
            .map(|member| http::ListedMember {
                id: member.id,
                name: member.name,
                peer_urls: member.peer_urls,
                client_urls: member.client_urls,
                is_learner: member.is_learner,
            })
            .collect()
    }
}
