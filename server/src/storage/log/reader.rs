//! Reading entries back.
//!
//! Promise: a read returns consecutive entries as they were at one moment, or an error. A segment
//! that is purged and removed under a reader is noticed and the read starts over.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::batch;
use super::disk::LogFile;
use super::error::{Damage, DiskOperation, LogError};
use super::head::Extent;
use super::raft_log::{Shared, State};
use super::record::{LogEntry, Record};
use super::segment;

/// Entries up to a weight; the first is taken whatever it weighs.
struct Taken {
    entries: Vec<LogEntry>,
    bytes: usize,
    bytes_max: usize,
    full: bool,
}

impl Taken {
    fn new(bytes_max: usize) -> Self {
        Self {
            entries: Vec::new(),
            bytes: 0,
            bytes_max,
            full: false,
        }
    }

    fn extend<'a>(&mut self, entries: impl Iterator<Item = &'a LogEntry>) {
        for entry in entries {
            self.bytes = self.bytes.saturating_add(entry.weight());
            if self.full || (self.bytes > self.bytes_max && !self.entries.is_empty()) {
                self.full = true;
                return;
            }
            self.entries.push(entry.clone());
        }
    }
}

/// The part of `range` that the log holds.
fn held(state: &State, range: Range<u64>) -> Range<u64> {
    let end = range.end.min(state.view.next_index().unwrap_or(0));
    let first = state.view.first_index().max(state.start);
    range.start.max(first)..end
}

pub(super) fn read_recent(
    state: &State,
    range: Range<u64>,
    bytes_max: usize,
) -> Option<Vec<LogEntry>> {
    let held = held(state, range);
    let mut taken = Taken::new(bytes_max);
    if !held.is_empty() {
        state
            .window
            .first_index()
            .filter(|first| *first <= held.start)?;
        taken.extend(state.window.from(held.start, held.end));
    }
    Some(taken.entries)
}

/// What to read, decided in one moment.
struct Plan {
    /// On disk, each with its segment.
    extents: Vec<(Extent, Arc<dyn LogFile>)>,
    /// Where the entries in memory begin.
    recent_from: u64,
    recent: Vec<LogEntry>,
    held: Range<u64>,
}

fn plan(state: &State, range: Range<u64>, bytes_max: usize) -> Plan {
    let held = held(state, range);
    let recent_from = state
        .window
        .first_index()
        .unwrap_or(held.end)
        .clamp(held.start.min(held.end), held.end);
    let mut extents = Vec::new();
    let mut on_disk: usize = 0;
    for extent in state.durable.extents_of(held.start, recent_from) {
        // The index of a purged segment may be a moment behind its file.
        let Some(file) = state.files.get(&extent.at.segment) else {
            break;
        };
        extents.push((*extent, Arc::clone(file)));
        on_disk = on_disk.saturating_add(extent.at.bytes);
        // A batch may hold more than the entries asked for: two more than seem needed.
        if on_disk > bytes_max.saturating_mul(2) && extents.len() > 2 {
            break;
        }
    }
    let mut recent = Taken::new(bytes_max);
    if recent_from < held.end {
        recent.extend(state.window.from(recent_from, held.end));
    }
    Plan {
        extents,
        recent_from,
        recent: recent.entries,
        held,
    }
}

pub(super) fn read(
    shared: &Shared,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Vec<LogEntry>, LogError> {
    loop {
        let plan = plan(&shared.state.lock(), range.clone(), bytes_max);
        let result = run(shared, &plan, bytes_max);
        let first_now = shared.state.lock().view.first_index();
        if first_now <= plan.held.start || plan.held.is_empty() {
            return result;
        }
        // Purged meanwhile: what was read is no longer the log's.
    }
}

fn run(shared: &Shared, plan: &Plan, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
    let mut taken = Taken::new(bytes_max);
    let mut next = plan.held.start;
    for (extent, file) in &plan.extents {
        if taken.full {
            break;
        }
        let entries = read_extent(shared, extent, &**file)?;
        let until = plan.recent_from.min(extent.last.saturating_add(1));
        let wanted = entries.range(next..until.max(next));
        taken.extend(wanted.map(|(_, entry)| entry));
        next = until;
    }
    if next >= plan.recent_from && !taken.full {
        taken.extend(plan.recent.iter());
    }
    check_consecutive(taken.entries)
}

/// The entries of one batch that are still the log's, by index.
fn read_extent(
    shared: &Shared,
    extent: &Extent,
    file: &dyn LogFile,
) -> Result<BTreeMap<u64, LogEntry>, LogError> {
    let at = extent.at;
    let mut bytes = vec![0; at.bytes];
    file.read_exact_at(at.offset, &mut bytes)
        .map_err(DiskOperation::Read.failed(&segment::name(at.segment)))?;
    let damaged = |damage| LogError::Damaged {
        segment: at.segment,
        offset: at.offset,
        batch: batch::Header::parse(&bytes).map(|header| header.place.batch),
        damage,
    };
    let opened = batch::open(&bytes, at.segment, None, &*shared.sealer).map_err(&damaged)?;
    let entries = surviving(opened.records);
    let complete = (extent.first..=extent.last).all(|index| entries.contains_key(&index));
    if complete {
        Ok(entries)
    } else {
        Err(damaged(Damage::RecordUnreadable))
    }
}

/// Within one batch entries may have been cut off and replaced.
fn surviving(records: Vec<Record>) -> BTreeMap<u64, LogEntry> {
    let mut entries = BTreeMap::new();
    for record in records {
        match record {
            Record::Entry(entry) => {
                entries.split_off(&entry.position.index);
                // A copy: a slice would keep the whole opened batch in memory.
                let payload = Bytes::copy_from_slice(&entry.payload);
                entries.insert(entry.position.index, LogEntry { payload, ..entry });
            }
            Record::TruncateAfter(after) => {
                entries.split_off(&after.map_or(0, |after| after.index.saturating_add(1)));
            }
            _ => {}
        }
    }
    entries
}

fn check_consecutive(entries: Vec<LogEntry>) -> Result<Vec<LogEntry>, LogError> {
    let gap = entries
        .windows(2)
        .map(|pair| (pair[0].position.index + 1, pair[1].position.index))
        .find(|(expected, found)| expected != found);
    match gap {
        Some((expected, found)) => Err(LogError::Hole { expected, found }),
        None => Ok(entries),
    }
}
