//! The trait an author implements, and the way from the contract to it.

use std::marker::PhantomData;

use crate::bindings::exports::sealkv::hooks::lifecycle::{self, Descriptor};
use crate::bindings::exports::sealkv::hooks::watcher;
use crate::{Batch, Effects, HandlerError};

/// A plugin that reacts to committed changes.
pub trait Plugin {
    /// 1 to 63 characters of a–z, 0–9 and '-'.
    const NAME: &'static str;
    const VERSION: &'static str;
    const DESCRIPTION: &'static str = "";
    /// A JSON Schema of the settings, or "".
    const SETTINGS_SCHEMA: &'static str = "";

    /// Called when the plugin is deployed, with the settings as a JSON object and with
    /// nothing granted. The message is shown to the operator.
    fn validate_settings(_settings_json: &str) -> Result<(), String> {
        Ok(())
    }

    /// Called with each batch, in order, until it succeeds. The effects commit together
    /// with the plugin's cursor: once, however often the batch was tried.
    fn on_events(batch: Batch) -> Result<Effects, HandlerError>;
}

#[doc(hidden)]
pub struct Exported<P>(PhantomData<P>);

impl<P: Plugin> lifecycle::Guest for Exported<P> {
    fn describe() -> Descriptor {
        Descriptor {
            name: P::NAME.to_owned(),
            version: P::VERSION.to_owned(),
            description: P::DESCRIPTION.to_owned(),
            settings_schema: P::SETTINGS_SCHEMA.to_owned(),
        }
    }

    fn validate_settings(settings_json: String) -> Result<(), String> {
        P::validate_settings(&settings_json)
    }
}

impl<P: Plugin> watcher::Guest for Exported<P> {
    fn on_events(batch: Batch) -> Result<Effects, HandlerError> {
        P::on_events(batch)
    }
}
