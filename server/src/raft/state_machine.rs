//! openraft's state machine, and the thread that applies entries.
//!
//! Promise: entries are applied in order on one thread that nothing else runs on. The keyring
//! follows a batch before it is published (view); then it is announced (watch hub), then answered
//! (waiters). A failed apply poisons: openraft stops, and with it the member.
//!
//! Not known here: what a command does (`apply`), who waits for it (`waiters`).

use std::io;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures::{Stream, StreamExt};
use openraft::async_runtime::watch::WatchSender as _;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::executor::{self, Executor};
use super::measure;
use super::snapshot::SnapshotContent;
use super::types::{
    self, Entry, EntryPayload, LogId, SnapshotMeta, StoredMembership, TypeConfig, WatchSender,
};
use super::waiters::Waiters;
use crate::access::Sessions;
use crate::apply::{EntryBody, EntryRef, LogPosition, Machine};
use crate::clock;
use crate::key_service::KeyringFollower;
use crate::lease::lessor::Lessor;
use crate::metrics::metrics;
use crate::mvcc::compact::{Compactor, Progress};
use crate::mvcc::read_view::ReadView;
use crate::replica::Applied;
use crate::storage::{StagedState, StateDirectory, Store};
use crate::watch::Hub;

/// Entries applied as one storage batch.
const BATCH_ENTRIES_MAX: usize = 512;

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotContent>;

/// What an applied batch is told to.
pub(super) struct Audience {
    pub member_id: u64,
    pub view: Arc<ArcSwap<ReadView>>,
    pub keyring: KeyringFollower,
    pub hub: Hub,
    pub sessions: Sessions,
    pub waiters: Arc<Waiters>,
    pub lessor: Arc<Mutex<Lessor>>,
    /// The applied index, for those who wait for one.
    pub applied: WatchSender<u64>,
    /// An apply that takes longer is logged.
    pub(super) slow_apply: Duration,
    pub(super) compaction: CompactionPace,
}

enum Job {
    Apply(Vec<Entry>, oneshot::Sender<io::Result<()>>),
    State(oneshot::Sender<(Option<LogId>, StoredMembership, Arc<ReadView>)>),
    Install(Box<StagedState>, oneshot::Sender<io::Result<()>>),
    Store(oneshot::Sender<Store>),
    /// The store, after the published view has moved to what is in it now.
    Refresh(oneshot::Sender<Store>),
    /// Start the leases' clocks, in step with what is applied; the extension is an election.
    Promote(Duration, oneshot::Sender<()>),
}

/// How work comes to the state.
#[derive(Clone)]
enum Jobs {
    /// The apply thread's inbox.
    Thread(std_mpsc::Sender<Job>),
    #[cfg(test)]
    Inline(Arc<Mutex<Worker>>),
}

impl Jobs {
    fn send(&self, job: Job) -> io::Result<()> {
        match self {
            Self::Thread(inbox) => inbox
                .send(job)
                .map_err(|_| io::Error::other("the apply thread has stopped")),
            #[cfg(test)]
            Self::Inline(worker) => {
                worker.lock().work(job);
                Ok(())
            }
        }
    }
}

/// The way to the state.
#[derive(Clone)]
pub(super) struct StateMachine {
    jobs: Jobs,
    shown: Arc<Shown>,
}

impl StateMachine {
    /// Starts what applies to this state.
    pub(super) fn start(
        machine: Machine,
        store: Store,
        directory: Arc<Mutex<dyn StateDirectory>>,
        audience: Audience,
        executor: Executor,
    ) -> io::Result<Self> {
        let shown = Arc::new(Shown {
            store: Mutex::new(store),
            freed_through: watch::Sender::new(i64::MIN),
        });
        let compactor = Compaction::start(&machine, shown.clone(), audience.compaction, executor)?;
        let worker = Worker {
            machine,
            shown: shown.clone(),
            directory,
            audience,
            compactor,
            executor,
        };
        let jobs = match executor {
            Executor::Threads => {
                let (jobs, inbox) = std_mpsc::channel();
                std::thread::Builder::new()
                    .name("apply".into())
                    .spawn(move || worker.run(&inbox))?;
                Jobs::Thread(jobs)
            }
            #[cfg(test)]
            Executor::Inline => Jobs::Inline(Arc::new(Mutex::new(worker))),
        };
        Ok(Self { jobs, shown })
    }

    pub(super) fn handle(&self) -> StateHandle {
        StateHandle {
            jobs: self.jobs.clone(),
            shown: self.shown.clone(),
        }
    }
}

/// What the rest of this module asks of the apply thread and its state.
#[derive(Clone)]
pub(super) struct StateHandle {
    jobs: Jobs,
    shown: Arc<Shown>,
}

/// What others look at without asking the thread.
struct Shown {
    store: Mutex<Store>,
    /// The newest compaction that has freed on this member what it frees.
    freed_through: watch::Sender<i64>,
}

impl StateHandle {
    pub(super) fn disk_bytes(&self) -> u64 {
        self.shown.store.lock().disk_bytes()
    }

    /// Returns once a compaction at this revision or a later one has freed what it frees.
    pub(super) async fn freed_through(&self, revision: i64) {
        let mut freed = self.shown.freed_through.subscribe();
        // The sender lives as long as this handle.
        let _ = freed.wait_for(|freed| *freed >= revision).await;
    }

    /// Gives the space of what was deleted and compacted back to the file system.
    pub(super) async fn defragment(&self) -> io::Result<()> {
        let store = ask(&self.jobs, Job::Refresh).await?;
        executor::blocking(move || store.merge())
            .await?
            .map_err(io::Error::other)
    }

    /// Starts the leases' clocks of a new leader.
    pub(super) async fn promote(&self, extend: Duration) -> io::Result<()> {
        ask(&self.jobs, |answer| Job::Promote(extend, answer)).await
    }
}

async fn ask<T>(jobs: &Jobs, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> io::Result<T> {
    let (sender, answer) = oneshot::channel();
    jobs.send(job(sender))?;
    answer
        .await
        .map_err(|_| io::Error::other("the apply thread has stopped"))
}

struct Worker {
    machine: Machine,
    shown: Arc<Shown>,
    directory: Arc<Mutex<dyn StateDirectory>>,
    audience: Audience,
    compactor: Compaction,
    executor: Executor,
}

impl Worker {
    fn run(mut self, inbox: &std_mpsc::Receiver<Job>) {
        while let Ok(job) = inbox.recv() {
            self.work(job);
        }
    }

    fn work(&mut self, job: Job) {
        // A caller that has gone away does not need its answer.
        match job {
            Job::Apply(entries, answer) => {
                let _ = answer.send(self.apply(&entries));
            }
            Job::State(answer) => {
                let _ = answer.send(self.state());
            }
            Job::Store(answer) => {
                let _ = answer.send(self.shown.store.lock().clone());
            }
            Job::Refresh(answer) => {
                self.audience.view.store(self.machine.refresh());
                let _ = answer.send(self.shown.store.lock().clone());
            }
            Job::Install(staged, answer) => {
                let _ = answer.send(self.install(*staged));
            }
            Job::Promote(extend, answer) => {
                let view = self.audience.view.load();
                let mut lessor = self.audience.lessor.lock();
                lessor.promote(&view.leases.read(), clock::monotonic(), extend);
                let _ = answer.send(());
            }
        }
    }

    fn apply(&mut self, entries: &[Entry]) -> io::Result<()> {
        let Some(last) = entries.last() else {
            return Ok(());
        };
        let memberships = entries
            .iter()
            .map(|entry| match &entry.payload {
                EntryPayload::Membership(membership) => (
                    types::encode_membership(membership),
                    membership.nodes().map(|(id, _)| *id).collect(),
                ),
                _ => (bytes::Bytes::new(), Vec::new()),
            })
            .collect::<Vec<_>>();
        let refs: Vec<EntryRef<'_>> = entries
            .iter()
            .zip(&memberships)
            .map(|(entry, (bytes, ids))| EntryRef {
                index: entry.log_id.index,
                term: entry.log_id.leader_id.term,
                leader: 0,
                body: match &entry.payload {
                    EntryPayload::Blank => EntryBody::Blank,
                    EntryPayload::Normal(data) => EntryBody::Command(&data.0),
                    EntryPayload::Membership(_) => EntryBody::Membership { bytes, ids },
                },
            })
            .collect();
        let begun = Instant::now();
        let outcome = self.machine.apply(&refs).map_err(io::Error::other)?;
        measure::applied(
            &outcome,
            refs.len(),
            begun.elapsed(),
            self.audience.slow_apply,
        );
        let audience = &self.audience;
        if outcome.keys_changed {
            audience.keyring.follow(&outcome.view.key_table);
        }
        audience.view.store(outcome.view.clone());
        audience
            .sessions
            .applied(&outcome.logins, &outcome.view.auth);
        if !outcome.lease_changes.is_empty() {
            audience
                .lessor
                .lock()
                .observe(&outcome.lease_changes, clock::monotonic());
        }
        if outcome.compacted {
            self.compactor.wake();
        }
        audience.hub.publish(&outcome.events, &outcome.view);
        audience.applied.send_if_modified(|applied| {
            *applied = last.log_id.index;
            true
        });
        for (request, reply) in outcome.replies {
            let applied = Applied {
                reply,
                view: outcome.view.clone(),
            };
            audience.waiters.resolve(request.seq, Ok(applied));
        }
        audience.waiters.applied_through(last.log_id.leader_id.term);
        Ok(())
    }

    fn state(&self) -> (Option<LogId>, StoredMembership, Arc<ReadView>) {
        let applied = self.machine.applied();
        let log_id = |at: LogPosition| types::make_log_id(at.term, at.index);
        // Written by `apply` above, authenticated by the storage layer since.
        let membership = types::decode_membership(applied.membership.clone())
            .map(|membership| StoredMembership::new(applied.membership_at.map(log_id), membership))
            .unwrap_or_default();
        (
            applied.last.map(log_id),
            membership,
            self.audience.view.load_full(),
        )
    }

    fn install(&mut self, staged: StagedState) -> io::Result<()> {
        let superseded = std::mem::replace(&mut *self.shown.store.lock(), staged.store().clone());
        let store = self
            .directory
            .lock()
            .publish_state(staged, &superseded)
            .map_err(io::Error::other)?;
        self.machine =
            Machine::recover(store, self.audience.member_id).map_err(io::Error::other)?;
        let audience = &self.audience;
        let pace = audience.compaction;
        self.compactor = Compaction::start(&self.machine, self.shown.clone(), pace, self.executor)?;
        let view = self.machine.view();
        audience.keyring.follow(&view.key_table);
        audience.view.store(view.clone());
        audience.sessions.applied(&[], &view.auth);
        // A member that installs a snapshot follows a leader: its own clocks stand still.
        audience.lessor.lock().demote();
        audience.hub.reset(view.clone());
        audience.applied.send_if_modified(|applied| {
            *applied = view.applied_index;
            true
        });
        audience.waiters.overtaken_by_snapshot(view.applied_term);
        tracing::info!(applied_index = view.applied_index, "installed a snapshot");
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotContent;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let (applied, membership, _) = ask(&self.jobs, Job::State).await?;
        Ok((applied, membership))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut chunks = entries.ready_chunks(BATCH_ENTRIES_MAX);
        while let Some(chunk) = chunks.next().await {
            let mut batch = Vec::with_capacity(chunk.len());
            let mut responders = Vec::with_capacity(chunk.len());
            for item in chunk {
                let (entry, responder) = item?;
                batch.push(entry);
                responders.extend(responder);
            }
            ask(&self.jobs, |answer| Job::Apply(batch, answer)).await??;
            for responder in responders {
                responder.send(types::Done);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            jobs: self.jobs.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        snapshot: SnapshotContent,
    ) -> io::Result<()> {
        match snapshot {
            SnapshotContent::Staged(staged) => {
                ask(&self.jobs, |answer| Job::Install(staged, answer)).await?
            }
            // openraft restores a transient state machine this way; ours is on disk already.
            SnapshotContent::View(_) => Ok(()),
        }
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        current(&self.jobs).await
    }
}

/// A snapshot is the applied state itself: nothing is copied until one is sent.
async fn current(jobs: &Jobs) -> io::Result<Option<Snapshot>> {
    let (applied, last_membership, view) = ask(jobs, Job::State).await?;
    Ok(applied.map(|last| Snapshot {
        meta: SnapshotMeta {
            last_log_id: Some(last),
            last_membership,
        },
        snapshot: SnapshotContent::View(view),
    }))
}

/// Makes the applied state durable in the store, so that the log before it may be purged.
pub(super) struct Builder {
    jobs: Jobs,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotContent;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let snapshot = current(&self.jobs)
            .await?
            .ok_or_else(|| io::Error::other("nothing has been applied yet"))?;
        let store = ask(&self.jobs, Job::Store).await?;
        executor::blocking(move || store.persist())
            .await?
            .map_err(io::Error::other)?;
        Ok(snapshot)
    }
}

/// How much of a compaction is done at once, so that foreground work comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionPace {
    /// Keys whose history is looked at in one slice.
    pub slice_keys_max: usize,
    /// Between slices.
    pub pause: Duration,
}

impl CompactionPace {
    /// etcd's.
    pub const DEFAULT: Self = Self {
        slice_keys_max: 1_000,
        pause: Duration::from_millis(10),
    };
}

/// Frees what is logically compacted, in slices, beside everything else. Ends with its handle.
struct Compaction {
    wake: mpsc::UnboundedSender<()>,
}

/// What is to be done after a slice.
enum AfterSlice {
    Pause,
    Wait,
    Stop,
}

impl Compaction {
    /// The first pass starts at once: one may have been cut short by the last stop.
    fn start(
        machine: &Machine,
        shown: Arc<Shown>,
        pace: CompactionPace,
        executor: Executor,
    ) -> io::Result<Self> {
        let compactor = machine.compactor();
        let (wake, woken) = mpsc::unbounded_channel();
        match executor {
            Executor::Threads => {
                std::thread::Builder::new()
                    .name("compaction".into())
                    .spawn(move || run_compaction(compactor, woken, pace, &shown))?;
            }
            #[cfg(test)]
            Executor::Inline => {
                use openraft::async_runtime::AsyncRuntime;
                types::Runtime::spawn(simulate_compaction(compactor, woken, shown));
            }
        }
        Ok(Self { wake })
    }

    fn wake(&self) {
        // One that has stopped said why.
        let _ = self.wake.send(());
    }
}

fn run_compaction(
    mut compactor: Compactor,
    mut woken: mpsc::UnboundedReceiver<()>,
    pace: CompactionPace,
    shown: &Shown,
) {
    loop {
        match slice(&mut compactor, pace.slice_keys_max, shown) {
            AfterSlice::Pause => std::thread::sleep(pace.pause),
            AfterSlice::Wait if woken.blocking_recv().is_some() => {}
            AfterSlice::Wait | AfterSlice::Stop => return,
        }
    }
}

/// The same without a thread, in slices so small that much happens between them.
#[cfg(test)]
async fn simulate_compaction(
    mut compactor: Compactor,
    mut woken: mpsc::UnboundedReceiver<()>,
    shown: Arc<Shown>,
) {
    const SLICE_KEYS: usize = 2;
    loop {
        match slice(&mut compactor, SLICE_KEYS, &shown) {
            AfterSlice::Pause => tokio::time::sleep(CompactionPace::DEFAULT.pause).await,
            AfterSlice::Wait if woken.recv().await.is_some() => {}
            AfterSlice::Wait | AfterSlice::Stop => return,
        }
    }
}

fn slice(compactor: &mut Compactor, keys_max: usize, shown: &Shown) -> AfterSlice {
    match compactor.slice(keys_max) {
        Ok(Progress::Working { rows_removed }) => {
            metrics().compaction_keys.inc_by(rows_removed as u64);
            AfterSlice::Pause
        }
        Ok(Progress::Finished { compact_revision }) => {
            let before = shown.freed_through.send_replace(compact_revision);
            if before < compact_revision {
                let now = clock::wall_ms() / 1000;
                metrics().compaction_last_seconds.set(now);
            }
            AfterSlice::Wait
        }
        Err(error) => {
            tracing::error!(%error, "compaction stopped");
            AfterSlice::Stop
        }
    }
}
