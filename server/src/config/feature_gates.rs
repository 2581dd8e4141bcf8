//! `--feature-gates`: etcd's gates, and what each of them is here.
//!
//! Promise: every gate of etcd 3.7.1 is known, an unknown one is refused in etcd's words; a gate
//! that cannot be turned off here says so.
//! Not known here: what the features do.

use std::collections::{BTreeMap, BTreeSet};

use super::flag_syntax::parse_bool;
use super::mistake::Problem;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    CompactHashCheck,
    FastLeaseKeepAlive,
    InitialCorruptCheck,
    LeaseCheckpoint,
    LeaseCheckpointPersist,
    PriorityRequest,
    SetMemberLocalAddr,
    StopGrpcServiceOnDefrag,
    TxnModeWriteWithSharedBuffer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Alpha,
    Beta,
}

/// Whether a gate changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bearing {
    Switch {
        default: bool,
    },
    /// This server has no other way.
    AlwaysOn,
}

struct Spec {
    gate: Gate,
    name: &'static str,
    stage: Stage,
    bearing: Bearing,
}

const fn spec(gate: Gate, name: &'static str, stage: Stage, bearing: Bearing) -> Spec {
    Spec {
        gate,
        name,
        stage,
        bearing,
    }
}

const OFF: Bearing = Bearing::Switch { default: false };

/// Source: etcd 3.7.1, `server/features/etcd_features.go`.
const GATES: &[Spec] = &[
    spec(
        Gate::CompactHashCheck,
        "CompactHashCheck",
        Stage::Alpha,
        OFF,
    ),
    // A keep-alive is answered from memory at the leader.
    spec(
        Gate::FastLeaseKeepAlive,
        "FastLeaseKeepAlive",
        Stage::Beta,
        Bearing::AlwaysOn,
    ),
    spec(
        Gate::InitialCorruptCheck,
        "InitialCorruptCheck",
        Stage::Alpha,
        OFF,
    ),
    // What a lease has left survives a change of the leader, and is on disk.
    spec(
        Gate::LeaseCheckpoint,
        "LeaseCheckpoint",
        Stage::Alpha,
        Bearing::AlwaysOn,
    ),
    spec(
        Gate::LeaseCheckpointPersist,
        "LeaseCheckpointPersist",
        Stage::Alpha,
        Bearing::AlwaysOn,
    ),
    spec(Gate::PriorityRequest, "PriorityRequest", Stage::Alpha, OFF),
    spec(
        Gate::SetMemberLocalAddr,
        "SetMemberLocalAddr",
        Stage::Alpha,
        OFF,
    ),
    spec(
        Gate::StopGrpcServiceOnDefrag,
        "StopGRPCServiceOnDefrag",
        Stage::Alpha,
        OFF,
    ),
    // Compares of a txn never copy a buffer.
    spec(
        Gate::TxnModeWriteWithSharedBuffer,
        "TxnModeWriteWithSharedBuffer",
        Stage::Beta,
        Bearing::AlwaysOn,
    ),
];

const ALL_ALPHA: &str = "AllAlpha";
const ALL_BETA: &str = "AllBeta";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeatureGates {
    given: BTreeMap<&'static str, bool>,
}

/// As the metric of that name has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureState {
    pub name: &'static str,
    pub stage: &'static str,
    pub enabled: bool,
}

impl FeatureGates {
    /// `NAME=BOOL,NAME=BOOL…`; of several for one name the last counts.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let mut gates = Self::default();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (name, value) = match pair.split_once('=') {
                Some((name, value)) => (name.trim(), value.trim()),
                None => {
                    let name = pair.trim().to_owned();
                    return Err(Problem::GateWithoutValue { name });
                }
            };
            let on = parse_bool(value).ok_or_else(|| Problem::GateNotBool {
                name: name.to_owned(),
                value: value.to_owned(),
            })?;
            let known = known_name(name).ok_or_else(|| Problem::UnknownGate {
                name: name.to_owned(),
            })?;
            gates.given.insert(known, on);
        }
        Ok(gates)
    }

    /// Whether this server behaves as if the gate were on.
    pub fn enabled(&self, gate: Gate) -> bool {
        GATES
            .iter()
            .find(|spec| spec.gate == gate)
            .is_some_and(|spec| match spec.bearing {
                Bearing::AlwaysOn => true,
                Bearing::Switch { default } => self.asked(spec).unwrap_or(default),
            })
    }

    /// Gates that were turned off and stay on all the same.
    pub fn kept_on(&self) -> Vec<&'static str> {
        let given_off = |spec: &&Spec| self.given.get(spec.name) == Some(&false);
        GATES
            .iter()
            .filter(|spec| spec.bearing == Bearing::AlwaysOn)
            .filter(given_off)
            .map(|spec| spec.name)
            .collect()
    }

    /// etcd's rule between two of them.
    pub(super) fn check(&self) -> Result<(), Problem> {
        let asked = |gate| {
            GATES
                .iter()
                .find(|spec| spec.gate == gate)
                .and_then(|spec| self.asked(spec))
                .unwrap_or(false)
        };
        if asked(Gate::LeaseCheckpointPersist) && !asked(Gate::LeaseCheckpoint) {
            return Err(Problem::PersistWithoutCheckpoint);
        }
        Ok(())
    }

    /// Every gate, by name.
    pub fn states(&self) -> Vec<FeatureState> {
        let group = |name: &'static str, stage: Stage| FeatureState {
            name,
            stage: stage.name(),
            enabled: self.given.get(name).copied().unwrap_or(false),
        };
        let one = |spec: &Spec| FeatureState {
            name: spec.name,
            stage: spec.stage.name(),
            enabled: self.enabled(spec.gate),
        };
        let mut states = vec![group(ALL_ALPHA, Stage::Alpha), group(ALL_BETA, Stage::Beta)];
        states.extend(GATES.iter().map(one));
        states
    }

    /// By its own name, or else by that of its stage; nothing if neither was given.
    fn asked(&self, spec: &Spec) -> Option<bool> {
        let group = match spec.stage {
            Stage::Alpha => ALL_ALPHA,
            Stage::Beta => ALL_BETA,
        };
        let given = self.given.get(spec.name).or_else(|| self.given.get(group));
        given.copied()
    }
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
        }
    }
}

fn known_name(name: &str) -> Option<&'static str> {
    let names: BTreeSet<&'static str> = GATES
        .iter()
        .map(|spec| spec.name)
        .chain([ALL_ALPHA, ALL_BETA])
        .collect();
    names.get(name).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gates(text: &str) -> FeatureGates {
        FeatureGates::parse(text).unwrap()
    }

    #[test]
    fn without_a_word_only_what_is_always_on_is_on() {
        let gates = gates("");
        let on: Vec<_> = gates
            .states()
            .into_iter()
            .filter(|state| state.enabled)
            .map(|state| state.name)
            .collect();
        assert_eq!(
            on,
            [
                "FastLeaseKeepAlive",
                "LeaseCheckpoint",
                "LeaseCheckpointPersist",
                "TxnModeWriteWithSharedBuffer"
            ]
        );
        assert_eq!(gates.states().len(), 11);
    }

    #[test]
    fn a_gate_of_its_own_name_wins_over_its_stage_in_any_order() {
        for text in [
            "AllAlpha=true,CompactHashCheck=false",
            "CompactHashCheck=0, AllAlpha=t",
        ] {
            let gates = gates(text);
            assert!(!gates.enabled(Gate::CompactHashCheck), "{text}");
            assert!(gates.enabled(Gate::PriorityRequest), "{text}");
            gates.check().unwrap();
        }
        assert!(
            gates("CompactHashCheck=false,CompactHashCheck=true").enabled(Gate::CompactHashCheck)
        );
    }

    #[test]
    fn what_has_no_other_way_stays_on_and_says_so() {
        let gates = gates("FastLeaseKeepAlive=false,PriorityRequest=false,AllBeta=false");
        assert_eq!(gates.kept_on(), ["FastLeaseKeepAlive"]);
        assert!(gates.enabled(Gate::FastLeaseKeepAlive));
    }

    #[test]
    fn mistakes_have_etcds_texts() {
        for (text, expected) in [
            ("Foo=true", "unrecognized feature gate: Foo"),
            (
                "CompactHashCheck",
                "missing bool value for CompactHashCheck",
            ),
            (
                "CompactHashCheck=on",
                "invalid value of CompactHashCheck=on, err: strconv.ParseBool: parsing \"on\": \
                 invalid syntax",
            ),
        ] {
            let problem = FeatureGates::parse(text).unwrap_err();
            assert_eq!(problem.to_string(), expected);
        }
        let problem = gates("LeaseCheckpointPersist=true").check().unwrap_err();
        assert_eq!(
            problem.to_string(),
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate \
             LeaseCheckpoint"
        );
        gates("LeaseCheckpointPersist=true,LeaseCheckpoint=true")
            .check()
            .unwrap();
    }
}
