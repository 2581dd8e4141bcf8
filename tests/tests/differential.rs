//! The same operations against a real etcd 3.7.1 and against the server under test.
//!
//! The test command plays seeds that are the same every time; `SEALKV_DIFFERENTIAL_SEED` and `SEALKV_DIFFERENTIAL_OPERATIONS` choose what is played; a difference
//! leaves its script, shortened, under `target/differential`. Scripts in `tests/scripts` are always replayed.

use std::path::Path;

use tests::binary;
use tests::client::Client;
use tests::cluster::{Cluster, Program};
use tests::differential::{self, Pair, Script, Session, Step, Users};

/// A fresh etcd and a fresh server of the kind under test.
struct Fresh {
    _clusters: [Cluster; 2],
    clients: (Client, Client),
}

/// What a pair is started with, and who asks it.
#[derive(Clone, Copy)]
struct Kind {
    members: usize,
    users: Users,
    tokens: &'static [&'static str],
}

const PLAIN: Kind = Kind {
    members: 1,
    users: Users::Nobody,
    tokens: &[],
};
/// No token ends while a script is played.
const SIMPLE_TOKENS: Kind = Kind {
    members: 1,
    users: Users::Many,
    tokens: &["--auth-token-ttl=100000"],
};
const SIGNED_TOKENS: Kind = Kind {
    members: 1,
    users: Users::Many,
    tokens: &[concat!(
        "--auth-token=jwt,sign-method=HS256,ttl=100000s,priv-key=",
        env!("CARGO_MANIFEST_DIR"),
        "/scripts/token.key"
    )],
};

impl Kind {
    fn of_three(self) -> Self {
        Self { members: 3, ..self }
    }
}

impl Fresh {
    async fn start(
        Kind {
            members, tokens, ..
        }: Kind,
    ) -> Self {
        let plan = || {
            let flags = tokens.iter().copied();
            flags.fold(Cluster::plan(), tests::cluster::Plan::flag)
        };
        // etcd's least cost of a hash: what is compared is what it answers.
        let etcd = plan().program(Program::Etcd).flag("--bcrypt-cost=4");
        let etcd = etcd.start();
        let under_test = plan().members(members).start();
        let (etcd, under_test) = tokio::join!(etcd, under_test);
        // In a cluster a follower is asked: what it answers has come the longest way.
        let asked = if members == 1 {
            0
        } else {
            (under_test.leader().await + 1) % members
        };
        let clients = (
            etcd.client().await,
            under_test.members[asked].client().await,
        );
        Self {
            _clusters: [etcd, under_test],
            clients,
        }
    }
}

impl Pair for Fresh {
    type Player = Session;

    fn players(&self) -> (Session, Session) {
        let (left, right) = self.clients.clone();
        (Session::new(left), Session::new(right))
    }
}

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")),
        Err(_) => default,
    }
}

/// From this seed, unless another one is asked for.
async fn compare_from(seed: u64, name: &str, kind: Kind, operations: u64) {
    if binary::etcd_or_skip(name).is_none() {
        return;
    }
    let seed = number("SEALKV_DIFFERENTIAL_SEED", seed);
    let fresh = || Fresh::start(kind);
    differential::compare_random(name, seed, operations, kind.users, fresh).await;
}

#[tokio::test]
async fn random_operations_are_answered_as_by_etcd() {
    compare_from(
        5,
        "differential",
        PLAIN,
        number("SEALKV_DIFFERENTIAL_OPERATIONS", 10_000),
    )
    .await;
}

#[tokio::test]
async fn a_follower_answers_as_etcd_does() {
    compare_from(
        6,
        "differential over a follower",
        PLAIN.of_three(),
        number("SEALKV_DIFFERENTIAL_OPERATIONS", 10_000) / 5,
    )
    .await;
}

#[tokio::test]
async fn random_users_are_answered_as_by_etcd() {
    compare_from(
        1,
        "differential with users",
        SIMPLE_TOKENS,
        number("SEALKV_DIFFERENTIAL_OPERATIONS", 10_000) / 5,
    )
    .await;
}

#[tokio::test]
async fn random_users_with_signed_tokens_are_answered_as_by_etcd() {
    compare_from(
        3,
        "differential with signed tokens",
        SIGNED_TOKENS,
        number("SEALKV_DIFFERENTIAL_OPERATIONS", 10_000) / 12,
    )
    .await;
}

#[tokio::test]
async fn a_follower_answers_random_users_as_etcd_does() {
    compare_from(
        17_365_059_240_530_209_764,
        "differential with users over a follower",
        SIMPLE_TOKENS.of_three(),
        number("SEALKV_DIFFERENTIAL_OPERATIONS", 10_000) / 5,
    )
    .await;
}

#[tokio::test]
async fn scripts_of_past_differences_are_answered_as_by_etcd() {
    if binary::etcd_or_skip("scripts").is_none() {
        return;
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut paths: Vec<_> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths.iter().filter(|path| {
        path.extension()
            .is_some_and(|extension| extension == "script")
    }) {
        let text = std::fs::read_to_string(path).unwrap();
        let script = Script::parse(&text)
            .unwrap_or_else(|error| panic!("{}: line {}", path.display(), error.line));
        if let Some(difference) =
            differential::replay(&script, &Fresh::start(SIMPLE_TOKENS).await).await
        {
            panic!(
                "{}: etcd (left) and the server (right) differ\n{difference}",
                path.display()
            );
        }
    }
}

/// Two etcds, one of which was told something the other was not: the harness must see it, and shrink it.
#[tokio::test]
async fn a_planted_difference_is_found_and_shrunk() {
    struct Planted(Fresh);
    impl Pair for Planted {
        type Player = Session;

        fn players(&self) -> (Session, Session) {
            self.0.players()
        }
    }
    async fn planted() -> Planted {
        let etcd = || Cluster::plan().program(Program::Etcd).start();
        let (one, other) = tokio::join!(etcd(), etcd());
        let clients = (one.client().await, other.client().await);
        let pair = Planted(Fresh {
            _clusters: [one, other],
            clients,
        });
        // The same revision, another value under a key that scripts read.
        let (left, right) = pair.0.clients.clone();
        left.put("b", "1").await.unwrap();
        right.put("b", "planted").await.unwrap();
        pair
    }
    if binary::etcd_or_skip("planted difference").is_none() {
        return;
    }
    let mut generator =
        differential::Generator::new(<rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(7));
    let steps = (0..40)
        .map(|revision| generator.step(revision))
        .collect::<Vec<_>>();
    let read = Step::Range(proto::etcdserverpb::RangeRequest {
        key: "b".into(),
        revision: 2,
        ..Default::default()
    });
    let script = Script {
        steps: steps
            .into_iter()
            .filter(|step| !matches!(step, Step::Compact(_)))
            .chain([read])
            .collect(),
    };
    assert!(
        differential::replay(&script, &planted().await)
            .await
            .is_some()
    );
    let shrunk = differential::shrink(&script, planted).await;
    assert_eq!(
        shrunk.steps.len(),
        1,
        "one read is enough to show it: {shrunk}"
    );
}
