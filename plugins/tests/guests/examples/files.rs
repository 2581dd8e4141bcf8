//! Wants files and sockets, which no plugin gets.

use std::net::TcpStream;

use sealkv_plugin::{Batch, Effects, HandlerError, Plugin};

struct Files;

impl Plugin for Files {
    const NAME: &'static str = "files";
    const VERSION: &'static str = "0.1.0";

    fn on_events(_: Batch) -> Result<Effects, HandlerError> {
        let mut effects = Effects::none();
        let passwords = std::fs::read("/etc/passwd").unwrap_or_default();
        let connected = TcpStream::connect("127.0.0.1:2379").is_ok();
        effects.put("/out", passwords, i64::from(connected));
        Ok(effects)
    }
}

sealkv_plugin::export!(Files);
