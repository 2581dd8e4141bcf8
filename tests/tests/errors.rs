//! Every refusal of KV, Watch, Lease, Status and MemberList with etcd's exact code and text.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use tests::client::Client;
use tests::cluster::Cluster;
use tests::txn;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Status};

const EMPTY_KEY: (Code, &str) = (Code::InvalidArgument, "etcdserver: key is not provided");
const KEY_NOT_FOUND: (Code, &str) = (Code::InvalidArgument, "etcdserver: key not found");
const VALUE_PROVIDED: (Code, &str) = (Code::InvalidArgument, "etcdserver: value is provided");
const LEASE_PROVIDED: (Code, &str) = (Code::InvalidArgument, "etcdserver: lease is provided");
const TOO_MANY_OPS: (Code, &str) = (
    Code::InvalidArgument,
    "etcdserver: too many operations in txn request",
);
const DUPLICATE_KEY: (Code, &str) = (
    Code::InvalidArgument,
    "etcdserver: duplicate key given in txn request",
);
const INVALID_SORT: (Code, &str) = (Code::InvalidArgument, "etcdserver: invalid sort option");
const TOO_LARGE: (Code, &str) = (Code::InvalidArgument, "etcdserver: request is too large");
const COMPACTED: (Code, &str) = (
    Code::OutOfRange,
    "etcdserver: mvcc: required revision has been compacted",
);
const FUTURE: (Code, &str) = (
    Code::OutOfRange,
    "etcdserver: mvcc: required revision is a future revision",
);
const LEASE_NOT_FOUND: (Code, &str) = (Code::NotFound, "etcdserver: requested lease not found");
const LEASE_EXISTS: (Code, &str) = (Code::FailedPrecondition, "etcdserver: lease already exists");
const TTL_TOO_LARGE: (Code, &str) = (Code::OutOfRange, "etcdserver: too large lease TTL");

/// Both code and text must be etcd's.
#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, (code, text): (Code, &str)) {
    let status = answer.expect_err("the request is refused");
    assert_eq!((status.code(), status.message()), (code, text));
}

async fn txn_of(client: &Client, op: pb::RequestOp) -> Result<pb::TxnResponse, Status> {
    client.txn(txn::always(vec![op])).await
}

#[tokio::test]
async fn an_empty_key_is_refused_everywhere() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    refused(client.get("").await, EMPTY_KEY);
    refused(
        client
            .range(pb::RangeRequest {
                range_end: "z".into(),
                ..Default::default()
            })
            .await,
        EMPTY_KEY,
    );
    refused(client.put("", "v").await, EMPTY_KEY);
    refused(client.delete("").await, EMPTY_KEY);
    for op in [
        txn::get(""),
        txn::put("", "v"),
        txn::delete(""),
        txn::nested(txn::always(vec![txn::get("")])),
    ] {
        refused(txn_of(&client, op).await, EMPTY_KEY);
    }
    let compare = pb::TxnRequest {
        compare: vec![pb::Compare::default()],
        ..Default::default()
    };
    refused(client.txn(compare).await, EMPTY_KEY);
    let in_the_branch_not_taken = pb::TxnRequest {
        failure: vec![txn::put("", "v")],
        ..Default::default()
    };
    refused(client.txn(in_the_branch_not_taken).await, EMPTY_KEY);
}

#[tokio::test]
async fn an_operation_without_content_is_called_a_missing_key() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    refused(
        txn_of(&client, pb::RequestOp { request: None }).await,
        KEY_NOT_FOUND,
    );
}

#[tokio::test]
async fn ignore_flags_forbid_what_they_ignore_and_need_a_key() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let both = |key: &'static str| pb::PutRequest {
        key: key.into(),
        ..Default::default()
    };
    let value = pb::PutRequest {
        value: "v".into(),
        ignore_value: true,
        ..both("a")
    };
    let lease = pb::PutRequest {
        lease: 5,
        ignore_lease: true,
        ..both("a")
    };
    let missing_value = pb::PutRequest {
        ignore_value: true,
        ..both("missing")
    };
    let missing_lease = pb::PutRequest {
        ignore_lease: true,
        ..both("missing")
    };
    for (request, expected) in [
        (value, VALUE_PROVIDED),
        (lease, LEASE_PROVIDED),
        (missing_value, KEY_NOT_FOUND),
        (missing_lease, KEY_NOT_FOUND),
    ] {
        refused(client.put_request(request.clone()).await, expected);
        refused(txn_of(&client, txn::put_request(request)).await, expected);
    }
}

#[tokio::test]
async fn unknown_leases_are_named_so() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let with_lease = pb::PutRequest {
        key: "a".into(),
        lease: 404,
        ..Default::default()
    };
    refused(
        client.put_request(with_lease.clone()).await,
        LEASE_NOT_FOUND,
    );
    refused(
        txn_of(&client, txn::put_request(with_lease)).await,
        LEASE_NOT_FOUND,
    );
    refused(client.revoke(404).await, LEASE_NOT_FOUND);
    assert_eq!(
        client.time_to_live(404, true).await.unwrap().ttl,
        -1,
        "no error, as in etcd"
    );
    assert_eq!(
        client.keep_alive(404).await.unwrap().ttl,
        0,
        "no error, as in etcd"
    );
}

#[tokio::test]
async fn leases_that_exist_and_leases_that_live_too_long() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.grant(7, 100).await.unwrap();
    refused(client.grant(7, 100).await, LEASE_EXISTS);
    refused(client.grant(8, 9_000_000_001).await, TTL_TOO_LARGE);
    client.grant(9, 9_000_000_000).await.unwrap();
}

#[tokio::test]
async fn revisions_that_are_gone_or_not_there_yet() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for value in ["1", "2", "3"] {
        client.put("a", value).await.unwrap();
    }
    let at = |revision| pb::RangeRequest {
        key: "a".into(),
        revision,
        ..Default::default()
    };
    refused(client.range(at(5)).await, FUTURE);
    refused(client.compact(5).await, FUTURE);
    client.compact(3).await.unwrap();
    refused(client.range(at(2)).await, COMPACTED);
    refused(
        client
            .range(pb::RangeRequest {
                serializable: true,
                ..at(2)
            })
            .await,
        COMPACTED,
    );
    refused(
        client
            .range(pb::RangeRequest {
                count_only: true,
                ..at(2)
            })
            .await,
        COMPACTED,
    );
    refused(client.compact(3).await, COMPACTED);
    refused(client.compact(2).await, COMPACTED);
    refused(client.compact(-1).await, COMPACTED);
    refused(txn_of(&client, txn::range(at(2))).await, COMPACTED);
    refused(txn_of(&client, txn::range(at(9))).await, FUTURE);
}

#[tokio::test]
async fn unknown_sort_options() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let request = pb::RangeRequest {
        key: "a".into(),
        ..Default::default()
    };
    refused(
        client
            .range(pb::RangeRequest {
                sort_order: 9,
                ..request.clone()
            })
            .await,
        INVALID_SORT,
    );
    refused(
        client
            .range(pb::RangeRequest {
                sort_target: 9,
                ..request.clone()
            })
            .await,
        INVALID_SORT,
    );
    refused(
        txn_of(
            &client,
            txn::range(pb::RangeRequest {
                sort_target: -1,
                ..request
            }),
        )
        .await,
        INVALID_SORT,
    );
}

#[tokio::test]
async fn too_many_operations_count_the_longest_list_and_what_is_nested() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let puts = |count: usize| {
        (0..count)
            .map(|number| txn::put(format!("k{number}"), ""))
            .collect::<Vec<_>>()
    };
    client.txn(txn::always(puts(128))).await.unwrap();
    refused(client.txn(txn::always(puts(129))).await, TOO_MANY_OPS);
    let failure = pb::TxnRequest {
        failure: puts(129),
        ..Default::default()
    };
    refused(client.txn(failure).await, TOO_MANY_OPS);
    let compares = pb::TxnRequest {
        compare: vec![
            pb::Compare {
                key: "a".into(),
                ..Default::default()
            };
            129
        ],
        ..Default::default()
    };
    refused(client.txn(compares).await, TOO_MANY_OPS);
    let with_nested = |count| txn::always(vec![txn::nested(txn::always(puts(count)))]);
    client.txn(with_nested(127)).await.unwrap();
    refused(client.txn(with_nested(128)).await, TOO_MANY_OPS);
}

#[tokio::test]
async fn overlapping_writes_of_one_branch() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let twice = || vec![txn::put("a", "1"), txn::put("a", "2")];
    refused(client.txn(txn::always(twice())).await, DUPLICATE_KEY);
    refused(
        client
            .txn(pb::TxnRequest {
                failure: twice(),
                ..Default::default()
            })
            .await,
        DUPLICATE_KEY,
    );
    refused(
        client
            .txn(txn::always(vec![
                txn::put("b", "1"),
                txn::delete_range("a", "c"),
            ]))
            .await,
        DUPLICATE_KEY,
    );
    refused(
        client
            .txn(txn::always(vec![txn::delete("b"), txn::put("b", "1")]))
            .await,
        DUPLICATE_KEY,
    );
    refused(
        client
            .txn(txn::always(vec![txn::nested(txn::always(twice()))]))
            .await,
        DUPLICATE_KEY,
    );
    let across = vec![
        txn::put("a", "1"),
        txn::nested(txn::always(vec![txn::put("a", "2")])),
    ];
    refused(client.txn(txn::always(across)).await, DUPLICATE_KEY);
    let deleted_inside = vec![
        txn::put("a", "1"),
        txn::nested(txn::always(vec![txn::delete_range("a", "b")])),
    ];
    refused(client.txn(txn::always(deleted_inside)).await, DUPLICATE_KEY);
    let in_two_nested = vec![
        txn::nested(txn::always(vec![txn::put("a", "1")])),
        txn::nested(pb::TxnRequest {
            failure: vec![txn::put("a", "2")],
            ..Default::default()
        }),
    ];
    refused(client.txn(txn::always(in_two_nested)).await, DUPLICATE_KEY);
}

/// etcd looks at `\0` as a byte string here, not as "no end", and so sees no overlap.
#[tokio::test]
async fn an_open_ended_delete_after_a_put_is_let_through() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let answer = client
        .txn(txn::always(vec![
            txn::put("b", "1"),
            txn::delete_range("a", "\0"),
        ]))
        .await
        .unwrap();
    assert_eq!(answer.responses.len(), 2);
    assert_eq!(client.get("b").await.unwrap().count, 0);
}

#[tokio::test]
async fn requests_over_the_size_limits() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let value: Bytes = vec![0; 1_600_000].into();
    refused(client.put("large", value.clone()).await, TOO_LARGE);
    refused(txn_of(&client, txn::put("large", value)).await, TOO_LARGE);
    let huge: Bytes = vec![0; 3_000_000].into();
    let status = client.put("huge", huge).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(
        status
            .message()
            .contains("received message larger than max"),
        "{}",
        status.message()
    );
}

#[tokio::test]
async fn the_first_mistake_of_several_is_the_one_named() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    // An empty key before a bad sort order, a value before a missing key, too many operations before an empty key.
    refused(
        client
            .range(pb::RangeRequest {
                sort_order: 9,
                ..Default::default()
            })
            .await,
        EMPTY_KEY,
    );
    let put = pb::PutRequest {
        key: "none".into(),
        value: "v".into(),
        ignore_value: true,
        lease: 9,
        ignore_lease: true,
        ..Default::default()
    };
    refused(client.put_request(put).await, VALUE_PROVIDED);
    refused(
        client.txn(txn::always(vec![txn::get(""); 129])).await,
        TOO_MANY_OPS,
    );
    let future = pb::PutRequest {
        key: "none".into(),
        lease: 9,
        ..Default::default()
    };
    let both = vec![
        txn::put_request(future),
        txn::range(pb::RangeRequest {
            key: "a".into(),
            revision: 99,
            ..Default::default()
        }),
    ];
    refused(client.txn(txn::always(both)).await, LEASE_NOT_FOUND);
}

#[tokio::test]
async fn watches_that_cannot_be() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for value in ["1", "2", "3"] {
        client.put("a", value).await.unwrap();
    }
    client.compact(3).await.unwrap();
    let mut stream = client.watch_stream();
    let create = |key: &'static str, end: &'static str| pb::WatchCreateRequest {
        key: key.into(),
        range_end: end.into(),
        ..Default::default()
    };

    stream.create(create("b", "a")).await;
    let empty = stream.next().await.unwrap();
    assert_eq!(
        (
            empty.created,
            empty.canceled,
            empty.watch_id,
            empty.cancel_reason.as_str()
        ),
        (true, true, -1, "mvcc: watcher range is empty")
    );

    stream
        .create(pb::WatchCreateRequest {
            start_revision: -1,
            ..create("a", "")
        })
        .await;
    let negative = stream.next().await.unwrap();
    assert_eq!(
        (negative.created, negative.canceled, negative.watch_id),
        (true, true, -1)
    );
    assert_eq!(
        negative.cancel_reason,
        "etcdserver: mvcc: required revision has been compacted"
    );
    stream
        .create(pb::WatchCreateRequest {
            start_revision: -1,
            ..create("b", "a")
        })
        .await;
    let both = stream.next().await.unwrap();
    assert_eq!(
        both.cancel_reason, negative.cancel_reason,
        "of two mistakes, the start is named"
    );

    stream
        .create(pb::WatchCreateRequest {
            watch_id: 7,
            ..create("a", "")
        })
        .await;
    assert_eq!(stream.next().await.unwrap().watch_id, 7);
    stream
        .create(pb::WatchCreateRequest {
            watch_id: 7,
            ..create("a", "")
        })
        .await;
    let duplicate = stream.next().await.unwrap();
    assert_eq!(
        (duplicate.created, duplicate.canceled, duplicate.watch_id),
        (true, true, -1)
    );
    assert_eq!(
        duplicate.cancel_reason,
        "mvcc: duplicate watch ID provided on the WatchStream"
    );

    stream
        .create(pb::WatchCreateRequest {
            start_revision: 2,
            watch_id: 8,
            ..create("a", "")
        })
        .await;
    let created = stream.next().await.unwrap();
    assert_eq!(
        (created.created, created.canceled, created.watch_id),
        (true, false, 8)
    );
    let compacted = stream.next().await.unwrap();
    assert_eq!(
        (
            compacted.canceled,
            compacted.watch_id,
            compacted.compact_revision
        ),
        (true, 8, 3)
    );
    assert_eq!(
        (
            compacted.cancel_reason.as_str(),
            compacted.header.unwrap().revision
        ),
        ("", 0)
    );

    // Nonsense does not end the stream.
    stream.send_nothing().await;
    stream.cancel(999).await;
    client.put("a", "4").await.unwrap();
    assert_eq!(
        stream.next().await.unwrap().events[0]
            .kv
            .as_ref()
            .unwrap()
            .value,
        "4"
    );
}

async fn call(client: &Client, path: &'static str) -> Status {
    let mut grpc = tonic::client::Grpc::new(client.channel());
    grpc.ready().await.expect("the channel is up");
    let path = http::uri::PathAndQuery::from_static(path);
    let codec = tonic_prost::ProstCodec::<pb::RangeRequest, pb::RangeResponse>::default();
    let request = tonic::Request::new(pb::RangeRequest::default());
    let answer = grpc.unary(request, path, codec).await;
    answer.expect_err("it is not served")
}

#[tokio::test]
async fn methods_and_services_that_do_not_exist_are_unimplemented() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for (path, text) in [
        (
            "/etcdserverpb.KV/NoSuchMethod",
            "unknown method NoSuchMethod for service etcdserverpb.KV",
        ),
        (
            "/v3lockpb.Lock/TryLock",
            "unknown method TryLock for service v3lockpb.Lock",
        ),
        (
            "/etcdserverpb.Nothing/Range",
            "unknown service etcdserverpb.Nothing",
        ),
        ("/a/b/c", "unknown service a/b"),
        ("/alone", "malformed method name: \"/alone\""),
    ] {
        let status = call(&client, path).await;
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unimplemented, text)
        );
    }
}

#[tokio::test]
async fn status_and_member_list_describe_a_healthy_single_member() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.put("a", "1").await.unwrap();
    let status = client.status().await.unwrap();
    let header = status.header.unwrap();
    assert_eq!(status.version, "3.7.1");
    assert_eq!((status.leader, header.revision), (header.member_id, 2));
    assert!(status.raft_term > 0 && status.raft_term == header.raft_term);
    assert!(status.raft_index >= status.raft_applied_index && status.raft_applied_index > 0);
    assert!(status.db_size > 0 && !status.is_learner && status.errors.is_empty());
    assert_eq!(status.storage_version, "3.7.0");
    assert_eq!(status.db_size_quota, 2_147_483_648);
    assert!(status.downgrade_info.is_some_and(|info| !info.enabled));
    for linearizable in [false, true] {
        let list = client.member_list(linearizable).await.unwrap();
        let of_list = list.header.unwrap();
        assert_eq!(
            (of_list.revision, of_list.member_id, of_list.cluster_id),
            (0, header.member_id, header.cluster_id)
        );
        let member = &list.members[0];
        assert_eq!(
            (
                list.members.len(),
                member.id,
                member.name.as_str(),
                member.is_learner
            ),
            (1, header.member_id, "m1", false)
        );
        assert_eq!(member.client_ur_ls, [cluster.members[0].endpoint()]);
        assert_eq!(member.peer_ur_ls.len(), 1);
    }
}

#[tokio::test]
async fn a_clients_version_that_is_no_text_is_refused() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let mut request = client.ask(pb::RangeRequest {
        key: "k".into(),
        ..Default::default()
    });
    let version = AsciiMetadataValue::try_from(&b"3.\xff"[..]).unwrap();
    request.metadata_mut().insert("client-api-version", version);
    refused(
        client.kv().range(request).await,
        (
            Code::InvalidArgument,
            "etcdserver: invalid client api version",
        ),
    );
}
