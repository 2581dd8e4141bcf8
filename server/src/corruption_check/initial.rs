//! Before a member with data serves anybody: its data beside its peers'.
//!
//! Promise: etcd's rule. Another hash behind the same compact revision keeps the member from
//! starting; a peer that does not answer, is behind or has compacted further proves nothing.
//!
//! Source: etcd 3.7.1, `server/etcdserver/corrupt.go`, `InitialCheck`.

use super::{Found, ask_others, own_hash};
use crate::mvcc::hash::KvHash;
use crate::raft::Consensus;

/// Why a member does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    #[error("{member:x} found data inconsistency with peers")]
    WithPeers { member: u64 },
    #[error("{member:x} failed to fetch hash")]
    NoHash { member: u64 },
}

pub async fn check(consensus: &Consensus) -> Result<(), Inconsistent> {
    let member = consensus.member_id();
    let local_member_id = format!("{member:x}");
    tracing::info!(
        local_member_id,
        timeout = ?consensus.request_timeout(),
        "starting initial corruption check"
    );
    let (own, _) = own_hash(consensus, 0)
        .await
        .ok_or(Inconsistent::NoHash { member })?;
    let (others, _) = ask_others(consensus, own.hash_revision).await;
    if others
        .iter()
        .filter(|other| contradicts(own, other))
        .count()
        > 0
    {
        return Err(Inconsistent::WithPeers { member });
    }
    tracing::info!(
        local_member_id,
        "initial corruption checking passed; no corruption"
    );
    Ok(())
}

fn contradicts(own: KvHash, other: &Found) -> bool {
    if own.hash == other.hash {
        return false;
    }
    let same_compaction = own.compact_revision == other.compact_revision;
    let why = if same_compaction {
        "found different hash values from remote peer"
    } else {
        "found different compact revision values from remote peer"
    };
    tracing::warn!(
        local = ?own,
        remote_peer_id = %format_args!("{:x}", other.member),
        remote = ?other,
        "{why}"
    );
    same_compaction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_hash_behind_the_same_compaction_contradicts() {
        let own = KvHash {
            hash: 7,
            hash_revision: 10,
            compact_revision: 3,
        };
        let other = |hash, compact_revision| Found {
            member: 2,
            hash,
            compact_revision,
            revision: 12,
        };
        assert!(!contradicts(own, &other(7, 3)));
        assert!(contradicts(own, &other(8, 3)));
        assert!(!contradicts(own, &other(8, 4)));
    }
}
