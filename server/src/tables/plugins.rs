//! Deployed plugins: what they may do, in which state they are, and how far they have come.
//!
//! Promise: a cursor moves only with what the batch came to. Ids are never used twice, so that
//! history can say which plugin wrote a record after it is gone.
//! Not known here: WebAssembly; dead letters and components, which are rows of the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::sealkv::replicated as wire;

use crate::command::{BadBody, PluginSpec, PluginState, Position, Wire};

/// How many can be deployed.
pub const PLUGINS_MAX: usize = 64;
/// How many dead letters a plugin keeps; an older one makes room for a new one.
pub const DEAD_LETTERS_MAX: u64 = 1000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    pub id: u32,
    pub spec: PluginSpec,
    pub generation: u64,
    pub state: PluginState,
    pub cursor: Position,
    /// Ever recorded; the newest thousand are kept.
    pub dead_letters: u64,
    /// Effects that were applied, after folding.
    pub effects_committed: u64,
    pub puts_dropped_no_lease: u64,
    /// Why it is not running; never a value.
    pub last_error: String,
    pub deployed_ms: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginTable {
    plugins: BTreeMap<String, Arc<Plugin>>,
}

impl PluginTable {
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Plugin>> {
        self.plugins.get(name)
    }

    /// The deployed plugin whose writes carry this id; none once it is deleted.
    #[must_use]
    pub fn by_id(&self, id: u32) -> Option<&Arc<Plugin>> {
        self.plugins.values().find(|plugin| plugin.id == id)
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        self.plugins.values()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.plugins.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plugins.is_empty()
    }

    /// Whether a deployed plugin has this component.
    #[must_use]
    pub fn uses(&self, sha256: &[u8; 32]) -> bool {
        self.plugins
            .values()
            .any(|plugin| plugin.spec.sha256 == *sha256)
    }

    pub(crate) fn insert(&mut self, plugin: Plugin) {
        self.plugins
            .insert(plugin.spec.name.clone(), Arc::new(plugin));
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<Arc<Plugin>> {
        self.plugins.remove(name)
    }
}

impl Plugin {
    pub(crate) fn to_row(&self) -> wire::PluginRow {
        wire::PluginRow {
            id: self.id,
            spec: Some(self.spec.to_wire()),
            generation: self.generation,
            state: self.state.number(),
            cursor: Some(self.cursor.to_wire()),
            dead_letters: self.dead_letters,
            effects_committed: self.effects_committed,
            puts_dropped_no_lease: self.puts_dropped_no_lease,
            last_error: self.last_error.clone(),
            deployed_ms: self.deployed_ms,
        }
    }

    pub(crate) fn from_row(row: wire::PluginRow) -> Result<Self, BadBody> {
        Ok(Plugin {
            id: row.id,
            spec: PluginSpec::from_wire(row.spec.ok_or(BadBody)?)?,
            generation: row.generation,
            state: PluginState::from_number(row.state).ok_or(BadBody)?,
            cursor: Position::from_wire(row.cursor.ok_or(BadBody)?)?,
            dead_letters: row.dead_letters,
            effects_committed: row.effects_committed,
            puts_dropped_no_lease: row.puts_dropped_no_lease,
            last_error: row.last_error,
            deployed_ms: row.deployed_ms,
        })
    }
}
