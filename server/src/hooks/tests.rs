//! Delivery over a single state machine: answers lost, proposals lost, plugins that fail.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use keys::{Keyring, ProviderKind, SlotHolder, SlotKeyPair};
use parking_lot::Mutex;
use plugins::{Batch, Call, CallError, Effects, EventType, Op, Usage};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::board::{Board, Doing};
use super::delivery::{Delivery, Guest, Parts};
use super::gather::{Gathered, Gatherer, Next, after, contents_of};
use super::leader::Leader;
use super::meters::Meters;
use crate::apply::fixture::{Bench, MEMBER, TERM, bytes};
use crate::command::{
    Body, ChangeKeys, CommitPlugin, Compact, DeployPlugin, NotApplied, PluginChunk, PluginSpec,
    Position, Put, Reply, ReplyOf, SetPluginState,
};
use crate::mvcc::read;
use crate::mvcc::read_view::ReadView;
use crate::replica::{Applied, Pending, ProposeError, ReadIndexError};
use crate::seal::Sealer;
use crate::tables::plugins::Plugin;

/// What happens to one proposal.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    AnswerLost,
    ProposalLost,
    /// The network delivers it twice, and the first answer never comes.
    AppliedTwice,
}

struct World {
    bench: Mutex<Bench>,
    view: ArcSwap<ReadView>,
    applied: watch::Sender<u64>,
    sealer: Sealer,
    mishaps: Mutex<VecDeque<Mishap>>,
}

impl World {
    /// With the plugin `index` over `/services/`, and a keyring that opens.
    fn new(spec: PluginSpec) -> Arc<World> {
        let mut bench = Bench::unborn();
        let slot = SlotKeyPair::generate();
        let holder = SlotHolder {
            member_id: MEMBER,
            provider: ProviderKind::File,
            public_key: slot.public(),
        };
        let birth = Keyring::birth(&[holder]).unwrap();
        bench.run(ChangeKeys(keys::KeyChange::Init(birth))).unwrap();
        let sealer = Sealer::new();
        let table = bench.view().key_table;
        sealer.install(Keyring::open_table(&table, Arc::new(slot)).unwrap());
        let chunk = PluginChunk {
            sha256: spec.sha256,
            index: 0,
            data: Bytes::from_static(b"abc"),
        };
        bench.run(chunk).unwrap();
        let world = World {
            view: ArcSwap::new(Arc::new(bench.view())),
            bench: Mutex::new(bench),
            applied: watch::Sender::new(0),
            sealer,
            mishaps: Mutex::default(),
        };
        let world = Arc::new(world);
        world.run(DeployPlugin { spec });
        world
    }

    fn run<B: Into<Body> + ReplyOf>(&self, body: B) -> B::Reply {
        let reply = self.bench.lock().run(body);
        self.publish();
        match reply {
            Ok(reply) => reply,
            Err(error) => panic!("{error}"),
        }
    }

    fn publish(&self) {
        let view = Arc::new(self.bench.lock().view());
        self.view.store(view);
        self.applied.send_modify(|applied| *applied += 1);
    }

    fn put(&self, key: &str, value: &str) -> i64 {
        let view = self.view.load_full();
        let sealed_value = self.sealer.seal(&view, key.as_bytes(), value.as_bytes());
        self.run(Put {
            key: bytes(key),
            sealed_value: sealed_value.unwrap(),
            ..Put::default()
        })
        .revision
    }

    fn plugin(&self) -> Arc<Plugin> {
        let view = self.view.load_full();
        Arc::clone(view.plugins.get("index").unwrap())
    }

    fn version(&self, key: &str) -> Option<i64> {
        let found = read::get(&self.view.load_full(), key.as_bytes(), 0).unwrap();
        found.map(|record| record.version)
    }

    fn gather(&self, position: &Position, events_max: usize) -> Next {
        let view = self.view.load_full();
        let plugin = self.plugin();
        let gatherer = Gatherer {
            view: &view,
            sealer: &self.sealer,
            plugin: &plugin,
            events_max,
        };
        gatherer.next(position).unwrap()
    }

    fn batch(&self, position: &Position, events_max: usize) -> Gathered {
        match self.gather(position, events_max) {
            Next::Batch(batch) => batch,
            next => panic!("{next:?}"),
        }
    }

    fn mishap(&self, mishap: Mishap) {
        self.mishaps.lock().push_back(mishap);
    }

    fn apply(&self, body: Body) -> Reply {
        fn untyped<T>(typed: Result<T, NotApplied>, reply: impl FnOnce(T) -> Reply) -> Reply {
            match typed {
                Ok(done) => reply(done),
                Err(NotApplied::NoEffect(reason)) => Reply::NoEffect(reason),
                Err(NotApplied::Refused(refusal)) => Reply::Refused(refusal),
                Err(NotApplied::AnotherCommand) => panic!("the bench answers its own command"),
            }
        }
        let mut bench = self.bench.lock();
        match body {
            Body::CommitPlugin(body) => {
                untyped::<<CommitPlugin as ReplyOf>::Reply>(bench.run(body), Reply::CommitPlugin)
            }
            Body::SetPluginState(body) => untyped::<<SetPluginState as ReplyOf>::Reply>(
                bench.run(body),
                Reply::SetPluginState,
            ),
            other => panic!("delivery proposes no {}", other.name()),
        }
    }
}

/// One leader for ever, in the bench's term.
struct OnlyMember(Arc<World>);

impl Leader for OnlyMember {
    fn view(&self) -> Arc<ReadView> {
        self.0.view.load_full()
    }

    fn applied(&self) -> watch::Receiver<u64> {
        self.0.applied.subscribe()
    }

    fn leads_in(&self, term: u64) -> bool {
        term == TERM
    }

    fn propose(&self, body: Body) -> Pending<'_, Result<Applied, ProposeError>> {
        Box::pin(async move {
            let mishap = self.0.mishaps.lock().pop_front();
            if matches!(mishap, Some(Mishap::ProposalLost)) {
                return Err(ProposeError::LeaderChanged);
            }
            if matches!(mishap, Some(Mishap::AppliedTwice)) {
                self.0.apply(body.clone());
            }
            let reply = self.0.apply(body);
            self.0.publish();
            match mishap {
                Some(Mishap::AnswerLost) => Err(ProposeError::Timeout),
                _ => Ok(Applied {
                    reply,
                    view: self.0.view.load_full(),
                }),
            }
        })
    }

    fn read_barrier(&self) -> Pending<'_, Result<(), ReadIndexError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Copies every put below `/index/`; what it is told is kept. `reject` in a value is refused.
#[derive(Default)]
struct Copier {
    batches: Mutex<Vec<Batch>>,
    breaks_down: bool,
    idle: bool,
}

impl Copier {
    fn told(&self) -> Vec<String> {
        let batches = self.batches.lock();
        let events = batches.iter().flat_map(|batch| batch.events.clone());
        events.map(|event| text(&event.kv.key)).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

impl Guest for Copier {
    fn on_events(&self, batch: Batch) -> Pending<'_, Call<Effects>> {
        self.batches.lock().push(batch.clone());
        let puts = batch
            .events
            .iter()
            .filter(|event| event.event_type == EventType::Put);
        let rejected = puts
            .clone()
            .any(|event| event.kv.value.as_deref() == Some(b"reject"));
        let result = if self.breaks_down {
            Err(CallError::Stack)
        } else if rejected {
            Err(CallError::Reject {
                message: "no registration".into(),
            })
        } else if self.idle {
            Ok(Effects::default())
        } else {
            let ops = puts.map(|event| Op::Put {
                key: [b"/index", &event.kv.key[..]].concat(),
                value: event.kv.value.clone().unwrap(),
                lease: 0,
            });
            Ok(Effects { ops: ops.collect() })
        };
        Box::pin(async move {
            Call {
                result,
                usage: Usage::default(),
            }
        })
    }
}

fn spec() -> PluginSpec {
    PluginSpec {
        name: "index".into(),
        watch_prefixes: vec![bytes("/services/")],
        write_prefixes: vec![bytes("/index/")],
        sha256: [4; 32],
        component_bytes: 3,
        chunks: 1,
        prev_kv: true,
        ..PluginSpec::default()
    }
}

struct Running {
    task: JoinHandle<()>,
    stop: CancellationToken,
    board: Board,
}

impl Running {
    fn start(world: &Arc<World>, guest: &Arc<Copier>) -> Self {
        let (stop, board) = (CancellationToken::new(), Board::default());
        let parts = Parts {
            leader: Arc::new(OnlyMember(Arc::clone(world))),
            guest: Arc::clone(guest) as Arc<dyn Guest>,
            sealer: world.sealer.clone(),
            board: board.clone(),
            meters: Meters::of("index"),
            quota_bytes: None,
            term: TERM,
            stop: stop.clone(),
        };
        let task = tokio::spawn(Delivery::new(parts, &world.plugin()).run());
        Running { task, stop, board }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Waits for an applied state in which something holds.
async fn until(world: &World, holds: impl Fn(&World) -> bool) {
    let mut applied = world.applied.subscribe();
    let waiting = async {
        while !holds(world) {
            applied.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .expect("it comes to hold");
}

#[tokio::test]
async fn effects_commit_with_the_cursor() {
    let world = World::new(spec());
    let guest = Arc::new(Copier::default());
    let running = Running::start(&world, &guest);
    let last = world.put("/services/a", "1");
    world.put("/elsewhere", "1");
    until(&world, |world| world.version("/index/services/a").is_some()).await;
    assert!(world.plugin().cursor >= after(last));
    running.stop().await;
    assert_eq!(guest.told(), ["/services/a"], "its own write is not told");
    assert_eq!(world.version("/index/services/a"), Some(1));
}

#[tokio::test]
async fn a_batch_happens_once_whatever_becomes_of_its_proposal() {
    for mishap in [
        Mishap::AnswerLost,
        Mishap::ProposalLost,
        Mishap::AppliedTwice,
    ] {
        let world = World::new(spec());
        world.mishap(mishap);
        let guest = Arc::new(Copier::default());
        let running = Running::start(&world, &guest);
        world.put("/services/a", "1");
        until(&world, |world| world.version("/index/services/a").is_some()).await;
        world.put("/services/b", "1");
        until(&world, |world| world.version("/index/services/b").is_some()).await;
        running.stop().await;
        for key in ["/index/services/a", "/index/services/b"] {
            assert_eq!(world.version(key), Some(1), "{mishap:?}");
        }
        assert_eq!(world.plugin().effects_committed, 2, "{mishap:?}");
    }
}

#[tokio::test]
async fn a_rejected_change_is_set_aside_and_the_others_are_not() {
    let world = World::new(spec());
    for number in 0..20 {
        let value = if number == 13 { "reject" } else { "fine" };
        world.put(&format!("/services/{number:02}"), value);
    }
    let guest = Arc::new(Copier::default());
    let running = Running::start(&world, &guest);
    until(&world, |world| world.plugin().effects_committed == 19).await;
    running.stop().await;
    let view = world.view.load_full();
    let letters = crate::apply::dead_letters(&view, &world.plugin()).unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].key, "/services/13");
    assert_eq!(letters[0].error, "rejected: no registration");
    assert_eq!(world.version("/index/services/13"), None);
}

#[tokio::test]
async fn the_end_of_a_snapshot_is_told_even_if_its_last_record_is_set_aside() {
    let world = World::new(PluginSpec {
        start_at_snapshot: true,
        ..spec()
    });
    let guest = Arc::new(Copier::default());
    // Contents of a later revision, as after a compaction.
    world.put("/services/a", "reject");
    let revision = world.view.load().revision;
    let from = world.plugin().cursor.clone();
    world.run(CommitPlugin {
        name: "index".into(),
        generation: 1,
        term: TERM,
        from,
        to: contents_of(revision),
        effects: vec![],
        dead_letters: vec![],
        hops: 0,
    });
    let running = Running::start(&world, &guest);
    until(&world, |world| world.plugin().dead_letters == 1).await;
    let told_end = |world: &World| world.plugin().cursor >= after(revision);
    world.put("/services/b", "fine");
    until(&world, |world| {
        told_end(world) && world.plugin().effects_committed == 1
    })
    .await;
    running.stop().await;
    let batches = guest.batches.lock();
    let last_page = batches
        .iter()
        .find(|it| it.is_final && it.events.is_empty());
    assert!(last_page.is_some(), "{batches:?}");
}

#[tokio::test]
async fn a_batch_without_effects_moves_the_cursor_without_an_entry_of_its_own() {
    let world = World::new(spec());
    let guest = Arc::new(Copier {
        idle: true,
        ..Copier::default()
    });
    let running = Running::start(&world, &guest);
    let before = world.plugin().cursor.clone();
    let last = world.put("/services/a", "1");
    let told = async {
        while guest.told().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    told.await;
    assert!(world.plugin().cursor == before || world.plugin().cursor == after(last));
    running.stop().await;
    assert_eq!(world.plugin().cursor, after(last));
}

#[tokio::test]
async fn a_plugin_that_breaks_down_is_seen_in_back_off() {
    let world = World::new(spec());
    world.put("/services/a", "1");
    let guest = Arc::new(Copier {
        breaks_down: true,
        ..Copier::default()
    });
    let running = Running::start(&world, &guest);
    let board = running.board.clone();
    let shown = async {
        loop {
            match board.get("index") {
                Some(shown) if shown.doing == Doing::Backoff => return shown,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    assert_eq!(shown.await.error, "stack overflow");
    running.stop().await;
    assert_eq!(world.plugin().effects_committed, 0);
}

#[test]
fn a_revision_larger_than_a_batch_comes_in_parts() {
    let world = World::new(spec());
    for key in ["/services/a", "/services/b", "/services/c"] {
        world.put(key, "1");
    }
    let before = after(world.view.load().revision);
    let deleted = world.run(crate::command::DeleteRange {
        range: crate::mvcc::key_range::KeyRange::prefix(bytes("/services/")),
        prev: false,
    });
    let first = world.batch(&before, 2);
    assert_eq!((first.events.len(), first.is_final), (2, false));
    let part = Position::Changes {
        revision: deleted.revision,
        sub: 1,
    };
    assert_eq!(first.to, part);
    let prev = first.events[0].prev_kv.as_ref().unwrap();
    assert_eq!(prev.value.as_deref(), Some(&b"1"[..]));
    let rest = world.batch(&part, 2);
    assert_eq!((rest.events.len(), rest.is_final), (1, true));
    assert_eq!(rest.to, after(deleted.revision));
}

#[test]
fn several_prefixes_come_in_the_order_of_revisions() {
    let world = World::new(PluginSpec {
        watch_prefixes: vec![bytes("/b/"), bytes("/a/")],
        ..spec()
    });
    let start = world.plugin().cursor.clone();
    for key in ["/a/1", "/b/1", "/c/1", "/a/2", "/b/2"] {
        world.put(key, "1");
    }
    let mut position = start;
    let mut told = Vec::new();
    for _ in 0..2 {
        let batch = world.batch(&position, 2);
        told.extend(batch.events.iter().map(|event| text(&event.kv.key)));
        position = batch.to;
    }
    assert_eq!(told, ["/a/1", "/b/1", "/a/2", "/b/2"]);
    assert!(matches!(world.gather(&position, 2), Next::Nothing(_)));
}

#[test]
fn contents_come_in_pages_and_then_the_changes() {
    let world = World::new(PluginSpec {
        watch_prefixes: vec![bytes("/b/"), bytes("/a/")],
        ..spec()
    });
    for key in ["/a/1", "/a/2", "/b/1", "/b0"] {
        world.put(key, "1");
    }
    let revision = world.view.load().revision;
    world.put("/a/later", "1");
    let first = world.batch(&contents_of(revision), 2);
    assert_eq!((first.events.len(), first.is_final), (2, false));
    let last = world.batch(&first.to, 2);
    assert_eq!(text(&last.events[0].kv.key), "/b/1");
    assert_eq!((last.events.len(), last.is_final), (1, true));
    assert_eq!(last.to, after(revision));
    let changes = world.batch(&last.to, 2);
    assert_eq!(text(&changes.events[0].kv.key), "/a/later");
}

#[test]
fn what_a_compaction_has_taken_is_said() {
    let world = World::new(spec());
    let start = world.plugin().cursor.clone();
    world.put("/services/a", "1");
    let last = world.put("/services/a", "2");
    let contents = contents_of(last - 1);
    world.run(Compact { revision: last });
    assert!(matches!(world.gather(&start, 2), Next::Overtaken));
    assert!(matches!(world.gather(&contents, 2), Next::Overtaken));
    let still_there = world.batch(&contents_of(last), 2);
    assert_eq!(still_there.events.len(), 1);
}

#[test]
fn a_chain_of_plugins_ends() {
    let world = World::new(spec());
    let start = world.plugin().cursor.clone();
    let other = PluginSpec {
        name: "other".into(),
        ..spec()
    };
    world.run(DeployPlugin { spec: other });
    let sealed = |value: &[u8]| {
        let view = world.view.load_full();
        world.sealer.seal(&view, b"/services/a", value).unwrap()
    };
    let mut from = world
        .view
        .load()
        .plugins
        .get("other")
        .unwrap()
        .cursor
        .clone();
    for (number, hops) in [7_u8, 8].into_iter().enumerate() {
        let to = after(from.revision() + 1);
        world.run(CommitPlugin {
            name: "other".into(),
            generation: 1,
            term: TERM,
            from,
            to: to.clone(),
            effects: vec![crate::command::EffectOp::Put(Put {
                key: bytes("/services/a"),
                sealed_value: sealed(number.to_string().as_bytes()),
                ..Put::default()
            })],
            dead_letters: vec![],
            hops,
        });
        from = to;
    }
    let batch = world.batch(&start, 8);
    assert_eq!((batch.events.len(), batch.hops), (1, 7));
    let cause = plugins::Cause::Plugin("other".into());
    assert_eq!(batch.events[0].cause, cause);
}
