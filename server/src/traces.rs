//! `--enable-distributed-tracing`: one span for each call of a client's, sent to a collector by
//! OTLP over gRPC.
//!
//! Promise: a span carries its method, when it began and ended and its code, and never what was
//! asked or answered: no key, value, token or text of an error. A client's `traceparent` decides
//! whether it is sampled and what it is a part of. A collector that is slow or gone loses spans and
//! holds up nobody. When it is off it costs one load of a pointer.
//! Not known here: calls, connections.
//!
//! Source: etcd 3.7.1, `server/embed/config_tracing.go`, and otelgrpc 0.68 for the attributes.

use std::sync::OnceLock;
use std::time::Duration;

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{Span as _, SpanKind, Status, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span};
use tonic::Code;

use crate::config::{SAMPLES_PER, Tracing};

/// What a stop may take to send what is left.
const LAST_WORDS: Duration = Duration::from_millis(300);
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

#[derive(Debug, thiserror::Error)]
#[error("--distributed-tracing-address: {0}")]
pub struct TracesError(#[from] ExporterBuildError);

/// Sends spans for as long as the process serves.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Within a tokio runtime, which the connection to the collector lives in. It is made when
    /// there is something to send.
    pub fn start(tracing: &Tracing) -> Result<Self, TracesError> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            // As in etcd there is no TLS to a collector, which is thought to be beside the member.
            .with_endpoint(format!("http://{}", tracing.address))
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let mut attributes = vec![KeyValue::new("service.name", tracing.service_name.clone())];
        let instance = tracing.instance_id.clone();
        attributes.extend(instance.map(|id| KeyValue::new("service.instance.id", id)));
        let resource = Resource::builder_empty().with_attributes(attributes);
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .with_sampler(sampler(tracing.samples_per_million))
            .build();
        let _ = TRACER.set(provider.tracer("sealkv"));
        tracing::debug!(
            address = tracing.address,
            service_name = tracing.service_name,
            service_instance_id = tracing.instance_id.as_deref().unwrap_or_default(),
            sampling_rate = tracing.samples_per_million,
            "distributed tracing enabled"
        );
        Ok(Self(provider))
    }

    /// Sends what is left, or gives up on it.
    pub async fn stop(self) {
        let stopped = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(LAST_WORDS));
        if let Ok(Err(error)) = stopped.await {
            tracing::debug!(%error, "spans were lost");
        }
    }
}

/// What a client has decided about its trace holds.
fn sampler(samples_per_million: u32) -> Sampler {
    let own = match samples_per_million {
        0 => Sampler::AlwaysOff,
        samples => Sampler::TraceIdRatioBased(f64::from(samples) / f64::from(SAMPLES_PER)),
    };
    Sampler::ParentBased(Box::new(own))
}

/// A call under way.
#[derive(Debug)]
pub struct CallSpan(Span);

impl CallSpan {
    /// `path` is that of a method that is known, with its slash in front; nothing if tracing is
    /// off.
    pub fn begin(path: &'static str, headers: &HeaderMap) -> Option<Self> {
        TRACER.get().map(|tracer| Self::of(tracer, path, headers))
    }

    fn of(tracer: &SdkTracer, path: &'static str, headers: &HeaderMap) -> Self {
        let parent =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &Metadata(headers));
        let name = path.trim_start_matches('/');
        let builder = tracer
            .span_builder(name)
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("rpc.system.name", "grpc"),
                KeyValue::new("rpc.method", name),
            ]);
        Self(tracer.build_with_context(builder, &parent))
    }

    pub fn end(mut self, code: Code) {
        let status = KeyValue::new("rpc.response.status_code", code_name(code));
        self.0.set_attribute(status);
        if is_servers_fault(code) {
            self.0.set_status(Status::error(""));
        }
        self.0.end();
    }
}

struct Metadata<'a>(&'a HeaderMap);

impl Extractor for Metadata<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

fn is_servers_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// As gRPC's specification spells it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUT: &str = "/etcdserverpb.KV/Put";

    fn tracer(samples_per_million: u32) -> SdkTracer {
        SdkTracerProvider::builder()
            .with_sampler(sampler(samples_per_million))
            .build()
            .tracer("test")
    }

    fn headers(traceparent: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", traceparent.parse().unwrap());
        headers
    }

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn a_clients_trace_is_gone_on_with_as_it_decided() {
        for (rate, flags, sampled) in [(0, "01", true), (SAMPLES_PER, "00", false)] {
            let parent = headers(&format!("00-{TRACE}-b7ad6b7169203331-{flags}"));
            let span = CallSpan::of(&tracer(rate), PUT, &parent);
            let context = span.0.span_context().clone();
            assert_eq!(context.is_sampled(), sampled);
            assert_eq!(context.trace_id().to_string(), TRACE);
        }
    }

    #[test]
    fn without_a_parent_the_rate_decides() {
        for (rate, sampled) in [(0, false), (SAMPLES_PER, true)] {
            for parent in [HeaderMap::new(), headers("00-nonsense")] {
                let span = CallSpan::of(&tracer(rate), PUT, &parent);
                assert_eq!(span.0.span_context().is_sampled(), sampled);
            }
        }
    }
}
