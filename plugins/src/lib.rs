//! WebAssembly plugins: compiling them, running them, holding them to their limits.
//!
//! A component is checked and compiled by a [`Host`] into a [`Compiled`]; together with a
//! [`Manifest`] it is a [`Plugin`], which turns a [`Batch`] of events into [`Effects`]. Each
//! call has an instance of its own on a thread of the host's own.
//!
//! Promise: whatever a guest does costs its own call and ends in a typed error; it sees
//! what its manifest grants and reaches nothing else.
//! Not known here: keys, storage, raft, the server; what a plugin asks of the server goes
//! through [`HostCalls`].

mod budget;
mod capabilities;
mod component;
mod contract;
mod digest;
mod engine;
mod error;
mod grants;
mod hooks;
mod host_calls;
mod instance;
pub mod limits;
mod manifest;
mod plugin;
mod registry;
mod stderr;
#[cfg(feature = "testing")]
pub mod testing;
mod workers;

pub use component::Compiled;
pub use digest::Digest;
pub use engine::{Host, HostConfig};
pub use error::{
    CallError, ComponentError, Disposition, EffectsRefused, EngineFault, GuestTrap, HostError,
    SettingsError,
};
pub use grants::Prefix;
pub use hooks::{
    Batch, Cause, Descriptor, Effects, Event, EventType, KeyValue, Op, Position, Usage,
};
pub use host_calls::{
    HostCalls, HostFuture, LogLevel, LogLine, Metric, MetricValue, NoHostCalls, RangeRequest,
    RangeResponse, ReadError,
};
pub use instance::Call;
pub use limits::Limits;
pub use manifest::{
    BadName, LimitsDraft, Manifest, ManifestDraft, ManifestMistake, ManifestMistakes, PluginName,
    PrefixList, Settings,
};
pub use plugin::Plugin;
pub use registry::Registry;

/// The contract this release runs; `wit/` holds it.
pub const HOOKS_PACKAGE: &str = "sealkv:hooks@0.1.0";
