//! The newest entries, in memory.
//!
//! Promise: an entry that is not yet on disk is always here; those on disk stay while there is
//! room. Consecutive indexes up to the log's last.

use std::collections::VecDeque;

use super::record::LogEntry;

#[derive(Debug)]
pub(super) struct Window {
    entries: VecDeque<Kept>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Kept {
    entry: LogEntry,
    /// The request that brought it; it is on disk once that request is flushed.
    request: u64,
}

impl Window {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// The index of the oldest entry here.
    pub(super) fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|kept| kept.entry.position.index)
    }

    /// Takes an entry that request `request` brought, in place of any at or above its index.
    pub(super) fn push(&mut self, entry: LogEntry, request: u64) {
        self.truncate_from(entry.position.index);
        self.bytes += entry.weight();
        self.entries.push_back(Kept { entry, request });
    }

    pub(super) fn truncate_from(&mut self, index: u64) {
        while self
            .entries
            .back()
            .is_some_and(|kept| kept.entry.position.index >= index)
        {
            let gone = self.entries.pop_back();
            self.bytes -= gone.map_or(0, |kept| kept.entry.weight());
        }
    }

    pub(super) fn drop_below(&mut self, index: u64) {
        while self.first_index().is_some_and(|first| first < index) {
            self.pop_front();
        }
    }

    /// Forgets the oldest entries until the window fits, but none that is not flushed.
    pub(super) fn shrink(&mut self, flushed: u64) {
        while self.bytes > self.bytes_max
            && self
                .entries
                .front()
                .is_some_and(|kept| kept.request <= flushed)
        {
            self.pop_front();
        }
    }

    /// Entries from index `start`, which is here or right behind the last, to below `end`.
    pub(super) fn from(&self, start: u64, end: u64) -> impl Iterator<Item = &LogEntry> {
        let first = self.first_index().unwrap_or(start);
        let skip = usize::try_from(start.saturating_sub(first)).unwrap_or(usize::MAX);
        self.entries
            .range(skip.min(self.entries.len())..)
            .map(|kept| &kept.entry)
            .take_while(move |entry| entry.position.index < end)
    }

    fn pop_front(&mut self) {
        let gone = self.entries.pop_front();
        self.bytes -= gone.map_or(0, |kept| kept.entry.weight());
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::LogPosition;
    use super::*;

    fn entry(index: u64) -> LogEntry {
        LogEntry {
            position: LogPosition { term: 1, index },
            kind: 0,
            payload: vec![0; 100].into(),
        }
    }

    fn indexes(window: &Window) -> Vec<u64> {
        let from = window.first_index().unwrap_or(0);
        window
            .from(from, u64::MAX)
            .map(|entry| entry.position.index)
            .collect()
    }

    #[test]
    fn what_is_not_flushed_stays_however_full_the_window_is() {
        let mut window = Window::new(300);
        for index in 1..=10 {
            window.push(entry(index), index);
        }
        window.shrink(4);
        assert_eq!(indexes(&window), [5, 6, 7, 8, 9, 10]);
        window.shrink(10);
        assert_eq!(indexes(&window), [9, 10]);
    }

    #[test]
    fn a_replacing_entry_removes_those_behind_it() {
        let mut window = Window::new(10_000);
        for index in 1..=5 {
            window.push(entry(index), 1);
        }
        window.push(entry(3), 2);
        assert_eq!(indexes(&window), [1, 2, 3]);
        window.drop_below(3);
        assert_eq!(indexes(&window), [3]);
        window.truncate_from(0);
        assert_eq!((indexes(&window), window.bytes), (vec![], 0));
    }
}
