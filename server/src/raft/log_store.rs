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
use openraft::entry::RaftEntry;
use openraft::errors::LeaderChanged;
use openraft::storage::{
    IOFlushed, LeaderBoundedStreamError, LeaderBoundedStreamResult, LogState, RaftLogReader,
    RaftLogStorage,
};
use openraft::type_config::alias::{EntryOf, LeaderIdOf, VoteOf};

use super::executor;
use super::types::{self, Entry, LogId, TypeConfig, Vote};
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
        let read = executor::blocking(move || log.read(range, READ_BYTES_MAX)).await?;
        decode(read.map_err(io_error)?)
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

fn encode(entry: Entry) -> LogEntry {
    let (kind, payload) = types::payload_parts(&entry.payload);
    LogEntry {
        position: position(entry.log_id),
        kind,
        payload,
    }
}

fn decode(entries: Vec<LogEntry>) -> io::Result<Vec<Entry>> {
    let decode = |entry: LogEntry| {
        let payload = types::payload_from_parts(entry.kind, entry.payload)
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
        let entries: Vec<LogEntry> = entries.into_iter().map(encode).collect();
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::{StreamExt, TryStreamExt};
    use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
    use openraft::testing::log::{StoreBuilder, Suite};
    use openraft::type_config::TypeConfigExt;

    use super::super::types::{
        Done, EntryData, EntryPayload, SnapshotMeta, StoredMembership, decode_stored_membership,
        encode_stored_membership,
    };
    use super::*;
    use crate::storage::log::{LogOptions, MemoryDisk};

    type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, Vec<u8>>;
    type StorageError = openraft::StorageError<TypeConfig>;

    type Kept = (SnapshotMeta, Vec<u8>);

    /// Remembers what it applied last, which is all that the suite looks at.
    #[derive(Clone, Default)]
    struct Machine {
        applied: Option<LogId>,
        membership: StoredMembership,
        snapshot: Arc<parking_lot::Mutex<Option<Kept>>>,
    }

    impl RaftStateMachine<TypeConfig> for Machine {
        type SnapshotData = Vec<u8>;
        type SnapshotBuilder = Self;

        async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
            Ok((self.applied, self.membership.clone()))
        }

        async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
        where
            S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
        {
            while let Some((entry, responder)) = entries.try_next().await? {
                self.applied = Some(entry.log_id);
                if let EntryPayload::Membership(membership) = entry.payload {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
                if let Some(responder) = responder {
                    responder.send(Done);
                }
            }
            Ok(())
        }

        async fn get_snapshot_builder(&mut self) -> Self {
            self.clone()
        }

        async fn install_snapshot(
            &mut self,
            meta: &SnapshotMeta,
            snapshot: Vec<u8>,
        ) -> io::Result<()> {
            self.applied = meta.last_log_id;
            self.membership = decode_stored_membership(&snapshot).map_err(io::Error::other)?;
            *self.snapshot.lock() = Some((meta.clone(), snapshot));
            Ok(())
        }

        async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
            let current = self.snapshot.lock().clone();
            Ok(current.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
        }
    }

    impl RaftSnapshotBuilder<TypeConfig> for Machine {
        type SnapshotData = Vec<u8>;

        async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
            let meta = SnapshotMeta {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
            };
            let snapshot = encode_stored_membership(&self.membership).to_vec();
            *self.snapshot.lock() = Some((meta.clone(), snapshot.clone()));
            Ok(Snapshot { meta, snapshot })
        }
    }

    fn open(disk: &MemoryDisk, options: LogOptions) -> LogStore {
        let sealer = Arc::new(keys::StorageKeys::ephemeral());
        let log = RaftLog::open(Arc::new(disk.clone()), sealer, options);
        LogStore::new(log.expect("the log is whole"))
    }

    /// So small that a handful of entries fills a segment and leaves the window.
    fn small() -> LogOptions {
        LogOptions {
            segment_bytes: 4096,
            window_bytes_max: 60,
            ..LogOptions::default()
        }
    }

    struct Builder;

    impl StoreBuilder<TypeConfig, LogStore, Machine> for Builder {
        async fn build(&self) -> Result<((), LogStore, Machine), StorageError> {
            let store = open(&MemoryDisk::default(), small());
            Ok(((), store, Machine::default()))
        }
    }

    fn entry(index: u64, bytes: usize) -> Entry {
        let data = EntryData(vec![7; bytes].into());
        Entry::new(types::make_log_id(1, index), EntryPayload::Normal(data))
    }

    async fn append(store: &mut LogStore, entries: Vec<Entry>) -> io::Result<()> {
        let (sender, receiver) = TypeConfig::oneshot();
        store.append(entries, IOFlushed::signal(sender)).await?;
        receiver.await.expect("the log answers")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn openrafts_own_suite_passes() {
        let result = Suite::test_all(Builder).await;
        assert!(result.is_ok(), "{result:?}");
    }

    #[tokio::test]
    async fn a_limited_read_stays_near_its_limit_and_a_full_one_is_complete() {
        let mut store = open(&MemoryDisk::default(), LogOptions::default());
        for index in 1..=10 {
            let appended = append(&mut store, vec![entry(index, 600_000)]).await;
            appended.expect("no fault is set");
        }
        let some = store.limited_get_log_entries(1, 11).await;
        assert_eq!(some.expect("it reads").len(), 3);
        let all = store.try_get_log_entries(..).await.expect("it reads");
        assert_eq!(all.len(), 10);
        let streamed: Vec<_> = store.entries_stream(3..).await.collect().await;
        assert_eq!(streamed.len(), 8);
    }

    #[tokio::test]
    async fn a_stream_bound_to_a_leader_ends_when_another_leads() {
        let mut store = open(&MemoryDisk::default(), LogOptions::default());
        for index in 1..=10 {
            let appended = append(&mut store, vec![entry(index, 600_000)]).await;
            appended.expect("no fault is set");
        }
        let vote = types::make_vote(1, 7, true);
        store.save_vote(&vote).await.expect("no fault is set");
        let mut reader = store.get_log_reader().await;
        let mut stream = Box::pin(reader.leader_bounded_stream(vote.leader_id, 1..11).await);
        assert!(matches!(stream.next().await, Some(Ok(_))));
        let other = types::make_vote(2, 8, true);
        store.save_vote(&other).await.expect("no fault is set");
        let rest: Vec<_> = stream.collect().await;
        assert_eq!(rest.iter().filter(|item| item.is_ok()).count(), 2);
        assert!(matches!(
            rest.last(),
            Some(Err(LeaderBoundedStreamError::LeaderChanged(_)))
        ));
    }

    #[tokio::test]
    async fn flushed_is_reported_after_the_sync_and_an_error_instead_of_it() {
        let disk = MemoryDisk::default();
        let mut store = open(&disk, small());
        disk.hold_syncs();
        let (sender, mut receiver) = TypeConfig::oneshot();
        let queued = store.append(vec![entry(1, 10)], IOFlushed::signal(sender));
        queued.await.expect("it has room");
        let waited = disk.clone();
        tokio::task::spawn_blocking(move || waited.wait_for_held_sync())
            .await
            .expect("the writer comes to its sync");
        let read = store.try_get_log_entries(0..10).await.expect("it reads");
        assert_eq!(read.len(), 1, "readable before it is flushed");
        assert!(
            receiver.try_recv().is_err(),
            "not flushed while the sync waits"
        );
        disk.release_syncs();
        assert!(matches!(receiver.await, Ok(Ok(()))));

        disk.fail_next_sync(io::ErrorKind::Other);
        assert!(append(&mut store, vec![entry(2, 10)]).await.is_err());
        let vote = types::make_vote(2, 1, false);
        assert!(store.save_vote(&vote).await.is_err(), "never again");
    }

    #[tokio::test]
    async fn everything_comes_back_after_a_power_cut() {
        let disk = MemoryDisk::default();
        let sealer = Arc::new(keys::StorageKeys::ephemeral());
        let open = |disk: &MemoryDisk| {
            let log = RaftLog::open(Arc::new(disk.clone()), sealer.clone(), small());
            LogStore::new(log.expect("the log is whole"))
        };
        let mut store = open(&disk);
        let vote = types::make_vote(1, 7, true);
        for index in 1..=30 {
            let appended = append(&mut store, vec![entry(index, 300)]).await;
            appended.expect("no fault is set");
        }
        let log_id = |index| types::make_log_id(1, index);
        store.purge(log_id(10)).await.expect("no fault is set");
        let committed = store.save_committed(Some(log_id(25))).await;
        committed.expect("no fault is set");
        store
            .truncate_after(Some(log_id(28)))
            .await
            .expect("no fault is set");
        store.save_vote(&vote).await.expect("no fault is set");

        let mut store = open(&disk.power_cut(false, |_, _| false));
        let state = store.get_log_state().await.expect("it reads");
        assert_eq!(state.last_purged_log_id, Some(log_id(10)));
        assert_eq!(state.last_log_id, Some(log_id(28)));
        let committed = store.read_committed().await.expect("it reads");
        assert_eq!(committed, Some(log_id(25)));
        assert_eq!(store.read_vote().await.expect("it reads"), Some(vote));
        let entries = store.try_get_log_entries(..).await.expect("it reads");
        assert_eq!(
            entries,
            (11..=28).map(|i| entry(i, 300)).collect::<Vec<_>>()
        );
    }
}
