//! etcd's Cluster service: who is a member, and changes of that.
//!
//! Source: etcd 3.7.1, `server/etcdserver/api/v3rpc/member.go`.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use super::gate::AtLearner;
use super::{Edge, header};
use crate::access::Identity;
use crate::clock;
use crate::config::MemberUrl;
use crate::raft::added_member_id;
use crate::replica::{ClusterError, Member, MemberChange};

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
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let request = request.into_inner();
        let peer_urls = peer_urls(&request.peer_ur_ls)?;
        let id = added_member_id(&peer_urls, clock::wall_ms().div_euclid(1_000));
        let is_learner = request.is_learner;
        let change = MemberChange::Add {
            id,
            peer_urls: peer_urls.clone(),
            is_learner,
        };
        let members = self.change_members(&who, change).await?;
        let header = header::of_cluster(&*self.replica);
        Ok(Response::new(pb::MemberAddResponse {
            header,
            member: Some(pb::Member {
                id,
                peer_ur_ls: peer_urls,
                is_learner,
                ..pb::Member::default()
            }),
            members,
        }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let id = request.into_inner().id;
        let members = self
            .change_members(&who, MemberChange::Remove { id })
            .await?;
        let header = header::of_cluster(&*self.replica);
        Ok(Response::new(pb::MemberRemoveResponse { header, members }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let pb::MemberUpdateRequest { id, peer_ur_ls } = request.into_inner();
        let known = self.replica.members().iter().any(|member| member.id == id);
        // etcd takes any text here, and then cannot reach the member; whether there is one comes
        // first.
        let peer_urls = match peer_urls(&peer_ur_ls) {
            Ok(peer_urls) => peer_urls,
            Err(_) if !known => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let change = MemberChange::Update { id, peer_urls };
        let members = self.change_members(&who, change).await?;
        let header = header::of_cluster(&*self.replica);
        Ok(Response::new(pb::MemberUpdateResponse { header, members }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let id = request.into_inner().id;
        let members = self
            .change_members(&who, MemberChange::Promote { id })
            .await?;
        let header = header::of_cluster(&*self.replica);
        Ok(Response::new(pb::MemberPromoteResponse { header, members }))
    }
}

impl Edge {
    async fn change_members(
        &self,
        who: &Identity,
        change: MemberChange,
    ) -> Result<Vec<pb::Member>, Status> {
        let change = self.permit(who, change)?;
        let members = self.cluster.change_members(change).await?;
        Ok(members.into_iter().map(member).collect())
    }
}

/// Sorted, as etcd keeps them.
fn peer_urls(given: &[String]) -> Result<Vec<String>, ClusterError> {
    let parsed: Result<Vec<MemberUrl>, _> = given.iter().map(|url| MemberUrl::parse(url)).collect();
    let mut urls = parsed.map_err(|_| ClusterError::BadUrls)?;
    urls.sort();
    if urls.is_empty() {
        return Err(ClusterError::BadUrls);
    }
    Ok(urls.iter().map(MemberUrl::to_string).collect())
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
