//! What two servers may answer differently, and nothing else:
//!
//! - cluster id, member id and raft term of a header (only whether they are set is compared);
//! - the seconds a lease has left, by a few (the servers are asked one after the other);
//! - the order of a lease's keys and of the list of leases (etcd walks a hash map, and expiries a moment apart);
//! - the order of alarms of several kinds, in their list and among a status's errors (etcd walks a hash map);
//! - the pieces in which a stream of a range comes (what they hold together, and what only the last may carry, is compared);
//! - sizes, raft's indexes and terms, and the leader's id in a status (only whether they are set is compared, and of
//!   the bytes in use nothing: an empty store of etcd's has some);
//! - the hash of a store, which is of etcd's bytes, and from where it is: at the compacted revision etcd tells the one
//!   compacted before, for as long as it keeps that hash (what revision it is of is compared, but where none is asked for:
//!   once revision 0 was compacted etcd takes that for one);
//! - hashes of revisions that were compacted to: etcd keeps those of its ten newest compactions, until it is started
//!   again, and tells them when the revision itself is long compacted; sealkv has a hash of what is there (none is asked
//!   for);
//! - what a token looks like, and what is in a snapshot (whether there is one, and whether it is whole, is compared);
//! - watches that are open while users, roles or permissions change: sealkv ends those that are no longer permitted,
//!   etcd asks at their creation alone (so a script's watches end before such a change);
//! - signed tokens of a user that is gone or has another password since: etcd takes them for managing users all the
//!   same (so a script forgets them; simple ones it keeps);
//! - who may ask for a range that ends before its key, and so for nothing: whoever may have its key here, in etcd that
//!   depends on the order in which permissions were granted (with users no such range is asked for);
//! - what is named of an alarm and a permission that is missing: etcd names the alarm, sealkv tells whoever may not
//!   write nothing of the store (with users no alarm is raised);
//! - a stream of a range with a target to sort by and no order: etcd sorts each piece by itself and goes on after its
//!   last key, which loses keys and repeats others; sealkv refuses it as it refuses an order (none is asked for);
//! - ids, names and URLs of members, and how many there are (only whether they are set is compared);
//! - `lease` of a record read with `keys_only`: etcd 3.7 forgets it (etcd-io/etcd#22209), sealkv tells it.

use std::fmt;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use tonic::Status;

/// Seconds by which what is left of a lease may differ: on a machine with much to do one server is asked later, and a new
/// leader begins anew.
const LEASE_SECONDS: i64 = 60;

/// One server's answer, ready to be compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    text: String,
    /// Seconds left of a lease; compared with a tolerance.
    seconds: Option<i64>,
}

impl Answer {
    pub fn of(value: &impl fmt::Debug) -> Self {
        Self {
            text: format!("{value:#?}"),
            seconds: None,
        }
    }

    /// `seconds` are what a lease has left.
    pub(super) fn with_seconds(value: &impl fmt::Debug, seconds: Option<i64>) -> Self {
        Self {
            seconds,
            ..Self::of(value)
        }
    }

    /// The same answer with what was told before it.
    pub(super) fn after(self, before: &impl fmt::Debug) -> Self {
        let text = format!("{before:#?}\n{}", self.text);
        Self { text, ..self }
    }

    pub fn of_result<T: fmt::Debug>(result: Result<T, Status>) -> Self {
        match result {
            Ok(value) => Self::of(&value),
            Err(status) => Self {
                text: format!("{:?}: {}", status.code(), status.message()),
                seconds: None,
            },
        }
    }

    pub fn agrees_with(&self, other: &Self) -> bool {
        let about = match (self.seconds, other.seconds) {
            (Some(one), Some(other)) => (one - other).abs() <= LEASE_SECONDS,
            (one, other) => one == other,
        };
        about && self.text == other.text
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.text)?;
        self.seconds
            .map_or(Ok(()), |seconds| write!(out, "\nseconds left: {seconds}"))
    }
}

/// Keeps of the ids only whether they are set.
pub(super) fn header(header: &mut Option<pb::ResponseHeader>) {
    if let Some(header) = header {
        header.cluster_id = u64::from(header.cluster_id != 0);
        header.member_id = u64::from(header.member_id != 0);
        header.raft_term = u64::from(header.raft_term != 0);
    }
}

pub(super) fn range(
    request: &pb::RangeRequest,
    mut response: pb::RangeResponse,
) -> pb::RangeResponse {
    header(&mut response.header);
    if request.keys_only {
        response.kvs.iter_mut().for_each(|kv| kv.lease = 0);
    }
    response
}

pub(super) fn txn(request: &pb::TxnRequest, mut response: pb::TxnResponse) -> pb::TxnResponse {
    header(&mut response.header);
    let branch = if response.succeeded {
        &request.success
    } else {
        &request.failure
    };
    for (asked, answered) in branch.iter().zip(&mut response.responses) {
        match (&asked.request, &mut answered.response) {
            (Some(Request::RequestRange(asked)), Some(Response::ResponseRange(answered))) => {
                *answered = range(asked, std::mem::take(answered));
            }
            (Some(Request::RequestTxn(asked)), Some(Response::ResponseTxn(answered))) => {
                *answered = txn(asked, std::mem::take(answered));
            }
            _ => {}
        }
    }
    response
}

pub(super) fn time_to_live(answer: Result<pb::LeaseTimeToLiveResponse, Status>) -> Answer {
    let mut seconds = None;
    let answer = answer.map(|mut response| {
        header(&mut response.header);
        response.keys.sort();
        if response.ttl > 0 {
            seconds = Some(std::mem::take(&mut response.ttl));
        }
        response
    });
    Answer {
        seconds,
        ..Answer::of_result(answer)
    }
}

pub(super) fn leases(mut response: pb::LeaseLeasesResponse) -> pb::LeaseLeasesResponse {
    header(&mut response.header);
    response.leases.sort_by_key(|lease| lease.id);
    response
}

/// All pieces as one answer, if only the last says what a whole answer says once.
pub(super) fn stream(
    request: &pb::RangeRequest,
    pieces: Vec<pb::RangeStreamResponse>,
) -> (pb::RangeResponse, bool) {
    let mut whole = pb::RangeResponse::default();
    let mut early = false;
    let last = pieces.len().saturating_sub(1);
    for (index, piece) in pieces.into_iter().enumerate() {
        let Some(piece) = piece.range_response else {
            continue;
        };
        early |= index != last && (piece.header.is_some() || piece.more || piece.count != 0);
        whole.kvs.extend(piece.kvs);
        (whole.header, whole.more, whole.count) = (piece.header, piece.more, piece.count);
    }
    (range(request, whole), early)
}

pub(super) fn alarms(mut response: pb::AlarmResponse) -> pb::AlarmResponse {
    header(&mut response.header);
    response
        .alarms
        .sort_by_key(|raised| (raised.member_id, raised.alarm));
    response
}

pub(super) fn status(mut response: pb::StatusResponse) -> pb::StatusResponse {
    header(&mut response.header);
    response.errors.sort();
    response.db_size = i64::from(response.db_size > 0);
    response.db_size_in_use = 0;
    let numbers = [
        &mut response.leader,
        &mut response.raft_index,
        &mut response.raft_term,
        &mut response.raft_applied_index,
    ];
    for number in numbers {
        *number = u64::from(*number > 0);
    }
    response
}

pub(super) fn hash_kv(
    request: pb::HashKvRequest,
    mut response: pb::HashKvResponse,
) -> pb::HashKvResponse {
    if request.revision == 0 {
        response.hash_revision = 0;
    }
    header(&mut response.header);
    (response.hash, response.compact_revision) = (0, 0);
    response
}

pub(super) fn hash(mut response: pb::HashResponse) -> pb::HashResponse {
    header(&mut response.header);
    response.hash = 0;
    response
}

pub(super) fn members(mut response: pb::MemberListResponse) -> pb::MemberListResponse {
    header(&mut response.header);
    for member in &mut response.members {
        member.id = u64::from(member.id != 0);
        member.name = if member.name.is_empty() { "" } else { "named" }.into();
        for urls in [&mut member.peer_ur_ls, &mut member.client_ur_ls] {
            urls.iter_mut().for_each(|url| *url = "url".into());
        }
    }
    response.members.dedup();
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_may_differ_but_must_be_set_and_revisions_must_agree() {
        let with = |member_id, revision| {
            let mut answer = Some(pb::ResponseHeader {
                cluster_id: 7,
                member_id,
                revision,
                raft_term: 3,
            });
            header(&mut answer);
            Answer::of(&answer)
        };
        assert!(with(1, 5).agrees_with(&with(2, 5)));
        assert!(!with(1, 5).agrees_with(&with(1, 6)));
        assert!(!with(1, 5).agrees_with(&with(0, 5)));
    }

    #[test]
    fn what_is_left_of_a_lease_may_differ_by_little() {
        let left = |ttl| {
            time_to_live(Ok(pb::LeaseTimeToLiveResponse {
                ttl,
                ..Default::default()
            }))
        };
        assert!(left(600).agrees_with(&left(598)));
        assert!(!left(600).agrees_with(&left(500)));
        assert!(!left(600).agrees_with(&left(-1)));
    }

    #[test]
    fn codes_and_texts_of_refusals_must_agree() {
        let refused = |status: Status| Answer::of_result::<()>(Err(status));
        assert!(!refused(Status::not_found("x")).agrees_with(&refused(Status::unknown("x"))));
        assert!(!refused(Status::not_found("x")).agrees_with(&refused(Status::not_found("y"))));
    }
}
