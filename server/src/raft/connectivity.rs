//! Which peers answer, and since when: every member asks every other one again and again.
//!
//! Promise: a peer counts as connected from its first answer until the first time that it gives
//! none. A member learns from the answers that it has been removed, whoever leads. A leader that
//! reaches no quorum tells clients that there is no leader, as one that has stepped down would;
//! what it does about proposals is raft's affair.
//! Source: etcd 3.7.1 `server/etcdserver/api/rafthttp` (active since), `etcdserver/util.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use proto::sealkv::peer as pb;
use tokio::sync::watch;

use super::consensus::Consensus;
use super::peers::Lane;
use super::types::MemberId;
use crate::clock;

/// Between questions to one peer.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Rounds without a quorum of answers, one after the other, that are no chance.
const LONELY_ROUNDS: u32 = 2;

/// The peers that answer, and the time of the first answer since they last did not.
#[derive(Default)]
pub(super) struct Connectivity {
    since: Mutex<BTreeMap<u64, Duration>>,
    /// Too few voters answer, and have for a while.
    alone: watch::Sender<bool>,
}

impl Connectivity {
    /// None for a peer that does not answer.
    pub(super) fn since(&self, member: u64) -> Option<Duration> {
        self.since.lock().get(&member).copied()
    }

    /// Whether a leader here would be without its quorum.
    pub(super) fn watch_alone(&self) -> watch::Receiver<bool> {
        self.alone.subscribe()
    }

    pub(super) fn is_alone(&self) -> bool {
        *self.alone.borrow()
    }

    fn note(&self, member: u64, answers: bool) {
        let mut since = self.since.lock();
        if answers {
            since.entry(member).or_insert_with(clock::monotonic);
        } else {
            since.remove(&member);
        }
    }

    fn tell_alone(&self, now: bool) {
        self.alone
            .send_if_modified(|alone| std::mem::replace(alone, now) != now);
    }

    fn keep_only(&self, members: &[u64]) {
        self.since.lock().retain(|id, _| members.contains(id));
    }
}

impl Consensus {
    /// Asks every peer, and goes on asking. Lives as long as the member.
    pub async fn watch_peers(self, answer_within: Duration) {
        let mut lonely_rounds = 0;
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
            lonely_rounds = match self.reaches_quorum() {
                true => 0,
                false => LONELY_ROUNDS.min(lonely_rounds + 1),
            };
            self.connectivity()
                .tell_alone(lonely_rounds == LONELY_ROUNDS);
            tokio::time::sleep(ASK_EVERY).await;
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
