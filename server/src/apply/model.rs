//! The state machine against a naive model of etcd, and against itself: recovered, moved by a
//! snapshot, on another storage key.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::fixture::*;
use super::snapshot::{SnapshotLoader, export};
use super::{EntryBody, EntryRef, Machine, rows};
use crate::command::{
    Compact, CompareResult, CompareTarget, DeleteRange, LeaseGrant, LeaseRevoke, NotApplied, Op,
    Put, Refusal, Txn,
};
use crate::mvcc::hash::hash_kv;
use crate::mvcc::history;
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::{self, RangeQuery, ReadError};
use crate::mvcc::read_view::ReadView;
use crate::storage::{Keyspace, Store};

/// What a key is at a revision: created, version, lease, value.
type Known = (i64, i64, i64, Vec<u8>);

/// etcd as a list of whole states, one per revision.
struct Model {
    states: Vec<BTreeMap<Bytes, (i64, Known)>>,
    leases: Vec<i64>,
    compact: i64,
}

#[derive(Clone, Debug)]
enum Act {
    Put {
        key: u8,
        value: u8,
        lease: i64,
    },
    Keep {
        key: u8,
        lease: i64,
    },
    Delete {
        from: u8,
        to: u8,
    },
    Txn {
        compare: (u8, i64),
        then: Vec<Act>,
        or: Vec<Act>,
    },
    Compact {
        back: i64,
    },
    Grant {
        id: i64,
    },
    Revoke {
        id: i64,
    },
    Sweep,
}

fn simple() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..6u8, any::<u8>(), 0..3i64).prop_map(|(key, value, lease)| Act::Put { key, value, lease }),
        1 => (0..6u8, 0..3i64).prop_map(|(key, lease)| Act::Keep { key, lease }),
        2 => (0..6u8, 0..7u8).prop_map(|(from, to)| Act::Delete { from, to }),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let branch = || proptest::collection::vec(simple(), 0..4);
    let nested = (0..6u8, 0..3i64, branch(), branch())
        .prop_map(|(key, version, then, or)| Act::Txn {
            compare: (key, version),
            then,
            or,
        })
        .boxed();
    let list = || proptest::collection::vec(prop_oneof![3 => simple(), 1 => nested.clone()], 0..4);
    prop_oneof![
        6 => simple(),
        3 => (0..6u8, 0..3i64, list(), list())
            .prop_map(|(key, version, then, or)| Act::Txn { compare: (key, version), then, or }),
        1 => (0..5i64).prop_map(|back| Act::Compact { back }),
        1 => (1..3i64).prop_map(|id| Act::Grant { id }),
        1 => (1..3i64).prop_map(|id| Act::Revoke { id }),
        1 => Just(Act::Sweep),
    ]
}

fn key(key: u8) -> Bytes {
    Bytes::from(vec![b'k', key])
}

fn range(from: u8, to: u8) -> KeyRange {
    KeyRange::from_wire(key(from), key(to))
}

impl Model {
    fn new() -> Self {
        Model {
            states: vec![BTreeMap::new(), BTreeMap::new()],
            leases: vec![],
            compact: -1,
        }
    }

    fn revision(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    fn now(&self) -> &BTreeMap<Bytes, (i64, Known)> {
        self.states.last().expect("there is a first state")
    }

    /// Applies writes as one revision, if they change anything.
    fn write(&mut self, ops: &[&Act]) {
        let revision = self.revision() + 1;
        let mut state = self.now().clone();
        let mut changed = false;
        for op in ops {
            changed |= write_one(&mut state, revision, op);
        }
        if changed {
            self.states.push(state);
        }
    }

    fn refusal(&self, op: &Act) -> Option<Refusal> {
        let (Act::Put { lease, .. } | Act::Keep { lease, .. }) = op else {
            return None;
        };
        if *lease != 0 && !self.leases.contains(lease) {
            return Some(Refusal::LeaseNotFound);
        }
        matches!(op, Act::Keep { key: it, .. } if !self.now().contains_key(&key(*it)))
            .then_some(Refusal::KeyNotFound)
    }

    /// The operations of the taken branches, in order, decided on the state before all of them.
    fn taken<'a>(&self, act: &'a Act, out: &mut Vec<&'a Act>) {
        let Act::Txn {
            compare: (it, version),
            then,
            or,
        } = act
        else {
            out.push(act);
            return;
        };
        let actual = self.now().get(&key(*it)).map_or(0, |(_, known)| known.1);
        let branch = if actual == *version { then } else { or };
        branch.iter().for_each(|op| self.taken(op, out));
    }
}

fn write_one(state: &mut BTreeMap<Bytes, (i64, Known)>, revision: i64, op: &Act) -> bool {
    match op {
        Act::Put { key: it, lease, .. } | Act::Keep { key: it, lease } => {
            let old = state.get(&key(*it)).map(|(_, known)| known.clone());
            let value = match op {
                Act::Put { value, .. } => vec![*value],
                _ => old.as_ref().expect("refused before").3.clone(),
            };
            let (created, version) = old.map_or((revision, 1), |known| (known.0, known.1 + 1));
            state.insert(key(*it), (revision, (created, version, *lease, value)));
            true
        }
        Act::Delete { from, to } => {
            let before = state.len();
            state.retain(|it, _| !range(*from, *to).contains(it));
            state.len() != before
        }
        _ => unreachable!("only writes come here"),
    }
}

fn command(act: &Act) -> Op {
    match act {
        Act::Put {
            key: it,
            value,
            lease,
        } => Op::Put(Put {
            key: key(*it),
            sealed_value: sealed(&[*value]),
            lease: *lease,
            ..Put::default()
        }),
        Act::Keep { key: it, lease } => Op::Put(Put {
            key: key(*it),
            lease: *lease,
            ignore_value: true,
            ..Put::default()
        }),
        Act::Delete { from, to } => Op::DeleteRange(DeleteRange {
            range: range(*from, *to),
            prev: false,
        }),
        Act::Txn { .. } => Op::Txn(transaction(act)),
        _ => unreachable!("not inside a transaction"),
    }
}

fn transaction(act: &Act) -> Txn {
    let Act::Txn {
        compare: (it, version),
        then,
        or,
    } = act
    else {
        unreachable!("a transaction")
    };
    let single = KeyRange::single(key(*it));
    let compares = vec![compare(
        single,
        CompareResult::Equal,
        CompareTarget::Version(*version),
    )];
    txn(
        compares,
        then.iter().map(command).collect(),
        or.iter().map(command).collect(),
    )
}

/// The edge refuses a transaction that puts a key twice, or puts and deletes it.
fn overlap(ops: &[&Act]) -> bool {
    let puts = |op: &Act| match op {
        Act::Put { key: it, .. } | Act::Keep { key: it, .. } => Some(key(*it)),
        _ => None,
    };
    let touches = |op: &Act, it: &Bytes| match op {
        Act::Delete { from, to } => range(*from, *to).contains(it),
        _ => puts(op).as_ref() == Some(it),
    };
    let put_keys = ops
        .iter()
        .enumerate()
        .filter_map(|(place, op)| Some((place, puts(op)?)));
    let mut others = put_keys.flat_map(|(place, it)| {
        let others = ops
            .iter()
            .enumerate()
            .filter(move |(other, _)| *other != place);
        others.map(move |(_, op)| (op, it.clone()))
    });
    others.any(|(op, it)| touches(op, &it))
}

/// Runs one act on both, and compares what they answer.
fn step(bench: &mut Bench, model: &mut Model, act: &Act) {
    match act {
        Act::Sweep => bench.sweep(),
        Act::Compact { back } => {
            let revision = model.revision() - back;
            let refused = bench.run(Compact { revision }).is_err();
            assert_eq!(refused, revision <= model.compact);
            model.compact = model.compact.max(revision);
        }
        Act::Grant { id } => {
            let granted = bench
                .run(LeaseGrant {
                    id: *id,
                    ttl_seconds: 60,
                })
                .is_ok();
            assert_eq!(granted, !model.leases.contains(id));
            if granted {
                model.leases.push(*id);
            }
        }
        Act::Revoke { id } => {
            let revoked = bench.run(LeaseRevoke { id: *id }).is_ok();
            assert_eq!(revoked, model.leases.contains(id));
            model.leases.retain(|lease| lease != id);
            let gone = |known: &(i64, Known)| known.1.2 == *id;
            let mut state = model.now().clone();
            state.retain(|_, known| !gone(known));
            if state.len() != model.now().len() {
                model.states.push(state);
            }
        }
        Act::Put { .. } | Act::Keep { .. } | Act::Delete { .. } | Act::Txn { .. } => {
            let mut ops = Vec::new();
            model.taken(act, &mut ops);
            if overlap(&ops) {
                return;
            }
            let refusal = ops.iter().find_map(|op| model.refusal(op));
            let outer = Txn {
                compares: vec![],
                success: vec![command(act)],
                failure: vec![],
            };
            let result = bench.run(outer).map(|reply| reply.revision);
            match refusal {
                Some(refusal) => assert_eq!(result, Err(NotApplied::Refused(refusal))),
                None => {
                    model.write(&ops);
                    assert_eq!(result, Ok(model.revision()));
                }
            }
        }
    }
}

/// Everything a reader can ask for, at every revision that is not compacted.
fn compare_all(view: &ReadView, model: &Model) {
    assert_eq!(
        (view.revision, view.compact_revision),
        (model.revision(), model.compact)
    );
    for (revision, state) in model.states.iter().enumerate().skip(1) {
        let revision = revision as i64;
        let query = RangeQuery {
            revision,
            ..RangeQuery::all(KeyRange::all())
        };
        let rows = match read::range(view, &query) {
            Err(ReadError::Compacted) if revision < model.compact => continue,
            rows => rows.expect("it is not compacted"),
        };
        assert_eq!(rows.count, state.len() as u64);
        for (row, (key, (modified, known))) in rows.rows.iter().zip(state) {
            let value = view
                .store
                .value(row.at)
                .unwrap()
                .expect("a record has a value");
            let found = (
                row.created,
                row.version,
                row.lease,
                unsealed(&value).to_vec(),
            );
            assert_eq!((&row.key, row.at.main, &found), (key, *modified, known));
        }
    }
    for (id, lease) in view.leases.read().iter() {
        let attached: Vec<_> = lease.keys().cloned().collect();
        let expected: Vec<_> = model
            .now()
            .iter()
            .filter(|(_, known)| known.1.2 == id)
            .map(|(key, _)| key.clone())
            .collect();
        assert_eq!(attached, expected);
    }
    assert_eq!(view.leases.read().len(), model.leases.len());
}

/// The replicated rows, opened; without what a member keeps for itself.
fn replicated(view: &ReadView) -> Vec<(Keyspace, Bytes, Bytes)> {
    let mut all = Vec::new();
    for keyspace in Keyspace::ALL {
        for row in view.store.scan(keyspace, ..) {
            let (key, row) = row.expect("memory can be read");
            if keyspace != Keyspace::System || key != rows::COMPACTED {
                all.push((keyspace, key, row));
            }
        }
    }
    all
}

fn same_state(a: &ReadView, b: &ReadView) {
    assert_eq!(replicated(a), replicated(b));
    assert_eq!(*a.leases.read(), *b.leases.read());
    assert_eq!(
        (
            a.revision,
            a.compact_revision,
            a.stored_bytes,
            a.clock_ms,
            a.applied_index
        ),
        (
            b.revision,
            b.compact_revision,
            b.stored_bytes,
            b.clock_ms,
            b.applied_index
        )
    );
    assert_eq!(
        (&a.key_table, &a.members, &a.plugins, &a.alarms),
        (&b.key_table, &b.members, &b.plugins, &b.alarms)
    );
    assert_eq!(hash_kv(a, 0).unwrap(), hash_kv(b, 0).unwrap());
    let history = |view: &ReadView| {
        let from = view.compact_revision + 1;
        history::events(view, from, i64::MAX, &KeyRange::all(), usize::MAX)
            .unwrap()
            .revisions
    };
    assert_eq!(history(a), history(b));
}

fn moved_by_snapshot(view: &ReadView) -> Machine {
    let mut loader = SnapshotLoader::new(Store::in_memory(PlaceSealer(2)));
    for chunk in export(view) {
        loader.chunk(&chunk.unwrap()).unwrap();
    }
    let (store, _) = loader.finish(None).unwrap();
    Machine::recover(store, MEMBER).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_machine_answers_as_the_model_does(acts in proptest::collection::vec(act(), 1..40)) {
        let mut bench = Bench::new();
        let mut model = Model::new();
        for act in &acts {
            step(&mut bench, &mut model, act);
        }
        compare_all(&bench.view(), &model);
        bench.sweep();
        bench.machine.refresh();
        compare_all(&bench.view(), &model);
    }

    #[test]
    fn a_machine_recovered_or_moved_is_the_one_that_went_on(
        acts in proptest::collection::vec(act(), 1..30),
        more in proptest::collection::vec(act(), 1..10),
    ) {
        let mut bench = Bench::new();
        let mut model = Model::new();
        for act in &acts {
            step(&mut bench, &mut model, act);
        }
        bench.machine.refresh();
        let snapshot = moved_by_snapshot(&bench.view());
        same_state(&snapshot.view(), &bench.view());
        let recovered = Machine::recover(bench.machine.store.clone(), MEMBER).unwrap();
        same_state(&recovered.view(), &bench.view());
        bench.machine = snapshot;
        for act in &more {
            step(&mut bench, &mut model, act);
        }
        compare_all(&bench.view(), &model);
    }

    #[test]
    fn the_same_entries_give_the_same_state_however_they_are_batched_and_stored(
        acts in proptest::collection::vec(act(), 1..40),
        batch in 1..7usize,
    ) {
        let mut bench = Bench::new();
        let mut model = Model::new();
        for act in acts.iter().filter(|act| !matches!(act, Act::Sweep)) {
            step(&mut bench, &mut model, act);
        }
        // Another member: it answers nobody, has another storage key and other batches.
        let mut other = Machine::create(Store::in_memory(PlaceSealer(9)), MEMBER + 1).unwrap();
        let entries: Vec<EntryRef<'_>> = (0..)
            .zip(&bench.log)
            .map(|(index, bytes)| EntryRef { index, term: TERM, leader: MEMBER, body: EntryBody::Command(bytes) })
            .collect();
        let mut events = Vec::new();
        for entries in entries.chunks(batch) {
            let outcome = other.apply(entries).unwrap();
            assert!(outcome.replies.is_empty());
            events.extend(outcome.events);
        }
        same_state(&bench.view(), &other.view());
        let view = other.view();
        let from = view.compact_revision + 1;
        let told = history::events(&view, from, i64::MAX, &KeyRange::all(), usize::MAX).unwrap().revisions;
        // What the log told of compacted predecessors differs by nothing but them.
        let live = events.into_iter().filter(|it| it.revision >= from).collect::<Vec<_>>();
        assert_eq!(told.len(), live.len());
        for (told, live) in told.iter().zip(&live) {
            for (told, live) in told.events.iter().zip(&live.events) {
                assert_eq!((&told.record, &told.value, told.cause), (&live.record, &live.value, live.cause));
                assert!(told.prev == live.prev || told.prev.is_none());
            }
        }
    }
}

#[test]
fn a_snapshot_that_is_cut_reordered_or_damaged_is_refused() {
    let mut bench = Bench::new();
    for _ in 0..50 {
        let big = "x".repeat(50_000);
        bench.put("a", &big);
    }
    bench.put("b", &"y".repeat(1_200_000));
    let chunks: Vec<Bytes> = export(&bench.view()).map(|chunk| chunk.unwrap()).collect();
    let long = chunks.iter().filter(|chunk| chunk.len() > 1 << 20);
    assert_eq!((chunks.len() > 3, long.count()), (true, 1));
    let load = |chunks: &[Bytes]| {
        let mut loader = SnapshotLoader::new(Store::in_memory(PlaceSealer(3)));
        for chunk in chunks {
            loader.chunk(chunk)?;
        }
        loader.finish(bench.machine.applied().last)
    };
    assert!(load(&chunks).is_ok());
    assert!(load(&chunks[..chunks.len() - 1]).is_err());
    assert!(load(&[&chunks[1..], &chunks[..1]].concat()).is_err());
    assert!(load(&[&chunks[..], &chunks[chunks.len() - 1..]].concat()).is_err());
    for chunk in 0..chunks.len() {
        for at in [0, 1, 5, 6, chunks[chunk].len() / 2, chunks[chunk].len() - 1] {
            let mut damaged = chunks.clone();
            let mut bytes = damaged[chunk].to_vec();
            bytes[at] ^= 1;
            damaged[chunk] = bytes.into();
            assert!(load(&damaged).is_err(), "byte {at} of chunk {chunk}");
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_loader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), framed: bool) {
        let mut bytes = bytes;
        if framed {
            bytes.splice(0..0, [1, 0, 0, 0, 0, 0]);
            let crc = crc32c::crc32c(&bytes).to_be_bytes();
            bytes.extend(crc);
        }
        let mut loader = SnapshotLoader::new(Store::in_memory(PlaceSealer(3)));
        let _ = loader.chunk(&bytes.into());
    }
}
