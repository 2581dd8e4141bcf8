//! How a server is told to stop.
//!
//! Promise: [`Shutdown`] begins once and stays begun; the first SIGTERM or SIGINT begins it, the
//! second ends the process at once, and a process stopped by a signal dies of that signal.
//! Not known here: what has to be stopped, and in which order.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use tokio_util::sync::CancellationToken;

use crate::logging;

/// Clones are one and the same.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    begun: CancellationToken,
    /// 0 until a signal came.
    signal: Arc<AtomicI32>,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// Anyone may ask: a signal, a poisoned state machine, a test.
    pub fn begin(&self) {
        self.begun.cancel();
    }

    pub fn is_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Completes as soon as it has begun, at once if it has already.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// For libraries that take one.
    pub fn token(&self) -> CancellationToken {
        self.begun.clone()
    }

    /// The signal that began it.
    pub fn signal(&self) -> Option<i32> {
        match self.signal.load(Ordering::Acquire) {
            0 => None,
            number => Some(number),
        }
    }

    /// From here on SIGTERM and SIGINT are heard, on a thread of its own: a second signal ends the
    /// process even if everything else hangs. SIGUSR1 makes the log say everything, SIGUSR2 what
    /// was configured. Once per process.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR1, SIGUSR2])?;
        let shutdown = self.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                for number in signals.forever() {
                    match number {
                        SIGUSR1 => {
                            logging::log_everything();
                            continue;
                        }
                        SIGUSR2 => {
                            logging::log_as_configured();
                            continue;
                        }
                        _ => {}
                    }
                    if shutdown.signal.swap(number, Ordering::AcqRel) != 0 {
                        die_of(number);
                    }
                    tracing::info!(signal = name(number), "received signal; shutting down");
                    shutdown.begin();
                }
            })?;
        Ok(())
    }
}

/// Ends the process as the signal would have, so that a supervisor sees why it ended.
pub fn die_of(number: i32) -> ! {
    // Returns only if the signal cannot be raised; the shell's convention says it then.
    let _ = signal_hook::low_level::emulate_default_handler(number);
    std::process::exit(128 + number);
}

fn name(number: i32) -> &'static str {
    match number {
        SIGTERM => "terminated",
        SIGINT => "interrupt",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clones_begin_together_and_stay_begun() {
        let shutdown = Shutdown::new();
        let waiting = shutdown.clone();
        let waiter = tokio::spawn(async move { waiting.begun().await });
        assert!(!shutdown.is_begun());
        shutdown.begin();
        shutdown.begin();
        waiter.await.unwrap();
        assert!(shutdown.is_begun());
        shutdown.begun().await;
        assert_eq!(shutdown.signal(), None);
    }
}
