//! Transactions: compares, guards, one revision.

use super::super::fixture::*;
use super::{GUARD, refused, void};
use crate::command::{
    Compare, CompareResult, CompareTarget, NoEffect, Op, OpReply, Put, Refusal, ValueCompare,
};
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::RangeQuery;
use crate::mvcc::txn::{resolve_compares, run_read_only};

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
