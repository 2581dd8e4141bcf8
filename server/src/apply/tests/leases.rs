//! Leases and what hangs on them.

use super::super::fixture::*;
use super::{refused, void};
use crate::command::{LeaseCheckpoint, LeaseExpire, LeaseGrant, LeaseRevoke, NoEffect, Refusal};
use crate::lease::lessor::LeaseChange;
use crate::mvcc::event::Cause;

#[test]
fn leases_are_granted_once_and_take_their_keys_with_them() {
    let mut bench = Bench::new();
    bench.grant(5);
    assert_eq!(
        refused(bench.run(LeaseGrant {
            id: 5,
            ttl_seconds: 9
        })),
        Refusal::LeaseExists
    );
    assert_eq!(
        refused(bench.run(leased("x", "1", 6))),
        Refusal::LeaseNotFound
    );
    for key in ["b", "a", "moved"] {
        bench.run(leased(key, "1", 5)).unwrap();
    }
    bench.put("moved", "without a lease");
    bench.run(LeaseRevoke { id: 5 }).unwrap();
    assert_eq!(bench.keys(), ["moved"]);
    let outcome = bench.outcome();
    assert_eq!(outcome.lease_changes, [LeaseChange::Ended { id: 5 }]);
    let events = &outcome.events[0].events;
    assert_eq!(
        events
            .iter()
            .map(|event| &event.record.key[..])
            .collect::<Vec<_>>(),
        [b"a", b"b"]
    );
    assert!(events.iter().all(|event| event.cause == Cause::Lease));
    assert_eq!(
        refused(bench.run(LeaseRevoke { id: 5 })),
        Refusal::LeaseNotFound
    );
}

#[test]
fn the_end_of_a_lease_without_keys_takes_no_revision() {
    let mut bench = Bench::new();
    bench.grant(5);
    bench.run(LeaseRevoke { id: 5 }).unwrap();
    assert_eq!((bench.view().revision, bench.view().stored_bytes), (1, 0));
}

/// etcd #15247.
#[test]
fn a_lease_seen_to_expire_by_a_deposed_leader_lives_on() {
    let mut bench = Bench::new();
    bench.grant(5);
    bench.run(leased("a", "1", 5)).unwrap();
    let stale = LeaseExpire {
        term: TERM - 1,
        ids: vec![5],
    };
    assert_eq!(void(bench.run(stale)), NoEffect::StaleTerm);
    assert_eq!(bench.keys(), ["a"]);
    bench
        .run(LeaseExpire {
            term: TERM,
            ids: vec![5, 6],
        })
        .unwrap();
    assert!(bench.keys().is_empty());
}

#[test]
fn a_checkpoint_is_kept_until_it_is_taken_back() {
    let mut bench = Bench::new();
    bench.grant(5);
    bench
        .run(LeaseCheckpoint {
            remaining_seconds: vec![(5, 17), (6, 1)],
        })
        .unwrap();
    assert_eq!(
        bench.view().leases.read().get(5).unwrap().remaining_seconds,
        17
    );
    assert_eq!(
        bench.outcome().lease_changes,
        [LeaseChange::Checkpointed {
            id: 5,
            remaining_seconds: 17
        }]
    );
    bench
        .run(LeaseCheckpoint {
            remaining_seconds: vec![(5, 0)],
        })
        .unwrap();
    assert_eq!(
        bench.view().leases.read().get(5).unwrap().remaining_seconds,
        0
    );
}
