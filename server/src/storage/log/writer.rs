//! The one writer: takes what is queued, writes it as one batch, syncs, and says so.
//!
//! Promise: one batch is in flight at a time; a request is answered after the sync that covers all
//! of it has returned, and requests are answered in the order they were queued. After the first
//! failure every request gets that failure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use super::batch::{self, BLOCK_BYTES, Place};
use super::error::{DiskOperation, LogError};
use super::head::BatchPlace;
use super::raft_log::{Flushed, LogOptions, Shared};
use super::record::Record;
use super::recover::Tail;
use super::segment;
use super::spare::Spare;
use crate::metrics::metrics;

/// What was asked of the log.
pub(super) struct Request {
    pub(super) number: u64,
    pub(super) records: Vec<Record>,
    /// Whether somebody waits for it. What is not urgent goes along with what is.
    pub(super) urgent: bool,
    pub(super) done: Option<Flushed>,
    /// Room it takes in the queue, given back when it is answered.
    pub(super) queue_bytes: usize,
    pub(super) closes: bool,
}

struct Answer {
    number: u64,
    done: Option<Flushed>,
    queue_bytes: usize,
}

enum Item {
    Record(Record),
    Answer(Answer),
}

/// The writing half of a log. `run` belongs on a thread of its own; a simulation calls `step`.
pub struct LogWriter {
    shared: Arc<Shared>,
    requests: Receiver<Request>,
    options: LogOptions,
    tail: Tail,
    spare: Option<Spare>,
    /// Zeroing ahead failed; it is tried again when the segment is needed.
    spare_failed: bool,
    backlog: VecDeque<Item>,
    urgent: bool,
    closing: bool,
    /// Who asked to close hears of it when nothing will touch the disk any more.
    closed: Option<Flushed>,
}

impl LogWriter {
    pub(super) fn new(
        shared: Arc<Shared>,
        requests: Receiver<Request>,
        options: LogOptions,
        tail: Tail,
    ) -> Self {
        Self {
            shared,
            requests,
            options,
            tail,
            spare: None,
            spare_failed: false,
            backlog: VecDeque::new(),
            urgent: false,
            closing: false,
            closed: None,
        }
    }

    /// Writes until the log is closed or its last handle is gone.
    pub fn run(mut self) {
        while !self.closing {
            match self.requests.recv() {
                Ok(request) => self.take(request),
                Err(_) => self.close(),
            }
            self.step();
        }
    }

    /// Writes everything that is queued. Does not wait for more.
    pub fn step(&mut self) {
        self.collect();
        while self.urgent {
            self.write_batch();
            self.collect();
        }
        if let Some(closed) = self.closed.take() {
            closed(self.shared.failure().map_or(Ok(()), Err));
        }
    }

    fn collect(&mut self) {
        loop {
            match self.requests.try_recv() {
                Ok(request) => self.take(request),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.close();
                    return;
                }
            }
        }
    }

    fn close(&mut self) {
        if !self.closing {
            self.closing = true;
            self.urgent = !self.backlog.is_empty();
        }
    }

    fn take(&mut self, mut request: Request) {
        if request.closes {
            self.closing = true;
            self.closed = request.done.take();
        }
        self.urgent |= request.urgent;
        self.backlog
            .extend(request.records.into_iter().map(Item::Record));
        self.backlog.push_back(Item::Answer(Answer {
            number: request.number,
            done: request.done,
            queue_bytes: request.queue_bytes,
        }));
    }

    fn write_batch(&mut self) {
        if let Some(failure) = self.shared.failure() {
            return self.answer_all(&failure);
        }
        let (records, answers) = self.next_batch();
        let written = if records.is_empty() {
            Ok(0)
        } else {
            self.write(&records)
        };
        match written {
            Ok(bytes) => {
                self.answer(answers, &Ok(()));
                self.urgent = !self.backlog.is_empty() && self.urgent;
                self.tend_segments(bytes);
            }
            Err(failure) => {
                self.shared.fail(failure.clone());
                self.answer(answers, &Err(failure.clone()));
                self.answer_all(&failure);
            }
        }
    }

    /// The records that fit into one batch, at least one, and the answers that are due after it.
    fn next_batch(&mut self) -> (Vec<Record>, Vec<Answer>) {
        let mut bytes = 0;
        let mut records = Vec::new();
        let mut answers = Vec::new();
        while let Some(item) = self.backlog.pop_front() {
            match item {
                Item::Answer(answer) => answers.push(answer),
                Item::Record(record) => {
                    bytes += record.encoded_bytes_max();
                    if bytes > self.options.batch_bytes_max && !records.is_empty() {
                        self.backlog.push_front(Item::Record(record));
                        break;
                    }
                    records.push(self.complete(record));
                }
            }
        }
        (records, answers)
    }

    /// Only the writer knows which segment the entries still needed begin in.
    fn complete(&self, record: Record) -> Record {
        match record {
            Record::Purge { upto, .. } => {
                let needed = self.shared.first_segment_above(upto.index);
                Record::Purge {
                    upto,
                    first_segment: needed.unwrap_or(self.tail.segment),
                }
            }
            other => other,
        }
    }

    /// Writes and syncs one batch, then lets readers know where it lies.
    fn write(&mut self, records: &[Record]) -> Result<u64, LogError> {
        let size = records.iter().map(Record::encoded_bytes_max).sum();
        let sealer = Arc::clone(&self.shared.sealer);
        let needed = batch::batch_bytes(size, &*sealer) + BLOCK_BYTES;
        if self.tail.offset > 0 && self.tail.offset + needed as u64 > self.tail.capacity {
            self.roll()?;
        }
        let mut encoded = Vec::with_capacity(size);
        let head = (self.tail.offset == 0).then(|| Record::Head(self.shared.durable_head()));
        for record in head.iter().chain(records) {
            record.encode(&mut encoded);
        }
        let at = self.append_batch(encoded)?;
        self.shared.publish(records, at);
        Ok(at.bytes as u64)
    }

    fn append_batch(&mut self, encoded: Vec<u8>) -> Result<BatchPlace, LogError> {
        let tail = &mut self.tail;
        let place = Place {
            segment: tail.segment,
            batch: tail.next_batch,
            chain: tail.chain,
        };
        let sealed = batch::seal(place, encoded, &*self.shared.sealer)?;
        let end = tail.offset + sealed.bytes.len() as u64;
        assert!(end <= tail.capacity, "a batch never outgrows its segment");
        let name = segment::name(tail.segment);
        let writing = metrics().wal_write_seconds.start_timer();
        tail.file
            .write_all_at(tail.offset, &sealed.bytes)
            .map_err(DiskOperation::Write.failed(&name))?;
        writing.observe_duration();
        let syncing = metrics().wal_fsync_seconds.start_timer();
        tail.file
            .sync_data()
            .map_err(DiskOperation::Sync.failed(&name))?;
        syncing.observe_duration();
        metrics().wal_write_bytes.add(sealed.bytes.len() as i64);
        let at = BatchPlace {
            segment: tail.segment,
            offset: tail.offset,
            bytes: sealed.bytes.len(),
        };
        tail.offset = end;
        tail.next_batch += 1;
        tail.chain = sealed.tag;
        Ok(at)
    }

    /// Goes on in a new segment. It exists before the old one says so, and the old one says so
    /// before anything is in the new one: whichever is lost, the other tells.
    fn roll(&mut self) -> Result<(), LogError> {
        let next = self.tail.segment + 1;
        let disk = Arc::clone(&self.shared.disk);
        let spare = match self.spare.take() {
            Some(spare) => spare,
            None => Spare::create(&*disk, self.options.segment_bytes)?,
        };
        self.spare_failed = false;
        let capacity = spare.segment_bytes();
        let file = spare.become_segment(&*disk, next)?;
        let mut encoded = Vec::new();
        Record::Roll { segment: next }.encode(&mut encoded);
        self.append_batch(encoded)?;
        self.shared.add_file(next, Arc::clone(&file));
        self.tail.segment = next;
        self.tail.file = file;
        self.tail.capacity = capacity;
        self.tail.offset = 0;
        Ok(())
    }

    fn answer(&mut self, answers: Vec<Answer>, result: &Result<(), LogError>) {
        if let (Some(last), Ok(())) = (answers.last(), result) {
            self.shared.flushed_upto(last.number);
        }
        for answer in answers {
            self.shared.give_back(answer.queue_bytes);
            if let Some(done) = answer.done {
                done(result.clone());
            }
        }
    }

    fn answer_all(&mut self, failure: &LogError) {
        self.urgent = false;
        let backlog = std::mem::take(&mut self.backlog);
        let answers = backlog.into_iter().filter_map(|item| match item {
            Item::Answer(answer) => Some(answer),
            Item::Record(_) => None,
        });
        self.answer(answers.collect(), &Err(failure.clone()));
    }

    /// What can wait until the batch was answered: remove purged segments, zero the next one.
    fn tend_segments(&mut self, written: u64) {
        if let Err(failure) = self.remove_purged() {
            self.shared.fail(failure);
            return;
        }
        if self.spare_failed {
            return;
        }
        if let Err(error) = self.zero_ahead(written.saturating_mul(2)) {
            tracing::warn!(%error, "the next segment of the raft log cannot be prepared yet");
            self.spare = None;
            self.spare_failed = true;
            // Whatever is left of it is removed when the segment is needed or at the next start.
            let _ = segment::remove(&*self.shared.disk, segment::SPARE);
        }
    }

    fn zero_ahead(&mut self, bytes: u64) -> Result<(), LogError> {
        if self.spare.is_none() {
            let spare = Spare::create(&*self.shared.disk, self.options.segment_bytes)?;
            self.spare = Some(spare);
        }
        match &mut self.spare {
            Some(spare) => spare.advance(bytes),
            None => Ok(()),
        }
    }

    fn remove_purged(&mut self) -> Result<(), LogError> {
        for old in self.shared.take_unneeded_files() {
            segment::remove(&*self.shared.disk, &segment::name(old))?;
        }
        Ok(())
    }
}
