//! The hub without its threads: every step is taken by the test.

use std::cell::Cell;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;

use super::{Filters, Hub, Outbox, Parcel, Watcher};
use crate::command::{Compact, DeleteRange, Put};
use crate::mvcc::key_range::KeyRange;
use crate::replica::Replica;
use crate::rpc::tests::single::Single;

/// So large that a few of them fill an outbox, and a few more the hub's inbox.
const LARGE: usize = 1 << 20;

fn single() -> Arc<Single> {
    Single::with_hub(Hub::idle)
}

fn put(single: &Single, key: &str, bytes: usize) -> i64 {
    put_sealed(single, key, &seal(single, key, bytes))
}

fn seal(single: &Single, key: &str, bytes: usize) -> Bytes {
    let value = vec![b'v'; bytes];
    let sealed = single.sealer.seal(&single.view(), key.as_bytes(), &value);
    sealed.unwrap()
}

fn put_sealed(single: &Single, key: &str, sealed_value: &Bytes) -> i64 {
    let put = Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        sealed_value: sealed_value.clone(),
        ..Put::default()
    };
    single.run(put.into()).view.revision
}

fn watch(single: &Single, outbox: &Arc<Outbox>, range: KeyRange, start: i64) -> Arc<Watcher> {
    single
        .hub
        .watch(&single.view(), outbox, 0, range, Filters::default(), start)
        .unwrap()
}

fn key(key: &'static str) -> KeyRange {
    KeyRange::single(Bytes::from_static(key.as_bytes()))
}

/// Revisions of the events that wait, and how far the last delivery says it goes.
fn drain(outbox: &Outbox) -> (Vec<i64>, i64) {
    let (mut revisions, mut told) = (Vec::new(), 0);
    while let Some(Some(parcel)) = outbox.next().now_or_never() {
        let Parcel::Events {
            events, revision, ..
        } = parcel
        else {
            panic!("only events are due");
        };
        revisions.extend(events.iter().map(|event| event.revision()));
        told = revision;
    }
    (revisions, told)
}

#[test]
fn a_watcher_whose_outbox_is_full_is_caught_up_without_hole_or_repetition() {
    let single = single();
    let outbox = single.hub.outbox();
    let _watcher = watch(&single, &outbox, key("a"), 0);
    let sealed = seal(&single, "a", LARGE);
    for _ in 0..20 {
        put_sealed(&single, "a", &sealed);
        single.hub.step();
    }
    let mut revisions = Vec::new();
    while revisions.len() < 20 {
        let (more, told) = drain(&outbox);
        assert!(!more.is_empty(), "it is never left behind");
        assert!(told >= *more.last().unwrap());
        revisions.extend(more);
        single.hub.step();
    }
    assert_eq!(revisions, (2..22).collect::<Vec<_>>());
    put(&single, "a", 1);
    single.hub.step();
    assert_eq!(drain(&outbox), (vec![22], 22));
}

#[test]
fn a_hub_that_cannot_follow_catches_everybody_up_from_history() {
    let single = single();
    let (one, all) = (single.hub.outbox(), single.hub.outbox());
    let _one = watch(&single, &one, key("a"), 0);
    let _all = watch(&single, &all, KeyRange::all(), 0);
    single.hub.step();
    // More than the inbox takes, while the hub does nothing.
    let sealed = ["a", "b"].map(|key| (key, seal(&single, key, LARGE)));
    for (key, sealed) in sealed.iter().cycle().take(40) {
        put_sealed(&single, key, sealed);
    }
    let (mut of_one, mut of_all) = (Vec::new(), Vec::new());
    while of_all.len() < 40 {
        single.hub.step();
        of_one.extend(drain(&one).0);
        of_all.extend(drain(&all).0);
    }
    single.hub.step();
    of_one.extend(drain(&one).0);
    assert_eq!(of_all, (2..42).collect::<Vec<_>>());
    assert_eq!(of_one, (2..42).step_by(2).collect::<Vec<_>>());
}

#[test]
fn after_a_snapshot_watchers_go_on_from_history_or_are_told_that_it_is_gone() {
    let single = single();
    let (behind, after) = (single.hub.outbox(), single.hub.outbox());
    let _behind = watch(&single, &behind, key("a"), 0);
    let _after = watch(&single, &after, key("a"), 6);
    single.hub.step();
    // The reset makes the hub forget what it was told of and has not looked at.
    for _ in 0..6 {
        put(&single, "a", 1);
    }
    single.run(Compact { revision: 5 }.into());
    single.sweep();
    single.hub.reset(single.view());
    single.hub.step();
    let Some(Some(Parcel::Compacted {
        compact_revision, ..
    })) = behind.next().now_or_never()
    else {
        panic!("its history is gone");
    };
    assert_eq!(compact_revision, 5);
    assert_eq!(drain(&after).0, [6, 7]);
}

#[test]
fn a_value_is_opened_once_however_many_watchers_want_it() {
    let single = single();
    let outbox = single.hub.outbox();
    let watchers: Vec<_> = (0..50)
        .map(|number| match number % 2 {
            0 => watch(&single, &outbox, key("a"), 0),
            _ => watch(&single, &outbox, KeyRange::all(), 0),
        })
        .collect();
    put(&single, "a", 1);
    single.hub.step();
    let opened = Cell::new(0);
    for _ in &watchers {
        let Some(Some(Parcel::Events { events, .. })) = outbox.next().now_or_never() else {
            panic!("every watcher is told");
        };
        let value = events[0].make(|event| {
            opened.set(opened.get() + 1);
            single.sealer.open(&event.record.key, &event.value)
        });
        assert_eq!(value.unwrap(), "v");
    }
    assert_eq!(opened.get(), 1);
}

#[test]
fn removed_watchers_and_those_of_closed_streams_are_forgotten() {
    let single = single();
    let (kept, closed) = (single.hub.outbox(), single.hub.outbox());
    let removed = watch(&single, &kept, key("a"), 0);
    let _stays = watch(&single, &kept, key("a"), 0);
    let _closed = watch(&single, &closed, KeyRange::all(), 0);
    single.hub.step();
    assert_eq!(single.hub.seats(), 3);
    single.hub.remove(&removed);
    closed.close();
    put(&single, "a", 1);
    single.hub.step();
    assert_eq!(single.hub.seats(), 1);
    assert_eq!(drain(&kept).0, [2]);
}

#[test]
fn one_revision_is_one_delivery() {
    let single = single();
    for name in ["a", "b", "c"] {
        put(&single, name, 1);
    }
    let outbox = single.hub.outbox();
    let _watcher = watch(&single, &outbox, KeyRange::all(), 0);
    single.run(
        DeleteRange {
            range: KeyRange::all(),
            prev: false,
        }
        .into(),
    );
    single.hub.step();
    let Some(Some(Parcel::Events {
        events, revision, ..
    })) = outbox.next().now_or_never()
    else {
        panic!("events are due");
    };
    assert_eq!((events.len(), revision), (3, 5));
    assert!(events.iter().all(|event| event.event().prev.is_some()));
}

#[test]
fn nobody_is_told_progress_who_is_behind() {
    let single = single();
    let outbox = single.hub.outbox();
    let in_step = watch(&single, &outbox, key("a"), 0);
    let future = watch(&single, &outbox, key("a"), 9);
    single.hub.step();
    let ask = |watchers: &[&Arc<Watcher>]| {
        let watchers = watchers.iter().map(|watcher| Arc::clone(watcher)).collect();
        single.hub.progress(watchers, -1, &outbox);
        single.hub.step();
        match outbox.next().now_or_never() {
            Some(Some(Parcel::Progress { revision, .. })) => Some(revision),
            _ => None,
        }
    };
    assert_eq!(ask(&[&in_step]), Some(1));
    assert_eq!(ask(&[&in_step, &future]), None);
    assert_eq!(ask(&[]), None);
}
