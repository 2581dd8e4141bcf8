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
use super::caller::{self, Caller, Withdrawal};
use super::gate::AtLearner;

#[tonic::async_trait]
impl Lock for Edge {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        self.admit(&request, AtLearner::Refused)?;
        let (caller, LockRequest { name, lease }) = Caller::of(self, request);
        let lease = caller.session(lease).await?;
        let prefix = caller::prefix_of(&name);
        let key = caller::contender_key(&prefix, lease);
        let header = acquire(&caller, &prefix, &key, lease).await?;
        Ok(Response::new(LockResponse { header, key }))
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        self.admit(&request, AtLearner::Refused)?;
        let (caller, UnlockRequest { key }) = Caller::of(self, request);
        let header = caller.delete(key).await?.header;
        Ok(Response::new(UnlockResponse { header }))
    }
}

/// Queues up under the prefix and waits for everyone in front.
async fn acquire(
    caller: &Caller,
    prefix: &Bytes,
    key: &Bytes,
    lease: i64,
) -> Result<Option<pb::ResponseHeader>, Status> {
    // A session that holds the lock already uses its key again.
    let queued = caller
        .txn(pb::TxnRequest {
            compare: vec![caller::created_at(key.clone(), 0)],
            success: vec![
                caller::put(key, Bytes::new(), lease),
                caller::get(caller::first_of(prefix)),
            ],
            failure: vec![
                caller::get(caller::one(key)),
                caller::get(caller::first_of(prefix)),
            ],
        })
        .await?;
    let created = if queued.succeeded {
        caller::revision_of(queued.header.as_ref())
    } else {
        caller::first_pair(&queued, 0).map_or(0, |own| own.create_revision)
    };
    if caller::first_pair(&queued, 1).is_none_or(|owner| owner.create_revision == created) {
        return Ok(queued.header);
    }
    let withdrawal = Withdrawal::new(caller, key, created);
    caller.earlier_gone(prefix, created - 1).await?;
    // The lease may have ended meanwhile.
    let own = caller.range(caller::one(key)).await?;
    withdrawal.forget();
    if own.kvs.is_empty() {
        return Err(Status::unknown("mutex: session is expired"));
    }
    Ok(own.header)
}
