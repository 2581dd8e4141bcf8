//! The server in the place of etcd: three members under a supervisor, restarted one after the other under load.
//!
//! The same flags, the same load and the same signals for both; only the program differs. What each of them showed is
//! printed, side by side.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use tests::binary;
use tests::cluster::{Cluster, Program};
use tests::interop;

/// How often it is tried until no more requests fail than etcd's.
const ROUNDS: usize = 3;

/// What one kind of request met.
#[derive(Debug, Deserialize)]
struct Tally {
    kind: String,
    done: u64,
    failed: u64,
    #[serde(default)]
    refusals: BTreeMap<String, u64>,
    /// The longest time that one of the workers went without a success.
    gap_ms: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} done, {} failed, {} ms without a success at most",
            self.done, self.failed, self.gap_ms
        )
    }
}

/// Rolls through the members while the Go client works; what was acknowledged is held against what stands and what a
/// watch has told, by the scenario itself.
async fn roll(program: Program, clients: interop::Program) -> Vec<Tally> {
    let plan = Cluster::plan().program(program).members(3);
    let mut cluster = plan.start().await;
    let said = clients.only(&["rolling-restart"]).drive(&mut cluster).await;
    let tallies = said.lines().filter_map(|line| line.strip_prefix("tally "));
    tallies
        .map(|line| serde_json::from_str(line).expect("a tally is JSON"))
        .collect()
}

#[tokio::test]
#[ignore = "a measurement beside etcd that wants a quiet machine"]
async fn a_rolling_restart_fails_no_more_requests_than_etcds() {
    if binary::etcd_or_skip("a rolling restart").is_none() {
        return;
    }
    let Some(path) = interop::tool("go-scenario") else {
        return;
    };
    // On a busy machine one request may fail by chance, with either of them; what is worse each time is no chance.
    let mut worse = Vec::new();
    for _ in 0..ROUNDS {
        // One after the other: together they would take each other's time.
        let etcd = roll(Program::Etcd, interop::Program::new(path.clone())).await;
        let ours = roll(Program::Sealkv, interop::Program::new(path.clone())).await;
        worse = worse_than(&etcd, &ours);
        if worse.is_empty() {
            return;
        }
    }
    panic!("more requests failed than etcd's in each of {ROUNDS} rounds, at last: {worse:?}");
}

/// The kinds of requests of which more failed than etcd's.
fn worse_than(etcd: &[Tally], ours: &[Tally]) -> Vec<String> {
    assert_eq!(etcd.len(), ours.len());
    let mut worse = Vec::new();
    for (etcd, ours) in etcd.iter().zip(ours) {
        println!("{}: etcd's {etcd}; ours {ours}", ours.kind);
        assert_eq!(etcd.kind, ours.kind);
        assert!(etcd.done > 0 && ours.done > 0, "{} were asked", etcd.kind);
        if ours.failed > etcd.failed {
            let refusals = (&etcd.refusals, &ours.refusals);
            worse.push(format!("{}: {refusals:?}", ours.kind));
        }
    }
    worse
}
