//! Which service instances run on a host.
//!
//! For each registration `/services/NAME/ID`, a JSON object with `host` and `port`, there
//! is one record `/index/HOST/NAME/ID` whose value is the registration's key and whose
//! lease is the registration's. Deploy it watching `/services/`, writing `/index/`, with
//! the previous records.
//!
//! - A key that is not exactly two non-empty segments below the services prefix is no
//!   registration and is ignored.
//! - A value that is no registration (no JSON object; a `host` that is missing, empty,
//!   longer than 253 bytes, or holds '/', blanks or anything but printable ASCII; a `port`
//!   that is no integer from 1 to 65535) is rejected: the host records the revision as a
//!   dead letter and goes on. Other members of the object are nobody's business here.
//! - The index then still names what stood there before. The next change of that
//!   registration finds such leftovers by the value of the index records and removes them.
//! - Lease 0 is no lease, in the index too.
//! - At the end of a snapshot, index records of registrations that are gone are removed.
//!
//! Settings: `services_prefix` and `index_prefix`, both ending in '/'.

mod plan;
mod registration;
mod settings;
mod store;

use sealkv_plugin::{Batch, Effects, HandlerError, Plugin, Position, config};

use plan::Plan;
use settings::Settings;
use store::Granted;

struct Index;

impl Plugin for Index {
    const NAME: &'static str = "index";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const DESCRIPTION: &'static str = env!("CARGO_PKG_DESCRIPTION");
    const SETTINGS_SCHEMA: &'static str = settings::SCHEMA;

    fn validate_settings(json: &str) -> Result<(), String> {
        Settings::parse(json).map(|_| ())
    }

    fn on_events(batch: Batch) -> Result<Effects, HandlerError> {
        let settings = Settings::from_members(config::get_all()).map_err(HandlerError::reject)?;
        let last_page = batch.final_ && matches!(batch.position, Position::Snapshot(_));
        let store = Granted;
        let mut plan = Plan::new(&settings, &store);
        for event in &batch.events {
            plan.follow(event)?;
        }
        if last_page {
            plan.reconcile()?;
        }
        Ok(plan.effects())
    }
}

sealkv_plugin::export!(Index);
