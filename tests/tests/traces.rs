//! Spans of clients' calls, as a collector receives them.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::kv_client::KvClient;
use tests::cluster::{Cluster, Program};
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

struct Collector(mpsc::UnboundedSender<ResourceSpans>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for spans in request.into_inner().resource_spans {
            let _ = self.0.send(spans);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector() -> (SocketAddr, mpsc::UnboundedReceiver<ResourceSpans>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    let service = TraceServiceServer::new(Collector(sender));
    let incoming = TcpListenerStream::new(listener);
    let serving = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(incoming);
    tokio::spawn(serving);
    (address, receiver)
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

const TRACE: [u8; 16] = [
    0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c,
];
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// With a rate of 0 only clients that ask for it are traced.
#[tokio::test]
async fn a_call_that_belongs_to_a_trace_is_reported_without_what_it_says() {
    let (address, mut received) = collector().await;
    let cluster = Cluster::plan()
        .program(Program::Sealkv)
        .flag("--enable-distributed-tracing")
        .flag(format!("--distributed-tracing-address={address}"))
        .flag("--distributed-tracing-service-name=store")
        .flag("--distributed-tracing-instance-id=m1")
        .start()
        .await;
    let endpoint = format!("http://127.0.0.1:{}", cluster.members[0].client_port);
    let mut kv = KvClient::connect(endpoint).await.unwrap();
    let put = pb::PutRequest {
        key: "secret-key".into(),
        value: "secret-value".into(),
        ..Default::default()
    };
    kv.put(put.clone()).await.unwrap();
    let mut traced = Request::new(put);
    traced
        .metadata_mut()
        .insert("traceparent", PARENT.parse().unwrap());
    kv.put(traced).await.unwrap();
    let mut refused = Request::new(pb::CompactionRequest {
        revision: 1000,
        ..Default::default()
    });
    refused
        .metadata_mut()
        .insert("traceparent", PARENT.parse().unwrap());
    kv.compact(refused).await.unwrap_err();

    let mut spans: Vec<Span> = Vec::new();
    while spans.len() < 2 {
        let batch = received.recv().await.unwrap();
        let bytes = batch.encode_to_vec();
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
        let resource = batch.resource.unwrap().attributes;
        assert_eq!(text(&resource, "service.name"), Some("store"));
        assert_eq!(text(&resource, "service.instance.id"), Some("m1"));
        spans.extend(batch.scope_spans.into_iter().flat_map(|scope| scope.spans));
    }
    let found: Vec<_> = spans
        .iter()
        .map(|span| {
            assert_eq!(span.trace_id, TRACE);
            assert_eq!(span.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
            assert_eq!(text(&span.attributes, "rpc.system.name"), Some("grpc"));
            assert_eq!(text(&span.attributes, "rpc.method"), Some(&*span.name));
            let code = text(&span.attributes, "rpc.response.status_code");
            (span.name.as_str(), code.unwrap())
        })
        .collect();
    assert_eq!(
        found,
        [
            ("etcdserverpb.KV/Put", "OK"),
            ("etcdserverpb.KV/Compact", "OUT_OF_RANGE")
        ]
    );
}
