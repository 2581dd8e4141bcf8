//! Which peers answer, and since when: every member asks every other one again and again.
//!
//! Promise: a peer counts as connected from its first answer until the first time that it gives
//! none. A member learns from the answers that it has been removed, whoever leads.
//! Source: etcd 3.7.1 `server/etcdserver/api/rafthttp` (active since), `etcdserver/util.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use proto::sealkv::peer as pb;

use super::consensus::Consensus;
use super::peers::Lane;
use crate::clock;

/// Between questions to one peer.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// The peers that answer, and the time of the first answer since they last did not.
#[derive(Default)]
pub(super) struct Connectivity {
    since: Mutex<BTreeMap<u64, Duration>>,
}

impl Connectivity {
    /// None for a peer that does not answer.
    pub(super) fn since(&self, member: u64) -> Option<Duration> {
        self.since.lock().get(&member).copied()
    }

    fn note(&self, member: u64, answers: bool) {
        let mut since = self.since.lock();
        if answers {
            since.entry(member).or_insert_with(clock::monotonic);
        } else {
            since.remove(&member);
        }
    }

    fn keep_only(&self, members: &[u64]) {
        self.since.lock().retain(|id, _| members.contains(id));
    }
}

impl Consensus {
    /// Asks every peer, and goes on asking. Lives as long as the member.
    pub async fn watch_peers(self, answer_within: Duration) {
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
            tokio::time::sleep(ASK_EVERY).await;
        }
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
