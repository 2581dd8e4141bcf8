//! How records change what the log says.
//!
//! Promise: the writer and recovery learn the same from the same records, because both learn it
//! here.

use std::collections::VecDeque;

use super::error::Damage;
use super::record::{Head, LogPosition, Record};

impl Head {
    /// The index the next entry must have at the latest; none while anything may come.
    pub(super) fn next_index(&self) -> Option<u64> {
        self.last.map(|last| last.index.saturating_add(1))
    }

    /// The first index that is not purged.
    pub(super) fn first_index(&self) -> u64 {
        self.purged
            .map_or(0, |purged| purged.index.saturating_add(1))
    }

    /// Takes a record, or says why it cannot follow the ones before. An entry at or below the last
    /// index replaces it and all behind it.
    pub(super) fn apply(&mut self, record: &Record) -> Result<(), Damage> {
        match record {
            Record::Entry(entry) => return self.append(entry.position),
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Committed(position) => self.committed = *position,
            Record::TruncateAfter(after) => self.truncate_after(*after),
            Record::Purge {
                upto,
                first_segment,
            } => self.purge(*upto, *first_segment),
            Record::Roll { .. } => {}
            Record::Head(head) if head == self => {}
            Record::Head(_) => return Err(Damage::HeadMismatch),
        }
        Ok(())
    }

    fn append(&mut self, position: LogPosition) -> Result<(), Damage> {
        let found = position.index;
        match self.next_index() {
            Some(expected) if found > expected => Err(Damage::EntryGap { expected, found }),
            _ if found < self.first_index() => Err(Damage::EntryGap {
                expected: self.first_index(),
                found,
            }),
            _ => {
                self.last = Some(position);
                Ok(())
            }
        }
    }

    fn truncate_after(&mut self, after: Option<LogPosition>) {
        let cuts = match (after, self.last) {
            (Some(after), Some(last)) => after.index < last.index,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if cuts {
            // Nothing behind the purge mark is ours to cut.
            self.last = match after {
                Some(after) if after.index >= self.first_index() => Some(after),
                _ => self.purged,
            };
        }
    }

    fn purge(&mut self, upto: LogPosition, first_segment: u64) {
        if self.purged.is_none_or(|purged| purged.index < upto.index) {
            self.purged = Some(upto);
        }
        if self.last.is_none_or(|last| last.index < self.first_index()) {
            self.last = self.purged;
        }
        self.first_segment = self.first_segment.max(first_segment);
    }
}

/// Entries of consecutive indexes that lie in one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) at: BatchPlace,
}

/// Where the bytes of a batch lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchPlace {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) bytes: usize,
}

/// What is on disk: the head, and which batch holds which entries.
#[derive(Clone, Debug, Default)]
pub(super) struct DurableLog {
    pub(super) head: Head,
    /// By index, without a gap.
    pub(super) extents: VecDeque<Extent>,
}

impl DurableLog {
    /// Takes a record that lies in the batch `at`.
    pub(super) fn apply(&mut self, record: &Record, at: BatchPlace) -> Result<(), Damage> {
        self.head.apply(record)?;
        match record {
            Record::Entry(entry) => {
                let index = entry.position.index;
                self.drop_from(index);
                self.place(index, at);
            }
            Record::TruncateAfter(_) => match self.head.next_index() {
                Some(next) => self.drop_from(next),
                None => self.extents.clear(),
            },
            Record::Purge { .. } => self.drop_below(self.head.first_index()),
            _ => {}
        }
        Ok(())
    }

    /// The extents that hold entries of `[start, end)`, in order.
    pub(super) fn extents_of(&self, start: u64, end: u64) -> impl Iterator<Item = &Extent> {
        let from = self.extents.partition_point(|extent| extent.last < start);
        self.extents
            .range(from..)
            .take_while(move |extent| extent.first < end)
    }

    /// The oldest segment with an entry above `index`; none if there is no such entry.
    pub(super) fn first_segment_above(&self, index: u64) -> Option<u64> {
        let at = self.extents.partition_point(|extent| extent.last <= index);
        self.extents.get(at).map(|extent| extent.at.segment)
    }

    fn place(&mut self, index: u64, at: BatchPlace) {
        match self.extents.back_mut() {
            Some(extent) if extent.at == at && extent.last + 1 == index => extent.last = index,
            _ => self.extents.push_back(Extent {
                first: index,
                last: index,
                at,
            }),
        }
    }

    fn drop_from(&mut self, index: u64) {
        while self.extents.back().is_some_and(|e| e.first >= index) {
            self.extents.pop_back();
        }
        if let Some(extent) = self.extents.back_mut().filter(|e| e.last >= index) {
            extent.last = index - 1;
        }
    }

    fn drop_below(&mut self, index: u64) {
        while self.extents.front().is_some_and(|e| e.last < index) {
            self.extents.pop_front();
        }
        if let Some(extent) = self.extents.front_mut().filter(|e| e.first < index) {
            extent.first = index;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::LogEntry;
    use super::*;

    fn entry(index: u64) -> Record {
        Record::Entry(LogEntry {
            position: LogPosition { term: 1, index },
            kind: 0,
            payload: Default::default(),
        })
    }

    fn position(index: u64) -> LogPosition {
        LogPosition { term: 1, index }
    }

    fn batch(offset: u64) -> BatchPlace {
        BatchPlace {
            segment: 1,
            offset,
            bytes: 512,
        }
    }

    fn spans(log: &DurableLog) -> Vec<(u64, u64, u64)> {
        let span = |e: &Extent| (e.first, e.last, e.at.offset);
        log.extents.iter().map(span).collect()
    }

    fn ten_entries_in_two_batches() -> DurableLog {
        let mut log = DurableLog::default();
        for index in 1..=10 {
            let at = batch(if index <= 5 { 0 } else { 512 });
            log.apply(&entry(index), at).expect("indexes follow");
        }
        log
    }

    #[test]
    fn truncation_and_replacement_leave_the_newest_place_of_each_entry() {
        let mut log = ten_entries_in_two_batches();
        assert_eq!(spans(&log), [(1, 5, 0), (6, 10, 512)]);
        log.apply(&Record::TruncateAfter(Some(position(7))), batch(1024))
            .expect("truncation always fits");
        log.apply(&entry(8), batch(1024)).expect("8 follows 7");
        log.apply(&entry(4), batch(1536)).expect("4 replaces");
        assert_eq!(spans(&log), [(1, 3, 0), (4, 4, 1536)]);
        assert_eq!(log.head.last, Some(position(4)));
    }

    #[test]
    fn truncating_behind_the_end_changes_nothing_and_before_the_mark_empties() {
        let mut log = ten_entries_in_two_batches();
        let purge = Record::Purge {
            upto: position(3),
            first_segment: 1,
        };
        let steps = [
            (
                Record::TruncateAfter(Some(position(11))),
                Some(position(10)),
            ),
            (purge, Some(position(10))),
            (Record::TruncateAfter(Some(position(1))), Some(position(3))),
        ];
        for (record, last) in steps {
            log.apply(&record, batch(0)).expect("it always fits");
            assert_eq!(log.head.last, last);
        }
        assert_eq!(spans(&log), []);
        assert_eq!(log.head.purged, Some(position(3)));
    }

    #[test]
    fn a_gap_and_an_entry_below_the_purge_mark_are_refused() {
        let mut log = ten_entries_in_two_batches();
        let gap = log.apply(&entry(12), batch(0));
        let expected = Damage::EntryGap {
            expected: 11,
            found: 12,
        };
        assert_eq!(gap, Err(expected));
        let purge = Record::Purge {
            upto: position(20),
            first_segment: 2,
        };
        log.apply(&purge, batch(0)).expect("it always fits");
        assert_eq!(log.head.last, Some(position(20)));
        assert!(log.apply(&entry(20), batch(0)).is_err());
        assert!(log.apply(&entry(21), batch(0)).is_ok());
    }
}
