//! etcd's Maintenance service: status, alarms, hashes, defragmentation, snapshots, downgrades.
//!
//! Promise: fields, codes and texts are etcd's; what reads or rewrites everything does so beside
//! the other requests, never in front of them.

mod downgrade;
mod snapshot;

use std::pin::Pin;

use futures::Stream;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::maintenance_server::Maintenance;
use tonic::{Request, Response, Status};

use super::gate::AtLearner;
use super::{Edge, header};
use crate::command::{AlarmKind, ChangeAlarm};
use crate::config::ETCD_VERSION;
use crate::mvcc::hash::{KvHash, hash_kv};
use crate::mvcc::read_view::ReadView;
use crate::replica::MoveLeader;
use crate::seal::SealerError;

type AlarmPair = (AlarmKind, u64);

#[tonic::async_trait]
impl Maintenance for Edge {
    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let who = self.admit(&request, AtLearner::Served)?;
        self.permit(&who, request.into_inner())?;
        let view = self.replica.view();
        let status = self.replica.status();
        let mut errors = Vec::new();
        if status.leader == 0 {
            errors.push("etcdserver: no leader".to_owned());
        }
        errors.extend(view.alarms.iter().map(alarm_text));
        let in_use = i64::try_from(view.stored_bytes).unwrap_or(i64::MAX);
        Ok(Response::new(pb::StatusResponse {
            header: header::full(&*self.replica, view.revision),
            version: ETCD_VERSION.to_owned(),
            db_size: i64::try_from(status.disk_bytes).unwrap_or(i64::MAX),
            leader: status.leader,
            raft_index: status.committed_index,
            raft_term: status.term,
            raft_applied_index: status.applied_index,
            errors,
            db_size_in_use: in_use,
            is_learner: status.is_learner,
            storage_version: downgrade::cluster_version(&view),
            db_size_quota: self.quota(),
            downgrade_info: Some(downgrade::info(&view)),
        }))
    }

    async fn alarm(
        &self,
        request: Request<pb::AlarmRequest>,
    ) -> Result<Response<pb::AlarmResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let request = self.permit(&who, request.into_inner())?;
        let pb::AlarmRequest {
            action,
            member_id,
            alarm,
        } = *request.request();
        let kind = u32::try_from(alarm).ok().and_then(AlarmKind::from_number);
        let alarms = match (AlarmAction::try_from(action), kind) {
            (Ok(AlarmAction::Get), _) => {
                self.agreed_point().await?;
                // etcd does not look at the member here.
                let wanted = |(raised, _): &AlarmPair| alarm == 0 || kind == Some(*raised);
                self.replica.view().alarms.iter().filter(wanted).collect()
            }
            (Ok(AlarmAction::Activate), Some(kind)) => {
                self.change_alarm(
                    &who,
                    ChangeAlarm {
                        activate: true,
                        member: member_id,
                        kind,
                    },
                )
                .await?
            }
            (Ok(AlarmAction::Deactivate), Some(kind)) => {
                self.change_alarm(
                    &who,
                    ChangeAlarm {
                        activate: false,
                        member: member_id,
                        kind,
                    },
                )
                .await?
            }
            // etcd answers an action or an alarm that it does not know with an empty list.
            _ => Vec::new(),
        };
        let alarms = alarms.into_iter().map(alarm_member).collect();
        let header = header::full(&*self.replica, self.replica.view().revision);
        Ok(Response::new(pb::AlarmResponse { header, alarms }))
    }

    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        self.permit(&who, request.into_inner())?;
        tracing::info!("starting defragment");
        if let Err(error) = self.health.during_defrag(self.replica.defragment()).await {
            tracing::warn!(%error, "failed to defragment");
            return Err(Status::unknown(error.to_string()));
        }
        tracing::info!("finished defragment");
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn hash(
        &self,
        request: Request<pb::HashRequest>,
    ) -> Result<Response<pb::HashResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        self.permit(&who, request.into_inner())?;
        let (hash, revision) = self.hash_of(0).await?;
        let header = header::full(&*self.replica, revision);
        Ok(Response::new(pb::HashResponse {
            header,
            hash: hash.hash,
        }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let request = self.permit(&who, request.into_inner())?.into_request();
        let (hash, revision) = self.hash_of(request.revision).await?;
        Ok(Response::new(pb::HashKvResponse {
            header: header::full(&*self.replica, revision),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.hash_revision,
        }))
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>;

    async fn snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let who = self.admit(&request, AtLearner::Served)?;
        self.permit(&who, request.into_inner())?;
        Ok(Response::new(Box::pin(self.backup()?)))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let to = request.into_inner().target_id;
        let request = self.permit(&who, MoveLeader { to })?;
        self.cluster.move_leader(request).await?;
        Ok(Response::new(pb::MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let request = self.permit(&who, request.into_inner())?;
        Ok(Response::new(self.change_downgrade(request).await?))
    }
}

impl Edge {
    fn quota(&self) -> i64 {
        self.limits
            .quota_bytes
            .map_or(-1, |quota| i64::try_from(quota).unwrap_or(i64::MAX))
    }

    async fn change_alarm(
        &self,
        who: &crate::access::Identity,
        change: ChangeAlarm,
    ) -> Result<Vec<AlarmPair>, Status> {
        let change = self.permit(who, change)?;
        let same = |_: &ReadView, change: &ChangeAlarm| Ok::<_, SealerError>(change.clone());
        let (reply, _) = self.write::<_, ChangeAlarm>(&change, same).await?;
        Ok(reply.alarms)
    }

    /// The hash up to a revision, and the revision of the store at that time. It is small, but
    /// everything is read for it: it takes its turn as a large answer does.
    async fn hash_of(&self, revision: i64) -> Result<(KvHash, i64), Status> {
        let turn = self.limits.answers.enter(false).await?;
        self.read(false, &turn, move |values| {
            let hash = hash_kv(values.view, revision)?;
            Ok((hash, values.view.revision))
        })
        .await
    }
}

fn alarm_member((kind, member_id): AlarmPair) -> pb::AlarmMember {
    let alarm = i32::try_from(kind.number()).unwrap_or_default();
    pb::AlarmMember { member_id, alarm }
}

/// As Go prints an `AlarmMember`.
fn alarm_text((kind, member): AlarmPair) -> String {
    let name = match kind {
        AlarmKind::NoSpace => "NOSPACE",
        AlarmKind::Corrupt => "CORRUPT",
    };
    match member {
        0 => format!("alarm:{name}"),
        _ => format!("memberID:{member} alarm:{name}"),
    }
}
