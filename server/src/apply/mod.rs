//! The deterministic state machine: entries of the log in, changes and replies out.
//!
//! Promise: the same entries give the same replicated state on every member, whatever its storage
//! key, its clock or its history of restarts. A batch of entries is committed whole, with the
//! applied index, before anyone sees it. A failed read or write poisons: nothing is retried.
//! Each index of the log is applied once; two entries with one request id are two commands, which
//! the proposer never makes. A plugin's batch is the exception that must be safe to repeat: its
//! second commit finds the cursor moved and has no effect.
//! Not known here: the wall clock, randomness, keys, raft, who asked.

mod admin;
mod auth;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod kv;
mod leases;
#[cfg(test)]
mod model;
mod open;
mod plugins;
mod recover;
pub mod restore;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::RwLock;
use prost::Message;
use proto::sealkv::replicated as wire;

use crate::access::Denied;
use crate::command::{
    AlarmKind, Body, Command, CommandError, Header, NoEffect, Refusal, Reply, RequestId,
};
use crate::lease::lessor::LeaseChange;
use crate::lease::table::LeaseTable;
use crate::mvcc::compact::Compactor;
use crate::mvcc::event::RevisionEvents;
use crate::mvcc::index::Index;
use crate::mvcc::read::ReadError;
use crate::mvcc::read_view::{CompactMark, ReadView};
use crate::mvcc::revision::Revision;
use crate::storage::{Keyspace, StorageError, Store};
use crate::tables::alarms::Alarms;
use crate::tables::auth::AuthTable;
use crate::tables::members::Members;
use crate::tables::plugins::PluginTable;

pub use auth::Login;
pub use kv::quota_cost;
pub(crate) use open::Open;
pub use plugins::{ComponentError, component, dead_letters};

/// Rows with fixed names.
pub(crate) mod rows {
    /// `System`: the counters.
    pub(crate) const COUNTERS: &[u8] = b"counters";
    /// `System`: one per member, `member/` ‖ id.
    pub(crate) const MEMBER: &[u8] = b"member/";
    /// `System`: one per member that has left, `removed/` ‖ id; empty.
    pub(crate) const REMOVED: &[u8] = b"removed/";
    /// `System`: one per raised alarm, `alarm/` ‖ kind u32 ‖ member u64.
    pub(crate) const ALARM: &[u8] = b"alarm/";
    /// `System`: the downgrade that is under way.
    pub(crate) const DOWNGRADE: &[u8] = b"downgrade";
    /// `System`: whether authentication is on, and what is counted for it.
    pub(crate) const AUTH: &[u8] = b"auth";
    /// `System`: `user/` ‖ id u32.
    pub(crate) const USER: &[u8] = b"user/";
    /// `System`: `role/` ‖ id u32.
    pub(crate) const ROLE: &[u8] = b"role/";
    /// `System`, this member's own: up to which compact revision the bytes are gone.
    pub(crate) const COMPACTED: &[u8] = b"own/compacted";
    /// `KeyTable`: the whole table.
    pub(crate) const KEY_TABLE: &[u8] = b"table";
    /// `Raft`: applied log id and membership.
    pub(crate) const APPLIED: &[u8] = b"applied";
    /// `Plugin`: `plugin/` ‖ id u32.
    pub(crate) const PLUGIN: &[u8] = b"plugin/";
    /// `Plugin`: `dead/` ‖ id u32 ‖ number u64.
    pub(crate) const DEAD_LETTER: &[u8] = b"dead/";

    /// `Lease`: the id; its sign bit flipped, so that rows sort as ids do.
    pub(crate) fn lease(id: i64) -> [u8; 8] {
        (id.cast_unsigned() ^ (1 << 63)).to_be_bytes()
    }

    pub(crate) fn lease_id(key: &[u8]) -> Option<i64> {
        Some((u64::from_be_bytes(key.try_into().ok()?) ^ (1 << 63)).cast_signed())
    }

    /// The u64 after a name.
    pub(crate) fn number(key: &[u8], name: &[u8]) -> Option<u64> {
        Some(u64::from_be_bytes(key.strip_prefix(name)?.try_into().ok()?))
    }

    pub(crate) fn member(id: u64) -> Vec<u8> {
        [MEMBER, &id.to_be_bytes()].concat()
    }

    pub(crate) fn removed(id: u64) -> Vec<u8> {
        [REMOVED, &id.to_be_bytes()].concat()
    }

    pub(crate) fn alarm(kind: u32, member: u64) -> Vec<u8> {
        [ALARM, &kind.to_be_bytes(), &member.to_be_bytes()].concat()
    }

    pub(crate) fn user(id: u32) -> Vec<u8> {
        [USER, &id.to_be_bytes()].concat()
    }

    pub(crate) fn role(id: u32) -> Vec<u8> {
        [ROLE, &id.to_be_bytes()].concat()
    }

    pub(crate) fn plugin(id: u32) -> Vec<u8> {
        [PLUGIN, &id.to_be_bytes()].concat()
    }

    pub(crate) fn dead_letter(id: u32, number: u64) -> Vec<u8> {
        [DEAD_LETTER, &id.to_be_bytes(), &number.to_be_bytes()].concat()
    }

    /// `PluginBlob`: digest of the component ‖ number of the piece.
    pub(crate) fn chunk(sha256: &[u8; 32], index: u32) -> Vec<u8> {
        [&sha256[..], &index.to_be_bytes()].concat()
    }
}

/// Why this member can apply nothing more. It stops; another member, or a rebuild, goes on.
#[derive(Debug, thiserror::Error)]
pub enum Poison {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("log index {index}: {source}")]
    Command { index: u64, source: CommandError },
    /// The log handed over something else than the entry after the last.
    #[error("log index {found} came where {expected} was due")]
    Gap { expected: u64, found: u64 },
    #[error("revision {0} is missing or damaged")]
    Record(Revision),
    #[error("row {row} of keyspace {keyspace} is damaged or of a newer release")]
    Row {
        keyspace: Keyspace,
        row: crate::storage::StoredKey,
    },
    /// An earlier call failed.
    #[error("an earlier entry could not be applied")]
    Earlier,
}

impl From<ReadError> for Poison {
    /// Apply has checked the revisions before it reads: what is left is damage.
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Storage(source) => Poison::Storage(source),
            ReadError::Corrupt(at) => Poison::Record(at),
            ReadError::Compacted | ReadError::FutureRevision | ReadError::ViewTooOld => {
                Poison::Record(Revision::default())
            }
        }
    }
}

/// One entry of the log.
#[derive(Clone, Copy, Debug)]
pub struct EntryRef<'a> {
    pub index: u64,
    pub term: u64,
    pub leader: u64,
    pub body: EntryBody<'a>,
}

#[derive(Clone, Copy, Debug)]
pub enum EntryBody<'a> {
    Blank,
    Command(&'a Bytes),
    Membership {
        /// raft's own, kept as they are.
        bytes: &'a [u8],
        /// Everyone in it, ascending.
        ids: &'a [u64],
    },
}

/// A place in the log, and who wrote it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPosition {
    pub index: u64,
    pub term: u64,
    pub leader: u64,
}

/// How far the log is applied, as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// None in a store that has seen no entry.
    pub last: Option<LogPosition>,
    /// Of the last membership entry; empty before the first.
    pub membership: Bytes,
    /// Where that entry stands.
    pub membership_at: Option<LogPosition>,
    /// Everyone in that membership, ascending.
    pub member_ids: Vec<u64>,
}

impl LogPosition {
    fn to_row(self) -> wire::LogPosition {
        wire::LogPosition {
            index: self.index,
            term: self.term,
            leader: self.leader,
        }
    }

    fn from_row(row: wire::LogPosition) -> Self {
        LogPosition {
            index: row.index,
            term: row.term,
            leader: row.leader,
        }
    }
}

impl Applied {
    fn to_row(&self) -> wire::Applied {
        wire::Applied {
            last: self.last.map(LogPosition::to_row),
            membership: self.membership.clone(),
            membership_at: self.membership_at.map(LogPosition::to_row),
            member_ids: self.member_ids.clone(),
        }
    }

    fn from_row(row: wire::Applied) -> Self {
        Applied {
            last: row.last.map(LogPosition::from_row),
            membership: row.membership,
            membership_at: row.membership_at.map(LogPosition::from_row),
            member_ids: row.member_ids,
        }
    }
}

/// What a batch of entries came to.
pub struct Outcome {
    /// Of the commands that this member proposed, in their order.
    pub replies: Vec<(RequestId, Reply)>,
    /// One per revision, ascending.
    pub events: Vec<Arc<RevisionEvents>>,
    /// Published already.
    pub view: Arc<ReadView>,
    /// For this member's lessor.
    pub lease_changes: Vec<LeaseChange>,
    /// For this member's registry of tokens.
    pub logins: Vec<Login>,
    /// The compact revision moved: the compactor has work.
    pub compacted: bool,
    /// The key table changed: the keyring has to follow.
    pub keys_changed: bool,
}

/// Numbers that every member has alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) revision: i64,
    pub(crate) compact_revision: i64,
    pub(crate) clock_ms: i64,
    /// Towards the space quota: records, history included, and leases.
    pub(crate) stored_bytes: u64,
    /// Of all records that a later one has replaced, and all deletes; ever.
    pub(crate) superseded_bytes: u64,
    /// Of those, what compactions have taken back out of `stored_bytes`.
    pub(crate) released_bytes: u64,
    pub(crate) plugin_id_next: u32,
}

impl Counters {
    /// An empty store is at revision 1, as etcd's.
    const FRESH: Counters = Counters {
        revision: 1,
        compact_revision: -1,
        clock_ms: 0,
        stored_bytes: 0,
        superseded_bytes: 0,
        released_bytes: 0,
        plugin_id_next: 1,
    };

    /// Takes out of the space in use what a compaction leaves to be freed: of all superseded
    /// records those of so many bytes.
    fn release(&mut self, released: u64) {
        let already = self.released_bytes.min(released);
        self.stored_bytes = self.stored_bytes.saturating_sub(released - already);
        self.released_bytes = released;
    }

    fn to_row(&self) -> wire::Counters {
        wire::Counters {
            revision: self.revision,
            compact_revision: self.compact_revision,
            clock_ms: self.clock_ms,
            stored_bytes: self.stored_bytes,
            superseded_bytes: self.superseded_bytes,
            released_bytes: self.released_bytes,
            plugin_id_next: self.plugin_id_next,
        }
    }

    fn from_row(row: &wire::Counters) -> Self {
        Counters {
            revision: row.revision,
            compact_revision: row.compact_revision,
            clock_ms: row.clock_ms,
            stored_bytes: row.stored_bytes,
            superseded_bytes: row.superseded_bytes,
            released_bytes: row.released_bytes,
            plugin_id_next: row.plugin_id_next,
        }
    }
}

/// The whole replicated state of one member. One thread applies; everybody else reads views.
pub struct Machine {
    store: Store,
    member: u64,
    index: Arc<RwLock<Index>>,
    leases: Arc<RwLock<LeaseTable>>,
    key_table: Arc<keys::KeyTable>,
    members: Arc<Members>,
    plugins: Arc<PluginTable>,
    alarms: Arc<Alarms>,
    downgrade: Option<Arc<str>>,
    auth: Arc<AuthTable>,
    counters: Counters,
    applied: Applied,
    compacting: CompactMark,
    publisher: Arc<ArcSwap<ReadView>>,
    poisoned: bool,
}

/// What one batch of entries has gathered so far.
struct Work {
    open: Open,
    replies: Vec<(RequestId, Reply)>,
    events: Vec<Arc<RevisionEvents>>,
    lease_changes: Vec<LeaseChange>,
    logins: Vec<Login>,
    compacted: bool,
    keys_changed: bool,
}

/// What an entry brings beside its body.
#[derive(Clone, Copy)]
struct Context {
    index: u64,
    term: u64,
    /// This member answers a client with it: ranges are run and lists are kept.
    reply_wanted: bool,
}

/// What a command comes to before its reply is typed.
enum Stop {
    NoEffect(NoEffect),
    Refused(Refusal),
    Poison(Poison),
}

impl<E: Into<Poison>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Poison(error.into())
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Stop::Refused(refusal)
    }
}

impl From<Denied> for Stop {
    fn from(denied: Denied) -> Self {
        Stop::Refused(Refusal::Denied(denied))
    }
}

impl From<NoEffect> for Stop {
    fn from(reason: NoEffect) -> Self {
        Stop::NoEffect(reason)
    }
}

impl Machine {
    /// Applies entries that follow the last one without a gap, as one batch.
    ///
    /// After an error the state in memory is ahead of the disk: the member has to stop.
    pub fn apply(&mut self, entries: &[EntryRef<'_>]) -> Result<Outcome, Poison> {
        if self.poisoned {
            return Err(Poison::Earlier);
        }
        self.poisoned = true;
        let outcome = self.apply_batch(entries)?;
        self.poisoned = false;
        Ok(outcome)
    }

    fn apply_batch(&mut self, entries: &[EntryRef<'_>]) -> Result<Outcome, Poison> {
        let mut work = Work {
            open: Open::new(self.store.batch(), self.store.view()),
            replies: Vec::new(),
            events: Vec::new(),
            lease_changes: Vec::new(),
            logins: Vec::new(),
            compacted: false,
            keys_changed: false,
        };
        for entry in entries {
            self.apply_entry(&mut work, entry)?;
        }
        self.write_counters(&mut work.open);
        self.store.commit(work.open.into_batch())?;
        // Before anyone can ask the compactor to take rows away.
        self.compacting.set(self.counters.compact_revision);
        let view = Arc::new(self.read_view());
        self.publisher.store(view.clone());
        Ok(Outcome {
            replies: work.replies,
            events: work.events,
            view,
            lease_changes: work.lease_changes,
            logins: work.logins,
            compacted: work.compacted,
            keys_changed: work.keys_changed,
        })
    }

    fn apply_entry(&mut self, work: &mut Work, entry: &EntryRef<'_>) -> Result<(), Poison> {
        let position = LogPosition {
            index: entry.index,
            term: entry.term,
            leader: entry.leader,
        };
        if let Some(last) = self.applied.last
            && entry.index != last.index + 1
        {
            return Err(Poison::Gap {
                expected: last.index + 1,
                found: entry.index,
            });
        }
        match entry.body {
            EntryBody::Blank => {}
            EntryBody::Membership { bytes, ids } => {
                self.change_members(work, ids);
                self.applied.membership = Bytes::copy_from_slice(bytes);
                self.applied.membership_at = Some(position);
            }
            EntryBody::Command(bytes) => {
                let command = Command::decode(bytes).map_err(|source| Poison::Command {
                    index: entry.index,
                    source,
                })?;
                let reply_wanted = command.header.request.member == self.member;
                self.counters.clock_ms = self.counters.clock_ms.max(command.header.clock_ms);
                let reply = self.reply_to(
                    work,
                    Context {
                        index: entry.index,
                        term: entry.term,
                        reply_wanted,
                    },
                    &command.header,
                    command.body,
                )?;
                if reply_wanted {
                    work.replies.push((command.header.request, reply));
                }
            }
        }
        self.applied.last = Some(position);
        Ok(())
    }

    fn reply_to(
        &mut self,
        work: &mut Work,
        context: Context,
        header: &Header,
        body: Body,
    ) -> Result<Reply, Poison> {
        match self.dispatch(work, context, header, body) {
            Ok(reply) => Ok(reply),
            Err(Stop::NoEffect(reason)) => Ok(Reply::NoEffect(reason)),
            Err(Stop::Refused(refusal)) => Ok(Reply::Refused(refusal)),
            Err(Stop::Poison(poison)) => Err(poison),
        }
    }

    fn dispatch(
        &mut self,
        work: &mut Work,
        context: Context,
        header: &Header,
        body: Body,
    ) -> Result<Reply, Stop> {
        self.check_alarms(&body)?;
        self.check_caller(header, &body)?;
        match body {
            Body::Put(put) => self.put(work, &put).map(Reply::Put),
            Body::DeleteRange(delete) => self
                .delete_range(work, context, &delete)
                .map(Reply::DeleteRange),
            Body::Txn(txn) => self.txn(work, context, &txn).map(Reply::Txn),
            Body::Compact(compact) => self.compact(work, &compact).map(Reply::Compact),
            Body::LeaseGrant(grant) => self.lease_grant(work, &grant).map(Reply::LeaseGrant),
            Body::LeaseRevoke(revoke) => self.lease_revoke(work, &revoke).map(Reply::LeaseRevoke),
            Body::LeaseExpire(expire) => self
                .lease_expire(work, context, &expire)
                .map(Reply::LeaseExpire),
            Body::LeaseCheckpoint(checkpoint) => {
                self.lease_checkpoint(work, &checkpoint);
                Ok(Reply::LeaseCheckpoint(()))
            }
            Body::ChangeKeys(change) => self.change_keys(work, &change).map(Reply::ChangeKeys),
            Body::PublishMember(member) => {
                self.publish_member(work, member)?;
                Ok(Reply::PublishMember(()))
            }
            Body::Alarm(alarm) => Ok(Reply::Alarm(self.change_alarm(work, &alarm))),
            Body::Downgrade(change) => {
                self.change_downgrade(work, change);
                Ok(Reply::Downgrade(()))
            }
            Body::PluginChunk(chunk) => {
                self.plugin_chunk(work, &chunk);
                Ok(Reply::PluginChunk(()))
            }
            Body::DeployPlugin(deploy) => self.deploy_plugin(work, deploy).map(Reply::DeployPlugin),
            Body::SetPluginState(state) => self
                .set_plugin_state(work, state)
                .map(Reply::SetPluginState),
            Body::DeletePlugin(delete) => {
                self.delete_plugin(work, &delete).map(Reply::DeletePlugin)
            }
            Body::CommitPlugin(commit) => self
                .commit_plugin(work, context, commit)
                .map(Reply::CommitPlugin),
            Body::ChangeAuth(change) => self.change_auth(work, change).map(Reply::ChangeAuth),
            Body::Authenticate(authenticate) => self
                .authenticate(work, context, authenticate)
                .map(Reply::Authenticate),
        }
    }

    /// etcd's capped and corrupt appliers: NOSPACE refuses what takes space, CORRUPT everything
    /// that reads or writes keys or leases.
    fn check_alarms(&self, body: &Body) -> Result<(), Refusal> {
        if self.alarms.is_raised(AlarmKind::Corrupt) && kv::reads_or_writes(body) {
            return Err(Refusal::Corrupt);
        }
        if self.alarms.is_raised(AlarmKind::NoSpace) && kv::quota_cost(body) > 0 {
            return Err(Refusal::NoSpace);
        }
        Ok(())
    }

    fn write_counters(&self, open: &mut Open) {
        open.put_message(Keyspace::System, rows::COUNTERS, &self.counters.to_row());
        open.put_message(Keyspace::Raft, rows::APPLIED, &self.applied.to_row());
    }

    fn read_view(&self) -> ReadView {
        ReadView {
            revision: self.counters.revision,
            compact_revision: self.counters.compact_revision,
            applied_index: self.applied.last.map_or(0, |last| last.index),
            applied_term: self.applied.last.map_or(0, |last| last.term),
            clock_ms: self.counters.clock_ms,
            store: self.store.view(),
            index: self.index.clone(),
            leases: self.leases.clone(),
            key_table: self.key_table.clone(),
            members: self.members.clone(),
            plugins: self.plugins.clone(),
            alarms: self.alarms.clone(),
            downgrade: self.downgrade.clone(),
            auth: self.auth.clone(),
            stored_bytes: self.counters.stored_bytes,
            compacting: self.compacting.clone(),
        }
    }

    /// Where views appear; always the newest one.
    #[must_use]
    pub fn publisher(&self) -> Arc<ArcSwap<ReadView>> {
        self.publisher.clone()
    }

    #[must_use]
    pub fn view(&self) -> Arc<ReadView> {
        self.publisher.load_full()
    }

    /// What was applied last, stored with everything it changed.
    #[must_use]
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Publishes the same state on a new storage snapshot, so that an idle member lets go of what
    /// a compaction has freed.
    pub fn refresh(&mut self) -> Arc<ReadView> {
        let view = Arc::new(self.read_view());
        self.publisher.store(view.clone());
        view
    }

    /// Takes the bytes of compacted history away, slice by slice, on a thread of its own.
    #[must_use]
    pub fn compactor(&self) -> Compactor {
        Compactor::new(
            self.store.clone(),
            self.index.clone(),
            self.publisher.clone(),
        )
    }
}

fn decode_row<M: Message + Default>(
    keyspace: Keyspace,
    key: &[u8],
    row: Bytes,
) -> Result<M, Poison> {
    M::decode(row).map_err(|_| bad_row(keyspace, key))
}

fn bad_row(keyspace: Keyspace, key: &[u8]) -> Poison {
    Poison::Row {
        keyspace,
        row: crate::storage::StoredKey(Bytes::copy_from_slice(key)),
    }
}
