//! The plugin host, started when the first component comes, and what it has compiled.

use std::sync::Arc;

use plugins::{
    Compiled, ComponentError, Digest, Host, HostConfig, HostError, Manifest, ManifestDraft,
    ManifestMistakes, Registry,
};
use tokio::sync::OnceCell;

use crate::apply;
use crate::command::PluginSpec;
use crate::mvcc::read_view::ReadView;

/// Why a deployed component does not run here.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unrunnable {
    #[error(transparent)]
    Host(HostError),
    #[error("reading the component: {0}")]
    Stored(#[from] apply::ComponentError),
    #[error(transparent)]
    Component(#[from] ComponentError),
    #[error(transparent)]
    Manifest(#[from] ManifestMistakes),
    #[error("reading the component was interrupted")]
    Interrupted,
}

impl Unrunnable {
    /// Whether it is the component's own fault, the same on every member.
    pub(super) fn is_incompatible(&self) -> bool {
        match self {
            Unrunnable::Component(error) => !matches!(error, ComponentError::Stopped),
            Unrunnable::Manifest(_) | Unrunnable::Stored(apply::ComponentError::Digest) => true,
            Unrunnable::Host(_) | Unrunnable::Stored(_) | Unrunnable::Interrupted => false,
        }
    }
}

#[derive(Default)]
pub(super) struct Library {
    registry: OnceCell<Registry>,
}

impl Library {
    async fn registry(&self) -> Result<&Registry, HostError> {
        let started = || async { Host::new(&HostConfig::default()).map(Registry::new) };
        self.registry.get_or_try_init(started).await
    }

    pub(super) async fn compile(&self, component: Arc<[u8]>) -> Result<Compiled, Unrunnable> {
        let registry = self.registry().await.map_err(Unrunnable::Host)?;
        Ok(registry.compile(component).await?)
    }

    /// A deployed component, compiled now or before.
    pub(super) async fn deployed(
        &self,
        view: &Arc<ReadView>,
        spec: &PluginSpec,
    ) -> Result<Compiled, Unrunnable> {
        let registry = self.registry().await.map_err(Unrunnable::Host)?;
        if let Some(compiled) = registry.get(Digest::from_bytes(spec.sha256)) {
            return Ok(compiled);
        }
        let (view, spec) = (Arc::clone(view), spec.clone());
        let read = tokio::task::spawn_blocking(move || apply::component(&view, &spec));
        let component = read.await.map_err(|_| Unrunnable::Interrupted)??;
        Ok(registry.compile(component.into()).await?)
    }

    /// Forgets what is not deployed any more.
    pub(super) fn keep_deployed(&self, view: &ReadView) {
        if let Some(registry) = self.registry.get() {
            registry.retain(|digest| view.plugins.uses(digest.as_bytes()));
        }
    }
}

/// What the deploy fixed, as the host wants it.
pub(super) fn manifest(
    spec: &PluginSpec,
    compiled: &Compiled,
) -> Result<Manifest, ManifestMistakes> {
    let bytes = |prefixes: &[bytes::Bytes]| prefixes.iter().map(|it| it.to_vec()).collect();
    let draft = ManifestDraft {
        name: Some(spec.name.clone()),
        watch_prefixes: bytes(&spec.watch_prefixes),
        write_prefixes: bytes(&spec.write_prefixes),
        settings_json: spec.settings_json.clone(),
        prev_kv: spec.prev_kv,
        start_at_snapshot: spec.start_at_snapshot,
        ..ManifestDraft::default()
    };
    Manifest::parse(&draft, &compiled.describe().name, compiled.digest())
}
