//! The leader's comparison of what the members have left of their history: the hash up to the
//! newest compact revision, which all members share and no write changes any more.
//!
//! Promise: etcd's rules. Members with the same compact revision must have the same hash; those
//! that are not of the majority's mind get the CORRUPT alarm, and if there is no majority, the
//! cluster as a whole does (member 0). A compaction is compared until every member could be.
//!
//! Source: etcd 3.7.1, `server/etcdserver/corrupt.go`, `CompactHashCheck`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Found, ask_others, own_hash, raise};
use crate::mvcc::hash::KvHash;
use crate::raft::Consensus;

/// All members.
const CLUSTER: u64 = 0;

/// What one comparison came to.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    AllSame,
    /// As far as could be seen; some could not be asked.
    SomeUnseen,
    /// Those that get the alarm.
    Corrupt(Vec<u64>),
}

/// Lives as long as the member.
pub async fn run(consensus: Consensus, interval: Duration) {
    let mut checked = 0;
    loop {
        tokio::time::sleep(interval).await;
        if consensus.is_leader() {
            checked = check(&consensus, checked).await;
        }
    }
}

/// `checked`: the newest compact revision that is known to be good everywhere; returns it as it is
/// afterwards.
async fn check(consensus: &Consensus, checked: i64) -> i64 {
    let leader_id = format!("{:x}", consensus.member_id());
    let revision = consensus.view().compact_revision;
    tracing::info!(local_member_id = leader_id, "starting compact hash check");
    if revision <= checked {
        tracing::info!(
            number_of_hashes_checked = 0,
            "finished compaction hash check"
        );
        return checked;
    }
    // Compacted further since: the next round.
    let own = own_hash(consensus, revision).await;
    let Some((own, _)) = own.filter(|(own, _)| own.compact_revision == revision) else {
        return checked;
    };
    let (found, others) = ask_others(consensus, revision).await;
    let outcome = compare(consensus.member_id(), own, &found, others);
    tracing::info!(
        number_of_hashes_checked = 1,
        "finished compaction hash check"
    );
    match outcome {
        Outcome::AllSame => {
            tracing::info!(
                number_of_peers_checked = others,
                revision,
                "successfully checked hash on whole cluster"
            );
            revision
        }
        Outcome::SomeUnseen => {
            tracing::warn!(
                number_of_peers = others,
                revision,
                "skipped revision in compaction hash check; was not able to check all peers"
            );
            checked
        }
        Outcome::Corrupt(members) => {
            tracing::error!(
                leader_id,
                revision,
                ?members,
                "detected compaction hash mismatch"
            );
            for member in members {
                raise(consensus, member).await;
            }
            checked
        }
    }
}

fn compare(leader: u64, own: KvHash, found: &[Found], others: usize) -> Outcome {
    let mut by_hash = BTreeMap::from([(own.hash, vec![leader])]);
    let comparable = found
        .iter()
        .filter(|found| found.compact_revision == own.compact_revision);
    let mut seen = 0;
    for found in comparable {
        seen += 1;
        by_hash.entry(found.hash).or_default().push(found.member);
    }
    if by_hash.len() == 1 {
        return if seen == others {
            Outcome::AllSame
        } else {
            Outcome::SomeUnseen
        };
    }
    let quorum = others.div_ceil(2) + 1;
    let majority = by_hash
        .iter()
        .find(|(_, members)| members.len() >= quorum)
        .map(|(hash, _)| *hash);
    match majority {
        None => Outcome::Corrupt(vec![CLUSTER]),
        Some(hash) => {
            by_hash.remove(&hash);
            Outcome::Corrupt(by_hash.into_values().flatten().collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: u64 = 1;

    fn found(member: u64, hash: u32, compact_revision: i64) -> Found {
        Found {
            member,
            hash,
            compact_revision,
            revision: 20,
        }
    }

    fn outcome(found: &[Found], others: usize) -> Outcome {
        let own = KvHash {
            hash: 7,
            hash_revision: 10,
            compact_revision: 10,
        };
        compare(LEADER, own, found, others)
    }

    #[test]
    fn a_compaction_is_good_once_every_member_has_its_hash() {
        let both = [found(2, 7, 10), found(3, 7, 10)];
        assert_eq!(outcome(&both, 2), Outcome::AllSame);
        assert_eq!(outcome(&both[..1], 2), Outcome::SomeUnseen);
        assert_eq!(
            outcome(&[found(2, 7, 10), found(3, 9, 11)], 2),
            Outcome::SomeUnseen
        );
        assert_eq!(outcome(&[], 0), Outcome::AllSame);
    }

    #[test]
    fn whoever_is_not_of_the_majoritys_mind_is_corrupt() {
        assert_eq!(
            outcome(&[found(2, 7, 10), found(3, 9, 10)], 2),
            Outcome::Corrupt(vec![3])
        );
        assert_eq!(
            outcome(&[found(2, 9, 10), found(3, 9, 10)], 2),
            Outcome::Corrupt(vec![LEADER])
        );
    }

    #[test]
    fn without_a_majority_the_whole_cluster_is_corrupt() {
        assert_eq!(
            outcome(&[found(2, 9, 10)], 1),
            Outcome::Corrupt(vec![CLUSTER])
        );
        assert_eq!(
            outcome(&[found(2, 9, 10)], 2),
            Outcome::Corrupt(vec![CLUSTER])
        );
        assert_eq!(
            outcome(&[found(2, 8, 10), found(3, 9, 10)], 2),
            Outcome::Corrupt(vec![CLUSTER])
        );
    }
}
