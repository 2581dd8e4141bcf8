//! Checks, paces, and what is for tests and emergencies.

use super::Group::{Features, Unsafe};
use super::Kind::{Bool, Duration, Signed, Unsigned};
use super::{FlagSpec, meaningless, works};

pub(super) const FLAGS: &[FlagSpec] = &[
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
