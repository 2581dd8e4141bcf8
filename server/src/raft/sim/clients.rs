//! Clients that write, read and hold leases, and tell the ledger what they were told.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::ledger::{Fate, Guard};
use super::world::World;
use crate::access::{Door, Identity, Permitted, Rules};
use crate::command::{
    Body, Compact, Compare, CompareResult, CompareTarget, DeleteRange, LeaseGrant, LeaseRevoke, Op,
    Put, Reply, Txn, ValueCompare,
};
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::{self, RangeQuery};
use crate::mvcc::read_view::ReadView;
use crate::raft::Consensus;
use crate::replica::{Applied, ProposeError};
use crate::tables::auth::AuthTable;

const KEYS: u32 = 8;
/// Revisions that a compaction leaves.
const KEPT: i64 = 40;

pub(super) struct Client<'a> {
    pub(super) world: &'a World,
    pub(super) number: usize,
    pub(super) rng: StdRng,
    pub(super) writes: u32,
    pub(super) lease: Option<i64>,
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn permitted(body: impl Into<Body>) -> Permitted<Body> {
    let rules = Rules {
        auth: &AuthTable::default(),
        leases: &RwLock::default(),
    };
    Door::default()
        .permit(rules, &Identity::Anyone, body.into())
        .expect("authentication is off")
}

/// What a member did for a client; none if it died meanwhile.
type Answer = Option<Result<Applied, ProposeError>>;

fn rows(view: &ReadView, consensus: &Consensus) -> Result<Vec<(String, String, i64)>, String> {
    let query = RangeQuery::all(KeyRange::all());
    let rows = read::range(view, &query).map_err(|error| error.to_string())?;
    let open = |row: crate::command::RecordRef| {
        let sealed = view
            .store
            .value(row.at)
            .map_err(|error| error.to_string())?;
        let sealed = sealed.ok_or("a value is missing")?;
        let value = consensus.sealer().open(&row.key, &sealed);
        let value = value.map_err(|error| error.to_string())?;
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        Ok((text(&row.key), text(&value), row.at.main))
    };
    rows.rows.into_iter().map(open).collect()
}

impl Client<'_> {
    /// Until the world says that it is enough.
    pub(super) async fn run(mut self) {
        while !self.world.is_over() {
            let pause = self.rng.random_range(2..120);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match self.rng.random_range(0..100) {
                0..40 => self.put().await,
                40..48 => self.delete().await,
                48..60 => self.compare_modified().await,
                60..68 => self.compare_value().await,
                68..90 => self.read().await,
                90..97 => self.tend_lease().await,
                _ => self.compact().await,
            }
        }
    }

    fn key(&mut self) -> String {
        format!("key-{}", self.rng.random_range(0..KEYS))
    }

    fn value(&mut self) -> String {
        self.writes += 1;
        let length = self.rng.random_range(0..120);
        let filler = "x".repeat(length);
        format!("{}/{}/{filler}", self.number, self.writes)
    }

    fn note(&self, what: &str) {
        self.world.note(&format!("client {}: {what}", self.number));
    }

    /// Does something at a member that runs, as a request to it does: it dies with it.
    async fn at<T, F>(&mut self, work: impl FnOnce(Consensus) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (life, consensus) = self.world.any_member(&mut self.rng)?;
        life.spawn(work(consensus)).await.ok()
    }

    async fn propose(&mut self, body: Body) -> Answer {
        self.at(move |consensus| async move { consensus.propose(permitted(body)).await })
            .await
    }

    /// A put of a value, sealed at the member that proposes it.
    async fn put_sealed(&mut self, key: &str, value: &str, lease: i64) -> Answer {
        let (key, value) = (bytes(key), bytes(value));
        self.at(move |consensus| async move {
            let view = consensus.view();
            let Ok(sealed_value) = consensus.sealer().seal(&view, &key, &value) else {
                return Err(ProposeError::CannotOpen);
            };
            let put = Put {
                key,
                sealed_value,
                lease,
                ..Put::default()
            };
            consensus.propose(permitted(put)).await
        })
        .await
    }

    fn close(&mut self, write: usize, answer: &Answer, done: impl Fn(&Reply) -> Option<Fate>) {
        let fate = match answer {
            Some(Ok(applied)) => done(&applied.reply).unwrap_or(Fate::Void),
            Some(Err(
                ProposeError::NoLeader
                | ProposeError::NeverSent
                | ProposeError::TooManyRequests
                | ProposeError::RequestTooLarge
                | ProposeError::CannotOpen,
            )) => Fate::Void,
            Some(Err(_)) | None => Fate::Open,
        };
        let answer = answer.as_ref().map(|answer| answer.as_ref().err());
        self.note(&format!("write {write}: {fate:?} {answer:?}"));
        self.world.ledger().told(write, fate);
    }

    async fn put(&mut self) {
        let (key, value) = (self.key(), self.value());
        let lease = match self.lease {
            Some(lease) if self.rng.random_range(0..4) == 0 => lease,
            _ => 0,
        };
        if lease != 0 {
            self.world.ledger().attach(&value, lease);
        }
        self.note(&format!("put {key} {} lease {lease}", self.writes));
        let write = self
            .world
            .ledger()
            .asked(key.clone(), Some(value.clone()), Guard::None);
        let answer = self.put_sealed(&key, &value, lease).await;
        self.close(write, &answer, |reply| match reply {
            Reply::Put(put) => Some(Fate::At(put.revision)),
            _ => None,
        });
    }

    async fn delete(&mut self) {
        let key = self.key();
        self.note(&format!("delete {key}"));
        let write = self.world.ledger().asked(key.clone(), None, Guard::None);
        let range = KeyRange::single(bytes(&key));
        let body = DeleteRange { range, prev: false };
        let answer = self.propose(body.into()).await;
        self.close(write, &answer, |reply| match reply {
            Reply::DeleteRange(gone) if gone.deleted > 0 => Some(Fate::At(gone.revision)),
            _ => None,
        });
    }

    /// What this client believes a key to hold, by whatever a member says at once.
    async fn believed(&mut self, key: &str) -> Option<(String, i64)> {
        let key = key.to_owned();
        self.at(move |consensus| async move {
            let rows = rows(&consensus.view(), &consensus).ok()?;
            let row = rows.into_iter().find(|(found, _, _)| *found == key)?;
            Some((row.1, row.2))
        })
        .await?
    }

    async fn compare_modified(&mut self) {
        let (key, value) = (self.key(), self.value());
        let modified = self.believed(&key).await.map_or(0, |(_, at)| at);
        self.guarded(key, value, Guard::Modified(modified)).await;
    }

    async fn compare_value(&mut self) {
        let (key, value) = (self.key(), self.value());
        let Some((operand, _)) = self.believed(&key).await else {
            return;
        };
        self.guarded(key, value, Guard::Value(operand)).await;
    }

    async fn guarded(&mut self, key: String, value: String, guard: Guard) {
        self.note(&format!("{key} = {} if {guard:?}", self.writes));
        let write = self
            .world
            .ledger()
            .asked(key.clone(), Some(value.clone()), guard.clone());
        let answer = self
            .at(move |consensus| async move {
                let view = consensus.view();
                let (key, value) = (bytes(&key), bytes(&value));
                let seal = |value: &[u8]| consensus.sealer().seal(&view, &key, value);
                let (Ok(sealed_value), Ok(operand)) = (
                    seal(&value),
                    match &guard {
                        Guard::Value(operand) => seal(operand.as_bytes()),
                        Guard::None | Guard::Modified(_) => seal(b""),
                    },
                ) else {
                    return Err(ProposeError::CannotOpen);
                };
                let target = match guard {
                    Guard::None => CompareTarget::Version(0),
                    Guard::Modified(revision) => CompareTarget::Modified(revision),
                    Guard::Value(_) => CompareTarget::Value(ValueCompare::Sealed(operand)),
                };
                let compare = Compare {
                    range: KeyRange::single(key.clone()),
                    result: CompareResult::Equal,
                    target,
                };
                let put = Put {
                    key,
                    sealed_value,
                    ..Put::default()
                };
                let txn = Txn {
                    compares: vec![compare],
                    success: vec![Op::Put(put)],
                    failure: Vec::new(),
                };
                consensus.propose(permitted(txn)).await
            })
            .await;
        self.close(write, &answer, |reply| match reply {
            Reply::Txn(txn) if txn.succeeded => Some(Fate::At(txn.revision)),
            Reply::Txn(txn) => Some(Fate::Unmet(txn.revision)),
            _ => None,
        });
    }

    async fn read(&mut self) {
        let floor = self.world.ledger().floor();
        let answer = self
            .at(|consensus| async move {
                consensus.read_barrier().await.ok()?;
                let view = consensus.view();
                Some((view.revision, rows(&view, &consensus)))
            })
            .await;
        match answer.flatten() {
            Some((revision, Ok(rows))) => {
                self.note(&format!("read at {revision}"));
                self.world.ledger().read(floor, revision, rows);
            }
            // A compaction overtook the view, or this member has not opened the root key.
            Some((revision, Err(error))) => self.note(&format!("read at {revision}: {error}")),
            None => self.note("read failed"),
        }
    }

    async fn tend_lease(&mut self) {
        let Some(id) = self.lease else {
            return self.grant().await;
        };
        let asked = Instant::now();
        if self.rng.random_range(0..6) == 0 {
            // From now on its keys may go at any time.
            self.world.ledger().lease_revoked(id);
            self.lease = None;
            let answer = self.propose(LeaseRevoke { id }.into()).await;
            return self.note(&format!("revoked {id}: {}", answer.is_some()));
        }
        let renewed = self
            .at(move |consensus| async move { consensus.keep_alive(id).await })
            .await;
        match renewed {
            Some(Ok(Some(ttl))) => {
                self.note(&format!("renewed {id} for {ttl} s"));
                let ttl = Duration::from_secs(ttl.unsigned_abs());
                self.world.ledger().lease_lives(id, asked + ttl);
            }
            Some(Ok(None)) => {
                self.note(&format!("lease {id} is gone"));
                self.world.ledger().lease_gone(id);
                self.lease = None;
            }
            Some(Err(_)) | None => self.note(&format!("lease {id} was not renewed")),
        }
    }

    async fn grant(&mut self) {
        let asked = Instant::now();
        self.writes += 1;
        let id = i64::from(self.writes) * 10 + 1 + i64::try_from(self.number).unwrap_or(0);
        let ttl_seconds = self.rng.random_range(2..6);
        let answer = self.propose(LeaseGrant { id, ttl_seconds }.into()).await;
        let granted = matches!(
            answer,
            Some(Ok(Applied {
                reply: Reply::LeaseGrant(_),
                ..
            }))
        );
        self.note(&format!("granted {id} for {ttl_seconds} s: {granted}"));
        if granted {
            let ttl = Duration::from_secs(ttl_seconds.unsigned_abs());
            self.world.ledger().lease_lives(id, asked + ttl);
            self.lease = Some(id);
        }
    }

    async fn compact(&mut self) {
        let revision = self.world.ledger().newest() - KEPT;
        if revision < 2 {
            return;
        }
        let answer = self.propose(Compact { revision }.into()).await;
        self.note(&format!("compacted {revision}: {}", answer.is_some()));
    }
}
