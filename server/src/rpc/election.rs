//! etcd's Election service: the leader is the oldest key under a name, its value what it says.
//!
//! Promise: a campaign is won only while the winner's key exists, read again after the wait; one
//! that is given up takes its key with it. An observer sees the newest value of every leader it
//! can see, in order.
//!
//! Source: etcd 3.7.1, `server/etcdserver/api/v3election`, `client/v3/concurrency/election.go`.

use std::collections::VecDeque;
use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, stream};
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use proto::mvccpb::event::EventType;
use proto::v3electionpb::election_server::Election;
use proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use tonic::{Request, Response, Status};

use super::Edge;
use super::agent::{self, Agent, Contender, Withdrawal};
use super::gate::AtLearner;
use super::watch::Watching;

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

fn given(leader: Option<LeaderKey>) -> Result<LeaderKey, Status> {
    leader.ok_or_else(|| Status::unknown(r#""leader" field must be provided"#))
}

#[tonic::async_trait]
impl Election for Edge {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        self.admit(&request, AtLearner::Refused)?;
        let (agent, CampaignRequest { name, lease, value }) = Agent::of(self, request);
        let lease = agent.session(lease).await?;
        let prefix = agent::prefix_of(&name);
        let key = agent::contender_key(&prefix, lease);
        let (header, rev) = campaign(&agent, &prefix, &key, lease, value).await?;
        let leader = Some(LeaderKey {
            name,
            key,
            rev,
            lease,
        });
        Ok(Response::new(CampaignResponse { header, leader }))
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        self.admit(&request, AtLearner::Refused)?;
        let (agent, ProclaimRequest { leader, value }) = Agent::of(self, request);
        let LeaderKey {
            key, rev, lease, ..
        } = given(leader)?;
        let lease = agent.session(lease).await?;
        let header = proclaim(&agent, &key, rev, lease, value).await?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<LeaderResponse>, Status> {
        self.admit(&request, AtLearner::Refused)?;
        let (agent, LeaderRequest { name }) = Agent::of(self, request);
        let prefix = agent::prefix_of(&name);
        let mut answer = agent.range(agent::first_of(&prefix)).await?;
        let Some(kv) = answer.kvs.pop() else {
            return Err(Status::unknown("election: no leader"));
        };
        Ok(Response::new(LeaderResponse {
            header: answer.header,
            kv: Some(kv),
        }))
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        self.admit(&request, AtLearner::Refused)?;
        let (agent, LeaderRequest { name }) = Agent::of(self, request);
        let observing = Observing {
            agent,
            prefix: agent::prefix_of(&name),
            following: Following::Nobody,
            seen: VecDeque::new(),
            ended: false,
        };
        let leaders = stream::unfold(observing, |mut observing| async {
            Some((observing.next().await?, observing))
        });
        Ok(Response::new(Box::pin(leaders)))
    }

    async fn resign(
        &self,
        request: Request<ResignRequest>,
    ) -> Result<Response<ResignResponse>, Status> {
        self.admit(&request, AtLearner::Refused)?;
        let (agent, ResignRequest { leader }) = Agent::of(self, request);
        let LeaderKey {
            key, rev, lease, ..
        } = given(leader)?;
        agent.session(lease).await?;
        let contender = Contender { key, created: rev };
        let header = agent.withdraw(contender).await?.header;
        Ok(Response::new(ResignResponse { header }))
    }
}

/// The header of the entry that queued up, and the revision at which the key was created.
async fn campaign(
    agent: &Agent,
    prefix: &Bytes,
    key: &Bytes,
    lease: i64,
    value: Bytes,
) -> Result<(Option<pb::ResponseHeader>, i64), Status> {
    let queued = agent
        .txn(pb::TxnRequest {
            compare: vec![agent::created_at(key.clone(), 0)],
            success: vec![agent::put(key, value.clone(), lease)],
            failure: vec![agent::get(agent::one(key))],
        })
        .await?;
    let header = queued.header;
    let mut created = agent::revision_of(header.as_ref());
    let own = agent::first_pair(&queued, 0).filter(|_| !queued.succeeded);
    if let Some(own) = own {
        created = own.create_revision;
    }
    let withdrawal = Withdrawal::new(agent, key, created);
    if own.is_some_and(|own| own.value != value) {
        proclaim(agent, key, created, lease, value).await?;
    }
    agent.earlier_gone(prefix, created - 1).await?;
    let still = agent.range(agent::one(key)).await?;
    withdrawal.forget();
    // etcd does not look again, and would name a leader whose lease has ended.
    if still.kvs.first().map(|own| own.create_revision) != Some(created) {
        return Err(not_leader());
    }
    Ok((header, created))
}

async fn proclaim(
    agent: &Agent,
    key: &Bytes,
    created: i64,
    lease: i64,
    value: Bytes,
) -> Result<Option<pb::ResponseHeader>, Status> {
    let proclaimed = agent
        .txn(pb::TxnRequest {
            compare: vec![agent::created_at(key.clone(), created)],
            success: vec![agent::put(key, value, lease)],
            failure: Vec::new(),
        })
        .await?;
    if !proclaimed.succeeded {
        return Err(not_leader());
    }
    Ok(proclaimed.header)
}

/// What an observer waits for.
enum Following {
    /// To be asked who leads.
    Nobody,
    /// The first key under the prefix.
    Prefix(Box<Watching>),
    /// The leader's next words, or its end.
    Leader(Box<Watching>),
}

/// One observer.
struct Observing {
    agent: Agent,
    prefix: Bytes,
    following: Following,
    seen: VecDeque<LeaderResponse>,
    ended: bool,
}

impl Observing {
    async fn next(&mut self) -> Option<Result<LeaderResponse, Status>> {
        loop {
            if let Some(leader) = self.seen.pop_front() {
                return Some(Ok(leader));
            }
            if self.ended {
                return None;
            }
            if let Err(status) = self.look().await {
                self.ended = true;
                return Some(Err(status));
            }
        }
    }

    async fn look(&mut self) -> Result<(), Status> {
        let watching = match &mut self.following {
            Following::Nobody => return self.ask().await,
            Following::Prefix(watching) | Following::Leader(watching) => watching,
        };
        let Some(response) = watching.next().await else {
            self.following = Following::Nobody;
            return Ok(());
        };
        let response = response?;
        // Overtaken by a compaction: what there is now is asked for anew.
        if response.compact_revision != 0 {
            self.following = Following::Nobody;
            return Ok(());
        }
        if response.canceled {
            return Err(Status::unknown(response.cancel_reason));
        }
        match self.following {
            Following::Leader(_) => self.heard(response),
            Following::Prefix(_) | Following::Nobody => self.appeared(response),
        }
    }

    async fn ask(&mut self) -> Result<(), Status> {
        let mut answer = self.agent.range(agent::first_of(&self.prefix)).await?;
        let revision = agent::revision_of(answer.header.as_ref());
        match answer.kvs.pop() {
            Some(kv) => self.follow(answer.header, kv),
            None => {
                let watching = self.agent.watch(pb::WatchCreateRequest {
                    key: self.prefix.clone(),
                    range_end: agent::end_of(&self.prefix),
                    start_revision: revision,
                    ..Default::default()
                })?;
                self.following = Following::Prefix(Box::new(watching));
                Ok(())
            }
        }
    }

    /// Names this leader, and watches its key from then on.
    fn follow(&mut self, header: Option<pb::ResponseHeader>, kv: KeyValue) -> Result<(), Status> {
        let watching = self.agent.watch(pb::WatchCreateRequest {
            key: kv.key.clone(),
            start_revision: agent::revision_of(header.as_ref()) + 1,
            ..Default::default()
        })?;
        self.following = Following::Leader(Box::new(watching));
        let kv = Some(kv);
        self.seen.push_back(LeaderResponse { header, kv });
        Ok(())
    }

    fn appeared(&mut self, response: pb::WatchResponse) -> Result<(), Status> {
        let put = |event: &proto::mvccpb::Event| event.r#type() == EventType::Put;
        let first = response.events.into_iter().find(put);
        let Some(kv) = first.and_then(|event| event.kv) else {
            return Ok(());
        };
        // There may be later revisions in the same response.
        let revision = kv.mod_revision;
        let header = response
            .header
            .map(|header| pb::ResponseHeader { revision, ..header });
        self.follow(header, kv)
    }

    fn heard(&mut self, response: pb::WatchResponse) -> Result<(), Status> {
        for event in response.events {
            if event.r#type() == EventType::Delete {
                self.following = Following::Nobody;
                break;
            }
            let (header, kv) = (response.header, event.kv);
            self.seen.push_back(LeaderResponse { header, kv });
        }
        Ok(())
    }
}
