//! Moving from three members to three, while leaders of both sides come and go.
//!
//! Needs a real etcd; without one the test says so and is skipped.

use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tests::cluster::{Cluster, Program};
use tests::command::{command, output, text};
use tests::{binary, wait};

const SOON: Duration = Duration::from_secs(120);

async fn three(program: Program) -> Cluster {
    Cluster::plan().program(program).members(3).start().await
}

/// Asked of the members that run, one after the other: a write in the middle of an election is
/// tried again.
async fn put(cluster: &Cluster, key: &'static str) {
    wait::until(key, SOON, async || {
        for member in cluster.members.iter().filter(|member| member.running()) {
            if let Some(client) = member.try_client().await
                && client.put(key, key).await.is_ok()
            {
                return Some(());
            }
        }
        None
    })
    .await;
}

async fn arrives(cluster: &Cluster, key: &'static str) {
    wait::until(key, SOON, async || {
        for member in cluster.members.iter().filter(|member| member.running()) {
            if let Some(client) = member.try_client().await
                && let Ok(Some(value)) = client.value(key).await
            {
                assert_eq!(value, key);
                return Some(());
            }
        }
        None
    })
    .await;
}

struct Following(Option<Child>);

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::test]
async fn leaders_of_both_sides_go_and_nothing_is_lost_on_the_way() {
    let test = "leaders_of_both_sides_go_and_nothing_is_lost_on_the_way";
    if binary::etcd_or_skip(test).is_none() {
        return;
    }
    let (mut from, mut to) = (three(Program::Etcd).await, three(Program::Sealkv).await);
    put(&from, "before").await;
    let (source, target) = (from.endpoints().join(","), to.endpoints().join(","));
    let words = ["migrate", "--from", &source, "--to", &target];
    let child = command(&words)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut following = Following(Some(child));
    arrives(&to, "before").await;
    let leader = to.leader().await;
    to.members[leader].kill();
    put(&from, "without the target's leader").await;
    arrives(&to, "without the target's leader").await;
    to.members[leader].start().await;
    let leader = from.leader().await;
    from.members[leader].kill();
    put(&from, "without the source's leader").await;
    arrives(&to, "without the source's leader").await;
    // The cut over.
    let child = following.0.take().unwrap();
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.unwrap(), Signal::INT).unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    let ended = ended.await.unwrap().unwrap();
    let said = text(&ended.stdout);
    assert!(ended.status.success(), "{said}");
    assert!(said.contains("3 keys are the same on both sides"), "{said}");
    // And both sides are as they were left.
    let again = tokio::task::spawn_blocking(move || {
        let words = ["migrate", "--verify", "--from", &source, "--to", &target];
        output(&words)
    });
    let again = again.await.unwrap();
    assert!(again.status.success(), "{}", text(&again.stderr));
}
