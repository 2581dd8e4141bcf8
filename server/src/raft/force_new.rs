//! `--force-new-cluster`: out of one member's data, a cluster of that member alone.
//!
//! For when a quorum is lost for good. What this member has not seen committed is given up, as in
//! etcd. Everybody else counts as removed: should one come back, it is told so and stops.
//! Not known here: whether that is wise; it is the operator's word.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::types::{self, CodecError, EntryPayload, MemberNode, Membership, PAYLOAD_MEMBERSHIP};
use crate::apply::Applied;
use crate::storage::log::{LogEntry, LogError, LogPosition, LogVote, RaftLog};

/// How much of the log is looked at in one go.
const READ_BYTES: usize = 4 << 20;

#[derive(Debug, Error)]
pub enum ForceNewError {
    #[error("raft log: {0}")]
    Log(#[from] LogError),
    #[error("a membership in the log cannot be read: {0}")]
    Membership(#[from] CodecError),
    #[error("this member is none of its cluster any more")]
    NotAMember,
    #[error("the raft log has stopped")]
    Stopped,
}

/// Ends the log, before raft starts, with a membership of this member alone. Does nothing where
/// nothing has been applied: a member without data bootstraps as its flags say.
pub async fn force_new_cluster(
    log: &RaftLog,
    applied: &Applied,
    own_id: u64,
) -> Result<(), ForceNewError> {
    let Some(last) = applied.last else {
        return Ok(());
    };
    let applied_at = LogPosition {
        term: last.term,
        index: last.index,
    };
    let committed = log.committed().filter(|at| at.index > applied_at.index);
    let kept = committed.unwrap_or(applied_at);
    let node = own_node(log, applied, applied_at.index + 1..kept.index + 1, own_id)?;
    // A term in which nobody has led: the entry has no equal at its index.
    let term = log
        .vote()
        .map_or(kept.term, |vote| vote.term)
        .max(kept.term)
        + 1;
    tracing::warn!(
        member = format_args!("{own_id:x}"),
        "forcing a new cluster of this member alone; all others count as removed"
    );
    log.truncate_after(Some(kept)).await?;
    log.save_vote(LogVote {
        term,
        member: own_id,
        committed: false,
    })
    .await?;
    let position = LogPosition {
        term,
        index: kept.index + 1,
    };
    append(log, position, &alone(own_id, node)?).await
}

/// This member as the newest kept membership has it.
fn own_node(
    log: &RaftLog,
    applied: &Applied,
    mut unapplied: std::ops::Range<u64>,
    own_id: u64,
) -> Result<MemberNode, ForceNewError> {
    let mut newest = types::decode_membership(&applied.membership)?;
    while !unapplied.is_empty() {
        let entries = log.read(unapplied.clone(), READ_BYTES)?;
        let Some(end) = entries.last().map(|entry| entry.position.index + 1) else {
            break;
        };
        for entry in entries.iter().filter(|it| it.kind == PAYLOAD_MEMBERSHIP) {
            newest = types::decode_membership(&entry.payload)?;
        }
        unapplied.start = end;
    }
    let node = newest.get_node(&own_id).cloned();
    node.ok_or(ForceNewError::NotAMember)
}

fn alone(own_id: u64, node: MemberNode) -> Result<Membership, ForceNewError> {
    let nodes = BTreeMap::from([(own_id, node)]);
    Membership::new(vec![BTreeSet::from([own_id])], nodes).map_err(|_| ForceNewError::NotAMember)
}

async fn append(
    log: &RaftLog,
    position: LogPosition,
    membership: &Membership,
) -> Result<(), ForceNewError> {
    let (kind, payload) = types::payload_parts(&EntryPayload::Membership(membership.clone()));
    let entry = LogEntry {
        position,
        kind,
        payload,
    };
    let (sender, flushed) = tokio::sync::oneshot::channel();
    let tell = Box::new(move |result: Result<(), LogError>| {
        // Whoever has gone away does not start.
        let _ = sender.send(result);
    });
    log.append(vec![entry], tell).await?;
    flushed.await.map_err(|_| ForceNewError::Stopped)??;
    Ok(())
}
