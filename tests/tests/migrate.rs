//! Moving in from a live etcd, and the way back.
//!
//! Needs a real etcd; without one each test says so and is skipped.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::auth_client::AuthClient;
use rustix::process::{Pid, Signal, kill_process};
use tests::client::Client;
use tests::cluster::{Cluster, Program};
use tests::{binary, wait};

/// For whatever a migration has to come round to.
const SOON: Duration = Duration::from_secs(60);
const STATE_KEY: &[u8] = b"\0sealkv-migrate";

async fn start(program: Program) -> Cluster {
    Cluster::plan().program(program).start().await
}

/// An etcd and a sealkv, both empty.
async fn pair(test: &str) -> Option<(Cluster, Cluster)> {
    binary::etcd_or_skip(test)?;
    Some((start(Program::Etcd).await, start(Program::Sealkv).await))
}

fn command(from: &Cluster, to: &Cluster, more: &[&str]) -> Command {
    let mut command = Command::new(binary::sealkv());
    command
        .arg("migrate")
        .args(["--from", &from.members[0].endpoint()])
        .args(["--to", &to.members[0].endpoint()])
        .args(more)
        .env_clear()
        .stdin(Stdio::null());
    command
}

/// Off the runtime, which has the harness's own work to do.
async fn migrate(from: &Cluster, to: &Cluster, more: &[&str]) -> Output {
    let mut command = command(from, to, more);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The JSON report of a run that went well.
fn report(output: &Output) -> serde_json::Value {
    let (said, told) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{said}{told}", output.status);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// A migration that follows until it is told to stop.
struct Following(Option<Child>);

impl Following {
    fn start(from: &Cluster, to: &Cluster) -> Self {
        let child = command(from, to, &["-o", "json", "--patience=30"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(Some(child))
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.0.as_ref().unwrap().id()).ok();
        kill_process(id.and_then(Pid::from_raw).unwrap(), signal).unwrap();
    }

    async fn end(mut self, signal: Signal) -> Output {
        self.signal(signal);
        let child = self.0.take().unwrap();
        tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
            .await
            .unwrap()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Everything that a migration moves: keys, values, leases by key.
async fn contents(client: &Client) -> Vec<(Bytes, Bytes, i64)> {
    let everything = pb::RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..Default::default()
    };
    let rows = client.range(everything).await.unwrap().kvs;
    rows.into_iter()
        .map(|row| (row.key, row.value, row.lease))
        .collect()
}

async fn assert_same(from: &Cluster, to: &Cluster) {
    let (ours, theirs) = (
        contents(&from.client().await).await,
        contents(&to.client().await).await,
    );
    assert_eq!(ours, theirs);
}

async fn has(client: &Client, key: &'static str, value: Option<&str>) {
    let wanted = value.map(|text| Bytes::copy_from_slice(text.as_bytes()));
    wait::until(key, SOON, || async {
        (client.value(key).await.unwrap() == wanted).then_some(())
    })
    .await;
}

/// Of several lengths.
fn filling(number: usize) -> String {
    "v".repeat(200 + number % 7)
}

async fn fill(client: &Client, keys: usize) {
    for number in 0..keys {
        client
            .put(format!("key/{number:05}"), filling(number))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn keys_and_leases_are_moved_as_they_are() {
    let Some((from, to)) = pair("keys_and_leases_are_moved_as_they_are").await else {
        return;
    };
    let client = from.client().await;
    fill(&client, 300).await;
    client
        .put(&b"\x00\xff"[..], &b"\xff\x00"[..])
        .await
        .unwrap();
    client.put("empty", "").await.unwrap();
    for number in 0..3 {
        client
            .put(format!("large/{number}"), vec![b'x'; 1_400_000])
            .await
            .unwrap();
    }
    client.put("key/00001", "changed").await.unwrap();
    client.delete("key/00002").await.unwrap();
    for (id, ttl) in [(7, 600), (1 << 40, 3600)] {
        client.grant(id, ttl).await.unwrap();
        for key in ["a", "b"] {
            let put = pb::PutRequest {
                key: format!("leased/{id}/{key}").into(),
                value: "x".into(),
                lease: id,
                ..Default::default()
            };
            client.put_request(put).await.unwrap();
        }
    }
    client.grant(9, 900).await.unwrap();

    let said = report(&migrate(&from, &to, &["--once", "-o", "json"]).await);
    assert_same(&from, &to).await;
    assert_eq!(said["keys"], 300 - 1 + 2 + 3 + 4, "{said}");
    assert_eq!(said["leases"], 3, "{said}");
    let target = to.client().await;
    for (id, ttl) in [(7, 600), (1 << 40, 3600), (9, 900)] {
        let found = target.time_to_live(id, true).await.unwrap();
        assert_eq!(found.granted_ttl, ttl);
        assert_eq!(found.keys.len(), if id == 9 { 0 } else { 2 });
    }
    assert_eq!(target.value(STATE_KEY).await.unwrap(), None);
    let compared = report(&migrate(&from, &to, &["--verify", "-o", "json"]).await);
    assert_eq!(compared["sha256"], said["sha256"]);
}

#[tokio::test]
async fn what_changes_meanwhile_is_followed_until_the_cut_over() {
    let Some((from, to)) = pair("what_changes_meanwhile_is_followed_until_the_cut_over").await
    else {
        return;
    };
    let (client, target) = (from.client().await, to.client().await);
    fill(&client, 50).await;
    let following = Following::start(&from, &to);
    has(&target, "key/00049", Some(&filling(49))).await;
    client.put("later", "1").await.unwrap();
    client
        .delete_range(pb::DeleteRangeRequest {
            key: "key/0000".into(),
            range_end: "key/0001".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    client.put("large", vec![b'x'; 1_400_000]).await.unwrap();
    for number in 0..200 {
        client.put("counter", format!("{number}")).await.unwrap();
    }
    has(&target, "counter", Some("199")).await;
    // Whatever was written when the signal comes is in the target when it ends.
    for number in 200..300 {
        client.put("counter", format!("{number}")).await.unwrap();
    }
    let said = report(&following.end(Signal::INT).await);
    assert_same(&from, &to).await;
    assert_eq!(target.value("counter").await.unwrap(), Some("299".into()));
    assert_eq!(said["keys"], 50 - 10 + 3, "{said}");
}

#[tokio::test]
async fn a_migration_that_was_killed_goes_on_where_it_was() {
    let Some((from, to)) = pair("a_migration_that_was_killed_goes_on_where_it_was").await else {
        return;
    };
    let (client, target) = (from.client().await, to.client().await);
    fill(&client, 3000).await;
    let following = Following::start(&from, &to);
    wait::until("a part of the keys", SOON, || async {
        (target.prefix("key/").await.unwrap().count > 200).then_some(())
    })
    .await;
    following.end(Signal::KILL).await;
    assert!(
        target.value(STATE_KEY).await.unwrap().is_some(),
        "the state is kept"
    );
    client.delete("key/00000").await.unwrap();
    client.put("key/00001", "changed").await.unwrap();
    client.put("new", "1").await.unwrap();
    report(&migrate(&from, &to, &["--once", "-o", "json"]).await);
    assert_same(&from, &to).await;
}

#[tokio::test]
async fn a_target_or_source_that_was_away_is_waited_for() {
    let Some((mut from, mut to)) = pair("a_target_or_source_that_was_away_is_waited_for").await
    else {
        return;
    };
    from.client().await.put("a", "1").await.unwrap();
    let following = Following::start(&from, &to);
    has(&to.client().await, "a", Some("1")).await;
    to.members[0].kill();
    from.client().await.put("b", "1").await.unwrap();
    to.members[0].start().await;
    has(&to.client().await, "b", Some("1")).await;
    from.members[0].kill();
    from.members[0].start().await;
    from.client().await.put("c", "1").await.unwrap();
    has(&to.client().await, "c", Some("1")).await;
    report(&following.end(Signal::TERM).await);
    assert_same(&from, &to).await;
}

#[tokio::test]
async fn leases_live_and_die_with_those_of_the_source() {
    let Some((from, to)) = pair("leases_live_and_die_with_those_of_the_source").await else {
        return;
    };
    let (client, target) = (from.client().await, to.client().await);
    client.grant(5, 4).await.unwrap();
    let leased = |key: &'static str, lease| pb::PutRequest {
        key: key.into(),
        value: "1".into(),
        lease,
        ..Default::default()
    };
    client.put_request(leased("a", 5)).await.unwrap();
    let following = Following::start(&from, &to);
    has(&target, "a", Some("1")).await;
    // One that is granted while it follows.
    client.grant(6, 600).await.unwrap();
    client.put_request(leased("b", 6)).await.unwrap();
    has(&target, "b", Some("1")).await;
    // Three times its TTL, kept alive in the source alone.
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        assert!(client.keep_alive(5).await.unwrap().ttl > 0);
        assert_eq!(target.value("a").await.unwrap(), Some("1".into()));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    client.revoke(6).await.unwrap();
    has(&target, "b", None).await;
    has(&target, "a", None).await;
    report(&following.end(Signal::INT).await);
    assert_same(&from, &to).await;
}

#[tokio::test]
async fn a_compaction_that_overtakes_it_loses_nothing() {
    let Some((from, to)) = pair("a_compaction_that_overtakes_it_loses_nothing").await else {
        return;
    };
    let (client, target) = (from.client().await, to.client().await);
    fill(&client, 20).await;
    let following = Following::start(&from, &to);
    has(&target, "key/00019", Some(&filling(19))).await;
    following.end(Signal::KILL).await;
    client.delete("key/00003").await.unwrap();
    let last = client.put("key/00004", "changed").await.unwrap();
    client.compact(last.header.unwrap().revision).await.unwrap();
    report(&migrate(&from, &to, &["--once", "-o", "json"]).await);
    assert_same(&from, &to).await;
}

#[tokio::test]
async fn a_difference_is_found_and_named() {
    let Some((from, to)) = pair("a_difference_is_found_and_named").await else {
        return;
    };
    fill(&from.client().await, 30).await;
    report(&migrate(&from, &to, &["--once", "-o", "json"]).await);
    let target = to.client().await;
    target.put("key/00007", "other").await.unwrap();
    target.delete("key/00008").await.unwrap();
    target.put("key/00009x", "more").await.unwrap();
    let output = migrate(&from, &to, &["--verify"]).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("3 keys differ")
            && ["key/00007", "key/00008", "key/00009x"]
                .iter()
                .all(|key| said.contains(key)),
        "{said}"
    );
    // And it is put right again, if that is asked for.
    let refused = migrate(&from, &to, &["--once"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("holds 30 keys already"),
        "{}",
        text(&refused.stderr)
    );
    report(&migrate(&from, &to, &["--once", "--overwrite", "-o", "json"]).await);
    assert_same(&from, &to).await;
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused() {
    let Some((from, to)) = pair("what_cannot_be_meant_is_refused").await else {
        return;
    };
    let output = migrate(&from, &from, &["--once"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("same cluster"),
        "{}",
        text(&output.stderr)
    );
    from.client().await.put("a", "1").await.unwrap();
    let following = Following::start(&from, &to);
    has(&to.client().await, "a", Some("1")).await;
    following.end(Signal::KILL).await;
    let output = migrate(&from, &to, &["--once", "--prefix=b"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("another --prefix"),
        "{}",
        text(&output.stderr)
    );
}

#[tokio::test]
async fn a_prefix_is_moved_alone() {
    let Some((from, to)) = pair("a_prefix_is_moved_alone").await else {
        return;
    };
    let (client, target) = (from.client().await, to.client().await);
    client.put("app/1", "1").await.unwrap();
    client.put("other", "1").await.unwrap();
    target.put("mine", "1").await.unwrap();
    let said = report(&migrate(&from, &to, &["--once", "--prefix=app/", "-o", "json"]).await);
    assert_eq!(said["keys"], 1);
    let keys: Vec<_> = contents(&target)
        .await
        .into_iter()
        .map(|row| row.0)
        .collect();
    assert_eq!(keys, ["app/1", "mine"]);
}

#[tokio::test]
async fn users_and_roles_are_moved_without_their_passwords() {
    let test = "users_and_roles_are_moved_without_their_passwords";
    if binary::etcd_or_skip(test).is_none() {
        return;
    }
    // What is asked of the target is etcd's API, so that etcd shows whether it is right.
    let (from, to) = (start(Program::Etcd).await, start(Program::Etcd).await);
    let mut auth = AuthClient::new(from.client().await.channel());
    for name in ["root", "reader"] {
        auth.role_add(pb::AuthRoleAddRequest { name: name.into() })
            .await
            .unwrap();
    }
    let permission = proto::authpb::Permission {
        perm_type: proto::authpb::permission::Type::Read.into(),
        key: "app/".into(),
        range_end: "app0".into(),
    };
    auth.role_grant_permission(pb::AuthRoleGrantPermissionRequest {
        name: "reader".into(),
        perm: Some(permission.clone()),
    })
    .await
    .unwrap();
    for (name, role) in [("root", "root"), ("ann", "reader")] {
        auth.user_add(pb::AuthUserAddRequest {
            name: name.into(),
            password: "secret".into(),
            ..Default::default()
        })
        .await
        .unwrap();
        auth.user_grant_role(pb::AuthUserGrantRoleRequest {
            user: name.into(),
            role: role.into(),
        })
        .await
        .unwrap();
    }
    from.client().await.put("app/1", "1").await.unwrap();
    auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();

    let refused = migrate(&from, &to, &["--once"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("--from-user"),
        "{}",
        text(&refused.stderr)
    );

    let passwords = from.directory().join("passwords");
    std::fs::write(&passwords, "root:other\n").unwrap();
    let file = format!("--passwords={}", passwords.display());
    let arguments = ["--once", "--from-user=root:secret", &file, "-o", "json"];
    let said = report(&migrate(&from, &to, &arguments).await);
    assert_eq!(
        (&said["users"], &said["roles"]),
        (&2.into(), &2.into()),
        "{said}"
    );
    assert_eq!(said["users_without_password"], serde_json::json!(["ann"]));
    assert_eq!(said["auth_enabled_in_source"], true);

    let mut auth = AuthClient::new(to.client().await.channel());
    let request = pb::AuthRoleGetRequest {
        role: "reader".into(),
    };
    let role = auth.role_get(request).await.unwrap().into_inner();
    assert_eq!(role.perm, [permission]);
    let request = pb::AuthUserGetRequest { name: "ann".into() };
    assert_eq!(
        auth.user_get(request).await.unwrap().into_inner().roles,
        ["reader"]
    );
    auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    let request = pb::AuthenticateRequest {
        name: "root".into(),
        password: "other".into(),
    };
    auth.authenticate(request).await.unwrap();
}

#[tokio::test]
async fn the_way_back_is_etcdctl_make_mirror() {
    let Some((etcd, sealkv)) = pair("the_way_back_is_etcdctl_make_mirror").await else {
        return;
    };
    let client = sealkv.client().await;
    fill(&client, 100).await;
    let mut mirror = Following(Some(
        Command::new(binary::interop().join("etcdctl"))
            .arg(format!("--endpoints={}", sealkv.members[0].endpoint()))
            .args([
                "make-mirror",
                etcd.members[0].endpoint().trim_start_matches("http://"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    ));
    let target = etcd.client().await;
    has(&target, "key/00099", Some(&filling(99))).await;
    client.put("later", "1").await.unwrap();
    client.delete("key/00005").await.unwrap();
    has(&target, "later", Some("1")).await;
    has(&target, "key/00005", None).await;
    assert_same(&sealkv, &etcd).await;
    let _ = mirror.0.as_mut().map(Child::kill);
}
