//! The clocks. Everything else takes time as an argument.
//!
//! Not known here: what an instant is compared with.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Milliseconds since the Unix epoch by this machine's wall clock, which may jump; 0 before it.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
pub fn wall_ms() -> i64 {
    #[cfg(test)]
    if let Some(simulated) = SIMULATED_WALL_MS.get() {
        return simulated;
    }
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Time since this was first called; never jumps, never goes back. On a runtime whose time is
/// paused it is that runtime's.
#[must_use]
pub fn monotonic() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

#[cfg(test)]
thread_local! {
    static SIMULATED_WALL_MS: std::cell::Cell<Option<i64>> = const { std::cell::Cell::new(None) };
}

/// From now on this is the wall clock of the calling thread; none gives it the machine's again.
#[cfg(test)]
pub(crate) fn simulate_wall(ms: Option<i64>) {
    SIMULATED_WALL_MS.set(ms);
}
