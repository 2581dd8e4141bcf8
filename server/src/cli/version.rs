//! What `sealkv version` and `--version` print.

use super::CliError;
use super::output::{Format, print, print_json};
use crate::config::ETCD_VERSION;

pub(super) fn run(format: Format) -> Result<(), CliError> {
    match format {
        Format::Table => print(&version_text())?,
        Format::Json => print_json(&serde_json::json!({
            "sealkv": env!("CARGO_PKG_VERSION"),
            "etcd": ETCD_VERSION,
        }))?,
    }
    Ok(())
}

/// Two lines: ours, and the etcd whose behaviour this is.
pub fn version_text() -> String {
    format!(
        "sealkv {}\netcd Version: {ETCD_VERSION}\n",
        env!("CARGO_PKG_VERSION")
    )
}
