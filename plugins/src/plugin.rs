//! A component deployed under a manifest: what the server calls.
//!
//! Promise: effects that leave here lie inside the manifest's write prefixes and limits.
//! Not known here: cursors, attempts, back-off, dead letters.

use std::sync::Arc;

use crate::capabilities::{Budgets, Capabilities};
use crate::component::Compiled;
use crate::contract::{WitBatch, shorten};
use crate::error::{CallError, EffectsRefused, SettingsError};
use crate::hooks::{Batch, Effects, Usage};
use crate::host_calls::HostCalls;
use crate::instance::{Call, call};
use crate::limits::{Limits, MESSAGE_BYTES_MAX};
use crate::manifest::Manifest;

/// One deployed plugin. Cheap to clone; clones share log rate and metric series.
#[derive(Clone, Debug)]
pub struct Plugin {
    compiled: Compiled,
    manifest: Arc<Manifest>,
    budgets: Arc<Budgets>,
}

impl Plugin {
    pub fn new(compiled: Compiled, manifest: Manifest) -> Plugin {
        Plugin {
            compiled,
            budgets: Arc::new(Budgets::new(manifest.limits())),
            manifest: Arc::new(manifest),
        }
    }

    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Asks the component whether the manifest's settings will do. Grants nothing; log
    /// lines go to `server`.
    pub async fn validate_settings(&self, server: Arc<dyn HostCalls>) -> Result<(), SettingsError> {
        let runnable = self.compiled.runnable();
        let workers = Arc::clone(&runnable.workers);
        let settings = self.manifest.settings().clone();
        let asked = workers.run(async move {
            let json = settings.json().to_owned();
            let capabilities = Capabilities::none(settings, server);
            call(
                &runnable.plugin,
                capabilities,
                &Limits::lifecycle(),
                move |plugin, store| {
                    Box::pin(async move {
                        let lifecycle = plugin.sealkv_hooks_lifecycle();
                        lifecycle.call_validate_settings(store, &json).await
                    })
                },
            )
            .await
            .result
        });
        let answer = asked.await.unwrap_or(Err(CallError::Abandoned));
        answer
            .map_err(SettingsError::Call)?
            .map_err(|message| SettingsError::Refused {
                message: shorten(message, MESSAGE_BYTES_MAX),
            })
    }

    /// Delivers a batch to a fresh instance and waits for its effects.
    ///
    /// Waits for one of the host's threads first; the deadline counts from then on.
    /// Dropping the future abandons the call: a guest that waits for the host stops at
    /// once, one that computes at its deadline.
    pub async fn on_events(&self, batch: Batch, server: Arc<dyn HostCalls>) -> Call<Effects> {
        let runnable = self.compiled.runnable();
        let workers = Arc::clone(&runnable.workers);
        let plugin = self.clone();
        let delivered = workers.run(async move {
            let Plugin {
                manifest, budgets, ..
            } = plugin;
            let batch = WitBatch::from(batch);
            let Call { result, usage } = call(
                &runnable.plugin,
                Capabilities::granted(Arc::clone(&manifest), server, budgets),
                manifest.limits(),
                move |plugin, store| {
                    Box::pin(async move {
                        let watcher = plugin.sealkv_hooks_watcher();
                        watcher.call_on_events(store, &batch).await
                    })
                },
            )
            .await;
            let result = result.and_then(|answer| {
                let effects = Effects::from(answer?);
                EffectsRefused::check(&effects.ops, |key, end| manifest.may_write(key, end))?;
                Ok(effects)
            });
            Call { result, usage }
        });
        delivered.await.unwrap_or(Call {
            result: Err(CallError::Abandoned),
            usage: Usage::default(),
        })
    }
}
