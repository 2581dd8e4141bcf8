//! etcd's command line doing real work: etcdctl 3.7 and Debian's etcdctl, against one and three members.
//!
//! `tests/interop/setup.sh` installs them; where one is missing its test is skipped with a line, and
//! `SEALKV_REQUIRE_INTEROP` turns that into a failure.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tests::cluster::Cluster;
use tests::interop::tool;

/// etcdctl with its endpoints.
struct Etcdctl {
    program: PathBuf,
    endpoints: String,
}

impl Etcdctl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.endpoints))
            .arg("--command-timeout=20s")
            .args(arguments);
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("etcdctl can be started")
    }

    /// What it prints; it must succeed.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)
            .expect("etcdctl prints text")
            .trim_end()
            .to_owned()
    }

    /// The same with something typed in.
    fn run_with(&self, arguments: &[&str], typed: &str) -> String {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("etcdctl can be started");
        child
            .stdin
            .take()
            .expect("piped")
            .write_all(typed.as_bytes())
            .expect("etcdctl reads");
        let output = child.wait_with_output().expect("an own child ends");
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout)
            .expect("etcdctl prints text")
            .trim_end()
            .to_owned()
    }
}

fn keys_and_values(etcdctl: &Etcdctl) {
    assert_eq!(etcdctl.run(&["put", "t/a", "1"]), "OK");
    assert_eq!(etcdctl.run(&["put", "--prev-kv", "t/a", "2"]), "OK\nt/a\n1");
    etcdctl.run(&["put", "t/b", "3"]);
    assert_eq!(etcdctl.run(&["get", "t/a"]), "t/a\n2");
    assert_eq!(
        etcdctl.run(&["get", "--prefix", "t/", "--print-value-only"]),
        "2\n3"
    );
    assert_eq!(
        etcdctl.run(&["get", "--prefix", "t/", "--keys-only", "--limit=1"]),
        "t/a"
    );
    assert_eq!(
        etcdctl.run(&[
            "get",
            "--prefix",
            "t/",
            "--sort-by=value",
            "--order=DESCEND",
            "--print-value-only"
        ]),
        "3\n2"
    );
    assert_eq!(etcdctl.run(&["get", "--consistency=s", "t/b"]), "t/b\n3");
    let json: serde_json::Value =
        serde_json::from_str(&etcdctl.run(&["get", "t/a", "-w", "json"])).expect("json");
    let first = json["kvs"][0]["create_revision"]
        .as_i64()
        .expect("a revision");
    assert_eq!(
        etcdctl.run(&["get", "t/a", &format!("--rev={first}")]),
        "t/a\n1"
    );
    assert_eq!(
        etcdctl.run(&["del", "--prefix", "t/", "--prev-kv"]),
        "2\nt/a\n2\nt/b\n3"
    );
}

fn transactions(etcdctl: &Etcdctl) {
    etcdctl.run(&["put", "x", "old"]);
    let won = etcdctl.run_with(
        &["txn"],
        "value(\"x\") = \"old\"\nversion(\"x\") > \"0\"\n\nput x new\nget x\n\nput x lost\n\n",
    );
    assert_eq!(won, "SUCCESS\n\nOK\n\nx\nnew");
    let lost = etcdctl.run_with(
        &["txn"],
        "value(\"x\") = \"old\"\n\nput x again\n\nget x\n\n",
    );
    assert_eq!(lost, "FAILURE\n\nx\nnew");
}

fn watches(etcdctl: &Etcdctl) {
    etcdctl.run(&["put", "w", "1"]);
    let json: serde_json::Value =
        serde_json::from_str(&etcdctl.run(&["get", "w", "-w", "json"])).expect("json");
    let from = json["kvs"][0]["mod_revision"].as_i64().expect("a revision");
    let mut watching = etcdctl
        .command(&["watch", "w", "--prev-kv", &format!("--rev={from}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("etcdctl can be started");
    let mut lines = BufReader::new(watching.stdout.take().expect("piped")).lines();
    let mut next = |count: usize| {
        (&mut lines)
            .take(count)
            .map(|line| line.expect("etcdctl prints text"))
            .collect::<Vec<_>>()
    };
    assert_eq!(next(3), ["PUT", "w", "1"]);
    etcdctl.run(&["put", "w", "2"]);
    assert_eq!(next(5), ["PUT", "w", "1", "w", "2"]);
    etcdctl.run(&["del", "w"]);
    assert_eq!(next(4), ["DELETE", "w", "2", "w"]);
    watching.kill().expect("an own child can be ended");
    watching.wait().expect("an own child ends");
}

fn leases(etcdctl: &Etcdctl) {
    let granted = etcdctl.run(&["lease", "grant", "600"]);
    let id = granted
        .split(' ')
        .nth(1)
        .expect("lease ID granted with TTL(600s)")
        .to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(600s)"));
    etcdctl.run(&["put", "--lease", &id, "leased", "x"]);
    assert!(
        etcdctl
            .run(&["lease", "timetolive", &id, "--keys"])
            .contains("attached keys([leased])")
    );
    assert_eq!(
        etcdctl.run(&["lease", "keep-alive", "--once", &id]),
        format!("lease {id} keepalived with TTL(600)")
    );
    assert!(etcdctl.run(&["lease", "list"]).contains(&id));
    assert_eq!(
        etcdctl.run(&["lease", "revoke", &id]),
        format!("lease {id} revoked")
    );
    assert_eq!(etcdctl.run(&["get", "leased"]), "");
    let unknown = etcdctl.output(&["lease", "revoke", "1234"]);
    assert!(!unknown.status.success());
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("requested lease not found"));
}

fn locks_and_elections(etcdctl: &Etcdctl) {
    // Clients build them from transactions, leases and watches.
    assert_eq!(etcdctl.run(&["lock", "mutex", "echo", "held"]), "held");
    assert_eq!(etcdctl.run(&["lock", "mutex", "echo", "again"]), "again");
}

fn compaction(etcdctl: &Etcdctl) {
    for value in ["1", "2", "3"] {
        etcdctl.run(&["put", "c", value]);
    }
    let json: serde_json::Value =
        serde_json::from_str(&etcdctl.run(&["get", "c", "-w", "json"])).expect("json");
    let newest = json["header"]["revision"].as_i64().expect("a revision");
    etcdctl.run(&["compaction", "--physical", &newest.to_string()]);
    let below = etcdctl.output(&["get", "c", &format!("--rev={}", newest - 1)]);
    assert!(
        String::from_utf8_lossy(&below.stderr)
            .contains("mvcc: required revision has been compacted")
    );
    assert_eq!(
        etcdctl.run(&["get", "c", &format!("--rev={newest}")]),
        "c\n3"
    );
}

fn administration(etcdctl: &Etcdctl, members: usize) {
    let list = etcdctl.run(&["member", "list"]);
    assert_eq!(
        list.lines().filter(|line| line.contains("started")).count(),
        members,
        "{list}"
    );
    let status: serde_json::Value =
        serde_json::from_str(&etcdctl.run(&["endpoint", "status", "-w", "json"])).expect("json");
    let all = status.as_array().expect("one status per endpoint");
    assert_eq!(all.len(), members);
    assert!(all.iter().all(|one| one["Status"]["version"] == "3.7.1"
        && one["Status"]["leader"] == all[0]["Status"]["leader"]));
    let health = etcdctl.output(&["endpoint", "health"]);
    let said = String::from_utf8_lossy(&health.stdout).into_owned()
        + &String::from_utf8_lossy(&health.stderr);
    assert_eq!(said.matches("is healthy").count(), members, "{said}");
}

async fn every_command(program: &str, members: usize) {
    let Some(program) = tool(program) else { return };
    let cluster = Cluster::plan().members(members).start().await;
    let endpoints = cluster.endpoints().join(",");
    // etcdctl 3.4 makes an endpoint's whole URL the HTTP/2 authority of `endpoint status`, which a strict HTTP/2
    // server refuses; without a scheme an endpoint is an authority.
    let endpoints = match program.ends_with("etcdctl-debian") {
        true => endpoints.replace("http://", ""),
        false => endpoints,
    };
    let etcdctl = Etcdctl { program, endpoints };
    // Blocking on purpose: etcdctl is another process, and nothing else runs here.
    tokio::task::spawn_blocking(move || {
        keys_and_values(&etcdctl);
        transactions(&etcdctl);
        watches(&etcdctl);
        leases(&etcdctl);
        locks_and_elections(&etcdctl);
        compaction(&etcdctl);
        administration(&etcdctl, members);
    })
    .await
    .expect("every command did what it does with etcd");
}

#[tokio::test]
async fn etcdctl_against_one_member() {
    every_command("etcdctl", 1).await;
}

#[tokio::test]
async fn etcdctl_against_three_members() {
    every_command("etcdctl", 3).await;
}

#[tokio::test]
async fn debians_etcdctl_against_one_member() {
    every_command("etcdctl-debian", 1).await;
}

#[tokio::test]
async fn debians_etcdctl_against_three_members() {
    every_command("etcdctl-debian", 3).await;
}
