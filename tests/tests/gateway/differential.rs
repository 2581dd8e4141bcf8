//! The differential scripts through JSON: random operations, and those that have shown a difference before.
//!
//! The test command plays one seed, the same every time; `SEALKV_DIFFERENTIAL_SEED` and `SEALKV_DIFFERENTIAL_OPERATIONS` choose what is played, as they do for gRPC.

use std::path::Path;

use proto::etcdserverpb as pb;
use tests::binary;
use tests::cluster::{Cluster, Program};
use tests::differential::{self, Gateway, Pair, Script, Step, Users};

/// A fresh etcd and a fresh server of the kind under test.
struct Fresh {
    _clusters: [Cluster; 2],
    ports: (u16, u16),
}

impl Fresh {
    async fn start(members: usize) -> Self {
        let etcd = Cluster::plan().program(Program::Etcd).start();
        let under_test = Cluster::plan().members(members).start();
        let (etcd, under_test) = tokio::join!(etcd, under_test);
        // In a cluster a follower is asked: what it answers has come the longest way.
        let asked = match members {
            1 => 0,
            _ => (under_test.leader().await + 1) % members,
        };
        let ports = (
            etcd.members[0].client_port,
            under_test.members[asked].client_port,
        );
        Self {
            _clusters: [etcd, under_test],
            ports,
        }
    }
}

impl Pair for Fresh {
    type Player = Gateway;

    fn players(&self) -> (Gateway, Gateway) {
        (Gateway::at(self.ports.0), Gateway::at(self.ports.1))
    }
}

/// What is played unless another one is asked for.
const SEED: u64 = 7;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

async fn compare_random(test: &str, members: usize, operations: u64) {
    if binary::etcd_or_skip(test).is_none() {
        return;
    }
    let seed = number("SEALKV_DIFFERENTIAL_SEED").unwrap_or(SEED);
    let fresh = || Fresh::start(members);
    differential::compare_random(test, seed, operations, Users::Nobody, fresh).await;
}

/// A third of what is played by gRPC: each watch is opened twice here.
fn operations() -> u64 {
    number("SEALKV_DIFFERENTIAL_OPERATIONS").unwrap_or(10_000) / 3
}

#[tokio::test]
async fn random_operations_through_json_are_answered_as_by_etcd() {
    compare_random("random operations through json", 1, operations()).await;
}

#[tokio::test]
async fn a_follower_answers_json_as_etcd_does() {
    compare_random("json over a follower", 3, operations() / 5).await;
}

/// Two etcds, one of which was told something that the other was not: it must be seen in a record, and in a watch.
#[tokio::test]
async fn a_planted_difference_is_seen_in_json() {
    if binary::etcd_or_skip("a planted difference through json").is_none() {
        return;
    }
    let etcd = || Cluster::plan().program(Program::Etcd).start();
    let (one, other) = tokio::join!(etcd(), etcd());
    let ports = (one.members[0].client_port, other.members[0].client_port);
    for (cluster, value) in [(&one, "1"), (&other, "planted")] {
        let client = cluster.client().await;
        client.put("b", value).await.expect("a put succeeds");
    }
    let pair = Fresh {
        _clusters: [one, other],
        ports,
    };
    let read = Step::Range(pb::RangeRequest {
        key: "b".into(),
        ..Default::default()
    });
    let watch = Step::Watch {
        slot: 0,
        create: pb::WatchCreateRequest {
            key: "b".into(),
            start_revision: 2,
            ..Default::default()
        },
    };
    let script = |steps: &[Step]| Script {
        steps: steps.to_vec(),
    };
    // What a watch is told is compared when everything up to a revision that was answered must have been told.
    let other = Step::Put(pb::PutRequest {
        key: "c".into(),
        ..Default::default()
    });
    for (steps, at) in [(vec![read], 0), (vec![watch, other, Step::Sync], 2)] {
        let difference = differential::replay(&script(&steps), &pair).await;
        assert_eq!(difference.map(|difference| difference.at), Some(at));
    }
}

#[tokio::test]
async fn scripts_of_past_differences_are_answered_in_json_as_by_etcd() {
    if binary::etcd_or_skip("scripts through json").is_none() {
        return;
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut played = 0;
    for entry in std::fs::read_dir(&directory).expect("the scripts are there") {
        let path = entry.expect("a directory can be listed").path();
        if path
            .extension()
            .is_none_or(|extension| extension != "script")
        {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a script can be read");
        let script = Script::parse(&text)
            .unwrap_or_else(|error| panic!("{}: line {}", path.display(), error.line));
        if let Some(difference) = differential::replay(&script, &Fresh::start(1).await).await {
            let path = path.display();
            panic!("{path}: etcd (left) and the server (right) differ\n{difference}");
        }
        played += 1;
    }
    assert!(played > 0, "scripts were played");
}
