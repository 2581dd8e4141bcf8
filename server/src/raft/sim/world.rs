//! A cluster, what befalls it, and who watches.
//!
//! Everything runs on one thread and paused time, and every choice comes from the seed: the same
//! seed is the same story.

use std::cell::{Cell, RefCell, RefMut};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::clients::Client;
use super::ledger::{Change, Ledger};
use super::life::Life;
use super::member::{Crash, ELECTION, Host};
use super::network::{Network, Weather};
use super::trace::Trace;
use crate::clock;
use crate::mvcc::event::{Cause, Kind};
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read_view::ReadView;
use crate::mvcc::{hash, history};
use crate::raft::{Consensus, NodeOptions, Rules};
use crate::storage::Keyspace;

const CLIENTS: usize = 4;
/// How long clients and faults go on.
const STORY: Duration = Duration::from_secs(12);
/// How long the cluster may take to be well again when nothing befalls it any more.
const RECOVERY: Duration = Duration::from_secs(60);
/// Between looks at what the members hold.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A story in which less is done has proved nothing.
const WRITES_MIN: usize = 10;
const READS_MIN: usize = 3;

const START_MS: i64 = 1_700_000_000_000;
const HOUR_MS: i64 = 3_600_000;

pub(super) struct World {
    rng: RefCell<StdRng>,
    trace: RefCell<Trace>,
    ledger: RefCell<Ledger>,
    network: Network,
    hosts: RefCell<Vec<Host>>,
    /// By member: up to which revision its history was looked at in this run.
    seen: RefCell<Vec<i64>>,
    over: Cell<bool>,
    weather: Weather,
}

pub(super) struct Story {
    pub(super) hash: String,
    pub(super) violations: Vec<String>,
    pub(super) tail: String,
    pub(super) writes: usize,
    pub(super) reads: usize,
}

/// Lives through the story of a seed.
pub(super) async fn live(seed: u64, directory: &Path) -> Story {
    let world = World::new(seed, directory);
    world.play().await;
    let mut ledger = world.ledger();
    ledger.close();
    let trace = world.trace.borrow();
    Story {
        hash: trace.hash(),
        violations: ledger.violations().to_vec(),
        tail: trace.tail(),
        writes: ledger.writes_done(),
        reads: ledger.reads_done(),
    }
}

impl World {
    fn new(seed: u64, directory: &Path) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let far = rng.random_range(0..4) == 0;
        let weather = Weather {
            delay_us: if far { 5_000..40_000 } else { 100..2_000 },
            late_frames: rng.random_range(0..30),
            late_us: 10_000..400_000,
            breaking_frames: rng.random_range(0..4),
        };
        let options = NodeOptions {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: ELECTION,
            snapshot_count: rng.random_range(10..200),
            snapshot_catchup_entries: rng.random_range(0..40),
            request_timeout: Duration::from_secs(5) + ELECTION * 2,
            slow_apply: Duration::MAX,
            rules: Rules {
                strict: false,
                learners_max: 1,
            },
            compaction: crate::raft::CompactionPace::DEFAULT,
            priority_requests: false,
        };
        let host = |number| Host::new(number, directory, options.clone());
        clock::simulate_wall(Some(START_MS));
        Self {
            network: Network::new(rng.random(), weather.clone()),
            hosts: RefCell::new((0..super::MEMBERS).map(host).collect()),
            seen: RefCell::new(vec![1; super::MEMBERS]),
            rng: RefCell::new(rng),
            trace: RefCell::new(Trace::new()),
            ledger: RefCell::default(),
            over: Cell::new(false),
            weather,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.get()
    }

    pub(super) fn note(&self, what: &str) {
        self.trace.borrow_mut().note(what);
    }

    pub(super) fn ledger(&self) -> RefMut<'_, Ledger> {
        self.ledger.borrow_mut()
    }

    fn violation(&self, what: String) {
        self.note(&what);
        self.ledger().violation(what);
    }

    fn random<T>(&self, choose: impl FnOnce(&mut StdRng) -> T) -> T {
        choose(&mut self.rng.borrow_mut())
    }

    fn running(&self) -> Vec<usize> {
        let hosts = self.hosts.borrow();
        let running = |number: &usize| hosts[*number].running.is_some();
        (0..super::MEMBERS).filter(running).collect()
    }

    fn handle(&self, member: usize) -> Option<(Arc<Life>, Consensus)> {
        let hosts = self.hosts.borrow();
        let running = hosts[member].running.as_ref()?;
        Some((running.life.clone(), running.consensus.clone()))
    }

    pub(super) fn any_member(&self, rng: &mut StdRng) -> Option<(Arc<Life>, Consensus)> {
        self.handle(*self.running().choose(rng)?)
    }

    async fn play(&self) {
        for member in 0..super::MEMBERS {
            let wait = self.random(|rng| rng.random_range(0..300));
            tokio::time::sleep(Duration::from_millis(wait)).await;
            self.start(member).await;
        }
        let client = |number| {
            let client = Client {
                world: self,
                number,
                rng: StdRng::seed_from_u64(self.random(StdRng::random)),
                writes: 0,
                lease: None,
            };
            client.run()
        };
        let clients = futures::future::join_all((0..CLIENTS).map(client));
        let story = async {
            self.misfortunes().await;
            self.mend().await;
            let well = tokio::time::timeout(RECOVERY, self.well()).await;
            if well.is_err() {
                self.violation(format!(
                    "the cluster is not well {RECOVERY:?} after its mending"
                ));
            }
            self.over.set(true);
        };
        let told = async {
            futures::join!(clients, story);
        };
        let mut told = std::pin::pin!(told);
        loop {
            tokio::select! {
                biased;
                () = &mut told => break,
                () = tokio::time::sleep(LOOK_EVERY) => self.look(),
            }
        }
        let rested = tokio::time::timeout(RECOVERY, self.rest()).await;
        if rested.is_err() {
            self.violation(format!(
                "the members do not agree after {RECOVERY:?} of rest"
            ));
        }
        self.note("the end");
        if self.ledger().writes_done() < WRITES_MIN || self.ledger().reads_done() < READS_MIN {
            self.violation("too little was done to prove anything".into());
        }
    }

    async fn start(&self, member: usize) {
        let seed = self.random(StdRng::random);
        let start = self.hosts.borrow()[member].start(&self.network, seed);
        self.note(&format!("member {member} starts"));
        match start.run().await {
            Ok(running) => {
                self.seen.borrow_mut()[member] = 1;
                self.hosts.borrow_mut()[member].running = Some(running);
            }
            Err(error) => self.violation(format!("member {member} does not start: {error}")),
        }
    }

    fn crash(&self, member: usize, crash: Crash) {
        self.note(&format!("member {member} crashes: {crash:?}"));
        let mut hosts = self.hosts.borrow_mut();
        self.random(|rng| hosts[member].crash(&self.network, crash, rng));
    }

    /// One fault after another, some of them together.
    async fn misfortunes(&self) {
        let end = Instant::now() + STORY;
        while Instant::now() < end {
            let wait = self.random(|rng| rng.random_range(100..1_500));
            tokio::time::sleep(Duration::from_millis(wait)).await;
            self.misfortune().await;
        }
    }

    async fn misfortune(&self) {
        let member = self.random(|rng| rng.random_range(0..super::MEMBERS));
        let other = (member + self.random(|rng| rng.random_range(1..super::MEMBERS))) % 3;
        let crash = self.random(|rng| *[Crash::Kill, Crash::PowerCut].choose(rng).expect("two"));
        let what = self.random(|rng| rng.random_range(0..100));
        match what {
            0..22 => match self.handle(member) {
                Some(_) => self.crash(member, crash),
                None => self.start(member).await,
            },
            22..36 => self.start_all().await,
            36..39 => (0..super::MEMBERS).for_each(|member| self.crash(member, crash)),
            39..47 => self.isolate(member),
            47..55 => {
                self.note(&format!("cut {member} -> {other}"));
                self.network.cut(member, other);
            }
            55..68 => {
                self.note("cuts are healed");
                self.network.heal();
            }
            68..74 => self.set_disk(member, self.random(|rng| rng.random_range(2_000..400_000))),
            74..78 => {
                self.note(&format!("the disk of {member} breaks"));
                self.hosts.borrow()[member].break_disk();
            }
            78..84 => self.pause(member).await,
            84..90 => {
                let jump = self.random(|rng| rng.random_range(-HOUR_MS..HOUR_MS));
                self.note(&format!("the wall clock shows {jump} ms more"));
                clock::simulate_wall(Some(START_MS + jump));
            }
            90..95 => self.storm(),
            _ => {
                if let Some((life, consensus)) = self.handle(member) {
                    self.note(&format!("member {member} is to resign"));
                    life.spawn(async move { consensus.resign().await });
                }
            }
        }
    }

    fn isolate(&self, member: usize) {
        self.note(&format!("member {member} is cut off"));
        for other in (0..super::MEMBERS).filter(|other| *other != member) {
            self.network.cut(member, other);
            self.network.cut(other, member);
        }
    }

    fn set_disk(&self, member: usize, slowest_us: u64) {
        if let Some(running) = &self.hosts.borrow()[member].running {
            running.disk_us.store(slowest_us, Ordering::Relaxed);
        }
        self.note(&format!("the disk of {member} takes {slowest_us} us"));
    }

    async fn pause(&self, member: usize) {
        let Some((life, _)) = self.handle(member) else {
            return;
        };
        let pause = self.random(|rng| rng.random_range(100..4_000));
        self.note(&format!("member {member} stands still for {pause} ms"));
        life.pause();
        tokio::time::sleep(Duration::from_millis(pause)).await;
        life.resume();
    }

    fn storm(&self) {
        self.note("a storm");
        self.network.set_weather(Weather {
            late_frames: 300,
            breaking_frames: 30,
            ..self.weather.clone()
        });
    }

    async fn start_all(&self) {
        let running = self.running();
        for member in (0..super::MEMBERS).filter(|member| !running.contains(member)) {
            self.start(member).await;
        }
    }

    /// Nothing befalls the cluster any more.
    async fn mend(&self) {
        self.note("everything is mended");
        self.network.heal();
        self.network.set_weather(self.weather.clone());
        for member in 0..super::MEMBERS {
            self.set_disk(member, 2_000);
        }
        self.start_all().await;
    }

    /// Every member answers a linearizable read and opens values.
    async fn well(&self) {
        for member in 0..super::MEMBERS {
            loop {
                self.start_all().await;
                let Some((life, consensus)) = self.handle(member) else {
                    continue;
                };
                let read = life.spawn(async move {
                    let open = consensus.sealer().is_open();
                    consensus.read_barrier().await.is_ok() && open
                });
                if read.await.unwrap_or(false) {
                    self.note(&format!("member {member} is well"));
                    break;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Until all members stand at the same index and leases without a holder have ended.
    async fn rest(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look();
            self.start_all().await;
            let views: Vec<Arc<ReadView>> = (0..super::MEMBERS)
                .filter_map(|member| Some(self.handle(member)?.1.view()))
                .collect();
            let applied = views.first().map(|view| view.applied_index);
            let same = views.iter().all(|view| Some(view.applied_index) == applied);
            let leases = views
                .iter()
                .any(|view| view.leases.read().iter().count() > 0);
            if views.len() == super::MEMBERS && same && !leases {
                for (member, view) in views.iter().enumerate() {
                    self.compare_state(member, view);
                }
                return;
            }
        }
    }

    /// Looks at every member that runs: at what is new in its history, and, now and then, at all
    /// of its state. A member whose raft has stopped is ended, as its process would end itself.
    fn look(&self) {
        for member in 0..super::MEMBERS {
            let Some((_, consensus)) = self.handle(member) else {
                continue;
            };
            if let Some(reason) = consensus.failure() {
                self.note(&format!("member {member} has failed: {reason}"));
                self.crash(member, Crash::PowerCut);
                continue;
            }
            let view = consensus.view();
            let place = consensus.leadership();
            self.note(&format!(
                "member {member}: term {} leader {:x} applied {} revision {}",
                place.term, place.leader, view.applied_index, view.revision
            ));
            self.look_at_history(member, &consensus, &view);
            if view.applied_index % 8 == 0 {
                self.compare_state(member, &view);
            }
        }
    }

    fn look_at_history(&self, member: usize, consensus: &Consensus, view: &ReadView) {
        if !consensus.sealer().is_open() {
            return;
        }
        let from = (self.seen.borrow()[member] + 1).max(view.compact_revision_now() + 1);
        let all = KeyRange::all();
        let new = match history::events(view, from, view.revision, &all, usize::MAX) {
            Ok(new) => new,
            // The next look is at a newer view.
            Err(error) => return self.note(&format!("member {member}: {error}")),
        };
        for revision in new.revisions {
            let mut changes = Vec::new();
            for event in &revision.events {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let key = &event.record.key;
                let value = match event.kind {
                    Kind::Delete => None,
                    Kind::Put => match consensus.sealer().open(key, &event.value) {
                        Ok(value) => Some(text(&value)),
                        Err(error) => {
                            return self.violation(format!("member {member}: {error}"));
                        }
                    },
                };
                changes.push(Change {
                    key: text(key),
                    value,
                    by_lease: event.cause == Cause::Lease,
                });
            }
            self.ledger().saw(member, revision.revision, changes);
        }
        self.seen.borrow_mut()[member] = view.revision;
    }

    fn compare_state(&self, member: usize, view: &ReadView) {
        match state(view) {
            Ok(state) => self.ledger().state(member, view.applied_index, state),
            // A compaction overtook the view.
            Err(error) => self.note(&format!("member {member}: {error}")),
        }
    }
}

/// Everything replicated, but bytes of compacted history, which each member frees in its own time.
fn state(view: &ReadView) -> Result<String, String> {
    let kv = hash::hash_kv(view, 0).map_err(|error| error.to_string())?;
    let mut state = format!("{kv:?} stored {}", view.stored_bytes);
    for keyspace in Keyspace::ALL {
        if matches!(keyspace, Keyspace::Meta | Keyspace::Value) {
            continue;
        }
        let mut digest = Sha256::new();
        for row in view.store.scan(keyspace, ..) {
            let (key, row) = row.map_err(|error| error.to_string())?;
            // A member's own rows.
            if keyspace == Keyspace::System
                && (&key[..] == b"own/compacted" || &key[..] == b"format")
            {
                continue;
            }
            digest.update((key.len() as u64).to_be_bytes());
            digest.update(&key);
            digest.update((row.len() as u64).to_be_bytes());
            digest.update(&row);
        }
        let hash = hex::encode(&digest.finalize()[..8]);
        state.push_str(&format!(" {keyspace}={hash}"));
    }
    Ok(state)
}
