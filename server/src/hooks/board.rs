//! What the runner of each plugin is doing, for whoever asks: the part of a plugin's state that is
//! not replicated.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    Compiling,
    Running,
    Backoff,
}

impl Doing {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Doing::Compiling => "compiling",
            Doing::Running => "running",
            Doing::Backoff => "backoff",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub generation: u64,
    pub doing: Doing,
    /// Why it is in back-off; never a value.
    pub error: String,
}

/// Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Board {
    plugins: Arc<Mutex<BTreeMap<String, Shown>>>,
}

impl Board {
    pub(super) fn show(&self, name: &str, generation: u64, doing: Doing, error: String) {
        let shown = Shown {
            generation,
            doing,
            error,
        };
        let mut plugins = self.plugins.lock();
        if plugins.get(name) != Some(&shown) {
            plugins.insert(name.to_owned(), shown);
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Shown> {
        self.plugins.lock().get(name).cloned()
    }

    pub(super) fn clear(&self, name: &str, generation: u64) {
        let mut plugins = self.plugins.lock();
        if plugins
            .get(name)
            .is_some_and(|shown| shown.generation == generation)
        {
            plugins.remove(name);
        }
    }
}
