//! Samples of the processor's time, taken from outside by a timer's signal.
//!
//! Promise: nothing is sampled unless somebody asks, and one asks at a time; whoever goes away
//! before the end ends the sampling too. Work on the samples is done beside the server's threads,
//! and the program's symbols are forgotten after it.
//! Samples within the C library, the unwinder and the kernel's page are left out: a stack cannot be
//! read safely from there.

use std::io;
use std::time::Duration;

use pprof::{Frames, ProfilerGuard, ProfilerGuardBuilder};
use thiserror::Error;
use tokio::sync::{Mutex, MutexGuard};

use super::profile::{Timing, encode};

/// Go's.
const SAMPLES_PER_SECOND: i32 = 100;
const NOT_SAMPLED: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

static IN_USE: Mutex<()> = Mutex::const_new(());

#[derive(Debug, Error)]
pub(super) enum CpuError {
    #[error("cpu profiling already in use")]
    InUse,
    #[error("{0}")]
    Profiler(#[from] pprof::Error),
    #[error("{0}")]
    Write(#[from] io::Error),
}

/// The timer and the signal, until it is dropped; then another may ask.
struct Sampling {
    // Dropped in this order.
    guard: ProfilerGuard<'static>,
    _alone: MutexGuard<'static, ()>,
}

/// A profile of this long, as `go tool pprof` reads it.
pub(super) async fn sample(length: Duration) -> Result<Vec<u8>, CpuError> {
    let alone = IN_USE.try_lock().map_err(|_| CpuError::InUse)?;
    let sampling = beside(move || {
        let guard = ProfilerGuardBuilder::default()
            .frequency(SAMPLES_PER_SECOND)
            .blocklist(&NOT_SAMPLED)
            .build()?;
        Ok(Sampling {
            guard,
            _alone: alone,
        })
    })
    .await?;
    tracing::info!(seconds = length.as_secs(), "sampling the processor's time");
    tokio::time::sleep(length).await;
    beside(move || {
        let report = sampling.guard.report().build_unresolved()?;
        drop(sampling);
        let timing = Timing {
            samples_per_second: report.timing.frequency,
            began: report.timing.start_time,
            length: report.timing.duration,
        };
        let stacks = report.data.into_iter();
        let stacks = stacks.map(|(frames, times)| (Frames::from(frames), times));
        let profile = encode(stacks, &timing);
        backtrace::clear_symbol_cache();
        Ok(profile?)
    })
    .await
}

/// Reading the program's symbols takes seconds.
async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CpuError> + Send + 'static,
) -> Result<T, CpuError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(CpuError::Write(io::Error::other(error))))
}
