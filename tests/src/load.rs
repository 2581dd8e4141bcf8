//! Clients that write, read and swap a few keys through every member, and remember what they were told.
//!
//! Every written value is unique, so whether an unanswered write happened can be read from the history of
//! the store afterwards. An error is never taken for "did not happen".

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::check::linearizability::{self, Action, Operation, Verdict};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::{binary, txn};

/// All keys of a load begin so.
pub const PREFIX: &str = "load/";
const KEYS: usize = 4;
/// A client that hears nothing for so long gives the call up and goes on.
const CALL_WITHIN: Duration = Duration::from_secs(8);
/// After an error a client waits, so that a cluster without a leader is not asked thousands of times.
const PAUSE: Duration = Duration::from_millis(50);

/// One operation as its client saw it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub key: String,
    pub operation: Operation,
    /// The revision of the answer's header, if there was an answer.
    pub header_revision: Option<i64>,
}

pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    records: Arc<Mutex<Vec<Record>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts clients, spread over the endpoints.
    pub fn start(endpoints: &[String], clients: usize) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            acknowledged: Arc::default(),
            records: Arc::default(),
            clients: Vec::new(),
        };
        let start = Instant::now();
        for (number, endpoint) in endpoints.iter().cycle().take(clients).enumerate() {
            let worker = Worker {
                client: Client::lazy(endpoint),
                number,
                start,
                written: 0,
                known: HashMap::new(),
                stop: Arc::clone(&load.stop),
                acknowledged: Arc::clone(&load.acknowledged),
                records: Arc::clone(&load.records),
            };
            load.clients.push(tokio::spawn(worker.run()));
        }
        load
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub async fn stop(self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("a client of the load does not fail");
        }
        History {
            records: std::mem::take(&mut *self.records.lock().expect("no holder panics")),
        }
    }
}

struct Worker {
    client: Client,
    number: usize,
    start: Instant,
    written: u64,
    /// The newest mod revision that this client knows of each key, for swaps.
    known: HashMap<String, i64>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    records: Arc<Mutex<Vec<Record>>>,
}

impl Worker {
    async fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let key = format!("{PREFIX}{}", rand::rng().random_range(0..KEYS));
            let invoked = self.now();
            let chosen = rand::rng().random_range(0..10);
            let (action, answered) = match chosen {
                0..5 => self.put(&key).await,
                5..7 => self.swap(&key).await,
                _ => self.read(&key).await,
            };
            let returned = answered.map(|_| self.now());
            if let Some(action) = action {
                let operation = Operation {
                    invoked,
                    returned,
                    action,
                };
                self.records.lock().expect("no holder panics").push(Record {
                    key,
                    operation,
                    header_revision: answered,
                });
            }
            if answered.is_none() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).expect("a test takes less than centuries")
    }

    fn value(&mut self) -> String {
        self.written += 1;
        format!("{}/{}", self.number, self.written)
    }

    async fn put(&mut self, key: &str) -> (Option<Action>, Option<i64>) {
        let value = self.value();
        let answer =
            tokio::time::timeout(CALL_WITHIN, self.client.put(key.to_owned(), value.clone())).await;
        let revision = answer
            .ok()
            .and_then(Result::ok)
            .and_then(|answer| answer.header)
            .map(|header| header.revision);
        self.wrote(key, revision);
        (Some(Action::Write { value, revision }), revision)
    }

    async fn swap(&mut self, key: &str) -> (Option<Action>, Option<i64>) {
        let expected = self.known.get(key).copied().unwrap_or(0);
        let value = self.value();
        let request = pb::TxnRequest {
            compare: vec![txn::compare(
                key.to_owned(),
                CompareResult::Equal,
                TargetUnion::ModRevision(expected),
            )],
            success: vec![txn::put(key.to_owned(), value.clone())],
            failure: vec![txn::get(key.to_owned())],
        };
        let answer = tokio::time::timeout(CALL_WITHIN, self.client.txn(request))
            .await
            .ok()
            .and_then(Result::ok);
        let header = answer
            .as_ref()
            .and_then(|answer| answer.header.as_ref())
            .map(|header| header.revision);
        match answer {
            Some(answer) if answer.succeeded => {
                self.wrote(key, header);
                (
                    Some(Action::Swapped {
                        expected,
                        value,
                        revision: header,
                    }),
                    header,
                )
            }
            Some(answer) => {
                if let Some(kv) = answer
                    .responses
                    .first()
                    .and_then(|response| txn::range_of(response).kvs.first())
                {
                    self.known.insert(key.to_owned(), kv.mod_revision);
                }
                (Some(Action::NotSwapped { expected }), header)
            }
            None => (
                Some(Action::Swapped {
                    expected,
                    value,
                    revision: None,
                }),
                None,
            ),
        }
    }

    async fn read(&mut self, key: &str) -> (Option<Action>, Option<i64>) {
        let answer = tokio::time::timeout(CALL_WITHIN, self.client.get(key.to_owned())).await;
        let Some(mut answer) = answer.ok().and_then(Result::ok) else {
            return (None, None);
        };
        let seen = answer.kvs.pop().map(|kv| {
            (
                String::from_utf8_lossy(&kv.value).into_owned(),
                kv.mod_revision,
            )
        });
        self.known.insert(
            key.to_owned(),
            seen.as_ref().map_or(0, |(_, revision)| *revision),
        );
        (
            Some(Action::Read(seen)),
            answer.header.map(|header| header.revision),
        )
    }

    fn wrote(&mut self, key: &str, revision: Option<i64>) {
        if let Some(revision) = revision {
            self.known.insert(key.to_owned(), revision);
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Ends the load: every member holds the same, no acknowledged write is lost, the history is
/// linearizable, and it has more acknowledged writes than `writes_min`. Each key's history is
/// searched for at most `within`.
pub async fn assert_well(load: Load, cluster: &Cluster, writes_min: usize, within: Duration) {
    let history = load.stop().await;
    let writes = history.acknowledged_writes();
    assert!(writes > writes_min, "too little happened: {writes}");
    let mut seen = Vec::new();
    for member in &cluster.members {
        let client = member.client().await;
        seen.push(client.prefix(PREFIX).await.expect("a member answers").kvs);
    }
    assert!(
        seen.windows(2).all(|pair| pair[0] == pair[1]),
        "members disagree"
    );
    let told = everything_that_happened(&cluster.client().await).await;
    history.assert_acknowledged_writes_are_in(&told);
    let history = history.settled_by(&told);
    history.assert_revisions_follow_real_time();
    for (key, operations) in history.by_key() {
        let verdict = linearizability::check(&operations, within);
        if !matches!(verdict, Verdict::Linearizable) {
            let kept = history.keep();
            panic!("{key}: {verdict:?}; history kept in {}", kept.display());
        }
    }
}

/// Every put under the load's prefix from the first revision on: key, value, revision.
pub async fn everything_that_happened(client: &Client) -> Vec<(String, String, i64)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let last = client
        .prefix(PREFIX)
        .await
        .expect("the cluster is whole again")
        .kvs
        .iter()
        .map(|kv| kv.mod_revision)
        .max()
        .unwrap_or(0);
    let range_end = crate::client::prefix_end(PREFIX.as_bytes());
    let create = pb::WatchCreateRequest {
        key: PREFIX.into(),
        range_end,
        start_revision: 2,
        ..Default::default()
    };
    let mut stream = client
        .watch(create)
        .await
        .expect("the cluster is whole again");
    let mut told = Vec::new();
    while told.last().is_none_or(|(_, _, revision)| *revision < last) {
        let message = stream.next().await.expect("history is told to its end");
        let records = message.events.into_iter().filter_map(|event| event.kv);
        told.extend(records.map(|kv| (text(&kv.key), text(&kv.value), kv.mod_revision)));
    }
    told
}

pub struct History {
    pub records: Vec<Record>,
}

impl History {
    pub fn acknowledged_writes(&self) -> usize {
        self.writes()
            .filter(|(_, _, revision)| revision.is_some())
            .count()
    }

    fn writes(&self) -> impl Iterator<Item = (&str, &str, Option<i64>)> {
        self.records
            .iter()
            .filter_map(|record| match &record.operation.action {
                Action::Write { value, revision }
                | Action::Swapped {
                    value, revision, ..
                } => Some((record.key.as_str(), value.as_str(), *revision)),
                Action::Read(_) | Action::NotSwapped { .. } => None,
            })
    }

    /// Every acknowledged write is in the store's history under the revision it was told, and no write is there twice.
    pub fn assert_acknowledged_writes_are_in(&self, told: &[(String, String, i64)]) {
        let mut by_value: HashMap<&str, (&str, i64)> = HashMap::new();
        for (key, value, revision) in told {
            let earlier = by_value.insert(value, (key, *revision));
            assert!(
                earlier.is_none(),
                "{value} was committed twice: {earlier:?} and at {revision}"
            );
        }
        for (key, value, revision) in self.writes() {
            if let Some(revision) = revision {
                assert_eq!(
                    by_value.get(value),
                    Some(&(key, revision)),
                    "the acknowledged write {key}={value}@{revision} is lost"
                );
            }
        }
    }

    /// What was asked after an answer sees at least its revision; a write gets a greater one.
    pub fn assert_revisions_follow_real_time(&self) {
        let mut answered: Vec<(u64, i64)> = self
            .records
            .iter()
            .filter_map(|record| Some((record.operation.returned?, record.header_revision?)))
            .collect();
        answered.sort_unstable();
        let mut by_invocation: Vec<&Record> = self
            .records
            .iter()
            .filter(|record| record.header_revision.is_some())
            .collect();
        by_invocation.sort_by_key(|record| record.operation.invoked);
        let (mut greatest, mut passed) = (0, 0);
        for record in by_invocation {
            while answered
                .get(passed)
                .is_some_and(|(returned, _)| *returned < record.operation.invoked)
            {
                greatest = greatest.max(answered[passed].1);
                passed += 1;
            }
            let revision = record.header_revision.unwrap_or(0);
            let writes = matches!(
                record.operation.action,
                Action::Write { .. } | Action::Swapped { .. }
            );
            assert!(
                revision >= greatest + i64::from(writes),
                "revision {revision} was answered after {greatest}: {record:?}"
            );
        }
    }

    /// The operations of each key.
    pub fn by_key(&self) -> BTreeMap<String, Vec<Operation>> {
        let mut keys: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
        for record in &self.records {
            keys.entry(record.key.clone())
                .or_default()
                .push(record.operation.clone());
        }
        keys
    }

    /// Settles unanswered writes by what the store's history has: every value is unique.
    pub fn settled_by(mut self, told: &[(String, String, i64)]) -> Self {
        let revisions: HashMap<&str, i64> = told
            .iter()
            .map(|(_, value, revision)| (value.as_str(), *revision))
            .collect();
        self.records
            .retain_mut(|record| match &mut record.operation.action {
                Action::Write { value, revision }
                | Action::Swapped {
                    value, revision, ..
                } if revision.is_none() => {
                    *revision = revisions.get(value.as_str()).copied();
                    revision.is_some()
                }
                _ => true,
            });
        self
    }

    /// Writes the history where a person finds it and [`History::load`] reads it.
    pub fn keep(&self) -> PathBuf {
        let directory = binary::workspace().join("target/histories");
        std::fs::create_dir_all(&directory).expect("the target directory can be written");
        let path = directory.join(format!("{}.json", std::process::id()));
        let text = serde_json::to_string_pretty(&self.records).expect("records are plain data");
        std::fs::write(&path, text).expect("the target directory can be written");
        path
    }

    pub fn load(path: &std::path::Path) -> std::io::Result<Self> {
        let records = serde_json::from_slice(&std::fs::read(path)?)?;
        Ok(Self { records })
    }
}
