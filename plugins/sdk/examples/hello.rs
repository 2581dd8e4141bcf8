//! The smallest plugin: says how many events it saw.

use sealkv_plugin::{Batch, Effects, HandlerError, Plugin, log};

struct Hello;

impl Plugin for Hello {
    const NAME: &'static str = "hello";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn on_events(batch: Batch) -> Result<Effects, HandlerError> {
        log::info("hello", &format!("{} events", batch.events.len()));
        Ok(Effects::none())
    }
}

sealkv_plugin::export!(Hello);
