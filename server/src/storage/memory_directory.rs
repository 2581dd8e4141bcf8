//! A member's states in memory, for the simulation.
//!
//! Promise: a published state survives a power cut whole; what was committed to it later may be
//! lost from its end, down to what was persisted.

use super::directory::{StagedState, StateDirectory};
use super::error::{DirectoryError, StorageError};
use super::memory::MemoryEngine;
use super::store::Store;

#[derive(Default)]
pub(crate) struct MemoryDirectory {
    live: Option<MemoryEngine>,
    staged: Vec<(u64, MemoryEngine)>,
    states: u64,
}

impl MemoryDirectory {
    /// The live state, none before the first one is published.
    pub(crate) fn open_state(
        &self,
        keys: keys::StorageKeys,
    ) -> Result<Option<Store>, StorageError> {
        let live = self.live.as_ref();
        live.map(|engine| Store::resume(Box::new(engine.clone()), keys))
            .transpose()
    }

    /// What is found after a crash. Of the newest batches that were not persisted, `lost` are
    /// gone; it is told how many there are.
    pub(crate) fn crash(&self, lost: impl FnOnce(u64) -> u64) -> Self {
        Self {
            live: self.live.as_ref().map(|engine| engine.crash(lost)),
            staged: Vec::new(),
            states: self.states,
        }
    }

    /// Makes a staged state the live one.
    pub(crate) fn publish(&mut self, staged: StagedState) -> Store {
        let number = staged.number();
        let place = self.staged.iter().position(|(other, _)| *other == number);
        let place = place.expect("it was staged here");
        let (_, engine) = self.staged.swap_remove(place);
        let store = staged.store().clone();
        store.persist().expect("the memory engine refuses nothing");
        self.live = Some(engine);
        store
    }
}

impl StateDirectory for MemoryDirectory {
    fn stage_state(&mut self, keys: keys::StorageKeys) -> Result<StagedState, DirectoryError> {
        self.states += 1;
        let engine = MemoryEngine::with_power_cuts();
        self.staged.push((self.states, engine.clone()));
        let store =
            Store::begin(Box::new(engine), keys).expect("the memory engine refuses nothing");
        Ok(StagedState::new(store, self.states))
    }

    fn publish_state(
        &mut self,
        staged: StagedState,
        _superseded: &Store,
    ) -> Result<Store, DirectoryError> {
        Ok(self.publish(staged))
    }
}
