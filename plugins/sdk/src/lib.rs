//! Write sealkv plugins in Rust.
//!
//! ```
//! use sealkv_plugin::{Batch, Effects, HandlerError, Plugin, log};
//!
//! struct Hello;
//!
//! impl Plugin for Hello {
//!     const NAME: &'static str = "hello";
//!     const VERSION: &'static str = env!("CARGO_PKG_VERSION");
//!
//!     fn on_events(batch: Batch) -> Result<Effects, HandlerError> {
//!         log::info("hello", &format!("{} events", batch.events.len()));
//!         Ok(Effects::none())
//!     }
//! }
//!
//! sealkv_plugin::export!(Hello);
//! # fn main() {}
//! ```
//!
//! The crate type is `cdylib`; `cargo build --release --target wasm32-wasip2` gives the
//! component to deploy. Each call runs in an instance of its own: nothing kept in a static
//! is there the next time. What must be remembered is written with the effects, which
//! commit together with the plugin's cursor, once.

mod bindings;
mod effects;
mod plugin;

pub use bindings::exports::sealkv::hooks::watcher::{
    Batch, ChangesPosition, Effects, Position, SnapshotPosition,
};
pub use bindings::sealkv::hooks::types::{
    Cause, DeleteRangeOp, Event, EventType, HandlerError, KeyValue, LeaseId, Op, PutOp, RetryInfo,
    Revision,
};
pub use bindings::sealkv::hooks::{config, kv, lease, metrics, secrets};
pub use plugin::Plugin;

#[doc(hidden)]
pub use bindings::export_watch_plugin;
#[doc(hidden)]
pub use plugin::Exported;

/// The generated contract, for what this crate does not wrap.
#[doc(hidden)]
pub mod __bindings {
    pub use crate::bindings::*;
}

/// Log lines; those beyond the plugin's rate are dropped and counted.
pub mod log {
    use crate::bindings::sealkv::hooks::logging::{Level, log};

    pub fn debug(context: &str, message: &str) {
        log(Level::Debug, context, message);
    }

    pub fn info(context: &str, message: &str) {
        log(Level::Info, context, message);
    }

    pub fn warn(context: &str, message: &str) {
        log(Level::Warn, context, message);
    }

    pub fn error(context: &str, message: &str) {
        log(Level::Error, context, message);
    }
}

/// Makes a type that implements [`Plugin`] the plugin of this component. Once per crate.
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        type __SealkvPlugin = $crate::Exported<$plugin>;
        $crate::export_watch_plugin!(__SealkvPlugin with_types_in $crate::__bindings);
    };
}
