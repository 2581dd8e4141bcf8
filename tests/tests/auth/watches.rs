//! Who may watch, and for how long.

use tests::cluster::Cluster;

use crate::fixture::*;

#[tokio::test]
async fn a_watch_without_a_valid_token_says_why_it_is_refused() {
    let cluster = Cluster::single().await;
    with_auth(&cluster).await;
    let nobody = As::nobody(&cluster.members[0].endpoint()).await;
    for (who, reason) in [
        (
            nobody.clone(),
            format!("rpc error: code = InvalidArgument desc = {USER_EMPTY}"),
        ),
        (
            nobody.with("no-token"),
            format!("rpc error: code = Unauthenticated desc = {INVALID_TOKEN}"),
        ),
    ] {
        let told = who.watch("a/1", "").await.next().await;
        assert!(told.canceled && told.watch_id == -1, "{told:?}");
        assert_eq!(told.cancel_reason, reason);
    }
}

#[tokio::test]
async fn a_watch_ends_when_its_permission_does() {
    if is_etcd() {
        // etcd asks only when the watch is created.
        return;
    }
    let cluster = Cluster::single().await;
    let root = with_auth(&cluster).await;
    let alice = alice(&cluster).await;
    let mut watch = alice.watch("a/", "a0").await;
    assert!(watch.next().await.created);
    root.put(put("a/1")).await.unwrap();
    assert_eq!(watch.next().await.events.len(), 1);
    root.add_role("unrelated").await.unwrap();
    root.put(put("a/1")).await.unwrap();
    assert_eq!(watch.next().await.events.len(), 1);
    root.revoke_role("alice", "gardener").await.unwrap();
    root.put(put("a/1")).await.unwrap();
    let told = watch.next().await;
    assert!(told.canceled && told.events.is_empty(), "{told:?}");
    let reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    assert_eq!(told.cancel_reason, reason);
}
