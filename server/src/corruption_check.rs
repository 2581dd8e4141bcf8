//! Comparisons of the members' data: by the leader, every `--corrupt-check-time`; of what is
//! compacted, every `--compact-hash-check-time`; and of a member with its peers before it serves.
//!
//! Promise: etcd's rules. In the first, members with the same compact revision must have the same hash up to the
//! leader's revision; none may be ahead of the leader; the leader's own hash must not change. The
//! first member that breaks one gets the CORRUPT alarm. A member that is behind, has compacted, or
//! does not answer is left out of this round.
//! Not known here: what the hash covers.
//!
//! Source: etcd 3.7.1, `server/etcdserver/corrupt.go`.

mod compacted;
mod initial;

use std::time::Duration;

use proto::sealkv::peer as pb;

use crate::access::{Internal, Permitted};
use crate::command::{AlarmKind, ChangeAlarm};
use crate::mvcc::hash::{KvHash, hash_kv};
use crate::raft::{Consensus, Lane};

pub use compacted::run as run_compacted;
pub use initial::{Inconsistent, check as initial};

/// What one member has up to a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    member: u64,
    hash: u32,
    compact_revision: i64,
    /// The member's newest.
    revision: i64,
}

/// Lives as long as the member.
pub async fn run(consensus: Consensus, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        if consensus.is_leader()
            && let Some(member) = corrupt_member(&consensus).await
        {
            raise(&consensus, member).await;
        }
    }
}

/// The first member that has other data than the leader.
async fn corrupt_member(consensus: &Consensus) -> Option<u64> {
    let (before, _) = own_hash(consensus, 0).await?;
    let (others, _) = ask_others(consensus, before.hash_revision).await;
    consensus.read_barrier().await.ok()?;
    let (after, newest) = own_hash(consensus, 0).await?;
    let corrupt = compare(consensus.member_id(), (before, after), newest, &others);
    tracing::info!(
        number_of_peers_checked = others.len(),
        "finished peer corruption check"
    );
    corrupt
}

/// Up to a revision, 0 for the newest, which is told as well.
async fn own_hash(consensus: &Consensus, revision: i64) -> Option<(KvHash, i64)> {
    let view = consensus.view();
    let newest = view.revision;
    let hashed = tokio::task::spawn_blocking(move || hash_kv(&view, revision)).await;
    match hashed.ok()? {
        Ok(hash) => Some((hash, newest)),
        Err(error) => {
            tracing::warn!(%error, "failed to hash the key space for the corruption check");
            None
        }
    }
}

/// What the other members have up to a revision, and how many there are, with those that do not
/// answer.
async fn ask_others(consensus: &Consensus, revision: i64) -> (Vec<Found>, usize) {
    let (mut found, mut others) = (Vec::new(), 0);
    for (id, (node, _)) in consensus.member_nodes() {
        if id != consensus.member_id() {
            others += 1;
            found.extend(ask(consensus, id, &node.peer_urls, revision).await);
        }
    }
    (found, others)
}

async fn ask(consensus: &Consensus, member: u64, urls: &[String], revision: i64) -> Option<Found> {
    let peers = consensus.peers();
    let mut client = peers.client(urls, Lane::Control).ok()?;
    let call = client.hash_kv(peers.request(member, pb::HashKvRequest { revision }));
    let answer = tokio::time::timeout(consensus.request_timeout(), call).await;
    let answer = answer.ok()?.ok()?.into_inner();
    (!answer.absent).then_some(Found {
        member,
        hash: answer.hash,
        compact_revision: answer.compact_revision,
        revision: answer.revision,
    })
}

fn compare(
    leader: u64,
    (before, after): (KvHash, KvHash),
    newest: i64,
    others: &[Found],
) -> Option<u64> {
    let unchanged = (before.hash_revision, before.compact_revision)
        == (after.hash_revision, after.compact_revision);
    if unchanged && before.hash != after.hash {
        tracing::warn!(?before, ?after, "found hash mismatch");
        return Some(leader);
    }
    let differs = |found: &&Found| {
        let ahead = found.revision > newest || found.compact_revision > after.compact_revision;
        let other = found.compact_revision == before.compact_revision && found.hash != before.hash;
        ahead || other
    };
    let corrupt = others.iter().find(differs)?;
    tracing::warn!(
        follower_peer_id = %format_args!("{:x}", corrupt.member),
        follower = ?corrupt,
        leader = ?before,
        "same compact revision then hashes must match"
    );
    Some(corrupt.member)
}

async fn raise(consensus: &Consensus, member: u64) {
    let kind = AlarmKind::Corrupt;
    let raised = consensus
        .view()
        .alarms
        .iter()
        .any(|it| it == (kind, member));
    if raised {
        return;
    }
    let alarm = ChangeAlarm {
        activate: true,
        member,
        kind,
    };
    let alarm = Permitted::internal(Internal::CorruptionCheck, alarm.into());
    if let Err(error) = consensus.propose(alarm).await {
        tracing::warn!(%error, "cannot raise the alarm of a corrupt member");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: u64 = 1;

    fn hash(hash: u32, hash_revision: i64, compact_revision: i64) -> KvHash {
        KvHash {
            hash,
            hash_revision,
            compact_revision,
        }
    }

    fn found(hash: u32, compact_revision: i64, revision: i64) -> Found {
        Found {
            member: 2,
            hash,
            compact_revision,
            revision,
        }
    }

    #[test]
    fn a_member_with_another_hash_or_ahead_of_the_leader_is_corrupt() {
        let own = (hash(7, 10, -1), hash(8, 12, -1));
        for (other, expected) in [
            (found(7, -1, 10), None),
            (found(7, -1, 12), None),
            (found(9, -1, 10), Some(2)),
            (found(7, -1, 13), Some(2)),
            (found(7, 5, 12), Some(2)),
        ] {
            assert_eq!(compare(LEADER, own, 12, &[other]), expected, "{other:?}");
        }
    }

    #[test]
    fn hashes_behind_different_compactions_are_not_compared() {
        let own = (hash(7, 10, 3), hash(8, 12, 5));
        assert_eq!(compare(LEADER, own, 12, &[found(9, 5, 12)]), None);
        assert_eq!(compare(LEADER, own, 12, &[found(9, 3, 12)]), Some(2));
    }

    #[test]
    fn a_leader_whose_own_hash_changes_is_corrupt() {
        let own = (hash(7, 10, -1), hash(8, 10, -1));
        assert_eq!(compare(LEADER, own, 10, &[found(7, -1, 10)]), Some(LEADER));
    }
}
