//! The command line: exit codes, messages, signals, key files, passphrases.
//!
//! Only for sealkv: a real etcd has other words here.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::binary;
use tests::cluster::{Cluster, Member, Program, free_port};

fn sealkv(arguments: &[&str], directory: &Path) -> Output {
    Command::new(binary::sealkv())
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the binary can be started")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A member that is not started yet.
async fn one(flags: &[&str]) -> Cluster {
    let plan = flags
        .iter()
        .fold(Cluster::plan().program(Program::Sealkv), |plan, flag| {
            plan.flag(*flag)
        });
    plan.prepare().await
}

fn key_file(member: &Member) -> std::path::PathBuf {
    let mut name = member.data.clone().into_os_string();
    name.push(".key");
    name.into()
}

#[test]
fn version_is_two_lines_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let output = sealkv(&["--version"], directory.path());
    assert!(output.status.success());
    let out = text(&output.stdout);
    let lines: Vec<&str> = out.lines().collect();
    assert!(
        lines[0].starts_with("sealkv ") && lines[1] == "etcd Version: 3.7.1",
        "{out}"
    );
    assert_eq!(
        (
            lines.len(),
            std::fs::read_dir(directory.path()).unwrap().count()
        ),
        (2, 0),
        "nothing else is said or made"
    );
}

#[test]
fn help_names_every_flag_of_the_tour() {
    let directory = tempfile::tempdir().unwrap();
    let output = sealkv(&["--help"], directory.path());
    let said = text(&output.stdout) + &text(&output.stderr);
    for flag in [
        "--name",
        "--data-dir",
        "--listen-client-urls",
        "--initial-cluster",
        "--root-key-file",
        "--passphrase-file",
    ] {
        assert!(said.contains(flag), "{flag} is missing");
    }
}

#[test]
fn bad_flags_exit_2_and_name_the_flag() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [
        &["--no-such-flag"][..],
        &["--no-such-flag=1"],
        &["--heartbeat-interval=soon"],
        &["--snapshot-count"],
    ] {
        let output = sealkv(arguments, directory.path());
        let name = arguments[0]
            .trim_start_matches('-')
            .split('=')
            .next()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            text(&output.stderr).contains(name),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
    }
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        0,
        "nothing is made"
    );
}

#[test]
fn bad_configuration_exits_1_and_names_every_mistake_together() {
    let directory = tempfile::tempdir().unwrap();
    let output = sealkv(
        &[
            "--listen-client-urls=nonsense",
            "--election-timeout=10",
            "--heartbeat-interval=100",
        ],
        directory.path(),
    );
    let said = text(&output.stderr) + &text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("listen-client-urls") && said.contains("election-timeout"),
        "{said}"
    );
}

#[test]
fn security_flags_are_never_ignored() {
    let directory = tempfile::tempdir().unwrap();
    for flag in [
        "--cert-file=x",
        "--client-crl-file=x",
        "--client-cert-allowed-hostname=x",
        "--peer-crl-file=x",
        "--peer-cert-allowed-cn=x",
        "--peer-cert-allowed-hostname=x",
        "--auth-token=jwt",
    ] {
        let output = sealkv(&[flag], directory.path());
        let name = flag.trim_start_matches('-').split('=').next().unwrap();
        assert!(
            matches!(output.status.code(), Some(1 | 2)),
            "{flag} must be refused, not {:?}",
            output.status
        );
        assert!(
            (text(&output.stderr) + &text(&output.stdout)).contains(name),
            "{flag}: {}",
            text(&output.stderr)
        );
    }
}

#[tokio::test]
async fn sigterm_and_sigint_stop_within_two_seconds_and_are_reported() {
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2)] {
        let mut cluster = one(&[]).await;
        cluster.members[0].start().await;
        let member = &mut cluster.members[0];
        let asked = Instant::now();
        member.signal(signal);
        let status = member.wait_end().await;
        assert_eq!(
            status.signal(),
            Some(number),
            "the status re-raises the signal: {status}"
        );
        assert!(
            asked.elapsed() < Duration::from_secs(5),
            "{:?}",
            asked.elapsed()
        );
        let log = member.log();
        assert!(
            !log.contains("\"level\":\"error\""),
            "an ordinary stop logs no error:\n{log}"
        );
    }
}

#[tokio::test]
async fn the_log_is_one_json_object_a_line() {
    let mut cluster = one(&[]).await;
    cluster.members[0].start().await;
    cluster.members[0].terminate().await;
    for line in cluster.members[0].log().lines() {
        let object: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        for field in ["level", "ts", "caller", "msg"] {
            assert!(object.get(field).is_some(), "{field} is missing in {line}");
        }
    }
}

#[tokio::test]
async fn the_generated_key_file_is_private_beside_the_data_and_needed() {
    let mut cluster = one(&[]).await;
    let member = &mut cluster.members[0];
    member.start().await;
    member.client().await.put("a", "1").await.unwrap();
    let file = key_file(member);
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(
        member.log().contains(&file.display().to_string()),
        "the warning names the key file"
    );
    member.terminate().await;

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    member.launch();
    refused_naming(member, &file.display().to_string()).await;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();

    let away = file.with_extension("away");
    std::fs::rename(&file, &away).unwrap();
    member.launch();
    refused_naming(member, "key").await;
    assert!(!file.exists(), "no new key is made over old data");

    std::fs::write(&file, b"not a key").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    member.launch();
    refused_naming(member, &file.display().to_string()).await;

    std::fs::rename(&away, &file).unwrap();
    member.start().await;
    assert_eq!(
        member.client().await.value("a").await.unwrap(),
        Some("1".into()),
        "nothing was lost"
    );
}

async fn refused_naming(member: &mut Member, what: &str) {
    let status = member.wait_end().await;
    let log = member.log_of_this_start();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains(what), "{what} is not named:\n{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn another_members_key_does_not_open_the_directory() {
    let mut cluster = one(&[]).await;
    let mut other = one(&[]).await;
    cluster.members[0].start().await;
    other.members[0].start().await;
    cluster.members[0].terminate().await;
    other.members[0].terminate().await;
    std::fs::copy(key_file(&other.members[0]), key_file(&cluster.members[0])).unwrap();
    cluster.members[0].launch();
    refused_naming(&mut cluster.members[0], "key").await;
}

#[tokio::test]
async fn a_wrong_passphrase_is_refused_and_the_right_one_opens() {
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("passphrase");
    let write = |passphrase: &str| {
        std::fs::write(&file, passphrase).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("correct horse battery staple");
    let mut cluster = one(&[
        "--key-provider=passphrase",
        &format!("--passphrase-file={}", file.display()),
    ])
    .await;
    let member = &mut cluster.members[0];
    member.start().await;
    member.client().await.put("a", "1").await.unwrap();
    member.terminate().await;

    write("wrong");
    member.launch();
    refused_naming(member, "passphrase").await;
    assert!(!member.log().contains("correct horse"));

    std::fs::remove_file(&file).unwrap();
    member.launch();
    refused_naming(member, "passphrase").await;

    write("correct horse battery staple");
    member.start().await;
    assert_eq!(
        member.client().await.value("a").await.unwrap(),
        Some("1".into())
    );
}

#[tokio::test]
async fn a_directory_of_etcd_is_refused_by_name_and_left_alone() {
    let mut cluster = one(&[]).await;
    let member = &mut cluster.members[0];
    let file = member.data.join("member/wal/0.wal");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, b"etcd's").unwrap();
    member.launch();
    refused_naming(member, "etcd").await;
    assert_eq!(std::fs::read(&file).unwrap(), b"etcd's");
    assert_eq!(
        std::fs::read_dir(&member.data).unwrap().count(),
        1,
        "nothing was added"
    );
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let mut cluster = one(&[]).await;
    cluster.members[0].start().await;
    let arguments = cluster.members[0].arguments.clone();
    let mut second = one(&[]).await;
    let member = &mut second.members[0];
    member.arguments = arguments;
    let (client, peer) = (free_port(), free_port());
    member.set_flag("listen-client-urls", &format!("http://127.0.0.1:{client}"));
    member.set_flag(
        "advertise-client-urls",
        &format!("http://127.0.0.1:{client}"),
    );
    member.set_flag("listen-peer-urls", &format!("http://127.0.0.1:{peer}"));
    member.launch();
    refused_naming(member, &cluster.members[0].data.display().to_string()).await;
    cluster.client().await.put("a", "1").await.unwrap();
}

#[tokio::test]
async fn a_busy_port_ends_with_one_clear_line() {
    let mut cluster = one(&[]).await;
    let port = cluster.members[0].client_port;
    let _held = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    cluster.members[0].launch();
    refused_naming(&mut cluster.members[0], &port.to_string()).await;
}

#[tokio::test]
async fn damage_in_the_data_directory_is_named_and_never_served() {
    let mut cluster = one(&[]).await;
    let member = &mut cluster.members[0];
    member.start().await;
    let client = member.client().await;
    for number in 0..200 {
        client
            .put(format!("k{number}"), "v".repeat(200))
            .await
            .unwrap();
    }
    member.kill();
    let file = member.data.join("member.key");
    let good = std::fs::read(&file).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    std::fs::write(&file, &bad).unwrap();
    member.launch();
    refused_naming(member, "member.key").await;
    std::fs::write(&file, &good).unwrap();
    member.start().await;
    assert_eq!(member.client().await.prefix("k").await.unwrap().count, 200);
}

#[tokio::test]
async fn pages_answer_beside_grpc_on_the_client_port() {
    let mut cluster = one(&[]).await;
    cluster.members[0].start().await;
    let port = cluster.members[0].client_port;
    assert_eq!(
        page(port, "/version").await,
        (
            200,
            r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#.into()
        )
    );
    assert_eq!(
        page(port, "/health").await,
        (200, r#"{"health":"true","reason":""}"#.into())
    );
    let (code, metrics) = page(port, "/metrics").await;
    assert_eq!(code, 200);
    for family in [
        "etcd_server_has_leader 1",
        "etcd_server_is_leader 1",
        "etcd_mvcc_put_total",
    ] {
        assert!(metrics.contains(family), "{family} is missing");
    }
    assert_eq!(page(port, "/no-such-page").await.0, 404);
}

/// HTTP/1.1 in the fewest words: the server closes after the answer.
async fn page(port: u16, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer))
        .await
        .expect("an answer")
        .unwrap();
    let answer = text(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.trim_end().to_owned())
}

#[test]
fn clients_of_a_server_that_is_not_there_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let endpoint = format!("--endpoints=http://127.0.0.1:{}", free_port());
    for command in [
        &["keys", "list"][..],
        &["status"],
        &["plugin", "list"],
        &["bench", "put", "--total=1"],
    ] {
        let output = sealkv(&[command, &[endpoint.as_str()]].concat(), directory.path());
        assert_eq!(
            output.status.code(),
            Some(1),
            "{command:?}: {}",
            text(&output.stderr)
        );
        assert!(
            !text(&output.stderr).is_empty() && !text(&output.stderr).contains("panicked"),
            "{command:?}"
        );
    }
}

#[tokio::test]
async fn keys_are_listed_added_and_rotated_from_the_command_line() {
    let mut cluster = one(&[]).await;
    cluster.members[0].start().await;
    let endpoint = cluster.members[0].endpoint();
    let directory = cluster.directory().to_path_buf();
    let keys = |arguments: &[&str]| {
        let output = sealkv(
            &[&["keys"], arguments, &["--endpoints", &endpoint]].concat(),
            &directory,
        );
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    assert_eq!(keys(&["add", "team/"]).0, Some(0));
    let again = keys(&["add", "team/"]);
    assert_eq!(again.0, Some(1), "a prefix has one key: {again:?}");
    assert_eq!(keys(&["rotate", "team/"]).0, Some(0));
    assert_eq!(keys(&["rotate", "no such prefix"]).0, Some(1));
    let list = keys(&["list"]);
    assert_eq!(list.0, Some(0));
    assert!(list.1.contains("team/"), "{}", list.1);
    let json = keys(&["list", "-w", "json"]);
    serde_json::from_str::<serde_json::Value>(&json.1)
        .unwrap_or_else(|error| panic!("{error}: {}", json.1));
}

#[tokio::test]
async fn the_benchmark_measures_puts_and_ranges() {
    let mut cluster = one(&[]).await;
    cluster.members[0].start().await;
    let endpoint = cluster.members[0].endpoint();
    let directory = cluster.directory().to_path_buf();
    for work in [
        &[
            "put",
            "--total=200",
            "--clients=8",
            "--conns=2",
            "--val-size=64",
        ][..],
        &["range", "a", "--total=200", "--consistency=s"],
    ] {
        let output = sealkv(
            &[&["bench"], work, &["--endpoints", &endpoint]].concat(),
            &directory,
        );
        let out = text(&output.stdout);
        assert!(
            output.status.success()
                && out.contains("Requests/sec:")
                && !out.contains("Error distribution"),
            "{out}{}",
            text(&output.stderr)
        );
    }
}
