//! Puts, deletes and ranges.

use bytes::Bytes;

use super::super::fixture::*;
use super::{refused, void};
use crate::command::{NoEffect, Put, Refusal};
use crate::mvcc::event::Kind;
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read;
use crate::mvcc::read::{RangeQuery, SortOrder, SortTarget};

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
