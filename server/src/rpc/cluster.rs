//! etcd's Cluster service: who is a member. Membership changes are not served yet.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use super::gate::AtLearner;
use super::{Edge, header, unknown_method};
use crate::replica::Member;

const SERVICE: &str = "etcdserverpb.Cluster";

#[tonic::async_trait]
impl Cluster for Edge {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let list = self.permit(&who, request.into_inner())?.into_request();
        self.read_point(!list.linearizable).await?;
        let members = self.replica.members().into_iter().map(member).collect();
        let header = header::of_cluster(&*self.replica);
        Ok(Response::new(pb::MemberListResponse { header, members }))
    }

    async fn member_add(
        &self,
        _: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(unknown_method("MemberAdd", SERVICE))
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(unknown_method("MemberRemove", SERVICE))
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(unknown_method("MemberUpdate", SERVICE))
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(unknown_method("MemberPromote", SERVICE))
    }
}

fn member(member: Member) -> pb::Member {
    let Member {
        id,
        name,
        peer_urls,
        client_urls,
        is_learner,
    } = member;
    pb::Member {
        id,
        name,
        peer_ur_ls: peer_urls,
        client_ur_ls: client_urls,
        is_learner,
    }
}
