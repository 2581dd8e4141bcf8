//! Where work that blocks is done.
//!
//! On threads, but in the simulation, where nothing may run beside anything else: there it is
//! done by whoever asks for it.

use std::io;

/// How a state machine is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Executor {
    /// On threads of its own.
    Threads,
    /// By whoever asks, at once.
    #[cfg(test)]
    Inline,
}

/// Does work that blocks, and waits for it without blocking.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    #[cfg(test)]
    if super::sim::is_simulated() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
}
