//! A client's request that is carried out as several: reads, writes and watches made here on its
//! behalf, as locks and elections need them.
//!
//! Promise: each of them passes admission, parsing and the access door as if the client had sent
//! it, with the same metadata; whoever may not read or write a key may not lock with it either.
//! Not known here: what the requests are for.

use bytes::Bytes;
use futures::stream;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::kv_server::Kv;
use proto::etcdserverpb::lease_server::Lease;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::mvccpb::KeyValue;
use proto::mvccpb::event::EventType;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Status};

use super::Edge;
use super::watch::{Requests, Watching};

/// TTL of the lease that a client without one gets. Nobody renews it.
const SESSION_TTL_SECONDS: i64 = 60;

/// Who asks, with what came with the request. Cloning shares the edge.
#[derive(Clone)]
pub(super) struct Agent {
    edge: Edge,
    metadata: MetadataMap,
    extensions: Extensions,
}

/// Parts of one key in an ordered set of contenders.
pub(super) struct Contender {
    pub(super) key: Bytes,
    pub(super) created: i64,
}

impl Agent {
    /// Whoever made this request, and the request.
    pub(super) fn of<T>(edge: &Edge, request: Request<T>) -> (Self, T) {
        let (metadata, extensions, message) = request.into_parts();
        let agent = Agent {
            edge: edge.clone(),
            metadata,
            extensions,
        };
        (agent, message)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), message)
    }

    pub(super) async fn range(
        &self,
        request: pb::RangeRequest,
    ) -> Result<pb::RangeResponse, Status> {
        let answer = Kv::range(&self.edge, self.request(request)).await;
        Ok(answer.map_err(as_a_client)?.into_inner())
    }

    pub(super) async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        let answer = Kv::txn(&self.edge, self.request(request)).await;
        Ok(answer.map_err(as_a_client)?.into_inner())
    }

    pub(super) async fn delete(&self, key: Bytes) -> Result<pb::DeleteRangeResponse, Status> {
        let request = pb::DeleteRangeRequest {
            key,
            ..Default::default()
        };
        let answer = Kv::delete_range(&self.edge, self.request(request)).await;
        Ok(answer.map_err(as_a_client)?.into_inner())
    }

    /// The client's own lease, or a new one if it has none.
    pub(super) async fn session(&self, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let request = pb::LeaseGrantRequest {
            ttl: SESSION_TTL_SECONDS,
            id: 0,
        };
        let answer = Lease::lease_grant(&self.edge, self.request(request)).await;
        Ok(answer.map_err(as_a_client)?.into_inner().id)
    }

    /// A watch of its own stream, which ends when it is dropped.
    pub(super) fn watch(&self, create: pb::WatchCreateRequest) -> Result<Watching, Status> {
        let request = pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        let requests: Requests = Box::pin(stream::iter([Ok(request)]));
        let watching = self.edge.watching(self.request(requests));
        watching.map_err(as_a_client)
    }

    /// Returns once no key with this prefix is left that was created at `created_max` or before.
    pub(super) async fn earlier_gone(
        &self,
        prefix: &Bytes,
        created_max: i64,
    ) -> Result<(), Status> {
        loop {
            let newest = pb::RangeRequest {
                max_create_revision: created_max,
                sort_order: SortOrder::Descend.into(),
                ..first_of(prefix)
            };
            let answer = self.range(newest).await?;
            let revision = revision_of(answer.header.as_ref());
            let Some(last) = answer.kvs.into_iter().next() else {
                return Ok(());
            };
            self.gone(last.key, revision).await?;
        }
    }

    /// Returns once the key may have been deleted since `revision`.
    async fn gone(&self, key: Bytes, revision: i64) -> Result<(), Status> {
        let mut watching = self.watch(pb::WatchCreateRequest {
            key,
            start_revision: revision,
            filters: vec![pb::watch_create_request::FilterType::Noput.into()],
            ..Default::default()
        })?;
        while let Some(response) = watching.next().await {
            let response = response.map_err(as_a_client)?;
            let deleted = |event: &proto::mvccpb::Event| event.r#type() == EventType::Delete;
            // A compaction may have taken the event: whoever waits looks again.
            if response.compact_revision != 0 || response.events.iter().any(deleted) {
                return Ok(());
            }
            if response.canceled {
                return Err(Status::unknown(response.cancel_reason));
            }
        }
        Err(Status::unknown("lost watcher waiting for delete"))
    }

    /// Deletes the key if it is still the one that was created at that revision.
    pub(super) async fn withdraw(&self, contender: Contender) -> Result<pb::TxnResponse, Status> {
        let Contender { key, created } = contender;
        let delete = pb::DeleteRangeRequest {
            key: key.clone(),
            ..Default::default()
        };
        self.txn(pb::TxnRequest {
            compare: vec![created_at(key, created)],
            success: vec![op(pb::request_op::Request::RequestDeleteRange(delete))],
            failure: Vec::new(),
        })
        .await
    }
}

/// Withdraws a contender whose client has gone away or whose wait has failed.
pub(super) struct Withdrawal {
    agent: Agent,
    contender: Option<Contender>,
}

impl Withdrawal {
    pub(super) fn new(agent: &Agent, key: &Bytes, created: i64) -> Self {
        let contender = Contender {
            key: key.clone(),
            created,
        };
        Withdrawal {
            agent: agent.clone(),
            contender: Some(contender),
        }
    }

    /// The wait is over, and the key stays.
    pub(super) fn forget(mut self) {
        self.contender = None;
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        let Some(contender) = self.contender.take() else {
            return;
        };
        // Without a runtime the process ends, and the key with its lease.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let agent = self.agent.clone();
        runtime.spawn(async move {
            if let Err(status) = agent.withdraw(contender).await {
                tracing::debug!(code = ?status.code(), "a waiter's key stays until its lease ends");
            }
        });
    }
}

/// etcd's own client stands between its lock service and its store: an error that it knows
/// keeps its text and loses its code.
fn as_a_client(status: Status) -> Status {
    if status.message().starts_with("etcdserver: ") {
        return Status::unknown(status.message());
    }
    status
}

/// A contender's key: etcd's layout.
pub(super) fn contender_key(prefix: &Bytes, lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    let mut key = prefix.to_vec();
    key.extend_from_slice(format!("{sign}{:x}", lease.unsigned_abs()).as_bytes());
    key.into()
}

pub(super) fn prefix_of(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The key with this prefix that was created first.
pub(super) fn first_of(prefix: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.clone(),
        range_end: end_of(prefix),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    }
}

/// The first key behind a prefix that ends in `/`.
pub(super) fn end_of(prefix: &Bytes) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// The key's creation revision is this; 0 for a key that does not exist.
pub(super) fn created_at(key: Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key,
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

pub(super) fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

pub(super) fn put(key: &Bytes, value: Bytes, lease: i64) -> pb::RequestOp {
    op(pb::request_op::Request::RequestPut(pb::PutRequest {
        key: key.clone(),
        value,
        lease,
        ..Default::default()
    }))
}

pub(super) fn get(request: pb::RangeRequest) -> pb::RequestOp {
    op(pb::request_op::Request::RequestRange(request))
}

pub(super) fn one(key: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.clone(),
        ..Default::default()
    }
}

/// The first pair of a range's answer inside a transaction.
pub(super) fn first_pair(response: &pb::TxnResponse, at: usize) -> Option<&KeyValue> {
    match response.responses.get(at)?.response.as_ref()? {
        pb::response_op::Response::ResponseRange(range) => range.kvs.first(),
        _ => None,
    }
}

pub(super) fn revision_of(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contender_key_names_its_lease_as_go_prints_it() {
        let prefix = prefix_of(b"lock");
        assert_eq!(contender_key(&prefix, 0x2a), "lock/2a");
        assert_eq!(contender_key(&prefix, -1), "lock/-1");
        let least = contender_key(&prefix, i64::MIN);
        assert_eq!(least, "lock/-8000000000000000");
        assert_eq!(end_of(&prefix), "lock0");
    }
}
