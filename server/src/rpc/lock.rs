//! etcd's Lock service: a lock is the oldest key under a name.
//!
//! Promise: a lock is granted only while its owner's key exists, read again after the wait; a
//! client that gives up, or whose wait fails, takes its key with it.
//! Advisory, as in etcd: a holder that was paused past its lease learns it only from the revision
//! of its key, which is what it must guard its writes with.
//!
//! Source: etcd 3.7.1, `server/etcdserver/api/v3lock`, `client/v3/concurrency/mutex.go`.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::v3lockpb::lock_server::Lock;
use proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::{Request, Response, Status};

use super::Edge;
use super::agent::{self, Agent, Withdrawal};
use super::gate::AtLearner;

#[tonic::async_trait]
impl Lock for Edge {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        self.admit(&request, AtLearner::Refused)?;
        let (agent, LockRequest { name, lease }) = Agent::of(self, request);
        let lease = agent.session(lease).await?;
        let prefix = agent::prefix_of(&name);
        let key = agent::contender_key(&prefix, lease);
        let header = acquire(&agent, &prefix, &key, lease).await?;
        Ok(Response::new(LockResponse { header, key }))
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        self.admit(&request, AtLearner::Refused)?;
        let (agent, UnlockRequest { key }) = Agent::of(self, request);
        let header = agent.delete(key).await?.header;
        Ok(Response::new(UnlockResponse { header }))
    }
}

/// Queues up under the prefix and waits for everyone in front.
async fn acquire(
    agent: &Agent,
    prefix: &Bytes,
    key: &Bytes,
    lease: i64,
) -> Result<Option<pb::ResponseHeader>, Status> {
    // A session that holds the lock already uses its key again.
    let queued = agent
        .txn(pb::TxnRequest {
            compare: vec![agent::created_at(key.clone(), 0)],
            success: vec![
                agent::put(key, Bytes::new(), lease),
                agent::get(agent::first_of(prefix)),
            ],
            failure: vec![
                agent::get(agent::one(key)),
                agent::get(agent::first_of(prefix)),
            ],
        })
        .await?;
    let created = if queued.succeeded {
        agent::revision_of(queued.header.as_ref())
    } else {
        agent::first_pair(&queued, 0).map_or(0, |own| own.create_revision)
    };
    if agent::first_pair(&queued, 1).is_none_or(|owner| owner.create_revision == created) {
        return Ok(queued.header);
    }
    let withdrawal = Withdrawal::new(agent, key, created);
    agent.earlier_gone(prefix, created - 1).await?;
    // The lease may have ended meanwhile.
    let own = agent.range(agent::one(key)).await?;
    withdrawal.forget();
    if own.kvs.is_empty() {
        return Err(Status::unknown("mutex: session is expired"));
    }
    Ok(own.header)
}
