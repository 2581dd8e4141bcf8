//! One test per rule of the state machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::fixture::*;
use super::{EntryBody, EntryRef, Machine, Poison};
use crate::command::{
    AlarmKind, ChangeAlarm, Command, CommandError, CommitPlugin, Compact, Compare, CompareResult,
    CompareTarget, DeadLetter, DeletePlugin, DeployPlugin, EffectOp, Header, LeaseCheckpoint,
    LeaseExpire, LeaseGrant, LeaseRevoke, NoEffect, NotApplied, Op, OpReply, PluginChunk,
    PluginSpec, PluginState, Position, PublishMember, Put, Refusal, RequestId, SetPluginState,
    ValueCompare,
};
use crate::lease::lessor::LeaseChange;
use crate::mvcc::event::{Cause, Kind};
use crate::mvcc::hash::hash_kv;
use crate::mvcc::history;
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::{self, RangeQuery, ReadError, SortOrder, SortTarget};
use crate::mvcc::txn::{resolve_compares, run_read_only};
use crate::storage::{RowSealer, RowUnopened, Store, StoreOptions};

const GUARD: Result<(), NotApplied> = Err(NotApplied::NoEffect(NoEffect::Guard));

fn refused<T: std::fmt::Debug>(result: Result<T, NotApplied>) -> Refusal {
    match result {
        Err(NotApplied::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn void<T: std::fmt::Debug>(result: Result<T, NotApplied>) -> NoEffect {
    match result {
        Err(NotApplied::NoEffect(reason)) => reason,
        other => panic!("expected no effect, got {other:?}"),
    }
}

#[test]
fn the_first_put_gets_revision_two() {
    let mut bench = Bench::new();
    assert_eq!(bench.view().revision, 1);
    let reply = bench.run(put("a", "1")).unwrap();
    assert_eq!((reply.revision, reply.prev), (2, None));
    let again = bench.run(put("a", "2")).unwrap();
    assert_eq!(again.revision, 3);
    let prev = again.prev.unwrap();
    assert_eq!((prev.at.main, prev.created, prev.version), (2, 2, 1));
    let now = read::get(&bench.view(), b"a", 0).unwrap().unwrap();
    assert_eq!((now.at.main, now.created, now.version), (3, 2, 2));
}

#[test]
fn a_delete_of_nothing_takes_no_revision() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let reply = bench.run(delete(one("b"))).unwrap();
    assert_eq!((reply.deleted, reply.revision), (0, 2));
    assert_eq!(bench.view().revision, 2);
    assert!(bench.outcome().events.is_empty());
}

#[test]
fn a_delete_range_is_one_revision_in_key_order() {
    let mut bench = Bench::new();
    for key in ["b", "a", "c"] {
        bench.put(key, "1");
    }
    let reply = bench.run(delete(span("a", "c"))).unwrap();
    assert_eq!((reply.deleted, reply.revision), (2, 5));
    let events = bench.outcome().events[0].clone();
    let places: Vec<_> = events
        .events
        .iter()
        .map(|event| (event.record.key.clone(), event.record.at.sub))
        .collect();
    assert_eq!(places, [(bytes("a"), 0), (bytes("b"), 1)]);
    assert!(
        events
            .events
            .iter()
            .all(|event| event.kind == Kind::Delete && event.record.version == 0)
    );
    assert_eq!(events.events[0].prev.as_ref().unwrap().at.main, 3);
    assert_eq!(bench.keys(), ["c"]);
}

#[test]
fn a_key_put_after_its_delete_starts_at_version_one() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    bench.delete("a");
    bench.put("a", "2");
    let record = read::get(&bench.view(), b"a", 0).unwrap().unwrap();
    assert_eq!((record.created, record.version), (4, 1));
    assert_eq!(read::get(&bench.view(), b"a", 3).unwrap(), None);
    assert_eq!(
        read::get(&bench.view(), b"a", 2).unwrap().unwrap().version,
        1
    );
}

#[test]
fn ignore_value_copies_the_sealed_bytes_under_whichever_key_they_are() {
    let mut bench = Bench::new();
    assert_eq!(
        refused(bench.run(Put {
            key: bytes("a"),
            ignore_value: true,
            ..Put::default()
        })),
        Refusal::KeyNotFound
    );
    bench.grant(5);
    bench.put("a", "kept");
    bench
        .run(Put {
            key: bytes("a"),
            ignore_value: true,
            lease: 5,
            ..Put::default()
        })
        .unwrap();
    assert_eq!(bench.value("a").as_deref(), Some("kept"));
    assert_eq!(read::get(&bench.view(), b"a", 0).unwrap().unwrap().lease, 5);
    bench
        .run(Put {
            ignore_lease: true,
            ..put("a", "new")
        })
        .unwrap();
    let record = read::get(&bench.view(), b"a", 0).unwrap().unwrap();
    assert_eq!((record.lease, record.version), (5, 3));
    assert_eq!(bench.value("a").as_deref(), Some("new"));
}

#[test]
fn a_value_under_another_key_than_its_prefix_has_is_void() {
    let mut bench = Bench::new();
    for sealed_value in [
        sealed_under(2, 1, b"x"),
        sealed_under(1, 2, b"x"),
        Bytes::from_static(b"plain"),
    ] {
        let reply = bench.run(Put {
            sealed_value,
            ..put("a", "")
        });
        assert_eq!(void(reply), NoEffect::KeyHeader);
    }
    assert_eq!(bench.view().revision, 1);
    let unborn = Bench::unborn().run(put("a", "1"));
    assert_eq!(void(unborn), NoEffect::KeyHeader);
}

#[test]
fn a_void_value_in_a_transaction_voids_all_of_it() {
    let mut bench = Bench::new();
    let bad = Put {
        sealed_value: sealed_under(9, 1, b""),
        ..put("b", "")
    };
    let ops = vec![
        Op::Put(put("a", "1")),
        Op::Txn(txn(vec![], vec![Op::Put(bad)], vec![])),
    ];
    assert_eq!(
        void(bench.run(txn(vec![], ops.clone(), vec![]))),
        NoEffect::KeyHeader
    );
    assert_eq!(bench.keys(), Vec::<String>::new());
    // A branch that is not taken is not looked at.
    let never = compare(one("x"), CompareResult::Greater, CompareTarget::Version(0));
    assert!(!bench.run(txn(vec![never], ops, vec![])).unwrap().succeeded);
}

#[test]
fn every_compare_target_sees_the_record() {
    use CompareResult::{Equal, Greater, Less, NotEqual};
    let mut bench = Bench::new();
    bench.grant(7);
    bench.put("a", "1");
    bench.run(leased("a", "2", 7)).unwrap();
    let cases = [
        (Equal, CompareTarget::Version(2), true),
        (Greater, CompareTarget::Version(2), false),
        (Greater, CompareTarget::Version(1), true),
        (Less, CompareTarget::Modified(4), true),
        (Equal, CompareTarget::Modified(3), true),
        (NotEqual, CompareTarget::Created(2), false),
        (Equal, CompareTarget::Created(2), true),
        (Equal, CompareTarget::Lease(7), true),
        (NotEqual, CompareTarget::Lease(7), false),
    ];
    for (result, target, holds) in cases {
        let reply = bench
            .run(txn(
                vec![compare(one("a"), result, target.clone())],
                vec![],
                vec![],
            ))
            .unwrap();
        assert_eq!(reply.succeeded, holds, "{result:?} {target:?}");
    }
}

#[test]
fn a_key_that_does_not_exist_compares_as_zero() {
    let mut bench = Bench::new();
    for target in [
        CompareTarget::Version(0),
        CompareTarget::Created(0),
        CompareTarget::Modified(0),
    ] {
        let reply = bench.run(txn(
            vec![compare(one("a"), CompareResult::Equal, target)],
            vec![],
            vec![],
        ));
        assert!(reply.unwrap().succeeded);
    }
}

#[test]
fn a_range_compare_holds_only_if_every_key_does() {
    let mut bench = Bench::new();
    bench.put("a1", "1");
    bench.put("a2", "1");
    let versions = |bench: &mut Bench| {
        let all = compare(
            span("a", "b"),
            CompareResult::Equal,
            CompareTarget::Version(1),
        );
        bench.run(txn(vec![all], vec![], vec![])).unwrap().succeeded
    };
    assert!(versions(&mut bench));
    bench.put("a2", "2");
    assert!(!versions(&mut bench));
}

#[test]
fn a_transaction_is_one_revision_and_sees_its_own_writes_but_not_in_compares() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let inner_compare = compare(one("a"), CompareResult::Equal, CompareTarget::Version(1));
    let inner = txn(
        vec![inner_compare],
        vec![Op::Put(put("inner", "yes"))],
        vec![Op::Put(put("inner", "no"))],
    );
    let ops = vec![
        Op::Put(put("a", "2")),
        Op::Range(RangeQuery::all(one("a"))),
        Op::Txn(inner),
        Op::DeleteRange(delete(one("z"))),
    ];
    let reply = bench.run(txn(vec![], ops, vec![])).unwrap();
    assert_eq!(reply.revision, 3);
    let [
        OpReply::Put(first),
        OpReply::Range(range),
        OpReply::Txn(nested),
        OpReply::DeleteRange(deleted),
    ] = &reply.responses[..]
    else {
        panic!("one reply per operation: {reply:?}");
    };
    assert_eq!(
        (first.revision, range.revision, deleted.revision),
        (3, 3, 3)
    );
    assert_eq!((range.rows[0].version, range.count), (2, 1));
    assert!(
        nested.succeeded,
        "a nested compare sees the state before the outermost operation"
    );
    assert_eq!(bench.value("inner").as_deref(), Some("yes"));
    let events = &bench.outcome().events;
    assert_eq!(events.len(), 1);
    let subs: Vec<_> = events[0]
        .events
        .iter()
        .map(|event| event.record.at.sub)
        .collect();
    assert_eq!(subs, [0, 1]);
}

#[test]
fn a_range_before_the_first_write_of_a_transaction_is_at_the_old_revision() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let ops = vec![Op::Range(RangeQuery::all(one("a"))), Op::Put(put("a", "2"))];
    let reply = bench.run(txn(vec![], ops, vec![])).unwrap();
    let OpReply::Range(range) = &reply.responses[0] else {
        panic!("a range")
    };
    assert_eq!((range.revision, range.rows[0].version), (2, 1));
}

#[test]
fn a_write_transaction_whose_branch_only_reads_takes_no_revision() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let ops = vec![Op::Range(RangeQuery::all(one("a")))];
    let reply = bench
        .run(txn(vec![], ops, vec![Op::Put(put("b", "1"))]))
        .unwrap();
    assert_eq!((reply.revision, bench.view().revision), (2, 2));
}

#[test]
fn what_a_transaction_would_fail_at_is_refused_before_its_first_write() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    bench.put("a", "2");
    bench.compact(3);
    let at = |revision| {
        Op::Range(RangeQuery {
            revision,
            ..RangeQuery::all(one("a"))
        })
    };
    let cases = [
        (Op::Put(leased("b", "1", 99)), Refusal::LeaseNotFound),
        (
            Op::Put(Put {
                ignore_value: true,
                ..put("nokey", "")
            }),
            Refusal::KeyNotFound,
        ),
        (at(4), Refusal::FutureRevision),
        (at(2), Refusal::Compacted),
    ];
    for (op, refusal) in cases {
        let nested = Op::Txn(txn(vec![], vec![op], vec![]));
        let reply = bench.run(txn(vec![], vec![Op::Put(put("w", "1")), nested], vec![]));
        assert_eq!(refused(reply), refusal);
        assert_eq!(bench.value("w"), None);
        assert_eq!(bench.view().revision, 3);
    }
    assert!(
        bench.run(txn(vec![], vec![at(3)], vec![])).is_ok(),
        "the compact revision itself can be read"
    );
}

/// Opens the fixture's values.
fn open(_: &[u8], sealed: &[u8]) -> Result<Vec<u8>, ()> {
    Ok(unsealed(sealed).to_vec())
}

fn value_is(range: KeyRange, result: CompareResult, value: &str) -> Compare {
    compare(
        range,
        result,
        CompareTarget::Value(ValueCompare::Sealed(sealed(value.as_bytes()))),
    )
}

fn resolved(bench: &Bench, compare: Compare) -> crate::command::Txn {
    let mut txn = txn(
        vec![compare],
        vec![Op::Put(put("taken", "yes"))],
        vec![Op::Put(put("taken", "no"))],
    );
    resolve_compares(&bench.view(), &open, &mut txn).unwrap();
    txn
}

#[test]
fn a_value_compare_is_answered_on_a_view_and_holds_while_it_stays() {
    let mut bench = Bench::new();
    bench.put("a", "5");
    bench.put("b", "7");
    let cases = [
        (one("a"), CompareResult::Equal, "5", true),
        (one("a"), CompareResult::Less, "5", false),
        (one("a"), CompareResult::Less, "6", true),
        (span("a", "c"), CompareResult::Greater, "4", true),
        (span("a", "c"), CompareResult::Greater, "5", false),
        (one("none"), CompareResult::NotEqual, "5", false),
    ];
    for (range, result, value, holds) in cases {
        let txn = resolved(&bench, value_is(range, result, value));
        assert_eq!(bench.run(txn).unwrap().succeeded, holds);
    }
}

#[test]
fn a_value_compare_is_void_once_its_range_has_changed() {
    let changes: [fn(&mut Bench); 3] = [
        |bench| assert!(bench.put("a1", "other") > 0),
        |bench| assert!(bench.delete("a1") > 0),
        |bench| assert!(bench.put("a9", "new") > 0),
    ];
    for change in changes {
        let mut bench = Bench::new();
        bench.put("a1", "5");
        bench.put("z", "5");
        let txn = resolved(&bench, value_is(span("a", "b"), CompareResult::Equal, "5"));
        change(&mut bench);
        let revision = bench.view().revision;
        assert_eq!(bench.run(txn).map(drop), GUARD);
        assert_eq!(
            (bench.value("taken"), bench.view().revision),
            (None, revision)
        );
    }
    let mut bench = Bench::new();
    bench.put("a1", "5");
    let txn = resolved(&bench, value_is(span("a", "b"), CompareResult::Equal, "5"));
    bench.put("elsewhere", "1");
    assert!(
        bench.run(txn).unwrap().succeeded,
        "what happens elsewhere does not matter"
    );
}

#[test]
fn a_guard_off_the_path_is_not_asked() {
    let mut bench = Bench::new();
    bench.put("a", "5");
    let inner = txn(
        vec![value_is(one("a"), CompareResult::Equal, "5")],
        vec![],
        vec![],
    );
    let never = compare(one("a"), CompareResult::Equal, CompareTarget::Version(100));
    let mut outer = txn(
        vec![never],
        vec![Op::Txn(inner)],
        vec![Op::Put(put("b", "1"))],
    );
    resolve_compares(&bench.view(), &open, &mut outer).unwrap();
    bench.put("a", "6");
    assert!(!bench.run(outer).unwrap().succeeded);
}

#[test]
fn a_sealed_operand_in_the_log_is_void() {
    let mut bench = Bench::new();
    bench.put("a", "5");
    let unresolved = txn(
        vec![value_is(one("a"), CompareResult::Equal, "5")],
        vec![],
        vec![],
    );
    assert_eq!(bench.run(unresolved).map(drop), GUARD);
}

#[test]
fn a_read_only_transaction_answers_from_a_view() {
    let mut bench = Bench::new();
    bench.put("a", "5");
    let query = Op::Range(RangeQuery::all(one("a")));
    let mut txn = txn(
        vec![value_is(one("a"), CompareResult::Equal, "5")],
        vec![query],
        vec![],
    );
    assert!(crate::mvcc::txn::is_read_only(&txn));
    resolve_compares(&bench.view(), &open, &mut txn).unwrap();
    let reply = run_read_only(&bench.view(), &txn).unwrap();
    assert!(reply.succeeded && reply.revision == 2);
    assert!(matches!(&reply.responses[..], [OpReply::Range(rows)] if rows.rows.len() == 1));
}

#[test]
fn compaction_follows_etcds_bounds() {
    let mut bench = Bench::new();
    assert_eq!(bench.view().compact_revision, -1);
    bench.compact(0);
    assert_eq!(
        refused(bench.run(Compact { revision: 0 })),
        Refusal::Compacted
    );
    assert_eq!(
        refused(bench.run(Compact { revision: 2 })),
        Refusal::FutureRevision
    );
    for value in ["1", "2", "3"] {
        bench.put("a", value);
    }
    bench.compact(3);
    let at = |revision| read::get(&bench.view(), b"a", revision);
    assert!(matches!(at(2), Err(ReadError::Compacted)));
    assert!(matches!(at(5), Err(ReadError::FutureRevision)));
    assert_eq!(at(3).unwrap().unwrap().version, 2);
    assert_eq!(at(-1).unwrap().unwrap().version, 3);
}

#[test]
fn swept_history_is_gone_and_what_is_kept_reads_the_same() {
    let mut bench = Bench::new();
    for value in ["1", "2", "3"] {
        bench.put("a", value);
        bench.put("b", value);
    }
    bench.delete("b");
    bench.put("c", "1");
    bench.compact(8);
    let before = (bench.keys(), hash_kv(&bench.view(), 0).unwrap());
    bench.sweep();
    assert_eq!((bench.keys(), hash_kv(&bench.view(), 0).unwrap()), before);
    let rows = |bench: &mut Bench| {
        let view = bench.machine.refresh();
        view.store.scan(crate::storage::Keyspace::Meta, ..).count()
    };
    assert_eq!(
        rows(&mut bench),
        3,
        "the newest of a, the delete of b exactly at 8, and c"
    );
    bench.compact(9);
    bench.sweep();
    assert_eq!(rows(&mut bench), 2);
    assert_eq!(bench.keys(), ["a", "c"]);
}

#[test]
fn a_view_that_a_compaction_overtakes_says_so() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let old = bench.view();
    bench.put("a", "2");
    bench.compact(3);
    bench.sweep();
    assert!(matches!(
        read::range(&old, &RangeQuery::all(one("a"))),
        Err(ReadError::ViewTooOld)
    ));
    let asked = RangeQuery {
        revision: 2,
        ..RangeQuery::all(one("a"))
    };
    assert!(matches!(
        read::range(&old, &asked),
        Err(ReadError::Compacted)
    ));
    assert!(matches!(
        history::events(&old, 2, 2, &KeyRange::all(), 10),
        Err(ReadError::Compacted)
    ));
}

#[test]
fn the_space_in_use_goes_back_to_what_is_live() {
    let mut bench = Bench::new();
    bench.put("a", "1");
    let one_record = bench.view().stored_bytes;
    for _ in 0..10 {
        bench.put("a", "1");
    }
    bench.put("b", "1");
    bench.delete("b");
    assert_eq!(
        bench.view().stored_bytes,
        12 * one_record + (one_record - sealed(b"1").len() as u64)
    );
    bench.compact(7);
    assert_eq!(
        bench.view().stored_bytes,
        7 * one_record + (one_record - sealed(b"1").len() as u64)
    );
    let revision = bench.view().revision;
    bench.compact(revision);
    assert_eq!(bench.view().stored_bytes, one_record);
}

#[test]
fn a_range_sorts_filters_and_limits_as_etcd_does() {
    let mut bench = Bench::new();
    for key in ["c", "a", "b", "a"] {
        bench.put(key, "1");
    }
    let view = bench.view();
    let ask = |query: RangeQuery| {
        let rows = read::range(&view, &query).unwrap();
        let keys: Vec<_> = rows
            .rows
            .iter()
            .map(|row| String::from_utf8(row.key.to_vec()).unwrap())
            .collect();
        (keys.concat(), rows.count, rows.more)
    };
    let all = || RangeQuery::all(KeyRange::all());
    let answer = |keys: &str, more| (keys.to_owned(), 3, more);
    assert_eq!(ask(RangeQuery { limit: 2, ..all() }), answer("ab", true));
    assert_eq!(ask(RangeQuery { limit: 3, ..all() }), answer("abc", false));
    let descending = RangeQuery {
        sort_order: SortOrder::Descend,
        limit: 2,
        ..all()
    };
    assert_eq!(ask(descending), answer("cb", true));
    let modified = RangeQuery {
        sort_target: SortTarget::Modified,
        ..all()
    };
    assert_eq!(
        ask(modified.clone()),
        answer("cba", false),
        "a target without an order ascends"
    );
    assert_eq!(
        ask(RangeQuery {
            limit: 1,
            ..modified
        }),
        answer("b", true),
        "without an order the limit comes first: of a and b, b was modified before"
    );
    let version = RangeQuery {
        sort_target: SortTarget::Version,
        sort_order: SortOrder::Descend,
        limit: 1,
        ..all()
    };
    assert_eq!(ask(version), answer("a", true));
    let mut filtered = RangeQuery { limit: 1, ..all() };
    filtered.filter.max_mod_revision = 4;
    assert_eq!(
        ask(filtered.clone()),
        answer("b", true),
        "the count ignores the filter"
    );
    filtered.filter.min_mod_revision = 3;
    assert_eq!(ask(filtered), answer("b", false));
    assert_eq!(
        ask(RangeQuery {
            count_only: true,
            limit: 1,
            ..all()
        }),
        answer("", false)
    );
}

#[test]
fn a_sort_by_value_is_finished_with_the_opened_values() {
    let mut bench = Bench::new();
    for (key, value) in [("a", "2"), ("b", "3"), ("c", "1")] {
        bench.put(key, value);
    }
    let query = RangeQuery {
        sort_target: SortTarget::Value,
        limit: 2,
        ..RangeQuery::all(KeyRange::all())
    };
    let mut rows = read::range(&bench.view(), &query).unwrap();
    assert!(rows.needs_value_sort && rows.rows.len() == 3);
    let mut values = vec![b"2".to_vec(), b"3".to_vec(), b"1".to_vec()];
    read::sort_by_value(&mut rows, &query, &mut values);
    assert_eq!(
        (&rows.rows[0].key[..], &rows.rows[1].key[..], rows.more),
        (&b"c"[..], &b"a"[..], true)
    );
    assert_eq!(values, [b"1".to_vec(), b"2".to_vec()]);
}

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

fn spec() -> PluginSpec {
    PluginSpec {
        name: "index".into(),
        sha256: [4; 32],
        component_bytes: 5,
        chunks: 2,
        ..PluginSpec::default()
    }
}

fn deployed() -> Bench {
    let mut bench = Bench::new();
    for (index, data) in [(0, &b"abc"[..]), (1, b"de")] {
        let data = Bytes::copy_from_slice(data);
        bench
            .run(PluginChunk {
                sha256: [4; 32],
                index,
                data,
            })
            .unwrap();
    }
    bench.put("before", "1");
    bench.run(DeployPlugin { spec: spec() }).unwrap();
    bench
}

fn batch(from: (i64, u32), to: (i64, u32), effects: Vec<EffectOp>) -> CommitPlugin {
    let at = |(revision, sub)| Position::Changes { revision, sub };
    CommitPlugin {
        name: "index".into(),
        generation: 1,
        term: TERM,
        from: at(from),
        to: at(to),
        effects,
        dead_letters: vec![],
        hops: 1,
    }
}

const START: (i64, u32) = (2, u32::MAX);

#[test]
fn a_plugin_is_deployed_only_whole_and_starts_after_what_was() {
    let mut bench = Bench::new();
    assert_eq!(
        refused(bench.run(DeployPlugin { spec: spec() })),
        Refusal::PluginChunkMissing { index: 0 }
    );
    let mut bench = deployed();
    let plugin = bench.view().plugins.get("index").unwrap().clone();
    assert_eq!(
        plugin.cursor,
        Position::Changes {
            revision: 2,
            sub: u32::MAX
        }
    );
    assert_eq!(
        (plugin.id, plugin.generation, plugin.state),
        (1, 1, PluginState::Running)
    );
    let wrong = PluginSpec {
        component_bytes: 6,
        ..spec()
    };
    assert_eq!(
        refused(bench.run(DeployPlugin { spec: wrong })),
        Refusal::PluginSize {
            expected: 6,
            found: 5
        }
    );
    bench.put("more", "1");
    assert_eq!(
        bench.run(DeployPlugin { spec: spec() }).unwrap().generation,
        2
    );
    assert_eq!(
        bench.view().plugins.get("index").unwrap().cursor,
        plugin.cursor,
        "it survives a redeploy"
    );
    let component = super::component(&bench.view(), &plugin.spec);
    assert!(matches!(component, Err(super::ComponentError::Digest)));
}

#[test]
fn a_plugins_effects_are_one_revision_folded_per_key() {
    let mut bench = deployed();
    bench.put("old", "1");
    let effects = vec![
        EffectOp::Put(put("x", "first")),
        EffectOp::Put(put("y", "1")),
        EffectOp::DeleteRange(delete(span("old", "x\0"))),
        EffectOp::Put(put("x", "last")),
    ];
    let reply = bench.run(batch(START, (3, 0), effects)).unwrap();
    assert_eq!((reply.revision, reply.puts_dropped), (4, 0));
    assert_eq!(bench.keys(), ["before", "x", "y"]);
    assert_eq!(bench.value("x").as_deref(), Some("last"));
    let events = bench.outcome().events[0].clone();
    assert!(
        events
            .events
            .iter()
            .all(|event| event.cause == Cause::Plugin { id: 1 } && event.hops == 1)
    );
    assert_eq!(events.events.len(), 3);
    let plugin = bench.view().plugins.get("index").unwrap().clone();
    assert_eq!(
        (plugin.effects_committed, plugin.cursor.clone()),
        (
            3,
            Position::Changes {
                revision: 3,
                sub: 0
            }
        )
    );
}

#[test]
fn a_batch_committed_twice_happens_once() {
    let mut bench = deployed();
    let commit = batch(START, (3, 0), vec![EffectOp::Put(put("x", "1"))]);
    bench.run(commit.clone()).unwrap();
    assert_eq!(void(bench.run(commit)), NoEffect::PluginCursor);
    assert_eq!(
        read::get(&bench.view(), b"x", 0).unwrap().unwrap().version,
        1
    );
}

#[test]
fn a_batch_of_another_term_generation_or_state_is_void() {
    let mut bench = deployed();
    let commit = || batch(START, (3, 0), vec![EffectOp::Put(put("x", "1"))]);
    assert_eq!(
        void(bench.run(CommitPlugin {
            term: TERM - 1,
            ..commit()
        })),
        NoEffect::StaleTerm
    );
    assert_eq!(
        void(bench.run_in_term(commit(), TERM + 1)),
        NoEffect::StaleTerm
    );
    assert_eq!(
        void(bench.run(CommitPlugin {
            generation: 2,
            ..commit()
        })),
        NoEffect::PluginCursor
    );
    assert_eq!(
        void(bench.run(CommitPlugin {
            name: "none".into(),
            ..commit()
        })),
        NoEffect::PluginCursor
    );
    let state = |state| SetPluginState {
        name: "index".into(),
        generation: None,
        state,
        reason: String::new(),
    };
    bench.run(state(PluginState::Paused)).unwrap();
    assert_eq!(void(bench.run(commit())), NoEffect::PluginCursor);
    bench.run(state(PluginState::Running)).unwrap();
    let unsealed = Put {
        ignore_value: true,
        ..put("x", "")
    };
    let unsealed = Put {
        sealed_value: Bytes::new(),
        ..unsealed
    };
    let bad = CommitPlugin {
        effects: vec![EffectOp::Put(unsealed)],
        ..commit()
    };
    assert_eq!(void(bench.run(bad)), NoEffect::KeyHeader);
    assert!(bench.run(commit()).is_ok());
}

#[test]
fn a_put_whose_lease_is_gone_is_dropped_and_counted() {
    let mut bench = deployed();
    let reply = bench
        .run(batch(
            START,
            (3, 0),
            vec![EffectOp::Put(leased("x", "1", 77))],
        ))
        .unwrap();
    assert_eq!((reply.revision, reply.puts_dropped), (2, 1));
    let plugin = bench.view().plugins.get("index").unwrap().clone();
    assert_eq!(
        (plugin.puts_dropped_no_lease, plugin.effects_committed),
        (1, 0)
    );
    assert_eq!(bench.value("x"), None);
}

#[test]
fn the_newest_thousand_dead_letters_are_kept() {
    let mut bench = deployed();
    let letter = |revision| DeadLetter {
        revision,
        error: "reject".into(),
        ..DeadLetter::default()
    };
    let mut commit = batch(START, (3, 0), vec![]);
    commit.dead_letters = (0..1100).map(letter).collect();
    bench.run(commit).unwrap();
    let view = bench.view();
    let plugin = view.plugins.get("index").unwrap().clone();
    let kept = super::dead_letters(&view, &plugin).unwrap();
    assert_eq!(
        (plugin.dead_letters, kept.len(), kept[0].revision),
        (1100, 1000, 100)
    );
    bench
        .run(DeletePlugin {
            name: "index".into(),
        })
        .unwrap();
    assert_eq!(
        bench
            .view()
            .store
            .scan(crate::storage::Keyspace::Plugin, ..)
            .count(),
        0
    );
    assert_eq!(
        bench
            .view()
            .store
            .scan(crate::storage::Keyspace::PluginBlob, ..)
            .count(),
        0
    );
    assert_eq!(
        refused(bench.run(DeletePlugin {
            name: "index".into()
        })),
        Refusal::PluginNotFound
    );
}

#[test]
fn history_is_what_was_published() {
    let mut bench = Bench::new();
    let mut published = Vec::new();
    let mut keep = |bench: &Bench| published.extend(bench.outcome().events.iter().cloned());
    bench.grant(5);
    for body in [put("a", "1"), put("b", "1"), leased("a", "2", 5)] {
        bench.run(body).unwrap();
        keep(&bench);
    }
    bench
        .run(txn(
            vec![],
            vec![Op::DeleteRange(delete(one("b"))), Op::Put(put("c", "1"))],
            vec![],
        ))
        .unwrap();
    keep(&bench);
    bench.run(LeaseRevoke { id: 5 }).unwrap();
    keep(&bench);
    let view = bench.view();
    let whole = history::events(&view, 0, i64::MAX, &KeyRange::all(), 100).unwrap();
    assert_eq!(whole.revisions, published);
    assert_eq!(whole.next, view.revision + 1);
    let first = history::events(&view, 2, view.revision, &KeyRange::all(), 1).unwrap();
    assert_eq!((first.revisions.len(), first.next), (1, 3));
    let of_a = history::events(&view, 0, view.revision, &one("a"), 100).unwrap();
    assert_eq!(
        of_a.revisions
            .iter()
            .map(|it| it.revision)
            .collect::<Vec<_>>(),
        [2, 4, 6]
    );
    bench.compact(4);
    bench.sweep();
    let rest = history::events(&bench.view(), 4, i64::MAX, &KeyRange::all(), 100).unwrap();
    assert_eq!(
        rest.revisions[0].events[0].prev, None,
        "what was before is compacted"
    );
    assert_eq!(rest.revisions[1..], published[3..]);
    assert!(matches!(
        history::events(&bench.view(), 3, 9, &KeyRange::all(), 100),
        Err(ReadError::Compacted)
    ));
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

#[test]
fn a_store_that_is_no_machines_is_refused() {
    let store = Store::in_memory(PlaceSealer(1));
    assert!(matches!(
        Machine::recover(store, 1).map(drop),
        Err(Poison::Row { .. })
    ));
}

/// Opens rows until it is told not to.
struct Failing {
    rows: PlaceSealer,
    broken: Arc<AtomicBool>,
}

impl RowSealer for Failing {
    fn seal_row(&self, keyspace: u8, row_key: &[u8], plaintext: &[u8]) -> Vec<u8> {
        self.rows.seal_row(keyspace, row_key, plaintext)
    }

    fn open_row(
        &self,
        keyspace: u8,
        row_key: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, RowUnopened> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(RowUnopened);
        }
        self.rows.open_row(keyspace, row_key, sealed)
    }
}

#[test]
fn a_row_that_cannot_be_read_stops_the_member_before_anyone_sees_the_batch() {
    let broken = Arc::new(AtomicBool::new(false));
    let store = Store::in_memory(Failing {
        rows: PlaceSealer(1),
        broken: broken.clone(),
    });
    let mut bench = Bench {
        machine: Machine::create(store, MEMBER).unwrap(),
        ..Bench::unborn()
    };
    bench.run(birth()).unwrap();
    bench.put("a", "1");
    broken.store(true, Ordering::SeqCst);
    let entry = |index, bytes| EntryRef {
        index,
        term: TERM,
        leader: 1,
        body: EntryBody::Command(bytes),
    };
    let encode =
        |body: Put| Command::new(Header::new(RequestId { member: 1, seq: 9 }), body).encode();
    let (fresh, over) = (encode(put("b", "1")), encode(put("a", "2")));
    let outcome = bench
        .machine
        .apply(&[entry(2, &fresh), entry(3, &over)])
        .map(drop);
    assert!(matches!(outcome, Err(Poison::Storage(_))));
    assert!(matches!(
        bench.machine.apply(&[entry(2, &fresh)]).map(drop),
        Err(Poison::Earlier)
    ));
    broken.store(false, Ordering::SeqCst);
    assert_eq!(
        bench.view().revision,
        2,
        "nothing of the batch was published"
    );
    let again = Machine::recover(bench.machine.store.clone(), MEMBER).unwrap();
    assert_eq!(
        (again.view().revision, again.applied().last.unwrap().index),
        (2, 1)
    );
}

#[test]
fn a_machine_on_disk_is_recovered_with_its_storage_key() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys::StorageKeys::ephemeral();
    let path = dir.path().join("state");
    let store = Store::create(&path, keys.clone(), StoreOptions::default()).unwrap();
    let mut bench = Bench {
        machine: Machine::create(store, MEMBER).unwrap(),
        ..Bench::unborn()
    };
    bench.run(birth()).unwrap();
    bench.grant(5);
    for key in ["a", "b", "a"] {
        bench.run(leased(key, "1", 5)).unwrap();
    }
    bench.delete("b");
    let hash = hash_kv(&bench.view(), 0).unwrap();
    drop(bench);
    let store = Store::open(&path, keys, StoreOptions::default()).unwrap();
    let machine = Machine::recover(store, MEMBER).unwrap();
    assert_eq!(hash_kv(&machine.view(), 0).unwrap(), hash);
    assert_eq!(machine.view().leases.read().get(5).unwrap().key_count(), 1);
}

/// Round robin over these, so that what each holds at a revision can be computed.
const TURNS: i64 = 20;

fn read_some(view: &crate::mvcc::ReadView, back: i64) -> bool {
    let revision = view.revision - back;
    if revision <= TURNS {
        return false;
    }
    let asked = if back == 0 { 0 } else { revision };
    let query = RangeQuery {
        revision: asked,
        ..RangeQuery::all(KeyRange::all())
    };
    let rows = match read::range(view, &query) {
        Ok(rows) => rows,
        Err(ReadError::Compacted | ReadError::ViewTooOld) => return false,
        Err(error) => panic!("a read at {revision} fails with {error}"),
    };
    assert_eq!(rows.count, TURNS as u64);
    for (turn, row) in (0..).zip(&rows.rows) {
        let modified = revision - (revision - 2 - turn).rem_euclid(TURNS);
        assert_eq!((row.at.main, row.created), (modified, 2 + turn));
        assert!(view.store.value(row.at).unwrap().is_some());
    }
    true
}

#[test]
fn readers_and_the_compactor_beside_apply_see_whole_revisions() {
    let mut bench = Bench::new();
    for turn in 0..TURNS {
        bench.put(&format!("k{turn:02}"), "1");
    }
    let done = AtomicBool::new(false);
    let (publisher, mut compactor) = (bench.machine.publisher(), bench.machine.compactor());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                compactor.slice(3).unwrap();
            }
        });
        let readers = [0, 1, 15].map(|back| {
            let (publisher, done) = (&publisher, &done);
            scope.spawn(move || {
                let mut read = 0;
                while !done.load(Ordering::SeqCst) {
                    read += u32::from(read_some(&publisher.load(), back));
                }
                read
            })
        });
        for round in 0..2_000 {
            bench.put(&format!("k{:02}", round % TURNS), "1");
            if round % 10 == 9 {
                let revision = bench.view().revision;
                bench.compact(revision - 10);
            }
        }
        done.store(true, Ordering::SeqCst);
        let reads = readers.map(|reader| reader.join().unwrap());
        assert!(reads[0] > 0 && reads[1] > 0, "{reads:?}");
    });
}
