//! What the edge and the key service ask of the replicated state machine.
//!
//! The seam between services and consensus: raft implements it, and so does a single process
//! that applies commands directly, in tests and in the simulation.
//! Not known here: openraft, gRPC.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::access::Permitted;
use crate::command::{Body, NotApplied, Refusal, Reply};
use crate::mvcc::read_view::ReadView;

pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A command was applied by this member; the view holds at least what it did.
#[derive(Clone)]
pub struct Applied {
    pub reply: Reply,
    pub view: Arc<ReadView>,
}

/// Why nobody knows, or nobody will know, what became of a proposal. None may be tried again on
/// the client's behalf but `TooManyRequests`, `RequestTooLarge`, `NoLeader` and `NeverSent`, which
/// say that nothing was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("no leader")]
    NoLeader,
    #[error("leader changed")]
    LeaderChanged,
    /// There was no leader to send it to, for as long as a request may take.
    #[error("there was no leader to send the request to")]
    NeverSent,
    #[error("request timed out")]
    Timeout,
    #[error("request timed out, possibly due to previous leader failure")]
    TimeoutDueToLeaderFail,
    #[error("request timed out, possibly due to connection lost")]
    TimeoutDueToConnectionLost,
    #[error("too many requests")]
    TooManyRequests,
    #[error("request is too large")]
    RequestTooLarge,
    /// The leader's root key does not open: it cannot evaluate a VALUE compare.
    #[error("the leader cannot open values")]
    CannotOpen,
    #[error("server stopped")]
    Stopped,
    #[error("corrupt cluster")]
    Corrupt,
}

/// Why a linearizable read cannot be served now. It changed nothing and may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadIndexError {
    #[error("leader changed")]
    LeaderChanged,
    #[error("request timed out")]
    Timeout,
    #[error("waiting for the applied index took too long")]
    TimeoutWaitAppliedIndex,
    #[error("server stopped")]
    Stopped,
}

/// Why the leader could not be asked about a lease, or what it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    #[error("lease not found")]
    NotFound,
    #[error("no leader")]
    NoLeader,
    #[error("leader changed")]
    LeaderChanged,
    #[error("request timed out")]
    Timeout,
    #[error("server stopped")]
    Stopped,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    /// Empty until it has started.
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}

/// This member's place in the cluster, as it knows it now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub cluster_id: u64,
    pub member_id: u64,
    /// 0 for none.
    pub leader: u64,
    pub term: u64,
    pub committed_index: u64,
    pub applied_index: u64,
    pub is_learner: bool,
    /// What the data directory takes on disk.
    pub disk_bytes: u64,
}

/// The part of [`Status`] that every response header names: asked for with each request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub cluster_id: u64,
    pub member_id: u64,
    pub leader: u64,
    pub term: u64,
    pub is_learner: bool,
}

/// One member of a replicated state machine.
pub trait Replica: Send + Sync + 'static {
    /// Has the body agreed on and applied, here or through the leader; answers once this member
    /// has applied it. Operands of VALUE compares come sealed, the leader resolves them.
    fn propose(&self, body: Permitted<Body>) -> Pending<'_, Result<Applied, ProposeError>>;

    /// As `propose`, for a body whose compares did not hold once: the leader holds back its other
    /// proposals while it evaluates them again, so that they fail twice only if it changes.
    fn propose_latched(&self, body: Permitted<Body>) -> Pending<'_, Result<Applied, ProposeError>> {
        self.propose(body)
    }

    /// Returns once this member has applied whatever was committed anywhere before the call.
    fn read_barrier(&self) -> Pending<'_, Result<(), ReadIndexError>>;

    /// Returns once this member has applied the entry at this index.
    fn has_applied(&self, index: u64) -> Pending<'_, ()>;

    /// Returns once this member knows a leader, or knows none.
    fn has_leader(&self, known: bool) -> Pending<'_, ()>;

    /// The newest view of what this member has applied.
    fn view(&self) -> Arc<ReadView>;

    fn place(&self) -> Place;

    fn status(&self) -> Status;

    /// By id, as this member has applied them.
    fn members(&self) -> Vec<Member>;

    /// Gives the lease its whole TTL again, at the leader; that TTL in seconds.
    fn keep_alive(&self, id: i64) -> Pending<'_, Result<i64, LeaseError>>;

    /// Seconds that the lease has left, by the leader's clock.
    fn lease_remaining(&self, id: i64) -> Pending<'_, Result<i64, LeaseError>>;

    /// Ids of the live leases; at the leader the one that ends first in front, elsewhere by id.
    fn leases(&self) -> Vec<i64>;

    /// Returns once the compaction at this revision, and those before it, have freed on this
    /// member what they will free.
    fn physically_compacted(&self, revision: i64) -> Pending<'_, ()>;

    /// Returns once this member has given the space of deleted and compacted records back.
    fn defragment(&self) -> Pending<'_, Result<(), DefragmentError>>;
}

/// A change of who the members are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// The id is made by the member that is asked; an id that was used before is refused.
    Add {
        id: u64,
        peer_urls: Vec<String>,
        is_learner: bool,
    },
    Remove {
        id: u64,
    },
    Update {
        id: u64,
        peer_urls: Vec<String>,
    },
    Promote {
        id: u64,
    },
}

/// Leadership is to go to this member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveLeader {
    pub to: u64,
}

/// Why the membership, or the leader, did not change as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    #[error("member not found")]
    MemberNotFound,
    #[error("member ID already exists")]
    MemberExists,
    #[error("peer URLs already exist")]
    PeerUrlExists,
    #[error("given member URLs are invalid")]
    BadUrls,
    #[error("can only promote a learner member")]
    NotLearner,
    #[error("can only promote a learner member which is in sync with the leader")]
    LearnerNotReady,
    #[error("too many learner members in the cluster")]
    TooManyLearners,
    /// The voters that have started would be no quorum.
    #[error("not enough started members")]
    NotEnoughStarted,
    /// The voters that have been connected for long enough would be no quorum.
    #[error("unhealthy cluster")]
    Unhealthy,
    /// Only a leader can hand leadership over.
    #[error("not leader")]
    NotLeader,
    /// Not a voter of this cluster.
    #[error("bad leader transferee")]
    BadTransferee,
    #[error("the transfer of leadership took too long")]
    TransferTimeout,
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

/// Changes who the members are and who leads them.
pub trait ClusterAdmin: Send + Sync + 'static {
    /// Answers with the members after the change, once this member has applied it.
    fn change_members(
        &self,
        change: Permitted<MemberChange>,
    ) -> Pending<'_, Result<Vec<Member>, ClusterError>>;

    /// Answers once the other one leads.
    fn move_leader(&self, request: Permitted<MoveLeader>) -> Pending<'_, Result<(), ClusterError>>;
}

/// The store could not be rewritten, or the member is stopping. Nothing is lost.
#[derive(Debug, thiserror::Error)]
#[error("cannot defragment: {0}")]
pub struct DefragmentError(#[from] std::io::Error);

/// Why a prefix key was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyAdminError {
    /// There is one already, or the key table says otherwise why not.
    #[error(transparent)]
    Refused(keys::KeyChangeRefusal),
    /// The member that mints has not opened the root key.
    #[error("the root key is not open")]
    RootNotOpen,
    /// There is nothing to rotate.
    #[error("this prefix has no key of its own")]
    UnknownPrefix,
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error(transparent)]
    NotApplied(NotApplied),
}

impl From<NotApplied> for KeyAdminError {
    fn from(error: NotApplied) -> Self {
        match error {
            NotApplied::Refused(Refusal::Keys(refusal)) => KeyAdminError::Refused(refusal),
            other => KeyAdminError::NotApplied(other),
        }
    }
}

/// A prefix that gets a key of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddPrefixKey {
    pub prefix: Bytes,
}

/// A prefix key that gets a new version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotatePrefixKey {
    pub prefix: Bytes,
}

/// Mints keys at the leader and has them agreed on. Answers with a view that has them applied.
pub trait KeyAdmin: Send + Sync + 'static {
    fn add_prefix(
        &self,
        request: Permitted<AddPrefixKey>,
    ) -> Pending<'_, Result<Arc<ReadView>, KeyAdminError>>;

    fn rotate_prefix(
        &self,
        request: Permitted<RotatePrefixKey>,
    ) -> Pending<'_, Result<Arc<ReadView>, KeyAdminError>>;

    /// A key for a backup of this view, and the way to it. Nothing while this member's own slot
    /// does not open the root key.
    fn seal_backup(&self, view: &ReadView) -> Option<(keys::BackupKey, keys::BackupEnvelope)>;
}
