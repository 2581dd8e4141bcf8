//! A disk in memory that can lose power, lose pages, rot and refuse.
//!
//! Promise: what was not synced is kept or lost by the caller's choice at a power cut, in pages of
//! one sector; what was synced stays. For simulation and tests.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::disk::{LogDisk, LogFile};

const SECTOR_BYTES: usize = 512;

/// A directory in memory. Clones are the same directory.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    files: Vec<Contents>,
    faults: Faults,
    syncs: u64,
}

#[derive(Clone, Default)]
struct Contents {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// The sectors written since the last sync.
    dirty: BTreeSet<usize>,
}

#[derive(Default)]
struct Faults {
    write: Option<io::ErrorKind>,
    sync: Option<io::ErrorKind>,
    read: Option<io::ErrorKind>,
    bytes_left: Option<usize>,
    changes_left: Option<u64>,
    syncs_held: bool,
    syncs_waiting: usize,
}

impl Faults {
    /// Counts a change. None is left at a crash: the change under way may or may not get through,
    /// and none after it is made.
    fn count_change(&mut self) -> Counted {
        match &mut self.changes_left {
            None => Counted::Made,
            Some(0) => Counted::Refused,
            Some(left) => {
                *left -= 1;
                if *left == 0 {
                    Counted::UnderWay
                } else {
                    Counted::Made
                }
            }
        }
    }

    fn check_change(&mut self) -> io::Result<()> {
        match self.count_change() {
            Counted::Made => Ok(()),
            Counted::UnderWay | Counted::Refused => Err(crashed()),
        }
    }
}

enum Counted {
    Made,
    UnderWay,
    Refused,
}

fn crashed() -> io::Error {
    io::Error::other("the machine has stopped")
}

impl MemoryDisk {
    /// What a machine finds after a power cut. Of each sector not synced, `keep(file, sector)`
    /// says whether it had reached the disk; `keep_names`, whether names not synced had.
    pub fn power_cut(&self, keep_names: bool, mut keep: impl FnMut(&str, usize) -> bool) -> Self {
        let state = self.shared.state.lock();
        let names = if keep_names {
            &state.names
        } else {
            &state.durable_names
        };
        let after = Self::default();
        for (name, file) in names {
            let survivor = state.files[*file].after_cut(|sector| keep(name, sector));
            after.put(name, survivor);
        }
        after
    }

    /// The bytes of a file as a reader sees them now.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.shared.state.lock();
        let file = *state.names.get(name)?;
        Some(state.files[file].current.clone())
    }

    /// Makes a file hold these bytes, durably.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.shared.state.lock();
        let file = state.files.len();
        state.files.push(Contents {
            current: bytes.clone(),
            durable: bytes,
            dirty: BTreeSet::new(),
        });
        state.names.insert(name.to_owned(), file);
        state.durable_names.insert(name.to_owned(), file);
    }

    /// An independent copy of what readers see, all of it durable.
    pub fn duplicate(&self) -> Self {
        self.power_cut(true, |_, _| true)
    }

    /// From now on every write fails.
    pub fn fail_writes(&self, kind: io::ErrorKind) {
        self.shared.state.lock().faults.write = Some(kind);
    }

    /// From now on every read fails.
    pub fn fail_reads(&self, kind: io::ErrorKind) {
        self.shared.state.lock().faults.read = Some(kind);
    }

    /// The next sync of a file fails and loses what it should have made durable, as Linux does;
    /// later ones succeed and prove nothing.
    pub fn fail_next_sync(&self, kind: io::ErrorKind) {
        self.shared.state.lock().faults.sync = Some(kind);
    }

    /// The disk is full after this many more bytes.
    pub fn fill_after(&self, bytes: usize) {
        self.shared.state.lock().faults.bytes_left = Some(bytes);
    }

    /// The machine stops at this change from now (a write, a sync, a name): it and all later ones
    /// fail, and only what a power cut keeps of it has happened.
    pub fn stop_at_change(&self, change: u64) {
        self.shared.state.lock().faults.changes_left = Some(change);
    }

    /// Whether it has stopped.
    pub fn has_stopped(&self) -> bool {
        self.shared.state.lock().faults.changes_left == Some(0)
    }

    /// Syncs of files wait until `release_syncs`.
    pub fn hold_syncs(&self) {
        self.shared.state.lock().faults.syncs_held = true;
    }

    /// Returns once a sync waits to be released.
    pub fn wait_for_held_sync(&self) {
        let mut state = self.shared.state.lock();
        while state.faults.syncs_waiting == 0 {
            self.shared.changed.wait(&mut state);
        }
    }

    pub fn release_syncs(&self) {
        self.shared.state.lock().faults.syncs_held = false;
        self.shared.changed.notify_all();
    }

    /// How many syncs of files have succeeded.
    pub fn syncs(&self) -> u64 {
        self.shared.state.lock().syncs
    }

    fn file(&self, number: usize) -> Arc<dyn LogFile> {
        Arc::new(MemoryFile {
            shared: Arc::clone(&self.shared),
            number,
        })
    }
}

impl Contents {
    fn after_cut(&self, mut keep: impl FnMut(usize) -> bool) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for sector in &self.dirty {
            if keep(*sector) {
                let from = sector * SECTOR_BYTES;
                let to = self.current.len().min(from + SECTOR_BYTES);
                if bytes.len() < to {
                    bytes.resize(to, 0);
                }
                bytes[from..to].copy_from_slice(&self.current[from..to]);
            }
        }
        bytes
    }
}

impl LogDisk for MemoryDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.shared.state.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        let mut state = self.shared.state.lock();
        state.faults.check_change()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = state.files.len();
        state.files.push(Contents::default());
        state.names.insert(name.to_owned(), number);
        drop(state);
        Ok(self.file(number))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn LogFile>> {
        let number = self.shared.state.lock().names.get(name).copied();
        Ok(self.file(number.ok_or(io::ErrorKind::NotFound)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.faults.check_change()?;
        let number = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), number);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.faults.check_change()?;
        let removed = state.names.remove(name);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.faults.check_change()?;
        state.durable_names = state.names.clone();
        Ok(())
    }
}

struct MemoryFile {
    shared: Arc<Shared>,
    number: usize,
}

impl MemoryFile {
    fn wait_for_release(&self) -> MutexGuard<'_, State> {
        let mut state = self.shared.state.lock();
        state.faults.syncs_waiting += 1;
        self.shared.changed.notify_all();
        while state.faults.syncs_held {
            self.shared.changed.wait(&mut state);
        }
        state.faults.syncs_waiting -= 1;
        state
    }
}

impl LogFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.shared.state.lock().files[self.number].current.len() as u64)
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let state = self.shared.state.lock();
        if let Some(kind) = state.faults.read {
            return Err(kind.into());
        }
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = state.files[self.number]
            .current
            .get(from..from + buffer.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        if let Some(kind) = state.faults.write {
            return Err(kind.into());
        }
        if let Some(left) = state.faults.bytes_left.as_mut() {
            *left = left
                .checked_sub(bytes.len())
                .ok_or(io::ErrorKind::StorageFull)?;
        }
        let counted = state.faults.count_change();
        if matches!(counted, Counted::Refused) {
            return Err(crashed());
        }
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let file = &mut state.files[self.number];
        if file.current.len() < from + bytes.len() {
            file.current.resize(from + bytes.len(), 0);
        }
        file.current[from..from + bytes.len()].copy_from_slice(bytes);
        if !bytes.is_empty() {
            let last = (from + bytes.len() - 1) / SECTOR_BYTES;
            file.dirty.extend(from / SECTOR_BYTES..=last);
        }
        match counted {
            Counted::Made => Ok(()),
            Counted::UnderWay | Counted::Refused => Err(crashed()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.wait_for_release();
        state.faults.check_change()?;
        if let Some(kind) = state.faults.sync.take() {
            state.files[self.number].dirty.clear();
            return Err(kind.into());
        }
        state.syncs += 1;
        let file = &mut state.files[self.number];
        let kept = file.after_cut(|_| true);
        file.durable = kept;
        file.dirty.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_cut_loses_exactly_the_sectors_that_were_not_synced_or_kept() {
        let disk = MemoryDisk::default();
        let file = disk.create("a").expect("the name is free");
        file.write_all_at(0, &[1; 1024]).expect("no fault is set");
        file.sync_data().expect("no fault is set");
        disk.sync_directory().expect("no fault is set");
        file.write_all_at(512, &[2; 1024]).expect("no fault is set");

        let lost = disk.power_cut(false, |_, _| false);
        assert_eq!(lost.bytes("a"), Some(vec![1; 1024]));
        let second = disk.power_cut(false, |_, sector| sector == 2);
        let expected = [vec![1; 1024], vec![2; 512]].concat();
        assert_eq!(second.bytes("a"), Some(expected));
    }

    #[test]
    fn a_name_not_synced_is_lost_with_the_power() {
        let disk = MemoryDisk::default();
        disk.create("a").expect("the name is free");
        assert_eq!(disk.power_cut(false, |_, _| true).bytes("a"), None);
        assert_eq!(disk.power_cut(true, |_, _| true).bytes("a"), Some(vec![]));
    }
}
