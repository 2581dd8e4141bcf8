//! Clients that watch: from the beginning, over crashes and from member to member, each resuming
//! where it was, and whether what they were told keeps etcd's guarantees.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;

use super::ledger::{Change, Ledger};
use super::world::World;
use crate::mvcc::event::{Cause, Kind};
use crate::mvcc::key_range::KeyRange;
use crate::raft::Consensus;
use crate::watch::{EventRef, Filters, Hub, Outbox, Parcel, Watcher};

/// Between looks of the hub's threads at what is to be done.
pub(super) const HUB_TURN_US: u64 = 3_000;
const WATCH: i64 = 7;

/// What a stream tells.
enum Told {
    /// Whole revisions, and up to where nothing else was to be told.
    Events(Vec<(i64, Change)>, i64),
    Progress(i64),
    Compacted(i64),
}

/// One watch of a client, over all its streams.
pub(super) struct Watch<'a> {
    world: &'a World,
    number: usize,
    rng: StdRng,
    /// All keys that begin so.
    prefix: String,
    /// The first revision of which it has not been told.
    next: i64,
    found: Found,
}

/// What a watch was told.
#[derive(Debug, Default)]
pub(super) struct Found {
    prefix: String,
    changes: Vec<(i64, Change)>,
    /// First and last revision of which everything was to be told.
    spans: Vec<(i64, i64)>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(world: &'a World, number: usize, rng: StdRng) -> Self {
        // The last two watch less than everything.
        let prefix = ["key-", "key-", "key-1", "key-3"][number % 4].to_owned();
        let found = Found {
            prefix: prefix.clone(),
            ..Found::default()
        };
        Self {
            world,
            number,
            rng,
            prefix,
            next: 1,
            found,
        }
    }

    fn note(&self, what: &str) {
        self.world.note(&format!("watch {}: {what}", self.number));
    }

    /// Until the world is at rest.
    pub(super) async fn run(mut self) {
        while !self.world.is_at_rest() {
            let pause = self.rng.random_range(1..100);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let Some((life, consensus)) = self.world.any_member(&mut self.rng) else {
                continue;
            };
            let Some(hub) = self.world.hub_of(&consensus) else {
                continue;
            };
            self.note(&format!("{:x} from {}", consensus.member_id(), self.next));
            let (outlet, inlet) = mpsc::unbounded_channel();
            let range = KeyRange::prefix(bytes::Bytes::copy_from_slice(self.prefix.as_bytes()));
            let stream = life.spawn(stream(consensus, hub, range, self.next, outlet));
            self.follow(inlet).await;
            stream.abort();
        }
        self.world.ledger().watched(self.found);
    }

    /// Takes what comes until the stream breaks, or the client has had enough of it.
    async fn follow(&mut self, mut inlet: mpsc::UnboundedReceiver<Told>) {
        let patience = Duration::from_millis(self.rng.random_range(100..4_000));
        let enough = tokio::time::Instant::now() + patience;
        while let Ok(Some(told)) = tokio::time::timeout_at(enough, inlet.recv()).await {
            match told {
                Told::Events(changes, upto) => self.events(changes, upto),
                // Everything below is told; nothing at or above it has been, or it would be next.
                Told::Progress(revision) => self.told_upto(revision),
                Told::Compacted(revision) => {
                    self.note(&format!("compacted {revision}"));
                    if revision <= self.next {
                        let next = self.next;
                        self.world
                            .violation(format!("{revision} is compacted, {next} was asked for"));
                    }
                    self.next = revision;
                    return;
                }
            }
            self.world.watch_stands_at(self.number, self.next);
        }
    }

    fn events(&mut self, changes: Vec<(i64, Change)>, upto: i64) {
        self.note(&format!("{} changes up to {upto}", changes.len()));
        let (first, last) = (self.next, changes.last().map_or(upto, |(at, _)| *at));
        let ordered = changes.windows(2).all(|pair| pair[0].0 <= pair[1].0);
        if !ordered || last > upto || changes.first().is_some_and(|(at, _)| *at < first) {
            let told = format!(
                "watch {}: {changes:?} up to {upto} after {first}",
                self.number
            );
            self.world.violation(told);
        }
        self.found.changes.extend(changes);
        self.told_upto(upto);
    }

    fn told_upto(&mut self, revision: i64) {
        if revision >= self.next {
            self.found.spans.push((self.next, revision));
            self.next = revision + 1;
        }
    }
}

/// One stream, in the life of the member that serves it.
async fn stream(
    consensus: Consensus,
    hub: Hub,
    range: KeyRange,
    start: i64,
    outlet: mpsc::UnboundedSender<Told>,
) {
    let outbox = hub.outbox();
    let view = consensus.view();
    let watcher = hub
        .watch(&view, &outbox, WATCH, range, Filters::default(), start)
        .expect("a few watchers fit");
    let _closes = Closes(hub.clone(), watcher.clone(), outbox.clone());
    loop {
        let ask = Duration::from_millis(300);
        let parcel = match tokio::time::timeout(ask, outbox.next()).await {
            Ok(Some(parcel)) => parcel,
            Ok(None) => return,
            Err(_) => {
                hub.progress(vec![watcher.clone()], WATCH, &outbox);
                continue;
            }
        };
        let told = match parcel {
            Parcel::Events {
                events, revision, ..
            } => match open(&consensus, &events) {
                Some(changes) => Told::Events(changes, revision),
                None => return,
            },
            Parcel::Progress { revision, .. } => Told::Progress(revision),
            Parcel::Compacted {
                compact_revision, ..
            } => Told::Compacted(compact_revision),
            Parcel::Failed { .. } => return,
        };
        if outlet.send(told).is_err() {
            return;
        }
    }
}

/// What a stream leaves when it ends.
struct Closes(Hub, std::sync::Arc<Watcher>, std::sync::Arc<Outbox>);

impl Drop for Closes {
    fn drop(&mut self) {
        self.0.remove(&self.1);
        self.2.close();
    }
}

/// None while the member cannot open values.
fn open(consensus: &Consensus, events: &[EventRef]) -> Option<Vec<(i64, Change)>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let change = |event: &EventRef| {
        let key = &event.event().record.key;
        let value = match event.event().kind {
            Kind::Delete => None,
            Kind::Put => Some(consensus.sealer().open(key, &event.event().value).ok()?),
        };
        let change = Change {
            key: text(key),
            value: value.map(|value| text(&value)),
            by_lease: event.event().cause == Cause::Lease,
        };
        Some((event.revision(), change))
    };
    events.iter().map(change).collect()
}

impl Found {
    pub(super) fn count(&self) -> usize {
        self.changes.len()
    }

    /// Exactly what happened in the spans, in its order.
    pub(super) fn check(&self, ledger: &Ledger, found: &mut Vec<String>) {
        let in_spans = |at: i64| {
            self.spans
                .iter()
                .any(|(from, to)| (*from..=*to).contains(&at))
        };
        let happened: Vec<_> = ledger
            .changes()
            .filter(|(at, change)| in_spans(*at) && change.key.starts_with(&self.prefix))
            .collect();
        let told: Vec<_> = self
            .changes
            .iter()
            .map(|(at, change)| (*at, change))
            .collect();
        if happened == told {
            return;
        }
        let differ = happened.iter().zip(&told).position(|(a, b)| a != b);
        let at = differ.unwrap_or(happened.len().min(told.len()));
        found.push(format!(
            "a watch of {} was told {:?} where {:?} happened, {} changes of {}",
            self.prefix,
            told.get(at),
            happened.get(at),
            told.len(),
            happened.len()
        ));
    }
}
