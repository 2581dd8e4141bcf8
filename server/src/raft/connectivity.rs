//! Which peers answer, and since when: every member asks every other one again and again.
//!
//! Promise: a peer counts as connected from its first answer until the first time that it gives
//! none. A member learns from the answers that it has been removed, whoever leads. A leader that
//! reaches no quorum, and a follower that does not reach its leader, tell clients that there is no
//! leader: in etcd the one steps down, and the other forgets its leader when it stands for
//! election. The leader also falls silent, so that the others can elect another one. What becomes
//! of proposals is raft's affair.
//! Source: etcd 3.7.1 `server/etcdserver/api/rafthttp` (active since), `etcdserver/util.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use proto::sealkv::peer as pb;
use tokio::sync::watch;

use super::consensus::{Consensus, Leadership};
use super::peers::Lane;
use super::types::MemberId;
use crate::clock;

/// Between questions to one peer.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Rounds, one after the other, in which a leader is without its answers: no chance any more.
const LOST_ROUNDS: u32 = 2;

/// The peers that answer, and the time of the first answer since they last did not.
#[derive(Default)]
pub(super) struct Connectivity {
    since: Mutex<BTreeMap<u64, Duration>>,
    /// A leader that has been out of touch for a while; another one, or another term, is news.
    given_up: watch::Sender<Option<Leadership>>,
}

impl Connectivity {
    /// None for a peer that does not answer.
    pub(super) fn since(&self, member: u64) -> Option<Duration> {
        self.since.lock().get(&member).copied()
    }

    pub(super) fn watch_given_up(&self) -> watch::Receiver<Option<Leadership>> {
        self.given_up.subscribe()
    }

    fn note(&self, member: u64, answers: bool) {
        let mut since = self.since.lock();
        if answers {
            since.entry(member).or_insert_with(clock::monotonic);
        } else {
            since.remove(&member);
        }
    }

    fn give_up(&self, lost: Option<Leadership>) {
        self.given_up
            .send_if_modified(|known| std::mem::replace(known, lost) != lost);
    }

    fn keep_only(&self, members: &[u64]) {
        self.since.lock().retain(|id, _| members.contains(id));
    }
}

/// A leader, and the rounds in which it was out of touch.
#[derive(Debug, Default)]
struct Lost {
    leadership: Leadership,
    rounds: u32,
}

impl Lost {
    fn note(&mut self, leadership: Leadership, is_reached: bool) {
        let before = if self.leadership == leadership {
            self.rounds
        } else {
            0
        };
        *self = Lost {
            leadership,
            rounds: if is_reached {
                0
            } else {
                LOST_ROUNDS.min(before + 1)
            },
        };
    }

    fn for_good(&self) -> Option<Leadership> {
        (self.rounds == LOST_ROUNDS).then_some(self.leadership)
    }
}

impl Consensus {
    /// Asks every peer, and goes on asking. Lives as long as the member.
    pub async fn watch_peers(self, answer_within: Duration) {
        let mut lost = Lost::default();
        loop {
            let nodes = self.member_nodes();
            let others: Vec<u64> = nodes
                .keys()
                .copied()
                .filter(|id| *id != self.member_id())
                .collect();
            self.connectivity().keep_only(&others);
            let this = &self;
            let asked = others.into_iter().map(|id| async move {
                let answers = this.answers(id, answer_within).await;
                this.connectivity().note(id, answers);
            });
            futures::future::join_all(asked).await;
            let leadership = self.leadership();
            lost.note(leadership, self.reaches_leader(leadership.leader));
            let given_up = lost.for_good();
            self.connectivity().give_up(given_up);
            let own = given_up.filter(|lost| lost.leader == self.member_id());
            self.peers().fall_silent(own.map(|lost| lost.term));
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// The leader that clients are told of; 0 if there is none, or none in reach.
    pub(super) fn leader_in_reach(&self) -> u64 {
        let leadership = self.leadership();
        let lost = *self.connectivity().given_up.borrow() == Some(leadership);
        if lost { 0 } else { leadership.leader }
    }

    fn reaches_leader(&self, leader: MemberId) -> bool {
        if leader == self.member_id() {
            self.reaches_quorum()
        } else {
            self.connectivity().since(leader).is_some()
        }
    }

    /// Whether most voters answer; while voters change, most of the old and most of the new ones.
    fn reaches_quorum(&self) -> bool {
        let (newest, _) = self.memberships();
        let reached =
            |id: &MemberId| *id == self.member_id() || self.connectivity().since(*id).is_some();
        let mut configs = newest.membership().get_joint_config().iter();
        configs.all(|voters| 2 * voters.iter().filter(|id| reached(id)).count() > voters.len())
    }

    async fn answers(&self, id: u64, within: Duration) -> bool {
        let peers = self.peers();
        let Some(urls) = self.peer_urls(id) else {
            return false;
        };
        let Ok(mut client) = peers.client(&urls, Lane::Control) else {
            return false;
        };
        let call = client.greet(peers.request(id, pb::GreetRequest {}));
        match tokio::time::timeout(within, call).await {
            Ok(Ok(_)) => true,
            Ok(Err(status)) => {
                peers.note(&status);
                false
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_given_up_after_two_rounds_and_another_one_is_not() {
        let leads = |leader, term| Leadership { leader, term };
        let mut lost = Lost::default();
        lost.note(leads(1, 5), false);
        assert_eq!(lost.for_good(), None);
        lost.note(leads(1, 5), true);
        lost.note(leads(1, 5), false);
        assert_eq!(lost.for_good(), None);
        lost.note(leads(1, 5), false);
        lost.note(leads(1, 5), false);
        assert_eq!(lost.for_good(), Some(leads(1, 5)));
        lost.note(leads(1, 6), false);
        assert_eq!(lost.for_good(), None);
    }
}
