//! The plugins of a member, or their absence in a build without them.

use crate::raft::Consensus;
use crate::rpc::{Edge, PluginsService};
use crate::seal::Sealer;

#[cfg(feature = "plugins")]
pub(super) struct Plugins(crate::hooks::Hooks);

#[cfg(feature = "plugins")]
impl Plugins {
    pub(super) fn new(consensus: &Consensus, sealer: &Sealer, quota_bytes: Option<u64>) -> Self {
        let (consensus, sealer) = (consensus.clone(), sealer.clone());
        Plugins(crate::hooks::Hooks::new(consensus, sealer, quota_bytes))
    }

    /// Delivers while this member leads.
    pub(super) fn start(&self) {
        tokio::spawn(self.0.clone().run());
    }

    /// Commits how far every plugin has come.
    pub(super) async fn stop(&self) {
        self.0.stop().await;
    }

    pub(super) fn service(&self, edge: &Edge) -> PluginsService {
        PluginsService::new(edge.clone(), self.0.clone())
    }
}

#[cfg(not(feature = "plugins"))]
pub(super) struct Plugins;

#[cfg(not(feature = "plugins"))]
impl Plugins {
    pub(super) fn new(_: &Consensus, _: &Sealer, _: Option<u64>) -> Self {
        Plugins
    }

    pub(super) fn start(&self) {}

    pub(super) async fn stop(&self) {}

    pub(super) fn service(&self, _: &Edge) -> PluginsService {
        PluginsService
    }
}
