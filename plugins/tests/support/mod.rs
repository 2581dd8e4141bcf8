//! What the tests of the host share: a server that records, batches, guests as text.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use plugins::testing::{Guest, component};
use plugins::{
    Batch, Call, Cause, Compiled, ComponentError, Effects, Event, EventType, Host, HostCalls,
    HostConfig, HostFuture, KeyValue, LimitsDraft, LogLine, Manifest, ManifestDraft, Metric, Op,
    Plugin, Position, RangeRequest, RangeResponse, ReadError, Registry,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// For guests that are to miss it.
pub(crate) const SHORT_DEADLINE: Duration = Duration::from_millis(200);
/// For all others: longer than a busy machine takes.
const LONG_DEADLINE: Duration = Duration::from_secs(20);

/// One host, with one thread, for all tests of a process: whatever a guest leaves broken,
/// the next test finds. It compiles each guest once.
fn registry() -> &'static Registry {
    static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
        let host = Host::new(&HostConfig { threads: 1 });
        Registry::new(host.expect("the engine runs here"))
    });
    &REGISTRY
}

/// How the server's side answers reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reads {
    #[default]
    Answer,
    Never,
    Panic,
}

/// Remembers what a plugin asked of it.
#[derive(Default)]
pub(crate) struct Server {
    pub(crate) reads: Reads,
    pub(crate) records: Vec<KeyValue>,
    pub(crate) asked: Mutex<Vec<RangeRequest>>,
    pub(crate) lines: Mutex<Vec<LogLine>>,
    pub(crate) metrics: Mutex<Vec<Metric>>,
}

pub(crate) fn seen<T: Clone>(list: &Mutex<Vec<T>>) -> Vec<T> {
    list.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl HostCalls for Server {
    fn range(&self, request: RangeRequest) -> HostFuture<'_, Result<RangeResponse, ReadError>> {
        Box::pin(async move {
            match self.reads {
                Reads::Answer => {}
                Reads::Never => std::future::pending().await,
                Reads::Panic => panic!("a test's own panic"),
            }
            let inside = |kv: &&KeyValue| {
                kv.key == request.key || (kv.key > request.key && kv.key < request.range_end)
            };
            let kvs: Vec<_> = self.records.iter().filter(inside).cloned().collect();
            self.asked.lock().expect("no panic holds it").push(request);
            Ok(RangeResponse {
                count: kvs.len() as u64,
                kvs,
                more: false,
                revision: 9,
            })
        })
    }

    fn time_to_live(&self, lease: i64) -> HostFuture<'_, Result<i64, ReadError>> {
        Box::pin(async move { Ok(lease * 10) })
    }

    fn log(&self, line: LogLine) {
        self.lines.lock().expect("no panic holds it").push(line);
    }

    fn metric(&self, metric: Metric) {
        self.metrics.lock().expect("no panic holds it").push(metric);
    }
}

pub(crate) fn kv(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.into(),
        create_revision: 3,
        mod_revision: 3,
        version: 1,
        value: Some(value.into()),
        lease: 0,
    }
}

pub(crate) fn put(key: &str, value: &str) -> Event {
    Event {
        event_type: EventType::Put,
        kv: kv(key, value),
        prev_kv: None,
        cause: Cause::Client,
    }
}

pub(crate) fn batch(events: Vec<Event>) -> Batch {
    Batch {
        events,
        position: Position::Changes {
            revision: 3,
            sub_revision: 0,
        },
        is_final: true,
        attempt: 1,
    }
}

pub(crate) fn put_op(key: &str, value: &str, lease: i64) -> Op {
    Op::Put {
        key: key.into(),
        value: value.into(),
        lease,
    }
}

/// Watches `/in/`, writes `/out/`.
pub(crate) fn draft(settings: &str) -> ManifestDraft {
    ManifestDraft {
        watch_prefixes: vec![b"/in/".to_vec()],
        write_prefixes: vec![b"/out/".to_vec()],
        settings_json: settings.to_owned(),
        limits: LimitsDraft {
            on_events_deadline: Some(LONG_DEADLINE),
            ..LimitsDraft::default()
        },
        ..ManifestDraft::default()
    }
}

pub(crate) fn hurried(draft: ManifestDraft) -> ManifestDraft {
    ManifestDraft {
        limits: LimitsDraft {
            on_events_deadline: Some(SHORT_DEADLINE),
            ..draft.limits
        },
        ..draft
    }
}

pub(crate) fn deploy(compiled: &Compiled, draft: &ManifestDraft) -> Plugin {
    let name = &compiled.describe().name;
    let manifest = Manifest::parse(draft, name, compiled.digest()).expect("a valid manifest");
    Plugin::new(compiled.clone(), manifest)
}

pub(crate) async fn deliver(
    plugin: &Plugin,
    server: &Arc<Server>,
    events: Vec<Event>,
) -> Call<Effects> {
    let server: Arc<dyn HostCalls> = server.clone();
    plugin.on_events(batch(events), server).await
}

pub(crate) async fn compile(component: Arc<[u8]>) -> Result<Compiled, ComponentError> {
    registry().compile(component).await
}

/// A guest of the repository, or `None` where it cannot be built.
pub(crate) async fn compiled(guest: Guest) -> Option<Compiled> {
    let compiled = compile(component(guest)?).await;
    Some(compiled.expect("a guest of the repository compiles"))
}

/// A guest written as WebAssembly text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    /// Core imports, in front of everything else.
    pub(crate) imports: &'a str,
    pub(crate) memory: &'a str,
    /// More fields of the module.
    pub(crate) fields: &'a str,
    /// 7 bytes.
    pub(crate) name: &'a str,
    pub(crate) realloc: &'a str,
    /// Leaves the address of the answer.
    pub(crate) on_events: &'a str,
}

impl Default for Text<'_> {
    fn default() -> Self {
        Text {
            imports: "",
            memory: "2",
            fields: "",
            name: "hostile",
            realloc: "(global.get $next)
                (global.set $next (i32.and (i32.const -8)
                    (i32.add (i32.const 7) (i32.add (global.get $next) (local.get 3)))))",
            on_events: "(i32.const 256)",
        }
    }
}

impl Text<'_> {
    /// The component. An answer at address 256 is "no effects": all zero.
    pub(crate) fn component(&self) -> Arc<[u8]> {
        let Text {
            imports,
            memory,
            fields,
            name,
            realloc,
            on_events,
        } = self;
        assert_eq!(name.len(), 7, "the descriptor below says so");
        let mut module = wat::parse_str(format!(
            r#"(module
              {imports}
              (memory (export "memory") {memory})
              (global $next (mut i32) (i32.const 4096))
              (data (i32.const 0) "{name}")
              (data (i32.const 64)
                "\00\00\00\00\07\00\00\00" "\00\00\00\00\01\00\00\00"
                "\00\00\00\00\00\00\00\00" "\00\00\00\00\00\00\00\00")
              {fields}
              (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {realloc})
              (func (export "sealkv:hooks/lifecycle@0.1.0#describe") (result i32) (i32.const 64))
              (func (export "sealkv:hooks/lifecycle@0.1.0#validate-settings")
                (param i32 i32) (result i32) (i32.const 128))
              (func (export "sealkv:hooks/watcher@0.1.0#on-events")
                (param i32 i32 i32 i64 i32 i32 i32 i32) (result i32) {on_events}))"#
        ))
        .expect("the text is well-formed");
        let mut resolve = Resolve::default();
        let wit = concat!(env!("CARGO_MANIFEST_DIR"), "/wit/v0.1.0");
        let (package, _) = resolve.push_dir(wit).expect("the contract parses");
        let world = resolve
            .select_world(&[package], Some("watch-plugin"))
            .expect("the contract has the world");
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
            .expect("the module takes metadata");
        let encoder = ComponentEncoder::default().module(&module);
        let component = encoder.and_then(|mut encoder| encoder.encode());
        component.expect("the module fits the world").into()
    }

    pub(crate) async fn compile(&self) -> Result<Compiled, ComponentError> {
        compile(self.component()).await
    }

    pub(crate) async fn deploy(&self) -> Plugin {
        let compiled = self.compile().await.expect("the text is a plugin");
        deploy(&compiled, &draft(""))
    }

    /// With a deadline that a guest which does not end misses soon.
    pub(crate) async fn deploy_hurried(&self) -> Plugin {
        let compiled = self.compile().await.expect("the text is a plugin");
        deploy(&compiled, &hurried(draft("")))
    }
}
