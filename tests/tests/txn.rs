//! Transactions: compares, branches, nesting, atomicity, as etcd answers them.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::CompareResult::{self, Equal, Greater, Less, NotEqual};
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::response_op::Response;
use tests::client::{Client, prefix_end};
use tests::cluster::Cluster;
use tests::txn;

async fn holds(client: &Client, compare: pb::Compare) -> bool {
    let request = pb::TxnRequest {
        compare: vec![compare],
        ..Default::default()
    };
    client.txn(request).await.unwrap().succeeded
}

#[tokio::test]
async fn every_compare_target_and_result() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.grant(5, 600).await.unwrap();
    client.put("x", "0").await.unwrap(); // 2
    client.put("k", "b").await.unwrap(); // 3
    client
        .put_request(pb::PutRequest {
            key: "k".into(),
            value: "m".into(),
            lease: 5,
            ..Default::default()
        })
        .await
        .unwrap(); // 4
    let union = |target: &str, offset: i64| match target {
        "version" => TargetUnion::Version(2 + offset),
        "create" => TargetUnion::CreateRevision(3 + offset),
        "mod" => TargetUnion::ModRevision(4 + offset),
        "lease" => TargetUnion::Lease(5 + offset),
        _ => TargetUnion::Value(["a", "m", "z"][usize::try_from(offset + 1).unwrap()].into()),
    };
    for target in ["version", "create", "mod", "lease", "value"] {
        for (offset, true_for) in [
            (-1, [Greater, NotEqual]),
            (0, [Equal, Equal]),
            (1, [Less, NotEqual]),
        ] {
            for result in [Equal, Greater, Less, NotEqual] {
                let compare = txn::compare("k", result, union(target, offset));
                assert_eq!(
                    holds(&client, compare).await,
                    true_for.contains(&result),
                    "{target} {offset} {result:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_missing_key_compares_as_zeros_but_never_by_value() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let zero = |union: TargetUnion| txn::compare("missing", Equal, union);
    assert!(holds(&client, zero(TargetUnion::Version(0))).await);
    assert!(holds(&client, zero(TargetUnion::CreateRevision(0))).await);
    assert!(holds(&client, zero(TargetUnion::ModRevision(0))).await);
    assert!(holds(&client, zero(TargetUnion::Lease(0))).await);
    for result in [Equal, NotEqual, Less, Greater] {
        assert!(
            !holds(
                &client,
                txn::compare("missing", result, TargetUnion::Value("".into()))
            )
            .await,
            "{result:?}"
        );
    }
    assert!(
        holds(
            &client,
            txn::compare("missing", Less, TargetUnion::Version(1))
        )
        .await
    );
}

#[tokio::test]
async fn a_range_compare_holds_if_it_holds_for_every_key() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for key in ["p/1", "p/2", "p/3"] {
        client.put(key, "same").await.unwrap();
    }
    let over = |prefix: &'static str, result: CompareResult, union: TargetUnion| pb::Compare {
        range_end: prefix_end(prefix.as_bytes()),
        ..txn::compare(prefix, result, union)
    };
    assert!(
        holds(
            &client,
            over("p/", Equal, TargetUnion::Value("same".into()))
        )
        .await
    );
    assert!(holds(&client, over("p/", Equal, TargetUnion::Version(1))).await);
    client.put("p/2", "other").await.unwrap();
    assert!(
        !holds(
            &client,
            over("p/", Equal, TargetUnion::Value("same".into()))
        )
        .await
    );
    assert!(
        !holds(
            &client,
            over("p/", NotEqual, TargetUnion::Value("same".into()))
        )
        .await
    );
    assert!(holds(&client, over("p/", Greater, TargetUnion::Version(0))).await);
    assert!(
        !holds(
            &client,
            over("none/", Equal, TargetUnion::Value("same".into()))
        )
        .await
    );
    assert!(holds(&client, over("none/", Equal, TargetUnion::Version(0))).await);
}

#[tokio::test]
async fn an_unset_operand_compares_with_nothing() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.put("k", "").await.unwrap();
    let bare = |target: pb::compare::CompareTarget, key: &'static str| pb::Compare {
        target: target.into(),
        key: key.into(),
        ..Default::default()
    };
    assert!(holds(&client, bare(pb::compare::CompareTarget::Value, "k")).await);
    assert!(!holds(&client, bare(pb::compare::CompareTarget::Version, "k")).await);
    assert!(
        holds(
            &client,
            bare(pb::compare::CompareTarget::Version, "missing")
        )
        .await
    );
}

#[tokio::test]
async fn the_failure_branch_runs_when_one_compare_fails() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.put("a", "1").await.unwrap();
    let request = pb::TxnRequest {
        compare: vec![
            txn::compare("a", Equal, TargetUnion::Version(1)),
            txn::compare("a", Equal, TargetUnion::Value("2".into())),
        ],
        success: vec![txn::put("won", "")],
        failure: vec![txn::put("lost", ""), txn::get("a")],
    };
    let answer = client.txn(request).await.unwrap();
    assert!(!answer.succeeded);
    assert_eq!(answer.responses.len(), 2);
    assert_eq!(txn::range_of(&answer.responses[1]).kvs[0].value, "1");
    assert_eq!(
        (
            client.get("won").await.unwrap().count,
            client.get("lost").await.unwrap().count
        ),
        (0, 1)
    );
}

#[tokio::test]
async fn one_revision_for_all_and_later_operations_see_earlier_ones() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.put("old", "0").await.unwrap();
    let everything = pb::RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        ..Default::default()
    };
    let request = txn::always(vec![
        txn::put("a", "1"),
        txn::put("b", "2"),
        txn::range(everything.clone()),
        txn::delete("old"),
        txn::range(everything),
    ]);
    let answer = client.txn(request).await.unwrap();
    let header = answer.header.unwrap();
    assert!(answer.succeeded);
    assert_eq!(header.revision, 3);
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0);
    let first = txn::range_of(&answer.responses[2]);
    assert_eq!(
        first
            .kvs
            .iter()
            .map(|kv| (kv.key.as_ref(), kv.mod_revision))
            .collect::<Vec<_>>(),
        [(b"a".as_ref(), 3), (b"b".as_ref(), 3), (b"old", 2)]
    );
    assert_eq!(txn::range_of(&answer.responses[4]).count, 2);
    let Response::ResponsePut(put) = txn::response(&answer.responses[0]) else {
        panic!("a put answers a put")
    };
    let inner = put.header.unwrap();
    assert_eq!(
        (
            inner.revision,
            inner.cluster_id,
            inner.member_id,
            inner.raft_term
        ),
        (3, 0, 0, 0),
        "inner headers have only the revision"
    );
}

#[tokio::test]
async fn a_transaction_that_writes_nothing_leaves_the_revision() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.put("a", "1").await.unwrap();
    let read = client.txn(txn::always(vec![txn::get("a")])).await.unwrap();
    assert_eq!(read.header.unwrap().revision, 2);
    let empty = client.txn(pb::TxnRequest::default()).await.unwrap();
    assert_eq!(
        (
            empty.succeeded,
            empty.responses.len(),
            empty.header.unwrap().revision
        ),
        (true, 0, 2)
    );
    let deletes_nothing = client
        .txn(txn::always(vec![txn::delete("none")]))
        .await
        .unwrap();
    assert_eq!(deletes_nothing.header.unwrap().revision, 2);
    let not_taken = pb::TxnRequest {
        compare: vec![txn::compare("a", Equal, TargetUnion::Version(9))],
        success: vec![txn::put("a", "2")],
        failure: vec![txn::get("a")],
    };
    assert_eq!(
        client
            .txn(not_taken)
            .await
            .unwrap()
            .header
            .unwrap()
            .revision,
        2
    );
}

#[tokio::test]
async fn nested_transactions_answer_inside_their_parent() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let inner = pb::TxnRequest {
        compare: vec![txn::compare("a", Equal, TargetUnion::Version(0))],
        success: vec![txn::put("inner", "yes"), txn::get("outer")],
        failure: vec![txn::put("inner", "no")],
    };
    let request = txn::always(vec![
        txn::put("a", "1"),
        txn::nested(inner),
        txn::put("outer", "3"),
    ]);
    let answer = client.txn(request).await.unwrap();
    let nested = txn::txn_of(&answer.responses[1]);
    assert!(
        nested.succeeded,
        "compares of nested transactions see the state before the outermost one"
    );
    assert_eq!(txn::range_of(&nested.responses[1]).count, 0);
    assert_eq!(client.value("inner").await.unwrap(), Some("yes".into()));
    assert_eq!(client.get("inner").await.unwrap().kvs[0].mod_revision, 2);
}

#[tokio::test]
async fn nesting_goes_deep() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let mut request = txn::always(vec![txn::put("depth/0", "x")]);
    for depth in 1..20 {
        request = txn::always(vec![
            txn::put(format!("depth/{depth}"), "x"),
            txn::nested(request),
        ]);
    }
    client.txn(request).await.unwrap();
    assert_eq!(client.prefix("depth/").await.unwrap().count, 20);
}

#[tokio::test]
async fn the_same_key_in_both_branches_and_in_two_deletes_is_fine() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let both = pb::TxnRequest {
        success: vec![txn::put("a", "1")],
        failure: vec![txn::put("a", "2")],
        ..Default::default()
    };
    client.txn(both.clone()).await.unwrap();
    client
        .txn(txn::always(vec![txn::nested(both)]))
        .await
        .unwrap();
    client
        .txn(txn::always(vec![
            txn::delete("a"),
            txn::delete_range("a", "c"),
        ]))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_refused_transaction_writes_nothing() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.put("a", "1").await.unwrap();
    let with_lease = pb::PutRequest {
        key: "b".into(),
        lease: 404,
        ..Default::default()
    };
    let refused = client
        .txn(txn::always(vec![
            txn::put("a", "2"),
            txn::put_request(with_lease),
        ]))
        .await
        .unwrap_err();
    assert_eq!(refused.message(), "etcdserver: requested lease not found");
    let after = client.get("a").await.unwrap();
    assert_eq!(
        (after.kvs[0].value.as_ref(), after.header.unwrap().revision),
        (b"1".as_ref(), 2)
    );
}

#[tokio::test]
async fn old_revisions_can_be_read_inside_a_transaction() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for value in ["1", "2", "3"] {
        client.put("a", value).await.unwrap();
    }
    let old = |revision| {
        txn::range(pb::RangeRequest {
            key: "a".into(),
            revision,
            ..Default::default()
        })
    };
    let answer = client
        .txn(txn::always(vec![txn::put("b", ""), old(3)]))
        .await
        .unwrap();
    assert_eq!(txn::range_of(&answer.responses[1]).kvs[0].value, "2");
    let future = client
        .txn(txn::always(vec![txn::put("b", "x"), old(99)]))
        .await
        .unwrap_err();
    assert_eq!(
        future.message(),
        "etcdserver: mvcc: required revision is a future revision"
    );
    client.compact(3).await.unwrap();
    let compacted = client
        .txn(txn::always(vec![txn::put("b", "x"), old(2)]))
        .await
        .unwrap_err();
    assert_eq!(
        compacted.message(),
        "etcdserver: mvcc: required revision has been compacted"
    );
    assert_eq!(client.value("b").await.unwrap(), Some(Bytes::new()));
}

/// etcd compares it with the compacted revision as it stands, whether the transaction writes or not.
#[tokio::test]
async fn a_negative_revision_inside_a_transaction_is_compacted() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for value in ["1", "2", "3"] {
        client.put("a", value).await.unwrap();
    }
    client.compact(3).await.unwrap();
    let negative = || {
        txn::range(pb::RangeRequest {
            key: "a".into(),
            revision: -2,
            ..Default::default()
        })
    };
    for operations in [vec![negative()], vec![negative(), txn::put("b", "")]] {
        let refused = client.txn(txn::always(operations)).await.unwrap_err();
        assert_eq!(
            refused.message(),
            "etcdserver: mvcc: required revision has been compacted"
        );
    }
}

#[tokio::test]
async fn sorted_and_limited_ranges_inside_a_transaction() {
    use pb::range_request::{SortOrder, SortTarget};
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for (key, value) in [("k1", "b"), ("k2", "c"), ("k3", "a")] {
        client.put(key, value).await.unwrap();
    }
    let by_value = pb::RangeRequest {
        key: "k".into(),
        range_end: "l".into(),
        limit: 2,
        sort_target: SortTarget::Value.into(),
        sort_order: SortOrder::Descend.into(),
        ..Default::default()
    };
    let answer = client
        .txn(txn::always(vec![txn::put("k4", "z"), txn::range(by_value)]))
        .await
        .unwrap();
    let range = txn::range_of(&answer.responses[1]);
    assert_eq!(
        range
            .kvs
            .iter()
            .map(|kv| kv.value.as_ref())
            .collect::<Vec<_>>(),
        [b"z", b"c"]
    );
    assert_eq!((range.more, range.count), (true, 4));
}

#[tokio::test]
async fn concurrent_compare_and_swap_by_value_loses_no_update() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.put("counter", "0").await.unwrap();
    let increments = (0..8).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            let mut done = 0;
            while done < 10 {
                let current = client.value("counter").await.unwrap().unwrap();
                let number: u32 = std::str::from_utf8(&current).unwrap().parse().unwrap();
                let request = pb::TxnRequest {
                    compare: vec![txn::compare("counter", Equal, TargetUnion::Value(current))],
                    success: vec![txn::put("counter", (number + 1).to_string())],
                    ..Default::default()
                };
                done += u32::from(client.txn(request).await.unwrap().succeeded);
            }
        })
    });
    for increment in increments.collect::<Vec<_>>() {
        increment.await.unwrap();
    }
    assert_eq!(client.value("counter").await.unwrap(), Some("80".into()));
}
