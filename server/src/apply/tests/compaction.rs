//! Compaction, and the space that it gives back.

use super::super::fixture::*;
use super::refused;
use crate::command::{Compact, Refusal};
use crate::mvcc::hash::hash_kv;
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::{RangeQuery, ReadError};
use crate::mvcc::{history, read};

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
