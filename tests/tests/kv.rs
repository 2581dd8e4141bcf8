//! Put, Range, DeleteRange and Compact, as etcd answers them.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use tests::client::{Client, prefix_end};
use tests::cluster::Cluster;
use tests::model::Model;

fn keys(kvs: &[KeyValue]) -> Vec<&str> {
    kvs.iter()
        .map(|kv| std::str::from_utf8(&kv.key).expect("the tests' keys are text"))
        .collect()
}

fn range(prefix: &'static str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: Bytes::from_static(prefix.as_bytes()),
        range_end: prefix_end(prefix.as_bytes()),
        ..Default::default()
    }
}

/// Keys a to e, each put once in an order that is neither of names nor of values; then c again.
async fn five_keys(client: &Client) {
    for (key, value) in [
        ("k/b", "4"),
        ("k/e", "1"),
        ("k/a", "5"),
        ("k/d", "2"),
        ("k/c", "9"),
        ("k/c", "3"),
    ] {
        client.put(key, value).await.unwrap();
    }
}

#[tokio::test]
async fn a_put_is_read_back_with_its_revisions_and_full_headers() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let fresh = client.get("a").await.unwrap();
    let start = fresh.header.unwrap();
    assert_eq!((start.revision, fresh.count, fresh.more), (1, 0, false));

    let first = client.put("a", "one").await.unwrap();
    assert_eq!(first.prev_kv, None);
    let header = first.header.unwrap();
    assert_eq!(header.revision, 2);
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term > 0);
    assert_eq!(
        (header.cluster_id, header.member_id),
        (start.cluster_id, start.member_id)
    );

    client.put("a", "two").await.unwrap();
    let read = client.get("a").await.unwrap();
    let expected = KeyValue {
        key: "a".into(),
        value: "two".into(),
        create_revision: 2,
        mod_revision: 3,
        version: 2,
        lease: 0,
    };
    assert_eq!(
        (
            read.kvs.as_slice(),
            read.count,
            read.header.unwrap().revision
        ),
        ([expected].as_slice(), 1, 3)
    );
}

#[tokio::test]
async fn an_empty_value_is_a_value() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.put("empty", "").await.unwrap();
    let read = client.get("empty").await.unwrap();
    assert_eq!((read.count, read.kvs[0].value.len()), (1, 0));
}

#[tokio::test]
async fn bytes_that_are_no_text_are_kept() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let key = Bytes::from_static(b"\x00\xff\xfe key");
    let value: Bytes = (0..=255u8).collect::<Vec<_>>().into();
    client.put(key.clone(), value.clone()).await.unwrap();
    assert_eq!(client.value(key).await.unwrap(), Some(value));
}

#[tokio::test]
async fn prev_kv_of_a_put_is_the_record_it_replaced() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let put = |value: &'static str| pb::PutRequest {
        key: "a".into(),
        value: value.into(),
        prev_kv: true,
        ..Default::default()
    };
    assert_eq!(client.put_request(put("one")).await.unwrap().prev_kv, None);
    let second = client.put_request(put("two")).await.unwrap();
    let expected = KeyValue {
        key: "a".into(),
        value: "one".into(),
        create_revision: 2,
        mod_revision: 2,
        version: 1,
        lease: 0,
    };
    assert_eq!(second.prev_kv, Some(expected));
}

#[tokio::test]
async fn ignore_value_keeps_the_value_and_ignore_lease_keeps_the_lease() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.grant(77, 600).await.unwrap();
    client
        .put_request(pb::PutRequest {
            key: "a".into(),
            value: "one".into(),
            lease: 77,
            ..Default::default()
        })
        .await
        .unwrap();

    let keep_lease = pb::PutRequest {
        key: "a".into(),
        value: "two".into(),
        ignore_lease: true,
        ..Default::default()
    };
    client.put_request(keep_lease).await.unwrap();
    let kv = client.get("a").await.unwrap().kvs.remove(0);
    assert_eq!(
        (kv.value.as_ref(), kv.lease, kv.version),
        (b"two".as_ref(), 77, 2)
    );

    let keep_value = pb::PutRequest {
        key: "a".into(),
        ignore_value: true,
        ..Default::default()
    };
    client.put_request(keep_value).await.unwrap();
    let kv = client.get("a").await.unwrap().kvs.remove(0);
    assert_eq!(
        (kv.value.as_ref(), kv.lease, kv.version),
        (b"two".as_ref(), 0, 3),
        "lease 0 detaches"
    );
    assert_eq!(
        client.time_to_live(77, true).await.unwrap().keys,
        Vec::<Bytes>::new()
    );
}

#[tokio::test]
async fn ranges_by_prefix_from_a_key_and_of_everything() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    for key in ["a", "a/1", "a/2", "b", "c"] {
        client.put(key, "v").await.unwrap();
    }
    let of = async |key: &'static str, end: &'static [u8]| {
        let request = pb::RangeRequest {
            key: key.into(),
            range_end: Bytes::from_static(end),
            ..Default::default()
        };
        let response = client.range(request).await.unwrap();
        (keys(&response.kvs).join(" "), response.count)
    };
    assert_eq!(of("a", b"").await, ("a".into(), 1));
    assert_eq!(of("a/", b"a0").await, ("a/1 a/2".into(), 2));
    assert_eq!(of("a", b"c").await, ("a a/1 a/2 b".into(), 4));
    assert_eq!(of("b", b"\0").await, ("b c".into(), 2));
    assert_eq!(of("\0", b"\0").await, ("a a/1 a/2 b c".into(), 5));
    assert_eq!(
        of("c", b"a").await,
        (String::new(), 0),
        "an end before the start is an empty range"
    );
    assert_eq!(of("b", b"b").await, (String::new(), 0));
}

#[tokio::test]
async fn limit_says_more_and_count_ignores_it() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    five_keys(&client).await;
    for (limit, expected, more) in [
        (0, 5, false),
        (2, 2, true),
        (4, 4, true),
        (5, 5, false),
        (6, 5, false),
    ] {
        let response = client
            .range(pb::RangeRequest {
                limit,
                ..range("k/")
            })
            .await
            .unwrap();
        assert_eq!(
            (response.kvs.len(), response.more, response.count),
            (expected, more, 5),
            "limit {limit}"
        );
    }
}

#[tokio::test]
async fn every_sort_target_in_both_orders() {
    use pb::range_request::{SortOrder, SortTarget};
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    five_keys(&client).await;
    let sorted = async |target: SortTarget, order: SortOrder, limit: i64| {
        let request = pb::RangeRequest {
            sort_target: target.into(),
            sort_order: order.into(),
            limit,
            ..range("k/")
        };
        let response = client.range(request).await.unwrap();
        assert_eq!(response.count, 5);
        (
            keys(&response.kvs)
                .iter()
                .map(|key| &key[2..])
                .collect::<String>(),
            response.more,
        )
    };
    assert_eq!(
        sorted(SortTarget::Key, SortOrder::None, 0).await,
        ("abcde".into(), false)
    );
    assert_eq!(
        sorted(SortTarget::Key, SortOrder::Descend, 0).await,
        ("edcba".into(), false)
    );
    assert_eq!(
        sorted(SortTarget::Key, SortOrder::Descend, 2).await,
        ("ed".into(), true)
    );
    assert_eq!(
        sorted(SortTarget::Create, SortOrder::Ascend, 0).await,
        ("beadc".into(), false)
    );
    assert_eq!(
        sorted(SortTarget::Create, SortOrder::None, 0).await,
        ("beadc".into(), false),
        "no order means ascending"
    );
    assert_eq!(
        sorted(SortTarget::Mod, SortOrder::Descend, 3).await,
        ("cda".into(), true)
    );
    assert_eq!(
        sorted(SortTarget::Value, SortOrder::Ascend, 0).await,
        ("edcba".into(), false)
    );
    assert_eq!(
        sorted(SortTarget::Value, SortOrder::Descend, 2).await,
        ("ab".into(), true)
    );
    assert_eq!(
        sorted(SortTarget::Version, SortOrder::Descend, 1).await,
        ("c".into(), true)
    );
    assert_eq!(
        sorted(SortTarget::Version, SortOrder::Ascend, 4).await,
        ("abde".into(), true),
        "equals stay in key order"
    );
}

/// A quirk of etcd: without an order it reads limit + 1 keys by name and sorts only those.
#[tokio::test]
async fn without_an_order_the_limit_comes_before_the_sort() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    five_keys(&client).await; // values: a 5, b 4, c 3, d 2, e 1
    let request = pb::RangeRequest {
        limit: 2,
        sort_target: pb::range_request::SortTarget::Value.into(),
        ..range("k/")
    };
    let unordered = client.range(request.clone()).await.unwrap();
    assert_eq!(
        (keys(&unordered.kvs), unordered.more),
        (vec!["k/c", "k/b"], true)
    );
    let ascending = pb::RangeRequest {
        sort_order: pb::range_request::SortOrder::Ascend.into(),
        ..request
    };
    assert_eq!(
        keys(&client.range(ascending).await.unwrap().kvs),
        ["k/e", "k/d"]
    );
}

#[tokio::test]
async fn revision_filters_prune_the_keys_and_not_the_count() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    five_keys(&client).await; // b 2, e 3, a 4, d 5, c 6..7
    let filtered = async |change: fn(&mut pb::RangeRequest)| {
        let mut request = range("k/");
        change(&mut request);
        let response = client.range(request).await.unwrap();
        assert_eq!(response.count, 5);
        (
            keys(&response.kvs)
                .iter()
                .map(|key| &key[2..])
                .collect::<String>(),
            response.more,
        )
    };
    assert_eq!(
        filtered(|request| request.min_mod_revision = 5).await,
        ("cd".into(), false)
    );
    assert_eq!(
        filtered(|request| request.max_mod_revision = 4).await,
        ("abe".into(), false)
    );
    assert_eq!(
        filtered(|request| request.min_create_revision = 4).await,
        ("acd".into(), false)
    );
    assert_eq!(
        filtered(|request| request.max_create_revision = 3).await,
        ("be".into(), false)
    );
    assert_eq!(
        filtered(|request| {
            request.max_mod_revision = 4;
            request.limit = 2;
        })
        .await,
        ("ab".into(), true)
    );
}

#[tokio::test]
async fn keys_only_leaves_out_the_value_and_count_only_the_keys() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    five_keys(&client).await;
    let only_keys = client
        .range(pb::RangeRequest {
            keys_only: true,
            ..range("k/")
        })
        .await
        .unwrap();
    assert_eq!((only_keys.kvs.len(), only_keys.count), (5, 5));
    assert!(
        only_keys
            .kvs
            .iter()
            .all(|kv| kv.value.is_empty() && kv.mod_revision > 0 && kv.version > 0)
    );
    let by_value = client
        .range(pb::RangeRequest {
            keys_only: true,
            sort_target: pb::range_request::SortTarget::Value.into(),
            ..range("k/")
        })
        .await
        .unwrap();
    assert_eq!(keys(&by_value.kvs), ["k/e", "k/d", "k/c", "k/b", "k/a"]);
    assert!(by_value.kvs.iter().all(|kv| kv.value.is_empty()));
    let only_count = client
        .range(pb::RangeRequest {
            count_only: true,
            limit: 2,
            ..range("k/")
        })
        .await
        .unwrap();
    assert_eq!(
        (only_count.kvs.len(), only_count.count, only_count.more),
        (0, 5, false)
    );
}

#[tokio::test]
async fn an_old_revision_shows_the_keys_as_they_were() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.put("a", "one").await.unwrap(); // 2
    client.put("b", "one").await.unwrap(); // 3
    client.delete("a").await.unwrap(); // 4
    client.put("a", "two").await.unwrap(); // 5
    let at = async |revision: i64| {
        let request = pb::RangeRequest {
            key: "a".into(),
            range_end: "z".into(),
            revision,
            ..Default::default()
        };
        let response = client.range(request).await.unwrap();
        assert_eq!(
            response.header.unwrap().revision,
            5,
            "the header has the newest revision"
        );
        response
            .kvs
            .iter()
            .map(|kv| {
                (
                    kv.key.clone(),
                    kv.mod_revision,
                    kv.create_revision,
                    kv.version,
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(at(1).await, []);
    assert_eq!(at(2).await, [("a".into(), 2, 2, 1)]);
    assert_eq!(at(3).await, [("a".into(), 2, 2, 1), ("b".into(), 3, 3, 1)]);
    assert_eq!(at(4).await, [("b".into(), 3, 3, 1)]);
    assert_eq!(at(5).await, [("a".into(), 5, 5, 1), ("b".into(), 3, 3, 1)]);
    assert_eq!(
        at(-7).await,
        at(0).await,
        "a revision that is not positive means the newest"
    );
}

#[tokio::test]
async fn serializable_reads_see_an_own_members_writes() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.put("a", "one").await.unwrap();
    let read = client
        .range(pb::RangeRequest {
            key: "a".into(),
            serializable: true,
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(read.kvs[0].value, "one");
}

#[tokio::test]
async fn deletes_answer_what_they_removed_and_nothing_moves_if_nothing_is_there() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    five_keys(&client).await; // revision 7
    let nothing = client.delete("missing").await.unwrap();
    assert_eq!((nothing.deleted, nothing.header.unwrap().revision), (0, 7));
    let request = pb::DeleteRangeRequest {
        key: "k/b".into(),
        range_end: "k/e".into(),
        prev_kv: true,
    };
    let removed = client.delete_range(request).await.unwrap();
    assert_eq!((removed.deleted, removed.header.unwrap().revision), (3, 8));
    assert_eq!(keys(&removed.prev_kvs), ["k/b", "k/c", "k/d"]);
    assert_eq!(removed.prev_kvs[1].value, "3");
    let again = client.put("k/b", "x").await.unwrap();
    assert_eq!(again.header.unwrap().revision, 9);
    let kv = client.get("k/b").await.unwrap().kvs.remove(0);
    assert_eq!(
        (kv.create_revision, kv.version),
        (9, 1),
        "a key that comes back starts again"
    );
    let all = pb::DeleteRangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        ..Default::default()
    };
    assert_eq!(client.delete_range(all).await.unwrap().deleted, 3);
}

#[tokio::test]
async fn compaction_keeps_what_was_live_at_its_revision() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.put("a", "one").await.unwrap(); // 2
    client.put("b", "one").await.unwrap(); // 3
    client.put("a", "two").await.unwrap(); // 4
    client.delete("b").await.unwrap(); // 5
    client.put("a", "three").await.unwrap(); // 6
    let compacted = client.compact(4).await.unwrap();
    assert_eq!(compacted.header.unwrap().revision, 6);
    let at = async |key: &'static str, revision: i64| {
        client
            .range(pb::RangeRequest {
                key: key.into(),
                revision,
                ..Default::default()
            })
            .await
    };
    assert_eq!(
        at("a", 3).await.unwrap_err().message(),
        "etcdserver: mvcc: required revision has been compacted"
    );
    assert_eq!(
        at("a", 4).await.unwrap().kvs[0].value,
        "two",
        "reading exactly at the compacted revision is allowed"
    );
    assert_eq!(at("b", 4).await.unwrap().kvs[0].value, "one");
    assert_eq!(at("b", 5).await.unwrap().count, 0);
    assert_eq!(at("a", 0).await.unwrap().kvs[0].value, "three");
}

#[tokio::test]
async fn revision_zero_can_be_compacted_once_on_a_fresh_store() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    client.compact(0).await.unwrap();
    assert_eq!(
        client.compact(0).await.unwrap_err().message(),
        "etcdserver: mvcc: required revision has been compacted"
    );
}

#[tokio::test]
async fn a_value_of_the_greatest_size_fits() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let value: Bytes = vec![0x5a; 1_500_000].into();
    client.put("large", value.clone()).await.unwrap();
    assert_eq!(client.value("large").await.unwrap(), Some(value));
}

#[tokio::test]
async fn a_thousand_random_operations_agree_with_the_model() {
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(seed);
    let mut model = Model::default();
    for _ in 0..1_000 {
        tests::model::random_step(&mut rng, &mut model, &client).await;
    }
    let everything = pb::RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        ..Default::default()
    };
    assert_eq!(
        client.range(everything).await.unwrap().kvs,
        model.range(b"\0", b"\0", 0).expect("the newest revision")
    );
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_kill_9() {
    let mut cluster = Cluster::single().await;
    let client = cluster.client().await;
    for round in 0..3 {
        for number in 0..20 {
            client
                .put(format!("k{number}"), format!("{round}/{number}"))
                .await
                .unwrap();
        }
        let before = client.prefix("k").await.unwrap();
        cluster.members[0].kill();
        cluster.members[0].start().await;
        let after = cluster.client().await.prefix("k").await.unwrap();
        assert_eq!(after.kvs, before.kvs);
        assert_eq!(
            after.header.unwrap().revision,
            before.header.unwrap().revision
        );
        // The old channel reconnects by itself.
    }
}

#[tokio::test]
async fn history_survives_a_restart() {
    let mut cluster = Cluster::single().await;
    let client = cluster.client().await;
    for value in ["one", "two", "three"] {
        client.put("a", value).await.unwrap();
    }
    client.compact(3).await.unwrap();
    cluster.members[0].terminate().await;
    cluster.members[0].start().await;
    let client = cluster.client().await;
    let at = async |revision: i64| {
        client
            .range(pb::RangeRequest {
                key: "a".into(),
                revision,
                ..Default::default()
            })
            .await
    };
    assert_eq!(at(3).await.unwrap().kvs[0].value, "two");
    assert_eq!(
        at(2).await.unwrap_err().message(),
        "etcdserver: mvcc: required revision has been compacted"
    );
    assert_eq!(
        at(5).await.unwrap_err().message(),
        "etcdserver: mvcc: required revision is a future revision"
    );
}
