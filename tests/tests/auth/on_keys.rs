//! The calls that read, write and watch keys, and those on the leases of keys.

use futures::future::BoxFuture;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request as Op;
use tonic::{Code, Status};

use crate::fixture::*;
use crate::matrix::{Alice, Row, call};

pub(crate) fn calls() -> Vec<Row> {
    use Alice::{May, MayNot};
    vec![
        ("range of a key", May, call!(it => it.range("a/1", ""))),
        ("range of a prefix", May, call!(it => it.range("a/", "a0"))),
        ("open-ended range", May, call!(it => it.range("z", "\0"))),
        (
            "range of a foreign key",
            MayNot,
            call!(it => it.range("b/1", "")),
        ),
        (
            "range that is too wide",
            MayNot,
            call!(it => it.range("a/", "b")),
        ),
        (
            "open-ended range of a prefix",
            MayNot,
            call!(it => it.range("a/", "\0")),
        ),
        (
            "range from a single key",
            MayNot,
            call!(it => it.range("m", "\0")),
        ),
        (
            "range of a key to write",
            MayNot,
            call!(it => it.range("w", "")),
        ),
        (
            "serializable range",
            MayNot,
            call!(it => it.client.kv().range(it.ask(pb::RangeRequest {
                key: bytes("b/1"), serializable: true, ..Default::default()
            }))),
        ),
        ("put", May, call!(it => it.put(put("a/2")))),
        (
            "put of a foreign key",
            MayNot,
            call!(it => it.put(put("b/2"))),
        ),
        (
            "put of a key to read",
            MayNot,
            call!(it => it.put(put("m"))),
        ),
        (
            "put that shows the record before",
            MayNot,
            call!(it => it.put(pb::PutRequest {
                prev_kv: true, ..put("w")
            })),
        ),
        ("put without showing it", May, call!(it => it.put(put("w")))),
        (
            "put with a lease of its own",
            May,
            call!(it => it.put(pb::PutRequest {
                lease: LEASE_OF_ALICE, ..put("a/3")
            })),
        ),
        (
            "put with a foreign lease",
            MayNot,
            call!(it => it.put(pb::PutRequest {
                lease: LEASE_OF_OTHERS, ..put("a/3")
            })),
        ),
        ("delete", May, call!(it => it.delete(delete("a/9", "")))),
        (
            "delete of a foreign range",
            MayNot,
            call!(it => it.delete(delete("b/", "b0"))),
        ),
        (
            "delete that shows the records",
            MayNot,
            call!(it => it.delete(pb::DeleteRangeRequest {
                prev_kv: true, ..delete("w", "")
            })),
        ),
        (
            "txn that reads",
            May,
            call!(it => it.txn(txn(vec![range("a/1", "")], vec![]))),
        ),
        (
            "txn that reads a foreign key",
            MayNot,
            call!(it => it.txn(txn(vec![], vec![range("b/1", "")]))),
        ),
        (
            "txn that compares a foreign key",
            MayNot,
            call!(it => it.txn(pb::TxnRequest {
                compare: vec![pb::Compare { key: bytes("b/1"), ..Default::default() }],
                ..txn(vec![range("a/1", "")], vec![])
            })),
        ),
        (
            "txn that writes",
            May,
            call!(it => it.txn(txn(vec![Op::RequestPut(put("a/4"))], vec![]))),
        ),
        (
            "txn with a foreign put in the other branch",
            MayNot,
            call!(it => it.txn(txn(vec![], vec![Op::RequestPut(put("b/4"))]))),
        ),
        (
            "nested txn with a foreign range",
            MayNot,
            call!(it => it.txn(nested(txn(vec![range("b/1", "")], vec![])))),
        ),
        (
            "nested txn with a foreign put",
            MayNot,
            call!(it => it.txn(nested(txn(vec![], vec![Op::RequestPut(put("b/5"))])))),
        ),
        (
            "nested txn with a foreign delete",
            MayNot,
            call!(it => it.txn(nested(txn(vec![Op::RequestDeleteRange(delete("b/1", ""))], vec![])))),
        ),
        (
            "nested txn with a foreign lease",
            MayNot,
            call!(it => it.txn(nested(txn(
                vec![Op::RequestPut(pb::PutRequest { lease: LEASE_OF_OTHERS, ..put("a/5") })], vec![],
            )))),
        ),
        (
            "nested txn that shows the record before",
            MayNot,
            call!(it => it.txn(nested(txn(
                vec![Op::RequestPut(pb::PutRequest { prev_kv: true, ..put("w") })], vec![],
            )))),
        ),
        (
            "lease grant",
            May,
            call!(it => it.client.lease().lease_grant(it.ask(
            pb::LeaseGrantRequest { ttl: 60, id: 0 }))),
        ),
        (
            "revoke of a foreign lease",
            MayNot,
            call!(it => it.client.lease().lease_revoke(it.ask(
            pb::LeaseRevokeRequest { id: LEASE_OF_OTHERS }))),
        ),
        (
            "keep-alive of a lease",
            May,
            call!(it => keep_alive(it, LEASE_OF_ALICE)),
        ),
        (
            "keep-alive of a foreign lease",
            MayNot,
            call!(it => keep_alive(it, LEASE_OF_OTHERS)),
        ),
        (
            "time to live without keys",
            May,
            call!(it => time_to_live(it, LEASE_OF_OTHERS, false)),
        ),
        (
            "time to live with keys",
            May,
            call!(it => time_to_live(it, LEASE_OF_ALICE, true)),
        ),
        (
            "time to live with foreign keys",
            MayNot,
            call!(it => time_to_live(it, LEASE_OF_OTHERS, true)),
        ),
        (
            "list of leases",
            MayNot,
            call!(it => it.client.lease().lease_leases(it.ask(
            pb::LeaseLeasesRequest {}))),
        ),
        (
            "stream of a range",
            May,
            call!(it => streamed(it, "a/", "a0")),
        ),
        (
            "open-ended stream of a range",
            MayNot,
            call!(it => streamed(it, "m", "\0")),
        ),
        (
            "stream of a foreign key",
            MayNot,
            call!(it => streamed(it, "b/1", "")),
        ),
        ("watch of a key", May, call!(it => watched(it, "m", ""))),
        (
            "watch of a prefix",
            May,
            call!(it => watched(it, "a/", "a0")),
        ),
        ("open-ended watch", May, call!(it => watched(it, "z", "\0"))),
        (
            "watch of a foreign key",
            MayNot,
            call!(it => watched(it, "b/1", "")),
        ),
        (
            "watch that is too wide",
            MayNot,
            call!(it => watched(it, "a/", "b")),
        ),
        (
            "open-ended watch from a single key",
            MayNot,
            call!(it => watched(it, "m", "\0")),
        ),
        (
            "delete of a range",
            May,
            call!(it => it.delete(delete("a/8", "a/9"))),
        ),
        (
            "open-ended delete of a prefix",
            MayNot,
            call!(it => it.delete(delete("a/", "\0"))),
        ),
        (
            "open-ended delete of what one may only read",
            MayNot,
            call!(it => it.delete(delete("z", "\0"))),
        ),
        (
            "nested txn",
            May,
            call!(it => it.txn(nested(txn(
                vec![Op::RequestPut(pb::PutRequest { prev_kv: true, lease: LEASE_OF_ALICE, ..put("a/6") })],
                vec![range("a/", "a0")],
            )))),
        ),
        (
            "nested txn with an open-ended range",
            MayNot,
            call!(it => it.txn(nested(txn(vec![range("m", "\0")], vec![])))),
        ),
        (
            "nested txn that compares a foreign key",
            MayNot,
            call!(it => it.txn(nested(pb::TxnRequest {
                compare: vec![pb::Compare { key: bytes("b/1"), ..Default::default() }],
                ..txn(vec![], vec![])
            }))),
        ),
        (
            "nested txn that compares too wide a range",
            MayNot,
            call!(it => it.txn(nested(pb::TxnRequest {
                compare: vec![pb::Compare {
                    key: bytes("m"), range_end: bytes("\0"), ..Default::default()
                }],
                ..txn(vec![], vec![])
            }))),
        ),
        (
            "nested txn that shows deleted records",
            MayNot,
            call!(it => it.txn(nested(txn(
                vec![Op::RequestDeleteRange(pb::DeleteRangeRequest {
                    prev_kv: true, ..delete("w", "")
                })], vec![],
            )))),
        ),
        (
            "txn with a foreign lease",
            MayNot,
            call!(it => it.txn(txn(
                vec![Op::RequestPut(pb::PutRequest { lease: LEASE_OF_OTHERS, ..put("a/5") })], vec![],
            ))),
        ),
        (
            "put with a lease that nothing hangs on",
            May,
            call!(it => it.put(pb::PutRequest { lease: LEASE_OF_NOBODY, ..put("a/7") })),
        ),
        (
            "revoke of a lease of one's own",
            May,
            call!(it => it.client.lease().lease_revoke(it.ask(
            pb::LeaseRevokeRequest { id: LEASE_OF_NOBODY }))),
        ),
    ]
}

async fn keep_alive(who: As, id: i64) -> Result<(), Status> {
    let requests = futures::stream::iter([pb::LeaseKeepAliveRequest { id }]);
    let answers = who
        .client
        .lease()
        .lease_keep_alive(who.ask(requests))
        .await?;
    answers.into_inner().message().await.map(drop)
}

async fn time_to_live(who: As, id: i64, keys: bool) -> Result<(), Status> {
    let request = pb::LeaseTimeToLiveRequest { id, keys };
    let mut client = who.client.lease();
    client.lease_time_to_live(who.ask(request)).await.map(drop)
}

async fn streamed(who: As, key: &'static str, end: &'static str) -> Result<(), Status> {
    let range = pb::RangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        ..Default::default()
    };
    let answers = who.client.kv().range_stream(who.ask(range)).await?;
    answers.into_inner().message().await.map(drop)
}

/// A watch is refused in its first answer, where the status is told as text.
async fn watched(who: As, key: &'static str, end: &'static str) -> Result<(), Status> {
    let told = who.watch(key, end).await.next().await;
    assert!(told.created, "{told:?}");
    if !told.canceled {
        return Ok(());
    }
    assert_eq!(told.watch_id, -1, "{told:?}");
    let reason = told.cancel_reason.strip_prefix("rpc error: code = ");
    let (code, message) = reason
        .and_then(|reason| reason.split_once(" desc = "))
        .expect("a reason is a status as Go writes it");
    let code = [
        Code::InvalidArgument,
        Code::PermissionDenied,
        Code::Unauthenticated,
    ]
    .into_iter()
    .find(|it| format!("{it:?}") == code);
    Err(Status::new(code.expect("a code of a refusal"), message))
}
