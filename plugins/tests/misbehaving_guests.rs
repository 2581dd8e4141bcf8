//! Guests that mean harm: each costs its own call, by name, and nothing else.

mod support;

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Waker};

use plugins::testing::{Guest, component};
use plugins::{CallError, ComponentError, Disposition, Effects, EffectsRefused, HostCalls, Plugin};

use support::{
    Reads, SHORT_DEADLINE, Server, Text, batch, compile, compiled, deliver, deploy, draft, hurried,
    put,
};

/// Runs the guest once, then a good one on the same host and thread.
async fn outcome(hostile: &Plugin) -> Result<Effects, CallError> {
    let server = Arc::new(Server::default());
    let call = deliver(hostile, &server, vec![put("/in/a", "1")]).await;
    let good = Text::default().deploy().await;
    let answer = deliver(&good, &server, vec![put("/in/a", "1")]).await;
    assert_eq!(answer.result.expect("unharmed"), Effects::default());
    call.result
}

async fn broken(text: &Text<'_>) -> CallError {
    let outcome = outcome(&text.deploy().await).await;
    outcome.expect_err("the guest is hostile")
}

/// What ordinary Rust ends in; `None` where it cannot be built.
async fn misbehaving(mode: &str) -> Option<CallError> {
    let compiled = compiled(Guest::Test("misbehaving")).await?;
    let draft = draft(&format!(r#"{{"mode": "{mode}"}}"#));
    let plugin = match mode {
        "sleep" => deploy(&compiled, &hurried(draft)),
        _ => deploy(&compiled, &draft),
    };
    let outcome = outcome(&plugin).await;
    Some(outcome.expect_err("the guest misbehaves"))
}

fn on_events(body: &str) -> Text<'_> {
    Text {
        on_events: body,
        ..Text::default()
    }
}

const LOOP: &str = "(loop $l (br $l)) (unreachable)";

const LOG: &str = r#"(import "sealkv:hooks/logging@0.1.0" "log"
    (func $log (param i32 i32 i32 i32 i32)))"#;

#[tokio::test]
async fn an_endless_loop_ends_at_the_deadline() {
    let plugin = on_events(LOOP).deploy_hurried().await;
    let error = outcome(&plugin).await.expect_err("it never ends");
    assert!(matches!(error, CallError::Deadline { limit } if limit == SHORT_DEADLINE));
    assert_eq!(error.disposition(), Disposition::Fault);
}

#[tokio::test]
async fn a_loop_while_starting_ends_at_the_deadline() {
    let text = Text {
        fields: "(func $spin (loop $l (br $l))) (start $spin)",
        ..Text::default()
    };
    let refused = text.compile().await.expect_err("describe starts it");
    assert!(matches!(
        refused,
        ComponentError::Describe(CallError::Deadline { .. })
    ));
}

#[tokio::test]
async fn a_looping_guest_does_not_hold_up_its_caller() {
    let plugin = on_events(LOOP).deploy_hurried().await;
    let mut call = Box::pin(plugin.on_events(batch(vec![]), Arc::new(Server::default())));
    let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    let ended = call.await.result;
    assert!(matches!(ended, Err(CallError::Deadline { .. })));
}

#[tokio::test]
async fn an_allocation_bomb_is_told_from_a_trap() {
    let grow = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
        (unreachable)";
    let error = broken(&on_events(grow)).await;
    assert!(matches!(error, CallError::Memory { .. }), "{error}");
}

#[tokio::test]
async fn a_memory_that_begins_too_large_is_refused() {
    let text = Text {
        memory: "1024",
        ..Text::default()
    };
    let refused = text.compile().await.expect_err("64 MiB");
    assert!(
        matches!(refused, ComponentError::Describe(CallError::Memory { .. })),
        "{refused}"
    );
}

#[tokio::test]
async fn a_stack_overflow_stays_in_the_guest() {
    let text = Text {
        fields: "(func $deeper (call $deeper))",
        on_events: "(call $deeper) (unreachable)",
        ..Text::default()
    };
    assert!(matches!(broken(&text).await, CallError::Stack));
}

#[tokio::test]
async fn a_growing_table_is_stopped() {
    let text = Text {
        fields: "(table $t 1 funcref)",
        on_events: "(loop $l (br_if $l (i32.ne (i32.const -1)
                (table.grow $t (ref.null func) (i32.const 10000)))))
            (unreachable)",
        ..Text::default()
    };
    assert!(matches!(broken(&text).await, CallError::Tables));
}

#[tokio::test]
async fn a_table_that_begins_too_large_is_refused() {
    let text = Text {
        fields: "(table 1000000 funcref)",
        ..Text::default()
    };
    let refused = text.compile().await.expect_err("a million elements");
    assert!(
        matches!(refused, ComponentError::Describe(CallError::Tables)),
        "{refused}"
    );
}

#[tokio::test]
async fn a_trap_names_its_kind() {
    let error = broken(&on_events("(unreachable)")).await;
    assert_eq!(
        error.to_string(),
        "trapped: wasm trap: wasm `unreachable` instruction executed"
    );
    let divided = "(i32.div_u (i32.const 1) (i32.load (i32.const 256)))";
    assert!(matches!(
        broken(&on_events(divided)).await,
        CallError::Trap(_)
    ));
}

/// Effects with so many operations, all alike: a put of a key at 0, a value at 0.
fn effects(ops: u32, key: u32, value: u32) -> String {
    let (first, end) = (8_192, 8_192 + ops * 32);
    format!(
        "(local $at i32)
        (drop (memory.grow (i32.const 100)))
        (local.set $at (i32.const {first}))
        (loop $next
          (i32.store (i32.add (local.get $at) (i32.const 12)) (i32.const {key}))
          (i32.store (i32.add (local.get $at) (i32.const 20)) (i32.const {value}))
          (local.set $at (i32.add (local.get $at) (i32.const 32)))
          (br_if $next (i32.lt_u (local.get $at) (i32.const {end}))))
        (i32.store (i32.const 264) (i32.const {first}))
        (i32.store (i32.const 268) (i32.const {ops}))
        (i32.const 256)"
    )
}

#[tokio::test]
async fn a_huge_return_is_refused_by_its_measure() {
    let error = broken(&on_events(&effects(1_025, 1, 0))).await;
    assert!(matches!(
        error,
        CallError::Effects(EffectsRefused::TooMany { ops: 1_025 })
    ));
    let error = broken(&on_events(&effects(1, 1, 2 << 20))).await;
    assert!(matches!(
        error,
        CallError::Effects(EffectsRefused::TooLarge { .. })
    ));
    assert_eq!(error.disposition(), Disposition::Reject);
}

#[tokio::test]
async fn a_return_that_multiplies_on_the_host_is_cut_off_before_it_is_copied() {
    // A hundred operations that share one value of 6 MiB.
    let error = broken(&on_events(&effects(100, 1, 6 << 20))).await;
    assert!(matches!(error, CallError::Malformed(_)), "{error}");
    let error = broken(&on_events(&effects(150_000, 1, 0))).await;
    assert!(matches!(error, CallError::Malformed(_)), "{error}");
}

#[tokio::test]
async fn a_malformed_return_breaks_the_contract() {
    let discriminant = "(i32.store (i32.const 256) (i32.const 7)) (i32.const 256)";
    let beyond_memory = "(i32.const 0x7ffffff8)";
    let unaligned = "(i32.const 257)";
    let long_list = "(i32.store (i32.const 268) (i32.const -1)) (i32.const 256)";
    // reject, with a text of one byte that is no UTF-8
    let text = "(i32.store (i32.const 256) (i32.const 1)) (i32.store (i32.const 264) (i32.const 1))
        (i32.store (i32.const 272) (i32.const 512)) (i32.store (i32.const 276) (i32.const 1))
        (i32.store (i32.const 512) (i32.const 255)) (i32.const 256)";
    for body in [discriminant, beyond_memory, unaligned, long_list, text] {
        let error = broken(&on_events(body)).await;
        assert!(matches!(error, CallError::Malformed(_)), "{body}: {error}");
        assert_eq!(error.disposition(), Disposition::Fault);
    }
}

#[tokio::test]
async fn a_guest_that_misplaces_its_input_hurts_itself() {
    let beyond = Text {
        realloc: "(i32.const 0x7ffffff0)",
        ..Text::default()
    };
    let plugin = beyond.deploy().await;
    assert!(outcome(&plugin).await.is_err());
    let calls_out = Text {
        imports: LOG,
        realloc: "(call $log (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
            (i32.const 4096)",
        ..Text::default()
    };
    let plugin = calls_out.deploy().await;
    assert!(outcome(&plugin).await.is_err());
}

#[tokio::test]
async fn a_flood_of_host_calls_ends_the_call() {
    let text = Text {
        imports: LOG,
        on_events: "(loop $l
            (call $log (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
            (br $l)) (unreachable)",
        ..Text::default()
    };
    let plugin = text.deploy().await;
    let server = Arc::new(Server::default());
    let call = deliver(&plugin, &server, vec![]).await;
    assert!(matches!(
        call.result,
        Err(CallError::HostCalls { limit: 1_000 })
    ));
    assert_eq!(call.usage.host_calls, 1_000);
}

#[tokio::test]
async fn a_host_call_with_a_huge_text_is_cut_off_before_it_is_copied() {
    let text = Text {
        imports: LOG,
        memory: "100",
        on_events: "(call $log (i32.const 0) (i32.const 0) (i32.const 0)
                (i32.const 0) (i32.const 0x600000))
            (i32.const 256)",
        ..Text::default()
    };
    assert!(matches!(broken(&text).await, CallError::Malformed(_)));
}

#[tokio::test]
async fn a_bad_name_is_refused() {
    let text = Text {
        name: "../root",
        ..Text::default()
    };
    let refused = text.compile().await.expect_err("no name");
    assert!(matches!(refused, ComponentError::Name(_)));
}

#[tokio::test]
async fn a_component_does_not_choose_the_name_it_is_deployed_under() {
    let compiled = Text::default().compile().await.expect("a plugin");
    let mut named = draft("");
    named.name = Some("operators-choice".to_owned());
    let plugin = deploy(&compiled, &named);
    assert_eq!(plugin.manifest().name().as_str(), "operators-choice");
}

#[tokio::test]
async fn forbidden_imports_are_refused_by_name() {
    let Some(files) = component(Guest::Test("files")) else {
        return;
    };
    let refused = compile(files).await.expect_err("files and sockets");
    let ComponentError::ForbiddenImports { imports } = refused else {
        panic!("{refused}");
    };
    for wanted in ["wasi:filesystem/types@", "wasi:sockets/tcp@"] {
        assert!(
            imports.iter().any(|import| import.starts_with(wanted)),
            "{wanted} is not in {imports:?}"
        );
    }
}

#[tokio::test]
async fn what_is_no_watch_plugin_is_refused_by_reason() {
    let refused = async |text: &str| {
        let bytes: Arc<[u8]> = wat::parse_str(text).expect("well-formed").into();
        compile(bytes).await.expect_err("no watch plugin")
    };
    assert!(matches!(
        refused("(module)").await,
        ComponentError::CoreModule
    ));
    assert!(matches!(
        refused("(component)").await,
        ComponentError::NoWatcher { .. }
    ));
    assert!(matches!(
        refused(
            r#"(component (instance $i) (export "sealkv:hooks/admission@0.1.0" (instance $i)))"#
        )
        .await,
        ComponentError::Admission
    ));
    assert!(matches!(
        refused(
            r#"(component (instance $i)
                (export "sealkv:hooks/lifecycle@0.1.0" (instance $i))
                (export "sealkv:hooks/watcher@0.1.0" (instance $i)))"#
        )
        .await,
        ComponentError::Contract(_)
    ));
    assert!(matches!(
        refused(
            r#"(component (import "sealkv:hooks/kv@0.1.0" (instance (export "put" (func))))
                (instance $i)
                (export "sealkv:hooks/lifecycle@0.1.0" (instance $i))
                (export "sealkv:hooks/watcher@0.1.0" (instance $i)))"#
        )
        .await,
        ComponentError::Contract(_)
    ));
    let garbage: Arc<[u8]> = b"\0asm\x0d\0\x01\0garbage".as_slice().into();
    let refused = compile(garbage).await.expect_err("garbage");
    assert!(matches!(refused, ComponentError::Invalid(_)), "{refused}");
}

#[tokio::test]
async fn a_component_cut_anywhere_is_refused() {
    let whole = Text::default().component();
    for end in (0..whole.len()).step_by(97) {
        let refused = compile(whole[..end].into()).await;
        assert!(refused.is_err(), "cut at {end}");
    }
}

#[tokio::test]
async fn a_read_that_is_never_answered_ends_at_the_deadline() {
    let server = Server {
        reads: Reads::Never,
        ..Server::default()
    };
    let Some(error) = read_from(server).await else {
        return;
    };
    assert!(matches!(error, CallError::Deadline { .. }));
}

#[tokio::test]
async fn a_panic_on_the_servers_side_abandons_the_call() {
    let server = Server {
        reads: Reads::Panic,
        ..Server::default()
    };
    let Some(error) = read_from(server).await else {
        return;
    };
    assert!(matches!(error, CallError::Abandoned));
    assert_eq!(error.disposition(), Disposition::Abandoned);
}

async fn read_from(server: Server) -> Option<CallError> {
    let compiled = compiled(Guest::Test("misbehaving")).await?;
    let plugin = deploy(&compiled, &hurried(draft(r#"{"mode": "read"}"#)));
    let server: Arc<dyn HostCalls> = Arc::new(server);
    let call = plugin.on_events(batch(vec![]), server).await;
    let good = Text::default().deploy().await;
    let answer = deliver(&good, &Arc::default(), vec![]).await;
    assert!(answer.result.is_ok());
    call.result.err()
}

#[tokio::test]
async fn rust_that_panics_traps_and_says_why_on_the_plugins_log() {
    let Some(compiled) = compiled(Guest::Test("misbehaving")).await else {
        return;
    };
    let plugin = deploy(&compiled, &draft(r#"{"mode": "panic"}"#));
    let server = Arc::new(Server::default());
    let call = deliver(&plugin, &server, vec![]).await;
    let Err(CallError::Trap(trap)) = call.result else {
        panic!("a panic is a trap");
    };
    assert!(!trap.to_string().contains("a reason"));
    let lines = support::seen(&server.lines);
    assert!(lines.iter().any(|line| line.message.contains("a reason")));
}

#[tokio::test]
async fn rust_that_allocates_without_end_hits_its_memory() {
    if let Some(error) = misbehaving("allocate").await {
        assert!(matches!(error, CallError::Memory { .. }), "{error}");
    }
}

#[tokio::test]
async fn rust_that_sleeps_ends_at_the_deadline() {
    if let Some(error) = misbehaving("sleep").await {
        assert!(matches!(error, CallError::Deadline { .. }), "{error}");
    }
}

#[tokio::test]
async fn rust_that_exits_is_told_from_a_trap() {
    if let Some(error) = misbehaving("exit").await {
        assert!(matches!(error, CallError::Exit { .. }), "{error}");
    }
}

#[tokio::test]
async fn effects_outside_the_write_prefixes_are_refused() {
    for mode in ["outside", "outside-range"] {
        if let Some(error) = misbehaving(mode).await {
            assert!(matches!(
                error,
                CallError::Effects(EffectsRefused::OutsideWritePrefixes { op: 0 })
            ));
        }
    }
}
