//! Flags, the configuration file, the log's outputs and levels, and what a supervisor is told.
//!
//! The table of flags is held against a real etcd's `--help`, where there is one.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use tests::cluster::{Cluster, Member, Program, READY_WITHIN};
use tests::http::Request;
use tests::{binary, wait};

fn run(program: &Path, arguments: &[&str], directory: &Path) -> Output {
    Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the program can be started")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `--name 'default'` lines of a help text.
fn defaults(help: &str) -> BTreeMap<String, String> {
    let flags = help.lines().filter_map(|line| line.strip_prefix("  --"));
    flags
        .map(|line| {
            let (name, default) = line.split_once(' ').unwrap_or((line, ""));
            (name.to_owned(), default)
        })
        // What is not quoted is a list of names.
        .filter(|(_, default)| default.starts_with('\''))
        .map(|(name, default)| (name, default.trim_matches('\'').to_owned()))
        .collect()
}

/// Where our default differs from etcd's, or where the two write the same differently.
const OTHER_DEFAULTS: &[(&str, &str)] = &[
    ("data-dir", "the directories of the two are not the same"),
    (
        "initial-cluster",
        "etcd shows what it is for the default name",
    ),
    ("max-concurrent-streams", "etcd shows math.MaxUint32"),
    ("key-file", "also names the root key file"),
];

#[test]
fn every_flag_of_etcd_is_known_with_its_default() {
    let Some(etcd) = binary::etcd_or_skip("every_flag_of_etcd_is_known_with_its_default") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let theirs = run(&etcd, &["--help"], directory.path());
    let theirs = defaults(&(text(&theirs.stdout) + &text(&theirs.stderr)));
    assert!(theirs.len() > 100, "etcd's help was read: {theirs:?}");
    let help = text(&run(binary::sealkv(), &["--help"], directory.path()).stdout);
    let ours = defaults(&help);
    let mut wrong = Vec::new();
    for (flag, default) in &theirs {
        if !help.contains(&format!("--{flag}")) {
            wrong.push(format!("--{flag} is not known"));
        }
        let excused = OTHER_DEFAULTS.iter().any(|(name, _)| name == flag);
        if let Some(shown) = ours.get(flag)
            && !excused
            // etcd's help leaves some out.
            && !default.is_empty()
            && shown != default
        {
            wrong.push(format!("--{flag}: {shown} here, {default} in etcd"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

async fn one() -> Cluster {
    Cluster::plan().program(Program::Sealkv).prepare().await
}

/// The flags of a member as a file with etcd's keys, plus what `more` says.
fn write_file(member: &Member, more: &str) -> std::path::PathBuf {
    let mut yaml = String::new();
    for argument in &member.arguments {
        let argument = argument.to_string_lossy();
        let (name, value) = argument[2..].split_once('=').unwrap();
        yaml.push_str(&format!("{name}: '{value}'\n"));
    }
    yaml.push_str(more);
    let path = member.home.join("etcd.yml");
    std::fs::write(&path, yaml).unwrap();
    path
}

#[tokio::test]
async fn a_configuration_file_decides_alone() {
    let mut cluster = one().await;
    let member = &mut cluster.members[0];
    let more = "heartbeat-interval: 50\nelection-timeout: 500\nlog-outputs: [stderr]\nmax-wals: 5\n\
                client-transport-security:\n  cert-file:\n  client-cert-auth: false\n";
    let file = write_file(member, more);
    member.arguments = vec![
        format!("--config-file={}", file.display()).into(),
        "--name=ignored".into(),
    ];
    member.start().await;
    let log = member.log();
    assert!(log.contains("loaded server configuration"), "{log}");
    assert!(
        log.contains("ignored, since a configuration file is given") && log.contains("--name"),
        "{log}"
    );
    assert!(log.contains("max-wals"), "{log}");
    let members = member.client().await.member_list(false).await.unwrap();
    assert_eq!(members.members[0].name, "m1");
}

#[test]
fn mistakes_in_the_file_are_named_together_with_their_lines() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("etcd.yml");
    std::fs::write(
        &file,
        "name: a\nnmae: b\nsnapshot-count: many\nelection-timeout: 100\n",
    )
    .unwrap();
    let output = run(
        binary::sealkv(),
        &["--config-file", "etcd.yml"],
        directory.path(),
    );
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("etcd.yml:2: nmae") && said.contains("etcd.yml:3: snapshot-count"),
        "{said}"
    );
    std::fs::write(&file, "name: a\nelection-timeout: 100\nmax-txn-ops: 0\n").unwrap();
    let output = run(
        binary::sealkv(),
        &["--config-file", "etcd.yml"],
        directory.path(),
    );
    let said = text(&output.stderr);
    assert!(
        said.contains("etcd.yml:2: election-timeout") && said.contains("etcd.yml:3: max-txn-ops"),
        "{said}"
    );
    for (argument, what) in [("nowhere.yml", "nowhere.yml"), ("/", "cannot read /")] {
        let output = run(
            binary::sealkv(),
            &["--config-file", argument],
            directory.path(),
        );
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(what), "{said}");
    }
}

#[tokio::test]
async fn the_log_goes_to_every_output_and_rotates() {
    let mut cluster = one().await;
    let member = &mut cluster.members[0];
    let file = member.home.join("etcd.log");
    member.set_flag("log-outputs", &format!("stderr,stdout,{}", file.display()));
    member.set_flag("enable-log-rotation", "true");
    member.set_flag(
        "log-rotation-config-json",
        r#"{"maxsize": 1, "compress": true}"#,
    );
    member.set_flag("log-format", "console");
    member.start().await;
    let written = std::fs::read_to_string(&file).unwrap();
    let ready = |text: &str| text.matches("ready to serve client requests").count();
    assert_eq!(ready(&written), 1, "{written}");
    // Both standard streams lead to the same file of the harness.
    assert_eq!(ready(&member.log()), 2);
    member.terminate().await;
    member.set_flag("log-outputs", "/no/such/directory/etcd.log");
    member.launch();
    let status = member.wait_end().await;
    assert_eq!(status.code(), Some(1));
    assert!(
        member
            .log_of_this_start()
            .contains("/no/such/directory/etcd.log")
    );
}

#[tokio::test]
async fn the_log_level_changes_while_it_runs() {
    let mut cluster = one().await;
    let member = &mut cluster.members[0];
    member.start().await;
    assert!(!member.log().contains(r#""level":"debug""#));
    member.signal(Signal::USR1);
    let port = member.client_port;
    wait::until_true("a line at debug level", READY_WITHIN, || {
        // A connection that breaks off is worth a line only at that level.
        if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) {
            let _ = stream.write_all(b"PRI * HTTP/2.0\r\n");
        }
        member.log().contains(r#""level":"debug""#)
    })
    .await;
    member.signal(Signal::USR2);
    wait::until_true("the configured level", READY_WITHIN, || {
        member.log().matches("changed log level").count() == 2
    })
    .await;
    member.client().await.put("a", "1").await.unwrap();
}

#[tokio::test]
async fn a_supervisor_is_told_of_readiness_and_of_the_end() {
    let mut cluster = one().await;
    let member = &mut cluster.members[0];
    let socket = member.home.join("notify");
    let supervisor = UnixDatagram::bind(&socket).unwrap();
    supervisor.set_read_timeout(Some(READY_WITHIN)).unwrap();
    let mut child = Command::new(binary::sealkv())
        .args(&member.arguments)
        .current_dir(&member.home)
        .env_clear()
        .env("NOTIFY_SOCKET", &socket)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let heard = || {
        let mut message = [0; 256];
        let length = supervisor.recv(&mut message).unwrap();
        text(&message[..length])
    };
    assert_eq!(heard().trim(), "READY=1");
    member.client().await.get("a").await.unwrap();
    let pid = i32::try_from(child.id()).ok();
    let pid = pid.and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(heard().trim(), "STOPPING=1");
    tokio::task::spawn_blocking(move || child.wait())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn what_a_directory_lacks_is_said_in_one_line() {
    let mut cluster = one().await;
    let member = &mut cluster.members[0];
    std::fs::write(member.home.join("file"), "x").unwrap();
    for place in [
        "/proc/nowhere/data".to_owned(),
        format!("{}/file/data", member.home.display()),
    ] {
        member.set_flag("data-dir", &place);
        member.launch();
        let status = member.wait_end().await;
        let log = member.log_of_this_start();
        assert_eq!(status.code(), Some(1), "{log}");
        assert_eq!(log.matches(r#""level":"error""#).count(), 1, "{log}");
        assert!(log.contains(&place), "{log}");
    }
}

#[tokio::test]
async fn a_directory_that_others_may_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut cluster = one().await;
    let member = &mut cluster.members[0];
    std::fs::create_dir(&member.data).unwrap();
    std::fs::set_permissions(&member.data, std::fs::Permissions::from_mode(0o755)).unwrap();
    member.start().await;
    assert!(member.log().contains("check file permission"));
}

#[tokio::test]
async fn the_raft_log_may_lie_in_a_directory_of_its_own_and_stays_there() {
    let mut cluster = one().await;
    let member = &mut cluster.members[0];
    let wal = member.home.join("fast/wal");
    member.set_flag("wal-dir", &wal.display().to_string());
    member.start().await;
    member.client().await.put("a", "1").await.unwrap();
    member.terminate().await;
    let segments = std::fs::read_dir(&wal).unwrap();
    assert!(segments.count() > 1, "the log's segments are there");
    member.set_flag("wal-dir", "");
    member.launch();
    assert_eq!(member.wait_end().await.code(), Some(1));
    let said = member.log_of_this_start();
    assert!(said.contains(&wal.display().to_string()), "{said}");
    member.set_flag("wal-dir", &wal.display().to_string());
    member.start().await;
    let found = member.client().await.get("a").await.unwrap();
    assert_eq!(found.kvs[0].value, "1");
}

/// The log of one start after the other, without syncs in between: what the flag gives up is what
/// a power cut takes, not what a stop leaves.
#[tokio::test]
async fn without_syncs_a_stop_loses_nothing_and_the_log_warns() {
    let mut cluster = one().await;
    let member = &mut cluster.members[0];
    member.set_flag("unsafe-no-fsync", "true");
    member.start().await;
    member.client().await.put("a", "1").await.unwrap();
    member.kill();
    member.start().await;
    let found = member.client().await.get("a").await.unwrap();
    assert_eq!(found.kvs[0].value, "1");
    assert!(
        member
            .log()
            .contains("a power cut loses acknowledged writes")
    );
}

#[tokio::test]
async fn feature_gates_are_shown_as_they_hold_and_unknown_ones_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let output = run(
        binary::sealkv(),
        &["--feature-gates=CompactHashCheck=true,Foo=true"],
        directory.path(),
    );
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("--feature-gates: unrecognized feature gate: Foo"),
        "{said}"
    );
    let cluster = Cluster::plan()
        .program(Program::Sealkv)
        .members(3)
        .flag("--feature-gates=CompactHashCheck=true,InitialCorruptCheck=true")
        .flag("--feature-gates=StopGRPCServiceOnDefrag=true,LeaseCheckpoint=false")
        .flag("--compact-hash-check-time=200ms")
        // The leader is to stay.
        .flag("--heartbeat-interval=500")
        .flag("--election-timeout=5000");
    let mut cluster = cluster.start().await;
    let client = cluster.client().await;
    for value in 0..5 {
        client.put("a", format!("{value}")).await.unwrap();
    }
    client.compact(3).await.unwrap();
    let leader = cluster.leader().await;
    wait::until_true("a comparison of all members", READY_WITHIN, || {
        let log = cluster.members[leader].log();
        log.contains("successfully checked hash on whole cluster")
    })
    .await;
    let member = &mut cluster.members[(leader + 1) % 3];
    member.terminate().await;
    member.start().await;
    let log = member.log_of_this_start();
    assert!(
        log.contains("initial corruption checking passed; no corruption"),
        "{log}"
    );
    assert!(
        log.contains("this feature gate cannot be turned off") && log.contains("LeaseCheckpoint"),
        "{log}"
    );
    let page = Request::get("/metrics").send(member.client_port).await;
    let page = page.text().await;
    for (name, stage, on) in [
        ("CompactHashCheck", "ALPHA", 1),
        ("PriorityRequest", "ALPHA", 0),
        ("LeaseCheckpoint", "ALPHA", 1),
        ("AllBeta", "BETA", 0),
    ] {
        let line = format!(r#"etcd_server_feature_enabled{{name="{name}",stage="{stage}"}} {on}"#);
        assert!(page.lines().any(|found| found == line), "{line} in {page}");
    }
}

#[tokio::test]
async fn a_misspelt_variable_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(binary::sealkv())
        .args([
            "--data-dir=/proc/nowhere",
            "--listen-client-urls=http://127.0.0.1:0",
        ])
        .args([
            "--advertise-client-urls=http://127.0.0.1:1",
            "--listen-peer-urls=http://127.0.0.1:0",
        ])
        .current_dir(directory.path())
        .env_clear()
        .env("ETCD_NMAE", "x")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert!(
        said.contains("ETCD_NMAE") && said.contains("unrecognized"),
        "{said}"
    );
}
