//! How far a migration has come, kept in a key of the target.
//!
//! Promise: every write to the target is one transaction with the state after it, and holds only
//! if the state before it still stands: a write is never applied twice or out of order, and a
//! second migration into the same target is found out.
//! Not known here: what is written.

use bytes::Bytes;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request as Op;
use proto::etcdserverpb as pb;
use serde::{Deserialize, Serialize};

use super::MigrateError;
use super::side::Side;

/// Below every key that a person would make; it goes when the migration is over.
pub(super) const STATE_KEY: &[u8] = b"\0sealkv-migrate";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Cluster id of the source, in hex, and the prefix.
    pub(super) source: String,
    pub(super) prefix: String,
    pub(super) phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// As of this revision of the source; keys below `next` are done.
    Copying {
        revision: i64,
        #[serde(with = "hex_bytes")]
        next: Bytes,
    },
    /// Everything up to and with this revision of the source is in the target.
    Following { revision: i64 },
}

mod hex_bytes {
    use bytes::Bytes;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = hex::decode(text).map_err(serde::de::Error::custom)?;
        Ok(bytes.into())
    }
}

/// The state as it stands in the target.
pub(super) struct Kept {
    pub(super) state: State,
    /// Of the key; 0 while there is none.
    mod_revision: i64,
}

impl Kept {
    pub(super) fn new(state: State) -> Self {
        Self {
            state,
            mod_revision: 0,
        }
    }

    /// What an earlier run left.
    pub(super) async fn find(target: &Side) -> Result<Option<Self>, MigrateError> {
        let request = pb::RangeRequest {
            key: Bytes::from_static(STATE_KEY),
            ..Default::default()
        };
        let found = target.range(request).await?;
        let Some(row) = found.kvs.first() else {
            return Ok(None);
        };
        let state =
            serde_json::from_slice(&row.value).map_err(|_| MigrateError::StateUnreadable)?;
        Ok(Some(Self {
            state,
            mod_revision: row.mod_revision,
        }))
    }

    /// Writes to the target, together with where that leads.
    pub(super) async fn commit(
        &mut self,
        target: &Side,
        mut writes: Vec<pb::RequestOp>,
        phase: Phase,
    ) -> Result<(), MigrateError> {
        let next = State {
            phase,
            ..self.state.clone()
        };
        let value = serde_json::to_vec(&next).expect("texts and numbers are JSON");
        writes.push(op(Op::RequestPut(pb::PutRequest {
            key: Bytes::from_static(STATE_KEY),
            value: value.into(),
            ..Default::default()
        })));
        let revision = self.write(target, writes, Some(&next)).await?;
        self.state = next;
        self.mod_revision = revision;
        Ok(())
    }

    /// The migration is over.
    pub(super) async fn remove(mut self, target: &Side) -> Result<(), MigrateError> {
        let delete = pb::DeleteRangeRequest {
            key: Bytes::from_static(STATE_KEY),
            ..Default::default()
        };
        let writes = vec![op(Op::RequestDeleteRange(delete))];
        self.write(target, writes, None).await.map(|_| ())
    }

    /// The revision of the write. An attempt whose answer was lost may have been applied: then
    /// the state is the next one already.
    async fn write(
        &mut self,
        target: &Side,
        writes: Vec<pb::RequestOp>,
        next: Option<&State>,
    ) -> Result<i64, MigrateError> {
        let request = pb::TxnRequest {
            compare: vec![pb::Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Mod.into(),
                key: Bytes::from_static(STATE_KEY),
                target_union: Some(TargetUnion::ModRevision(self.mod_revision)),
                ..Default::default()
            }],
            success: writes,
            failure: Vec::new(),
        };
        let answer = target.ask("write keys", |channel| {
            let request = target.request(request.clone());
            async move { Side::kv(channel).txn(request).await }
        });
        let answer = answer.await?;
        if answer.succeeded {
            return Ok(answer.header.map_or(0, |header| header.revision));
        }
        match (Self::find(target).await?, next) {
            (Some(found), Some(next)) if found.state == *next => Ok(found.mod_revision),
            (None, None) => Ok(0),
            _ => Err(MigrateError::Rival),
        }
    }
}

pub(super) fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_written() {
        for phase in [
            Phase::Copying {
                revision: 7,
                next: Bytes::from_static(b"\0\xff"),
            },
            Phase::Following { revision: 8 },
        ] {
            let state = State {
                source: "ab".into(),
                prefix: String::new(),
                phase,
            };
            let text = serde_json::to_vec(&state).unwrap();
            assert_eq!(serde_json::from_slice::<State>(&text).unwrap(), state);
        }
    }
}
