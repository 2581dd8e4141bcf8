//! Well-behaved plugins: what they are told, what they may ask, what comes back.

mod support;

use std::sync::Arc;

use plugins::testing::{Guest, component};
use plugins::{
    CallError, Cause, Compiled, ComponentError, Digest, Event, EventType, Host, HostCalls,
    HostConfig, KeyValue, LogLevel, ManifestDraft, Op, Plugin, Position, Registry, SettingsError,
    limits,
};

use support::{Server, batch, compiled, deliver, deploy, draft, kv, put, put_op, seen};

async fn misbehaving() -> Option<Compiled> {
    compiled(Guest::Test("misbehaving")).await
}

fn mode(compiled: &Compiled, mode: &str) -> Plugin {
    deploy(compiled, &draft(&format!(r#"{{"mode": "{mode}"}}"#)))
}

#[tokio::test]
async fn hello_world_describes_itself_and_logs() {
    let Some(hello) = compiled(Guest::Example("hello")).await else {
        return;
    };
    assert_eq!(hello.describe().name, "hello");
    assert_eq!(hello.describe().version, "0.1.0");
    let logging = "sealkv:hooks/logging@0.1.0";
    assert!(hello.imports().iter().any(|import| import == logging));
    let server = Arc::new(Server::default());
    let plugin = deploy(&hello, &draft(""));
    let call = deliver(&plugin, &server, vec![put("/in/a", "1"), put("/in/b", "2")]).await;
    assert!(call.result.expect("no effects").ops.is_empty());
    assert!(call.usage.memory_bytes > 0 && call.usage.host_calls == 1);
    let [line] = &seen(&server.lines)[..] else {
        panic!("one line");
    };
    assert_eq!(
        (line.level, line.message.as_str()),
        (LogLevel::Info, "2 events")
    );
}

#[tokio::test]
async fn events_go_in_and_effects_come_out() {
    let Some(compiled) = misbehaving().await else {
        return;
    };
    let plugin = mode(&compiled, "copy");
    let call = deliver(&plugin, &Arc::default(), vec![put("/in/a", "1")]).await;
    assert_eq!(
        call.result.expect("effects").ops,
        [put_op("/out/in/a", "1", 0)]
    );
}

#[tokio::test]
async fn nothing_is_remembered_from_one_call_to_the_next() {
    let Some(compiled) = misbehaving().await else {
        return;
    };
    let plugin = mode(&compiled, "remember");
    for _ in 0..2 {
        let call = deliver(&plugin, &Arc::default(), vec![]).await;
        assert_eq!(
            call.result.expect("effects").ops,
            [put_op("/out/calls", "1", 0)]
        );
    }
}

#[tokio::test]
async fn reads_reach_the_server_inside_the_prefixes_only() {
    let Some(compiled) = misbehaving().await else {
        return;
    };
    let server = Arc::new(Server {
        records: vec![kv("/in/", "1"), kv("/elsewhere/", "2")],
        ..Server::default()
    });
    let call = deliver(&mode(&compiled, "read"), &server, vec![]).await;
    assert_eq!(
        call.result.expect("effects").ops,
        [
            put_op("/out/in", "1", 0),
            put_op("/out/elsewhere", "Error::PermissionDenied", 0),
            put_op("/out/lease", "Ok(70)", 0),
        ]
    );
    let [asked] = &seen(&server.asked)[..] else {
        panic!("one read reached the server");
    };
    assert_eq!(asked.key, b"/in/");
    assert_eq!(asked.rows_max, limits::RANGE_ROWS_MAX);
    assert_eq!(asked.bytes_max, limits::RANGE_BYTES_MAX);
}

#[tokio::test]
async fn a_flood_of_log_lines_is_thinned_and_counted() {
    let Some(compiled) = misbehaving().await else {
        return;
    };
    let server = Arc::new(Server::default());
    let call = deliver(&mode(&compiled, "log"), &server, vec![]).await;
    assert!(call.result.is_ok());
    let passed = seen(&server.lines).len();
    assert!(passed >= 100, "the bucket was full at first");
    assert_eq!(passed + call.usage.log_lines_dropped as usize, 500);
}

#[tokio::test]
async fn metric_series_stop_at_their_limit() {
    let Some(compiled) = misbehaving().await else {
        return;
    };
    let server = Arc::new(Server::default());
    let call = deliver(&mode(&compiled, "series"), &server, vec![]).await;
    assert!(call.result.is_ok());
    assert_eq!(seen(&server.metrics).len(), limits::METRIC_SERIES_MAX);
}

#[tokio::test]
async fn printing_without_end_harms_nobody() {
    let Some(compiled) = misbehaving().await else {
        return;
    };
    let server = Arc::new(Server::default());
    let call = deliver(&mode(&compiled, "print"), &server, vec![]).await;
    assert!(call.result.is_ok());
    assert_eq!(seen(&server.lines).len(), 1);
}

#[tokio::test]
async fn a_handlers_own_words_come_back() {
    let Some(compiled) = misbehaving().await else {
        return;
    };
    let call = deliver(&mode(&compiled, "retry"), &Arc::default(), vec![]).await;
    let Err(CallError::Retry { message, after }) = call.result else {
        panic!("it asks for a retry");
    };
    assert_eq!(
        (message.as_str(), after),
        ("later", Some(limits::RETRY_AFTER_MAX))
    );
    let call = deliver(&mode(&compiled, "reject"), &Arc::default(), vec![]).await;
    assert!(matches!(call.result, Err(CallError::Reject { message }) if message == "never"));
}

#[tokio::test]
async fn settings_are_validated_with_nothing_granted() {
    let Some(compiled) = misbehaving().await else {
        return;
    };
    let validate = async |name: &str| {
        let server: Arc<dyn HostCalls> = Arc::new(Server::default());
        mode(&compiled, name).validate_settings(server).await
    };
    assert!(validate("copy").await.is_ok());
    assert!(matches!(
        validate("refuse").await,
        Err(SettingsError::Refused { message }) if message == "18 bytes of settings"
    ));
    assert!(matches!(
        validate("read").await,
        Err(SettingsError::Refused { message }) if message == "Error::PermissionDenied"
    ));
    assert!(matches!(
        validate("panic").await,
        Err(SettingsError::Call(CallError::Trap(_)))
    ));
}

#[tokio::test]
async fn a_component_is_compiled_once_and_forgotten_when_it_is_not_deployed() {
    let Some(bytes) = component(Guest::Example("hello")) else {
        return;
    };
    let registry = Registry::new(Host::new(&HostConfig::default()).expect("the engine runs here"));
    let digest = Digest::of(&bytes);
    assert!(registry.get(digest).is_none());
    let (one, two) = tokio::join!(
        registry.compile(Arc::clone(&bytes)),
        registry.compile(Arc::clone(&bytes))
    );
    assert_eq!(
        one.expect("compiles").digest(),
        two.expect("compiles").digest()
    );
    assert!(registry.get(digest).is_some());
    let refused = registry.compile(b"nothing".as_slice().into()).await;
    assert!(matches!(refused, Err(ComponentError::NotWasm)));
    assert!(registry.get(Digest::of(b"nothing")).is_none());
    registry.retain(|_| false);
    assert!(registry.get(digest).is_none());
}

fn index_draft() -> ManifestDraft {
    ManifestDraft {
        watch_prefixes: vec![b"/services/".to_vec()],
        write_prefixes: vec![b"/index/".to_vec()],
        prev_kv: true,
        ..ManifestDraft::default()
    }
}

fn registration(host: &str, lease: i64) -> KeyValue {
    KeyValue {
        version: 2,
        lease,
        ..kv(
            "/services/web/1",
            &format!(r#"{{"host": "{host}", "port": 80}}"#),
        )
    }
}

#[tokio::test]
async fn the_index_follows_registrations() {
    let Some(index) = compiled(Guest::Bundled("index")).await else {
        return;
    };
    let plugin = deploy(&index, &index_draft());
    assert_eq!(plugin.manifest().name().as_str(), "index");
    let server: Arc<dyn HostCalls> = Arc::new(Server::default());
    plugin
        .validate_settings(server)
        .await
        .expect("the defaults are valid");
    let moved = Event {
        event_type: EventType::Put,
        kv: registration("b", 7),
        prev_kv: Some(registration("a", 7)),
        cause: Cause::Client,
    };
    let call = deliver(&plugin, &Arc::default(), vec![moved]).await;
    let removed = Op::DeleteRange {
        key: b"/index/a/web/1".to_vec(),
        range_end: Vec::new(),
    };
    let put = put_op("/index/b/web/1", "/services/web/1", 7);
    assert_eq!(call.result.expect("effects").ops, [removed, put]);
    let poison = vec![support::put("/services/web/1", "no JSON")];
    let call = deliver(&plugin, &Arc::default(), poison).await;
    assert!(matches!(call.result, Err(CallError::Reject { .. })));
}

#[tokio::test]
async fn the_index_is_reconciled_at_the_end_of_a_snapshot() {
    let Some(index) = compiled(Guest::Bundled("index")).await else {
        return;
    };
    let plugin = deploy(&index, &index_draft());
    let server: Arc<dyn HostCalls> = Arc::new(Server {
        records: vec![
            kv("/index/gone/web/9", "/services/web/9"),
            registration("a", 0),
        ],
        ..Server::default()
    });
    let mut page = batch(vec![Event {
        event_type: EventType::Put,
        kv: registration("a", 0),
        prev_kv: None,
        cause: Cause::Snapshot,
    }]);
    page.position = Position::Snapshot {
        revision: 9,
        last_key: b"/services/web/1".to_vec(),
    };
    let ops = plugin
        .on_events(page, server)
        .await
        .result
        .expect("effects")
        .ops;
    let removed = Op::DeleteRange {
        key: b"/index/gone/web/9".to_vec(),
        range_end: Vec::new(),
    };
    let put = put_op("/index/a/web/1", "/services/web/1", 0);
    assert_eq!(ops, [put, removed]);
}

#[tokio::test]
async fn bad_index_settings_are_refused_at_deploy() {
    let Some(index) = compiled(Guest::Bundled("index")).await else {
        return;
    };
    let mut bad = index_draft();
    bad.settings_json = r#"{"index_prefix": "/index"}"#.to_owned();
    let server: Arc<dyn HostCalls> = Arc::new(Server::default());
    let refused = deploy(&index, &bad).validate_settings(server).await;
    assert!(matches!(refused, Err(SettingsError::Refused { .. })));
}
