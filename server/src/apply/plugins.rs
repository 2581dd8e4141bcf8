//! Plugin commands: deployment, state, and the one commit of a batch.
//!
//! Promise: a batch's effects and its cursor are applied together, once, and only while the cursor
//! stands where the batch began, under the term and the generation that ran it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proto::sealkv::replicated as wire;

use super::kv::new_value;
use super::{Context, Machine, Poison, Stop, Work, decode_row, rows};
use crate::command::{
    CommitPlugin, CommitPluginReply, DeadLetter, DeletePlugin, DeployPlugin, DeployPluginReply,
    EffectOp, NoEffect, PluginChunk, PluginSpec, PluginState, Position, Put, Refusal,
    SetPluginState, Wire,
};
use crate::mvcc::event::Cause;
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::{ReadError, rows_in_key_order};
use crate::mvcc::read_view::ReadView;
use crate::mvcc::write::Write;
use crate::storage::Keyspace;
use crate::tables::plugins::{DEAD_LETTERS_MAX, PLUGINS_MAX, Plugin};

/// A component may have so many chunks: 32 MiB in pieces of 1 MiB, with room for smaller ones.
const CHUNKS_MAX: u32 = 1024;

impl Machine {
    /// Pieces of a component that nobody deploys are removed by the next deploy under that digest
    /// or stay; they are bounded by the upload's size.
    pub(super) fn plugin_chunk(&mut self, work: &mut Work, chunk: &PluginChunk) {
        // A deployed component never changes under its runner.
        if !self.plugins.uses(&chunk.sha256) && chunk.index < CHUNKS_MAX {
            work.open.put(
                Keyspace::PluginBlob,
                &rows::chunk(&chunk.sha256, chunk.index),
                &chunk.data,
            );
        }
    }

    /// Whether the pieces have the digest they are stored under is checked by whoever compiles
    /// them: hashing megabytes here would hold up everybody.
    pub(super) fn deploy_plugin(
        &mut self,
        work: &mut Work,
        deploy: DeployPlugin,
    ) -> Result<DeployPluginReply, Stop> {
        let spec = deploy.spec;
        check_component(work, &spec)?;
        let old = self.plugins.get(&spec.name).cloned();
        if old.is_none() && self.plugins.len() >= PLUGINS_MAX {
            return Err(Refusal::TooManyPlugins { most: PLUGINS_MAX }.into());
        }
        let plugin = match &old {
            Some(old) => Plugin {
                generation: old.generation + 1,
                state: PluginState::Running,
                last_error: String::new(),
                deployed_ms: self.counters.clock_ms,
                spec,
                ..(**old).clone()
            },
            None => self.new_plugin(spec),
        };
        let reply = DeployPluginReply {
            id: plugin.id,
            generation: plugin.generation,
        };
        self.store_plugin(work, plugin);
        if let Some(old) = old {
            self.drop_component(work, &old.spec);
        }
        Ok(reply)
    }

    /// The cursor is fixed here: after everything so far, or before the contents as of now.
    fn new_plugin(&mut self, spec: PluginSpec) -> Plugin {
        let id = self.counters.plugin_id_next;
        self.counters.plugin_id_next += 1;
        let revision = self.counters.revision;
        let cursor = if spec.start_at_snapshot {
            Position::Snapshot {
                revision,
                last_key: Bytes::new(),
            }
        } else {
            Position::Changes {
                revision,
                sub: u32::MAX,
            }
        };
        Plugin {
            id,
            spec,
            generation: 1,
            state: PluginState::Running,
            cursor,
            dead_letters: 0,
            effects_committed: 0,
            puts_dropped_no_lease: 0,
            last_error: String::new(),
            deployed_ms: self.counters.clock_ms,
        }
    }

    pub(super) fn set_plugin_state(
        &mut self,
        work: &mut Work,
        change: SetPluginState,
    ) -> Result<(), Stop> {
        let plugin = self
            .plugins
            .get(&change.name)
            .ok_or(Refusal::PluginNotFound)?;
        if change
            .generation
            .is_some_and(|generation| generation != plugin.generation)
        {
            return Err(NoEffect::PluginCursor.into());
        }
        let plugin = Plugin {
            state: change.state,
            last_error: change.reason,
            ..(**plugin).clone()
        };
        self.store_plugin(work, plugin);
        Ok(())
    }

    pub(super) fn delete_plugin(
        &mut self,
        work: &mut Work,
        delete: &DeletePlugin,
    ) -> Result<(), Stop> {
        let plugin = Arc::make_mut(&mut self.plugins)
            .remove(&delete.name)
            .ok_or(Refusal::PluginNotFound)?;
        work.open.delete(Keyspace::Plugin, &rows::plugin(plugin.id));
        for number in plugin.dead_letters.saturating_sub(DEAD_LETTERS_MAX)..plugin.dead_letters {
            work.open
                .delete(Keyspace::Plugin, &rows::dead_letter(plugin.id, number));
        }
        self.drop_component(work, &plugin.spec);
        Ok(())
    }

    pub(super) fn commit_plugin(
        &mut self,
        work: &mut Work,
        context: Context,
        commit: CommitPlugin,
    ) -> Result<CommitPluginReply, Stop> {
        if commit.term != context.term {
            return Err(NoEffect::StaleTerm.into());
        }
        let plugin = self
            .plugins
            .get(&commit.name)
            .cloned()
            .ok_or(NoEffect::PluginCursor)?;
        let in_step = plugin.state == PluginState::Running
            && plugin.generation == commit.generation
            && plugin.cursor == commit.from
            // Forward: an entry that left the cursor where it is could happen twice.
            && commit.to > commit.from;
        if !in_step {
            return Err(NoEffect::PluginCursor.into());
        }
        for effect in &commit.effects {
            if let EffectOp::Put(put) = effect {
                self.check_sealed(put)?;
            }
        }
        let done = self.write(
            work,
            Cause::Plugin { id: plugin.id },
            commit.hops,
            |write| run_effects(write, &commit.effects),
        )?;
        let mut plugin = (*plugin).clone();
        plugin.cursor = commit.to;
        plugin.effects_committed += done.committed;
        plugin.puts_dropped_no_lease += done.dropped;
        for letter in &commit.dead_letters {
            record_dead_letter(work, &mut plugin, letter);
        }
        self.store_plugin(work, plugin);
        Ok(CommitPluginReply {
            revision: self.counters.revision,
            puts_dropped: done.dropped,
        })
    }

    fn store_plugin(&mut self, work: &mut Work, plugin: Plugin) {
        work.open
            .put_message(Keyspace::Plugin, &rows::plugin(plugin.id), &plugin.to_row());
        Arc::make_mut(&mut self.plugins).insert(plugin);
    }

    /// Removes a component that no deployed plugin has any more.
    fn drop_component(&self, work: &mut Work, spec: &PluginSpec) {
        if !self.plugins.uses(&spec.sha256) {
            for index in 0..spec.chunks {
                work.open
                    .delete(Keyspace::PluginBlob, &rows::chunk(&spec.sha256, index));
            }
        }
    }
}

fn check_component(work: &Work, spec: &PluginSpec) -> Result<(), Stop> {
    let mut found = 0;
    for index in 0..spec.chunks.min(CHUNKS_MAX) {
        let chunk = work
            .open
            .get(Keyspace::PluginBlob, &rows::chunk(&spec.sha256, index))?;
        found += chunk.ok_or(Refusal::PluginChunkMissing { index })?.len() as u64;
    }
    if found != spec.component_bytes || spec.chunks > CHUNKS_MAX {
        return Err(Refusal::PluginSize {
            expected: spec.component_bytes,
            found,
        }
        .into());
    }
    Ok(())
}

/// What effects came to, after folding.
struct Done {
    committed: u64,
    dropped: u64,
}

/// The last effect on a key wins; then all are applied in key order, as one revision. A put whose
/// lease is gone is dropped: what it would be deleted by has happened already.
fn run_effects(write: &mut Write<'_>, effects: &[EffectOp]) -> Result<Done, Poison> {
    let mut done = Done {
        committed: 0,
        dropped: 0,
    };
    for (key, put) in fold(write, effects)? {
        match put {
            None => {
                let deleted = write.delete_range(&KeyRange::single(key))?;
                done.committed += deleted.len() as u64;
            }
            Some(put) if put.lease != 0 && !write.leases.read().contains(put.lease) => {
                done.dropped += 1
            }
            Some(put) => {
                write.put(&key, new_value(put.sealed_value.clone()), put.lease)?;
                done.committed += 1;
            }
        }
    }
    Ok(done)
}

/// Per key the put that is left, or none for a delete. A delete of a range reaches what lives and
/// what an earlier effect would have put.
fn fold<'e>(
    write: &Write<'_>,
    effects: &'e [EffectOp],
) -> Result<BTreeMap<Bytes, Option<&'e Put>>, Poison> {
    let mut folded: BTreeMap<Bytes, Option<&Put>> = BTreeMap::new();
    for effect in effects {
        match effect {
            EffectOp::Put(put) => {
                folded.insert(put.key.clone(), Some(put));
            }
            EffectOp::DeleteRange(delete) => {
                let live = rows_in_key_order(
                    write.index,
                    write.open,
                    &delete.range,
                    write.revision(),
                    None,
                )?;
                folded.extend(live.into_iter().map(|row| (row.key, None)));
                for (key, put) in &mut folded {
                    if delete.range.contains(key) {
                        *put = None;
                    }
                }
            }
        }
    }
    Ok(folded)
}

/// Numbers run on; the one a thousand before makes room.
fn record_dead_letter(work: &mut Work, plugin: &mut Plugin, letter: &DeadLetter) {
    let number = plugin.dead_letters;
    work.open.put_message(
        Keyspace::Plugin,
        &rows::dead_letter(plugin.id, number),
        &letter.to_wire(),
    );
    if let Some(old) = number.checked_sub(DEAD_LETTERS_MAX) {
        work.open
            .delete(Keyspace::Plugin, &rows::dead_letter(plugin.id, old));
    }
    plugin.dead_letters += 1;
}

/// The dead letters of a plugin, oldest first.
pub fn dead_letters(view: &ReadView, plugin: &Plugin) -> Result<Vec<DeadLetter>, Poison> {
    let (from, to) = (
        rows::dead_letter(plugin.id, 0),
        rows::dead_letter(plugin.id, u64::MAX),
    );
    let rows = view.store.scan(Keyspace::Plugin, &from[..]..&to[..]);
    rows.map(|row| {
        let (key, row) = row?;
        let letter: wire::DeadLetter = decode_row(Keyspace::Plugin, &key, row)?;
        DeadLetter::from_wire(letter).map_err(|_| super::bad_row(Keyspace::Plugin, &key))
    })
    .collect()
}

/// Why a component is not to be had from the store.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    #[error(transparent)]
    Read(ReadError),
    #[error("the component lacks chunk {index}")]
    Missing { index: u32 },
    /// The pieces do not have the digest they are stored under: refuse to compile them.
    #[error("the component has another digest than its manifest says")]
    Digest,
}

/// The whole component of a plugin, its digest checked. Slow: not for an async thread.
pub fn component(view: &ReadView, spec: &PluginSpec) -> Result<Vec<u8>, ComponentError> {
    use sha2::Digest;
    let mut component = Vec::new();
    for index in 0..spec.chunks {
        let chunk = view
            .store
            .get(Keyspace::PluginBlob, &rows::chunk(&spec.sha256, index));
        let chunk = chunk.map_err(|error| ComponentError::Read(error.into()))?;
        component.extend_from_slice(&chunk.ok_or(ComponentError::Missing { index })?);
    }
    let digest = sha2::Sha256::digest(&component);
    if digest[..] != spec.sha256[..] {
        return Err(ComponentError::Digest);
    }
    Ok(component)
}
