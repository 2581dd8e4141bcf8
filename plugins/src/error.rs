//! What can go wrong with a component and with a call into it.
//!
//! Promise: whatever a guest does ends in one of these, never in a panic.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::hooks::Op;
use crate::limits::{COMPONENT_BYTES_MAX, EFFECT_BYTES_MAX, EFFECT_OPS_MAX, MIB};
use crate::manifest::BadName;

/// Why the host could not be started.
#[derive(Debug, Error)]
pub enum HostError {
    #[error("the plugin engine does not work on this machine")]
    Engine(#[source] EngineFault),
    #[error("no threads for plugins")]
    Threads(#[source] std::io::Error),
}

/// Why a component is not one that can be deployed.
#[derive(Debug, Error)]
pub enum ComponentError {
    #[error("{bytes} bytes are more than {} MiB", COMPONENT_BYTES_MAX / MIB)]
    TooLarge { bytes: usize },
    #[error("no WebAssembly")]
    NotWasm,
    #[error("a core module, not a component; in Rust build with --target wasm32-wasip2")]
    CoreModule,
    #[error("no valid component: {0}")]
    Invalid(#[source] EngineFault),
    /// As the component names them, such as `wasi:sockets/tcp@0.2.6`.
    #[error("imports what plugins do not get: {}", .imports.join(", "))]
    ForbiddenImports { imports: Vec<String> },
    #[error("an admission plugin, which this release does not run")]
    Admission,
    #[error("made for {found}, this release runs {supported}", supported = crate::HOOKS_PACKAGE)]
    HooksVersion { found: String },
    #[error("does not export {missing}")]
    NoWatcher { missing: &'static str },
    #[error("imports or exports something with another type than the contract: {0}")]
    Contract(#[source] EngineFault),
    #[error("describe failed: {0}")]
    Describe(#[source] CallError),
    #[error("describes itself with a bad name: {0}")]
    Name(#[source] BadName),
    #[error("describes itself with more than {bytes_max} bytes of {field}")]
    DescriptorTooLarge {
        field: &'static str,
        bytes_max: usize,
    },
    #[error("its settings schema is no JSON object")]
    SettingsSchema,
    #[error("the plugin host is stopping")]
    Stopped,
}

/// Why settings were not accepted.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The plugin's own words, at most [`crate::limits::MESSAGE_BYTES_MAX`] bytes.
    #[error("the plugin refuses its settings: {message}")]
    Refused { message: String },
    #[error("validate-settings failed: {0}")]
    Call(#[source] CallError),
}

/// Why a call gave no effects. `Display` holds no key and no value but for what the plugin
/// itself wrote into `message`.
#[derive(Debug, Error)]
pub enum CallError {
    /// The plugin asks for the same batch again.
    #[error("retry: {message}")]
    Retry {
        message: String,
        /// Not earlier than this; at most [`crate::limits::RETRY_AFTER_MAX`].
        after: Option<Duration>,
    },
    /// The plugin says that this batch will never work.
    #[error("rejected: {message}")]
    Reject { message: String },
    #[error("effects refused: {0}")]
    Effects(#[from] EffectsRefused),
    #[error("no answer within {} ms", limit.as_millis())]
    Deadline { limit: Duration },
    #[error("needs more than {} MiB of memory", limit_bytes / MIB)]
    Memory { limit_bytes: usize },
    #[error("needs larger tables than allowed")]
    Tables,
    #[error("stack overflow")]
    Stack,
    #[error("more than {limit} host calls")]
    HostCalls { limit: u32 },
    #[error("trapped: {0}")]
    Trap(GuestTrap),
    /// `wasi:cli/exit`; nothing a plugin should do.
    #[error("exited with status {status}")]
    Exit { status: i32 },
    /// An answer or a host call that is not what the contract says, or larger than the
    /// host takes.
    #[error("broke the contract: {0}")]
    Malformed(#[source] EngineFault),
    /// The host is stopping, or the server's own side of a host call failed.
    #[error("the plugin host gave up the call")]
    Abandoned,
}

/// What to do after a call that gave no effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Deliver the batch again, not earlier than this; does not count as a trap.
    Retry { after: Option<Duration> },
    /// The same input will not work: bisect and dead-letter, or suspend.
    Reject,
    /// The guest broke down. Counts towards its suspension; retry with back-off.
    Fault,
    /// Nobody's fault: run it again when the host is back.
    Abandoned,
}

impl CallError {
    pub fn disposition(&self) -> Disposition {
        match self {
            CallError::Retry { after, .. } => Disposition::Retry { after: *after },
            CallError::Reject { .. } | CallError::Effects(_) => Disposition::Reject,
            CallError::Deadline { .. }
            | CallError::Memory { .. }
            | CallError::Tables
            | CallError::Stack
            | CallError::HostCalls { .. }
            | CallError::Trap(_)
            | CallError::Exit { .. }
            | CallError::Malformed(_) => Disposition::Fault,
            CallError::Abandoned => Disposition::Abandoned,
        }
    }
}

/// Effects that are not committed. `op` counts from 0 in the plugin's order.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EffectsRefused {
    #[error("{ops} operations are more than {EFFECT_OPS_MAX}")]
    TooMany { ops: usize },
    #[error("{bytes} bytes are more than {EFFECT_BYTES_MAX}")]
    TooLarge { bytes: usize },
    #[error("operation {op}: empty key")]
    EmptyKey { op: usize },
    #[error("operation {op}: negative lease")]
    NegativeLease { op: usize },
    #[error("operation {op}: outside the plugin's write prefixes")]
    OutsideWritePrefixes { op: usize },
}

impl EffectsRefused {
    /// Holds the operations against every limit that needs no manifest but its prefixes.
    pub(crate) fn check(
        ops: &[Op],
        may_write: impl Fn(&[u8], &[u8]) -> bool,
    ) -> Result<(), EffectsRefused> {
        if ops.len() > EFFECT_OPS_MAX {
            return Err(EffectsRefused::TooMany { ops: ops.len() });
        }
        let bytes = ops.iter().map(Op::bytes).sum();
        if bytes > EFFECT_BYTES_MAX {
            return Err(EffectsRefused::TooLarge { bytes });
        }
        for (op, asked) in ops.iter().enumerate() {
            let range_end = match asked {
                Op::Put { lease, .. } if *lease < 0 => {
                    return Err(EffectsRefused::NegativeLease { op });
                }
                Op::Put { .. } => &[][..],
                Op::DeleteRange { range_end, .. } => range_end,
            };
            if asked.key().is_empty() {
                return Err(EffectsRefused::EmptyKey { op });
            }
            if !may_write(asked.key(), range_end) {
                return Err(EffectsRefused::OutsideWritePrefixes { op });
            }
        }
        Ok(())
    }
}

/// Where a guest stopped.
#[derive(Debug)]
pub struct GuestTrap {
    pub(crate) code: wasmtime::Trap,
    pub(crate) detail: EngineFault,
}

impl GuestTrap {
    /// With the guest's stack; function names are the plugin's.
    pub fn detail(&self) -> &EngineFault {
        &self.detail
    }
}

impl fmt::Display for GuestTrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)
    }
}

/// What the WebAssembly engine says, the whole chain on one line.
pub struct EngineFault(pub(crate) wasmtime::Error);

impl From<wasmtime::Error> for EngineFault {
    fn from(error: wasmtime::Error) -> Self {
        EngineFault(error)
    }
}

impl fmt::Display for EngineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl fmt::Debug for EngineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for EngineFault {}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &[u8], value_bytes: usize) -> Op {
        Op::Put {
            key: key.to_vec(),
            value: vec![0; value_bytes],
            lease: 0,
        }
    }

    fn check(ops: &[Op]) -> Result<(), EffectsRefused> {
        EffectsRefused::check(ops, |key, _| key.starts_with(b"/w/"))
    }

    #[test]
    fn effects_within_the_limits_pass() {
        let range = Op::DeleteRange {
            key: b"/w/a".to_vec(),
            range_end: b"/w/b".to_vec(),
        };
        assert_eq!(check(&[put(b"/w/k", 1), range]), Ok(()));
        assert_eq!(check(&vec![put(b"/w/k", 1); EFFECT_OPS_MAX]), Ok(()));
    }

    #[test]
    fn each_limit_on_effects_refuses_by_name() {
        let many = vec![put(b"/w/k", 1); EFFECT_OPS_MAX + 1];
        assert_eq!(
            check(&many),
            Err(EffectsRefused::TooMany {
                ops: EFFECT_OPS_MAX + 1
            })
        );
        assert_eq!(
            check(&[put(b"/w/k", EFFECT_BYTES_MAX)]),
            Err(EffectsRefused::TooLarge {
                bytes: EFFECT_BYTES_MAX + 4
            })
        );
        assert_eq!(
            check(&[put(b"/w/k", 1), put(b"", 1)]),
            Err(EffectsRefused::EmptyKey { op: 1 })
        );
        assert_eq!(
            check(&[put(b"/x", 1)]),
            Err(EffectsRefused::OutsideWritePrefixes { op: 0 })
        );
        let leased = Op::Put {
            key: b"/w/k".to_vec(),
            value: Vec::new(),
            lease: -1,
        };
        assert_eq!(
            check(&[leased]),
            Err(EffectsRefused::NegativeLease { op: 0 })
        );
    }

    #[test]
    fn a_plugins_own_refusal_is_not_a_fault() {
        let after = Some(Duration::from_secs(1));
        let retry = CallError::Retry {
            message: String::new(),
            after,
        };
        assert_eq!(retry.disposition(), Disposition::Retry { after });
        assert_eq!(CallError::Stack.disposition(), Disposition::Fault);
        assert_eq!(
            CallError::Effects(EffectsRefused::TooMany { ops: 9 }).disposition(),
            Disposition::Reject
        );
    }
}
