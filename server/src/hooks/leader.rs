//! What delivery asks of the leader it runs on.
//!
//! The seam between delivery and raft: in tests a single state machine stands behind it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::access::{Internal, Permitted};
use crate::command::Body;
use crate::mvcc::read_view::ReadView;
use crate::raft::Consensus;
use crate::replica::{Applied, Pending, ProposeError, ReadIndexError, Replica};

pub(super) trait Leader: Send + Sync + 'static {
    /// The newest published view.
    fn view(&self) -> Arc<ReadView>;

    /// Moves with every applied batch, after its view is published.
    fn applied(&self) -> watch::Receiver<u64>;

    /// Whether this member leads in that term and has applied all that was committed before it.
    fn leads_in(&self, term: u64) -> bool;

    /// Never forwarded.
    fn propose(&self, body: Body) -> Pending<'_, Result<Applied, ProposeError>>;

    /// Returns once whatever was committed before the call is in the view.
    fn read_barrier(&self) -> Pending<'_, Result<(), ReadIndexError>>;
}

impl Leader for Consensus {
    fn view(&self) -> Arc<ReadView> {
        Consensus::view(self)
    }

    fn applied(&self) -> watch::Receiver<u64> {
        self.watch_applied()
    }

    fn leads_in(&self, term: u64) -> bool {
        self.leads_with_applied_term() && self.leadership().term == term
    }

    fn propose(&self, body: Body) -> Pending<'_, Result<Applied, ProposeError>> {
        let permitted = Permitted::internal(Internal::PluginEffects, body);
        Box::pin(self.propose_at_leader(permitted))
    }

    fn read_barrier(&self) -> Pending<'_, Result<(), ReadIndexError>> {
        Replica::read_barrier(self)
    }
}
