//! Which plugins run on this member: all that are running in the replicated state while it leads,
//! none otherwise.
//!
//! Promise: a delivery belongs to one generation and one term; when either is over, it is told to
//! stop, and what it has under way is void by the checks at apply. A stop commits the cursors.
//! Not known here: batches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::board::{Board, Doing, Shown};
use super::delivery::{Delivery, Parts};
use super::deployment::{Checked, DeployError, Upload};
use super::guest::{Component, Server};
use super::library::{self, Library, Unrunnable};
use super::meters::Meters;
use crate::access::{Internal, Permitted};
use crate::command::{PluginState, SetPluginState};
use crate::raft::{Consensus, Watched as _};
use crate::seal::Sealer;
use crate::tables::plugins::{Plugin, PluginTable};

/// How long a delivery may take to commit its cursor when it is told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// Before a delivery that ended by itself is looked at again.
const RESTART_AFTER: Duration = Duration::from_millis(100);
/// Before a component that could not be read or compiled here is tried again.
const COMPILE_RETRY: Duration = Duration::from_secs(5);

/// Cloning shares it.
#[derive(Clone)]
pub struct Hooks {
    inner: Arc<Inner>,
}

struct Inner {
    consensus: Consensus,
    sealer: Sealer,
    quota_bytes: Option<u64>,
    library: Library,
    board: Board,
    /// A delivery has ended by itself.
    ended: Notify,
    started: AtomicBool,
    stop: CancellationToken,
    stopped: CancellationToken,
}

/// What a delivery stands for: another one is needed as soon as any of it changes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Charge {
    /// A plugin that is deleted and deployed anew has another id.
    id: u32,
    generation: u64,
    term: u64,
}

struct Attended {
    charge: Charge,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Hooks {
    #[must_use]
    pub fn new(consensus: Consensus, sealer: Sealer, quota_bytes: Option<u64>) -> Self {
        Hooks {
            inner: Arc::new(Inner {
                consensus,
                sealer,
                quota_bytes,
                library: Library::default(),
                board: Board::default(),
                ended: Notify::new(),
                started: AtomicBool::new(false),
                stop: CancellationToken::new(),
                stopped: CancellationToken::new(),
            }),
        }
    }

    /// Compiles and checks an upload on this member.
    pub async fn check(&self, upload: Upload) -> Result<Checked, DeployError> {
        upload.check(&self.inner.library).await
    }

    /// What the plugin is doing here; none unless this member leads and it runs.
    #[must_use]
    pub fn shown(&self, plugin: &Plugin) -> Option<Shown> {
        let shown = self.inner.board.get(&plugin.spec.name);
        shown.filter(|shown| shown.generation == plugin.generation)
    }

    /// Attends to the plugins until [`Hooks::stop`].
    pub async fn run(self) {
        self.inner.started.store(true, Ordering::Release);
        let consensus = &self.inner.consensus;
        let mut leadership = consensus.watch_leadership();
        let mut applied = consensus.watch_applied();
        let mut attended: BTreeMap<String, Attended> = BTreeMap::new();
        let mut known: Option<(Arc<PluginTable>, Option<u64>)> = None;
        while !self.inner.stop.is_cancelled() {
            leadership.borrow_and_update();
            applied.borrow_and_update();
            let term = self.term();
            let plugins = Arc::clone(&consensus.view().plugins);
            let is_known = known
                .as_ref()
                .is_some_and(|(table, at)| Arc::ptr_eq(table, &plugins) && *at == term);
            if !is_known {
                self.attend(&mut attended, &plugins, term).await;
                known = Some((plugins, term));
            }
            tokio::select! {
                () = self.inner.stop.cancelled() => {}
                () = self.inner.ended.notified() => known = None,
                changed = leadership.changed() => if changed.is_err() { break },
                changed = applied.changed() => if changed.is_err() { break },
            }
        }
        for one in attended.values() {
            one.stop.cancel();
        }
        for (name, one) in attended {
            self.end(&name, one).await;
        }
        self.inner.stopped.cancel();
    }

    /// Ends every delivery and commits how far it has come.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        if !self.inner.started.load(Ordering::Acquire) {
            return;
        }
        // Whatever goes wrong, the end of the server does not wait for it.
        let _ = tokio::time::timeout(STOP_WITHIN * 2, self.inner.stopped.cancelled()).await;
    }

    /// The term in which this member leads and knows all that was committed before it.
    fn term(&self) -> Option<u64> {
        let consensus = &self.inner.consensus;
        let term = consensus.leadership().term;
        consensus.leads_with_applied_term().then_some(term)
    }

    /// Starts what should run and does not, ends what should not and does.
    async fn attend(
        &self,
        attended: &mut BTreeMap<String, Attended>,
        plugins: &PluginTable,
        term: Option<u64>,
    ) {
        let mut wanted: BTreeMap<&str, (&Arc<Plugin>, Charge)> = BTreeMap::new();
        if let Some(term) = term {
            let running = plugins
                .iter()
                .filter(|plugin| plugin.state == PluginState::Running);
            wanted.extend(running.map(|plugin| {
                let charge = Charge {
                    id: plugin.id,
                    generation: plugin.generation,
                    term,
                };
                (&plugin.spec.name[..], (plugin, charge))
            }));
        }
        let stays = |name: &str, one: &Attended| {
            let same = wanted.get(name).is_some_and(|(_, it)| *it == one.charge);
            same && !one.task.is_finished()
        };
        let over: Vec<String> = attended
            .iter()
            .filter(|(name, one)| !stays(name, one))
            .map(|(name, _)| name.clone())
            .collect();
        for name in over {
            if let Some(one) = attended.remove(&name) {
                one.stop.cancel();
                self.end(&name, one).await;
            }
        }
        for (name, (plugin, charge)) in wanted {
            if !attended.contains_key(name) {
                attended.insert(name.to_owned(), self.start(Arc::clone(plugin), charge));
            }
        }
        self.inner
            .library
            .keep_deployed(&self.inner.consensus.view());
    }

    async fn end(&self, name: &str, mut one: Attended) {
        if tokio::time::timeout(STOP_WITHIN, &mut one.task)
            .await
            .is_err()
        {
            one.task.abort();
        }
        self.inner.board.clear(name, one.charge.generation);
        Meters::of(name).end();
    }

    fn start(&self, plugin: Arc<Plugin>, charge: Charge) -> Attended {
        let stop = CancellationToken::new();
        let (hooks, stopping) = (self.clone(), stop.clone());
        let task = tokio::spawn(async move {
            hooks
                .clone()
                .deliver(plugin, charge, stopping.clone())
                .await;
            if !stopping.is_cancelled() {
                // Mostly the state has changed, and the runner hears of that too.
                tokio::time::sleep(RESTART_AFTER).await;
                hooks.inner.ended.notify_one();
            }
        });
        Attended { charge, stop, task }
    }

    async fn deliver(self, plugin: Arc<Plugin>, charge: Charge, stop: CancellationToken) {
        let ready = tokio::select! {
            () = stop.cancelled() => return,
            ready = self.ready(&plugin) => ready,
        };
        let Some(component) = ready else { return };
        let inner = &self.inner;
        let name = &plugin.spec.name;
        inner
            .board
            .show(name, plugin.generation, Doing::Running, String::new());
        tracing::info!(
            plugin = name,
            generation = plugin.generation,
            term = charge.term,
            "delivering changes to the plugin"
        );
        // The cursor may have moved while it was compiled.
        let view = inner.consensus.view();
        let Some(plugin) = view.plugins.get(name) else {
            return;
        };
        let parts = Parts {
            leader: Arc::new(inner.consensus.clone()),
            meters: component.server.meters.clone(),
            guest: Arc::new(component),
            sealer: inner.sealer.clone(),
            board: inner.board.clone(),
            quota_bytes: inner.quota_bytes,
            term: charge.term,
            stop,
        };
        if plugin.generation == charge.generation {
            Delivery::new(parts, plugin).run().await;
        }
    }

    /// Compiles the component; none if no member can run it.
    async fn ready(&self, plugin: &Plugin) -> Option<Component> {
        let (name, generation) = (&plugin.spec.name, plugin.generation);
        let board = &self.inner.board;
        loop {
            board.show(name, generation, Doing::Compiling, String::new());
            let error = match self.compiled(plugin).await {
                Ok(component) => return Some(component),
                Err(error) => error,
            };
            tracing::warn!(plugin = name, generation, %error, "the plugin cannot run here");
            if error.is_incompatible() && self.give_up(plugin, &error).await {
                return None;
            }
            board.show(name, generation, Doing::Backoff, error.to_string());
            tokio::time::sleep(COMPILE_RETRY).await;
        }
    }

    async fn compiled(&self, plugin: &Plugin) -> Result<Component, Unrunnable> {
        let inner = &self.inner;
        let view = inner.consensus.view();
        let compiled = inner.library.deployed(&view, &plugin.spec).await?;
        let manifest = library::manifest(&plugin.spec, &compiled)?;
        Ok(Component {
            plugin: plugins::Plugin::new(compiled, manifest),
            server: Arc::new(Server {
                replica: Arc::new(inner.consensus.clone()),
                sealer: inner.sealer.clone(),
                meters: Meters::of(&plugin.spec.name),
                runtime: Handle::current(),
            }),
        })
    }

    /// Says in the replicated state that this generation runs nowhere.
    async fn give_up(&self, plugin: &Plugin, error: &Unrunnable) -> bool {
        let change = SetPluginState {
            name: plugin.spec.name.clone(),
            generation: Some(plugin.generation),
            state: PluginState::Incompatible,
            reason: error.to_string(),
        };
        let permitted = Permitted::internal(Internal::PluginEffects, change.into());
        let proposed = self.inner.consensus.propose_at_leader(permitted).await;
        proposed.is_ok()
    }
}
