//! What changed between two revisions, for whoever was not there.
//!
//! Promise: every change of the range is there once, in order, with what it replaced; a revision
//! is whole or not there. If a compaction has taken some of it, the answer is that, not a gap.

use std::sync::Arc;

use bytes::Bytes;

use super::event::{Event, Kind, RevisionEvents};
use super::key_range::KeyRange;
use super::read::{self, ReadError};
use super::read_view::ReadView;
use super::record::{BadRecord, Record};
use super::revision::Revision;
use crate::command::RecordRef;
use crate::storage::Keyspace;

/// A stretch of history.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Ascending; only revisions that touch the range.
    pub revisions: Vec<Arc<RevisionEvents>>,
    /// The revision to go on with; one past `to` when all is there.
    pub next: i64,
}

/// The events of `[from, to]` in a range, at most about `events_max` of them: a revision that was
/// begun is finished. `to` is at most the view's revision.
pub fn events(
    view: &ReadView,
    from: i64,
    to: i64,
    range: &KeyRange,
    events_max: usize,
) -> Result<History, ReadError> {
    if from < view.compact_revision_now() {
        return Err(ReadError::Compacted);
    }
    let history = scan(view, from.max(0), to.min(view.revision), range, events_max);
    // Asked after the last row: damage that is none must not be reported as such.
    if from < view.compact_revision_now() {
        return Err(ReadError::Compacted);
    }
    history
}

fn scan(
    view: &ReadView,
    from: i64,
    to: i64,
    range: &KeyRange,
    events_max: usize,
) -> Result<History, ReadError> {
    let mut history = History {
        revisions: Vec::new(),
        next: to.saturating_add(1),
    };
    if from > to {
        history.next = from;
        return Ok(history);
    }
    let (first, end) = (
        Revision::new(from, 0).to_bytes(),
        Revision::new(to, u32::MAX).to_bytes(),
    );
    let mut open = RevisionEvents {
        revision: from,
        events: Vec::new(),
    };
    let mut taken = 0;
    for row in view.store.scan(Keyspace::Meta, &first[..]..=&end[..]) {
        let (key, row) = row?;
        let at = Revision::from_bytes(&key).ok_or(ReadError::Corrupt(Revision::default()))?;
        if at.main != open.revision {
            close(&mut history, &mut open, at.main);
            if taken >= events_max {
                history.next = at.main;
                return Ok(history);
            }
        }
        let record = Record::decode(row).map_err(|BadRecord| ReadError::Corrupt(at))?;
        if range.contains(&record.key) {
            open.events.push(event(view, at, record)?);
            taken += 1;
        }
    }
    close(&mut history, &mut open, to);
    Ok(history)
}

fn close(history: &mut History, open: &mut RevisionEvents, next: i64) {
    let done = std::mem::replace(
        open,
        RevisionEvents {
            revision: next,
            events: Vec::new(),
        },
    );
    if !done.events.is_empty() {
        history.revisions.push(Arc::new(done));
    }
}

fn event(view: &ReadView, at: Revision, record: Record) -> Result<Event, ReadError> {
    let value = match record.kind {
        Kind::Put => view.store.value(at)?.ok_or(ReadError::Corrupt(at))?,
        Kind::Delete => Bytes::new(),
    };
    // Created here: nothing was before. A first version after a delete likewise.
    let prev = if record.kind == Kind::Put && record.version == 1 {
        None
    } else {
        prev(view, at, &record.key)?
    };
    let Record {
        kind,
        key,
        created,
        version,
        lease,
        cause,
        hops,
        value_bytes,
        ..
    } = record;
    Ok(Event {
        kind,
        record: RecordRef {
            key,
            at,
            created,
            version,
            lease,
            value_bytes,
        },
        value,
        prev,
        cause,
        hops,
    })
}

/// What a key was just before a revision; none if that is compacted.
fn prev(view: &ReadView, at: Revision, key: &[u8]) -> Result<Option<RecordRef>, ReadError> {
    let before = at.main - 1;
    if before < view.compact_revision_now() {
        return Ok(None);
    }
    let found = view.index.read().get(key, before);
    let Some(found) = found else {
        // A compaction has taken it between the two looks, or it was put by an earlier operation
        // of the same transaction; the first of a transaction has nothing before it there.
        let compacted = before < view.compact_revision_now();
        return if compacted || at.sub > 0 {
            Ok(None)
        } else {
            Err(ReadError::Corrupt(at))
        };
    };
    match read::resolve(found, &view.store) {
        Ok(record) => Ok(Some(record)),
        Err(ReadError::Corrupt(_)) if before < view.compact_revision_now() => Ok(None),
        Err(error) => Err(error),
    }
}
