//! Backups when something goes wrong on the way, and where they come from and lead to: broken off,
//! full disks, followers and learners, new members, terminals.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::cluster_client::ClusterClient;
use rustix::process::{Pid, Signal, kill_process};
use tests::cluster::{Cluster, Member, Program, READY, READY_WITHIN};
use tests::command::{beside, command, fails, key_file, restore, save, show, succeeds, text};
use tests::{binary, wait};

const SOON: Duration = Duration::from_secs(60);

async fn single() -> Cluster {
    Cluster::plan().program(Program::Sealkv).start().await
}

async fn prepared(members: usize) -> Cluster {
    let plan = Cluster::plan().program(Program::Sealkv).members(members);
    plan.prepare().await
}

/// Enough to be busy with for a while.
async fn filled() -> Cluster {
    let cluster = single().await;
    let client = cluster.client().await;
    for number in 0..16 {
        let value = vec![b'x'; 1_000_000];
        client.put(format!("large/{number}"), value).await.unwrap();
    }
    client.put("k", "v").await.unwrap();
    cluster
}

fn signal(child: &std::process::Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.unwrap(), signal).unwrap();
}

/// Off the runtime, which has the harness's own work to do.
async fn end_of(child: std::process::Child) -> std::process::Output {
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    ended.await.unwrap().unwrap()
}

#[tokio::test]
async fn a_save_that_breaks_off_leaves_nothing_and_an_older_file_as_it_was() {
    let mut cluster = filled().await;
    let endpoint = cluster.members[0].endpoint();
    let (file, older) = (
        cluster.directory().join("backup"),
        cluster.directory().join("older"),
    );
    std::fs::write(&older, "of yesterday").unwrap();
    let begun = |file: &Path| {
        let words = ["--endpoints", &endpoint, "snapshot", "save", show(file)];
        let child = command(&words).stderr(Stdio::piped()).spawn().unwrap();
        let part = format!("{}.part-{}", show(file), child.id());
        (child, part)
    };
    let some = async |part: &str| {
        wait::until_true("some of the download", SOON, || {
            std::fs::metadata(part).is_ok_and(|part| part.len() > 0)
        })
        .await;
    };
    // By whoever runs it.
    let (child, part) = begun(&older);
    some(&part).await;
    signal(&child, Signal::INT);
    let ended = end_of(child).await;
    assert_eq!(ended.status.code(), Some(1));
    assert!(text(&ended.stderr).contains("stopped by a signal"));
    assert_eq!(std::fs::read(&older).unwrap(), b"of yesterday");
    // By the server's end.
    let (child, part) = begun(&file);
    some(&part).await;
    cluster.members[0].kill();
    let ended = end_of(child).await;
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(text(&ended.stderr).lines().count(), 1);
    assert!(!file.exists());
    let left = beside(cluster.directory(), ".part");
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_killed_restore_leaves_nothing_that_starts_and_the_next_one_clears_up() {
    let cluster = filled().await;
    let file = cluster.directory().join("backup");
    save(&cluster.members[0], &file);
    let key = key_file(&cluster.members[0]);
    let mut restored = prepared(1).await;
    let member = &mut restored.members[0];
    let words = tests::command::restore_words(member, &file);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let words = [&words[..], &["--root-key-file", show(&key)]].concat();
    let mut child = command(&words).stderr(Stdio::null()).spawn().unwrap();
    wait::until_true("the restore to be under way", SOON, || {
        beside(&member.home, ".restoring-")
            .iter()
            .any(|left| left.join("UNFINISHED").exists() && left.join("state-1").exists())
    })
    .await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!member.data.exists());
    let left = beside(&member.home, ".restoring-");
    assert_eq!(left.len(), 1, "{left:?}");
    // Whoever starts it anyway is told.
    let arguments = member.arguments.clone();
    member.set_flag("data-dir", show(&left[0]));
    member.set_flag("root-key-file", show(&key));
    member.launch();
    assert!(!member.wait_end().await.success());
    let log = member.log_of_this_start();
    assert!(log.contains("left by a restore that did not end"), "{log}");
    member.arguments = arguments;

    restore(member, &file, &key, &[]);
    let left = beside(&member.home, ".restoring-");
    assert!(left.is_empty(), "{left:?}");
    member.start().await;
    let client = member.client().await;
    assert_eq!(client.value("k").await.unwrap().unwrap(), "v");
    assert_eq!(client.prefix("large/").await.unwrap().count, 16);
}

/// Reads what it needs of a follower, and of a learner that nobody else asks.
#[tokio::test]
async fn followers_and_learners_save_backups_that_their_own_keys_open() {
    let plan = Cluster::plan().program(Program::Sealkv).members(3);
    let mut cluster = plan.start().await;
    let leader = cluster.leader().await;
    let client = cluster.members[leader].client().await;
    client.put("k", "v").await.unwrap();
    let newcomer = cluster.newcomer();
    let request = pb::MemberAddRequest {
        peer_ur_ls: vec![cluster.members[newcomer].peer_url()],
        is_learner: true,
    };
    wait::until("a learner to be added", SOON, async || {
        let mut members = ClusterClient::new(client.channel());
        match members.member_add(request.clone()).await {
            Ok(answer) => Some(answer),
            Err(status) if status.message() == "etcdserver: unhealthy cluster" => None,
            Err(status) => panic!("{status}"),
        }
    })
    .await;
    let learner = &mut cluster.members[newcomer];
    learner.launch();
    let serves = || learner.log_of_this_start().contains(READY);
    wait::until_true("the learner to serve", READY_WITHIN, serves).await;
    for index in [(leader + 1) % 3, newcomer] {
        let member = &cluster.members[index];
        let file = cluster.directory().join(format!("backup-{index}"));
        // It may not have heard of its own slot yet.
        let endpoint = member.endpoint();
        wait::until_true("a backup", SOON, || {
            let words = ["--endpoints", &endpoint, "snapshot", "save", show(&file)];
            tests::command::output(&words).status.success()
        })
        .await;
        let mut restored = prepared(1).await;
        restore(&mut restored.members[0], &file, &key_file(member), &[]);
        // The leader's key is another.
        let words = ["snapshot", "restore", show(&file), "--root-key-file"];
        let other = key_file(&cluster.members[leader]);
        let nowhere = cluster.directory().join("nowhere");
        let more = [show(&other), "--data-dir", show(&nowhere)];
        let complaint = fails(&[&words[..], &more].concat());
        assert!(
            complaint.contains("needs the root key of member"),
            "{complaint}"
        );
        restored.members[0].start().await;
        let value = restored.client().await.value("k").await;
        assert_eq!(value.unwrap().unwrap(), "v");
    }
}

#[tokio::test]
async fn a_blank_member_joins_a_restored_cluster_and_holds_its_keys() {
    let cluster = single().await;
    let client = cluster.client().await;
    client.put("k", "v").await.unwrap();
    let endpoint = cluster.members[0].endpoint();
    succeeds(&["--endpoints", &endpoint, "keys", "add", "/own/"]);
    client.put("/own/k", "sealed apart").await.unwrap();
    let file = cluster.directory().join("backup");
    save(&cluster.members[0], &file);
    let mut restored = prepared(1).await;
    restore(
        &mut restored.members[0],
        &file,
        &key_file(&cluster.members[0]),
        &[],
    );
    restored.members[0].start().await;
    let client = restored.client().await;
    let second = restored.newcomer();
    let request = pb::MemberAddRequest {
        peer_ur_ls: vec![restored.members[second].peer_url()],
        is_learner: false,
    };
    let mut members = ClusterClient::new(client.channel());
    members.member_add(request).await.unwrap();
    restored.members[second].start().await;
    let joined = restored.members[second].client().await;
    assert_eq!(
        joined.value("/own/k").await.unwrap().unwrap(),
        "sealed apart"
    );
    joined.put("/own/new", "sealed there").await.unwrap();
    assert_eq!(
        client.value("/own/new").await.unwrap().unwrap(),
        "sealed there"
    );
}

/// A file may not grow beyond so many KiB, as on a disk that is full.
fn within(kib: u32, words: &[&str]) -> std::process::Output {
    let script = format!(r#"trap '' XFSZ; ulimit -f {}; exec "$@""#, kib * 2);
    let output = Command::new("sh")
        .args(["-c", &script, "sh"])
        .arg(binary::sealkv())
        .args(words)
        .env_clear()
        .stdin(Stdio::null())
        .output();
    output.expect("a shell can be started")
}

#[tokio::test]
async fn a_disk_that_is_full_or_cannot_be_written_to_costs_one_line_and_leaves_nothing() {
    let cluster = filled().await;
    let endpoint = cluster.members[0].endpoint();
    let file = cluster.directory().join("backup");
    let one_line = |output: &std::process::Output, says: &str| {
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(says), "{said}");
    };
    let saving = ["--endpoints", &endpoint, "snapshot", "save", show(&file)];
    one_line(&within(4_000, &saving), "File too large");
    assert!(!file.exists());
    let left = beside(cluster.directory(), ".part");
    assert!(left.is_empty(), "{left:?}");
    save(&cluster.members[0], &file);
    let nowhere = file.join("below-a-file");
    let saving = ["--endpoints", &endpoint, "snapshot", "save", show(&nowhere)];
    one_line(&tests::command::output(&saving), "Not a directory");

    let key = key_file(&cluster.members[0]);
    let data = cluster.directory().join("restored");
    let restoring = |data: &Path| {
        let words = ["snapshot", "restore", show(&file), "--root-key-file"];
        let words = words.iter().map(|&word| word.to_owned());
        let more = [show(&key), "--data-dir", show(data)].map(str::to_owned);
        words.chain(more).collect::<Vec<_>>()
    };
    let words = restoring(&data);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    one_line(&within(4_000, &words), "restored");
    assert!(!data.exists());
    let left = beside(cluster.directory(), ".restoring-");
    assert!(left.is_empty(), "{left:?}");
    let words = restoring(&nowhere);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    one_line(&tests::command::output(&words), "Not a directory");
}

/// What a command shows on a terminal of a hundred columns.
fn on_a_terminal(member: &Member, words: &[&str]) -> Option<String> {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "stty cols 100 rows 30; exec '{}' {}",
        show(binary::sealkv()),
        quoted.join(" ")
    );
    let output = Command::new("script")
        .args(["-qec", &script, "/dev/null"])
        .current_dir(&member.home)
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => {
            let shown = text(&output.stdout);
            assert!(output.status.success(), "{shown}");
            Some(shown)
        }
        Err(_) => {
            eprintln!("skipped: no script(1) here to make a terminal with");
            None
        }
    }
}

#[tokio::test]
async fn a_terminal_shows_how_far_a_backup_has_come() {
    let cluster = filled().await;
    let member = &cluster.members[0];
    let endpoint = member.endpoint();
    let file = cluster.directory().join("backup");
    let saving = ["--endpoints", &endpoint, "snapshot", "save", show(&file)];
    let Some(shown) = on_a_terminal(member, &saving) else {
        return;
    };
    assert!(
        shown.contains(" MiB/15") || shown.contains(" MiB/16"),
        "{shown:?}"
    );
    let (key, data) = (key_file(member), cluster.directory().join("restored"));
    let words = ["snapshot", "restore", show(&file), "--root-key-file"];
    let more = [show(&key), "--data-dir", show(&data)];
    let shown = on_a_terminal(member, &[&words[..], &more].concat()).unwrap();
    assert!(
        shown.contains(" MiB/15") || shown.contains(" MiB/16"),
        "{shown:?}"
    );
    // And nowhere else: programs read the rest.
    let output = tests::command::output(&saving);
    assert_eq!(text(&output.stderr), "");
}

/// The drill of a million keys, with few: that it runs, and that every key arrives.
#[tokio::test]
async fn the_drill_of_many_keys_runs() {
    let test = "the_drill_of_many_keys_runs";
    let Some(etcd) = binary::etcd_or_skip(test) else {
        return;
    };
    let drill = binary::workspace().join("tests/bench/drill");
    let words = ["--keys", "2000", "--members", "1"];
    let ran = tokio::task::spawn_blocking(move || {
        Command::new("python3")
            .arg(drill)
            .args(words)
            .env("SEALKV_BIN", binary::sealkv())
            .env("SEALKV_ETCD_BIN", etcd)
            .stdin(Stdio::null())
            .output()
    });
    let Ok(ran) = ran.await.unwrap() else {
        eprintln!("{test}: skipped, no python3 here");
        return;
    };
    let (said, complaint) = (text(&ran.stdout), text(&ran.stderr));
    assert!(ran.status.success(), "{said}{complaint}");
    for step in [
        "snapshot save",
        "snapshot status",
        "snapshot restore, of 1",
        "start 1 restored",
        "migrate --once",
        "migrate --verify",
    ] {
        assert!(said.contains(step), "{step}: {said}");
    }
}
