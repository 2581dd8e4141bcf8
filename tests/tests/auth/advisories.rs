//! etcd's advisories, each as a test that is named after it.

use tests::cluster::Cluster;

use crate::fixture::*;

#[tokio::test]
async fn ghsa_xg4h_6gfc_h4m8_one_key_gives_no_open_ended_range_or_watch() {
    let cluster = Cluster::single().await;
    with_auth(&cluster).await;
    let alice = alice(&cluster).await;
    assert_denied(alice.range("m", "\0").await);
    assert_denied(alice.delete(delete("w", "\0")).await);
    let mut watch = alice.watch("m", "\0").await;
    let told = watch.next().await;
    assert!(
        told.created && told.canceled && told.watch_id == -1,
        "{told:?}"
    );
    let reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    assert_eq!(told.cancel_reason, reason);
    assert!(!alice.watch("m", "").await.next().await.canceled);
}

/// CVE-2021-28235, and more: no file holds a password or a token.
#[tokio::test]
async fn cve_2021_28235_no_password_and_no_token_is_written_down() {
    let cluster = Cluster::single().await;
    let root = with_auth(&cluster).await;
    let alice = alice(&cluster).await;
    let nobody = As::nobody(&cluster.members[0].endpoint()).await;
    nobody
        .authenticate("alice", "canary-wrong-password-3d")
        .await
        .unwrap_err();
    root.change_password("alice", "canary-new-password-4c")
        .await
        .unwrap();
    let tokens = [root.token.clone().unwrap(), alice.token.clone().unwrap()];
    let mut wanted = vec![
        ROOT_PASSWORD.to_owned(),
        ALICE_PASSWORD.to_owned(),
        "canary-wrong-password-3d".to_owned(),
        "canary-new-password-4c".to_owned(),
    ];
    // etcd writes the random part of a token into its log.
    if !is_etcd() {
        let random = |token: String| token.split_once('.').unwrap().0.to_owned();
        wanted.extend(tokens.map(random));
    }
    for (path, bytes) in cluster.files() {
        // Preallocated files end in zeros, where nothing can stand.
        let written = bytes.iter().rposition(|byte| *byte != 0);
        let bytes = &bytes[..written.map_or(0, |last| last + 1)];
        for secret in &wanted {
            let found = bytes
                .windows(secret.len())
                .any(|it| it == secret.as_bytes());
            assert!(!found, "{} holds {secret}", path.display());
        }
    }
}
