//! Locks and elections: what their keys may not be used for, they may not be used for.
//!
//! etcd carries them out with a client of its own, which loses the code of what it is refused.

use futures::future::BoxFuture;
use proto::v3electionpb as election;
use proto::v3electionpb::election_client::ElectionClient;
use proto::v3lockpb as lock;
use proto::v3lockpb::lock_client::LockClient;
use tonic::Status;
use tonic::transport::Channel;

use crate::fixture::*;
use crate::matrix::{Alice, Row, call};

pub(crate) fn calls() -> Vec<Row> {
    use Alice::{May, MayNot};
    vec![
        ("lock", May, call!(it => locked(it, "a/lock"))),
        (
            "lock of a foreign name",
            MayNot,
            call!(it => locked(it, "b/lock")),
        ),
        (
            "lock of a name to write alone",
            MayNot,
            call!(it => locked(it, "w")),
        ),
        (
            "lock with a foreign lease",
            MayNot,
            call!(it => locks(&it).lock(it.ask(lock::LockRequest {
                name: bytes("a/other"), lease: LEASE_OF_OTHERS,
            }))),
        ),
        ("unlock", May, call!(it => unlocked(it, "a/lock/x"))),
        (
            "unlock of a foreign key",
            MayNot,
            call!(it => unlocked(it, "b/1")),
        ),
        ("campaign", May, call!(it => campaigned(it, "a/election"))),
        (
            "campaign under a foreign name",
            MayNot,
            call!(it => campaigned(it, "b/election")),
        ),
        (
            "leader",
            May,
            call!(it => elections(&it).leader(it.ask(election::LeaderRequest {
                name: bytes("a/election"),
            }))),
        ),
        (
            "leader under a foreign name",
            MayNot,
            call!(it => elections(&it).leader(it.ask(election::LeaderRequest {
                name: bytes("b/election"),
            }))),
        ),
        (
            "proclaim with a foreign key",
            MayNot,
            call!(it => elections(&it).proclaim(it.ask(election::ProclaimRequest {
                leader: Some(foreign()), value: bytes("v"),
            }))),
        ),
        (
            "resign with a foreign key",
            MayNot,
            call!(it => elections(&it).resign(it.ask(election::ResignRequest {
                leader: Some(foreign()),
            }))),
        ),
    ]
}

fn locks(who: &As) -> LockClient<Channel> {
    LockClient::new(who.client.channel())
}

fn elections(who: &As) -> ElectionClient<Channel> {
    ElectionClient::new(who.client.channel())
}

fn foreign() -> election::LeaderKey {
    election::LeaderKey {
        name: bytes("b"),
        key: bytes("b/1"),
        rev: 1,
        lease: LEASE_OF_OTHERS,
    }
}

async fn locked(who: As, name: &'static str) -> Result<(), Status> {
    let request = lock::LockRequest {
        name: bytes(name),
        lease: LEASE_OF_ALICE,
    };
    locks(&who).lock(who.ask(request)).await.map(drop)
}

async fn unlocked(who: As, key: &'static str) -> Result<(), Status> {
    let request = lock::UnlockRequest { key: bytes(key) };
    locks(&who).unlock(who.ask(request)).await.map(drop)
}

async fn campaigned(who: As, name: &'static str) -> Result<(), Status> {
    let request = election::CampaignRequest {
        name: bytes(name),
        lease: LEASE_OF_ALICE,
        value: bytes("v"),
    };
    elections(&who).campaign(who.ask(request)).await.map(drop)
}
