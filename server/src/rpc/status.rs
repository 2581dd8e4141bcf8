//! Errors as clients see them: etcd's codes and texts, to the letter.
//!
//! Promise: one exhaustive match per error; a new variant does not compile until it has a code
//! and a text. No text holds a value.
//! Source: etcd 3.7.1, `api/v3rpc/rpctypes/error.go`.

use tonic::{Code, Status};

use super::parse::BadRequest;
use super::room::Full;
use super::values::ValueError;
use crate::access::{Denied, PasswordError, VerifyOnly};
use crate::command::{AuthRefusal, NoEffect, NotApplied, Refusal};
use crate::mvcc::read::ReadError;
use crate::replica::{ClusterError, KeyAdminError, LeaseError, ProposeError, ReadIndexError};
use crate::seal::SealerError;
use crate::watch::NoRoom;

pub(super) const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
pub(super) const DUPLICATE_WATCH_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
pub(super) const EMPTY_WATCHER_RANGE: &str = "mvcc: watcher range is empty";

const NO_LEADER: &str = "etcdserver: no leader";
const LEADER_CHANGED: &str = "etcdserver: leader changed";
const TIMED_OUT: &str = "etcdserver: request timed out";
const STOPPED: &str = "etcdserver: server stopped";
const CORRUPT: &str = "etcdserver: corrupt cluster";
const USER_EMPTY: &str = "etcdserver: user name is empty";
const USER_NOT_FOUND: &str = "etcdserver: user name not found";
const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";

/// etcd's answer to a method that it does not know.
#[must_use]
pub fn unknown_method(method: &str, service: &str) -> Status {
    Status::unimplemented(format!("unknown method {method} for service {service}"))
}

pub(super) fn no_leader() -> Status {
    Status::unavailable(NO_LEADER)
}

pub(super) fn stopped() -> Status {
    Status::unavailable(STOPPED)
}

pub(super) fn no_space() -> Status {
    refused(&Refusal::NoSpace)
}

/// etcd gives this one its own name for it, and no code.
pub(super) fn no_password_user() -> Status {
    Status::unknown("auth: authentication failed, password was given for no password user")
}

pub(super) fn not_supported_for_learner() -> Status {
    Status::failed_precondition("etcdserver: rpc not supported for learner")
}

pub(super) fn invalid_client_api_version() -> Status {
    Status::invalid_argument("etcdserver: invalid client api version")
}

/// A status as Go prints it: what etcd gives as a reason for a cancelled watch.
pub(super) fn as_reason(status: &Status) -> String {
    let code = match status.code() {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    };
    format!("rpc error: code = {code} desc = {}", status.message())
}

impl From<BadRequest> for Status {
    fn from(error: BadRequest) -> Self {
        let invalid = |text: &str| Status::invalid_argument(text);
        match error {
            BadRequest::EmptyKey => invalid("etcdserver: key is not provided"),
            BadRequest::KeyNotFound => invalid("etcdserver: key not found"),
            BadRequest::ValueProvided => invalid("etcdserver: value is provided"),
            BadRequest::LeaseProvided => invalid("etcdserver: lease is provided"),
            BadRequest::TooManyOps => invalid("etcdserver: too many operations in txn request"),
            BadRequest::DuplicateKey => invalid("etcdserver: duplicate key given in txn request"),
            BadRequest::InvalidSortOption => invalid("etcdserver: invalid sort option"),
            BadRequest::RequestTooLarge => invalid("etcdserver: request is too large"),
            BadRequest::StreamSortOrder => {
                Status::unimplemented("RangeStream does not support custom sort orders")
            }
            BadRequest::StreamFilter => {
                Status::unimplemented("RangeStream does not support revision filters")
            }
            BadRequest::EmptyPrefix => {
                invalid("sealkv: the empty prefix has a key from the first start")
            }
        }
    }
}

impl From<Denied> for Status {
    fn from(error: Denied) -> Self {
        match error {
            Denied::PermissionDenied => Status::permission_denied("etcdserver: permission denied"),
            Denied::UserEmpty => Status::invalid_argument(USER_EMPTY),
            Denied::UserNotFound => Status::failed_precondition(USER_NOT_FOUND),
            Denied::AuthOldRevision => {
                Status::invalid_argument("etcdserver: revision of auth store is old")
            }
            Denied::InvalidAuthToken => Status::unauthenticated("etcdserver: invalid auth token"),
        }
    }
}

impl From<AuthRefusal> for Status {
    fn from(error: AuthRefusal) -> Self {
        use AuthRefusal as Auth;
        let invalid = |text: &str| Status::invalid_argument(text);
        let failed = |text: &str| Status::failed_precondition(text);
        match error {
            Auth::RootUserNotExist => failed("etcdserver: root user does not exist"),
            Auth::RootRoleNotExist => failed("etcdserver: root user does not have root role"),
            Auth::UserEmpty => invalid(USER_EMPTY),
            Auth::UserAlreadyExist => failed("etcdserver: user name already exists"),
            Auth::UserNotFound => failed(USER_NOT_FOUND),
            Auth::RoleEmpty => invalid("etcdserver: role name is empty"),
            Auth::RoleAlreadyExist => failed("etcdserver: role name already exists"),
            Auth::RoleNotFound => failed("etcdserver: role name not found"),
            Auth::RoleNotGranted => failed("etcdserver: role is not granted to the user"),
            Auth::PermissionNotGiven => invalid("etcdserver: permission not given"),
            Auth::PermissionNotGranted => {
                failed("etcdserver: permission is not granted to the role")
            }
            Auth::InvalidManagement => invalid("etcdserver: invalid auth management"),
            Auth::NotEnabled => failed("etcdserver: authentication is not enabled"),
            Auth::AuthenticationFailed => {
                invalid("etcdserver: authentication failed, invalid user ID or password")
            }
        }
    }
}

impl From<VerifyOnly> for Status {
    fn from(error: VerifyOnly) -> Self {
        Status::unknown(format!("auth: {error}"))
    }
}

impl From<PasswordError> for Status {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::TooMany => ProposeError::TooManyRequests.into(),
            PasswordError::Stopped => stopped(),
        }
    }
}

impl From<Full> for Status {
    fn from(_: Full) -> Self {
        ProposeError::TooManyRequests.into()
    }
}

impl From<NoRoom> for Status {
    fn from(_: NoRoom) -> Self {
        ProposeError::TooManyRequests.into()
    }
}

impl From<ProposeError> for Status {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NoLeader => no_leader(),
            ProposeError::LeaderChanged => Status::unavailable(LEADER_CHANGED),
            // etcd's own raft waits for a leader for as long as the request may take.
            ProposeError::NeverSent => Status::deadline_exceeded("context deadline exceeded"),
            ProposeError::Timeout => Status::unavailable(TIMED_OUT),
            ProposeError::TimeoutDueToLeaderFail => Status::unavailable(
                "etcdserver: request timed out, possibly due to previous leader failure",
            ),
            ProposeError::TimeoutDueToConnectionLost => Status::unavailable(
                "etcdserver: request timed out, possibly due to connection lost",
            ),
            ProposeError::TooManyRequests => {
                Status::resource_exhausted("etcdserver: too many requests")
            }
            ProposeError::RequestTooLarge => BadRequest::RequestTooLarge.into(),
            ProposeError::CannotOpen => {
                Status::unavailable("sealkv: the leader has not opened the root key")
            }
            ProposeError::Stopped => stopped(),
            ProposeError::Corrupt => Status::data_loss(CORRUPT),
        }
    }
}

impl From<ReadIndexError> for Status {
    fn from(error: ReadIndexError) -> Self {
        match error {
            ReadIndexError::LeaderChanged => Status::unavailable(LEADER_CHANGED),
            ReadIndexError::Timeout => Status::unavailable(TIMED_OUT),
            ReadIndexError::TimeoutWaitAppliedIndex => Status::unavailable(
                "etcdserver: request timed out, waiting for the applied index took too long",
            ),
            ReadIndexError::Stopped => stopped(),
        }
    }
}

impl From<LeaseError> for Status {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::NotFound => Status::not_found(LEASE_NOT_FOUND),
            LeaseError::NoLeader => no_leader(),
            LeaseError::LeaderChanged => Status::unavailable(LEADER_CHANGED),
            LeaseError::Timeout => Status::unavailable(TIMED_OUT),
            LeaseError::Stopped => stopped(),
        }
    }
}

impl From<ReadError> for Status {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted => Status::out_of_range(COMPACTED),
            ReadError::FutureRevision => refused(&Refusal::FutureRevision),
            // Tried again with newer views before; compactions outran every one of them.
            ReadError::ViewTooOld => Status::unavailable(TIMED_OUT),
            ReadError::Corrupt(_) => Status::data_loss(CORRUPT),
            ReadError::Storage(_) => Status::internal("sealkv: the storage of this member failed"),
        }
    }
}

impl From<SealerError> for Status {
    fn from(error: SealerError) -> Self {
        let text = format!("sealkv: {error}");
        match error {
            SealerError::RootNotOpen => Status::unavailable(text),
            SealerError::Seal(
                keys::SealError::NotInitialised | keys::SealError::KeyAbsent { .. },
            ) => Status::unavailable(text),
            SealerError::Open(keys::OpenError::KeyAbsent { .. }) => {
                Status::failed_precondition(text)
            }
            SealerError::Open(
                keys::OpenError::NotAuthentic { .. } | keys::OpenError::Malformed(_),
            ) => Status::data_loss(text),
        }
    }
}

impl From<ValueError> for Status {
    fn from(error: ValueError) -> Self {
        match error {
            ValueError::Read(error) => error.into(),
            ValueError::Sealer(error) => error.into(),
        }
    }
}

impl From<NotApplied> for Status {
    fn from(error: NotApplied) -> Self {
        match error {
            NotApplied::NoEffect(
                NoEffect::Guard
                | NoEffect::KeyHeader
                | NoEffect::PluginCursor
                | NoEffect::StaleTerm,
            ) => Status::unavailable("sealkv: the state moved under the request, nothing was done"),
            NotApplied::Refused(refusal) => refused(&refusal),
            NotApplied::AnotherCommand => {
                Status::internal("sealkv: the reply belongs to another command")
            }
        }
    }
}

fn refused(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::KeyNotFound => BadRequest::KeyNotFound.into(),
        Refusal::LeaseNotFound => Status::not_found(LEASE_NOT_FOUND),
        Refusal::LeaseTtlTooLarge => Status::out_of_range("etcdserver: too large lease TTL"),
        Refusal::LeaseExists => Status::failed_precondition("etcdserver: lease already exists"),
        Refusal::Compacted => Status::out_of_range(COMPACTED),
        Refusal::FutureRevision => {
            Status::out_of_range("etcdserver: mvcc: required revision is a future revision")
        }
        Refusal::NoSpace => Status::resource_exhausted("etcdserver: mvcc: database space exceeded"),
        Refusal::Corrupt => Status::data_loss(CORRUPT),
        Refusal::MemberNotFound => Status::not_found("etcdserver: member not found"),
        Refusal::Denied(denied) => (*denied).into(),
        Refusal::Auth(refusal) => (*refusal).into(),
        Refusal::Keys(refusal) => Status::failed_precondition(format!("sealkv: {refusal}")),
        Refusal::AnotherDirectory => {
            Status::failed_precondition("etcdserver: member has already been bootstrapped")
        }
        Refusal::PluginNotFound => Status::not_found("sealkv: plugin not found"),
        Refusal::PluginChunkMissing { .. }
        | Refusal::PluginSize { .. }
        | Refusal::TooManyPlugins { .. } => {
            Status::failed_precondition(format!("sealkv: {refusal}"))
        }
    }
}

impl From<ClusterError> for Status {
    fn from(error: ClusterError) -> Self {
        let precondition = |text: &str| Status::failed_precondition(text);
        match error {
            ClusterError::MemberNotFound => refused(&Refusal::MemberNotFound),
            ClusterError::MemberExists => precondition("etcdserver: member ID already exist"),
            ClusterError::PeerUrlExists => precondition("etcdserver: Peer URLs already exists"),
            ClusterError::BadUrls => {
                Status::invalid_argument("etcdserver: given member URLs are invalid")
            }
            ClusterError::NotLearner => {
                precondition("etcdserver: can only promote a learner member")
            }
            ClusterError::LearnerNotReady => precondition(
                "etcdserver: can only promote a learner member which is in sync with leader",
            ),
            ClusterError::TooManyLearners => {
                precondition("etcdserver: too many learner members in cluster")
            }
            // etcd means this code and sends Unknown.
            ClusterError::NotEnoughStarted => precondition(
                "etcdserver: re-configuration failed due to not enough started members",
            ),
            ClusterError::Unhealthy => Status::unavailable("etcdserver: unhealthy cluster"),
            ClusterError::NotLeader => precondition("etcdserver: not leader"),
            ClusterError::BadTransferee => precondition("etcdserver: bad leader transferee"),
            ClusterError::TransferTimeout => {
                Status::unknown("etcdserver: request timed out, leader transfer took too long")
            }
            ClusterError::Propose(error) => error.into(),
        }
    }
}

impl From<KeyAdminError> for Status {
    fn from(error: KeyAdminError) -> Self {
        match error {
            KeyAdminError::Refused(refusal) => refused(&Refusal::Keys(refusal)),
            KeyAdminError::RootNotOpen => SealerError::RootNotOpen.into(),
            KeyAdminError::UnknownPrefix => {
                Status::not_found("sealkv: this prefix has no key of its own")
            }
            KeyAdminError::Propose(error) => error.into(),
            KeyAdminError::NotApplied(error) => error.into(),
        }
    }
}
