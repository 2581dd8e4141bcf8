//! The calls on the cluster, its members, its users and roles.

use futures::future::BoxFuture;
use proto::etcdserverpb as pb;
use tonic::Status;

use crate::fixture::*;
use crate::matrix::{Alice, Row, call};

pub(crate) fn calls() -> Vec<Row> {
    use Alice::{May, MayNot};
    vec![
        (
            "compact",
            MayNot,
            call!(it => it.client.kv().compact(it.ask(pb::CompactionRequest {
                revision: 2, ..Default::default()
            }))),
        ),
        (
            "member list",
            May,
            call!(it => it.cluster().member_list(it.ask(
            pb::MemberListRequest { linearizable: true }))),
        ),
        (
            "member add",
            MayNot,
            call!(it => it.cluster().member_add(it.ask(
            pb::MemberAddRequest {
                    peer_ur_ls: vec!["http://127.0.0.1:2".into()],
                    is_learner: true,
                }))),
        ),
        (
            "member remove",
            MayNot,
            call!(it => it.cluster().member_remove(it.ask(
            pb::MemberRemoveRequest { id: 7 }))),
        ),
        (
            "member update",
            MayNot,
            call!(it => it.cluster().member_update(it.ask(
            pb::MemberUpdateRequest { id: 7, peer_ur_ls: vec!["http://127.0.0.1:1".into()] }))),
        ),
        (
            "member promote",
            MayNot,
            call!(it => it.cluster().member_promote(it.ask(
            pb::MemberPromoteRequest { id: 7 }))),
        ),
        (
            "status",
            May,
            call!(it => it.maintenance().status(it.ask(pb::StatusRequest {}))),
        ),
        (
            "alarms",
            May,
            call!(it => it.maintenance().alarm(it.ask(pb::AlarmRequest::default()))),
        ),
        (
            "taking back an alarm",
            MayNot,
            call!(it => it.maintenance().alarm(it.ask(
            pb::AlarmRequest { action: 2, member_id: 0, alarm: 1 }))),
        ),
        (
            "raising an alarm",
            MayNot,
            call!(it => it.maintenance().alarm(it.ask(
            pb::AlarmRequest { action: 1, member_id: 7, alarm: 1 }))),
        ),
        (
            "defragment",
            MayNot,
            call!(it => it.maintenance().defragment(it.ask(
            pb::DefragmentRequest {}))),
        ),
        (
            "hash",
            MayNot,
            call!(it => it.maintenance().hash(it.ask(pb::HashRequest {}))),
        ),
        (
            "hash of keys",
            MayNot,
            call!(it => it.maintenance().hash_kv(it.ask(
            pb::HashKvRequest::default()))),
        ),
        ("snapshot", MayNot, call!(it => snapshot(it))),
        (
            "move leader",
            MayNot,
            call!(it => it.maintenance().move_leader(it.ask(
            pb::MoveLeaderRequest { target_id: 7 }))),
        ),
        (
            "downgrade",
            MayNot,
            call!(it => it.maintenance().downgrade(it.ask(
            pb::DowngradeRequest::default()))),
        ),
        (
            "user list",
            MayNot,
            call!(it => it.auth().user_list(it.ask(pb::AuthUserListRequest {}))),
        ),
        (
            "user get of oneself",
            May,
            call!(it => it.auth().user_get(it.ask(
            pb::AuthUserGetRequest { name: "alice".into() }))),
        ),
        (
            "user get of another",
            MayNot,
            call!(it => it.auth().user_get(it.ask(
            pb::AuthUserGetRequest { name: "root".into() }))),
        ),
        (
            "user add",
            MayNot,
            call!(it => it.add_user("mallory", "x", &[])),
        ),
        ("user delete", MayNot, call!(it => it.delete_user("alice"))),
        (
            "password of oneself",
            MayNot,
            call!(it => it.change_password("alice", "x")),
        ),
        (
            "role of a user",
            MayNot,
            call!(it => it.revoke_role("alice", "gardener")),
        ),
        (
            "role list",
            MayNot,
            call!(it => it.auth().role_list(it.ask(pb::AuthRoleListRequest {}))),
        ),
        (
            "role get of one's own",
            May,
            call!(it => it.auth().role_get(it.ask(
            pb::AuthRoleGetRequest { role: "gardener".into() }))),
        ),
        (
            "role get of another",
            MayNot,
            call!(it => it.auth().role_get(it.ask(
            pb::AuthRoleGetRequest { role: "root".into() }))),
        ),
        ("role add", MayNot, call!(it => it.add_role("thief"))),
        (
            "permission",
            MayNot,
            call!(it => it.grant("gardener", READWRITE, "b/", "b0")),
        ),
        ("enable", MayNot, call!(it => it.enable())),
        (
            "disable",
            MayNot,
            call!(it => it.auth().auth_disable(it.ask(pb::AuthDisableRequest {}))),
        ),
        (
            "role for a user",
            MayNot,
            call!(it => it.auth().user_grant_role(it.ask(pb::AuthUserGrantRoleRequest {
                user: "alice".into(), role: "root".into(),
            }))),
        ),
        (
            "role delete",
            MayNot,
            call!(it => it.auth().role_delete(it.ask(
            pb::AuthRoleDeleteRequest { role: "gardener".into() }))),
        ),
        (
            "permission taken back",
            MayNot,
            call!(it => it.auth().role_revoke_permission(it.ask(
            pb::AuthRoleRevokePermissionRequest {
                role: "gardener".into(), key: bytes("m"), range_end: bytes(""),
            }))),
        ),
    ]
}

async fn snapshot(who: As) -> Result<(), Status> {
    let answers = who
        .maintenance()
        .snapshot(who.ask(pb::SnapshotRequest {}))
        .await?;
    answers.into_inner().message().await.map(drop)
}
