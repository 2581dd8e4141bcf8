//! What clients were told, what the members hold, and whether the two agree.
//!
//! Every value is written once, so a write is known by its value. The revisions of the history
//! are one total order; the ledger checks that what clients saw happen, happened in it once, in
//! an order that real time allows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::watchers::Found;

/// A change of one key; no value for a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) key: String,
    pub(super) value: Option<String>,
    pub(super) by_lease: bool,
}

/// What a write depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    None,
    Modified(i64),
    Value(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nobody knows, or nobody knows yet.
    Open,
    At(i64),
    /// Certainly not proposed, or refused.
    Void,
    /// Its guard did not hold at this revision.
    Unmet(i64),
}

#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) key: String,
    /// None for a delete.
    pub(super) value: Option<String>,
    pub(super) guard: Guard,
    /// The newest revision that anybody had been told of when it was asked for.
    floor: i64,
    fate: Fate,
}

type Row = (String, String, i64);

#[derive(Default)]
pub(super) struct Ledger {
    floor: i64,
    writes: Vec<Write>,
    reads: Vec<(i64, Vec<Row>)>,
    history: BTreeMap<i64, Vec<Change>>,
    /// When a lease may end at the earliest, and the keys attached to it when they were put.
    leases: BTreeMap<i64, Instant>,
    leased: BTreeMap<String, i64>,
    states: BTreeMap<u64, String>,
    watched: Vec<Found>,
    violations: Vec<String>,
}

impl Ledger {
    pub(super) fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    pub(super) fn violations(&self) -> &[String] {
        &self.violations
    }

    /// The newest revision that anybody was told of.
    pub(super) fn floor(&self) -> i64 {
        self.floor
    }

    pub(super) fn newest(&self) -> i64 {
        self.history.keys().next_back().copied().unwrap_or(1)
    }

    pub(super) fn writes_done(&self) -> usize {
        let done = |write: &&Write| matches!(write.fate, Fate::At(_));
        self.writes.iter().filter(done).count()
    }

    pub(super) fn reads_done(&self) -> usize {
        self.reads.len()
    }

    pub(super) fn asked(&mut self, key: String, value: Option<String>, guard: Guard) -> usize {
        self.writes.push(Write {
            key,
            value,
            guard,
            floor: self.floor,
            fate: Fate::Open,
        });
        self.writes.len() - 1
    }

    pub(super) fn told(&mut self, write: usize, fate: Fate) {
        let floor = self.writes[write].floor;
        if let Fate::At(revision) | Fate::Unmet(revision) = fate {
            if revision < floor || (matches!(fate, Fate::At(_)) && revision == floor) {
                let asked = &self.writes[write];
                self.violation(format!("{fate:?} was told after {floor}: {asked:?}"));
            }
            self.floor = self.floor.max(revision);
        }
        self.writes[write].fate = fate;
    }

    /// A linearizable read that was asked for when `floor` was the newest known revision.
    pub(super) fn read(&mut self, floor: i64, revision: i64, rows: Vec<Row>) {
        if revision < floor {
            self.violation(format!("a read at {revision} was stale: {floor} was known"));
        }
        self.floor = self.floor.max(revision);
        self.reads.push((revision, rows));
    }

    pub(super) fn lease_lives(&mut self, id: i64, until: Instant) {
        let ends = self.leases.entry(id).or_insert(until);
        *ends = until.max(*ends);
    }

    pub(super) fn lease_revoked(&mut self, id: i64) {
        self.leases.insert(id, Instant::now());
    }

    /// A member said that there is no such lease.
    pub(super) fn lease_gone(&mut self, id: i64) {
        let ends = self.leases.get(&id).copied();
        let early = ends.map(|ends| ends.saturating_duration_since(Instant::now()));
        if let Some(early) = early.filter(|early| *early > Duration::ZERO) {
            self.violation(format!("lease {id} was gone {early:?} before its time"));
        }
    }

    pub(super) fn watched(&mut self, found: Found) {
        self.watched.push(found);
    }

    /// How many changes watches were told of.
    pub(super) fn told_to_watches(&self) -> usize {
        self.watched.iter().map(Found::count).sum()
    }

    /// All that happened, in order.
    pub(super) fn changes(&self) -> impl Iterator<Item = (i64, &Change)> {
        let of = |(at, changes): (&i64, _)| (*at, changes);
        let all = self.history.iter().map(of);
        all.flat_map(|(at, changes): (i64, &Vec<Change>)| changes.iter().map(move |it| (at, it)))
    }

    pub(super) fn attach(&mut self, value: &str, lease: i64) {
        self.leased.insert(value.to_owned(), lease);
    }

    /// What a member holds at a revision.
    pub(super) fn saw(&mut self, member: usize, revision: i64, changes: Vec<Change>) {
        match self.history.get(&revision) {
            None => {
                self.check_lease_ends(revision, &changes);
                self.history.insert(revision, changes);
            }
            Some(known) if *known == changes => {}
            Some(known) => {
                let what =
                    format!("member {member} holds {changes:?} at {revision}, another {known:?}");
                self.violation(what);
            }
        }
    }

    /// Called when a revision is first seen, which is not before it came to be.
    fn check_lease_ends(&mut self, revision: i64, changes: &[Change]) {
        for change in changes.iter().filter(|change| change.by_lease) {
            let before = self.state_before(revision);
            let Some((value, _)) = before.get(&change.key) else {
                continue;
            };
            let lease = self.leased.get(value).copied();
            let Some((id, ends)) = lease.and_then(|id| Some((id, *self.leases.get(&id)?))) else {
                continue;
            };
            let early = ends.saturating_duration_since(Instant::now());
            if early > Duration::ZERO {
                self.violation(format!("lease {id} ended {early:?} before its time"));
            }
        }
    }

    /// Two members that have applied as much hold the same.
    pub(super) fn state(&mut self, member: usize, applied: u64, state: String) {
        let known = self.states.entry(applied).or_insert_with(|| state.clone());
        if *known != state {
            let what = format!(
                "member {member} holds another state at index {applied}:\n{state}\n{known}"
            );
            self.violation(what);
        }
    }

    fn state_before(&self, revision: i64) -> BTreeMap<String, (String, i64)> {
        let mut state = BTreeMap::new();
        for (at, changes) in self.history.range(..revision) {
            apply(&mut state, *at, changes);
        }
        state
    }

    /// The whole of it, once everything is at rest.
    pub(super) fn close(&mut self) {
        let mut found = Vec::new();
        self.check_history(&mut found);
        self.check_fates(&mut found);
        for watch in &self.watched {
            watch.check(self, &mut found);
        }
        self.violations.append(&mut found);
    }

    fn check_history(&self, found: &mut Vec<String>) {
        let mut reads: Vec<_> = self.reads.iter().collect();
        reads.sort_by_key(|(revision, _)| *revision);
        let mut reads = reads.into_iter().peekable();
        while let Some((_, rows)) = reads.next_if(|(revision, _)| *revision <= 1) {
            if !rows.is_empty() {
                found.push(format!("a read before the first write gave {rows:?}"));
            }
        }
        let mut unmet: Vec<_> = self.writes.iter().collect();
        unmet.retain(|write| matches!(write.fate, Fate::Unmet(_)));
        let mut state = BTreeMap::new();
        let mut expected = 2;
        for (revision, changes) in &self.history {
            if *revision != expected {
                found.push(format!("revision {revision} came where {expected} was due"));
            }
            expected = revision + 1;
            for write in self.writes.iter().filter(|w| w.fate == Fate::At(*revision)) {
                if !holds(&state, &write.key, &write.guard) {
                    found.push(format!("its guard did not hold: {write:?}"));
                }
            }
            apply(&mut state, *revision, changes);
            while let Some((_, rows)) = reads.next_if(|(at, _)| at == revision) {
                let held: Vec<Row> = state
                    .iter()
                    .map(|(key, (value, at))| (key.clone(), value.clone(), *at))
                    .collect();
                if *rows != held {
                    found.push(format!(
                        "a read at {revision} gave {rows:?}, held was {held:?}"
                    ));
                }
            }
            for write in &unmet {
                if write.fate == Fate::Unmet(*revision) && holds(&state, &write.key, &write.guard) {
                    found.push(format!("its guard held: {write:?}"));
                }
            }
        }
        found.extend(reads.map(|(revision, _)| format!("a read at {revision}, which never was")));
    }

    fn check_fates(&self, found: &mut Vec<String>) {
        let mut places: BTreeMap<&str, (i64, &str)> = BTreeMap::new();
        let mut deletes = BTreeSet::new();
        for (revision, changes) in &self.history {
            for change in changes {
                let Some(value) = &change.value else {
                    deletes.insert((*revision, change.key.as_str()));
                    continue;
                };
                if let Some((other, _)) = places.insert(value, (*revision, &change.key)) {
                    found.push(format!("{value} was written at {other} and {revision}"));
                }
            }
        }
        for write in &self.writes {
            let place = match &write.value {
                Some(value) => places.remove(value.as_str()),
                None => match write.fate {
                    Fate::At(at) if deletes.contains(&(at, write.key.as_str())) => {
                        Some((at, write.key.as_str()))
                    }
                    Fate::At(_) => None,
                    _ => continue,
                },
            };
            let agrees = match (&write.fate, place) {
                (Fate::At(revision), Some((at, key))) => *revision == at && key == write.key,
                (Fate::At(_), None) => false,
                (Fate::Open, Some((at, key))) => at > write.floor && key == write.key,
                (Fate::Void | Fate::Unmet(_), place) => place.is_none(),
                (Fate::Open, None) => true,
            };
            if !agrees {
                found.push(format!("{write:?} is found at {place:?}"));
            }
        }
        for (value, place) in places {
            found.push(format!("{value} at {place:?} was never asked for"));
        }
    }
}

fn apply(state: &mut BTreeMap<String, (String, i64)>, revision: i64, changes: &[Change]) {
    for change in changes {
        match &change.value {
            Some(value) => {
                state.insert(change.key.clone(), (value.clone(), revision));
            }
            None => {
                state.remove(&change.key);
            }
        }
    }
}

fn holds(state: &BTreeMap<String, (String, i64)>, key: &str, guard: &Guard) -> bool {
    let row = state.get(key);
    match guard {
        Guard::None => true,
        Guard::Modified(revision) => row.map_or(0, |(_, at)| *at) == *revision,
        Guard::Value(value) => row.is_some_and(|(held, _)| held == value),
    }
}
