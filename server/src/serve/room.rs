//! How many clients a listener holds at once: as many as the process has file descriptors for,
//! but for those that the store, the log and the peers need.
//!
//! Promise: clients alone never leave the member without a descriptor; who comes past the bound
//! waits in the operating system's queue until another goes.
//! Source: etcd 3.7.1, `reservedInternalFDNum` in `server/embed/serve.go`; Go raises its own limit
//! as `raise_file_limit` does.

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::Semaphore;

/// Descriptors that are no clients'.
const RESERVED: u64 = 512;

/// Takes all the descriptors that this process may have.
pub fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => tracing::info!(limit = limit.maximum, "raised the limit of open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files could not be raised"),
    }
}

/// How many clients there may be on one listener.
#[must_use]
pub fn clients_max() -> usize {
    match getrlimit(Resource::Nofile).current {
        None => Semaphore::MAX_PERMITS,
        Some(limit) => within(limit),
    }
}

/// Of a limit that is too low for both, clients get half.
fn within(limit: u64) -> usize {
    let clients = limit.saturating_sub(RESERVED).max(limit / 2).max(1);
    usize::try_from(clients)
        .unwrap_or(usize::MAX)
        .min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_descriptors_are_never_clients() {
        assert_eq!(within(20_000), 20_000 - 512);
        assert_eq!(within(600), 300);
        assert_eq!(within(1), 1);
        assert_eq!(within(u64::MAX), Semaphore::MAX_PERMITS);
    }
}
