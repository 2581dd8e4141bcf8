//! openraft's state machine, and the thread that applies entries.
//!
//! Promise: entries are applied in order on one thread that nothing else runs on. The keyring
//! follows a batch before it is published (view); then it is announced (watch hub), then answered
//! (waiters). A failed apply poisons: openraft stops, and with it the member.
//!
//! Not known here: what a command does (`apply`), who waits for it (`waiters`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::measure;
use super::snapshot::SnapshotContent;
use super::types::{self, Entry, EntryPayload, LogId, SnapshotMeta, StoredMembership, TypeConfig};
use super::waiters::Waiters;
use crate::apply::{EntryBody, EntryRef, LogPosition, Machine};
use crate::clock;
use crate::key_service::KeyringFollower;
use crate::lease::lessor::Lessor;
use crate::mvcc::compact::Progress;
use crate::mvcc::read_view::ReadView;
use crate::replica::Applied;
use crate::storage::{DataDir, StagedState, Store};
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
    pub waiters: Arc<Waiters>,
    pub lessor: Arc<Mutex<Lessor>>,
    /// The applied index, for those who wait for one.
    pub applied: watch::Sender<u64>,
    /// An apply that takes longer is logged.
    pub(super) slow_apply: Duration,
}

enum Job {
    Apply(Vec<Entry>, oneshot::Sender<io::Result<()>>),
    State(oneshot::Sender<(Option<LogId>, StoredMembership, Arc<ReadView>)>),
    Install(Box<StagedState>, oneshot::Sender<io::Result<()>>),
    Store(oneshot::Sender<Store>),
    /// Start the leases' clocks, in step with what is applied; the extension is an election.
    Promote(Duration, oneshot::Sender<()>),
}

/// The apply thread's inbox.
#[derive(Clone)]
pub(super) struct StateMachine {
    jobs: std_mpsc::Sender<Job>,
    shown: Arc<Shown>,
}

impl StateMachine {
    /// Starts the apply thread over this state.
    pub(super) fn start(
        machine: Machine,
        store: Store,
        directory: Arc<Mutex<DataDir>>,
        audience: Audience,
    ) -> io::Result<Self> {
        let (jobs, inbox) = std_mpsc::channel();
        let shown = Arc::new(Shown {
            store: Mutex::new(store),
            freed_through: AtomicI64::new(i64::MIN),
        });
        let compactor = CompactionThread::start(&machine, shown.clone())?;
        let worker = Worker {
            machine,
            shown: shown.clone(),
            directory,
            audience,
            compactor,
        };
        std::thread::Builder::new()
            .name("apply".into())
            .spawn(move || worker.run(&inbox))?;
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
    jobs: std_mpsc::Sender<Job>,
    shown: Arc<Shown>,
}

/// What others look at without asking the thread.
struct Shown {
    store: Mutex<Store>,
    /// The newest compaction that has freed on this member what it frees.
    freed_through: AtomicI64,
}

impl StateHandle {
    pub(super) fn disk_bytes(&self) -> u64 {
        self.shown.store.lock().disk_bytes()
    }

    pub(super) fn freed_through(&self) -> i64 {
        self.shown.freed_through.load(Ordering::Acquire)
    }

    /// Starts the leases' clocks of a new leader.
    pub(super) async fn promote(&self, extend: Duration) -> io::Result<()> {
        ask(&self.jobs, |answer| Job::Promote(extend, answer)).await
    }
}

async fn ask<T>(
    jobs: &std_mpsc::Sender<Job>,
    job: impl FnOnce(oneshot::Sender<T>) -> Job,
) -> io::Result<T> {
    let gone = || io::Error::other("the apply thread has stopped");
    let (sender, answer) = oneshot::channel();
    jobs.send(job(sender)).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())
}

struct Worker {
    machine: Machine,
    shown: Arc<Shown>,
    directory: Arc<Mutex<DataDir>>,
    audience: Audience,
    compactor: CompactionThread,
}

impl Worker {
    fn run(mut self, inbox: &std_mpsc::Receiver<Job>) {
        while let Ok(job) = inbox.recv() {
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
    }

    fn apply(&mut self, entries: &[Entry]) -> io::Result<()> {
        let Some(last) = entries.last() else {
            return Ok(());
        };
        let memberships = entries
            .iter()
            .map(|entry| match &entry.payload {
                EntryPayload::Membership(membership) => types::encode_membership(membership),
                _ => bytes::Bytes::new(),
            })
            .collect::<Vec<_>>();
        let refs: Vec<EntryRef<'_>> = entries
            .iter()
            .zip(&memberships)
            .map(|(entry, membership)| EntryRef {
                index: entry.log_id.index,
                term: entry.log_id.leader_id.term,
                leader: 0,
                body: match &entry.payload {
                    EntryPayload::Blank => EntryBody::Blank,
                    EntryPayload::Normal(data) => EntryBody::Command(&data.0),
                    EntryPayload::Membership(_) => EntryBody::Membership(membership),
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
        audience.applied.send_replace(last.log_id.index);
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
            .publish(staged, Some(&superseded))
            .map_err(io::Error::other)?;
        self.machine =
            Machine::recover(store, self.audience.member_id).map_err(io::Error::other)?;
        self.compactor = CompactionThread::start(&self.machine, self.shown.clone())?;
        let audience = &self.audience;
        let view = self.machine.view();
        audience.keyring.follow(&view.key_table);
        audience.view.store(view.clone());
        // A member that installs a snapshot follows a leader: its own clocks stand still.
        audience.lessor.lock().demote();
        audience.hub.reset(view.clone());
        audience.applied.send_replace(view.applied_index);
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
async fn current(jobs: &std_mpsc::Sender<Job>) -> io::Result<Option<Snapshot>> {
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
    jobs: std_mpsc::Sender<Job>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotContent;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let snapshot = current(&self.jobs)
            .await?
            .ok_or_else(|| io::Error::other("nothing has been applied yet"))?;
        let store = ask(&self.jobs, Job::Store).await?;
        tokio::task::spawn_blocking(move || store.persist())
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        Ok(snapshot)
    }
}

/// Keys whose history is looked at in one slice.
const SLICE_KEYS_MAX: usize = 1_000;
/// Between slices, so that foreground work comes first (etcd: 10 ms).
const SLICE_PAUSE: Duration = Duration::from_millis(10);

/// Frees what is logically compacted, in slices, on a thread of its own. Ends with its handle.
struct CompactionThread {
    wake: std_mpsc::Sender<()>,
}

impl CompactionThread {
    /// The first pass starts at once: one may have been cut short by the last stop.
    fn start(machine: &Machine, shown: Arc<Shown>) -> io::Result<Self> {
        let mut compactor = machine.compactor();
        let (wake, woken) = std_mpsc::channel();
        std::thread::Builder::new()
            .name("compaction".into())
            .spawn(move || {
                loop {
                    match compactor.slice(SLICE_KEYS_MAX) {
                        Ok(Progress::Working { .. }) => std::thread::sleep(SLICE_PAUSE),
                        Ok(Progress::Finished { compact_revision }) => {
                            shown
                                .freed_through
                                .store(compact_revision, Ordering::Release);
                            if woken.recv().is_err() {
                                return;
                            }
                        }
                        Err(error) => {
                            tracing::error!(%error, "compaction stopped");
                            return;
                        }
                    }
                }
            })?;
        Ok(Self { wake })
    }

    fn wake(&self) {
        // A thread that has ended said why.
        let _ = self.wake.send(());
    }
}
