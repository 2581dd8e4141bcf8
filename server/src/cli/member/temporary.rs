//! A member that runs inside a command, for as long as the command needs it.
//!
//! Promise: it logs as its flags say; a signal stops it as it stops a server.
//! Not known here: what it is needed for.

use tokio::sync::oneshot;

use super::RebuildFailed;
use crate::config::Config;
use crate::logging;
use crate::shutdown::Shutdown;
use crate::start::{self, StartError};

pub(super) struct Temporary {
    shutdown: Shutdown,
    /// Taken once it has said how it ended.
    outcome: oneshot::Receiver<Result<(), StartError>>,
}

impl Temporary {
    pub(super) fn start(config: Config) -> Result<Self, RebuildFailed> {
        logging::start(
            config.log_level,
            config.log_format,
            &config.log_outputs,
            config.log_rotation,
        )
        .map_err(|error| RebuildFailed::Logging(error.to_string()))?;
        let shutdown = Shutdown::new();
        let (said, outcome) = oneshot::channel();
        let stopping = shutdown.clone();
        std::thread::Builder::new()
            .name("member".to_owned())
            .spawn(move || {
                // Whoever does not listen any more ends with the process.
                let _ = said.send(start::run(config, stopping));
            })
            .map_err(RebuildFailed::Thread)?;
        Ok(Self { shutdown, outcome })
    }

    /// Returns when it has ended without having been asked to by us.
    pub(super) async fn ended(&mut self) -> RebuildFailed {
        match (&mut self.outcome).await {
            Ok(Err(error)) => error.into(),
            Ok(Ok(())) | Err(_) => RebuildFailed::Stopped,
        }
    }

    /// As a SIGTERM would.
    pub(super) async fn stop(self) -> Result<(), RebuildFailed> {
        self.shutdown.begin();
        match self.outcome.await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(RebuildFailed::Stopped),
        }
    }
}
