//! What applying a command came to.
//!
//! Promise: the reply of a command has that command's type; nobody guesses it from its shape.
//! A reply names records, it holds no value: the edge reads and opens them from the view that
//! came with it.

use bytes::Bytes;

use super::{
    AuthRefusal, Authenticate, ChangeAlarm, ChangeAuth, ChangeDowngrade, ChangeKeys, CommitPlugin,
    Compact, DeletePlugin, DeleteRange, DeployPlugin, LeaseCheckpoint, LeaseExpire, LeaseGrant,
    LeaseRevoke, PluginChunk, PublishMember, Put, SetPluginState, Txn,
};
use crate::access::Denied;
use crate::command::AlarmKind;
use crate::mvcc::read::RangeRows;
use crate::mvcc::revision::Revision;

/// One revision of a key. Its sealed value is the store's at `at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRef {
    pub key: Bytes,
    pub at: Revision,
    pub created: i64,
    pub version: i64,
    pub lease: i64,
    /// Length of its sealed value; 0 of a delete.
    pub value_bytes: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Put(PutReply),
    DeleteRange(DeleteRangeReply),
    Txn(TxnReply),
    Compact(CompactReply),
    LeaseGrant(LeaseGrantReply),
    LeaseRevoke(()),
    LeaseExpire(()),
    LeaseCheckpoint(()),
    ChangeKeys(keys::Applied),
    PublishMember(()),
    Alarm(AlarmReply),
    Downgrade(()),
    PluginChunk(()),
    DeployPlugin(DeployPluginReply),
    SetPluginState(()),
    DeletePlugin(()),
    CommitPlugin(CommitPluginReply),
    ChangeAuth(()),
    Authenticate(AuthenticateReply),
    /// The entry changed nothing and may be proposed anew, under a new request id.
    NoEffect(NoEffect),
    /// The entry changed nothing and will not.
    Refused(Refusal),
}

#[derive(Clone, Debug, PartialEq)]
pub struct PutReply {
    pub revision: i64,
    /// The record it replaced, asked for or not.
    pub prev: Option<RecordRef>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DeleteRangeReply {
    /// Of the delete; the current one if nothing was deleted.
    pub revision: i64,
    pub deleted: u64,
    /// In key order, only if the request asked for them.
    pub prev: Vec<RecordRef>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TxnReply {
    pub succeeded: bool,
    /// After the whole transaction, in nested replies too; etcd leaves it 0 in the header of a
    /// nested one.
    pub revision: i64,
    pub responses: Vec<OpReply>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum OpReply {
    Range(RangeReply),
    Put(PutReply),
    DeleteRange(DeleteRangeReply),
    Txn(TxnReply),
}

/// A range inside a transaction answers as one outside does.
pub type RangeReply = RangeRows;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactReply {
    pub revision: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseGrantReply {
    pub id: i64,
    pub ttl_seconds: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlarmReply {
    /// What the request raised or took back; etcd answers an alarm that was raised before too.
    pub alarms: Vec<(AlarmKind, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeployPluginReply {
    pub id: u32,
    pub generation: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitPluginReply {
    /// Of the effects; the current one if they came to nothing.
    pub revision: i64,
    /// Puts whose lease no longer existed.
    pub puts_dropped: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticateReply {
    /// Of the entry: every member that has applied it knows the token.
    pub index: u64,
}

/// Why an entry was void. None of these is the client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEffect {
    /// The state moved between the evaluation of a VALUE compare and this entry.
    #[error("what a value compare was evaluated on has changed")]
    Guard,
    /// The value was sealed under a key that is not, or no longer, the one for its key.
    #[error("the value is sealed under another key than its prefix has now")]
    KeyHeader,
    /// The plugin's cursor, generation or state is not what the runner saw.
    #[error("the plugin's cursor, generation or state has moved")]
    PluginCursor,
    /// The command belongs to a leader that is none any more.
    #[error("the term of the command is over")]
    StaleTerm,
}

/// etcd's refusals, and those of our own services.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("key not found")]
    KeyNotFound,
    #[error("lease not found")]
    LeaseNotFound,
    #[error("lease exists")]
    LeaseExists,
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
    #[error("the revision has been compacted")]
    Compacted,
    #[error("the revision is a future one")]
    FutureRevision,
    /// The NOSPACE alarm is raised.
    #[error("database space exceeded")]
    NoSpace,
    /// The CORRUPT alarm is raised.
    #[error("corrupt cluster")]
    Corrupt,
    #[error("member not found")]
    MemberNotFound,
    /// The member is known with another data directory.
    #[error("member has already been bootstrapped")]
    AnotherDirectory,
    #[error(transparent)]
    Keys(keys::KeyChangeRefusal),
    /// Its maker may not, by the rules as they are at this place of the log.
    #[error(transparent)]
    Denied(Denied),
    #[error(transparent)]
    Auth(AuthRefusal),
    #[error("plugin not found")]
    PluginNotFound,
    #[error("the component lacks chunk {index}")]
    PluginChunkMissing { index: u32 },
    #[error("the component has {found} bytes, its manifest says {expected}")]
    PluginSize { expected: u64, found: u64 },
    #[error("more than {most} plugins")]
    TooManyPlugins { most: usize },
}

/// Why a command did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotApplied {
    #[error(transparent)]
    NoEffect(NoEffect),
    #[error(transparent)]
    Refused(Refusal),
    /// Two commands under one request id: our own mistake.
    #[error("the reply belongs to another command")]
    AnotherCommand,
}

/// The reply that belongs to a body.
pub trait ReplyOf {
    type Reply;

    fn reply(reply: Reply) -> Result<Self::Reply, NotApplied>;
}

macro_rules! replies {
    ($($variant:ident $body:ty => $reply:ty),* $(,)?) => {$(
        impl ReplyOf for $body {
            type Reply = $reply;

            fn reply(reply: Reply) -> Result<$reply, NotApplied> {
                match reply {
                    Reply::$variant(reply) => Ok(reply),
                    Reply::NoEffect(reason) => Err(NotApplied::NoEffect(reason)),
                    Reply::Refused(refusal) => Err(NotApplied::Refused(refusal)),
                    _ => Err(NotApplied::AnotherCommand),
                }
            }
        }
    )*};
}

replies! {
    Put Put => PutReply,
    DeleteRange DeleteRange => DeleteRangeReply,
    Txn Txn => TxnReply,
    Compact Compact => CompactReply,
    LeaseGrant LeaseGrant => LeaseGrantReply,
    LeaseRevoke LeaseRevoke => (),
    LeaseExpire LeaseExpire => (),
    LeaseCheckpoint LeaseCheckpoint => (),
    ChangeKeys ChangeKeys => keys::Applied,
    PublishMember PublishMember => (),
    Alarm ChangeAlarm => AlarmReply,
    Downgrade ChangeDowngrade => (),
    PluginChunk PluginChunk => (),
    DeployPlugin DeployPlugin => DeployPluginReply,
    SetPluginState SetPluginState => (),
    DeletePlugin DeletePlugin => (),
    CommitPlugin CommitPlugin => CommitPluginReply,
    ChangeAuth ChangeAuth => (),
    Authenticate Authenticate => AuthenticateReply,
}
