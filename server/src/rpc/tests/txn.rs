//! Transactions.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use tonic::Code;

use super::wire::{assert_status, bytes, one, put, serve, span, text};
use crate::rpc::Limits;

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

fn put_op(key: &str, value: &str) -> pb::RequestOp {
    op(Request::RequestPut(put(key, value)))
}

fn range_op(key: &str) -> pb::RequestOp {
    op(Request::RequestRange(one(key)))
}

fn delete_op(key: &str, range_end: &str) -> pb::RequestOp {
    let (key, range_end) = (bytes(key), bytes(range_end));
    op(Request::RequestDeleteRange(pb::DeleteRangeRequest {
        key,
        range_end,
        prev_kv: true,
    }))
}

fn txn_op(txn: pb::TxnRequest) -> pb::RequestOp {
    op(Request::RequestTxn(txn))
}

fn value_is(key: &str, result: CompareResult, value: &str) -> pb::Compare {
    pb::Compare {
        result: result.into(),
        target: CompareTarget::Value.into(),
        key: bytes(key),
        target_union: Some(TargetUnion::Value(bytes(value))),
        range_end: bytes(""),
    }
}

fn when(compare: Vec<pb::Compare>) -> pb::TxnRequest {
    pb::TxnRequest {
        compare,
        success: vec![range_op("yes")],
        failure: vec![range_op("no")],
    }
}

#[tokio::test]
async fn operations_see_the_ones_before_them_and_share_a_revision() {
    let served = serve().await;
    served.put("a", "1").await;
    let success = vec![
        put_op("a", "2"),
        range_op("a"),
        put_op("b", "3"),
        delete_op("a", ""),
    ];
    // A key may not be put and deleted in one transaction.
    let request = pb::TxnRequest {
        success,
        ..Default::default()
    };
    let message = "etcdserver: duplicate key given in txn request";
    assert_status(served.txn(request).await, Code::InvalidArgument, message);

    let success = vec![
        put_op("a", "2"),
        range_op("a"),
        put_op("b", "3"),
        delete_op("c", "d"),
    ];
    let response = served
        .txn(pb::TxnRequest {
            success,
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(
        (response.succeeded, response.header.unwrap().revision),
        (true, 3)
    );
    let Some(Response::ResponseRange(range)) = &response.responses[1].response else {
        panic!("a range answers a range");
    };
    let header = range.header.unwrap();
    assert_eq!(
        (header.revision, header.member_id, header.cluster_id),
        (3, 0, 0)
    );
    assert_eq!(
        (text(&range.kvs[0].value), range.kvs[0].mod_revision),
        ("2".into(), 3)
    );
    let Some(Response::ResponseDeleteRange(delete)) = &response.responses[3].response else {
        panic!("a delete answers a delete");
    };
    assert_eq!(delete.deleted, 0);
}

#[tokio::test]
async fn values_are_compared_by_their_plaintext() {
    use CompareResult::{Equal, Greater, Less, NotEqual};
    let served = serve().await;
    served.put("a", "m").await;
    for (result, operand, holds) in [
        (Equal, "m", true),
        (Equal, "n", false),
        (NotEqual, "n", true),
        (NotEqual, "m", false),
        (Greater, "l", true),
        (Greater, "m", false),
        (Less, "n", true),
        (Less, "m", false),
    ] {
        let compares = vec![value_is("a", result, operand)];
        let read = served.txn(when(compares.clone())).await.unwrap();
        assert_eq!(read.succeeded, holds, "{result:?} {operand}, read only");
        let success = vec![put_op("x", "1")];
        let request = pb::TxnRequest {
            compare: compares,
            success,
            failure: vec![],
        };
        let written = served.txn(request).await.unwrap();
        assert_eq!(
            written.succeeded, holds,
            "{result:?} {operand}, with a write"
        );
    }
    for result in [Equal, NotEqual, Less, Greater] {
        let missing = served
            .txn(when(vec![value_is("missing", result, "")]))
            .await
            .unwrap();
        assert!(
            !missing.succeeded,
            "nothing compares to the value of a missing key"
        );
    }
}

#[tokio::test]
async fn a_range_compare_holds_if_every_key_of_it_does() {
    let served = serve().await;
    served.put("k1", "v").await;
    served.put("k2", "v").await;
    let all = |value| pb::Compare {
        range_end: bytes("l"),
        ..value_is("k", CompareResult::Equal, value)
    };
    assert!(served.txn(when(vec![all("v")])).await.unwrap().succeeded);
    served.put("k2", "w").await;
    assert!(!served.txn(when(vec![all("v")])).await.unwrap().succeeded);
}

#[tokio::test]
async fn numbers_compare_and_a_missing_key_has_zeros() {
    let served = serve().await;
    served.put("a", "1").await;
    let compare = |target: CompareTarget, key: &str, union| pb::Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: bytes(key),
        target_union: union,
        range_end: bytes(""),
    };
    use TargetUnion::{CreateRevision, Lease, ModRevision, Version};
    for (target, key, union) in [
        (CompareTarget::Version, "a", Some(Version(1))),
        (CompareTarget::Create, "a", Some(CreateRevision(2))),
        (CompareTarget::Mod, "a", Some(ModRevision(2))),
        (CompareTarget::Lease, "a", Some(Lease(0))),
        (CompareTarget::Lease, "a", None),
        (CompareTarget::Version, "missing", Some(Version(0))),
        (CompareTarget::Create, "missing", None),
    ] {
        let request = when(vec![compare(target, key, union.clone())]);
        assert!(
            served.txn(request).await.unwrap().succeeded,
            "{target:?} {key}"
        );
    }
}

#[tokio::test]
async fn a_nested_transaction_answers_with_an_empty_header() {
    let served = serve().await;
    served.put("a", "1").await;
    let inner = pb::TxnRequest {
        compare: vec![value_is("a", CompareResult::Equal, "1")],
        success: vec![put_op("b", "yes")],
        failure: vec![put_op("b", "no")],
    };
    let success = vec![put_op("c", "1"), txn_op(inner)];
    let response = served
        .txn(pb::TxnRequest {
            success,
            ..Default::default()
        })
        .await
        .unwrap();
    let Some(Response::ResponseTxn(nested)) = &response.responses[1].response else {
        panic!("a transaction answers a transaction");
    };
    assert!(nested.succeeded);
    assert_eq!(nested.header, Some(pb::ResponseHeader::default()));
    assert_eq!(served.get("b").await, Some("yes".into()));
}

#[tokio::test]
async fn a_read_only_transaction_needs_no_proposal() {
    use std::sync::atomic::Ordering;
    let served = serve().await;
    served.put("yes", "1").await;
    let proposed = served.proposals.load(Ordering::SeqCst);
    let response = served.txn(when(vec![])).await.unwrap();
    assert_eq!(response.header.unwrap().revision, 2);
    assert_eq!(served.proposals.load(Ordering::SeqCst), proposed);
    served.leaderless.send_replace(true);
    assert_status(
        served.txn(when(vec![])).await,
        Code::Unavailable,
        "etcdserver: request timed out",
    );
    let range = pb::RangeRequest {
        serializable: true,
        ..one("yes")
    };
    let success = vec![op(Request::RequestRange(range))];
    served
        .txn(pb::TxnRequest {
            success,
            ..Default::default()
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn what_a_transaction_may_not_ask_is_refused_before_it_runs() {
    let limits = Limits {
        txn_ops_max: 2,
        ..Limits::default()
    };
    let served = super::wire::serve_with(limits).await;
    let of = |success| pb::TxnRequest {
        success,
        ..Default::default()
    };
    let invalid = Code::InvalidArgument;
    let many = vec![put_op("a", "1"), put_op("b", "1"), put_op("c", "1")];
    let message = "etcdserver: too many operations in txn request";
    assert_status(served.txn(of(many)).await, invalid, message);
    let inner = of(vec![put_op("a", "1"), put_op("b", "1")]);
    assert_status(served.txn(of(vec![txn_op(inner)])).await, invalid, message);
    let none = pb::RequestOp { request: None };
    assert_status(
        served.txn(of(vec![none])).await,
        invalid,
        "etcdserver: key not found",
    );
    let message = "etcdserver: key is not provided";
    assert_status(
        served.txn(of(vec![put_op("", "1")])).await,
        invalid,
        message,
    );
    let compare = value_is("", CompareResult::Equal, "");
    assert_status(served.txn(when(vec![compare])).await, invalid, message);
    let message = "etcdserver: duplicate key given in txn request";
    let twice = vec![put_op("a", "1"), put_op("a", "2")];
    assert_status(served.txn(of(twice)).await, invalid, message);
}

#[tokio::test]
async fn branches_of_a_nested_transaction_may_share_keys_but_not_with_their_parent() {
    let served = serve().await;
    let inner = |key| pb::TxnRequest {
        compare: vec![],
        success: vec![put_op(key, "1")],
        failure: vec![put_op(key, "2")],
    };
    let of = |success| pb::TxnRequest {
        success,
        ..Default::default()
    };
    served
        .txn(of(vec![txn_op(inner("a")), put_op("b", "1")]))
        .await
        .unwrap();
    let message = "etcdserver: duplicate key given in txn request";
    for ops in [
        vec![txn_op(inner("a")), put_op("a", "1")],
        vec![txn_op(inner("a")), txn_op(inner("a"))],
        vec![txn_op(inner("b")), delete_op("a", "c")],
    ] {
        assert_status(served.txn(of(ops)).await, Code::InvalidArgument, message);
    }
}

#[tokio::test]
async fn a_refused_branch_changes_nothing() {
    let served = serve().await;
    served.put("a", "1").await;
    let leased = pb::PutRequest {
        lease: 99,
        ..put("b", "1")
    };
    let success = vec![put_op("a", "2"), op(Request::RequestPut(leased))];
    let message = "etcdserver: requested lease not found";
    let request = pb::TxnRequest {
        success,
        ..Default::default()
    };
    assert_status(served.txn(request).await, Code::NotFound, message);
    let future = pb::RangeRequest {
        revision: 99,
        ..one("a")
    };
    let success = vec![put_op("a", "2"), op(Request::RequestRange(future))];
    let message = "etcdserver: mvcc: required revision is a future revision";
    let request = pb::TxnRequest {
        success,
        ..Default::default()
    };
    assert_status(served.txn(request).await, Code::OutOfRange, message);
    let all = served.range(span("a", "z")).await.unwrap();
    assert_eq!((all.header.unwrap().revision, all.kvs.len()), (2, 1));
}
