//! The log as its users hold it.
//!
//! Promise: what a call queued is readable when the call returns and is written in the order of
//! the calls; `append` and `save_vote` say when it is on disk. The queue is bounded in bytes: a
//! call waits for room.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use super::batch::{self, BLOCK_BYTES, BlockSealer};
use super::disk::{LogDisk, LogFile};
use super::error::{Damage, LogError};
use super::head::{BatchPlace, DurableLog};
use super::reader;
use super::record::{HEAD_BYTES_MAX, Head, LogEntry, LogPosition, LogVote, Record};
use super::recover::recover;
use super::segment;
use super::window::Window;
use super::writer::{LogWriter, Request};

/// Called once, on the writer's thread, when a request is on disk or has failed.
pub type Flushed = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// The sizes of a log.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// The length of new segments; a multiple of 512 and at least 4096.
    pub segment_bytes: u64,
    /// Requests waiting together go into one batch up to this size.
    pub batch_bytes_max: usize,
    /// How much of the newest entries stays in memory.
    pub window_bytes_max: usize,
    /// How much may wait to be written.
    pub queue_bytes_max: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            batch_bytes_max: 4 * 1024 * 1024,
            window_bytes_max: 16 * 1024 * 1024,
            queue_bytes_max: 32 * 1024 * 1024,
        }
    }
}

/// What a log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// Up to here entries are gone.
    pub purged: Option<LogPosition>,
    /// The last entry, or the purge mark if there is none.
    pub last: Option<LogPosition>,
}

/// A handle on the log. Clones are the same log; one of them at a time should write.
#[derive(Clone)]
pub struct RaftLog {
    shared: Arc<Shared>,
    requests: Sender<Request>,
    records_bytes_max: usize,
    queue_bytes_max: usize,
}

impl RaftLog {
    /// Whether a log lies on this disk. Opening a log where none is makes one, so a caller who
    /// knows that there was one asks first.
    pub fn exists(disk: &dyn LogDisk) -> Result<bool, LogError> {
        Ok(!segment::list(disk)?.0.is_empty())
    }

    /// Opens a log and starts its thread.
    pub fn open(
        disk: Arc<dyn LogDisk>,
        sealer: Arc<dyn BlockSealer>,
        options: LogOptions,
    ) -> Result<Self, LogError> {
        let (log, writer) = Self::open_stepped(disk, sealer, options)?;
        std::thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| LogError::NoThread {
                source: Arc::new(source),
            })?;
        Ok(log)
    }

    /// Opens a log whose writer the caller drives.
    pub fn open_stepped(
        disk: Arc<dyn LogDisk>,
        sealer: Arc<dyn BlockSealer>,
        mut options: LogOptions,
    ) -> Result<(Self, LogWriter), LogError> {
        assert!(
            options.segment_bytes >= 4096
                && options.segment_bytes.is_multiple_of(BLOCK_BYTES as u64),
            "segments are whole blocks with room for a batch and its end"
        );
        let records_bytes_max = records_bytes_max(options.segment_bytes, &*sealer);
        options.batch_bytes_max = options.batch_bytes_max.min(records_bytes_max);
        let window = Window::new(options.window_bytes_max);
        let found = recover(&*disk, &*sealer, options.segment_bytes, window)?;
        let shared = Arc::new(Shared {
            disk,
            sealer,
            queue: Semaphore::new(options.queue_bytes_max),
            state: Mutex::new(State {
                start: found.log.extents.front().map_or(0, |extent| extent.first),
                view: found.log.head,
                durable: found.log,
                window: found.window,
                flushed: 0,
                requests: 0,
                failure: None,
                files: found.files,
            }),
        });
        let (requests, queued) = mpsc::channel();
        let writer = LogWriter::new(Arc::clone(&shared), queued, options, found.tail);
        let log = Self {
            shared,
            requests,
            records_bytes_max,
            queue_bytes_max: options.queue_bytes_max,
        };
        Ok((log, writer))
    }

    /// Queues entries; `flushed` is called once they are on disk, with everything queued before.
    /// An entry at or below the last index replaces it and all behind it. If this fails, nothing
    /// was taken and `flushed` is never called.
    pub async fn append(&self, entries: Vec<LogEntry>, flushed: Flushed) -> Result<(), LogError> {
        let records: Vec<Record> = entries.into_iter().map(Record::Entry).collect();
        let too_large = records
            .iter()
            .map(Record::encoded_bytes_max)
            .find(|bytes| *bytes > self.records_bytes_max);
        if let Some(bytes) = too_large {
            return Err(LogError::EntryTooLarge {
                bytes,
                bytes_max: self.records_bytes_max,
            });
        }
        self.queue(records, true, Some(flushed)).await
    }

    /// Returns when the vote is on disk, with everything queued before.
    pub async fn save_vote(&self, vote: LogVote) -> Result<(), LogError> {
        self.queue_and_wait(vec![Record::Vote(vote)]).await
    }

    /// Queues how far the log is committed. It goes to disk with whatever is written next: losing
    /// it costs a restart some waiting, nothing else.
    pub async fn save_committed(&self, committed: Option<LogPosition>) -> Result<(), LogError> {
        let record = Record::Committed(committed);
        self.queue(vec![record], false, None).await
    }

    /// Removes the entries behind `after`, all of them if it is none.
    pub async fn truncate_after(&self, after: Option<LogPosition>) -> Result<(), LogError> {
        let record = Record::TruncateAfter(after);
        self.queue(vec![record], true, None).await
    }

    /// Removes the entries up to `upto`, which may be past the last. Segments go when nothing in
    /// them is needed and this is on disk.
    pub async fn purge(&self, upto: LogPosition) -> Result<(), LogError> {
        let record = Record::Purge {
            upto,
            first_segment: 0,
        };
        self.queue(vec![record], true, None).await
    }

    /// Returns when everything queued before is on disk.
    pub async fn flush(&self) -> Result<(), LogError> {
        self.queue_and_wait(Vec::new()).await
    }

    /// Writes what is queued and ends the writer. Every later write fails.
    pub async fn close(&self) -> Result<(), LogError> {
        let (answer, answered) = oneshot::channel();
        self.send(Vec::new(), true, Some(answering(answer)), 0, true)?;
        answered.await.unwrap_or(Err(LogError::Closed))
    }

    /// The last vote that was saved, on disk or not.
    pub fn vote(&self) -> Option<LogVote> {
        self.shared.state.lock().view.vote
    }

    /// How far the log was last said to be committed.
    pub fn committed(&self) -> Option<LogPosition> {
        self.shared.state.lock().view.committed
    }

    pub fn bounds(&self) -> LogBounds {
        let view = self.shared.state.lock().view;
        LogBounds {
            purged: view.purged,
            last: view.last,
        }
    }

    /// The entries of `range` that the log holds, if all of them are in memory; `bytes_max` as
    /// for `read`.
    pub fn read_recent(&self, range: Range<u64>, bytes_max: usize) -> Option<Vec<LogEntry>> {
        reader::read_recent(&self.shared.state.lock(), range, bytes_max)
    }

    /// The entries of `range` that the log holds, from disk if need be, which blocks. Stops before
    /// the entry with which they would weigh more than `bytes_max`, but not before the first.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        reader::read(&self.shared, range, bytes_max)
    }

    async fn queue_and_wait(&self, records: Vec<Record>) -> Result<(), LogError> {
        let (answer, answered) = oneshot::channel();
        self.queue(records, true, Some(answering(answer))).await?;
        answered.await.unwrap_or(Err(LogError::Closed))
    }

    async fn queue(
        &self,
        records: Vec<Record>,
        urgent: bool,
        done: Option<Flushed>,
    ) -> Result<(), LogError> {
        let mut queue_bytes = 0;
        if urgent {
            // What is not urgent stays in the queue until something urgent comes, so it takes no
            // room: an append would wait for it for ever.
            let weight: usize = records.iter().map(Record::encoded_bytes_max).sum();
            queue_bytes = weight.min(self.queue_bytes_max);
            let permits = u32::try_from(queue_bytes).unwrap_or(u32::MAX);
            queue_bytes = permits as usize;
            match self.shared.queue.acquire_many(permits).await {
                Ok(permit) => permit.forget(),
                Err(_) => return Err(self.shared.failure().unwrap_or(LogError::Closed)),
            }
        }
        self.send(records, urgent, done, queue_bytes, false)
    }

    /// Takes effect for readers and joins the queue in one step, so both see the same order.
    fn send(
        &self,
        records: Vec<Record>,
        urgent: bool,
        done: Option<Flushed>,
        queue_bytes: usize,
        closes: bool,
    ) -> Result<(), LogError> {
        let mut state = self.shared.state.lock();
        let number = state.take(&records)?;
        if closes {
            state.failure = Some(LogError::Closed);
        }
        let request = Request {
            number,
            records,
            urgent,
            done,
            queue_bytes,
            closes,
        };
        self.requests.send(request).map_err(|_| LogError::Closed)
    }
}

fn answering(answer: oneshot::Sender<Result<(), LogError>>) -> Flushed {
    Box::new(move |result| {
        // Whoever asked may have gone.
        let _ = answer.send(result);
    })
}

/// How much one batch of a fresh segment can hold besides the segment's head and end.
fn records_bytes_max(segment_bytes: u64, sealer: &dyn BlockSealer) -> usize {
    let overhead = batch::batch_bytes(HEAD_BYTES_MAX, sealer) + BLOCK_BYTES;
    usize::try_from(segment_bytes)
        .unwrap_or(usize::MAX)
        .saturating_sub(overhead)
        .min(u32::MAX as usize / 2)
}

/// What the handles and the writer share. Lock order: `state` is a leaf.
pub(super) struct Shared {
    pub(super) disk: Arc<dyn LogDisk>,
    pub(super) sealer: Arc<dyn BlockSealer>,
    queue: Semaphore,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    /// What the calls so far make of the log; what users see.
    pub(super) view: Head,
    /// Where the log began before anything was purged.
    pub(super) start: u64,
    /// What is on disk.
    pub(super) durable: DurableLog,
    pub(super) window: Window,
    /// The last request that is on disk.
    flushed: u64,
    requests: u64,
    failure: Option<LogError>,
    pub(super) files: BTreeMap<u64, Arc<dyn LogFile>>,
}

impl State {
    /// Takes the records of a request, all or none, and numbers it.
    fn take(&mut self, records: &[Record]) -> Result<u64, LogError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let mut view = self.view;
        for record in records {
            view.apply(record).map_err(hole)?;
        }
        self.requests += 1;
        for record in records {
            self.show(record);
        }
        self.window.shrink(self.flushed);
        Ok(self.requests)
    }

    fn show(&mut self, record: &Record) {
        if let (Record::Entry(entry), None) = (record, self.view.last) {
            self.start = entry.position.index;
        }
        self.view
            .apply(record)
            .expect("the same records were tried on a copy");
        match record {
            Record::Entry(entry) => self.window.push(entry.clone(), self.requests),
            Record::TruncateAfter(_) => {
                let next = self.view.next_index().unwrap_or(0);
                self.window.truncate_from(next);
            }
            Record::Purge { .. } => self.window.drop_below(self.view.first_index()),
            _ => {}
        }
    }
}

fn hole(damage: Damage) -> LogError {
    match damage {
        Damage::EntryGap { expected, found } => LogError::Hole { expected, found },
        // Callers queue no other record that could be refused.
        _ => LogError::Closed,
    }
}

impl Shared {
    pub(super) fn failure(&self) -> Option<LogError> {
        let failure = self.state.lock().failure.clone();
        // A closed log still writes what was queued before.
        failure.filter(|failure| !matches!(failure, LogError::Closed))
    }

    /// For good: later calls get this, waiting ones do too.
    pub(super) fn fail(&self, failure: LogError) {
        tracing::error!(%failure, "the raft log has failed and takes nothing any more");
        self.state.lock().failure = Some(failure);
        self.queue.close();
    }

    pub(super) fn durable_head(&self) -> Head {
        self.state.lock().durable.head
    }

    pub(super) fn first_segment_above(&self, index: u64) -> Option<u64> {
        self.state.lock().durable.first_segment_above(index)
    }

    /// These records are on disk now.
    pub(super) fn publish(&self, records: &[Record], at: BatchPlace) {
        let mut state = self.state.lock();
        for record in records {
            state
                .durable
                .apply(record, at)
                .expect("the view took the same records in the same order");
        }
    }

    pub(super) fn flushed_upto(&self, request: u64) {
        let mut state = self.state.lock();
        state.flushed = request;
        state.window.shrink(request);
    }

    pub(super) fn give_back(&self, queue_bytes: usize) {
        self.queue.add_permits(queue_bytes);
    }

    pub(super) fn add_file(&self, segment: u64, file: Arc<dyn LogFile>) {
        self.state.lock().files.insert(segment, file);
    }

    /// The segments that hold nothing needed any more; readers do not find them from now on.
    pub(super) fn take_unneeded_files(&self) -> Vec<u64> {
        let mut state = self.state.lock();
        let first = state.durable.head.first_segment;
        let needed = state.files.split_off(&first);
        let unneeded = std::mem::replace(&mut state.files, needed);
        unneeded.into_keys().collect()
    }
}
