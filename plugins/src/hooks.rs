//! What passes through a hook: events in, effects out.
//!
//! Owns the plain Rust shape of the contract in `wit/`; the generated types stay inside
//! `contract.rs`. Values never appear in `Debug` output.
//! Not known here: WebAssembly, gRPC, storage.

use std::fmt;
use std::time::Duration;

/// A record as etcd's `mvccpb.KeyValue` has it.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Vec<u8>,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    /// `None` when the grant is keys only, or the key's prefix is sealed or destroyed.
    pub value: Option<Vec<u8>>,
    /// 0 for no lease.
    pub lease: i64,
}

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValue")
            .field("key", &self.key.escape_ascii().to_string())
            .field("create_revision", &self.create_revision)
            .field("mod_revision", &self.mod_revision)
            .field("version", &self.version)
            .field("value_bytes", &self.value.as_ref().map(Vec::len))
            .field("lease", &self.lease)
            .finish()
    }
}

impl KeyValue {
    /// Bytes this record adds to a batch.
    pub fn bytes(&self) -> usize {
        RECORD_OVERHEAD_BYTES + self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// The four integers and the two lengths of a record.
const RECORD_OVERHEAD_BYTES: usize = 48;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Put,
    Delete,
}

/// Why a change happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    Client,
    /// The key's lease expired or was revoked.
    Lease,
    /// Effects of the plugin of this name.
    Plugin(String),
    /// Nothing happened: the record is part of a snapshot.
    Snapshot,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub event_type: EventType,
    pub kv: KeyValue,
    /// The record before, where the manifest asks for it and there was one.
    pub prev_kv: Option<KeyValue>,
    pub cause: Cause,
}

impl Event {
    /// Bytes this event adds to a batch; compare with [`crate::limits::BATCH_BYTES_MAX`].
    pub fn bytes(&self) -> usize {
        self.kv.bytes() + self.prev_kv.as_ref().map_or(0, KeyValue::bytes)
    }
}

/// Where a plugin's cursor stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    Changes { revision: i64, sub_revision: u32 },
    Snapshot { revision: i64, last_key: Vec<u8> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// In revision order, then sub-revision order.
    pub events: Vec<Event>,
    /// Where the cursor stands once this batch is acknowledged.
    pub position: Position,
    /// Changes: the last revision in it is complete. Snapshot: its last page.
    pub is_final: bool,
    /// 1 for the first delivery.
    pub attempt: u32,
}

/// A write that a plugin asks for.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
        lease: i64,
    },
    /// As in etcd: an empty `range_end` deletes `key` alone.
    DeleteRange { key: Vec<u8>, range_end: Vec<u8> },
}

impl Op {
    pub fn key(&self) -> &[u8] {
        match self {
            Op::Put { key, .. } | Op::DeleteRange { key, .. } => key,
        }
    }

    /// Bytes of keys and values in it.
    pub fn bytes(&self) -> usize {
        match self {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::DeleteRange { key, range_end } => key.len() + range_end.len(),
        }
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key().escape_ascii().to_string();
        match self {
            Op::Put { value, lease, .. } => f
                .debug_struct("Put")
                .field("key", &key)
                .field("value_bytes", &value.len())
                .field("lease", lease)
                .finish(),
            Op::DeleteRange { range_end, .. } => f
                .debug_struct("DeleteRange")
                .field("key", &key)
                .field("range_end", &range_end.escape_ascii().to_string())
                .finish(),
        }
    }
}

/// The writes to commit together with the cursor. Checked against the limits and the
/// plugin's write prefixes before the caller sees them; in the order the plugin gave them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    pub ops: Vec<Op>,
}

/// What a plugin says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Follows the rules of plugin names.
    pub name: String,
    pub version: String,
    pub description: String,
    /// A JSON Schema, or "".
    pub settings_schema: String,
}

/// What one call cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// From the start of the instance, waiting for a thread not included.
    pub duration: Duration,
    /// The most linear memory the call held.
    pub memory_bytes: usize,
    pub host_calls: u32,
    /// Log lines beyond the plugin's rate.
    pub log_lines_dropped: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_no_value() {
        let kv = KeyValue {
            key: b"/k".to_vec(),
            create_revision: 1,
            mod_revision: 1,
            version: 1,
            value: Some(b"canary".to_vec()),
            lease: 0,
        };
        let put = Op::Put {
            key: b"/k".to_vec(),
            value: b"canary".to_vec(),
            lease: 0,
        };
        let shown = format!("{kv:?}{put:?}");
        assert!(shown.contains("/k"));
        assert!(!shown.contains("canary") && !shown.contains("99, 97, 110"));
    }
}
