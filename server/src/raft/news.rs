//! What happens in this member, for those that wait for something to become true.
//!
//! Promise: whoever takes the news before it looks misses nothing that happens after the look.
//! Not known here: what is waited for.

use openraft::async_runtime::watch::WatchReceiver as _;

use super::consensus::{Consensus, Leadership};
use super::types::WatchReceiver;
use crate::replica::ProposeError;

/// From the moment when it was taken on.
pub(super) struct News {
    applied: WatchReceiver<u64>,
    leadership: WatchReceiver<Leadership>,
}

impl Consensus {
    pub(super) fn news(&self) -> News {
        News {
            applied: self.watch_applied_index(),
            leadership: self.watch_leadership(),
        }
    }
}

impl News {
    /// Entries were applied, or the leader or its term is another. Fails once raft has stopped.
    pub(super) async fn next(&mut self) -> Result<(), ProposeError> {
        let told = tokio::select! {
            told = self.applied.changed() => told.is_ok(),
            told = self.leadership.changed() => told.is_ok(),
        };
        if told {
            Ok(())
        } else {
            Err(ProposeError::Stopped)
        }
    }
}
