//! One plugin's loop: gather, call, commit.
//!
//! Promise: at most one proposal of this plugin is under way, and whatever is not known of one is
//! read back from the applied state before anything else is done. A batch whose entry may have
//! been committed is never committed again: the entry names the position it starts from.
//! Not known here: raft, WebAssembly, other plugins.

use std::sync::Arc;
use std::time::Duration;

use plugins::limits::{BATCH_LINGER, MESSAGE_BYTES_MAX};
use plugins::{Batch, Call, CallError, Effects, Op};
use rand::Rng as _;
use tokio_util::sync::CancellationToken;

use super::board::{Board, Doing};
use super::failures::{Failures, Verdict};
use super::gather::{GatherError, Gathered, Gatherer, Next, Place, contents_of};
use super::leader::Leader;
use super::meters::Meters;
use crate::apply::quota_cost;
use crate::clock;
use crate::command::{
    Body, CommitPlugin, DeadLetter, DeleteRange, EffectOp, NoEffect, NotApplied, PluginState,
    Position, Put, Refusal, ReplyOf, SetPluginState,
};
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read_view::ReadView;
use crate::replica::{Pending, ProposeError};
use crate::seal::{Sealer, SealerError};
use crate::tables::plugins::Plugin;

/// A cursor that moved without effects is committed after so long, or so many revisions.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
const COMMIT_REVISIONS: i64 = 1_000;
/// Times that effects are sealed anew because their prefix got another key meanwhile.
const SEALINGS_MAX: usize = 8;
/// Between attempts to find out what became of a proposal.
const SETTLE_RETRY: Duration = Duration::from_millis(100);

/// Where a batch goes.
pub(super) trait Guest: Send + Sync + 'static {
    fn on_events(&self, batch: Batch) -> Pending<'_, Call<Effects>>;
}

/// Why there are no effects in the log, without fault of the plugin.
#[derive(Debug, thiserror::Error)]
enum Hindered {
    #[error(transparent)]
    Gather(#[from] GatherError),
    #[error(transparent)]
    Sealer(#[from] SealerError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error("the keys of the plugin's writes keep changing")]
    KeysChange,
    #[error("a compaction is under way")]
    Compaction,
    #[error("reading the store failed")]
    Panicked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Again,
    /// This delivery is over: stopped, deposed, or not running any more.
    End,
}

/// What delivery is made of.
pub(super) struct Parts {
    pub(super) leader: Arc<dyn Leader>,
    pub(super) guest: Arc<dyn Guest>,
    pub(super) sealer: Sealer,
    pub(super) board: Board,
    pub(super) meters: Meters,
    pub(super) quota_bytes: Option<u64>,
    pub(super) term: u64,
    pub(super) stop: CancellationToken,
}

pub(super) struct Delivery {
    parts: Parts,
    name: String,
    generation: u64,
    /// As replicated.
    cursor: Position,
    /// Ahead of the cursor by batches that came to nothing.
    position: Position,
    /// When the cursor was committed last, by the clock that never jumps.
    committed_at: Duration,
    /// The last look at history went to its end.
    caught_up: bool,
    failures: Failures,
}

impl Delivery {
    pub(super) fn new(parts: Parts, plugin: &Plugin) -> Self {
        Delivery {
            parts,
            name: plugin.spec.name.clone(),
            generation: plugin.generation,
            cursor: plugin.cursor.clone(),
            position: plugin.cursor.clone(),
            committed_at: clock::monotonic(),
            caught_up: false,
            failures: Failures::default(),
        }
    }

    /// Ends when it is told to stop, when this member is deposed, or when the plugin is paused,
    /// replaced or gone.
    pub(super) async fn run(mut self) {
        while self.turn().await == Turn::Again {}
        if self.parts.stop.is_cancelled() {
            self.commit_position().await;
        }
    }

    async fn turn(&mut self) -> Turn {
        if self.parts.stop.is_cancelled() || !self.parts.leader.leads_in(self.parts.term) {
            return Turn::End;
        }
        if self.caught_up && self.wait_for_news().await == Turn::End {
            return Turn::End;
        }
        let view = self.parts.leader.view();
        let Some(plugin) = self.own(&view) else {
            return Turn::End;
        };
        if plugin.cursor != self.cursor {
            // A proposal whose fate was unknown.
            self.cursor = plugin.cursor.clone();
            self.position = plugin.cursor.clone();
            self.failures.start_afresh();
        }
        let next = self.gather(&view, plugin).await;
        match next {
            Err(hindered) => self.hindered(&hindered).await,
            Ok(Next::Nothing(position)) => {
                self.position = position;
                self.caught_up = self.position.revision() >= view.revision;
                self.batch_done(0).await
            }
            Ok(Next::Overtaken) => self.begin_with_contents(view.revision).await,
            Ok(Next::Batch(batch)) => {
                self.caught_up = batch.to.revision() >= view.revision
                    && matches!(batch.to, Position::Changes { sub: u32::MAX, .. });
                self.deliver(batch).await
            }
        }
    }

    /// The plugin, if it is still the one that runs here.
    fn own(&self, view: &ReadView) -> Option<Arc<Plugin>> {
        let plugin = view.plugins.get(&self.name)?;
        let is_own = plugin.generation == self.generation && plugin.state == PluginState::Running;
        is_own.then(|| Arc::clone(plugin))
    }

    async fn gather(&self, view: &Arc<ReadView>, plugin: Arc<Plugin>) -> Result<Next, Hindered> {
        let (view, sealer) = (Arc::clone(view), self.parts.sealer.clone());
        let (position, events_max) = (self.position.clone(), self.failures.events_max());
        let gathered = tokio::task::spawn_blocking(move || {
            let gatherer = Gatherer {
                view: &view,
                sealer: &sealer,
                plugin: &plugin,
                events_max,
            };
            gatherer.next(&position)
        });
        Ok(gathered.await.map_err(|_| Hindered::Panicked)??)
    }

    /// Waits for a revision that was not there yet, and a little longer for more of them. Commits
    /// the position when it is time.
    async fn wait_for_news(&mut self) -> Turn {
        let mut applied = self.parts.leader.applied();
        let stop = self.parts.stop.clone();
        loop {
            // Seen before the view is looked at: what comes after it wakes again.
            applied.borrow_and_update();
            let view = self.parts.leader.view();
            self.meter_lag(&view);
            if view.revision > self.position.revision() {
                break;
            }
            if self.own(&view).is_none() || !self.parts.leader.leads_in(self.parts.term) {
                return Turn::End;
            }
            let commit_due = async {
                if self.position == self.cursor {
                    return std::future::pending().await;
                }
                let waited = clock::monotonic().saturating_sub(self.committed_at);
                tokio::time::sleep(COMMIT_EVERY.saturating_sub(waited)).await;
            };
            let is_due = tokio::select! {
                () = stop.cancelled() => return Turn::End,
                () = commit_due => true,
                changed = applied.changed() => {
                    if changed.is_err() {
                        return Turn::End;
                    }
                    false
                }
            };
            if is_due && self.commit_position().await == Turn::End {
                return Turn::End;
            }
        }
        self.pause(BATCH_LINGER).await
    }

    async fn pause(&self, duration: Duration) -> Turn {
        tokio::select! {
            () = self.parts.stop.cancelled() => Turn::End,
            () = tokio::time::sleep(duration) => Turn::Again,
        }
    }

    fn meter_lag(&self, view: &ReadView) {
        let lag = view.revision.saturating_sub(self.position.revision());
        self.parts.meters.lag(lag.max(0));
    }

    async fn deliver(&mut self, gathered: Gathered) -> Turn {
        let Gathered {
            events,
            places,
            to,
            told,
            is_final,
            hops,
        } = gathered;
        let batch = Batch {
            events,
            position: told,
            is_final,
            attempt: self.failures.next_attempt(),
        };
        let guest = Arc::clone(&self.parts.guest);
        let call = tokio::select! {
            () = self.parts.stop.cancelled() => return Turn::End,
            call = guest.on_events(batch) => call,
        };
        let Call { result, usage } = call;
        self.parts.meters.call(result.as_ref().map(|_| ()), usage);
        match result {
            Ok(effects) if effects.ops.is_empty() => {
                self.position = to;
                self.batch_done(places.len()).await
            }
            Ok(effects) => {
                let outcome = Outcome {
                    to,
                    ops: effects.ops,
                    letters: Vec::new(),
                    hops: hops.saturating_add(1),
                    events: places.len(),
                };
                self.commit(outcome).await
            }
            Err(error) => self.plugin_failed(&error, &places, to).await,
        }
    }

    /// Everything up to the position is done; the cursor follows when it is worth an entry.
    async fn batch_done(&mut self, events: usize) -> Turn {
        if events > 0 {
            self.failures.batch_done(events);
            self.show(Doing::Running, String::new());
        }
        let behind = self.position.revision() - self.cursor.revision();
        let waited = clock::monotonic().saturating_sub(self.committed_at);
        if behind >= COMMIT_REVISIONS || (self.position != self.cursor && waited >= COMMIT_EVERY) {
            return self.commit_position().await;
        }
        Turn::Again
    }

    async fn commit_position(&mut self) -> Turn {
        if self.position == self.cursor {
            return Turn::Again;
        }
        let to = self.position.clone();
        self.commit(Outcome::of_nothing(to)).await
    }

    /// History is gone: what the watched ranges hold now, and from there on the changes.
    async fn begin_with_contents(&mut self, revision: i64) -> Turn {
        let contents = contents_of(revision);
        if contents <= self.cursor {
            return self.hindered(&Hindered::Compaction).await;
        }
        tracing::info!(
            plugin = self.name,
            revision,
            "a compaction has overtaken the plugin: it is given the contents of its ranges"
        );
        self.commit(Outcome::of_nothing(contents)).await
    }

    async fn plugin_failed(&mut self, error: &CallError, places: &[Place], to: Position) -> Turn {
        self.caught_up = false;
        let verdict =
            self.failures
                .plugin_failed(error.disposition(), places.len(), clock::monotonic());
        tracing::warn!(
            plugin = self.name,
            reason = kind_of(error),
            events = places.len(),
            ?verdict,
            "a plugin did not take a batch"
        );
        match verdict {
            Verdict::Retry(wait) => {
                self.show(Doing::Backoff, error.to_string());
                self.pause(jittered(wait)).await
            }
            Verdict::Narrow => Turn::Again,
            Verdict::SetAside { attempts } => {
                let letter = dead_letter(error, places.first(), attempts, to.revision());
                self.commit(Outcome {
                    to: self.past(places.first(), to),
                    ops: Vec::new(),
                    letters: vec![letter],
                    hops: 0,
                    events: 0,
                })
                .await
            }
            Verdict::Suspend => self.suspend(error).await,
        }
    }

    /// Past the only change of a batch. That a snapshot is at its end still has to be told after
    /// its last record was set aside.
    fn past(&self, place: Option<&Place>, to: Position) -> Position {
        match (&self.position, place) {
            (Position::Snapshot { revision, .. }, Some(place)) => Position::Snapshot {
                revision: *revision,
                last_key: place.key.clone(),
            },
            _ => to,
        }
    }

    async fn suspend(&mut self, error: &CallError) -> Turn {
        let body = SetPluginState {
            name: self.name.clone(),
            generation: Some(self.generation),
            state: PluginState::Suspended,
            reason: format!("broke down ten times in ten minutes, last: {error}"),
        };
        match self.parts.leader.propose(body.into()).await {
            Ok(_) => Turn::Again,
            Err(_) => self.settle().await,
        }
    }

    /// The server's own trouble: the same again later, and nothing held against the plugin.
    async fn hindered(&mut self, why: &Hindered) -> Turn {
        self.caught_up = false;
        let wait = self.failures.wait_for_server();
        self.show(Doing::Backoff, why.to_string());
        tracing::warn!(plugin = self.name, error = %why, "a plugin waits for the server");
        self.pause(jittered(wait)).await
    }

    /// Has the outcome of a batch agreed on: cursor, effects and dead letters, or none of it.
    async fn commit(&mut self, outcome: Outcome) -> Turn {
        match self.try_commit(&outcome).await {
            Ok(Committed::Done { puts_dropped }) => {
                let (effects, letters) = (outcome.ops.len(), outcome.letters.len());
                let meters = &self.parts.meters;
                meters.committed(effects as u64, puts_dropped, letters as u64);
                self.position = outcome.to.clone();
                self.cursor = outcome.to;
                self.committed_at = clock::monotonic();
                if letters > 0 {
                    self.failures.start_afresh();
                } else if outcome.events > 0 {
                    self.failures.batch_done(outcome.events);
                }
                self.show(Doing::Running, String::new());
                Turn::Again
            }
            Ok(Committed::Unknown) => self.settle().await,
            Err(hindered) => self.hindered(&hindered).await,
        }
    }

    async fn try_commit(&self, outcome: &Outcome) -> Result<Committed, Hindered> {
        for _ in 0..SEALINGS_MAX {
            let generation = self.parts.sealer.generation();
            let view = self.parts.leader.view();
            let effects = match seal(&self.parts.sealer, &view, &outcome.ops) {
                Ok(effects) => effects,
                Err(error)
                    if error.is_key_absent() && self.parts.sealer.newer(generation).await =>
                {
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let body = Body::from(CommitPlugin {
                name: self.name.clone(),
                generation: self.generation,
                term: self.parts.term,
                from: self.cursor.clone(),
                to: outcome.to.clone(),
                effects,
                dead_letters: outcome.letters.clone(),
                hops: outcome.hops,
            });
            self.check_space(&view, &body)?;
            let applied = match self.parts.leader.propose(body).await {
                Ok(applied) => applied,
                Err(ProposeError::TooManyRequests) => {
                    return Err(ProposeError::TooManyRequests.into());
                }
                Err(_) => return Ok(Committed::Unknown),
            };
            match CommitPlugin::reply(applied.reply) {
                Ok(reply) => {
                    let puts_dropped = reply.puts_dropped;
                    return Ok(Committed::Done { puts_dropped });
                }
                // Under the key that the prefix has now.
                Err(NotApplied::NoEffect(NoEffect::KeyHeader)) => {}
                Err(NotApplied::Refused(refusal)) => return Err(refusal.into()),
                Err(NotApplied::NoEffect(_) | NotApplied::AnotherCommand) => {
                    return Ok(Committed::Unknown);
                }
            }
        }
        Err(Hindered::KeysChange)
    }

    /// As for clients: what would not fit is not proposed.
    fn check_space(&self, view: &ReadView, body: &Body) -> Result<(), Hindered> {
        let cost = quota_cost(body);
        match self.parts.quota_bytes {
            Some(quota) if cost > 0 && view.stored_bytes.saturating_add(cost) >= quota => {
                Err(Refusal::NoSpace.into())
            }
            _ => Ok(()),
        }
    }

    /// Returns once the view tells what became of the last proposal; the next turn looks.
    async fn settle(&mut self) -> Turn {
        self.caught_up = false;
        loop {
            if !self.parts.leader.leads_in(self.parts.term) {
                return Turn::End;
            }
            if self.parts.leader.read_barrier().await.is_ok() {
                return Turn::Again;
            }
            if self.pause(SETTLE_RETRY).await == Turn::End {
                return Turn::End;
            }
        }
    }

    fn show(&self, doing: Doing, error: String) {
        self.parts
            .board
            .show(&self.name, self.generation, doing, error);
    }
}

/// What a batch came to.
struct Outcome {
    to: Position,
    ops: Vec<Op>,
    letters: Vec<DeadLetter>,
    hops: u8,
    /// That worked.
    events: usize,
}

impl Outcome {
    fn of_nothing(to: Position) -> Self {
        Outcome {
            to,
            ops: Vec::new(),
            letters: Vec::new(),
            hops: 0,
            events: 0,
        }
    }
}

enum Committed {
    Done { puts_dropped: u64 },
    Unknown,
}

fn seal(sealer: &Sealer, view: &ReadView, ops: &[Op]) -> Result<Vec<EffectOp>, SealerError> {
    ops.iter()
        .map(|op| {
            Ok(match op {
                Op::Put { key, value, lease } => EffectOp::Put(Put {
                    sealed_value: sealer.seal(view, key, value)?,
                    key: key.clone().into(),
                    lease: *lease,
                    ignore_value: false,
                    ignore_lease: false,
                }),
                Op::DeleteRange { key, range_end } => EffectOp::DeleteRange(DeleteRange {
                    range: KeyRange::from_wire(key.clone().into(), range_end.clone().into()),
                    prev: false,
                }),
            })
        })
        .collect()
}

fn dead_letter(
    error: &CallError,
    place: Option<&Place>,
    attempts: u32,
    revision: i64,
) -> DeadLetter {
    let mut text = error.to_string();
    text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX));
    DeadLetter {
        revision: place.map_or(revision, |place| place.at.main),
        sub: place.map_or(0, |place| place.at.sub),
        key: place.map(|place| place.key.clone()).unwrap_or_default(),
        error: text,
        attempts,
        recorded_ms: clock::wall_ms(),
    }
}

/// For the log, which must not hold what a plugin says: it may say what it was given.
fn kind_of(error: &CallError) -> &'static str {
    match error {
        CallError::Retry { .. } => "it asks for the batch again",
        CallError::Reject { .. } => "it rejects the batch",
        CallError::Effects(_) => "its effects are refused",
        CallError::Deadline { .. } => "it gave no answer in time",
        CallError::Memory { .. } => "it needs more memory than it may have",
        CallError::Tables => "it needs larger tables than allowed",
        CallError::Stack => "its stack overflowed",
        CallError::HostCalls { .. } => "it called the host too often",
        CallError::Trap(_) => "it trapped",
        CallError::Exit { .. } => "it exited",
        CallError::Malformed(_) => "it broke the contract",
        CallError::Abandoned => "the call was abandoned",
    }
}

/// Up to a fifth longer or shorter: not everybody at once.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.8..1.2))
}
