//! From an upload to what is replicated.
//!
//! Promise: nothing is proposed for a component that does not compile here, describe itself,
//! follow the rules and accept its settings. The component is stored before the entry that makes
//! it the plugin's next generation.
//! Not known here: gRPC; who may deploy.

use std::sync::Arc;

use bytes::Bytes;
use plugins::limits::COMPONENT_BYTES_MAX;
use plugins::{ManifestDraft, ManifestMistakes, NoHostCalls, Plugin, SettingsError};

use super::library::{self, Library, Unrunnable};
use crate::command::{PluginChunk, PluginSpec};

/// What one entry carries: small enough that heartbeats pass between two of them.
const CHUNK_BYTES: usize = 512 * 1024;

/// As it came from the operator.
#[derive(Clone, Default)]
pub struct Upload {
    /// Empty takes the component's own name.
    pub name: String,
    pub watch_prefixes: Vec<Bytes>,
    pub write_prefixes: Vec<Bytes>,
    pub settings_json: String,
    pub prev_kv: bool,
    pub start_at_snapshot: bool,
    /// Hexadecimal; empty: any.
    pub sha256: String,
    pub component: Vec<u8>,
}

/// Why an upload is not deployed.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    #[error("the component is empty")]
    Empty,
    #[error("the component is larger than {} MiB", COMPONENT_BYTES_MAX >> 20)]
    TooLarge,
    #[error("component: {0}")]
    Component(plugins::ComponentError),
    #[error("{0}")]
    Manifest(#[from] ManifestMistakes),
    #[error("{0}")]
    Settings(#[from] SettingsError),
    #[error("the plugin host of this server does not start: {0}")]
    Host(plugins::HostError),
    #[error("the plugin host is stopping")]
    Stopping,
}

impl From<Unrunnable> for DeployError {
    fn from(error: Unrunnable) -> Self {
        match error {
            Unrunnable::Component(plugins::ComponentError::Stopped)
            | Unrunnable::Stored(_)
            | Unrunnable::Interrupted => DeployError::Stopping,
            Unrunnable::Component(error) => DeployError::Component(error),
            Unrunnable::Manifest(error) => DeployError::Manifest(error),
            Unrunnable::Host(error) => DeployError::Host(error),
        }
    }
}

impl Upload {
    /// Adds a piece of the component.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), DeployError> {
        if self.component.len() + chunk.len() > COMPONENT_BYTES_MAX {
            return Err(DeployError::TooLarge);
        }
        self.component.extend_from_slice(chunk);
        Ok(())
    }

    /// Checks everything that can be checked before it is replicated: compiles the component, and
    /// asks it about its settings.
    pub(super) async fn check(self, library: &Library) -> Result<Checked, DeployError> {
        if self.component.is_empty() {
            return Err(DeployError::Empty);
        }
        let component: Arc<[u8]> = self.component.into();
        let compiled = library.compile(Arc::clone(&component)).await?;
        let bytes = |prefixes: &[Bytes]| prefixes.iter().map(|it| it.to_vec()).collect();
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        let draft = ManifestDraft {
            name: text(self.name),
            watch_prefixes: bytes(&self.watch_prefixes),
            write_prefixes: bytes(&self.write_prefixes),
            settings_json: self.settings_json.clone(),
            prev_kv: self.prev_kv,
            start_at_snapshot: self.start_at_snapshot,
            sha256: text(self.sha256),
            ..ManifestDraft::default()
        };
        let descriptor = compiled.describe();
        let manifest = plugins::Manifest::parse(&draft, &descriptor.name, compiled.digest())?;
        let chunks = component.chunks(CHUNK_BYTES).len();
        let spec = PluginSpec {
            name: manifest.name().as_str().to_owned(),
            version: descriptor.version.clone(),
            watch_prefixes: self.watch_prefixes,
            write_prefixes: self.write_prefixes,
            settings_json: self.settings_json,
            prev_kv: self.prev_kv,
            start_at_snapshot: self.start_at_snapshot,
            sha256: *compiled.digest().as_bytes(),
            component_bytes: component.len() as u64,
            chunks: u32::try_from(chunks).expect("a component is at most 32 MiB"),
        };
        // What a runner will make of it later is the same.
        library::manifest(&spec, &compiled)?;
        let plugin = Plugin::new(compiled, manifest);
        plugin.validate_settings(Arc::new(NoHostCalls)).await?;
        Ok(Checked { spec, component })
    }
}

/// A component that can be deployed.
pub struct Checked {
    pub spec: PluginSpec,
    component: Arc<[u8]>,
}

impl Checked {
    /// The component in pieces, as they are stored.
    pub fn chunks(&self) -> impl Iterator<Item = PluginChunk> + '_ {
        let pieces = self.component.chunks(CHUNK_BYTES);
        (0..).zip(pieces).map(|(index, data)| PluginChunk {
            sha256: self.spec.sha256,
            index,
            data: Bytes::copy_from_slice(data),
        })
    }
}
