//! The components this member has compiled, by digest.
//!
//! Promise: a component is compiled once however many plugins, generations and callers
//! ask for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

use crate::component::Compiled;
use crate::digest::Digest;
use crate::engine::Host;
use crate::error::ComponentError;

/// Compiled components in memory. The caller says with [`Registry::retain`] which of them
/// are still deployed.
pub struct Registry {
    host: Host,
    components: Mutex<BTreeMap<Digest, Arc<OnceCell<Compiled>>>>,
}

impl Registry {
    pub fn new(host: Host) -> Registry {
        Registry {
            host,
            components: Mutex::default(),
        }
    }

    /// The component, compiled now or before. A component that is refused is not
    /// remembered.
    pub async fn compile(&self, component: Arc<[u8]>) -> Result<Compiled, ComponentError> {
        let digest = Digest::of(&component);
        let cell = Arc::clone(self.components().entry(digest).or_default());
        let compiled = cell.get_or_try_init(|| self.host.compile(component)).await;
        match compiled {
            Ok(compiled) => Ok(compiled.clone()),
            Err(refused) => {
                self.components()
                    .retain(|_, cell| Arc::strong_count(cell) > 1 || cell.initialized());
                Err(refused)
            }
        }
    }

    /// The component, if it is compiled.
    pub fn get(&self, digest: Digest) -> Option<Compiled> {
        self.components().get(&digest)?.get().cloned()
    }

    /// Forgets the components that are not deployed any more; running calls go on.
    pub fn retain(&self, deployed: impl Fn(Digest) -> bool) {
        self.components()
            .retain(|digest, cell| deployed(*digest) || !cell.initialized());
    }

    fn components(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<OnceCell<Compiled>>>> {
        self.components
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
