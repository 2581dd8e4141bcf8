//! Every flag, once: how it is written, what it stands for here, what help says about it.
//!
//! Promise: each flag of etcd 3.7.1 is in the table, so that none is unknown by accident; what a
//! flag does not do here is said by its [`Standing`], never by silence.
//! Not known here: parsing, and the values that flags end up with.

/// How the value of a flag is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Needs no value; `--flag=false` turns it off.
    Bool,
    Unsigned,
    Signed,
    Duration,
    /// `NAME=BOOL,NAME=BOOL…`; each occurrence adds to those before.
    Gates,
}

/// What becomes of a flag in this release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does what help says.
    Effective,
    /// It cannot mean anything in this server; taken with one warning that names it.
    Meaningless,
    /// Refused by name, unless its value is the one that this release behaves by anyway.
    Absent { unless: &'static str },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Member,
    Keys,
    Clustering,
    Security,
    Auth,
    Monitoring,
    Logging,
    Tracing,
    Features,
    Unsafe,
}

impl Group {
    pub const ALL: [Self; 10] = [
        Self::Member,
        Self::Keys,
        Self::Clustering,
        Self::Security,
        Self::Auth,
        Self::Monitoring,
        Self::Logging,
        Self::Tracing,
        Self::Features,
        Self::Unsafe,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::Member => "Member",
            Self::Keys => "Encryption at rest",
            Self::Clustering => "Clustering",
            Self::Security => "Security",
            Self::Auth => "Auth",
            Self::Monitoring => "Profiling and monitoring",
            Self::Logging => "Logging",
            Self::Tracing => "Distributed tracing",
            Self::Features => "Features",
            Self::Unsafe => "Unsafe",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct FlagSpec {
    pub name: &'static str,
    pub group: Group,
    pub kind: Kind,
    /// As shown by help; empty when there is none.
    pub default: &'static str,
    pub standing: Standing,
    pub help: &'static str,
}

pub(super) fn find(name: &str) -> Option<&'static FlagSpec> {
    FLAGS.iter().find(|flag| flag.name == name)
}

const fn works(
    group: Group,
    kind: Kind,
    name: &'static str,
    default: &'static str,
    help: &'static str,
) -> FlagSpec {
    FlagSpec {
        name,
        group,
        kind,
        default,
        standing: Standing::Effective,
        help,
    }
}

const fn meaningless(group: Group, kind: Kind, name: &'static str) -> FlagSpec {
    FlagSpec {
        name,
        group,
        kind,
        default: "",
        standing: Standing::Meaningless,
        help: "",
    }
}

const fn absent(group: Group, kind: Kind, name: &'static str, unless: &'static str) -> FlagSpec {
    FlagSpec {
        name,
        group,
        kind,
        default: unless,
        standing: Standing::Absent { unless },
        help: "",
    }
}

use Group::{
    Auth, Clustering, Features, Keys, Logging, Member, Monitoring, Security, Tracing, Unsafe,
};
use Kind::{Bool, Duration, Gates, Signed, Text, Unsigned};

pub const FLAGS: &[FlagSpec] = &[
    works(
        Member,
        Text,
        "name",
        "default",
        "Human-readable name for this member.",
    ),
    works(
        Member,
        Text,
        "data-dir",
        "${name}.sealkv",
        "Path to the data directory.",
    ),
    works(
        Member,
        Text,
        "wal-dir",
        "",
        "Path to the directory of the raft log; the data directory keeps a link to it. It is chosen \
         at the first start.",
    ),
    works(
        Member,
        Unsigned,
        "snapshot-count",
        "10000",
        "Number of committed transactions to trigger a snapshot.",
    ),
    works(
        Member,
        Unsigned,
        "snapshot-catchup-entries",
        "5000",
        "Number of log entries kept behind a snapshot for a slow follower to catch up with.",
    ),
    works(
        Member,
        Unsigned,
        "heartbeat-interval",
        "100",
        "Time (in milliseconds) of a heartbeat interval.",
    ),
    works(
        Member,
        Unsigned,
        "election-timeout",
        "1000",
        "Time (in milliseconds) for an election to timeout; at least 5 heartbeats, at most 50000.",
    ),
    meaningless(Member, Bool, "initial-election-tick-advance"),
    works(
        Member,
        Text,
        "listen-peer-urls",
        "http://localhost:2380",
        "List of URLs to listen on for peer traffic.",
    ),
    works(
        Member,
        Text,
        "listen-client-urls",
        "http://localhost:2379",
        "List of URLs to listen on for client traffic, gRPC and HTTP on one port (http, https, unix, unixs).",
    ),
    works(
        Member,
        Text,
        "listen-client-http-urls",
        "",
        "List of URLs to listen on for http-only client traffic; the client URLs then serve gRPC \
         alone.",
    ),
    meaningless(Member, Unsigned, "max-snapshots"),
    meaningless(Member, Unsigned, "max-wals"),
    works(
        Member,
        Bool,
        "memory-mlock",
        "false",
        "Keep all memory of this process out of swap; needs no limit on locked memory.",
    ),
    works(
        Member,
        Signed,
        "quota-backend-bytes",
        "0",
        "Raise the NOSPACE alarm when the stored data exceeds this many bytes (0 is 2 GiB, \
         negative is no quota).",
    ),
    meaningless(Member, Text, "backend-bbolt-freelist-type"),
    meaningless(Member, Duration, "backend-batch-interval"),
    meaningless(Member, Signed, "backend-batch-limit"),
    works(
        Member,
        Unsigned,
        "max-txn-ops",
        "128",
        "Maximum number of operations permitted in a transaction.",
    ),
    works(
        Member,
        Unsigned,
        "max-request-bytes",
        "1572864",
        "Maximum client request size in bytes the server will accept.",
    ),
    works(
        Member,
        Unsigned,
        "max-concurrent-streams",
        "4294967295",
        "Maximum concurrent streams that each client can open at a time.",
    ),
    works(
        Member,
        Duration,
        "grpc-keepalive-min-time",
        "5s",
        "Minimum interval at which a client may ping; one that pings more often is sent away.",
    ),
    works(
        Member,
        Duration,
        "grpc-keepalive-interval",
        "2h",
        "Frequency of server-to-client pings to check if a connection is alive (0 to disable).",
    ),
    works(
        Member,
        Duration,
        "grpc-keepalive-timeout",
        "20s",
        "How long a ping may stay unanswered before the connection is closed.",
    ),
    works(
        Member,
        Bool,
        "socket-reuse-port",
        "false",
        "Set SO_REUSEPORT on listeners, so that several processes may share a port.",
    ),
    meaningless(Member, Bool, "socket-reuse-address"),
    works(
        Member,
        Bool,
        "enable-grpc-gateway",
        "true",
        "Serve the JSON gateway under /v3/.",
    ),
    meaningless(Member, Duration, "raft-read-timeout"),
    meaningless(Member, Duration, "raft-write-timeout"),
    works(
        Member,
        Gates,
        "feature-gates",
        "",
        "Comma-separated NAME=BOOL: CompactHashCheck, InitialCorruptCheck, PriorityRequest, \
         SetMemberLocalAddr, StopGRPCServiceOnDefrag, AllAlpha, AllBeta. LeaseCheckpoint, \
         LeaseCheckpointPersist, FastLeaseKeepAlive and TxnModeWriteWithSharedBuffer are always on.",
    ),
    works(
        Member,
        Text,
        "config-file",
        "",
        "Path to a YAML file with etcd's keys; flags and variables beside it are ignored.",
    ),
    works(
        Keys,
        Text,
        "key-provider",
        "file",
        "What protects the root of the keys: file, or passphrase.",
    ),
    works(
        Keys,
        Text,
        "root-key-file",
        "${data-dir}.key",
        "Path to the key file; made at the first start if it is this default, with mode 0600.",
    ),
    works(
        Keys,
        Text,
        "passphrase-file",
        "",
        "Path to a file whose first line is the passphrase (with --key-provider=passphrase).",
    ),
    works(
        Clustering,
        Text,
        "initial-advertise-peer-urls",
        "http://localhost:2380",
        "List of this member's peer URLs to advertise to the rest of the cluster.",
    ),
    works(
        Clustering,
        Text,
        "initial-cluster",
        "${name}=${initial-advertise-peer-urls}",
        "Initial cluster configuration for bootstrapping: name=url,name=url…",
    ),
    works(
        Clustering,
        Text,
        "initial-cluster-state",
        "new",
        "Initial cluster state ('new' when bootstrapping, 'existing' when joining).",
    ),
    works(
        Clustering,
        Text,
        "initial-cluster-token",
        "etcd-cluster",
        "Initial cluster token; keeps clusters with the same URLs apart.",
    ),
    works(
        Clustering,
        Text,
        "advertise-client-urls",
        "http://localhost:2379",
        "List of this member's client URLs to advertise to the public.",
    ),
    absent(Clustering, Text, "discovery", ""),
    works(
        Clustering,
        Text,
        "discovery-token",
        "",
        "Token of the cluster to be made: its members find each other by keys under it in the cluster of --discovery-endpoints.",
    ),
    works(
        Clustering,
        Text,
        "discovery-endpoints",
        "",
        "List of gRPC endpoints of the cluster that is asked, in place of --initial-cluster.",
    ),
    works(
        Clustering,
        Duration,
        "discovery-dial-timeout",
        "2s",
        "Dial timeout for connections to it.",
    ),
    works(
        Clustering,
        Duration,
        "discovery-request-timeout",
        "5s",
        "Timeout for requests to it (excluding dial timeout).",
    ),
    works(
        Clustering,
        Duration,
        "discovery-keepalive-time",
        "2s",
        "Interval of pings on connections to it, 10s at least as in etcd's client (0 for none).",
    ),
    works(
        Clustering,
        Duration,
        "discovery-keepalive-timeout",
        "6s",
        "How long such a ping may stay unanswered.",
    ),
    works(
        Clustering,
        Bool,
        "discovery-insecure-transport",
        "true",
        "Endpoints without a scheme may be plain; they are not if a certificate is named.",
    ),
    works(
        Clustering,
        Bool,
        "discovery-insecure-skip-tls-verify",
        "false",
        "Believe any certificate of it (for tests only).",
    ),
    works(
        Clustering,
        Text,
        "discovery-cert",
        "",
        "Path to the cert file to show to it.",
    ),
    works(
        Clustering,
        Text,
        "discovery-key",
        "",
        "Path to the key file of --discovery-cert.",
    ),
    works(
        Clustering,
        Text,
        "discovery-cacert",
        "",
        "Path to the CA bundle to verify its certificates by.",
    ),
    works(
        Clustering,
        Text,
        "discovery-user",
        "",
        "NAME:PASSWORD to log in to it with, or NAME beside --discovery-password.",
    ),
    works(
        Clustering,
        Text,
        "discovery-password",
        "",
        "Password of --discovery-user; better in ETCD_DISCOVERY_PASSWORD, where other users of this machine do not see it.",
    ),
    absent(Clustering, Text, "discovery-fallback", "exit"),
    absent(Clustering, Text, "discovery-proxy", ""),
    works(
        Clustering,
        Text,
        "discovery-srv",
        "",
        "DNS domain whose SRV records name the initial cluster, in place of --initial-cluster.",
    ),
    works(
        Clustering,
        Text,
        "discovery-srv-name",
        "",
        "Suffix of the SRV service that is asked for (etcd-server-ssl-NAME and etcd-server-NAME).",
    ),
    works(
        Clustering,
        Bool,
        "strict-reconfig-check",
        "true",
        "Reject reconfiguration requests that would cause quorum loss.",
    ),
    absent(Clustering, Bool, "pre-vote", "true"),
    works(
        Clustering,
        Text,
        "auto-compaction-retention",
        "0",
        "How much history auto-compaction keeps: a duration (a bare number is hours) or a number of \
         revisions; 0 switches it off.",
    ),
    works(
        Clustering,
        Text,
        "auto-compaction-mode",
        "periodic",
        "How --auto-compaction-retention is read: periodic or revision.",
    ),
    meaningless(Clustering, Text, "v2-deprecation"),
    works(
        Security,
        Text,
        "cert-file",
        "",
        "Path to the client server TLS cert file.",
    ),
    works(
        Security,
        Text,
        "key-file",
        "",
        "Path to the client server TLS key file. (The key that protects the data is --root-key-file.)",
    ),
    works(
        Security,
        Bool,
        "client-cert-auth",
        "false",
        "Enable client cert authentication.",
    ),
    // The gateway needs no connection of its own here.
    meaningless(Security, Text, "client-cert-file"),
    meaningless(Security, Text, "client-key-file"),
    works(
        Security,
        Text,
        "client-crl-file",
        "",
        "Path to the client certificate revocation list file (DER or PEM).",
    ),
    works(
        Security,
        Text,
        "client-cert-allowed-hostname",
        "",
        "Comma-separated list of SAN hostnames for client cert authentication.",
    ),
    works(
        Security,
        Text,
        "trusted-ca-file",
        "",
        "Path to the client server TLS trusted CA cert file.",
    ),
    works(
        Security,
        Bool,
        "auto-tls",
        "false",
        "Client TLS using generated certificates.",
    ),
    works(
        Security,
        Text,
        "peer-cert-file",
        "",
        "Path to the peer server TLS cert file.",
    ),
    works(
        Security,
        Text,
        "peer-key-file",
        "",
        "Path to the peer server TLS key file.",
    ),
    works(
        Security,
        Bool,
        "peer-client-cert-auth",
        "false",
        "Enable peer client cert authentication.",
    ),
    works(
        Security,
        Text,
        "peer-client-cert-file",
        "",
        "Path to the cert file shown when dialling peers; the peer cert file if empty.",
    ),
    works(
        Security,
        Text,
        "peer-client-key-file",
        "",
        "Path to the key file of --peer-client-cert-file.",
    ),
    works(
        Security,
        Text,
        "peer-trusted-ca-file",
        "",
        "Path to the peer server TLS trusted CA file.",
    ),
    works(
        Security,
        Text,
        "peer-cert-allowed-cn",
        "",
        "Comma-separated list of allowed CNs for inter-peer TLS authentication.",
    ),
    works(
        Security,
        Text,
        "peer-cert-allowed-hostname",
        "",
        "Comma-separated list of allowed SAN hostnames for inter-peer TLS authentication.",
    ),
    works(
        Security,
        Bool,
        "peer-auto-tls",
        "false",
        "Peer TLS using self-generated certificates if --peer-key-file and --peer-cert-file are not provided.",
    ),
    works(
        Security,
        Bool,
        "peer-skip-client-san-verification",
        "false",
        "Skip verification of SAN field in client certificate for peer connections.",
    ),
    works(
        Security,
        Unsigned,
        "self-signed-cert-validity",
        "1",
        "How many years the certificates of --auto-tls and --peer-auto-tls are valid.",
    ),
    works(
        Security,
        Text,
        "peer-crl-file",
        "",
        "Path to the peer certificate revocation list file (DER or PEM).",
    ),
    works(
        Security,
        Text,
        "cipher-suites",
        "",
        "Comma-separated list of TLS 1.2 cipher suites between client/server and peers, by Go's names.",
    ),
    works(
        Security,
        Text,
        "tls-min-version",
        "TLS1.2",
        "Minimum TLS version spoken. Possible values: TLS1.2, TLS1.3.",
    ),
    works(
        Security,
        Text,
        "tls-max-version",
        "",
        "Maximum TLS version spoken. Possible values: TLS1.2, TLS1.3.",
    ),
    works(
        Security,
        Text,
        "cors",
        "*",
        "Comma-separated list of origins for CORS, or cross-origin resource sharing (empty or * \
         means allow all).",
    ),
    works(
        Security,
        Text,
        "host-whitelist",
        "*",
        "Comma-separated list of acceptable hostnames from HTTP client requests, if the server is \
         not secure (empty or * means allow all).",
    ),
    works(
        Auth,
        Text,
        "auth-token",
        "simple",
        "Tokens: simple, or jwt,sign-method=METHOD,priv-key=FILE,pub-key=FILE,ttl=DURATION.",
    ),
    works(
        Auth,
        Unsigned,
        "auth-token-ttl",
        "300",
        "Seconds that an unused simple token lives.",
    ),
    meaningless(Auth, Unsigned, "bcrypt-cost"),
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
    works(
        Features,
        Duration,
        "corrupt-check-time",
        "0s",
        "Time between comparisons of the members' data by the leader; 0 for none.",
    ),
    works(
        Features,
        Duration,
        "compact-hash-check-time",
        "1m",
        "Time between comparisons of the members' compacted data by the leader, with the feature \
         gate CompactHashCheck.",
    ),
    works(
        Features,
        Signed,
        "compaction-batch-limit",
        "1000",
        "Keys whose history one slice of a compaction looks at.",
    ),
    works(
        Features,
        Duration,
        "compaction-sleep-interval",
        "10ms",
        "Pause between the slices of a compaction.",
    ),
    works(
        Features,
        Duration,
        "watch-progress-notify-interval",
        "10m",
        "Interval of the progress notifications that a watch may ask for (at least 100ms).",
    ),
    meaningless(Features, Unsigned, "bootstrap-defrag-threshold-megabytes"),
    works(
        Features,
        Signed,
        "max-learners",
        "1",
        "Maximum number of learners that can be in the cluster membership.",
    ),
    meaningless(Features, Duration, "downgrade-check-time"),
    works(
        Unsafe,
        Bool,
        "force-new-cluster",
        "false",
        "Force to create a new one-member cluster out of this member's data; all others count as \
         removed.",
    ),
    works(
        Unsafe,
        Bool,
        "unsafe-no-fsync",
        "false",
        "Disables the raft log's fsync: a power cut loses acknowledged writes. For tests alone.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_flag_stands_twice() {
        let names: BTreeSet<_> = FLAGS.iter().map(|flag| flag.name).collect();
        assert_eq!(names.len(), FLAGS.len());
    }

    #[test]
    fn a_flag_that_works_says_what_it_does() {
        for flag in FLAGS {
            assert_eq!(
                flag.standing == Standing::Effective,
                !flag.help.is_empty(),
                "{}",
                flag.name
            );
        }
    }
}
