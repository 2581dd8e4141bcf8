//! The next batch of a plugin: what it watches, after where its cursor stands.
//!
//! Promise: in revision order, nothing skipped but what the plugin wrote itself and what has come
//! through too many plugins; a value that cannot be opened here is absent, never guessed.
//! Not known here: what the plugin makes of it, and where the cursor is kept. Reads storage: not
//! for an async thread.

use bytes::Bytes;
use plugins::limits::{BATCH_BYTES_MAX, HOPS_MAX};

use crate::command::{Position, RecordRef};
use crate::mvcc::event::{Event, Kind};
use crate::mvcc::history;
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::{ReadError, rows_in_key_order};
use crate::mvcc::read_view::ReadView;
use crate::mvcc::record::Cause;
use crate::mvcc::revision::Revision;
use crate::seal::{Sealer, SealerError};
use crate::tables::plugins::Plugin;

/// Revisions that are looked through in one go, whoever changed what in them.
const SCAN_REVISIONS: i64 = 4_096;

/// Where a reader that has everything up to and including a revision stands.
pub(super) fn after(revision: i64) -> Position {
    Position::Changes {
        revision,
        sub: u32::MAX,
    }
}

/// Before the contents as of a revision.
pub(super) fn contents_of(revision: i64) -> Position {
    Position::Snapshot {
        revision,
        last_key: Bytes::new(),
    }
}

/// What comes after a position.
#[derive(Debug)]
pub(super) enum Next {
    Batch(Gathered),
    /// Nothing for this plugin up to here.
    Nothing(Position),
    /// A compaction has taken what comes next: only the contents are left.
    Overtaken,
}

#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) events: Vec<plugins::Event>,
    /// Of each event.
    pub(super) places: Vec<Place>,
    /// Where the cursor stands once the batch is done.
    pub(super) to: Position,
    /// The same, as the plugin is told.
    pub(super) told: plugins::Position,
    pub(super) is_final: bool,
    /// The greatest number among the events.
    pub(super) hops: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: Revision,
    pub(super) key: Bytes,
}

/// Why there is no batch now. None of it is the plugin's fault.
#[derive(Debug, thiserror::Error)]
pub(super) enum GatherError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Sealer(#[from] SealerError),
}

impl From<crate::storage::StorageError> for GatherError {
    fn from(error: crate::storage::StorageError) -> Self {
        GatherError::Read(error.into())
    }
}

/// Reads for one plugin.
pub(super) struct Gatherer<'a> {
    pub(super) view: &'a ReadView,
    pub(super) sealer: &'a Sealer,
    pub(super) plugin: &'a Plugin,
    /// At least 1.
    pub(super) events_max: usize,
}

impl Gatherer<'_> {
    pub(super) fn next(&self, position: &Position) -> Result<Next, GatherError> {
        match position {
            Position::Changes { revision, sub } => self.changes(*revision, *sub),
            Position::Snapshot { revision, last_key } => self.page(*revision, last_key),
        }
    }

    fn changes(&self, revision: i64, sub: u32) -> Result<Next, GatherError> {
        let from = if sub == u32::MAX {
            revision.saturating_add(1)
        } else {
            revision
        };
        if from > self.view.revision {
            return Ok(Next::Nothing(Position::Changes { revision, sub }));
        }
        let to = self
            .view
            .revision
            .min(from.saturating_add(SCAN_REVISIONS - 1));
        let (events, end) = match self.history(from, to) {
            Ok(found) => found,
            Err(ReadError::Compacted) => return Ok(Next::Overtaken),
            Err(error) => return Err(error.into()),
        };
        let is_new = |event: &Event| {
            let at = event.record.at;
            at.main > revision || (sub != u32::MAX && at.sub > sub)
        };
        let mut waiting = events
            .into_iter()
            .filter(|event| is_new(event) && self.is_delivered(event))
            .peekable();
        let mut batch = Filling::default();
        while let Some(event) = waiting.peek() {
            let opened = self.open_event(event)?;
            if !batch.has_room(&opened, self.events_max) {
                break;
            }
            batch.push(place(&event.record), event.hops, opened);
            waiting.next();
        }
        let Some(last) = batch.places.last().map(|place| place.at) else {
            return Ok(Next::Nothing(after(end)));
        };
        let to = match waiting.peek() {
            None => after(end),
            Some(next) if next.record.at.main > last.main => after(last.main),
            Some(_) => Position::Changes {
                revision: last.main,
                sub: last.sub,
            },
        };
        let is_final = matches!(to, Position::Changes { sub: u32::MAX, .. });
        Ok(Next::Batch(batch.finish(to.clone(), &to, is_final)))
    }

    /// The changes of every watched prefix, in order, complete up to the revision that comes with
    /// them.
    fn history(&self, from: i64, to: i64) -> Result<(Vec<Event>, i64), ReadError> {
        let mut end = to;
        let mut events = Vec::new();
        for prefix in &self.plugin.spec.watch_prefixes {
            let range = KeyRange::prefix(prefix.clone());
            let part = history::events(self.view, from, end, &range, self.events_max + 1)?;
            end = end.min(part.next - 1);
            events.extend(part.revisions.iter().flat_map(|it| it.events.clone()));
        }
        events.retain(|event| event.record.at.main <= end);
        events.sort_unstable_by_key(|event| event.record.at);
        Ok((events, end))
    }

    /// A plugin is not told of its own writes; a chain of plugins ends somewhere.
    fn is_delivered(&self, event: &Event) -> bool {
        let own = Cause::Plugin { id: self.plugin.id };
        event.cause != own && event.hops < HOPS_MAX
    }

    fn open_event(&self, event: &Event) -> Result<plugins::Event, GatherError> {
        let (event_type, value) = match event.kind {
            Kind::Put => {
                let value = self.open(&event.record.key, &event.value)?;
                (plugins::EventType::Put, value)
            }
            Kind::Delete => (plugins::EventType::Delete, None),
        };
        let prev = event.prev.as_ref().filter(|_| self.plugin.spec.prev_kv);
        Ok(plugins::Event {
            event_type,
            kv: key_value(&event.record, value),
            prev_kv: prev.map(|prev| self.open_prev(prev)).transpose()?.flatten(),
            cause: self.cause(event.cause),
        })
    }

    /// What was there before; a compaction may have taken it since.
    fn open_prev(&self, prev: &RecordRef) -> Result<Option<plugins::KeyValue>, GatherError> {
        match self.view.store.value(prev.at)? {
            Some(sealed) => Ok(Some(key_value(prev, self.open(&prev.key, &sealed)?))),
            None if prev.at.main < self.view.compact_revision_now() => Ok(None),
            None => Err(ReadError::Corrupt(prev.at).into()),
        }
    }

    /// Absent if this server does not have the key: its prefix is sealed off or destroyed.
    fn open(&self, key: &[u8], sealed: &[u8]) -> Result<Option<Vec<u8>>, SealerError> {
        match self.sealer.open(key, sealed) {
            Ok(value) => Ok(Some(value.into())),
            Err(error) if error.is_key_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn cause(&self, cause: Cause) -> plugins::Cause {
        match cause {
            Cause::Client => plugins::Cause::Client,
            Cause::Lease => plugins::Cause::Lease,
            Cause::Snapshot => plugins::Cause::Snapshot,
            Cause::Plugin { id } => {
                let known = self.view.plugins.by_id(id);
                plugins::Cause::Plugin(known.map_or_else(
                    || format!("deleted-{id}"),
                    |plugin| plugin.spec.name.clone(),
                ))
            }
        }
    }

    /// The contents of the watched prefixes at a revision, after a key.
    fn page(&self, revision: i64, last_key: &Bytes) -> Result<Next, GatherError> {
        if revision > self.view.revision {
            return Err(ReadError::FutureRevision.into());
        }
        let page = self.read_page(revision, last_key);
        // Asked after the last row: what a compaction has taken must not look as if it never was.
        if revision < self.view.compact_revision_now() {
            return Ok(Next::Overtaken);
        }
        let (batch, is_last) = page?;
        let last_key = match batch.places.last() {
            Some(place) => place.key.clone(),
            None => last_key.clone(),
        };
        let told = Position::Snapshot { revision, last_key };
        let to = if is_last {
            after(revision)
        } else {
            told.clone()
        };
        Ok(Next::Batch(batch.finish(to, &told, is_last)))
    }

    fn read_page(&self, revision: i64, last_key: &[u8]) -> Result<(Filling, bool), GatherError> {
        let mut batch = Filling::default();
        for range in self.watched_after(last_key) {
            let wanted = self.events_max - batch.places.len() + 1;
            let rows = rows_in_key_order(
                &self.view.index,
                &self.view.store,
                &range,
                revision,
                Some(wanted),
            )?;
            for row in rows {
                let sealed = self.view.store.value(row.at)?;
                let sealed = sealed.ok_or(ReadError::Corrupt(row.at))?;
                let opened = plugins::Event {
                    event_type: plugins::EventType::Put,
                    kv: key_value(&row, self.open(&row.key, &sealed)?),
                    prev_kv: None,
                    cause: plugins::Cause::Snapshot,
                };
                if !batch.has_room(&opened, self.events_max) {
                    return Ok((batch, false));
                }
                batch.push(place(&row), 0, opened);
            }
        }
        Ok((batch, true))
    }

    /// The watched ranges in key order, cut to what comes after a key.
    fn watched_after(&self, last_key: &[u8]) -> Vec<KeyRange> {
        let mut prefixes = self.plugin.spec.watch_prefixes.clone();
        prefixes.sort_unstable();
        let ranges = prefixes.into_iter().map(KeyRange::prefix);
        if last_key.is_empty() {
            return ranges.collect();
        }
        let next = Bytes::from([last_key, &[0]].concat());
        ranges
            .map(|range| {
                let start = range.key().max(&next).clone();
                KeyRange::from_wire(start, range.range_end())
            })
            .filter(|range| !range.is_empty())
            .collect()
    }
}

/// A batch as it is filled.
#[derive(Default)]
struct Filling {
    events: Vec<plugins::Event>,
    places: Vec<Place>,
    bytes: usize,
    hops: u8,
}

impl Filling {
    /// The first event always has room.
    fn has_room(&self, event: &plugins::Event, events_max: usize) -> bool {
        self.events.is_empty()
            || (self.events.len() < events_max && self.bytes + event.bytes() <= BATCH_BYTES_MAX)
    }

    fn push(&mut self, place: Place, hops: u8, event: plugins::Event) {
        self.bytes += event.bytes();
        self.hops = self.hops.max(hops);
        self.places.push(place);
        self.events.push(event);
    }

    fn finish(self, to: Position, told: &Position, is_final: bool) -> Gathered {
        let told = match told {
            Position::Changes { revision, sub } => plugins::Position::Changes {
                revision: *revision,
                sub_revision: *sub,
            },
            Position::Snapshot { revision, last_key } => plugins::Position::Snapshot {
                revision: *revision,
                last_key: last_key.to_vec(),
            },
        };
        Gathered {
            events: self.events,
            places: self.places,
            to,
            told,
            is_final,
            hops: self.hops,
        }
    }
}

fn place(record: &RecordRef) -> Place {
    Place {
        at: record.at,
        key: record.key.clone(),
    }
}

pub(super) fn key_value(record: &RecordRef, value: Option<Vec<u8>>) -> plugins::KeyValue {
    plugins::KeyValue {
        key: record.key.to_vec(),
        create_revision: record.created,
        mod_revision: record.at.main,
        version: record.version,
        value,
        lease: record.lease,
    }
}
