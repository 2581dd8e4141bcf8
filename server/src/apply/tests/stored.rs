//! What readers see and what a start finds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use keys::RowNonce;

use super::super::fixture::*;
use super::super::{EntryBody, EntryRef, Machine, Poison};
use crate::command::{Command, Header, LeaseRevoke, Op, Put, RequestId};
use crate::mvcc::hash::hash_kv;
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::{RangeQuery, ReadError};
use crate::mvcc::{history, read};
use crate::storage::{RowSealer, RowUnopened, Store, StoreOptions};

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
    fn seal_row(&self, keyspace: u8, row_key: &[u8], plaintext: &[u8], nonce: RowNonce) -> Vec<u8> {
        self.rows.seal_row(keyspace, row_key, plaintext, nonce)
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
    // Keeps the value that is there, so it is read.
    let over = Put {
        ignore_value: true,
        sealed_value: Bytes::new(),
        ..put("a", "")
    };
    let (fresh, over) = (encode(put("b", "1")), encode(over));
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
