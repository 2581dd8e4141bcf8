//! Ranges, puts, deletes and compaction.

use std::sync::atomic::Ordering;

use proto::etcdserverpb as pb;
use tonic::Code;

use super::super::Limits;
use super::single::{CLUSTER, MEMBER, TERM};
use super::wire::{
    assert_status, bytes, keys_of, one, put, serve, serve_with, span, text, values_of,
};
use crate::command::NoEffect;

#[tokio::test]
async fn a_value_comes_back_as_it_was_put() {
    let served = serve().await;
    assert_eq!(served.put("a", "1").await, 2);
    assert_eq!(served.put("a", "2").await, 3);
    let response = served.range(one("a")).await.unwrap();
    let header = response.header.unwrap();
    assert_eq!(
        (
            header.cluster_id,
            header.member_id,
            header.raft_term,
            header.revision
        ),
        (CLUSTER, MEMBER, TERM, 3)
    );
    let kv = &response.kvs[0];
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
    assert_eq!(
        (text(&kv.value), response.count, response.more),
        ("2".into(), 1, false)
    );
}

#[tokio::test]
async fn an_empty_value_is_a_value() {
    let served = serve().await;
    served.put("a", "").await;
    assert_eq!(served.get("a").await, Some(String::new()));
}

#[tokio::test]
async fn count_ignores_limit_and_filters() {
    let served = serve().await;
    for key in ["a", "b", "c"] {
        served.put(key, key).await;
    }
    let limited = served
        .range(pb::RangeRequest {
            limit: 2,
            ..span("a", "z")
        })
        .await
        .unwrap();
    assert_eq!(keys_of(&limited), ["a", "b"]);
    assert_eq!((limited.count, limited.more), (3, true));
    let request = pb::RangeRequest {
        min_mod_revision: 4,
        ..span("a", "z")
    };
    let filtered = served.range(request).await.unwrap();
    assert_eq!(keys_of(&filtered), ["c"]);
    assert_eq!((filtered.count, filtered.more), (3, false));
    let request = pb::RangeRequest {
        count_only: true,
        limit: 1,
        ..span("a", "z")
    };
    let counted = served.range(request).await.unwrap();
    assert_eq!(
        (counted.count, counted.more, counted.kvs.len()),
        (3, false, 0)
    );
}

#[tokio::test]
async fn keys_only_leaves_out_the_value_and_keeps_the_lease() {
    let served = serve().await;
    let grant = pb::LeaseGrantRequest { ttl: 100, id: 77 };
    served.lease.clone().lease_grant(grant).await.unwrap();
    served
        .kv
        .clone()
        .put(pb::PutRequest {
            lease: 77,
            ..put("a", "1")
        })
        .await
        .unwrap();
    let request = pb::RangeRequest {
        keys_only: true,
        ..one("a")
    };
    let response = served.range(request).await.unwrap();
    assert_eq!(
        (response.kvs[0].lease, response.kvs[0].value.len()),
        (77, 0)
    );
}

#[tokio::test]
async fn a_range_is_sorted_by_any_target() {
    use pb::range_request::{SortOrder, SortTarget};
    let served = serve().await;
    for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("b", "1")] {
        served.put(key, value).await;
    }
    let sorted = async |target: SortTarget, order: SortOrder, limit| {
        let request = pb::RangeRequest {
            sort_target: target.into(),
            sort_order: order.into(),
            limit,
            ..span("a", "z")
        };
        let response = served.range(request).await.unwrap();
        (keys_of(&response).concat(), response.more)
    };
    assert_eq!(
        sorted(SortTarget::Key, SortOrder::Descend, 0).await.0,
        "cba"
    );
    assert_eq!(sorted(SortTarget::Value, SortOrder::None, 0).await.0, "bca");
    assert_eq!(
        sorted(SortTarget::Value, SortOrder::Descend, 2).await,
        ("ac".into(), true)
    );
    assert_eq!(
        sorted(SortTarget::Version, SortOrder::Descend, 1).await,
        ("b".into(), true)
    );
    assert_eq!(sorted(SortTarget::Mod, SortOrder::Ascend, 0).await.0, "acb");
    assert_eq!(
        sorted(SortTarget::Create, SortOrder::Descend, 0).await.0,
        "cba"
    );
    let request = pb::RangeRequest {
        sort_target: SortTarget::Value.into(),
        keys_only: true,
        ..span("a", "z")
    };
    let response = served.range(request).await.unwrap();
    assert_eq!(
        (keys_of(&response).concat(), values_of(&response).concat()),
        ("bca".into(), "".into())
    );
}

#[tokio::test]
async fn unknown_sort_options_are_refused() {
    let served = serve().await;
    for request in [
        pb::RangeRequest {
            sort_order: 9,
            ..one("a")
        },
        pb::RangeRequest {
            sort_target: 9,
            ..one("a")
        },
        pb::RangeRequest {
            sort_target: -1,
            ..one("a")
        },
    ] {
        let message = "etcdserver: invalid sort option";
        assert_status(served.range(request).await, Code::InvalidArgument, message);
    }
}

#[tokio::test]
async fn history_is_read_until_it_is_compacted() {
    let served = serve().await;
    for value in ["1", "2", "3"] {
        served.put("a", value).await;
    }
    let at = |revision| pb::RangeRequest {
        revision,
        ..one("a")
    };
    let old = served.range(at(2)).await.unwrap();
    assert_eq!(
        (values_of(&old).concat(), old.header.unwrap().revision),
        ("1".into(), 4)
    );
    served.compact(3).await;
    assert_eq!(values_of(&served.range(at(3)).await.unwrap()), ["2"]);
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    assert_status(served.range(at(2)).await, Code::OutOfRange, compacted);
    let future = "etcdserver: mvcc: required revision is a future revision";
    assert_status(served.range(at(99)).await, Code::OutOfRange, future);
    let compact = |revision| pb::CompactionRequest {
        revision,
        physical: false,
    };
    let mut kv = served.kv.clone();
    assert_status(kv.compact(compact(3)).await, Code::OutOfRange, compacted);
    assert_status(kv.compact(compact(99)).await, Code::OutOfRange, future);
}

#[tokio::test]
async fn requests_without_a_key_are_refused() {
    let served = serve().await;
    let message = "etcdserver: key is not provided";
    assert_status(served.range(one("")).await, Code::InvalidArgument, message);
    let mut kv = served.kv.clone();
    assert_status(kv.put(put("", "v")).await, Code::InvalidArgument, message);
    let delete = pb::DeleteRangeRequest::default();
    assert_status(
        kv.delete_range(delete).await,
        Code::InvalidArgument,
        message,
    );
}

#[tokio::test]
async fn prev_kv_is_what_was_there() {
    let served = serve().await;
    let mut kv = served.kv.clone();
    let with_prev = |value| pb::PutRequest {
        prev_kv: true,
        ..put("a", value)
    };
    let first = kv.put(with_prev("1")).await.unwrap().into_inner();
    assert_eq!(first.prev_kv, None);
    let second = kv.put(with_prev("2")).await.unwrap().into_inner();
    let prev = second.prev_kv.unwrap();
    assert_eq!(
        (text(&prev.value), prev.mod_revision, prev.version),
        ("1".into(), 2, 1)
    );
    let silent = kv.put(put("a", "3")).await.unwrap().into_inner();
    assert_eq!(silent.prev_kv, None);
    let delete = pb::DeleteRangeRequest {
        key: bytes("\0"),
        range_end: bytes("\0"),
        prev_kv: true,
    };
    let deleted = kv.delete_range(delete).await.unwrap().into_inner();
    assert_eq!(
        (deleted.deleted, text(&deleted.prev_kvs[0].value)),
        (1, "3".into())
    );
    assert_eq!(deleted.header.unwrap().revision, 5);
}

#[tokio::test]
async fn deleting_nothing_moves_no_revision() {
    let served = serve().await;
    served.put("a", "1").await;
    assert_eq!(served.delete("b").await, 2);
    assert_eq!(served.delete("a").await, 3);
    assert_eq!(served.get("a").await, None);
}

#[tokio::test]
async fn ignore_value_and_ignore_lease_keep_what_is_there() {
    let served = serve().await;
    let mut kv = served.kv.clone();
    let keep = pb::PutRequest {
        ignore_value: true,
        ..put("a", "")
    };
    let not_found = "etcdserver: key not found";
    assert_status(kv.put(keep.clone()).await, Code::InvalidArgument, not_found);
    served.put("a", "1").await;
    kv.put(keep).await.unwrap();
    assert_eq!(served.get("a").await, Some("1".into()));
    let given = pb::PutRequest {
        ignore_value: true,
        ..put("a", "2")
    };
    let message = "etcdserver: value is provided";
    assert_status(kv.put(given).await, Code::InvalidArgument, message);
    let given = pb::PutRequest {
        ignore_lease: true,
        lease: 5,
        ..put("a", "2")
    };
    let message = "etcdserver: lease is provided";
    assert_status(kv.put(given).await, Code::InvalidArgument, message);
    let unknown = pb::PutRequest {
        lease: 5,
        ..put("a", "2")
    };
    let message = "etcdserver: requested lease not found";
    assert_status(kv.put(unknown).await, Code::NotFound, message);
}

#[tokio::test]
async fn a_request_above_its_bound_is_too_large_and_one_far_above_is_not_read() {
    let limits = Limits {
        request_bytes_max: 1024,
        ..Limits::default()
    };
    let served = serve_with(limits).await;
    let mut kv = served.kv.clone();
    let large = "v".repeat(1025);
    let message = "etcdserver: request is too large";
    assert_status(
        kv.put(put("a", &large)).await,
        Code::InvalidArgument,
        message,
    );
    // Sealing makes a value longer; the bound is the client's.
    kv.put(put("a", &"v".repeat(1024 - 6))).await.unwrap();
    let huge = "v".repeat(1024 + 512 * 1024 + 1);
    let status = kv.put(put("a", &huge)).await.unwrap_err();
    let message = "grpc: received message larger than max (525320 vs. 525312)";
    assert_eq!(
        (status.code(), status.message()),
        (Code::ResourceExhausted, message)
    );
}

#[tokio::test]
async fn the_quota_refuses_writes_and_raises_the_alarm_but_lets_deletes_pass() {
    let limits = Limits {
        quota_bytes: Some(2_000),
        ..Limits::default()
    };
    let served = serve_with(limits).await;
    let mut kv = served.kv.clone();
    served.put("a", "1").await;
    let message = "etcdserver: mvcc: database space exceeded";
    let large = put("b", &"v".repeat(2_000));
    assert_status(kv.put(large).await, Code::ResourceExhausted, message);
    let get = pb::AlarmRequest::default();
    let mut maintenance = served.maintenance.clone();
    while maintenance
        .alarm(get)
        .await
        .unwrap()
        .into_inner()
        .alarms
        .is_empty()
    {
        tokio::task::yield_now().await;
    }
    assert_status(
        kv.put(put("c", "1")).await,
        Code::ResourceExhausted,
        message,
    );
    served.delete("a").await;
}

#[tokio::test]
async fn a_void_entry_is_proposed_again_and_only_then() {
    let served = serve().await;
    *served.void.lock() = vec![NoEffect::KeyHeader, NoEffect::Guard];
    served.put("a", "1").await;
    assert_eq!(served.proposals.load(Ordering::SeqCst), 3);
    assert_eq!(served.get("a").await, Some("1".into()));
    *served.void.lock() = vec![NoEffect::KeyHeader; 100];
    let status = served.kv.clone().put(put("a", "2")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(served.proposals.load(Ordering::SeqCst) < 20);
}

#[tokio::test]
async fn a_learner_serves_only_serializable_reads_and_status() {
    let served = serve().await;
    served.put("a", "1").await;
    served.learner.store(true, Ordering::SeqCst);
    let message = "etcdserver: rpc not supported for learner";
    assert_status(
        served.range(one("a")).await,
        Code::FailedPrecondition,
        message,
    );
    let mut kv = served.kv.clone();
    assert_status(
        kv.put(put("a", "1")).await,
        Code::FailedPrecondition,
        message,
    );
    served
        .range(pb::RangeRequest {
            serializable: true,
            ..one("a")
        })
        .await
        .unwrap();
    let status = served
        .maintenance
        .clone()
        .status(pb::StatusRequest {})
        .await
        .unwrap();
    assert!(status.into_inner().is_learner);
}

#[tokio::test]
async fn without_a_leader_linearizable_reads_fail_and_serializable_ones_do_not() {
    let served = serve().await;
    served.put("a", "1").await;
    served.leaderless.send_replace(true);
    assert_status(
        served.range(one("a")).await,
        Code::Unavailable,
        "etcdserver: request timed out",
    );
    let stale = pb::RangeRequest {
        serializable: true,
        ..one("a")
    };
    served.range(stale.clone()).await.unwrap();
    let mut request = tonic::Request::new(stale);
    request
        .metadata_mut()
        .insert("hasleader", "true".parse().unwrap());
    let answer = served.kv.clone().range(request).await;
    assert_status(answer, Code::Unavailable, "etcdserver: no leader");
}

#[tokio::test]
async fn a_server_without_its_root_key_says_so_and_serves_keys_only() {
    let served = serve().await;
    served.put("a", "1").await;
    served.sealer.forget();
    let message = "sealkv: this member has not opened the root key";
    assert_status(served.range(one("a")).await, Code::Unavailable, message);
    let mut kv = served.kv.clone();
    assert_status(kv.put(put("a", "2")).await, Code::Unavailable, message);
    let keys_only = pb::RangeRequest {
        keys_only: true,
        ..one("a")
    };
    assert_eq!(served.range(keys_only).await.unwrap().count, 1);
}

#[tokio::test]
async fn a_range_in_pieces_is_the_range() {
    let served = serve().await;
    for number in 0..300 {
        served.put(&format!("k{number:03}"), &"v".repeat(100)).await;
    }
    let whole = served.range(span("k", "l")).await.unwrap();
    let stream = async |request: pb::RangeRequest| {
        let mut stream = served.kv.clone().range_stream(request).await?.into_inner();
        let mut pieces = Vec::new();
        while let Some(piece) = stream.message().await? {
            pieces.push(piece.range_response.unwrap());
        }
        Ok::<_, tonic::Status>(pieces)
    };
    let pieces = stream(span("k", "l")).await.unwrap();
    assert!(pieces.len() > 2);
    let (last, before) = pieces.split_last().unwrap();
    assert!(
        before
            .iter()
            .all(|it| it.header.is_none() && it.count == 0 && !it.more)
    );
    assert_eq!((last.count, last.more), (300, false));
    assert_eq!(last.header.unwrap().revision, 301);
    let kvs: Vec<_> = pieces.iter().flat_map(|piece| piece.kvs.clone()).collect();
    assert_eq!(kvs, whole.kvs);

    let limited = stream(pb::RangeRequest {
        limit: 25,
        ..span("k", "l")
    })
    .await
    .unwrap();
    let last = limited.last().unwrap();
    assert_eq!(limited.iter().map(|it| it.kvs.len()).sum::<usize>(), 25);
    assert_eq!((last.count, last.more), (300, true));

    let descending = pb::RangeRequest {
        sort_order: 2,
        ..span("k", "l")
    };
    let message = "RangeStream does not support custom sort orders";
    assert_status(stream(descending).await, Code::Unimplemented, message);
    let filtered = pb::RangeRequest {
        min_mod_revision: 2,
        ..span("k", "l")
    };
    let message = "RangeStream does not support revision filters";
    assert_status(stream(filtered).await, Code::Unimplemented, message);
}
