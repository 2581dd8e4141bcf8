//! The raft log as openraft asks for it.
//!
//! Promise: openraft hears that something is flushed from the log's own thread, after its sync and
//! never before. Reads in memory do not leave the calling task; reads from disk do.
//! Not known here: segments, sealing, what a command says.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};

use futures::Stream;
use futures::stream;
use openraft::OptionalSend;
use openraft::async_runtime::AsyncRuntime;
use openraft::entry::RaftEntry;
use openraft::errors::LeaderChanged;
use openraft::storage::{
    IOFlushed, LeaderBoundedStreamError, LeaderBoundedStreamResult, LogState, RaftLogReader,
    RaftLogStorage,
};
use openraft::type_config::alias::{EntryOf, LeaderIdOf, VoteOf};

use super::types::{self, Entry, LogId, Runtime, TypeConfig, Vote};
use crate::storage::log::{LogEntry, LogError, LogPosition, LogVote, RaftLog};

/// One read, and with it one message to a follower, weighs at most this.
const READ_BYTES_MAX: usize = 2 * 1024 * 1024;

/// openraft's log storage and, cloned, its readers.
#[derive(Clone)]
pub struct LogStore {
    log: RaftLog,
}

impl LogStore {
    pub fn new(log: RaftLog) -> Self {
        Self { log }
    }

    /// The log underneath, to close it.
    pub fn log(&self) -> &RaftLog {
        &self.log
    }

    /// At least one entry of `range` if the log holds its start.
    async fn read(&self, range: Range<u64>) -> io::Result<Vec<Entry>> {
        if let Some(entries) = self.log.read_recent(range.clone(), READ_BYTES_MAX) {
            return decode(entries);
        }
        let log = self.log.clone();
        let read = Runtime::spawn_blocking(move || log.read(range, READ_BYTES_MAX));
        decode(read.await?.map_err(io_error)?)
    }

    /// All entries of `range` that the log holds, in reads of the usual weight.
    async fn read_all(&self, mut range: Range<u64>) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        loop {
            let mut chunk = self.read(range.clone()).await?;
            let Some(last) = chunk.last() else {
                return Ok(entries);
            };
            range.start = last.log_id.index + 1;
            let hole = entries
                .last()
                .zip(chunk.first())
                .is_some_and(|(a, b): (&Entry, &Entry)| a.log_id.index + 1 != b.log_id.index);
            if hole {
                // Purged between two reads: what was read before it is gone from the log, too.
                entries.clear();
            }
            entries.append(&mut chunk);
        }
    }

    fn current_vote(&self) -> Option<Vote> {
        let vote = self.log.vote()?;
        Some(types::make_vote(vote.term, vote.member, vote.committed))
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

fn io_error(error: LogError) -> io::Error {
    let kind = match &error {
        LogError::Disk { source, .. } | LogError::NoThread { source } => source.kind(),
        LogError::Damaged { .. } | LogError::MissingSegment { .. } => io::ErrorKind::InvalidData,
        LogError::Hole { .. } | LogError::EntryTooLarge { .. } => io::ErrorKind::InvalidInput,
        LogError::NotSealed => io::ErrorKind::Other,
        LogError::Closed => io::ErrorKind::BrokenPipe,
    };
    io::Error::new(kind, error)
}

fn position(log_id: LogId) -> LogPosition {
    LogPosition {
        term: log_id.leader_id.term,
        index: log_id.index,
    }
}

fn log_id(position: LogPosition) -> LogId {
    types::make_log_id(position.term, position.index)
}

fn encode(entry: Entry) -> io::Result<LogEntry> {
    let (kind, payload) = types::encode_payload(&entry.payload)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok(LogEntry {
        position: position(entry.log_id),
        kind,
        payload,
    })
}

fn decode(entries: Vec<LogEntry>) -> io::Result<Vec<Entry>> {
    let decode = |entry: LogEntry| {
        let payload = types::decode_payload(entry.kind, entry.payload)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Entry::new(log_id(entry.position), payload))
    };
    entries.into_iter().map(decode).collect()
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read_all(bounds(&range)).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.current_vote())
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let chunks = Chunks {
            store: self.clone(),
            rest: bounds(&range),
            leader: None,
            ended: false,
        };
        chunks.stream(|error| match error {
            LeaderBoundedStreamError::IoError(error) => error,
            LeaderBoundedStreamError::LeaderChanged(changed) => io::Error::other(changed),
        })
    }

    async fn leader_bounded_stream<RB>(
        &mut self,
        leader: LeaderIdOf<TypeConfig>,
        range: RB,
    ) -> impl Stream<Item = LeaderBoundedStreamResult<TypeConfig>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let chunks = Chunks {
            store: self.clone(),
            rest: bounds(&range),
            leader: Some(leader),
            ended: false,
        };
        chunks.stream(|error| error)
    }
}

/// A stream over the log, one bounded read at a time.
struct Chunks {
    store: LogStore,
    rest: Range<u64>,
    /// Ends with an error once somebody else leads.
    leader: Option<LeaderIdOf<TypeConfig>>,
    ended: bool,
}

type StreamError = LeaderBoundedStreamError<TypeConfig>;

impl Chunks {
    fn stream<E: Send + 'static>(
        self,
        error: impl Fn(StreamError) -> E + Copy + Send + 'static,
    ) -> std::pin::Pin<Box<dyn Stream<Item = Result<EntryOf<TypeConfig>, E>> + Send>> {
        use futures::StreamExt;
        let chunks = stream::unfold(self, move |mut chunks| async move {
            let items = match chunks.next().await {
                Ok(entries) if entries.is_empty() => return None,
                Ok(entries) => entries.into_iter().map(Ok).collect(),
                Err(failed) => vec![Err(error(failed))],
            };
            Some((stream::iter(items), chunks))
        });
        Box::pin(chunks.flatten())
    }

    /// The next entries; none at the end.
    async fn next(&mut self) -> Result<Vec<Entry>, StreamError> {
        if self.ended {
            return Ok(Vec::new());
        }
        let next = self.checked().await;
        match next.as_deref() {
            Ok([.., last]) => self.rest.start = last.log_id.index + 1,
            _ => self.ended = true,
        }
        next
    }

    /// What is read counts only if the leader led before and after it.
    async fn checked(&self) -> Result<Vec<Entry>, StreamError> {
        self.check_leader()?;
        let entries = self.store.read(self.rest.clone()).await?;
        self.check_leader()?;
        Ok(entries)
    }

    fn check_leader(&self) -> Result<(), StreamError> {
        let Some(leader) = self.leader else {
            return Ok(());
        };
        let vote = self.store.current_vote();
        if vote.is_some_and(|vote| vote.committed && vote.leader_id == leader) {
            Ok(())
        } else {
            Err(LeaderChanged::new(leader, vote).into())
        }
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let bounds = self.log.bounds();
        Ok(LogState {
            last_purged_log_id: bounds.purged.map(log_id),
            last_log_id: bounds.last.map(log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> Result<(), io::Error> {
        let vote = LogVote {
            term: vote.leader_id.term,
            member: vote.leader_id.voted_for,
            committed: vote.committed,
        };
        self.log.save_vote(vote).await.map_err(io_error)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let committed = committed.map(position);
        self.log.save_committed(committed).await.map_err(io_error)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log.committed().map(log_id))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().map(encode).collect::<Result<_, _>>()?;
        let flushed = Box::new(move |result: Result<(), LogError>| {
            callback.io_completed(result.map_err(io_error));
        });
        self.log.append(entries, flushed).await.map_err(io_error)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let after = last_log_id.map(position);
        self.log.truncate_after(after).await.map_err(io_error)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.log.purge(position(upto)).await.map_err(io_error)
    }
}
