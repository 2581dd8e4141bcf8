//! A member that has lost what it cannot do without: it refuses to start, and one command makes it
//! anew under another id.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use proto::etcdserverpb as pb;
use tests::client::Client;
use tests::cluster::{Cluster, Member, Program};
use tests::command::{beside, command, output, text};
use tests::wait;

const SOON: Duration = Duration::from_secs(60);

fn words(others: &str, member: &Member) -> Vec<String> {
    let words = [
        "--endpoints",
        others,
        "member",
        "rebuild",
        "-o",
        "json",
        "--",
    ];
    let words = words.map(str::to_owned).into_iter();
    let flags = member.arguments.iter();
    words
        .chain(flags.map(|flag| text(flag.as_encoded_bytes())))
        .collect()
}

/// Off the runtime, which has the harness's own work to do.
async fn rebuild(others: &str, member: &Member) -> Output {
    let words = words(others, member);
    tokio::task::spawn_blocking(move || {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        output(&words)
    })
    .await
    .unwrap()
}

fn refused(output: &Output, says: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(says), "{said}");
}

async fn members(client: &Client) -> Vec<pb::Member> {
    client.member_list(true).await.unwrap().members
}

async fn id_of(client: &Client) -> u64 {
    client.status().await.unwrap().header.unwrap().member_id
}

/// It does not start, and says what to do.
async fn refuses_to_start(member: &mut Member, says: &str) {
    member.launch();
    assert!(!member.wait_end().await.success());
    let log = member.log_of_this_start();
    assert!(log.contains(says), "{log}");
    assert!(log.contains("sealkv member rebuild"), "{log}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

/// The directory of the live state.
fn state_of(member: &Member) -> PathBuf {
    let current = std::fs::read_to_string(member.data.join("CURRENT")).unwrap();
    member.data.join(current.trim())
}

#[tokio::test]
async fn a_member_that_lost_its_log_is_made_anew_in_one_command() {
    let plan = Cluster::plan().program(Program::Sealkv).members(3);
    let mut cluster = plan.start().await;
    let leader = cluster.leader().await;
    let (lost, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let client = cluster.members[leader].client().await;
    client.put("k", "v").await.unwrap();
    let old_id = id_of(&cluster.members[lost].client().await).await;
    let others = cluster.members[leader].endpoint();
    // Not while it runs: it may be well.
    let answer = rebuild(&others, &cluster.members[lost]).await;
    refused(&answer, "stop it first");
    cluster.members[lost].kill();
    std::fs::remove_dir_all(cluster.members[lost].data.join("log")).unwrap();
    refuses_to_start(&mut cluster.members[lost], "has lost its raft log").await;

    let rebuilt = rebuild(&others, &cluster.members[lost]).await;
    let said = text(&rebuilt.stderr);
    assert!(rebuilt.status.success(), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&rebuilt.stdout).unwrap();
    assert_eq!(report["old_id"], format!("{old_id:x}"));
    let aside = PathBuf::from(report["set_aside"].as_str().unwrap());
    assert!(aside.join("member.key").exists(), "nothing is deleted");
    let listed = members(&client).await;
    assert_eq!(listed.len(), 3);
    assert!(
        listed
            .iter()
            .all(|member| !member.is_learner && member.id != old_id)
    );
    // With the flags that it always had, and it counts: another one goes.
    cluster.members[lost].start().await;
    cluster.members[other].kill();
    let back = cluster.members[lost].client().await;
    wait::until("a write without the third", SOON, async || {
        back.put("k", "new").await.ok()
    })
    .await;
    assert_eq!(client.value("k").await.unwrap().unwrap(), "new");
    assert_eq!(format!("{:x}", id_of(&back).await), report["new_id"]);
    assert!(beside(&cluster.members[lost].home, ".rebuilding").is_empty());
}

#[tokio::test]
async fn a_rebuilding_that_was_killed_goes_on_where_it_was() {
    let plan = Cluster::plan().program(Program::Sealkv).members(3);
    let mut cluster = plan.start().await;
    let leader = cluster.leader().await;
    let lost = (leader + 1) % 3;
    let client = cluster.members[leader].client().await;
    client.put("k", "v").await.unwrap();
    let others = cluster.members[leader].endpoint();
    cluster.members[lost].kill();
    std::fs::remove_file(cluster.members[lost].data.join("member.key")).unwrap();
    refuses_to_start(&mut cluster.members[lost], "no member.key").await;
    let words = words(&others, &cluster.members[lost]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut child = command(&words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait::until("the learner", SOON, async || {
        let listed = members(&client).await;
        listed.iter().find(|member| member.is_learner).cloned()
    })
    .await;
    child.kill().unwrap();
    child.wait().unwrap();
    let rebuilt = rebuild(&others, &cluster.members[lost]).await;
    assert!(rebuilt.status.success(), "{}", text(&rebuilt.stderr));
    let listed = members(&client).await;
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().all(|member| !member.is_learner));
    cluster.members[lost].start().await;
    let value = cluster.members[lost].client().await.value("k").await;
    assert_eq!(value.unwrap().unwrap(), "v");
    // Done is done: a second time it would be a member that is well.
    let answer = rebuild(&others, &cluster.members[lost]).await;
    refused(&answer, "stop it first");
}

#[tokio::test]
async fn a_member_whose_log_starts_after_its_state_refuses_and_is_made_anew() {
    let plan = Cluster::plan().program(Program::Sealkv).members(3);
    let mut cluster = plan
        .flag("--snapshot-count=50")
        .flag("--snapshot-catchup-entries=5")
        .start()
        .await;
    let leader = cluster.leader().await;
    let lost = (leader + 1) % 3;
    let client = cluster.members[leader].client().await;
    // A state that some backup program has put back, below a newer log.
    cluster.members[lost].terminate().await;
    let older = cluster.directory().join("older");
    copy(&state_of(&cluster.members[lost]), &older);
    cluster.members[lost].start().await;
    let writes = async |rounds: usize| {
        for number in 0..rounds {
            client.put("k", number.to_string()).await.unwrap();
        }
    };
    writes(300).await;
    wait::until("it to have applied", SOON, async || {
        let value = cluster.members[lost].client().await.value("k").await;
        (value.ok()?? == "299").then_some(())
    })
    .await;
    cluster.members[lost].terminate().await;
    let state = state_of(&cluster.members[lost]);
    std::fs::remove_dir_all(&state).unwrap();
    copy(&older, &state);
    refuses_to_start(&mut cluster.members[lost], "entries between them are lost").await;

    let others = cluster.members[leader].endpoint();
    let rebuilt = rebuild(&others, &cluster.members[lost]).await;
    assert!(rebuilt.status.success(), "{}", text(&rebuilt.stderr));
    cluster.members[lost].start().await;
    let back = cluster.members[lost].client().await;
    assert_eq!(back.value("k").await.unwrap().unwrap(), "299");
}

#[tokio::test]
async fn what_is_no_member_or_the_only_one_is_not_made_anew() {
    let mut cluster = Cluster::plan().program(Program::Sealkv).start().await;
    let others = cluster.members[0].endpoint();
    let newcomer = cluster.newcomer();
    let answer = rebuild(&others, &cluster.members[newcomer]).await;
    refused(&answer, "no member of this cluster is called m2");
    cluster.members[newcomer].set_flag("no-such-flag", "1");
    let answer = rebuild(&others, &cluster.members[newcomer]).await;
    refused(&answer, "no-such-flag");
    let list = output(&["--endpoints", &others, "member", "list", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list["members"][0]["name"], "m1");
    assert_eq!(list["members"][0]["status"], "started");
}
