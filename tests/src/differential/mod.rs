//! The same operations against two servers, their answers compared field by field.
//!
//! Operations come from a seed or from a script. Revisions, lease ids and watches are part of a script,
//! so it means the same on every fresh server. What may differ stands in `normalise.rs` and nowhere else.

mod auth;
mod gateway;
mod generate;
mod generate_auth;
mod normalise;
mod play;
mod script;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::binary;

pub use gateway::Gateway;
pub use generate::Generator;
pub use normalise::Answer;
pub use play::Session;
pub use script::{Script, ScriptError, Step};

/// How long shrinking a failing script may take.
const SHRINK_WITHIN: Duration = Duration::from_secs(120);

/// The first answers that differ.
#[derive(Debug)]
pub struct Difference {
    /// The index of the step in the script that was played.
    pub at: usize,
    pub step: Step,
    pub left: Answer,
    pub right: Answer,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(out, "step {}: {}", self.at, self.step.described())?;
        writeln!(out, "--- left\n{}\n--- right\n{}", self.left, self.right)
    }
}

/// One server's side of a script, in some protocol.
pub trait Player {
    /// The newest revision that any answer had.
    fn revision(&self) -> i64;
    fn play(&mut self, step: &Step) -> impl Future<Output = Answer>;
}

/// Two fresh servers. Dropping it ends them.
pub trait Pair {
    type Player: Player;
    fn players(&self) -> (Self::Player, Self::Player);
}

/// Who asks in a random script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// Authentication is off.
    Nobody,
    /// It is turned on, and users come, change and go.
    Many,
}

/// Plays random operations against a pair and returns the script that was played.
pub async fn random(
    seed: u64,
    operations: usize,
    users: Users,
    pair: &impl Pair,
) -> (Script, Option<Difference>) {
    let mut generator = Generator::new(StdRng::seed_from_u64(seed));
    generator.with_users = users == Users::Many;
    let (mut left, mut right) = pair.players();
    let mut script = Script::default();
    let mut first = match users {
        Users::Nobody => Vec::new(),
        Users::Many => Generator::first_users(),
    }
    .into_iter();
    while script.steps.len() <= operations {
        let step = if script.steps.len() == operations {
            Step::Sync
        } else if let Some(step) = first.next() {
            step
        } else {
            match users {
                Users::Nobody => generator.step(left.revision()),
                Users::Many => generator.step_as_somebody(left.revision()),
            }
        };
        script.steps.push(step.clone());
        if let Some(difference) = both(&mut left, &mut right, script.steps.len() - 1, step).await {
            return (script, Some(difference));
        }
    }
    (script, None)
}

/// Plays random operations against a fresh pair; a difference is shrunk, kept and panicked with.
pub async fn compare_random<P: Pair>(
    name: &str,
    seed: u64,
    operations: u64,
    users: Users,
    fresh: impl AsyncFn() -> P,
) {
    println!("{name}: seed {seed}, {operations} operations");
    let operations = usize::try_from(operations).expect("a number of operations fits");
    let pair = fresh().await;
    let (script, difference) = random(seed, operations, users, &pair).await;
    drop(pair);
    if let Some(difference) = difference {
        let shorter = shrink(&script, fresh).await;
        let directory = binary::workspace().join("target/differential");
        let file = format!("{}-seed-{seed}", name.replace(' ', "-"));
        let path = keep(&shorter, &file, &directory).expect("the script can be written");
        panic!(
            "seed {seed}: etcd (left) and the server (right) differ; {} steps kept in {}\n{difference}",
            shorter.steps.len(),
            path.display()
        );
    }
    assert!(
        script.steps.len() > operations,
        "every operation was played"
    );
}

/// Plays a script against a pair.
pub async fn replay(script: &Script, pair: &impl Pair) -> Option<Difference> {
    let (mut left, mut right) = pair.players();
    for (at, step) in script.steps.iter().enumerate() {
        if let Some(difference) = both(&mut left, &mut right, at, step.clone()).await {
            return Some(difference);
        }
    }
    None
}

async fn both<P: Player>(left: &mut P, right: &mut P, at: usize, step: Step) -> Option<Difference> {
    let (one, other) = tokio::join!(left.play(&step), right.play(&step));
    (!one.agrees_with(&other)).then_some(Difference {
        at,
        step,
        left: one,
        right: other,
    })
}

/// Leaves out whatever the difference does not need, as far as time allows. `fresh` starts a new pair.
pub async fn shrink<P: Pair>(script: &Script, fresh: impl AsyncFn() -> P) -> Script {
    let deadline = Instant::now() + SHRINK_WITHIN;
    let mut kept = script.clone();
    let mut chunk = kept.steps.len().div_ceil(2);
    while chunk > 0 {
        let mut start = 0;
        while start < kept.steps.len() {
            if Instant::now() >= deadline {
                return kept;
            }
            let end = (start + chunk).min(kept.steps.len());
            let shorter = kept.without(start..end);
            match replay(&shorter, &fresh().await).await {
                Some(difference) => {
                    kept = Script {
                        steps: shorter.steps[..=difference.at].to_vec(),
                    }
                }
                None => start = end,
            }
        }
        chunk /= 2;
    }
    kept
}

/// Writes a failing script where a person finds it; returns the path.
pub fn keep(script: &Script, name: &str, directory: &Path) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    let path = directory.join(format!("{name}.script"));
    std::fs::write(&path, script.to_string())?;
    Ok(path)
}
