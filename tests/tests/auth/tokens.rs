//! Tokens: how long they are worth something, and to whom.

use tests::cluster::Cluster;
use tonic::Code;

use crate::fixture::*;

#[tokio::test]
async fn a_deleted_user_and_a_changed_password_end_tokens_on_every_member() {
    let cluster = Cluster::three().await;
    let root = with_auth(&cluster).await;
    let alice = alice(&cluster).await;
    let mut everywhere = Vec::new();
    for endpoint in cluster.endpoints() {
        let here = alice.at(&endpoint).await;
        here.put(put("a/1")).await.unwrap();
        assert_eq!(here.range("a/1", "").await.unwrap(), 1);
        everywhere.push(here);
    }
    root.change_password("alice", "another").await.unwrap();
    for here in &everywhere {
        let refused = here.range("a/1", "").await;
        assert_refused(refused, Code::Unauthenticated, INVALID_TOKEN);
    }
    let endpoint = cluster.members[1].endpoint();
    let alice = As::user(&endpoint, "alice", "another").await;
    alice.put(put("a/1")).await.unwrap();
    root.delete_user("alice").await.unwrap();
    for endpoint in cluster.endpoints() {
        let here = alice.at(&endpoint).await;
        // A member that has not applied the deletion yet refuses the entry when it is applied.
        let refused = here.range("a/1", "").await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::Unauthenticated, INVALID_TOKEN)
        );
    }
}

#[tokio::test]
async fn a_signed_token_is_taken_by_every_member_and_is_old_after_a_change() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key");
    std::fs::write(&key, "a shared secret").unwrap();
    let flag = format!(
        "--auth-token=jwt,priv-key={},sign-method=HS256,ttl=5m",
        key.display()
    );
    let cluster = Cluster::plan().members(3).flag(flag).start().await;
    let root = with_auth(&cluster).await;
    let alice = alice(&cluster).await;
    assert_eq!(alice.token.as_ref().unwrap().split('.').count(), 3);
    for endpoint in cluster.endpoints() {
        let here = alice.at(&endpoint).await;
        assert_eq!(here.range("a/1", "").await.unwrap(), 1);
        assert_denied(here.range("b/1", "").await);
    }
    let forged = alice.with("eyJhbGciOiJub25lIn0.eyJ1c2VybmFtZSI6InJvb3QiLCJyZXZpc2lvbiI6OTl9.");
    assert_refused(
        forged.range("a/1", "").await,
        Code::Unauthenticated,
        INVALID_TOKEN,
    );
    root.add_role("another").await.unwrap();
    assert_refused(
        alice.range("a/1", "").await,
        Code::InvalidArgument,
        OLD_REVISION,
    );
    assert_refused(
        alice.put(put("a/1")).await,
        Code::InvalidArgument,
        OLD_REVISION,
    );
    // Its own work does not make root's token old for its work.
    root.add_role("a third").await.unwrap();
}

#[tokio::test]
async fn a_new_password_ends_signed_tokens_too() {
    if is_etcd() {
        // etcd lets root's work go on with a token from before the change.
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key");
    std::fs::write(&key, "a shared secret").unwrap();
    let flag = format!(
        "--auth-token=jwt,priv-key={},sign-method=HS512",
        key.display()
    );
    let cluster = Cluster::plan().flag(flag).start().await;
    let root = with_auth(&cluster).await;
    root.change_password("root", "another").await.unwrap();
    assert_refused(
        root.add_role("x").await,
        Code::InvalidArgument,
        OLD_REVISION,
    );
}
