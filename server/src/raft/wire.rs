//! openraft's types on the wire between members: votes, log ids, entries.
//!
//! A message that cannot be a valid one is refused here, before raft sees it.

use proto::sealkv::peer as pb;
use thiserror::Error;

use super::types::{self, Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig, Vote};

#[derive(Debug, Error)]
pub(super) enum WireError {
    #[error("the message lacks its {0}")]
    Missing(&'static str),
    #[error("entry {index} cannot be read: {source}")]
    Payload {
        index: u64,
        source: types::CodecError,
    },
    #[error("the membership of the snapshot cannot be read: {0}")]
    Membership(types::CodecError),
}

pub(super) fn ballot(vote: &Vote) -> pb::Ballot {
    let leader = &vote.leader_id;
    pb::Ballot {
        term: leader.term,
        node_id: leader.voted_for,
        committed: vote.committed,
    }
}

pub(super) fn vote(ballot: Option<pb::Ballot>) -> Result<Vote, WireError> {
    let ballot = ballot.ok_or(WireError::Missing("vote"))?;
    Ok(types::make_vote(
        ballot.term,
        ballot.node_id,
        ballot.committed,
    ))
}

pub(super) fn log_id(id: &LogId) -> pb::LogId {
    pb::LogId {
        term: id.leader_id.term,
        index: id.index,
    }
}

pub(super) fn parse_log_id(id: pb::LogId) -> LogId {
    types::make_log_id(id.term, id.index)
}

fn entry(entry: &Entry) -> pb::LogEntry {
    let payload = types::encode_payload(&entry.payload);
    pb::LogEntry {
        log_id: Some(log_id(&entry.log_id)),
        payload,
    }
}

pub(super) fn parse_entries(entries: Vec<pb::LogEntry>) -> Result<Vec<Entry>, WireError> {
    entries
        .into_iter()
        .map(|entry| {
            let id = parse_log_id(entry.log_id.ok_or(WireError::Missing("log id"))?);
            let payload =
                types::decode_payload(entry.payload).map_err(|source| WireError::Payload {
                    index: id.index,
                    source,
                })?;
            Ok(Entry {
                log_id: id,
                payload,
            })
        })
        .collect()
}

pub(super) type AppendEntries = openraft::raft::AppendEntriesRequest<TypeConfig>;

pub(super) fn append(request: &AppendEntries) -> pb::AppendRequest {
    pb::AppendRequest {
        vote: Some(ballot(&request.vote)),
        prev: request.prev_log_id.as_ref().map(log_id),
        entries: request.entries.iter().map(entry).collect(),
        leader_commit: request.leader_commit.as_ref().map(log_id),
    }
}

pub(super) fn parse_append(request: pb::AppendRequest) -> Result<AppendEntries, WireError> {
    Ok(AppendEntries {
        vote: vote(request.vote)?,
        prev_log_id: request.prev.map(parse_log_id),
        entries: parse_entries(request.entries)?,
        leader_commit: request.leader_commit.map(parse_log_id),
    })
}

type StreamResult = openraft::raft::StreamAppendResult<TypeConfig>;

pub(super) fn append_result(result: StreamResult) -> pb::AppendResponse {
    use openraft::raft::StreamAppendError;
    use pb::append_response::Result as Out;
    let result = match result {
        Ok(id) => Out::Matched(pb::Matched {
            log_id: id.as_ref().map(log_id),
        }),
        Err(StreamAppendError::Conflict(id)) => Out::Conflict(log_id(&id)),
        Err(StreamAppendError::HigherVote(vote)) => Out::HigherVote(ballot(&vote)),
    };
    pb::AppendResponse {
        result: Some(result),
    }
}

pub(super) fn parse_append_result(response: pb::AppendResponse) -> Result<StreamResult, WireError> {
    use openraft::raft::StreamAppendError;
    use pb::append_response::Result as In;
    Ok(match response.result.ok_or(WireError::Missing("result"))? {
        In::Matched(matched) => Ok(matched.log_id.map(parse_log_id)),
        In::Conflict(id) => Err(StreamAppendError::Conflict(parse_log_id(id))),
        In::HigherVote(ballot) => Err(StreamAppendError::HigherVote(vote(Some(ballot))?)),
    })
}

pub(super) type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
pub(super) type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;

pub(super) fn vote_request(request: &VoteRequest) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(ballot(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(super) fn parse_vote_request(request: pb::VoteRequest) -> Result<VoteRequest, WireError> {
    let mut parsed = VoteRequest::new(vote(request.vote)?, request.last_log_id.map(parse_log_id));
    parsed.leadership_transfer = request.leadership_transfer;
    Ok(parsed)
}

pub(super) fn vote_response(response: &VoteResponse) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: Some(ballot(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(log_id),
    }
}

pub(super) fn parse_vote_response(response: pb::VoteResponse) -> Result<VoteResponse, WireError> {
    let last = response.last_log_id.map(parse_log_id);
    Ok(VoteResponse::new(
        vote(response.vote)?,
        last,
        response.granted,
    ))
}

pub(super) fn snapshot_head(sender: &Vote, meta: &SnapshotMeta) -> pb::SnapshotHead {
    pb::SnapshotHead {
        vote: Some(ballot(sender)),
        last_log_id: meta.last_log_id.as_ref().map(log_id),
        membership_log_id: meta.last_membership.log_id().as_ref().map(log_id),
        membership: types::encode_membership(meta.last_membership.membership()),
    }
}

pub(super) fn parse_snapshot_head(
    head: pb::SnapshotHead,
) -> Result<(Vote, SnapshotMeta), WireError> {
    let membership = types::decode_membership(head.membership).map_err(WireError::Membership)?;
    let last_log_id = head.last_log_id.map(parse_log_id);
    let membership_id = head.membership_log_id.map(parse_log_id);
    let last_membership = StoredMembership::new(membership_id, membership);
    Ok((
        vote(head.vote)?,
        SnapshotMeta {
            last_log_id,
            last_membership,
        },
    ))
}
