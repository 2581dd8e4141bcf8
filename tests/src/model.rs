//! What an etcd store is, in the fewest words: an ordered map whose every revision is kept.
//!
//! Slow and plain on purpose, so that it can be believed. Knows puts, deletes, reads at a revision and
//! compaction; leases and transactions are the differential's business.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use rand::Rng;

use crate::client::Client;

/// Why the model refuses a read or a compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Compacted,
    Future,
}

pub struct Model {
    revision: i64,
    /// −1 until the first compaction, as in etcd.
    compact_revision: i64,
    /// For each key its records by mod revision; `None` is a tombstone.
    history: BTreeMap<Bytes, BTreeMap<i64, Option<KeyValue>>>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            revision: 1,
            compact_revision: -1,
            history: BTreeMap::new(),
        }
    }
}

impl Model {
    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn put(&mut self, key: &[u8], value: &[u8], lease: i64) -> Option<KeyValue> {
        self.revision += 1;
        let previous = self.at(key, self.revision);
        let record = KeyValue {
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
            create_revision: previous
                .as_ref()
                .map_or(self.revision, |kv| kv.create_revision),
            mod_revision: self.revision,
            version: previous.as_ref().map_or(0, |kv| kv.version) + 1,
            lease,
        };
        self.history
            .entry(record.key.clone())
            .or_default()
            .insert(self.revision, Some(record));
        previous
    }

    /// Removes a range; the revision moves only if something was there.
    pub fn delete(&mut self, key: &[u8], range_end: &[u8]) -> Vec<KeyValue> {
        let removed = self
            .range(key, range_end, 0)
            .expect("the newest revision can be read");
        if !removed.is_empty() {
            self.revision += 1;
        }
        for kv in &removed {
            self.history
                .entry(kv.key.clone())
                .or_default()
                .insert(self.revision, None);
        }
        removed
    }

    pub fn range(
        &self,
        key: &[u8],
        range_end: &[u8],
        revision: i64,
    ) -> Result<Vec<KeyValue>, Refusal> {
        let revision = self.readable(revision)?;
        let inside = |candidate: &[u8]| match range_end {
            b"" => candidate == key,
            b"\0" => candidate >= key,
            end => candidate >= key && candidate < end,
        };
        Ok(self
            .history
            .keys()
            .filter(|candidate| inside(candidate))
            .filter_map(|candidate| self.at(candidate, revision))
            .collect())
    }

    pub fn compact(&mut self, revision: i64) -> Result<(), Refusal> {
        match revision {
            revision if revision <= self.compact_revision => Err(Refusal::Compacted),
            revision if revision > self.revision => Err(Refusal::Future),
            revision => {
                self.compact_revision = revision;
                Ok(())
            }
        }
    }

    fn readable(&self, revision: i64) -> Result<i64, Refusal> {
        match revision {
            revision if revision <= 0 => Ok(self.revision),
            revision if revision > self.revision => Err(Refusal::Future),
            revision if revision < self.compact_revision => Err(Refusal::Compacted),
            revision => Ok(revision),
        }
    }

    fn at(&self, key: &[u8], revision: i64) -> Option<KeyValue> {
        self.history
            .get(key)?
            .range(..=revision)
            .next_back()?
            .1
            .clone()
    }
}

/// One random operation, put to the model and to a server; fails the test if their answers differ.
pub async fn random_step(rng: &mut impl Rng, model: &mut Model, client: &Client) {
    let key = Bytes::from(format!("k{}", rng.random_range(0..8)));
    let end = if rng.random_bool(0.3) {
        Bytes::from(format!("k{}", rng.random_range(0..9)))
    } else {
        Bytes::new()
    };
    match rng.random_range(0..100) {
        0..50 => {
            let value = Bytes::from(format!("v{}", rng.random_range(0..1_000)));
            let request = pb::PutRequest {
                key: key.clone(),
                value: value.clone(),
                prev_kv: true,
                ..Default::default()
            };
            let answer = client
                .put_request(request)
                .await
                .expect("a plain put is answered");
            assert_eq!(answer.prev_kv, model.put(&key, &value, 0));
            assert_eq!(
                answer.header.map(|header| header.revision),
                Some(model.revision())
            );
        }
        50..65 => {
            let request = pb::DeleteRangeRequest {
                key: key.clone(),
                range_end: end.clone(),
                prev_kv: true,
            };
            let answer = client
                .delete_range(request)
                .await
                .expect("a plain delete is answered");
            assert_eq!(answer.prev_kvs, model.delete(&key, &end));
            assert_eq!(
                answer.header.map(|header| header.revision),
                Some(model.revision())
            );
        }
        65..97 => {
            let revision = rng.random_range(-1..model.revision() + 2);
            let request = pb::RangeRequest {
                key: key.clone(),
                range_end: end.clone(),
                revision,
                ..Default::default()
            };
            compare(
                client.range(request).await.map(|answer| answer.kvs),
                model.range(&key, &end, revision),
            );
        }
        _ => {
            let revision = rng.random_range(0..model.revision() + 2);
            compare(
                client.compact(revision).await.map(|_| ()),
                model.compact(revision),
            );
        }
    }
}

fn compare<T: PartialEq + std::fmt::Debug>(
    server: Result<T, tonic::Status>,
    model: Result<T, Refusal>,
) {
    let server = server.map_err(|status| status.message().to_owned());
    let model = model.map_err(|refusal| match refusal {
        Refusal::Compacted => "etcdserver: mvcc: required revision has been compacted".to_owned(),
        Refusal::Future => "etcdserver: mvcc: required revision is a future revision".to_owned(),
    });
    assert_eq!(server, model);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_keeps_every_revision_of_a_key() {
        let mut model = Model::default();
        model.put(b"a", b"one", 0);
        model.put(b"a", b"two", 0);
        model.delete(b"a", b"");
        let values = |revision| {
            model
                .range(b"a", b"", revision)
                .map(|kvs| kvs.into_iter().map(|kv| kv.value).collect::<Vec<_>>())
        };
        assert_eq!(values(2), Ok(vec!["one".into()]));
        assert_eq!(values(3), Ok(vec!["two".into()]));
        assert_eq!(values(4), Ok(vec![]));
        assert_eq!(values(5), Err(Refusal::Future));
    }

    #[test]
    fn deleting_nothing_does_not_move_the_models_revision() {
        let mut model = Model::default();
        assert_eq!((model.delete(b"a", b"").len(), model.revision()), (0, 1));
    }

    #[test]
    fn the_model_reads_at_the_compacted_revision_and_not_below() {
        let mut model = Model::default();
        for value in ["1", "2", "3"] {
            model.put(b"a", value.as_bytes(), 0);
        }
        assert_eq!(model.compact(3), Ok(()));
        assert_eq!(model.compact(3), Err(Refusal::Compacted));
        assert_eq!(model.range(b"a", b"", 2), Err(Refusal::Compacted));
        assert_eq!(model.range(b"a", b"", 3).map(|kvs| kvs.len()), Ok(1));
    }
}
