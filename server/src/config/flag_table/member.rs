//! The member itself: its place, its limits, its listeners.

use super::Group::Member;
use super::Kind::{Bool, Duration, Gates, Signed, Text, Unsigned};
use super::{FlagSpec, meaningless, works};

pub(super) const FLAGS: &[FlagSpec] = &[
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
];
