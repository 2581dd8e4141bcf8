//! Moving users and roles where authentication is on: from an etcd into sealkv, on to another
//! sealkv, and back to an etcd.
//!
//! Needs a real etcd; without one each test says so and is skipped.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use proto::authpb;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::auth_client::AuthClient;
use tests::client::Client;
use tests::cluster::{Cluster, Program};
use tests::command::{command, output, show, text};
use tests::{binary, wait};
use tonic::transport::Channel;

const SOON: Duration = Duration::from_secs(60);

async fn start(program: Program) -> Cluster {
    Cluster::plan().program(program).start().await
}

async fn user(auth: &mut AuthClient<Channel>, name: &str, password: &str, role: &str) {
    let add = pb::AuthUserAddRequest {
        name: name.into(),
        password: password.into(),
        ..Default::default()
    };
    auth.user_add(add).await.unwrap();
    let role_add = pb::AuthRoleAddRequest { name: role.into() };
    auth.role_add(role_add).await.unwrap();
    let grant = pb::AuthUserGrantRoleRequest {
        user: name.into(),
        role: role.into(),
    };
    auth.user_grant_role(grant).await.unwrap();
}

/// Root with a password, nobody else, and authentication on.
async fn guard(cluster: &mut Cluster, password: &str) {
    let mut auth = AuthClient::new(cluster.client().await.channel());
    user(&mut auth, "root", password, "root").await;
    auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    cluster.log_in("root", password);
}

/// An etcd with a key and somebody who may read it, behind authentication.
async fn guarded_etcd() -> Cluster {
    let mut etcd = start(Program::Etcd).await;
    etcd.client().await.put("app/1", "1").await.unwrap();
    let mut auth = AuthClient::new(etcd.client().await.channel());
    user(&mut auth, "ann", "of the source", "reader").await;
    let grant = pb::AuthRoleGrantPermissionRequest {
        name: "reader".into(),
        perm: Some(authpb::Permission {
            perm_type: authpb::permission::Type::Read.into(),
            key: "app/".into(),
            range_end: "app0".into(),
        }),
    };
    auth.role_grant_permission(grant).await.unwrap();
    guard(&mut etcd, "source").await;
    etcd
}

fn words<'a>(from: &'a str, to: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let words = ["migrate", "--from", from, "--to", to, "-o", "json"];
    [&words[..], more].concat()
}

async fn migrate(from: &Cluster, to: &Cluster, more: &[&str]) -> Result<serde_json::Value, String> {
    let (from, to) = (from.members[0].endpoint(), to.members[0].endpoint());
    let words: Vec<String> = words(&from, &to, more)
        .iter()
        .map(|&it| it.into())
        .collect();
    let ended = tokio::task::spawn_blocking(move || {
        output(&words.iter().map(String::as_str).collect::<Vec<_>>())
    });
    let output = ended.await.unwrap();
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(text(&output.stderr)),
    }
}

fn passwords(of: &Cluster, lines: &str) -> PathBuf {
    let path = of.directory().join("passwords");
    std::fs::write(&path, lines).unwrap();
    path
}

async fn as_ann(cluster: &Cluster, password: &str) -> Result<Client, tonic::Status> {
    let client = Client::try_connect(&cluster.members[0].endpoint()).await;
    client.unwrap().log_in("ann", password).await
}

#[tokio::test]
async fn users_move_into_a_guarded_cluster_and_on_and_get_their_passwords_from_a_file() {
    let test = "users_move_into_a_guarded_cluster_and_on_and_get_their_passwords_from_a_file";
    if binary::etcd_or_skip(test).is_none() {
        return;
    }
    let etcd = guarded_etcd().await;
    let mut first = start(Program::Sealkv).await;
    guard(&mut first, "first").await;
    let (from, to) = ("--from-user=root:source", "--to-user=root:first");
    let refused = migrate(&etcd, &first, &["--once", from]).await.unwrap_err();
    assert!(refused.contains("give it --to-user"), "{refused}");
    let refused = migrate(
        &etcd,
        &first,
        &["--once", "--from-user=ann:of the source", to],
    )
    .await;
    let refused = refused.unwrap_err();
    assert!(refused.contains("permission denied"), "{refused}");

    let said = migrate(&etcd, &first, &["--once", from, to]).await.unwrap();
    assert_eq!(said["users_without_password"], serde_json::json!(["ann"]));
    assert!(as_ann(&first, "of the source").await.is_err());
    let file = passwords(&first, "ann:of ann\nroot:nobody takes root's own\n");
    let more = [
        "--once",
        "--overwrite",
        from,
        to,
        "--passwords",
        show(&file),
    ];
    for _ in 0..2 {
        let said = migrate(&etcd, &first, &more).await.unwrap();
        assert_eq!(said["users_without_password"], serde_json::json!([]));
        let ann = as_ann(&first, "of ann").await.unwrap();
        assert_eq!(ann.value("app/1").await.unwrap().unwrap(), "1");
        assert!(ann.put("app/1", "2").await.is_err());
    }
    // One that has a password gets another.
    let file = passwords(&first, "ann:another\n");
    let more = [
        "--once",
        "--overwrite",
        from,
        to,
        "--passwords",
        show(&file),
    ];
    migrate(&etcd, &first, &more).await.unwrap();
    assert!(as_ann(&first, "of ann").await.is_err());
    as_ann(&first, "another").await.unwrap();

    // On to one where authentication is still off, whoever it is told to be there.
    let second = start(Program::Sealkv).await;
    let file = passwords(&second, "ann:of ann\nroot:second\n");
    let from = "--from-user=root:first";
    let more = [
        "--once",
        from,
        "--to-user=root:x",
        "--passwords",
        show(&file),
    ];
    let said = migrate(&first, &second, &more).await.unwrap();
    assert_eq!((&said["users"], &said["roles"]), (&2.into(), &2.into()));
    let mut auth = AuthClient::new(second.client().await.channel());
    auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    let ann = as_ann(&second, "of ann").await.unwrap();
    assert_eq!(ann.value("app/1").await.unwrap().unwrap(), "1");
}

#[tokio::test]
async fn a_source_that_forgets_its_tokens_is_followed_all_the_same() {
    let mut source = start(Program::Sealkv).await;
    guard(&mut source, "source").await;
    let target = start(Program::Sealkv).await;
    source.client().await.put("a", "1").await.unwrap();
    let (from, to) = (source.members[0].endpoint(), target.members[0].endpoint());
    let words = words(&from, &to, &["--from-user=root:source", "--skip-users"]);
    let mut following = command(&words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let has = async |key: &'static str| {
        wait::until(key, SOON, async || {
            target.client().await.value(key).await.unwrap()
        })
        .await
    };
    has("a").await;
    let root = source.client().await;
    let mut auth = AuthClient::new(root.channel());
    let off = root.ask(pb::AuthDisableRequest {});
    auth.auth_disable(off).await.unwrap();
    auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    source.client().await.put("b", "1").await.unwrap();
    has("b").await;
    assert!(following.try_wait().unwrap().is_none(), "it goes on");
    following.kill().unwrap();
    following.wait().unwrap();
}

#[tokio::test]
async fn etcdctl_mirrors_a_guarded_sealkv_back_to_a_guarded_etcd() {
    let test = "etcdctl_mirrors_a_guarded_sealkv_back_to_a_guarded_etcd";
    let etcdctl = binary::interop().join("etcdctl");
    if binary::etcd_or_skip(test).is_none() || !etcdctl.exists() {
        return;
    }
    let mut sealkv = start(Program::Sealkv).await;
    guard(&mut sealkv, "ours").await;
    let mut etcd = start(Program::Etcd).await;
    guard(&mut etcd, "theirs").await;
    let source = sealkv.client().await;
    source.put("a", "before").await.unwrap();
    let mut mirror = Command::new(etcdctl)
        .args(["--endpoints", &sealkv.members[0].endpoint()])
        .args(["--user", "root:ours", "make-mirror"])
        .args(["--dest-user", "root", "--dest-password", "theirs"])
        .arg(etcd.members[0].endpoint())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let target = etcd.client().await;
    let has = async |key: &'static str, value: Option<&str>| {
        wait::until(key, SOON, async || {
            let found = target.value(key).await.unwrap();
            (found.as_deref() == value.map(str::as_bytes)).then_some(())
        })
        .await;
    };
    has("a", Some("before")).await;
    source.put("b", "meanwhile").await.unwrap();
    source.delete("a").await.unwrap();
    has("b", Some("meanwhile")).await;
    has("a", None).await;
    mirror.kill().unwrap();
    mirror.wait().unwrap();
}
