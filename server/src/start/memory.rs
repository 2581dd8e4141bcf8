//! `--memory-mlock`: what this process has in memory is never written to swap.
//!
//! Promise: it holds for all memory, present and future, or the member does not start: a limit that
//! is met later would end the process in the middle of a request.

use std::io;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, geteuid, getrlimit};

/// Why memory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error(
        "--memory-mlock: at most {bytes} bytes may be locked; it needs no limit (ulimit -l \
         unlimited, LimitMEMLOCK=infinity)"
    )]
    Limited { bytes: u64 },
    #[error("--memory-mlock: memory cannot be locked: {0}")]
    Refused(io::Error),
}

/// Pages that are used from now on stay in memory; address space that nobody has touched takes
/// none.
pub(super) fn lock() -> Result<(), MemoryError> {
    if let Some(bytes) = getrlimit(Resource::Memlock).current
        && !geteuid().is_root()
    {
        return Err(MemoryError::Limited { bytes });
    }
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    mlockall(all).map_err(|error| MemoryError::Refused(error.into()))
}
