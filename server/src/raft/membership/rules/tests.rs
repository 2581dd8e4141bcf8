//! The rules of a change, tried against small clusters.

use super::*;
use crate::tables::members::Members;

const STRICT: Rules = Rules {
    strict: true,
    learners_max: 1,
};
const LOOSE: Rules = Rules {
    strict: false,
    ..STRICT
};

/// A cluster that its leader, member 1, looks at.
struct Cluster {
    voters: BTreeSet<u64>,
    nodes: BTreeMap<u64, MemberNode>,
    standings: BTreeMap<u64, Standing>,
    members: Members,
}

fn url(id: u64) -> String {
    format!("http://m{id}:1")
}

impl Cluster {
    /// Members 1 to `voters`, all well.
    fn of(voters: u64) -> Self {
        let mut cluster = Cluster {
            voters: BTreeSet::new(),
            nodes: BTreeMap::new(),
            standings: BTreeMap::new(),
            members: Members::default(),
        };
        for id in 1..=voters {
            cluster = cluster.with(id, true);
            cluster.voters.insert(id);
        }
        cluster
    }

    fn with(mut self, id: u64, is_voter: bool) -> Self {
        let node = MemberNode {
            name: String::new(),
            peer_urls: vec![url(id)],
            joins_as_voter: is_voter,
        };
        self.nodes.insert(id, node);
        let standing = Standing {
            is_voter,
            started: true,
            connected: Connected::Yes,
            matched: 100,
            able: true,
        };
        self.standings.insert(id, standing);
        self
    }

    fn but(mut self, id: u64, change: impl FnOnce(&mut Standing)) -> Self {
        change(self.standings.get_mut(&id).expect("it is a member"));
        self
    }

    fn step(&self, rules: Rules, change: &MemberChange) -> Result<Step, ClusterError> {
        let membership = Membership::new(vec![self.voters.clone()], self.nodes.clone())
            .expect("every voter has a node");
        let roster = Roster {
            membership: &membership,
            standings: self.standings.clone(),
            own_id: 1,
            last_index: 100,
            members: &self.members,
        };
        rules.step(&roster, change)
    }

    fn refuses(&self, rules: Rules, change: &MemberChange) -> ClusterError {
        self.step(rules, change).expect_err("it is to be refused")
    }

    fn takes(&self, rules: Rules, change: &MemberChange) -> Membership {
        match self.step(rules, change) {
            Ok(Step::Append(membership)) => membership,
            other => panic!("it is to be taken: {other:?}"),
        }
    }
}

fn add(id: u64, is_learner: bool) -> MemberChange {
    MemberChange::Add {
        id,
        peer_urls: vec![url(id)],
        is_learner,
    }
}

fn remove(id: u64) -> MemberChange {
    MemberChange::Remove { id }
}

fn promote(id: u64) -> MemberChange {
    MemberChange::Promote { id }
}

#[test]
fn an_added_voter_is_a_learner_to_raft_and_to_nobody_else() {
    let membership = Cluster::of(3).takes(STRICT, &add(4, false));
    assert_eq!(membership.voter_ids().collect::<Vec<_>>(), [1, 2, 3]);
    assert!(membership.get_node(&4).is_some_and(|n| n.joins_as_voter));
    let membership = Cluster::of(3).takes(STRICT, &add(4, true));
    assert!(membership.get_node(&4).is_some_and(|n| !n.joins_as_voter));
}

#[test]
fn an_id_a_url_or_a_learner_too_many_is_refused() {
    let cluster = Cluster::of(3).with(4, false);
    assert_eq!(
        cluster.refuses(STRICT, &add(2, false)),
        ClusterError::MemberExists
    );
    let same_url = MemberChange::Add {
        id: 9,
        peer_urls: vec![url(9), url(3)],
        is_learner: false,
    };
    assert_eq!(
        cluster.refuses(STRICT, &same_url),
        ClusterError::PeerUrlExists
    );
    assert_eq!(
        cluster.refuses(STRICT, &add(5, true)),
        ClusterError::TooManyLearners
    );
    assert_eq!(
        cluster.refuses(LOOSE, &add(5, true)),
        ClusterError::TooManyLearners
    );
    let mut left = Cluster::of(3);
    left.members.remove(7);
    assert_eq!(
        left.refuses(LOOSE, &add(7, false)),
        ClusterError::MemberNotFound
    );
}

#[test]
fn strict_adding_needs_a_quorum_that_has_started_and_is_connected() {
    // One member may always grow to two, but not to three before the second has started.
    Cluster::of(1).takes(STRICT, &add(2, false));
    let waiting = Cluster::of(1).with(2, true).but(2, |it| it.started = false);
    assert_eq!(
        waiting.refuses(STRICT, &add(3, false)),
        ClusterError::NotEnoughStarted
    );
    // A learner costs no quorum, but all the others have to be connected.
    waiting.takes(STRICT, &add(3, true));
    let lately = Cluster::of(3).but(2, |it| it.connected = Connected::Lately);
    for is_learner in [false, true] {
        assert_eq!(
            lately.refuses(STRICT, &add(4, is_learner)),
            ClusterError::Unhealthy
        );
    }
    lately.takes(LOOSE, &add(4, false));
    // Of five, three connected ones are no quorum of six.
    let five = Cluster::of(5).but(5, |it| it.connected = Connected::No);
    five.takes(STRICT, &add(6, false));
    let five = five.but(4, |it| it.connected = Connected::No);
    assert_eq!(
        five.refuses(STRICT, &add(6, false)),
        ClusterError::Unhealthy
    );
}

#[test]
fn strict_removing_leaves_a_quorum() {
    let three = Cluster::of(3);
    let membership = three.takes(STRICT, &remove(2));
    assert_eq!(membership.voter_ids().collect::<Vec<_>>(), [1, 3]);
    assert_eq!(membership.get_node(&2), None);
    three.takes(STRICT, &remove(1));
    Cluster::of(2).takes(STRICT, &remove(2));
    let third_down = Cluster::of(3).but(3, |it| it.connected = Connected::No);
    // The one that is down may go, one that works may not.
    third_down.takes(STRICT, &remove(3));
    for id in [1, 2] {
        assert_eq!(
            third_down.refuses(STRICT, &remove(id)),
            ClusterError::Unhealthy
        );
    }
    third_down.takes(LOOSE, &remove(2));
    let third_unstarted = Cluster::of(3).but(3, |it| it.started = false);
    assert_eq!(
        third_unstarted.refuses(STRICT, &remove(2)),
        ClusterError::NotEnoughStarted
    );
    third_unstarted.takes(STRICT, &remove(3));
}

#[test]
fn the_last_voter_stays_and_a_stranger_is_not_found() {
    for rules in [STRICT, LOOSE] {
        assert_eq!(
            Cluster::of(1).refuses(rules, &remove(1)),
            ClusterError::NotEnoughStarted
        );
        let with_learner = Cluster::of(1).with(2, false);
        assert_eq!(
            with_learner.refuses(rules, &remove(1)),
            ClusterError::NotEnoughStarted
        );
        with_learner.takes(rules, &remove(2));
        assert_eq!(
            Cluster::of(3).refuses(rules, &remove(9)),
            ClusterError::MemberNotFound
        );
        assert_eq!(
            Cluster::of(3).refuses(rules, &promote(9)),
            ClusterError::MemberNotFound
        );
    }
    // Raft's only voter does not go while the other one is still joining.
    let mut joining = Cluster::of(2);
    joining.voters.remove(&2);
    assert_eq!(
        joining.refuses(LOOSE, &remove(1)),
        ClusterError::NotEnoughStarted
    );
}

#[test]
fn a_learner_is_promoted_once_it_is_in_sync_and_able() {
    let learner = Cluster::of(3).with(4, false);
    let membership = learner.takes(STRICT, &promote(4));
    assert!(membership.voter_ids().any(|id| id == 4));
    learner.takes(STRICT, &promote(4));
    let nearly = Cluster::of(3).with(4, false).but(4, |it| it.matched = 90);
    nearly.takes(STRICT, &promote(4));
    let behind = nearly.but(4, |it| it.matched = 89);
    assert_eq!(
        behind.refuses(LOOSE, &promote(4)),
        ClusterError::LearnerNotReady
    );
    let locked = Cluster::of(3).with(4, false).but(4, |it| it.able = false);
    assert_eq!(
        locked.refuses(LOOSE, &promote(4)),
        ClusterError::LearnerNotReady
    );
    assert_eq!(
        Cluster::of(3).refuses(STRICT, &promote(3)),
        ClusterError::NotLearner
    );
    let unstarted = Cluster::of(3)
        .with(4, false)
        .but(2, |it| it.started = false)
        .but(3, |it| it.started = false);
    assert_eq!(
        unstarted.refuses(STRICT, &promote(4)),
        ClusterError::NotEnoughStarted
    );
}

#[test]
fn a_member_moves_to_urls_that_nobody_has() {
    let update = |id, to| MemberChange::Update {
        id,
        peer_urls: vec![url(to)],
    };
    let cluster = Cluster::of(3);
    let moved = cluster.step(STRICT, &update(2, 7)).expect("it is free");
    let Step::SetNode(2, node) = moved else {
        panic!("one node is to be set: {moved:?}")
    };
    assert_eq!(node.peer_urls, [url(7)]);
    assert!(matches!(
        cluster.step(STRICT, &update(2, 2)),
        Ok(Step::SetNode(2, _))
    ));
    assert_eq!(
        cluster.refuses(STRICT, &update(2, 3)),
        ClusterError::PeerUrlExists
    );
    assert_eq!(
        cluster.refuses(STRICT, &update(9, 9)),
        ClusterError::MemberNotFound
    );
}

/// Found by the simulation, seed 49: a leader removed in the first second took the root key along.
#[test]
fn the_only_member_that_has_opened_the_root_key_stays() {
    let first_alone = || (2..=3).fold(Cluster::of(3), |all, id| all.but(id, |it| it.able = false));
    for rules in [STRICT, LOOSE] {
        assert_eq!(
            first_alone().refuses(rules, &remove(1)),
            ClusterError::Unhealthy
        );
        // Not even the table says that the leader has it.
        let untold = first_alone().but(1, |it| it.able = false);
        assert_eq!(untold.refuses(rules, &remove(1)), ClusterError::Unhealthy);
        first_alone().takes(rules, &remove(2));
        let elsewhere = first_alone()
            .but(1, |it| it.able = false)
            .but(2, |it| it.able = true);
        assert_eq!(
            elsewhere.refuses(rules, &remove(2)),
            ClusterError::Unhealthy
        );
        first_alone()
            .but(2, |it| it.able = true)
            .takes(rules, &remove(1));
    }
}
