//! Members in one process, on simulated time, network and disks, from one seed: three of them, or
//! as many as come and go.
//!
//! Real: openraft, the peer protocol with its greeting and its bytes, proposing, forwarding, read
//! index, leases, snapshots, changes of the membership, the key service, the raft log, the state
//! machine, watches, sealing.
//! Simulated: time, the network, the log's disk, the store's engine, the wall clock; and work that
//! would run on a thread runs where it is asked for. The members run on one thread, so a seed is
//! one story and always the same.
//!
//! `SEALKV_SIM_SEED=x` runs one seed, `SEALKV_SIM_SEEDS=n` the first n; `SEALKV_SIM_TRACE=1`
//! prints what happens, `SEALKV_SIM_LOG=debug` what the members log.

mod changes;
mod clients;
mod ledger;
mod life;
mod member;
mod network;
mod trace;
mod watch;
mod watchers;
mod world;

use std::time::Instant;

pub(crate) use life::{Runtime, is_simulated};
pub(crate) use network::{Line, Port};
use world::{Plot, Story};

/// With which a cluster begins.
const MEMBERS: usize = 3;
/// Which a story may see, newcomers included.
const HOSTS: usize = 7;
const SEEDS: u64 = 8;
/// Of stories in which members come and go, and clients watch.
const CHANGING_SEEDS: u64 = 6;
/// Found: committed entries lost to a leader that restarted and led on in its old term; proposals
/// that spun once raft had stopped; a leader that was removed with the only root key.
const FOUND: [(u64, Plot); 6] = [
    (20, Plot::Steady),
    (21, Plot::Steady),
    (22, Plot::Steady),
    (24, Plot::Steady),
    (25, Plot::Steady),
    (49, Plot::Changing),
];

fn story(seed: u64, plot: Plot) -> Story {
    if let Ok(filter) = std::env::var("SEALKV_SIM_LOG") {
        // A second story finds it set.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .without_time()
            .try_init();
    }
    // Before any simulated clock starts: it must not be older than their time.
    let _ = crate::clock::monotonic();
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime on this thread");
    let story = runtime.block_on(world::live(seed, plot, directory.path()));
    crate::clock::simulate_wall(None);
    story
}

fn assert_good(seed: u64, plot: Plot) -> Story {
    let began = Instant::now();
    let story = story(seed, plot);
    println!(
        "seed {seed} {plot:?}: {} writes, {} reads, {} told, {} members joined, {} left, trace {}, {:?}",
        story.writes,
        story.reads,
        story.told,
        story.joined,
        story.left,
        story.hash,
        began.elapsed()
    );
    assert!(
        story.violations.is_empty(),
        "SEALKV_SIM_SEED={seed}\n{}\n\n{}",
        story.tail,
        story.violations.join("\n")
    );
    story
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

/// The seeds that are asked for, or as many as are enough every day.
fn seeds(few: u64) -> std::ops::Range<u64> {
    match number("SEALKV_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEALKV_SIM_SEEDS").unwrap_or(few),
    }
}

#[test]
fn no_seed_loses_tears_or_reorders_anything() {
    for seed in seeds(SEEDS) {
        assert_good(seed, Plot::Steady);
    }
}

#[test]
fn no_seed_does_while_members_come_and_go_and_watches_are_told_of_all() {
    for seed in seeds(CHANGING_SEEDS) {
        assert_good(seed, Plot::Changing);
    }
}

#[test]
fn no_seed_that_found_something_finds_it_again() {
    for (seed, plot) in FOUND {
        assert_good(seed, plot);
    }
}

#[test]
fn the_same_seed_is_the_same_story() {
    let seed = number("SEALKV_SIM_SEED").unwrap_or(7);
    for plot in [Plot::Steady, Plot::Changing] {
        let (one, other) = (story(seed, plot), story(seed, plot));
        assert_eq!(one.hash, other.hash, "{}\n\n{}", one.tail, other.tail);
    }
}
