//! The contract in `wit/` as Rust, and the way between its types and those of `hooks.rs`.
//!
//! The generated types stay inside this crate, so that a second version of the contract
//! can stand beside the first without its callers noticing.

use std::time::Duration;

use crate::error::CallError;
use crate::hooks::{Batch, Cause, Descriptor, Effects, Event, EventType, KeyValue, Op, Position};
use crate::host_calls::{LogLevel, RangeResponse, ReadError};
use crate::limits::{MESSAGE_BYTES_MAX, RETRY_AFTER_MAX};

mod generated {
    wasmtime::component::bindgen!({
        path: "wit/v0.1.0",
        world: "watch-plugin",
        imports: { default: async | trappable },
        exports: { default: async },
        with: { "sealkv:hooks/secrets.secret": super::NoSecret },
    });
}

pub(crate) use generated::exports::sealkv::hooks::lifecycle::Descriptor as WitDescriptor;
pub(crate) use generated::exports::sealkv::hooks::watcher::Batch as WitBatch;
use generated::exports::sealkv::hooks::watcher::{
    ChangesPosition, Effects as WitEffects, Position as WitPosition, SnapshotPosition,
};
pub(crate) use generated::sealkv::hooks::{config, kv, lease, logging, metrics, secrets, types};
pub(crate) use generated::{WatchPlugin, WatchPluginPre};

/// No plugin is granted a secret yet, so none can be held.
#[expect(unreachable_pub, reason = "the generated module re-exports it as pub")]
pub enum NoSecret {}

impl From<KeyValue> for types::KeyValue {
    fn from(kv: KeyValue) -> Self {
        types::KeyValue {
            key: kv.key,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            value: kv.value,
            lease: kv.lease,
        }
    }
}

impl From<Event> for types::Event {
    fn from(event: Event) -> Self {
        let (cause, origin) = match event.cause {
            Cause::Client => (types::Cause::Client, None),
            Cause::Lease => (types::Cause::Lease, None),
            Cause::Plugin(name) => (types::Cause::Plugin, Some(name)),
            Cause::Snapshot => (types::Cause::Snapshot, None),
        };
        types::Event {
            event_type: match event.event_type {
                EventType::Put => types::EventType::Put,
                EventType::Delete => types::EventType::Delete,
            },
            kv: event.kv.into(),
            prev_kv: event.prev_kv.map(Into::into),
            cause,
            origin,
        }
    }
}

impl From<Batch> for WitBatch {
    fn from(batch: Batch) -> Self {
        WitBatch {
            events: batch.events.into_iter().map(Into::into).collect(),
            position: match batch.position {
                Position::Changes {
                    revision,
                    sub_revision,
                } => WitPosition::Changes(ChangesPosition {
                    revision,
                    sub_revision,
                }),
                Position::Snapshot { revision, last_key } => {
                    WitPosition::Snapshot(SnapshotPosition { revision, last_key })
                }
            },
            final_: batch.is_final,
            attempt: batch.attempt,
        }
    }
}

impl From<WitEffects> for Effects {
    fn from(effects: WitEffects) -> Self {
        let op = |op| match op {
            types::Op::Put(put) => Op::Put {
                key: put.key,
                value: put.value,
                lease: put.lease,
            },
            types::Op::DeleteRange(range) => Op::DeleteRange {
                key: range.key,
                range_end: range.range_end,
            },
        };
        Effects {
            ops: effects.ops.into_iter().map(op).collect(),
        }
    }
}

impl From<WitDescriptor> for Descriptor {
    fn from(descriptor: WitDescriptor) -> Self {
        Descriptor {
            name: descriptor.name,
            version: descriptor.version,
            description: descriptor.description,
            settings_schema: descriptor.settings_schema,
        }
    }
}

impl From<types::HandlerError> for CallError {
    fn from(error: types::HandlerError) -> Self {
        match error {
            types::HandlerError::Retry(retry) => CallError::Retry {
                message: shorten(retry.message, MESSAGE_BYTES_MAX),
                after: retry
                    .after_ms
                    .map(|ms| Duration::from_millis(ms).min(RETRY_AFTER_MAX)),
            },
            types::HandlerError::Reject(message) => CallError::Reject {
                message: shorten(message, MESSAGE_BYTES_MAX),
            },
        }
    }
}

impl From<ReadError> for kv::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::PermissionDenied => kv::Error::PermissionDenied,
            ReadError::Compacted { compact_revision } => kv::Error::Compacted(compact_revision),
            ReadError::FutureRevision => {
                kv::Error::InvalidArgument("the revision is not there yet".to_owned())
            }
            ReadError::TooLarge => kv::Error::TooLarge,
            ReadError::QuotaExceeded => kv::Error::QuotaExceeded,
            ReadError::Unavailable => kv::Error::Unavailable,
        }
    }
}

impl From<RangeResponse> for kv::RangeResponse {
    fn from(response: RangeResponse) -> Self {
        kv::RangeResponse {
            kvs: response.kvs.into_iter().map(Into::into).collect(),
            more: response.more,
            count: response.count,
            revision: response.revision,
        }
    }
}

impl From<logging::Level> for LogLevel {
    fn from(level: logging::Level) -> Self {
        match level {
            logging::Level::Trace => LogLevel::Trace,
            logging::Level::Debug => LogLevel::Debug,
            logging::Level::Info => LogLevel::Info,
            logging::Level::Warn => LogLevel::Warn,
            logging::Level::Error => LogLevel::Error,
            logging::Level::Critical => LogLevel::Critical,
        }
    }
}

/// Cuts a guest's text to a number of bytes, at a character.
pub(crate) fn shorten(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_a_character() {
        assert_eq!(shorten("aéb".to_owned(), 2), "a");
        assert_eq!(shorten("aéb".to_owned(), 3), "aé");
        assert_eq!(shorten("aéb".to_owned(), 9), "aéb");
    }

    #[test]
    fn a_plugin_cannot_ask_to_wait_for_ever() {
        let error = types::HandlerError::Retry(types::RetryInfo {
            message: "x".repeat(5_000),
            after_ms: Some(u64::MAX),
        });
        let CallError::Retry { message, after } = error.into() else {
            panic!("a retry stays a retry");
        };
        assert_eq!(message.len(), MESSAGE_BYTES_MAX);
        assert_eq!(after, Some(RETRY_AFTER_MAX));
    }
}
