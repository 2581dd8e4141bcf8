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
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::{Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::propose::Applied;
use super::snapshot::SnapshotContent;
use super::types::{self, Entry, EntryPayload, LogId, StoredMembership, TypeConfig};
use super::waiters::Waiters;
use super::wire::{self, SnapshotMeta};
use crate::apply::{EntryBody, EntryRef, Machine};
use crate::clock;
use crate::key_service::KeyringFollower;
use crate::lease::lessor::Lessor;
use crate::mvcc::read_view::ReadView;
use crate::storage::{DataDir, StagedState};
use crate::watch::Hub;

/// Entries applied as one storage batch.
const BATCH_ENTRIES_MAX: usize = 512;

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotContent>;

/// What an applied batch is told to.
pub struct Audience {
    pub member_id: u64,
    pub view: Arc<ArcSwap<ReadView>>,
    pub keyring: KeyringFollower,
    pub hub: Hub,
    pub waiters: Arc<Waiters>,
    pub lessor: Arc<Mutex<Lessor>>,
    /// The applied index, for those who wait for one.
    pub applied: watch::Sender<u64>,
}

enum Job {
    Apply(Vec<Entry>, oneshot::Sender<io::Result<()>>),
    State(oneshot::Sender<(Option<LogId>, StoredMembership, Arc<ReadView>)>),
    Install(Box<StagedState>, oneshot::Sender<io::Result<()>>),
    /// Start the leases' clocks, in step with what is applied; the extension is an election.
    Promote(Duration, oneshot::Sender<()>),
}

/// The apply thread's inbox.
#[derive(Clone)]
pub struct StateMachine {
    jobs: std_mpsc::Sender<Job>,
}

impl StateMachine {
    /// Starts the apply thread over this state.
    pub fn start(
        machine: Machine,
        directory: Arc<Mutex<DataDir>>,
        audience: Audience,
    ) -> io::Result<Self> {
        let (jobs, inbox) = std_mpsc::channel();
        let compactor = CompactionThread::start(&machine)?;
        let worker = Worker { machine, directory, audience, compactor };
        std::thread::Builder::new().name("apply".into()).spawn(move || worker.run(&inbox))?;
        Ok(Self { jobs })
    }

    pub(super) fn promoter(&self) -> Promoter {
        Promoter { jobs: self.jobs.clone() }
    }
}

/// Starts the leases' clocks of a new leader.
#[derive(Clone)]
pub(super) struct Promoter {
    jobs: std_mpsc::Sender<Job>,
}

impl Promoter {
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
        let Some(last) = entries.last() else { return Ok(()) };
        let memberships: Vec<bytes::Bytes> = entries
            .iter()
            .map(|entry| match &entry.payload {
                EntryPayload::Membership(membership) => {
                    types::encode_stored_membership(&StoredMembership::new(
                        Some(entry.log_id()),
                        membership.clone(),
                    ))
                }
                _ => bytes::Bytes::new(),
            })
            .collect();
        let refs: Vec<EntryRef<'_>> = entries
            .iter()
            .zip(&memberships)
            .map(|(entry, membership)| EntryRef {
                index: entry.log_id.index(),
                term: types::term_of(&entry.log_id),
                body: match &entry.payload {
                    EntryPayload::Blank => EntryBody::Blank,
                    EntryPayload::Normal(data) => EntryBody::Command(&data.0),
                    EntryPayload::Membership(_) => EntryBody::Membership(membership),
                },
            })
            .collect();
        let outcome = self.machine.apply(&refs).map_err(io::Error::other)?;
        let audience = &self.audience;
        if outcome.keys_changed {
            audience.keyring.follow(&outcome.view.key_table);
        }
        audience.view.store(outcome.view.clone());
        if !outcome.lease_changes.is_empty() {
            audience.lessor.lock().observe(&outcome.lease_changes, clock::monotonic());
        }
        if outcome.compacted {
            self.compactor.wake();
        }
        audience.hub.publish(&outcome.events, &outcome.view);
        audience.applied.send_replace(last.log_id.index());
        for (request, reply) in outcome.replies {
            let applied = Applied { reply, view: outcome.view.clone() };
            audience.waiters.resolve(request.seq, Ok(applied));
        }
        audience.waiters.applied_through(types::term_of(&last.log_id));
        Ok(())
    }

    fn state(&self) -> (Option<LogId>, StoredMembership, Arc<ReadView>) {
        let applied = self.machine.applied();
        // raft's first entry is a membership: before it nothing has been applied.
        let membership = types::decode_stored_membership(applied.membership.clone()).ok();
        let log_id = membership.as_ref().map(|_| wire::log_id_of(applied.term, applied.index));
        (log_id, membership.unwrap_or_default(), self.audience.view.load_full())
    }

    fn install(&mut self, staged: StagedState) -> io::Result<()> {
        let superseded = self.audience.view.load().store.clone();
        let store = self
            .directory
            .lock()
            .publish(staged, Some(self.machine.store()))
            .map_err(io::Error::other)?;
        drop(superseded);
        self.machine =
            Machine::recover(store, self.audience.member_id).map_err(io::Error::other)?;
        self.compactor = CompactionThread::start(&self.machine)?;
        let audience = &self.audience;
        let view = self.machine.view();
        audience.keyring.follow(&view.key_table);
        audience.view.store(view.clone());
        // A member that installs a snapshot follows a leader: its own clocks stand still.
        audience.lessor.lock().demote();
        audience.hub.reset(&view);
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
        Builder { jobs: self.jobs.clone() }
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
        meta: SnapshotMeta { last_log_id: Some(last), last_membership },
        snapshot: SnapshotContent::View(view),
    }))
}

/// Makes the applied state durable in the store, so that the log before it may be purged.
pub struct Builder {
    jobs: std_mpsc::Sender<Job>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotContent;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let snapshot = current(&self.jobs)
            .await?
            .ok_or_else(|| io::Error::other("nothing has been applied yet"))?;
        let SnapshotContent::View(view) = &snapshot.snapshot else {
            return Err(io::Error::other("a snapshot of this member's own state is a view"));
        };
        let store = view.store.clone();
        tokio::task::spawn_blocking(move || store.persist())
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        Ok(snapshot)
    }
}
