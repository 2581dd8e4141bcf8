//! The raft log against a power cut, against rot, and against a disk that refuses.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::batch::{BLOCK_BYTES, Header};
use super::disk::LogDisk;
use super::test_sealer::TestSealer;
use super::*;

const SEGMENT_BYTES: u64 = 16 * 1024;

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: SEGMENT_BYTES,
        batch_bytes_max: 3_000,
        window_bytes_max: 1_500,
        queue_bytes_max: 1_000_000,
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without drivers always builds")
        .block_on(future)
}

fn position(index: u64) -> LogPosition {
    LogPosition { term: 1, index }
}

/// An entry whose payload tells its index and `mark`.
fn entry(index: u64, mark: u8, bytes: usize) -> LogEntry {
    let payload = index.to_be_bytes().into_iter().chain(vec![mark; bytes]);
    LogEntry {
        position: position(index),
        kind: mark,
        payload: payload.collect(),
    }
}

fn vote(term: u64) -> LogVote {
    LogVote {
        term,
        member: 7,
        committed: false,
    }
}

/// A log whose writer runs when the test says so.
struct Rig {
    disk: MemoryDisk,
    log: RaftLog,
    writer: LogWriter,
    acknowledged: Arc<AtomicUsize>,
}

impl Rig {
    fn open(disk: &MemoryDisk) -> Result<Self, LogError> {
        Self::open_with(disk, options(), 1)
    }

    fn open_with(disk: &MemoryDisk, options: LogOptions, key: u64) -> Result<Self, LogError> {
        let (log, writer) = RaftLog::open_stepped(
            Arc::new(disk.clone()),
            Arc::new(TestSealer::new(key)),
            options,
        )?;
        Ok(Self {
            disk: disk.clone(),
            log,
            writer,
            acknowledged: Arc::default(),
        })
    }

    fn new() -> Self {
        Self::open(&MemoryDisk::default()).expect("a new log opens")
    }

    fn queue(&self, entries: Vec<LogEntry>) {
        let acknowledged = Arc::clone(&self.acknowledged);
        let flushed = Box::new(move |result: Result<(), LogError>| {
            acknowledged.fetch_add(usize::from(result.is_ok()), Ordering::SeqCst);
        });
        wait(self.log.append(entries, flushed)).expect("the log takes entries");
    }

    fn append(&mut self, entries: Vec<LogEntry>) {
        self.queue(entries);
        self.writer.step();
    }

    fn vote(&mut self, vote: LogVote) -> Result<(), LogError> {
        let Self { log, writer, .. } = self;
        wait(async {
            let saving = log.save_vote(vote);
            let stepping = async { writer.step() };
            futures::join!(saving, stepping).0
        })
    }

    fn indexes(&self) -> Vec<u64> {
        let entries = self.log.read(0..u64::MAX, usize::MAX);
        let entries = entries.expect("an open log reads");
        entries.iter().map(|entry| entry.position.index).collect()
    }
}

/// The offset and length of each batch of a segment.
fn batches(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut offset = 0;
    while let Some(header) = bytes.get(offset..).and_then(Header::parse) {
        found.push((offset, header.batch_bytes()));
        offset += header.batch_bytes();
    }
    found
}

fn segments(disk: &MemoryDisk) -> Vec<u64> {
    segment::list(disk).expect("memory lists").0
}

/// A vote and eight entries in several batches, then one batch of entries 9 to 12 that was on its
/// way: the disk before it and with all of it.
fn before_and_after_the_last_batch() -> (MemoryDisk, MemoryDisk, usize, usize) {
    let mut rig = Rig::new();
    rig.vote(vote(3)).expect("no fault is set");
    for index in 1..=8 {
        rig.append(vec![entry(index, 1, 300)]);
    }
    let before = rig.disk.duplicate();
    rig.append((9..=12).map(|index| entry(index, 2, 600)).collect());
    let after = rig.disk.duplicate();
    assert_eq!(segments(&after), [1]);
    let bytes = after.bytes(&segment::name(1)).expect("it is there");
    let (from, length) = *batches(&bytes).last().expect("it has batches");
    (before, after, from, length)
}

/// The log opens by itself, has everything acknowledged, and the last batch whole or not at all;
/// it can be written and opened again.
fn assert_recovers(disk: &MemoryDisk, why: &str) {
    let mut rig = Rig::open(disk).unwrap_or_else(|error| panic!("{why}: {error}"));
    let indexes = rig.indexes();
    let whole: Vec<u64> = (1..=12).collect();
    assert!(
        indexes == whole || indexes == whole[..8],
        "{why}: {indexes:?}"
    );
    assert_eq!(rig.log.vote(), Some(vote(3)), "{why}");
    let next = indexes.len() as u64 + 1;
    rig.append(vec![entry(next, 9, 100)]);
    assert_eq!(rig.acknowledged.load(Ordering::SeqCst), 1, "{why}");
    let again = Rig::open(disk).unwrap_or_else(|error| panic!("{why}, again: {error}"));
    assert_eq!(again.indexes().len() as u64, next, "{why}");
}

fn with_segment(bytes: Vec<u8>) -> MemoryDisk {
    let disk = MemoryDisk::default();
    disk.put(&segment::name(1), bytes);
    disk
}

#[test]
fn every_cut_in_the_last_batch_recovers_by_itself() {
    let (before, after, from, length) = before_and_after_the_last_batch();
    let name = segment::name(1);
    let old = before.bytes(&name).expect("it is there");
    let new = after.bytes(&name).expect("it is there");
    for cut in 0..=length {
        let mut bytes = old.clone();
        bytes[from..from + cut].copy_from_slice(&new[from..from + cut]);
        assert_recovers(&with_segment(bytes), &format!("written up to {cut}"));

        let mut bytes = new.clone();
        bytes[from..from + cut].copy_from_slice(&old[from..from + cut]);
        assert_recovers(&with_segment(bytes), &format!("written from {cut}"));

        let bytes = new[..from + cut].to_vec();
        assert_recovers(&with_segment(bytes), &format!("file ends at {cut}"));
    }
}

#[test]
fn every_set_of_lost_sectors_and_every_lost_page_recovers_by_itself() {
    let (before, after, from, length) = before_and_after_the_last_batch();
    let name = segment::name(1);
    let old = before.bytes(&name).expect("it is there");
    let new = after.bytes(&name).expect("it is there");
    let sectors = length / BLOCK_BYTES;
    assert!((4..12).contains(&sectors), "all sets are tried: {sectors}");
    for lost in 0..1u32 << sectors {
        let mut bytes = new.clone();
        for sector in (0..sectors).filter(|sector| lost & (1 << sector) != 0) {
            let at = from + sector * BLOCK_BYTES;
            bytes[at..at + BLOCK_BYTES].copy_from_slice(&old[at..at + BLOCK_BYTES]);
        }
        assert_recovers(&with_segment(bytes), &format!("lost sectors {lost:b}"));
    }
    for page in (0..new.len()).step_by(4096) {
        let mut bytes = new.clone();
        bytes[page..page + 4096].copy_from_slice(&old[page..page + 4096]);
        assert_recovers(&with_segment(bytes), &format!("lost page at {page}"));
    }
}

/// Three segments and more, and all batches of them.
fn several_segments(options: LogOptions, bytes: usize) -> (MemoryDisk, Vec<(u64, usize, usize)>) {
    let disk = MemoryDisk::default();
    let mut rig = Rig::open_with(&disk, options, 1).expect("a new log opens");
    rig.vote(vote(3)).expect("no fault is set");
    for first in (1..=60).step_by(3) {
        let entries = (first..first + 3).map(|index| entry(index, 1, bytes));
        rig.append(entries.collect());
    }
    let disk = rig.disk.duplicate();
    let mut all = Vec::new();
    for id in segments(&disk) {
        let bytes = disk.bytes(&segment::name(id)).expect("it is listed");
        all.extend(batches(&bytes).into_iter().map(|(at, len)| (id, at, len)));
    }
    assert!(segments(&disk).len() >= 3);
    (disk, all)
}

fn assert_refuses(disk: &MemoryDisk, place: (u64, usize), why: &str) {
    let place = (place.0, place.1 as u64);
    match Rig::open(disk).map(|_| ()) {
        Err(LogError::Damaged {
            segment, offset, ..
        }) if (segment, offset) == place => {}
        other => panic!("{why} in {place:?}: {other:?}"),
    }
}

#[test]
fn every_damaged_byte_before_the_last_batch_refuses_and_names_the_place() {
    let small = LogOptions {
        segment_bytes: 4096,
        ..options()
    };
    let (disk, all) = several_segments(small, 60);
    let (_, earlier) = all.split_last().expect("there are batches");
    for (id, at, length) in earlier {
        let name = segment::name(*id);
        let good = disk.bytes(&name).expect("it is listed");
        for place in 0..*length {
            let mut bytes = good.clone();
            bytes[at + place] ^= 1 << (place % 8);
            let damaged = disk.duplicate();
            damaged.put(&name, bytes);
            assert_refuses(&damaged, (*id, *at), &format!("byte {place}"));
        }
    }
}

#[test]
fn every_lost_sector_before_the_last_batch_refuses_and_names_the_place() {
    let (disk, all) = several_segments(options(), 600);
    let (_, earlier) = all.split_last().expect("there are batches");
    for (id, at, length) in earlier {
        let name = segment::name(*id);
        let good = disk.bytes(&name).expect("it is listed");
        for sector in (*at..at + length).step_by(BLOCK_BYTES) {
            let mut bytes = good.clone();
            bytes[sector..sector + BLOCK_BYTES].fill(0);
            let damaged = disk.duplicate();
            damaged.put(&name, bytes);
            assert_refuses(&damaged, (*id, *at), &format!("sector {sector}"));
        }
    }
}

#[test]
fn a_flip_in_the_last_batch_costs_that_batch_and_no_other() {
    let (disk, all) = several_segments(options(), 600);
    let (id, at, length) = *all.last().expect("there are batches");
    let good = disk.bytes(&segment::name(id)).expect("it is listed");
    for place in (0..length).step_by(7) {
        let mut bytes = good.clone();
        bytes[at + place] ^= 0x80;
        let damaged = disk.duplicate();
        damaged.put(&segment::name(id), bytes);
        let rig = Rig::open(&damaged).expect("a torn tail is cut");
        assert_eq!(rig.indexes(), (1..=57).collect::<Vec<_>>());
    }
}

#[test]
fn any_missing_segment_is_noticed() {
    let (disk, _) = several_segments(options(), 600);
    for id in segments(&disk) {
        let damaged = disk.duplicate();
        damaged.remove(&segment::name(id)).expect("it is listed");
        match Rig::open(&damaged).map(|_| ()) {
            // The ones before the gap would be leftovers if nothing of them were needed.
            Err(LogError::MissingSegment { segment }) => assert!(segment == 1 || segment == id),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn swapped_segments_and_repeated_batches_refuse() {
    let (disk, all) = several_segments(options(), 600);
    let [one, two] = [1, 2].map(|id| disk.bytes(&segment::name(id)).expect("it is listed"));
    let swapped = disk.duplicate();
    swapped.put(&segment::name(1), two);
    swapped.put(&segment::name(2), one.clone());
    assert_refuses(&swapped, (1, 0), "swapped");

    let (_, at, length) = all[1];
    let (_, next, next_length) = all[2];
    assert_eq!(length, next_length);
    let mut bytes = one;
    bytes.copy_within(at..at + length, next);
    let repeated = disk.duplicate();
    repeated.put(&segment::name(1), bytes);
    assert_refuses(&repeated, (1, next), "repeated");
}

/// What a log holds, as a test sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    vote: Option<LogVote>,
    committed: Option<LogPosition>,
    purged: Option<LogPosition>,
    last: Option<LogPosition>,
    entries: BTreeMap<u64, u8>,
}

impl Seen {
    fn of(log: &RaftLog) -> Self {
        let bounds = log.bounds();
        let entries = log.read(0..u64::MAX, usize::MAX).expect("it reads");
        Self {
            vote: log.vote(),
            committed: log.committed(),
            purged: bounds.purged,
            last: bounds.last,
            entries: entries
                .iter()
                .map(|entry| (entry.position.index, entry.kind))
                .collect(),
        }
    }
}

/// A history with everything in it, until the disk refuses. Returns what the log held after each
/// record, and leaves in `acknowledged` after how many of them it was last said to be on disk.
fn history(rig: &mut Rig, acknowledged: &Arc<AtomicUsize>) -> Vec<Seen> {
    let mut states = vec![Seen::default()];
    let mut model = Seen::default();
    for round in 1..=30u8 {
        let next = model.last.map_or(1, |last| last.index + 1);
        for index in next..next + 3 {
            let entry = entry(index, round, 500 + 40 * usize::from(round));
            model.entries.insert(index, round);
            model.last = Some(position(index));
            states.push(model.clone());
            let (counter, upto) = (Arc::clone(acknowledged), states.len() - 1);
            let flushed = Box::new(move |result: Result<(), LogError>| {
                if result.is_ok() {
                    counter.fetch_max(upto, Ordering::SeqCst);
                }
            });
            if wait(rig.log.append(vec![entry], flushed)).is_err() {
                return states;
            }
        }
        let last = next + 2;
        let step = match round % 4 {
            0 => {
                model.entries.remove(&last);
                model.last = Some(position(last - 1));
                wait(rig.log.truncate_after(model.last))
            }
            1 => {
                model.committed = Some(position(last));
                wait(rig.log.save_committed(model.committed))
            }
            2 => {
                model.purged = Some(position(next));
                model.entries = model.entries.split_off(&(next + 1));
                wait(rig.log.purge(position(next)))
            }
            _ => Ok(()),
        };
        if round % 4 != 3 {
            states.push(model.clone());
        }
        rig.writer.step();
        if step.is_err() {
            return states;
        }
        if round % 3 == 0 {
            model.vote = Some(vote(u64::from(round)));
            states.push(model.clone());
            if rig.vote(vote(u64::from(round))).is_err() {
                return states;
            }
            acknowledged.fetch_max(states.len() - 1, Ordering::SeqCst);
        }
    }
    states
}

/// Whether a sector not synced survives; the later policies toss a coin.
fn survives(policy: u64, crash: u64, sector: usize) -> bool {
    match policy {
        0 | 1 => false,
        2 | 3 => true,
        _ => {
            let seed = crash * 31 + policy * 7 + sector as u64 + 1;
            (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40).is_multiple_of(2)
        }
    }
}

#[test]
fn a_crash_at_any_change_loses_nothing_acknowledged_and_invents_nothing() {
    for crash in 1.. {
        let disk = MemoryDisk::default();
        let mut rig = Rig::open(&disk).expect("a new log opens");
        disk.stop_at_change(crash);
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let states = history(&mut rig, &acknowledged);
        let acknowledged = acknowledged.load(Ordering::SeqCst);
        if !disk.has_stopped() {
            assert_eq!(states.last(), Some(&Seen::of(&rig.log)));
            assert!(segments(&disk)[0] > 3, "segments were filled and purged");
            assert!(crash > 150, "the history is long enough: {crash}");
            return;
        }
        for policy in 0..8 {
            let keep = |_: &str, sector: usize| survives(policy, crash, sector);
            let after = disk.power_cut(policy % 2 == 1, keep);
            let why = format!("crash at change {crash}, policy {policy}");
            let rig = Rig::open(&after).unwrap_or_else(|error| panic!("{why}: {error}"));
            let found = Seen::of(&rig.log);
            assert!(
                states[acknowledged..].contains(&found),
                "{why}: {acknowledged} acknowledged, found {found:?}"
            );
        }
    }
}

#[test]
fn another_key_refuses_and_changes_nothing() {
    let (disk, all) = several_segments(options(), 600);
    let wrong = Rig::open_with(&disk, options(), 2).map(|_| ());
    assert!(matches!(wrong, Err(LogError::Damaged { .. })), "{wrong:?}");
    let rig = Rig::open(&disk).expect("the right key opens it");
    assert_eq!(rig.indexes().len(), 60);
    assert!(all.len() > 20);
}

#[test]
fn a_crash_while_recovering_leaves_a_log_that_recovers() {
    let (before, after, from, length) = before_and_after_the_last_batch();
    let name = segment::name(1);
    let mut bytes = after.bytes(&name).expect("it is there");
    let old = before.bytes(&name).expect("it is there");
    bytes[from + length - BLOCK_BYTES..from + length]
        .copy_from_slice(&old[from + length - BLOCK_BYTES..from + length]);
    for change in 1.. {
        let disk = with_segment(bytes.clone());
        disk.stop_at_change(change);
        let opened = Rig::open(&disk).map(|_| ());
        for keep in [0, 1, 2] {
            let cut = disk.power_cut(true, |_, sector| sector % 3 != keep);
            assert_recovers(&cut, &format!("crash {change} of recovery"));
        }
        if opened.is_ok() {
            return;
        }
    }
}

#[test]
fn purged_segments_go_and_what_they_said_is_kept() {
    let mut rig = Rig::new();
    rig.vote(vote(3)).expect("no fault is set");
    for index in 1..=200 {
        rig.append(vec![entry(index, 1, 900)]);
        if index % 10 == 0 {
            wait(rig.log.purge(position(index - 5))).expect("no fault is set");
            rig.writer.step();
        }
        assert!(segments(&rig.disk).len() <= 3, "purged segments go");
    }
    assert!(segments(&rig.disk)[0] > 5);
    let before = Seen::of(&rig.log);
    let reopened = Rig::open(&rig.disk.duplicate()).expect("it is whole");
    assert_eq!(Seen::of(&reopened.log), before);
    assert_eq!(reopened.log.vote(), Some(vote(3)));
    assert_eq!(reopened.indexes(), (196..=200).collect::<Vec<_>>());
}

#[test]
fn a_lost_oldest_segment_of_a_purged_log_is_noticed() {
    let mut rig = Rig::new();
    for index in 1..=100 {
        rig.append(vec![entry(index, 1, 900)]);
    }
    wait(rig.log.purge(position(40))).expect("no fault is set");
    rig.writer.step();
    let disk = rig.disk.duplicate();
    let oldest = segments(&disk)[0];
    assert!(oldest > 1);
    disk.remove(&segment::name(oldest)).expect("it is listed");
    let opened = Rig::open(&disk).map(|_| ());
    assert!(
        matches!(opened, Err(LogError::MissingSegment { segment }) if segment == oldest),
        "{opened:?}"
    );
}

#[test]
fn purged_segments_that_reappear_in_any_set_are_leftovers() {
    let mut rig = Rig::new();
    for index in 1..=100 {
        rig.append(vec![entry(index, 1, 900)]);
    }
    let full = rig.disk.duplicate();
    wait(rig.log.purge(position(80))).expect("no fault is set");
    rig.writer.step();
    let purged = rig.disk.duplicate();
    let first = segments(&purged)[0];
    assert!(first > 3, "three at least were removed");
    for reappeared in 0..1u64 << 3 {
        let disk = purged.duplicate();
        for id in (0..3).filter(|id| reappeared & (1 << id) != 0) {
            let name = segment::name(first - 3 + id);
            disk.put(&name, full.bytes(&name).expect("it was there"));
        }
        let reopened = Rig::open(&disk).unwrap_or_else(|error| panic!("{reappeared:b}: {error}"));
        assert_eq!(reopened.indexes(), (81..=100).collect::<Vec<_>>());
        assert_eq!(segments(&disk), segments(&purged), "they are removed again");
    }
}

#[test]
fn a_log_that_holds_a_vote_only_reopens_with_it() {
    let mut rig = Rig::new();
    rig.vote(vote(1)).expect("no fault is set");
    rig.vote(vote(2)).expect("no fault is set");
    let reopened = Rig::open(&rig.disk.power_cut(false, |_, _| false)).expect("it is whole");
    assert_eq!(reopened.log.vote(), Some(vote(2)));
    assert_eq!(reopened.log.bounds().last, None);
}

#[test]
fn a_failed_sync_or_write_fails_the_log_for_good() {
    let faults: [fn(&MemoryDisk); 3] = [
        |disk| disk.fail_next_sync(ErrorKind::Other),
        |disk| disk.fail_writes(ErrorKind::Other),
        |disk| disk.fill_after(100),
    ];
    for fault in faults {
        let mut rig = Rig::new();
        rig.append(vec![entry(1, 1, 100)]);
        fault(&rig.disk);
        rig.append(vec![entry(2, 1, 100)]);
        assert_eq!(rig.acknowledged.load(Ordering::SeqCst), 1);
        let later = wait(rig.log.append(vec![entry(3, 1, 1)], Box::new(|_| {})));
        assert!(matches!(later, Err(LogError::Disk { .. })), "{later:?}");
        let vote = rig.vote(vote(9));
        assert!(matches!(vote, Err(LogError::Disk { .. })), "{vote:?}");
        assert_eq!(rig.indexes(), [1, 2], "what was taken stays readable");
        let after = rig.disk.power_cut(false, |_, _| false);
        let reopened = Rig::open(&after).expect("the log before the fault is whole");
        assert_eq!(reopened.indexes(), [1]);
    }
}

#[test]
fn a_full_disk_leaves_the_segment_in_use_writable() {
    let mut rig = Rig::new();
    rig.append(vec![entry(1, 1, 100)]);
    // Room for some batches, but never for the rest of the next segment.
    rig.disk.fill_after(6 * 1024);
    for index in 2..=5 {
        rig.append(vec![entry(index, 1, 100)]);
    }
    assert_eq!(rig.acknowledged.load(Ordering::SeqCst), 5);
}

/// etcd #14370.
#[test]
fn nothing_is_acknowledged_before_its_sync_has_returned() {
    let disk = MemoryDisk::default();
    let sealer = Arc::new(TestSealer::new(1));
    let log = RaftLog::open(Arc::new(disk.clone()), sealer, options()).expect("a new log");
    let (answer, answered) = std::sync::mpsc::channel();
    disk.hold_syncs();
    let syncs = disk.syncs();
    for index in 1..=20 {
        let answer = answer.clone();
        let flushed = Box::new(move |result: Result<(), LogError>| {
            answer
                .send((index, result.is_ok()))
                .expect("the test waits");
        });
        wait(log.append(vec![entry(index, 1, 20)], flushed)).expect("it has room");
        assert_eq!(log.bounds().last, Some(position(index)), "readable at once");
    }
    disk.wait_for_held_sync();
    // Nothing was synced, so a power cut now loses all of it, and nobody was told otherwise.
    assert!(answered.try_recv().is_err());
    let cut = Rig::open(&disk.power_cut(false, |_, _| false)).expect("an empty log");
    assert!(cut.indexes().is_empty());

    disk.release_syncs();
    for index in 1..=20 {
        let answer = answered.recv().expect("the log answers all");
        assert_eq!(answer, (index, true), "in the order they were queued");
    }
    assert!(
        disk.syncs() - syncs <= 20,
        "what waited together went together"
    );
    wait(log.close()).expect("no fault is set");
    let cut = Rig::open(&disk.power_cut(false, |_, _| false)).expect("it is whole");
    assert_eq!(cut.indexes(), (1..=20).collect::<Vec<_>>());
}

#[test]
fn what_waits_together_takes_one_sync() {
    let mut rig = Rig::new();
    rig.append(vec![entry(1, 1, 10)]);
    rig.disk.fill_after(usize::MAX);
    let written = |rig: &Rig| batches(&rig.disk.bytes(&segment::name(1)).expect("it is there"));
    let before = written(&rig).len();
    for index in 2..=50 {
        rig.queue(vec![entry(index, 1, 10)]);
    }
    rig.writer.step();
    assert_eq!(written(&rig).len(), before + 1);
    assert_eq!(rig.acknowledged.load(Ordering::SeqCst), 50);
}

#[test]
fn how_far_it_is_committed_costs_no_sync_of_its_own() {
    let mut rig = Rig::new();
    rig.append(vec![entry(1, 1, 10)]);
    let syncs = rig.disk.syncs();
    wait(rig.log.save_committed(Some(position(1)))).expect("no fault is set");
    rig.writer.step();
    assert_eq!(rig.disk.syncs(), syncs);
    assert_eq!(rig.log.committed(), Some(position(1)));
    rig.append(vec![entry(2, 1, 10)]);
    let reopened = Rig::open(&rig.disk.power_cut(false, |_, _| false)).expect("it is whole");
    assert_eq!(reopened.log.committed(), Some(position(1)));
}

#[test]
fn closing_writes_what_nobody_waited_for() {
    let disk = MemoryDisk::default();
    let sealer = Arc::new(TestSealer::new(1));
    let log = RaftLog::open(Arc::new(disk.clone()), sealer, options()).expect("a new log");
    wait(log.append(vec![entry(1, 1, 10)], Box::new(|_| {}))).expect("it has room");
    wait(log.save_committed(Some(position(1)))).expect("it has room");
    wait(log.close()).expect("no fault is set");
    assert!(matches!(
        wait(log.save_vote(vote(1))),
        Err(LogError::Closed)
    ));
    let reopened = Rig::open(&disk.power_cut(false, |_, _| false)).expect("it is whole");
    assert_eq!(reopened.log.committed(), Some(position(1)));
}

#[test]
fn a_conflicting_suffix_is_replaced_in_memory_and_on_disk() {
    let mut rig = Rig::new();
    for index in 1..=10 {
        rig.append(vec![entry(index, 1, 400)]);
    }
    // Queued in one batch: cut, written anew, cut and written once more.
    wait(rig.log.truncate_after(Some(position(6)))).expect("no fault is set");
    rig.queue(vec![entry(7, 2, 400), entry(8, 2, 400)]);
    rig.queue(vec![entry(8, 3, 400), entry(9, 3, 400)]);
    let kinds = |log: &RaftLog| Seen::of(log).entries.into_values().collect::<Vec<_>>();
    let expected = [1, 1, 1, 1, 1, 1, 2, 3, 3];
    assert_eq!(kinds(&rig.log), expected, "before it is written");
    rig.writer.step();
    for index in 10..=20 {
        rig.append(vec![entry(index, 4, 400)]);
    }
    assert_eq!(kinds(&rig.log)[..9], expected, "from disk");
    let reopened = Rig::open(&rig.disk.duplicate()).expect("it is whole");
    assert_eq!(kinds(&reopened.log)[..9], expected, "after a restart");
}

#[test]
fn a_read_stops_at_its_weight_but_not_before_the_first_entry() {
    let mut rig = Rig::new();
    for index in 1..=20 {
        rig.append(vec![entry(index, 1, 400)]);
    }
    for start in 1..=20 {
        let some = rig.log.read(start..100, 1_000).expect("it reads");
        let expected = 2.min(21 - start) as usize;
        assert_eq!(some.len(), expected, "from {start}");
        assert_eq!(some[0].position.index, start);
        assert_eq!(rig.log.read(start..100, 1).expect("it reads").len(), 1);
    }
    assert!(rig.log.read_recent(1..5, 1_000).is_none(), "long on disk");
    assert_eq!(rig.log.read_recent(20..21, 1).map(|e| e.len()), Some(1));
    assert_eq!(rig.log.read_recent(21..30, 1), Some(vec![]));
    assert_eq!(rig.log.read(0..1, 1).expect("it reads"), []);
}

#[test]
fn a_damaged_entry_is_never_returned() {
    let mut rig = Rig::new();
    for index in 1..=20 {
        rig.append(vec![entry(index, 1, 400)]);
    }
    let name = segment::name(1);
    let mut bytes = rig.disk.bytes(&name).expect("it is there");
    let (at, _) = batches(&bytes)[3];
    bytes[at + 100] ^= 1;
    let file = LogDisk::open(&rig.disk, &name).expect("it is there");
    file.write_all_at(0, &bytes).expect("no fault is set");
    let read = rig.log.read(4..5, 1_000);
    assert!(
        matches!(read, Err(LogError::Damaged { segment: 1, offset, .. }) if offset == at as u64),
        "{read:?}"
    );
    assert!(rig.log.read(1..4, 1_000_000).is_ok());
}

#[test]
fn an_entry_that_fits_no_segment_and_a_hole_are_refused_and_harm_nothing() {
    let mut rig = Rig::new();
    let large = entry(1, 1, SEGMENT_BYTES as usize);
    let refused = wait(rig.log.append(vec![large], Box::new(|_| {})));
    assert!(matches!(refused, Err(LogError::EntryTooLarge { .. })));
    rig.append(vec![entry(1, 1, 10)]);
    let refused = wait(rig.log.append(vec![entry(3, 1, 1)], Box::new(|_| {})));
    assert!(matches!(
        refused,
        Err(LogError::Hole {
            expected: 2,
            found: 3
        })
    ));
    rig.append(vec![entry(2, 1, 10)]);
    assert_eq!(rig.indexes(), [1, 2]);
}

#[test]
fn the_largest_entry_fits_at_any_offset() {
    let overhead = 1_400;
    let mut rig = Rig::new();
    for index in 1..=6 {
        let bytes = if index % 2 == 0 {
            10
        } else {
            SEGMENT_BYTES as usize - overhead
        };
        rig.append(vec![entry(index, 1, bytes)]);
    }
    assert_eq!(rig.acknowledged.load(Ordering::SeqCst), 6);
    let reopened = Rig::open(&rig.disk.duplicate()).expect("it is whole");
    assert_eq!(reopened.indexes(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_full_queue_makes_the_next_append_wait() {
    let small = LogOptions {
        queue_bytes_max: 1_000,
        ..options()
    };
    let disk = MemoryDisk::default();
    let sealer = Arc::new(TestSealer::new(1));
    let (log, mut writer) =
        RaftLog::open_stepped(Arc::new(disk), sealer, small).expect("a new log");
    wait(async {
        let first = log.append(vec![entry(1, 1, 900)], Box::new(|_| {}));
        first.await.expect("it has room");
        let second = log.append(vec![entry(2, 1, 900)], Box::new(|_| {}));
        let mut second = std::pin::pin!(second);
        assert!(futures::poll!(second.as_mut()).is_pending());
        writer.step();
        second.await.expect("there is room again");
    });
    assert_eq!(log.bounds().last, Some(position(2)));
}

#[test]
fn a_reader_beside_the_writer_sees_whole_entries_while_segments_are_purged() {
    let disk = MemoryDisk::default();
    let sealer = Arc::new(TestSealer::new(1));
    let log = RaftLog::open(Arc::new(disk.clone()), sealer, options()).expect("a new log");
    let reader = log.clone();
    let reading = std::thread::spawn(move || {
        let mut reads = 0;
        while reader.vote().is_none() {
            let first = reader.bounds().purged.map_or(1, |purged| purged.index + 1);
            let entries = reader.read(first..first + 5, 4_000).expect("never torn");
            for entry in &entries {
                let index = entry.position.index.to_be_bytes();
                assert!(
                    entry.payload.starts_with(&index),
                    "the entry that was asked for"
                );
            }
            reads += entries.len();
        }
        reads
    });
    for index in 1..=400 {
        let append = log.append(vec![entry(index, 1, 900)], Box::new(|_| {}));
        wait(append).expect("it has room");
        if index % 16 == 0 {
            wait(log.flush()).expect("no fault is set");
            wait(log.purge(position(index - 8))).expect("it has room");
        }
    }
    wait(log.save_vote(vote(1))).expect("no fault is set");
    assert!(reading.join().expect("the reader saw nothing wrong") > 0);
    assert!(segments(&disk)[0] > 5, "segments were purged");
    wait(log.close()).expect("no fault is set");
}

/// For a person: `cargo test -p sealkv-server speed -- --ignored --nocapture`.
#[test]
#[ignore = "prints a figure and judges nothing"]
fn speed_in_groups() {
    let directory = tempfile::tempdir_in(".").expect("there is room for a directory");
    let disk = DirectoryDisk::open(&directory.path().join("log")).expect("it is ours");
    let sealer = Arc::new(keys::StorageKeys::ephemeral());
    let log = RaftLog::open(Arc::new(disk), sealer, LogOptions::default()).expect("a new log");
    for group in [1u64, 16, 128, 1024] {
        let groups = (200_000 / group).min(4_000);
        let first = log.bounds().last.map_or(1, |last| last.index + 1);
        let start = std::time::Instant::now();
        for number in 0..groups {
            let from = first + number * group;
            let entries = (from..from + group).map(|index| entry(index, 1, 248));
            let append = log.append(entries.collect(), Box::new(|_| {}));
            wait(append).expect("it has room");
            wait(log.flush()).expect("the disk works");
        }
        let seconds = start.elapsed().as_secs_f64();
        let rate = (groups * group) as f64 / seconds;
        println!("{rate:>10.0} entries/s in groups of {group}, one sync each");
    }
    wait(log.close()).expect("the disk works");
}

#[test]
fn a_real_directory_keeps_a_log_and_its_files_to_their_owner() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let path = directory.path().join("log");
    let sealer = Arc::new(keys::StorageKeys::ephemeral());
    let open = || {
        let disk = Arc::new(DirectoryDisk::open(&path).expect("it is ours"));
        RaftLog::open(disk, sealer.clone(), options()).expect("it is whole")
    };
    let log = open();
    for index in 1..=100 {
        let append = log.append(vec![entry(index, 1, 900)], Box::new(|_| {}));
        wait(append).expect("it has room");
    }
    wait(log.save_vote(vote(5))).expect("the disk works");
    wait(log.purge(position(60))).expect("the disk works");
    wait(log.close()).expect("the disk works");
    let log = open();
    assert_eq!(log.vote(), Some(vote(5)));
    let entries = log.read(0..u64::MAX, usize::MAX).expect("it reads");
    assert_eq!(entries.len(), 40);
    for file in std::fs::read_dir(&path).expect("it is ours") {
        let file = file.expect("it is ours").path();
        let mode = std::fs::metadata(&file).expect("it is ours").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let bytes = std::fs::read(&file).expect("it is ours");
        let plain = bytes.windows(20).any(|window| window == [1u8; 20]);
        assert!(!plain, "no payload stands readable on disk");
    }
    wait(log.close()).expect("the disk works");
}
