//! The services that clients call: etcd's, and those of sealkv's own for keys.
//!
//! Promise: every request is parsed once, passes the access door, and is answered with etcd's
//! fields, codes and texts. A request is proposed again only after its own entry was applied and
//! had no effect.
//! Not known here: openraft, storage engines, sockets.

mod agent;
mod auth;
mod cluster;
mod election;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gate;
mod guarded;
mod header;
mod health;
mod intervals;
mod keys;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod oversized;
mod parse;
mod plugins;
mod range;
mod range_stream;
mod reflection;
mod room;
mod sealing;
mod status;
mod txn;
mod unserved;
mod values;
mod watch;
mod watch_response;
mod watch_service;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::middleware::Next;
use axum::response::Response;
use proto::etcdserverpb::auth_server::AuthServer;
use proto::etcdserverpb::cluster_server::ClusterServer;
use proto::etcdserverpb::kv_server::KvServer;
use proto::etcdserverpb::lease_server::LeaseServer;
use proto::etcdserverpb::maintenance_server::MaintenanceServer;
use proto::sealkv::v1::keys_server::KeysServer;
use proto::sealkv::v1::plugins_server::PluginsServer;
use proto::v3electionpb::election_server::ElectionServer;
use proto::v3lockpb::lock_server::LockServer;
use tonic::service::Routes;

use crate::access::Door;
use crate::replica::{ClusterAdmin, KeyAdmin, Replica};
use crate::seal::Sealer;
use crate::watch::Hub;

pub use health::Health;
pub use plugins::PluginsService;
pub use room::Room;
pub use status::unknown_method;

/// How much more than a request's own bound its message may have, as etcd allows.
const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;

/// Bounds on what clients may ask.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `--max-request-bytes`: of one write, before sealing.
    pub request_bytes_max: usize,
    /// `--max-txn-ops`
    pub txn_ops_max: usize,
    /// `--quota-backend-bytes`; none if it is switched off.
    pub quota_bytes: Option<u64>,
    /// The least TTL that a lease gets.
    pub lease_ttl_seconds_min: i64,
    /// `--watch-progress-notify-interval`
    pub watch_progress_interval: Duration,
    /// A stream that asks for a leader ends after three of these without one.
    pub election_timeout: Duration,
    /// What large answers may take in memory.
    pub answers: Room,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            request_bytes_max: 1_572_864,
            txn_ops_max: 128,
            quota_bytes: Some(2 << 30),
            lease_ttl_seconds_min: 2,
            watch_progress_interval: Duration::from_secs(600),
            election_timeout: Duration::from_secs(1),
            answers: Room::default(),
        }
    }
}

/// What every service shares. Cloning shares it.
#[derive(Clone)]
pub struct Edge {
    pub replica: Arc<dyn Replica>,
    pub key_admin: Arc<dyn KeyAdmin>,
    pub cluster: Arc<dyn ClusterAdmin>,
    pub sealer: Sealer,
    pub hub: Hub,
    pub door: Door,
    pub limits: Arc<Limits>,
    pub health: Health,
}

impl Edge {
    /// Every service, with etcd's bounds on messages.
    #[must_use]
    pub fn services(&self, plugins: Option<PluginsService>) -> Routes {
        let received = self
            .limits
            .request_bytes_max
            .saturating_add(MESSAGE_OVERHEAD_BYTES);
        macro_rules! bounded {
            ($server:ident) => {
                $server::new(self.clone())
                    .max_decoding_message_size(received)
                    .max_encoding_message_size(usize::MAX)
            };
        }
        let mut routes = Routes::builder();
        routes
            .add_service(bounded!(KvServer))
            .add_service(watch_service::WatchService::new(self.clone(), received))
            .add_service(bounded!(LeaseServer))
            .add_service(bounded!(AuthServer))
            .add_service(bounded!(ClusterServer))
            .add_service(bounded!(MaintenanceServer))
            .add_service(bounded!(LockServer))
            .add_service(bounded!(ElectionServer))
            .add_service(bounded!(KeysServer))
            .add_service(self.health());
        if let Some(plugins) = plugins {
            let plugins = PluginsServer::new(plugins).max_decoding_message_size(received);
            routes.add_service(plugins);
        }
        let (new, old) = (self.reflection(), self.old_reflection());
        routes
            .add_service(new.expect("the descriptors were made with this crate"))
            .add_service(old.expect("the descriptors were made with this crate"));
        let await_token = axum::middleware::from_fn_with_state(self.clone(), gate::await_token);
        let reword = axum::middleware::from_fn(reword);
        let router = routes.routes().into_axum_router();
        let router = router.fallback(unserved::service);
        router.layer(await_token).layer(reword).into()
    }
}

/// gRPC's words in Go, where tonic has others or none.
async fn reword(request: http::Request<axum::body::Body>, next: Next) -> Response {
    let uri = request.uri().clone();
    let mut response = next.run(request).await;
    oversized::reword(&mut response);
    unserved::reword(uri.path(), &mut response);
    response
}
