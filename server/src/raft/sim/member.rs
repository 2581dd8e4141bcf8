//! A simulated member: what it has on its disks, and its run, if it runs.
//!
//! Promise: it starts as `start::member` starts one, but over memory; a crash leaves it what its
//! disks had made durable, and of the rest what the seed says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use keys::{DirectoryId, FileProvider, MemberKey, Secret};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;

use super::life::Life;
use super::network::{Network, url};
use super::watchers::HUB_TURN_US;
use super::world::Plot;
use crate::access::{Internal, Permitted, Sessions};
use crate::apply::Machine;
use crate::command::PublishMember;
use crate::key_service::{KeyService, KeyringFollower};
use crate::raft::executor::Executor;
use crate::raft::link::Dial;
use crate::raft::{Consensus, Identity, Node, NodeOptions, PeerService, Peers};
use crate::raft::{cluster_id, member_id};
use crate::seal::Sealer;
use crate::storage::StateDirectory;
use crate::storage::log::{LogOptions, LogWriter, MemoryDisk, RaftLog};
use crate::storage::memory_directory::MemoryDirectory;
use crate::watch::Hub;

pub(super) const ELECTION: Duration = Duration::from_secs(1);
const TOKEN: &str = "simulation";

/// So small that segments fill, entries leave the window and batches are split.
const LOG: LogOptions = LogOptions {
    segment_bytes: 64 * 1024,
    batch_bytes_max: 8 * 1024,
    window_bytes_max: 4 * 1024,
    queue_bytes_max: 1024 * 1024,
};

/// What a member has between its runs.
pub(super) struct Host {
    number: usize,
    identity: Identity,
    provider: Arc<FileProvider>,
    member_key: PathBuf,
    disk: MemoryDisk,
    states: Arc<Mutex<MemoryDirectory>>,
    options: NodeOptions,
    pub(super) running: Option<Running>,
    /// It has left the cluster and never starts again.
    pub(super) retired: bool,
    has_started: bool,
}

pub(super) struct Running {
    pub(super) life: Arc<Life>,
    pub(super) consensus: Consensus,
    pub(super) hub: Hub,
    writer: Arc<Mutex<LogWriter>>,
    /// How long a write to the log takes at most.
    pub(super) disk_us: Arc<AtomicU64>,
}

/// What is needed to start a member.
pub(super) struct Start {
    number: usize,
    identity: Identity,
    provider: Arc<FileProvider>,
    member_key: PathBuf,
    disk: MemoryDisk,
    states: Arc<Mutex<MemoryDirectory>>,
    options: NodeOptions,
    network: Network,
    plot: Plot,
    seed: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Crash {
    /// What was written stays, synced or not.
    Kill,
    /// What was not synced may be lost.
    PowerCut,
}

fn ids() -> Vec<u64> {
    let id = |number| member_id(&[url(number)], TOKEN);
    (0..super::MEMBERS).map(id).collect()
}

/// The id of a member that is added later.
pub(super) fn joiner_id(number: usize) -> u64 {
    member_id(&[url(number)], "joiner")
}

impl Host {
    /// One of the first members.
    pub(super) fn new(number: usize, directory: &Path, options: NodeOptions) -> Self {
        Self::made(number, ids()[number], false, directory, options)
    }

    /// One that joins the cluster, with nothing on its disks.
    pub(super) fn joiner(number: usize, directory: &Path, options: NodeOptions) -> Self {
        Self::made(number, joiner_id(number), true, directory, options)
    }

    fn made(number: usize, id: u64, joined: bool, directory: &Path, options: NodeOptions) -> Self {
        let directory_id = DirectoryId::from_bytes([number as u8 + 1; 16]);
        let provider = FileProvider::from_secret(&Secret::random());
        let made = MemberKey::create(id, directory_id, &provider).expect("the provider wraps");
        let member_key = directory.join(format!("member-{number}.key"));
        made.save(&member_key).expect("the directory is there");
        Self {
            number,
            identity: Identity {
                cluster_id: cluster_id(&ids()),
                member_id: id,
                name: format!("member-{number}"),
                directory_id: *directory_id.as_bytes(),
                joined,
            },
            provider: Arc::new(provider),
            member_key,
            disk: MemoryDisk::default(),
            states: Arc::default(),
            options,
            running: None,
            retired: false,
            has_started: false,
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.identity.member_id
    }

    pub(super) fn is_joiner(&self) -> bool {
        self.identity.joined
    }

    /// Once at least.
    pub(super) fn has_started(&self) -> bool {
        self.has_started
    }

    pub(super) fn start(&mut self, network: &Network, plot: Plot, seed: u64) -> Start {
        self.has_started = true;
        Start {
            number: self.number,
            identity: self.identity.clone(),
            provider: self.provider.clone(),
            member_key: self.member_key.clone(),
            disk: self.disk.clone(),
            states: self.states.clone(),
            options: self.options.clone(),
            network: network.clone(),
            plot,
            seed,
        }
    }

    /// The next sync of the log fails.
    pub(super) fn break_disk(&self) {
        self.disk.fail_next_sync(std::io::ErrorKind::Other);
    }

    pub(super) fn crash(&mut self, network: &Network, crash: Crash, rng: &mut StdRng) {
        let Some(running) = self.running.take() else {
            return;
        };
        network.close(self.number);
        running.life.end();
        if rng.random() {
            // In the middle of a write.
            self.disk.stop_at_change(rng.random_range(1..5));
            running.writer.lock().step();
        }
        let states_before = self.states.lock();
        let (disk, states) = match crash {
            Crash::Kill => (self.disk.duplicate(), states_before.crash(|_| 0)),
            Crash::PowerCut => (
                self.disk.power_cut(rng.random(), |_, _| rng.random()),
                states_before.crash(|unsynced| rng.random_range(0..=unsynced)),
            ),
        };
        drop(states_before);
        self.disk = disk;
        self.states = Arc::new(Mutex::new(states));
    }
}

impl Start {
    /// Starts the member; what it is to do for ever is begun.
    pub(super) async fn run(self) -> Result<Running, String> {
        let life = Life::new(self.seed);
        let started = life.spawn(self.started(Arc::clone(&life)));
        started.await.map_err(|error| error.to_string())?
    }

    async fn started(self, life: Arc<Life>) -> Result<Running, String> {
        let member_key = MemberKey::load(&self.member_key, &*self.provider).map_err(text)?;
        let storage_keys = member_key.storage_keys().clone();
        let id = self.identity.member_id;
        let (store, machine) = self.open_state(&storage_keys)?;
        let disk: Arc<MemoryDisk> = Arc::new(self.disk.clone());
        let applied = machine.applied().last;
        if applied.is_some() && !RaftLog::exists(&*disk).map_err(text)? {
            return Err("the log is gone".into());
        }
        let (log, writer) =
            RaftLog::open_stepped(disk, Arc::new(storage_keys.clone()), LOG).map_err(text)?;
        let purged = log.bounds().purged.map(|at| at.index);
        if purged > applied.map(|at| at.index) {
            return Err(format!(
                "purged up to {purged:?}, applied up to {applied:?}"
            ));
        }
        let writer = Arc::new(Mutex::new(writer));
        let disk_us = Arc::new(AtomicU64::new(2_000));
        life.spawn(write_log(writer.clone(), disk_us.clone(), self.seed));
        let view = Arc::new(ArcSwap::new(machine.view()));
        let dial = Dial::Simulated(self.network.port(self.number));
        let sealer = Sealer::new();
        let directory: Arc<Mutex<dyn StateDirectory>> = self.states.clone();
        let hub = Hub::idle(machine.view());
        let first = applied.is_none() && !self.identity.joined;
        let node = Node {
            identity: self.identity.clone(),
            options: self.options.clone(),
            directory: directory.clone(),
            store,
            log,
            sealer: sealer.clone(),
            keyring: KeyringFollower::new(member_key.slot().clone(), None, sealer),
            hub: hub.clone(),
            sessions: Sessions::default(),
            peers: Peers::over(self.identity.clone(), view.clone(), dial),
            view,
            bootstrap: first.then(members),
            machine,
        };
        let consensus = node
            .start_with(self.seed, Executor::Inline)
            .await
            .map_err(text)?;
        let keys = KeyService::new(consensus.clone(), member_key, self.member_key.clone(), None);
        let service = PeerService::new(consensus.clone(), keys.clone(), directory, storage_keys);
        self.network.listen(self.number, life.clone(), service);
        life.spawn(keys.run());
        life.spawn(consensus.clone().watch_leases(ELECTION));
        let count = self.options.snapshot_count;
        life.spawn(consensus.clone().schedule_snapshots(count));
        if self.plot == Plot::Changing {
            life.spawn(consensus.clone().watch_peers(ELECTION));
            life.spawn(consensus.clone().watch_members());
            life.spawn(turn_hub(hub.clone(), self.seed));
        }
        life.spawn(publish(consensus.clone(), self.identity));
        tracing::trace!(id, "started");
        Ok(Running {
            life,
            consensus,
            hub,
            writer,
            disk_us,
        })
    }

    fn open_state(
        &self,
        storage_keys: &keys::StorageKeys,
    ) -> Result<(crate::storage::Store, Machine), String> {
        let id = self.identity.member_id;
        let mut states = self.states.lock();
        if let Some(store) = states.open_state(storage_keys.clone()).map_err(text)? {
            let machine = Machine::recover(store.clone(), id).map_err(text)?;
            return Ok((store, machine));
        }
        let staged = states.stage_state(storage_keys.clone()).map_err(text)?;
        let machine = Machine::create(staged.store().clone(), id).map_err(text)?;
        Ok((states.publish(staged), machine))
    }
}

fn members() -> BTreeMap<u64, (String, Vec<String>)> {
    let numbers = 0..super::MEMBERS;
    ids()
        .into_iter()
        .zip(numbers)
        .map(|(id, number)| (id, (format!("member-{number}"), vec![url(number)])))
        .collect()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The disk: it writes what is queued, again and again.
async fn write_log(writer: Arc<Mutex<LogWriter>>, disk_us: Arc<AtomicU64>, seed: u64) {
    let mut rng = <StdRng as rand::SeedableRng>::seed_from_u64(!seed);
    loop {
        let most = disk_us.load(Ordering::Relaxed);
        let wait = rng.random_range(most / 4..most);
        tokio::time::sleep(Duration::from_micros(wait)).await;
        writer.lock().step();
    }
}

/// The hub's threads.
async fn turn_hub(hub: Hub, seed: u64) {
    let mut rng = <StdRng as rand::SeedableRng>::seed_from_u64(seed.rotate_left(7));
    loop {
        let wait = rng.random_range(HUB_TURN_US / 10..HUB_TURN_US);
        tokio::time::sleep(Duration::from_micros(wait)).await;
        hub.step();
    }
}

async fn publish(consensus: Consensus, identity: Identity) {
    loop {
        let body = PublishMember {
            id: identity.member_id,
            name: identity.name.clone(),
            client_urls: Vec::new(),
            directory_id: identity.directory_id,
        };
        let permitted = Permitted::internal(Internal::MemberStart, body.into());
        if consensus.propose(permitted).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
