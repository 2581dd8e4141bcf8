//! Every call, as nobody, with tokens that are none or none any more, and as somebody who may little.

use std::time::Duration;

use futures::future::BoxFuture;
use tests::cluster::Cluster;
use tests::wait;
use tonic::{Code, Status};

use crate::fixture::*;
use crate::{on_cluster, on_keys, on_services};

pub(crate) type Call = fn(As) -> BoxFuture<'static, Result<(), Status>>;

/// What alice may expect of a call that nobody may make without a name.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Alice {
    May,
    MayNot,
}

macro_rules! call {
    ($who:ident => $future:expr) => {
        |$who: As| Box::pin(async move { $future.await.map(drop) }) as BoxFuture<'static, _>
    };
}
pub(crate) use call;

/// What it is, what alice may expect, and the call.
pub(crate) type Row = (&'static str, Alice, Call);

/// Every call that needs somebody.
fn calls() -> Vec<Row> {
    let mut calls = on_keys::calls();
    calls.extend(on_cluster::calls());
    calls
}

fn told(result: Result<(), Status>) -> (Code, String) {
    match result {
        Ok(()) => (Code::Ok, String::new()),
        Err(status) => (status.code(), status.message().to_owned()),
    }
}

/// How calls say that they may not be made.
#[derive(Clone, Copy)]
enum Codes {
    Own,
    /// Lost on their way.
    Unknown,
}

impl Codes {
    fn refusal(self, code: Code, text: &str) -> (Code, String) {
        let code = match self {
            Self::Own => code,
            Self::Unknown => Code::Unknown,
        };
        (code, text.to_owned())
    }
}

async fn every_call_asks_who_may(cluster: &Cluster, member: usize) {
    with_auth(cluster).await;
    let endpoint = cluster.members[member].endpoint();
    let nobody = As::nobody(&endpoint).await;
    let alice = alice(cluster).await.at(&endpoint).await;
    for (codes, calls) in [
        (Codes::Own, calls()),
        (Codes::Unknown, on_services::calls()),
    ] {
        let user_empty = codes.refusal(Code::InvalidArgument, USER_EMPTY);
        let invalid = codes.refusal(Code::Unauthenticated, INVALID_TOKEN);
        let denied = codes.refusal(Code::PermissionDenied, DENIED);
        for (name, expected, call) in calls {
            let by_nobody = told(call(nobody.clone()).await);
            assert_eq!(by_nobody, user_empty, "{name}, no token");
            for token in ["no-token", "AAAAAAAAAAAAAAAA.1"] {
                let by_liar = told(call(nobody.with(token)).await);
                assert_eq!(by_liar, invalid, "{name}, token {token}");
            }
            let wanted = match expected {
                Alice::May => (Code::Ok, String::new()),
                Alice::MayNot => denied.clone(),
            };
            assert_eq!(told(call(alice.clone()).await), wanted, "{name}, alice");
        }
    }
}

#[tokio::test]
async fn every_call_asks_who_may_on_one_member() {
    every_call_asks_who_may(&Cluster::single().await, 0).await;
}

#[tokio::test]
async fn every_call_asks_who_may_on_a_follower() {
    let cluster = Cluster::three().await;
    let follower = (cluster.leader().await + 1) % 3;
    every_call_asks_who_may(&cluster, follower).await;
}

/// Waits until alice's token has ended; then it is worth nothing anywhere.
async fn an_ended_token_opens_nothing(flag: String) {
    let cluster = Cluster::plan().flag(flag).start().await;
    with_auth(&cluster).await;
    let alice = alice(&cluster).await;
    // Looked at with pauses longer than its time: to look at a simple token is to use it.
    wait::until("the token to end", Duration::from_secs(30), || {
        let alice = alice.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            alice.range("a/1", "").await.err()
        }
    })
    .await;
    for (codes, calls) in [
        (Codes::Own, calls()),
        (Codes::Unknown, on_services::calls()),
    ] {
        let invalid = codes.refusal(Code::Unauthenticated, INVALID_TOKEN);
        for (name, _, call) in calls {
            assert_eq!(told(call(alice.clone()).await), invalid, "{name}");
        }
    }
}

#[tokio::test]
async fn a_simple_token_that_was_not_used_for_its_time_opens_nothing() {
    an_ended_token_opens_nothing("--auth-token-ttl=1".into()).await;
}

#[tokio::test]
async fn a_signed_token_past_its_time_opens_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key");
    std::fs::write(&key, "a shared secret").unwrap();
    let flag = format!(
        "--auth-token=jwt,priv-key={},sign-method=HS256,ttl=1s",
        key.display()
    );
    an_ended_token_opens_nothing(flag).await;
}
