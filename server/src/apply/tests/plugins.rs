//! Plugins: their deployment, and the effects of their batches.

use bytes::Bytes;

use super::super::fixture::*;
use super::{refused, void};
use crate::command::{
    CommitPlugin, DeadLetter, DeletePlugin, DeployPlugin, EffectOp, NoEffect, PluginChunk,
    PluginSpec, PluginState, Position, Put, Refusal, SetPluginState,
};
use crate::mvcc::event::Cause;
use crate::mvcc::read;

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
    let component = super::super::component(&bench.view(), &plugin.spec);
    assert!(matches!(
        component,
        Err(super::super::ComponentError::Digest)
    ));
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
    let kept = super::super::dead_letters(&view, &plugin).unwrap();
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
