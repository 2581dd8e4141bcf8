//! Alarms, the keyring, the members and their end.

use bytes::Bytes;

use super::super::fixture::*;
use super::super::{EntryBody, EntryRef, Machine, Poison};
use super::refused;
use crate::command::{
    AlarmKind, ChangeAlarm, Command, CommandError, Compact, Header, LeaseGrant, LeaseRevoke, Op,
    PublishMember, Refusal, RequestId,
};
use crate::storage::Store;

#[test]
fn a_full_store_still_reads_deletes_and_compacts() {
    let mut bench = Bench::new();
    bench.grant(5);
    bench.put("a", "1");
    let raise = ChangeAlarm {
        activate: true,
        member: 9,
        kind: AlarmKind::NoSpace,
    };
    assert_eq!(
        bench.run(raise.clone()).unwrap().alarms,
        [(AlarmKind::NoSpace, 9)]
    );
    assert_eq!(refused(bench.run(put("b", "1"))), Refusal::NoSpace);
    assert_eq!(
        refused(bench.run(LeaseGrant {
            id: 6,
            ttl_seconds: 9
        })),
        Refusal::NoSpace
    );
    let nested = Op::Txn(txn(vec![], vec![Op::Put(put("b", "1"))], vec![]));
    assert_eq!(
        refused(bench.run(txn(vec![], vec![], vec![nested]))),
        Refusal::NoSpace
    );
    assert!(
        bench
            .run(txn(vec![], vec![Op::DeleteRange(delete(one("a")))], vec![]))
            .is_ok()
    );
    bench.run(LeaseRevoke { id: 5 }).unwrap();
    bench.compact(3);
    let lower = ChangeAlarm {
        activate: false,
        ..raise
    };
    assert_eq!(
        bench.run(lower.clone()).unwrap().alarms,
        [(AlarmKind::NoSpace, 9)]
    );
    assert!(bench.run(lower).unwrap().alarms.is_empty());
    assert!(bench.run(put("b", "1")).is_ok());
}

#[test]
fn a_corrupt_cluster_refuses_everything_about_keys_and_leases() {
    let mut bench = Bench::new();
    bench.grant(5);
    bench
        .run(ChangeAlarm {
            activate: true,
            member: 9,
            kind: AlarmKind::Corrupt,
        })
        .unwrap();
    assert_eq!(refused(bench.run(put("b", "1"))), Refusal::Corrupt);
    assert_eq!(refused(bench.run(delete(one("b")))), Refusal::Corrupt);
    assert_eq!(
        refused(bench.run(txn(vec![], vec![], vec![]))),
        Refusal::Corrupt
    );
    assert_eq!(
        refused(bench.run(Compact { revision: 1 })),
        Refusal::Corrupt
    );
    assert_eq!(refused(bench.run(LeaseRevoke { id: 5 })), Refusal::Corrupt);
}

#[test]
fn a_keyring_is_born_once() {
    let mut bench = Bench::unborn();
    bench.run(birth()).unwrap();
    assert!(bench.outcome().keys_changed);
    assert!(matches!(refused(bench.run(birth())), Refusal::Keys(_)));
    assert!(!bench.outcome().keys_changed);
}

#[test]
fn a_member_keeps_the_directory_it_was_published_with() {
    let mut bench = Bench::new();
    let urls = vec!["http://127.0.0.1:2379".to_owned()];
    let member = PublishMember {
        id: 9,
        name: "a".into(),
        client_urls: urls.clone(),
        directory_id: [1; 16],
    };
    bench.run(member.clone()).unwrap();
    bench
        .run(PublishMember {
            name: "b".into(),
            ..member.clone()
        })
        .unwrap();
    let other = PublishMember {
        directory_id: [2; 16],
        ..member
    };
    assert_eq!(refused(bench.run(other)), Refusal::AnotherDirectory);
    let view = bench.view();
    let known = view.members.get(9).unwrap();
    assert_eq!((&known.name[..], &known.client_urls), ("b", &urls));
}

#[test]
fn another_members_command_changes_the_state_and_answers_nobody() {
    let mut bench = Bench::new();
    let header = Header::new(RequestId {
        member: MEMBER + 1,
        seq: 0,
    });
    let bytes = Command::new(header, put("a", "1")).encode();
    let entry = EntryRef {
        index: 1,
        term: 1,
        leader: 2,
        body: EntryBody::Command(&bytes),
    };
    let outcome = bench.machine.apply(&[entry]).unwrap();
    assert!(outcome.replies.is_empty());
    assert_eq!(bench.value("a").as_deref(), Some("1"));
}

#[test]
fn an_unknown_command_a_gap_and_everything_after_stop_the_member() {
    let mut bench = Bench::new();
    let mut bytes = Command::new(Header::new(RequestId { member: 1, seq: 1 }), put("a", "1"))
        .encode()
        .to_vec();
    bytes[3] = 200;
    let bytes = Bytes::from(bytes);
    let entry = EntryRef {
        index: 1,
        term: 1,
        leader: 1,
        body: EntryBody::Command(&bytes),
    };
    let error = bench.machine.apply(&[entry]).map(drop);
    assert!(matches!(
        error,
        Err(Poison::Command {
            index: 1,
            source: CommandError::Kind { kind: 200 }
        })
    ));
    let blank = EntryRef {
        body: EntryBody::Blank,
        ..entry
    };
    assert!(matches!(
        bench.machine.apply(&[blank]).map(drop),
        Err(Poison::Earlier)
    ));
    let mut other = Bench::new();
    let gap = EntryRef { index: 2, ..blank };
    assert!(matches!(
        other.machine.apply(&[gap]).map(drop),
        Err(Poison::Gap {
            expected: 1,
            found: 2
        })
    ));
}

#[test]
fn the_applied_entry_and_the_membership_are_stored_with_what_they_did() {
    let store = Store::in_memory(PlaceSealer(1));
    let mut machine = Machine::create(store.clone(), 1).unwrap();
    assert_eq!(machine.applied().last, None);
    let blank = EntryRef {
        index: 0,
        term: 1,
        leader: 7,
        body: EntryBody::Membership {
            bytes: b"raft's",
            ids: &[1, 2],
        },
    };
    machine
        .apply(&[
            blank,
            EntryRef {
                index: 1,
                body: EntryBody::Blank,
                ..blank
            },
        ])
        .unwrap();
    let again = Machine::recover(store, 1).unwrap();
    assert_eq!(again.applied(), machine.applied());
    assert_eq!(again.applied().membership, &b"raft's"[..]);
    assert_eq!(again.applied().membership_at.unwrap().index, 0);
    assert_eq!(again.view().applied_index, 1);
}

#[test]
fn a_member_that_has_left_is_removed_for_ever() {
    let store = Store::in_memory(PlaceSealer(1));
    let mut machine = Machine::create(store.clone(), 1).unwrap();
    let mut index = 0;
    let mut apply = |machine: &mut Machine, body: EntryBody<'_>| {
        let entry = EntryRef {
            index,
            term: 1,
            leader: 1,
            body,
        };
        index += 1;
        machine.apply(&[entry]).unwrap()
    };
    let members = |ids| EntryBody::Membership { bytes: b"", ids };
    let publish = |seq| {
        let member = PublishMember {
            id: 2,
            name: "m2".into(),
            client_urls: vec![],
            directory_id: [2; 16],
        };
        Command::new(Header::new(RequestId { member: 1, seq }), member).encode()
    };
    apply(&mut machine, members(&[1]));
    apply(&mut machine, members(&[1, 2]));
    apply(&mut machine, EntryBody::Command(&publish(1)));
    assert_eq!(machine.view().members.directory_id(2), Some([2; 16]));
    assert!(!machine.view().members.is_removed(2));
    apply(&mut machine, members(&[1]));
    let outcome = apply(&mut machine, EntryBody::Command(&publish(2)));
    assert_eq!(
        outcome.replies[0].1,
        crate::command::Reply::Refused(Refusal::MemberNotFound)
    );
    for machine in [&machine, &Machine::recover(store, 1).unwrap()] {
        let view = machine.view();
        assert!(view.members.is_removed(2) && !view.members.is_removed(1));
        assert_eq!(view.members.get(2), None);
    }
}
