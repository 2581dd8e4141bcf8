//! Who takes part, changed while everything else happens: learners and voters added, promoted,
//! removed; newcomers that start with nothing.
//!
//! Promise: what the driver knows of the membership it knows from members' answers, as an operator
//! does; an answer that was lost leaves it to what members say later.

use rand::Rng;
use rand::seq::IndexedRandom;

use super::member::{Host, joiner_id};
use super::network::url;
use super::world::World;
use crate::access::{Internal, Permitted};
use crate::raft::peers::Expelled;
use crate::replica::{ClusterAdmin as _, MemberChange, Replica as _};

/// Fewer stay in the cluster by the driver's will.
const LEAST: usize = 2;

impl World {
    /// Asks a member that runs for a change, and goes on without its answer.
    pub(super) fn change_members(&self) {
        let Some(asked) = self.random(|rng| self.running().choose(rng).copied()) else {
            return;
        };
        let Some(change) = self.choose_change() else {
            return;
        };
        let Some((life, consensus)) = self.handle(asked) else {
            return;
        };
        self.note(&format!("member {asked} is asked for {change:?}"));
        life.spawn(async move {
            let permitted = Permitted::internal(Internal::MemberStart, change.clone());
            let done = consensus.change_members(permitted).await;
            tracing::info!(?change, ?done, "a change of the membership was answered");
        });
    }

    fn choose_change(&self) -> Option<MemberChange> {
        let present = self.present();
        let what = self.random(|rng| rng.random_range(0..100));
        let member = self.random(|rng| present.choose(rng).copied())?;
        let id = self.hosts()[member].id();
        match what {
            0..45 => self.invite(what < 20),
            45..70 => Some(MemberChange::Promote { id }),
            _ => (present.len() > LEAST).then_some(MemberChange::Remove { id }),
        }
    }

    /// A newcomer is made, which starts once a member says that it belongs to the cluster.
    fn invite(&self, is_learner: bool) -> Option<MemberChange> {
        let number = self.hosts().len();
        if number == super::HOSTS {
            return None;
        }
        let host = Host::joiner(number, self.directory(), self.options());
        self.hosts_mut().push(host);
        Some(MemberChange::Add {
            id: joiner_id(number),
            peer_urls: vec![url(number)],
            is_learner,
        })
    }

    /// Whether some member that runs counts this one in, by what is agreed on as far as it knows.
    pub(super) fn is_member(&self, member: usize) -> bool {
        let id = self.hosts()[member].id();
        let by = |other: usize| {
            let handle = self.handle(other);
            handle.is_some_and(|(_, consensus)| consensus.members().iter().any(|it| it.id == id))
        };
        self.running()
            .into_iter()
            .filter(|it| *it != member)
            .any(by)
    }

    /// Hosts that are in the cluster, or about to be, as far as members have said.
    pub(super) fn present(&self) -> Vec<usize> {
        let here = |number: &usize| {
            let hosts = self.hosts();
            !hosts[*number].retired && (hosts[*number].has_started() || self.is_member(*number))
        };
        let all = self.hosts().len();
        (0..all).filter(here).collect()
    }

    /// Members that have left end, as their processes would; those that are down never return.
    pub(super) fn see_who_left(&self) {
        let all = self.hosts().len();
        for member in 0..all {
            if self.hosts()[member].retired {
                continue;
            }
            let left = match self.handle(member) {
                Some((_, consensus)) => match *consensus.peers().expelled().borrow() {
                    // Nobody calls a newcomer that was removed before its first entry, and it knows
                    // nobody whom it could ask: its operator ends it.
                    None => consensus.member_nodes().is_empty() && self.is_removed(member),
                    Some(Expelled::Removed) => true,
                    Some(Expelled::LostDirectory) => {
                        self.violation(format!(
                            "member {member} is said to have lost its directory"
                        ));
                        true
                    }
                },
                None => self.is_removed(member),
            };
            if left {
                self.note(&format!("member {member} has left"));
                self.retire(member);
            }
        }
    }

    fn is_removed(&self, member: usize) -> bool {
        let id = self.hosts()[member].id();
        let by = |other: usize| {
            let handle = self.handle(other);
            handle.is_some_and(|(_, consensus)| consensus.view().members.is_removed(id))
        };
        self.running().into_iter().any(by)
    }
}
