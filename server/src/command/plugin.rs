//! Commands about plugins: what is deployed, in which state, and what a batch came to.

use std::cmp::Ordering;

use bytes::Bytes;
use proto::sealkv::replicated as wire;

use super::{BadBody, DeleteRange, Put, Wire};

/// A piece of a component, stored under the digest of the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginChunk {
    pub sha256: [u8; 32],
    pub index: u32,
    pub data: Bytes,
}

/// What a deploy fixes about a plugin, checked by the edge before it is proposed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PluginSpec {
    pub name: String,
    pub version: String,
    pub watch_prefixes: Vec<Bytes>,
    pub write_prefixes: Vec<Bytes>,
    pub settings_json: String,
    pub prev_kv: bool,
    pub start_at_snapshot: bool,
    pub sha256: [u8; 32],
    pub component_bytes: u64,
    pub chunks: u32,
}

/// Makes a component the next generation of the plugin of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeployPlugin {
    pub spec: PluginSpec,
}

/// The replicated part of a plugin's state; compiling and backing off are its runner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PluginState {
    #[default]
    Running,
    Paused,
    Suspended,
    Incompatible,
}

impl PluginState {
    pub(crate) fn number(self) -> u32 {
        match self {
            PluginState::Running => 0,
            PluginState::Paused => 1,
            PluginState::Suspended => 2,
            PluginState::Incompatible => 3,
        }
    }

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        [
            PluginState::Running,
            PluginState::Paused,
            PluginState::Suspended,
            PluginState::Incompatible,
        ]
        .into_iter()
        .find(|state| state.number() == number)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetPluginState {
    pub name: String,
    /// `None`: whichever generation there is. The runner names the one it judged.
    pub generation: Option<u64>,
    pub state: PluginState,
    /// Why; never a value.
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletePlugin {
    pub name: String,
}

/// How far a plugin has come. Everything up to and including it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    Changes {
        revision: i64,
        sub: u32,
    },
    /// Inside the contents of its ranges as they were at `revision`.
    Snapshot {
        revision: i64,
        last_key: Bytes,
    },
}

impl Position {
    #[must_use]
    pub fn revision(&self) -> i64 {
        match *self {
            Position::Changes { revision, .. } | Position::Snapshot { revision, .. } => revision,
        }
    }
}

/// A snapshot at a revision comes before the changes from that revision on.
impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let rank = |position: &Position| matches!(position, Position::Changes { .. });
        let within = match (self, other) {
            (Position::Changes { sub: a, .. }, Position::Changes { sub: b, .. }) => a.cmp(b),
            (Position::Snapshot { last_key: a, .. }, Position::Snapshot { last_key: b, .. }) => {
                a.cmp(b)
            }
            _ => rank(self).cmp(&rank(other)),
        };
        Some(self.revision().cmp(&other.revision()).then(within))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DeadLetter {
    pub revision: i64,
    pub sub: u32,
    pub key: Bytes,
    pub error: String,
    pub attempts: u32,
    pub recorded_ms: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum EffectOp {
    Put(Put),
    DeleteRange(DeleteRange),
}

/// What came of one batch: the cursor moves from `from` to `to`, and the effects happen with it
/// or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct CommitPlugin {
    pub name: String,
    pub generation: u64,
    pub term: u64,
    pub from: Position,
    pub to: Position,
    pub effects: Vec<EffectOp>,
    pub dead_letters: Vec<DeadLetter>,
    /// One more than the greatest number of hops among the events of the batch.
    pub hops: u8,
}

impl Wire for PluginChunk {
    type Message = wire::PluginChunk;
    fn to_wire(&self) -> wire::PluginChunk {
        wire::PluginChunk {
            sha256: Bytes::copy_from_slice(&self.sha256),
            index: self.index,
            data: self.data.clone(),
        }
    }
    fn from_wire(message: wire::PluginChunk) -> Result<Self, BadBody> {
        Ok(PluginChunk {
            sha256: digest(&message.sha256)?,
            index: message.index,
            data: message.data,
        })
    }
}

fn digest(bytes: &[u8]) -> Result<[u8; 32], BadBody> {
    bytes.try_into().map_err(|_| BadBody)
}

impl Wire for PluginSpec {
    type Message = wire::PluginSpec;
    fn to_wire(&self) -> wire::PluginSpec {
        wire::PluginSpec {
            name: self.name.clone(),
            version: self.version.clone(),
            watch_prefixes: self.watch_prefixes.clone(),
            write_prefixes: self.write_prefixes.clone(),
            settings_json: self.settings_json.clone(),
            prev_kv: self.prev_kv,
            start_at_snapshot: self.start_at_snapshot,
            sha256: Bytes::copy_from_slice(&self.sha256),
            component_bytes: self.component_bytes,
            chunks: self.chunks,
        }
    }
    fn from_wire(message: wire::PluginSpec) -> Result<Self, BadBody> {
        Ok(PluginSpec {
            name: message.name,
            version: message.version,
            watch_prefixes: message.watch_prefixes,
            write_prefixes: message.write_prefixes,
            settings_json: message.settings_json,
            prev_kv: message.prev_kv,
            start_at_snapshot: message.start_at_snapshot,
            sha256: digest(&message.sha256)?,
            component_bytes: message.component_bytes,
            chunks: message.chunks,
        })
    }
}

impl Wire for DeployPlugin {
    type Message = wire::DeployPlugin;
    fn to_wire(&self) -> wire::DeployPlugin {
        wire::DeployPlugin {
            spec: Some(self.spec.to_wire()),
        }
    }
    fn from_wire(message: wire::DeployPlugin) -> Result<Self, BadBody> {
        Ok(DeployPlugin {
            spec: PluginSpec::from_wire(message.spec.ok_or(BadBody)?)?,
        })
    }
}

impl Wire for SetPluginState {
    type Message = wire::SetPluginState;
    fn to_wire(&self) -> wire::SetPluginState {
        wire::SetPluginState {
            name: self.name.clone(),
            generation: self.generation.unwrap_or(0),
            state: self.state.number(),
            reason: self.reason.clone(),
        }
    }
    fn from_wire(message: wire::SetPluginState) -> Result<Self, BadBody> {
        Ok(SetPluginState {
            name: message.name,
            generation: Some(message.generation).filter(|&generation| generation != 0),
            state: PluginState::from_number(message.state).ok_or(BadBody)?,
            reason: message.reason,
        })
    }
}

impl Wire for DeletePlugin {
    type Message = wire::DeletePlugin;
    fn to_wire(&self) -> wire::DeletePlugin {
        wire::DeletePlugin {
            name: self.name.clone(),
        }
    }
    fn from_wire(message: wire::DeletePlugin) -> Result<Self, BadBody> {
        Ok(DeletePlugin { name: message.name })
    }
}

impl Wire for Position {
    type Message = wire::Position;
    fn to_wire(&self) -> wire::Position {
        let (revision, at) = match self {
            Position::Changes { revision, sub } => {
                (*revision, wire::position::At::SubRevision(*sub))
            }
            Position::Snapshot { revision, last_key } => {
                (*revision, wire::position::At::LastKey(last_key.clone()))
            }
        };
        wire::Position {
            revision,
            at: Some(at),
        }
    }
    fn from_wire(message: wire::Position) -> Result<Self, BadBody> {
        let revision = message.revision;
        Ok(match message.at.ok_or(BadBody)? {
            wire::position::At::SubRevision(sub) => Position::Changes { revision, sub },
            wire::position::At::LastKey(last_key) => Position::Snapshot { revision, last_key },
        })
    }
}

impl Wire for DeadLetter {
    type Message = wire::DeadLetter;
    fn to_wire(&self) -> wire::DeadLetter {
        wire::DeadLetter {
            revision: self.revision,
            sub_revision: self.sub,
            key: self.key.clone(),
            error: self.error.clone(),
            attempts: self.attempts,
            recorded_ms: self.recorded_ms,
        }
    }
    fn from_wire(message: wire::DeadLetter) -> Result<Self, BadBody> {
        Ok(DeadLetter {
            revision: message.revision,
            sub: message.sub_revision,
            key: message.key,
            error: message.error,
            attempts: message.attempts,
            recorded_ms: message.recorded_ms,
        })
    }
}

impl Wire for EffectOp {
    type Message = wire::EffectOp;
    fn to_wire(&self) -> wire::EffectOp {
        let op = match self {
            EffectOp::Put(put) => wire::effect_op::Op::Put(put.to_wire()),
            EffectOp::DeleteRange(delete) => wire::effect_op::Op::DeleteRange(delete.to_wire()),
        };
        wire::EffectOp { op: Some(op) }
    }
    fn from_wire(message: wire::EffectOp) -> Result<Self, BadBody> {
        Ok(match message.op.ok_or(BadBody)? {
            wire::effect_op::Op::Put(put) => EffectOp::Put(Put::from_wire(put)?),
            wire::effect_op::Op::DeleteRange(delete) => {
                EffectOp::DeleteRange(DeleteRange::from_wire(delete)?)
            }
        })
    }
}

impl Wire for CommitPlugin {
    type Message = wire::CommitPlugin;
    fn to_wire(&self) -> wire::CommitPlugin {
        wire::CommitPlugin {
            name: self.name.clone(),
            generation: self.generation,
            term: self.term,
            from: Some(self.from.to_wire()),
            to: Some(self.to.to_wire()),
            effects: self.effects.iter().map(Wire::to_wire).collect(),
            dead_letters: self.dead_letters.iter().map(Wire::to_wire).collect(),
            hops: u32::from(self.hops),
        }
    }
    fn from_wire(message: wire::CommitPlugin) -> Result<Self, BadBody> {
        Ok(CommitPlugin {
            name: message.name,
            generation: message.generation,
            term: message.term,
            from: Position::from_wire(message.from.ok_or(BadBody)?)?,
            to: Position::from_wire(message.to.ok_or(BadBody)?)?,
            effects: message
                .effects
                .into_iter()
                .map(EffectOp::from_wire)
                .collect::<Result<_, _>>()?,
            dead_letters: message
                .dead_letters
                .into_iter()
                .map(DeadLetter::from_wire)
                .collect::<Result<_, _>>()?,
            hops: u8::try_from(message.hops).map_err(|_| BadBody)?,
        })
    }
}
