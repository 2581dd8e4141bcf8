//! What `sealkv version` and `--version` print.

use crate::config::ETCD_VERSION;

/// Two lines: ours, and the etcd whose behaviour this is.
pub fn version_text() -> String {
    format!(
        "sealkv {}\netcd Version: {ETCD_VERSION}\n",
        env!("CARGO_PKG_VERSION")
    )
}
