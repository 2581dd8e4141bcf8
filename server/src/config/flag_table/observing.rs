//! What a member tells of itself.

use super::Group::{Logging, Monitoring, Tracing};
use super::Kind::{Bool, Duration, Signed, Text};
use super::{FlagSpec, works};

pub(super) const FLAGS: &[FlagSpec] = &[
    works(
        Monitoring,
        Bool,
        "enable-pprof",
        "false",
        "Serve a profile of the processor's time on the client URLs under /debug/pprof/profile, for \
         go tool pprof; Go's other profiles answer 501.",
    ),
    works(
        Monitoring,
        Text,
        "metrics",
        "basic",
        "Set level of detail for exported metrics; extensive includes how long gRPC calls take.",
    ),
    works(
        Monitoring,
        Text,
        "listen-metrics-urls",
        "",
        "List of URLs to listen on for the /metrics and /health endpoints, besides the client URLs.",
    ),
    works(
        Logging,
        Text,
        "log-level",
        "info",
        "Log level: debug, info, warn, error, panic or fatal.",
    ),
    works(
        Logging,
        Text,
        "log-format",
        "json",
        "Log format: json, or console for people.",
    ),
    works(
        Logging,
        Text,
        "log-outputs",
        "default",
        "Where the log goes: default (stderr), or a list of stderr, stdout and files, or \
         systemd/journal alone.",
    ),
    works(
        Logging,
        Text,
        "logger",
        "zap",
        "The form of the log's lines; only etcd's, zap.",
    ),
    works(
        Logging,
        Bool,
        "enable-log-rotation",
        "false",
        "Set the one file among --log-outputs aside when it is full.",
    ),
    works(
        Logging,
        Text,
        "log-rotation-config-json",
        "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \
         \"compress\": false}",
        "When (maxsize in MB) and for how long (maxage in days, maxbackups in files; 0: for ever), \
         and whether compressed (gzip).",
    ),
    works(
        Logging,
        Duration,
        "warning-apply-duration",
        "100ms",
        "Log a warning when applying a request takes longer than this.",
    ),
    works(
        Logging,
        Duration,
        "warning-unary-request-duration",
        "300ms",
        "Log a warning when a unary request takes longer than this.",
    ),
    works(
        Tracing,
        Bool,
        "enable-distributed-tracing",
        "false",
        "Send a span for each sampled call to an OpenTelemetry collector: method, times and code, \
         never keys or values.",
    ),
    works(
        Tracing,
        Text,
        "distributed-tracing-address",
        "localhost:4317",
        "Host and port of the collector, which is spoken to by OTLP over gRPC without TLS.",
    ),
    works(
        Tracing,
        Text,
        "distributed-tracing-service-name",
        "etcd",
        "Service name of the spans, the same for all members.",
    ),
    works(
        Tracing,
        Text,
        "distributed-tracing-instance-id",
        "",
        "Instance id of the spans, another one for each member.",
    ),
    works(
        Tracing,
        Signed,
        "distributed-tracing-sampling-rate",
        "0",
        "Calls out of a million that are sampled when their client has not decided by itself.",
    ),
];
