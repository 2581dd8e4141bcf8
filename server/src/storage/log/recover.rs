//! Opening a log: replay, cut the torn tail, refuse everything else.
//!
//! Promise: after `recover` the tail is zero from its offset on, and no segment lies there that is
//! not needed. A crash in the middle of recovering leaves a log that recovers the same way.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::batch::{self, BLOCK_BYTES, BlockSealer, Header, TAG_BYTES, Tag};
use super::disk::{LogDisk, LogFile};
use super::error::{Damage, DiskOperation, LogError};
use super::head::{BatchPlace, DurableLog};
use super::record::Record;
use super::segment::{self, SPARE};
use super::spare::Spare;
use super::window::Window;

/// Where the next batch goes.
pub(super) struct Tail {
    pub(super) segment: u64,
    pub(super) file: Arc<dyn LogFile>,
    pub(super) capacity: u64,
    pub(super) offset: u64,
    pub(super) next_batch: u64,
    pub(super) chain: Tag,
}

pub(super) struct Recovered {
    pub(super) log: DurableLog,
    pub(super) window: Window,
    pub(super) tail: Tail,
    pub(super) files: BTreeMap<u64, Arc<dyn LogFile>>,
}

const FIRST_SEGMENT: u64 = 1;
const BEFORE_FIRST: (u64, Tag) = (1, [0; TAG_BYTES]);

/// Opens what lies on the disk, or makes a new log where nothing does.
pub(super) fn recover(
    disk: &dyn LogDisk,
    sealer: &dyn BlockSealer,
    segment_bytes: u64,
    window: Window,
) -> Result<Recovered, LogError> {
    let (segments, has_spare) = segment::list(disk)?;
    if has_spare {
        // Nobody knows how much of it is zero.
        segment::remove(disk, SPARE)?;
        segment::sync_names(disk)?;
    }
    let run = newest_run(&segments);
    let Some(oldest) = run.first().copied() else {
        return create(disk, segment_bytes, window);
    };
    let mut replay = Replay::new(disk, sealer, run, window)?;
    let end = replay.run()?;
    replay.check_start(oldest)?;
    let tail = replay.cut(end, segment_bytes)?;
    let log = replay.log;
    let mut files = replay.files;
    for unneeded in segments.iter().copied() {
        let live = (log.head.first_segment..=tail.segment).contains(&unneeded);
        if !live {
            segment::remove(disk, &segment::name(unneeded))?;
            files.remove(&unneeded);
        }
    }
    segment::sync_names(disk)?;
    Ok(Recovered {
        log,
        window: replay.window,
        tail,
        files,
    })
}

fn create(disk: &dyn LogDisk, segment_bytes: u64, window: Window) -> Result<Recovered, LogError> {
    let spare = Spare::create(disk, segment_bytes)?;
    let file = spare.become_segment(disk, FIRST_SEGMENT)?;
    let (next_batch, chain) = BEFORE_FIRST;
    let mut log = DurableLog::default();
    log.head.first_segment = FIRST_SEGMENT;
    Ok(Recovered {
        log,
        window,
        tail: Tail {
            segment: FIRST_SEGMENT,
            file: Arc::clone(&file),
            capacity: segment_bytes,
            offset: 0,
            next_batch,
            chain,
        },
        files: BTreeMap::from([(FIRST_SEGMENT, file)]),
    })
}

/// The newest segments without a gap in their ids. Older ones are leftovers of a purge whose
/// removals reached the disk in another order, or `check_start` finds that one is missing.
fn newest_run(segments: &[u64]) -> &[u64] {
    let gap = segments
        .windows(2)
        .rposition(|pair| pair[0] + 1 != pair[1])
        .map_or(0, |before| before + 1);
    &segments[gap..]
}

/// Where replaying stopped.
struct End {
    segment: u64,
    offset: u64,
    bytes: Vec<u8>,
}

struct Replay<'a> {
    sealer: &'a dyn BlockSealer,
    run: &'a [u64],
    files: BTreeMap<u64, Arc<dyn LogFile>>,
    log: DurableLog,
    window: Window,
    /// The number and chain of the next batch; unknown before the first of a purged log.
    follows: Option<(u64, Tag)>,
}

impl<'a> Replay<'a> {
    fn new(
        disk: &dyn LogDisk,
        sealer: &'a dyn BlockSealer,
        run: &'a [u64],
        window: Window,
    ) -> Result<Self, LogError> {
        let mut files = BTreeMap::new();
        for id in run {
            let name = segment::name(*id);
            let file = disk
                .open(&name)
                .map_err(DiskOperation::Open.failed(&name))?;
            files.insert(*id, file);
        }
        let mut log = DurableLog::default();
        log.head.first_segment = FIRST_SEGMENT;
        Ok(Self {
            sealer,
            run,
            files,
            log,
            window,
            follows: (run.first() == Some(&FIRST_SEGMENT)).then_some(BEFORE_FIRST),
        })
    }

    fn run(&mut self) -> Result<End, LogError> {
        for id in self.run {
            let bytes = self.read(*id)?;
            if let Some(offset) = self.segment(*id, &bytes)? {
                return Ok(End {
                    segment: *id,
                    offset,
                    bytes,
                });
            }
        }
        // The last one said that it goes on.
        let missing = self.run.last().map_or(FIRST_SEGMENT, |last| last + 1);
        Err(LogError::MissingSegment { segment: missing })
    }

    /// Replays one segment. The offset where the log ends, or none if it goes on in the next.
    fn segment(&mut self, id: u64, bytes: &[u8]) -> Result<Option<u64>, LogError> {
        let mut offset = 0;
        loop {
            let rest = &bytes[offset.min(bytes.len())..];
            let opened = match batch::open(rest, id, self.follows, self.sealer) {
                Ok(opened) => opened,
                Err(damage) => {
                    self.check_torn(id, bytes, offset, damage)?;
                    return Ok(Some(offset as u64));
                }
            };
            let at = BatchPlace {
                segment: id,
                offset: offset as u64,
                bytes: opened.header.batch_bytes(),
            };
            let number = opened.header.place.batch;
            let rolls = self
                .take(&opened.records, at)
                .map_err(|damage| damaged(at, Some(number), damage))?;
            self.follows = Some((number + 1, opened.tag));
            if rolls {
                return Ok(None);
            }
            offset += at.bytes;
        }
    }

    /// Takes the records of one batch. Whether the log goes on in the next segment.
    fn take(&mut self, records: &[Record], at: BatchPlace) -> Result<bool, Damage> {
        let head = match records.first() {
            Some(Record::Head(head)) if at.offset == 0 => Some(*head),
            _ => None,
        };
        if head.is_some() != (at.offset == 0) {
            return Err(Damage::HeadMismatch);
        }
        if let Some(head) = head.filter(|_| self.run.first() == Some(&at.segment)) {
            // What the segments before it said; they may be gone.
            self.log.head = head;
        }
        for record in records {
            self.log.apply(record, at)?;
            self.keep(record);
        }
        match records.last() {
            Some(Record::Roll { segment }) if *segment == at.segment + 1 => Ok(true),
            Some(Record::Roll { .. }) => Err(Damage::RecordUnreadable),
            _ => Ok(false),
        }
    }

    fn keep(&mut self, record: &Record) {
        match record {
            Record::Entry(entry) => {
                self.window.push(entry.clone(), 0);
                self.window.shrink(0);
            }
            Record::TruncateAfter(_) => {
                let next = self.log.head.next_index().unwrap_or(0);
                self.window.truncate_from(next);
            }
            Record::Purge { .. } => self.window.drop_below(self.log.head.first_index()),
            _ => {}
        }
    }

    /// Whether the batch that did not open may have been in flight at a power cut.
    fn check_torn(
        &self,
        id: u64,
        bytes: &[u8],
        offset: usize,
        damage: Damage,
    ) -> Result<(), LogError> {
        let rest = &bytes[offset.min(bytes.len())..];
        let number = self
            .follows
            .map(|(number, _)| number)
            .or_else(|| Header::parse(rest).map(|header| header.place.batch));
        // The first batch of a segment whose predecessor is gone was durable before that went.
        let torn = damage.may_be_torn()
            && self.follows.is_some()
            && !has_header_above(rest.get(BLOCK_BYTES..), id, number)
            && !self.later_segment_has_header(id, number)?;
        if torn {
            return Ok(());
        }
        let at = BatchPlace {
            segment: id,
            offset: offset as u64,
            bytes: 0,
        };
        Err(damaged(at, number, damage))
    }

    fn later_segment_has_header(&self, id: u64, number: Option<u64>) -> Result<bool, LogError> {
        for later in self.run.iter().filter(|later| **later > id) {
            if has_header_above(Some(&self.read(*later)?), *later, number) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn read(&self, id: u64) -> Result<Vec<u8>, LogError> {
        let name = segment::name(id);
        let file = &self.files[&id];
        let failed = || DiskOperation::Read.failed(&name);
        let length = file.len().map_err(failed())?;
        let length = usize::try_from(length).map_err(|e| failed()(std::io::Error::other(e)))?;
        let mut bytes = vec![0; length];
        file.read_exact_at(0, &mut bytes).map_err(failed())?;
        Ok(bytes)
    }

    /// Everything from the purge mark to the last entry must be there, and the segments with it.
    fn check_start(&self, oldest: u64) -> Result<(), LogError> {
        let head = &self.log.head;
        if oldest > head.first_segment {
            return Err(LogError::MissingSegment {
                segment: head.first_segment,
            });
        }
        let holds_entries = head.last.is_some() && head.last != head.purged;
        match (holds_entries, self.log.extents.front()) {
            (true, None) => Err(LogError::MissingSegment {
                segment: oldest.saturating_sub(1),
            }),
            (true, Some(extent)) if head.purged.is_some() && extent.first > head.first_index() => {
                Err(LogError::Hole {
                    expected: head.first_index(),
                    found: extent.first,
                })
            }
            _ => Ok(()),
        }
    }

    /// Zeroes what is behind the end, so that nothing of a torn batch is ever read again.
    fn cut(&self, end: End, segment_bytes: u64) -> Result<Tail, LogError> {
        let file = Arc::clone(&self.files[&end.segment]);
        let name = segment::name(end.segment);
        let length = end.bytes.len() as u64;
        let mut changed = false;
        let mut zero = |from: u64, bytes: usize| {
            changed = true;
            file.write_all_at(from, &vec![0; bytes])
                .map_err(DiskOperation::Write.failed(&name))
        };
        let mut at = end.offset;
        for block in end.bytes[(end.offset as usize).min(end.bytes.len())..].chunks(BLOCK_BYTES) {
            if block.iter().any(|byte| *byte != 0) {
                zero(at, block.len())?;
            }
            at += block.len() as u64;
        }
        let mut extended = length.max(end.offset);
        while extended < segment_bytes {
            let chunk = (segment_bytes - extended).min(256 * 1024);
            zero(extended, chunk as usize)?;
            extended += chunk;
        }
        if changed {
            file.sync_data()
                .map_err(DiskOperation::Sync.failed(&name))?;
        }
        let (next_batch, chain) = self
            .follows
            .expect("check_torn refuses an end without a known batch before it");
        Ok(Tail {
            segment: end.segment,
            file,
            capacity: extended,
            offset: end.offset,
            next_batch,
            chain,
        })
    }
}

fn damaged(at: BatchPlace, batch: Option<u64>, damage: Damage) -> LogError {
    LogError::Damaged {
        segment: at.segment,
        offset: at.offset,
        batch,
        damage,
    }
}

fn has_header_above(bytes: Option<&[u8]>, segment: u64, number: Option<u64>) -> bool {
    bytes
        .unwrap_or_default()
        .chunks(BLOCK_BYTES)
        .filter_map(Header::parse)
        .any(|header| {
            header.place.segment == segment && number.is_none_or(|n| header.place.batch > n)
        })
}
