//! Users and roles are managed with etcd's words, and what is changed counts at once.

use std::time::Duration;

use proto::authpb;
use proto::etcdserverpb as pb;
use tests::client::Client;
use tests::cluster::Cluster;
use tests::wait;
use tonic::Code;

use crate::fixture::*;

#[tokio::test]
async fn what_needs_nobody_answers_everybody() {
    let cluster = Cluster::single().await;
    with_auth(&cluster).await;
    let nobody = As::nobody(&cluster.members[0].endpoint()).await;
    let status = nobody.auth().auth_status(pb::AuthStatusRequest {}).await;
    assert!(status.unwrap().into_inner().enabled);
    assert_refused(
        nobody.authenticate("alice", "wrong").await,
        Code::InvalidArgument,
        FAILED,
    );
    assert_refused(
        nobody.authenticate("mallory", "x").await,
        Code::InvalidArgument,
        FAILED,
    );
}

#[tokio::test]
async fn while_authentication_is_off_nothing_is_asked() {
    let cluster = Cluster::single().await;
    let nobody = As::nobody(&cluster.members[0].endpoint()).await;
    nobody.with("no-token").put(put("k")).await.unwrap();
    assert_refused(
        nobody.authenticate("root", "x").await,
        Code::FailedPrecondition,
        "etcdserver: authentication is not enabled",
    );
    assert_refused(
        nobody.enable().await,
        Code::FailedPrecondition,
        "etcdserver: root user does not exist",
    );
    assert_eq!(nobody.revision().await, 1);
    nobody.add_user("root", "x", &[]).await.unwrap();
    assert_refused(
        nobody.enable().await,
        Code::FailedPrecondition,
        "etcdserver: root user does not have root role",
    );
    assert_eq!(nobody.revision().await, 2);
}

#[tokio::test]
async fn root_cannot_lock_itself_out_and_mistakes_get_etcds_words() {
    let cluster = Cluster::single().await;
    let root = with_auth(&cluster).await;
    let invalid = "etcdserver: invalid auth management";
    assert_refused(
        root.delete_user("root").await,
        Code::InvalidArgument,
        invalid,
    );
    assert_refused(
        root.revoke_role("root", "root").await,
        Code::InvalidArgument,
        invalid,
    );
    let delete = pb::AuthRoleDeleteRequest {
        role: "root".into(),
    };
    let deleted = root.auth().role_delete(root.ask(delete)).await;
    assert_refused(deleted, Code::InvalidArgument, invalid);
    assert_refused(
        root.grant("gardener", READ, "b", "a").await,
        Code::InvalidArgument,
        invalid,
    );
    assert_refused(
        root.grant("gardener", READ, "", "").await,
        Code::InvalidArgument,
        invalid,
    );
    let failed = Code::FailedPrecondition;
    let no_user = "etcdserver: user name not found";
    let no_role = "etcdserver: role name not found";
    assert_refused(root.delete_user("mallory").await, failed, no_user);
    assert_refused(root.grant("thief", READ, "a", "").await, failed, no_role);
    let again = "etcdserver: user name already exists";
    assert_refused(root.add_user("alice", "x", &[]).await, failed, again);
    let again = "etcdserver: role name already exists";
    assert_refused(root.add_role("gardener").await, failed, again);
    let none = "etcdserver: role is not granted to the user";
    assert_refused(root.revoke_role("alice", "thief").await, failed, none);
    assert_refused(
        root.add_user("", "x", &[]).await,
        Code::InvalidArgument,
        USER_EMPTY,
    );
    let empty = "etcdserver: role name is empty";
    assert_refused(root.add_role("").await, Code::InvalidArgument, empty);
    let nothing = pb::AuthRoleGrantPermissionRequest {
        name: "gardener".into(),
        perm: None,
    };
    assert_refused(
        root.auth().role_grant_permission(root.ask(nothing)).await,
        Code::InvalidArgument,
        "etcdserver: permission not given",
    );
    let none = pb::AuthRoleRevokePermissionRequest {
        role: "gardener".into(),
        key: bytes("none"),
        range_end: bytes(""),
    };
    assert_refused(
        root.auth().role_revoke_permission(root.ask(none)).await,
        failed,
        "etcdserver: permission is not granted to the role",
    );
    let nameless = pb::AuthUserAddRequest {
        name: "by certificate".into(),
        options: Some(authpb::UserAddOptions { no_password: true }),
        ..Default::default()
    };
    root.auth().user_add(root.ask(nameless)).await.unwrap();
    assert_refused(
        root.authenticate("by certificate", "x").await,
        Code::Unknown,
        "auth: authentication failed, password was given for no password user",
    );
}

#[tokio::test]
async fn a_changed_role_counts_at_once() {
    let cluster = Cluster::three().await;
    let root = with_auth(&cluster).await;
    let alice = alice(&cluster).await;
    alice.put(put("a/1")).await.unwrap();
    let revoke = pb::AuthRoleRevokePermissionRequest {
        role: "gardener".into(),
        key: bytes("a/"),
        range_end: bytes("a0"),
    };
    root.auth()
        .role_revoke_permission(root.ask(revoke))
        .await
        .unwrap();
    for endpoint in cluster.endpoints() {
        assert_denied(alice.at(&endpoint).await.range("a/1", "").await);
    }
    root.grant("gardener", READWRITE, "a/", "a0").await.unwrap();
    for endpoint in cluster.endpoints() {
        assert_eq!(alice.at(&endpoint).await.range("a/1", "").await.unwrap(), 1);
    }
}

#[tokio::test]
async fn permissions_that_touch_give_a_range_together() {
    let cluster = Cluster::single().await;
    let root = with_auth(&cluster).await;
    root.grant("gardener", READ, "a0", "c").await.unwrap();
    let alice = alice(&cluster).await;
    alice.range("a/", "c").await.unwrap();
    assert_denied(alice.range("a/", "c\0").await);
}

#[tokio::test]
async fn users_and_roles_outlive_a_restart_and_tokens_need_not() {
    let mut cluster = Cluster::single().await;
    with_auth(&cluster).await;
    cluster.members[0].kill();
    // Whether it serves cannot be asked without a name.
    cluster.members[0].launch();
    let endpoint = cluster.members[0].endpoint();
    let nobody = wait::until("the member to serve", Duration::from_secs(60), || async {
        let client = Client::try_connect(&endpoint).await?;
        let nobody = As {
            client,
            token: None,
        };
        let status = nobody.auth().auth_status(pb::AuthStatusRequest {}).await;
        status.is_ok().then_some(nobody)
    })
    .await;
    assert_refused(
        nobody.range("a/1", "").await,
        Code::InvalidArgument,
        USER_EMPTY,
    );
    let alice = alice(&cluster).await;
    assert_eq!(alice.range("a/1", "").await.unwrap(), 1);
    assert_denied(alice.range("b/1", "").await);
}
