//! Leases as clients see them.

use proto::etcdserverpb as pb;
use tonic::Code;

use super::wire::{assert_status, bytes, put, serve};

#[tokio::test]
async fn a_lease_gets_the_least_ttl_and_an_id_of_the_servers_choice() {
    let served = serve().await;
    let mut lease = served.lease.clone();
    let grant = pb::LeaseGrantRequest { ttl: 1, id: 0 };
    let granted = lease.lease_grant(grant).await.unwrap().into_inner();
    assert_eq!(granted.ttl, 2);
    assert!(granted.id > 0);
    assert_eq!(granted.header.unwrap().revision, 1);
}

#[tokio::test]
async fn refusals_have_etcds_codes_and_texts() {
    let served = serve().await;
    let mut lease = served.lease.clone();
    let grant = pb::LeaseGrantRequest { ttl: 10, id: 5 };
    lease.lease_grant(grant).await.unwrap();
    let message = "etcdserver: lease already exists";
    assert_status(
        lease.lease_grant(grant).await,
        Code::FailedPrecondition,
        message,
    );
    let grant = pb::LeaseGrantRequest {
        ttl: 9_000_000_001,
        id: 6,
    };
    let message = "etcdserver: too large lease TTL";
    assert_status(lease.lease_grant(grant).await, Code::OutOfRange, message);
    let revoke = pb::LeaseRevokeRequest { id: 99 };
    let message = "etcdserver: requested lease not found";
    assert_status(lease.lease_revoke(revoke).await, Code::NotFound, message);
}

#[tokio::test]
async fn revoking_a_lease_deletes_its_keys_in_one_revision() {
    let served = serve().await;
    let mut lease = served.lease.clone();
    lease
        .lease_grant(pb::LeaseGrantRequest { ttl: 10, id: 5 })
        .await
        .unwrap();
    for key in ["a", "b"] {
        served
            .kv
            .clone()
            .put(pb::PutRequest {
                lease: 5,
                ..put(key, "v")
            })
            .await
            .unwrap();
    }
    let ask = pb::LeaseTimeToLiveRequest { id: 5, keys: true };
    let alive = lease.lease_time_to_live(ask).await.unwrap().into_inner();
    assert_eq!(
        (alive.granted_ttl, alive.keys),
        (10, vec![bytes("a"), bytes("b")])
    );
    assert!((1..=10).contains(&alive.ttl));
    let revoked = lease
        .lease_revoke(pb::LeaseRevokeRequest { id: 5 })
        .await
        .unwrap();
    assert_eq!(revoked.into_inner().header.unwrap().revision, 4);
    assert_eq!(served.get("a").await, None);
    let gone = lease.lease_time_to_live(ask).await.unwrap().into_inner();
    assert_eq!(
        (gone.id, gone.ttl, gone.granted_ttl, gone.keys.len()),
        (5, -1, 0, 0)
    );
}

#[tokio::test]
async fn keep_alives_are_answered_in_order_and_an_unknown_lease_has_no_time_left() {
    let served = serve().await;
    let mut lease = served.lease.clone();
    lease
        .lease_grant(pb::LeaseGrantRequest { ttl: 10, id: 5 })
        .await
        .unwrap();
    let requests = [5, 99, 5].map(|id| pb::LeaseKeepAliveRequest { id });
    let stream = tokio_stream::iter(requests);
    let mut answers = lease.lease_keep_alive(stream).await.unwrap().into_inner();
    let mut ttls = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        assert_eq!(answer.header.unwrap().revision, 1);
        ttls.push((answer.id, answer.ttl));
    }
    assert_eq!(ttls, [(5, 10), (99, 0), (5, 10)]);
}

#[tokio::test]
async fn leases_are_listed_by_their_end() {
    let served = serve().await;
    let mut lease = served.lease.clone();
    for (id, ttl) in [(1, 300), (2, 100), (3, 200)] {
        lease
            .lease_grant(pb::LeaseGrantRequest { ttl, id })
            .await
            .unwrap();
    }
    let leases = lease
        .lease_leases(pb::LeaseLeasesRequest {})
        .await
        .unwrap()
        .into_inner();
    let ids: Vec<_> = leases.leases.iter().map(|lease| lease.id).collect();
    assert_eq!(ids, [2, 3, 1]);
}
