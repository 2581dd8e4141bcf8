//! gRPC's health service: whoever answers serves, and says otherwise only while a defragmentation
//! is under way and the feature gate StopGRPCServiceOnDefrag is on.
//!
//! Known is the empty name alone. For any other tonic's service has other words than gRPC in Go, and ends a watch that
//! gRPC's rules keep open.
//!
//! Source: etcd 3.7.1, `server/etcdserver/api/v3rpc/health.go`; grpc-go, `health/server.go`.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_check_response::ServingStatus as Said;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthReporter, HealthService};

/// All services.
const ALL: &str = "";

/// What the health service answers with. Cloning shares it.
#[derive(Clone, Default)]
pub struct Health {
    reporter: HealthReporter,
    stops_on_defrag: bool,
    defragmentations: Arc<Mutex<u32>>,
}

impl Health {
    pub fn new(stops_on_defrag: bool) -> Self {
        Self {
            stops_on_defrag,
            ..Self::default()
        }
    }

    pub(super) fn service(&self) -> HealthServer<AsInGo> {
        let reported = HealthService::from_health_reporter(self.reporter.clone());
        HealthServer::new(AsInGo(reported))
    }

    /// Runs a defragmentation. One whose client goes away ends its announcement too.
    pub(super) async fn during_defrag<T>(&self, defragment: impl Future<Output = T>) -> T {
        if !self.stops_on_defrag {
            return defragment.await;
        }
        self.count(|running| running + 1).await;
        tracing::warn!(
            service = ALL,
            status = "NOT_SERVING",
            reason = "defrag is active",
            "grpc service status changed"
        );
        let again = Again(self.clone());
        let done = defragment.await;
        drop(again);
        done
    }

    async fn count(&self, change: impl FnOnce(u32) -> u32) {
        let mut running = self.defragmentations.lock().await;
        *running = change(*running);
        let status = match *running {
            0 => ServingStatus::Serving,
            _ => ServingStatus::NotServing,
        };
        self.reporter.set_service_status(ALL, status).await;
    }
}

/// What is reported, and of what nobody reports what grpc-go says.
pub(super) struct AsInGo(HealthService);

#[tonic::async_trait]
impl health_server::Health for AsInGo {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if request.get_ref().service != ALL {
            return Err(Status::not_found("unknown service"));
        }
        self.0.check(request).await
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if request.get_ref().service == ALL {
            let told = self.0.watch(request).await?.into_inner();
            return Ok(Response::new(Box::pin(told)));
        }
        let unknown = HealthCheckResponse {
            status: Said::ServiceUnknown.into(),
        };
        let first = stream::iter([Ok(unknown)]);
        Ok(Response::new(Box::pin(first.chain(stream::pending()))))
    }
}

/// Serves again when it is dropped.
struct Again(Health);

impl Drop for Again {
    fn drop(&mut self) {
        let health = self.0.clone();
        tokio::spawn(async move {
            health.count(|running| running.saturating_sub(1)).await;
            tracing::info!(
                service = ALL,
                status = "SERVING",
                "grpc service status changed"
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_health::pb::health_server::Health as _;

    async fn asked(health: &Health) -> Said {
        let service = HealthService::from_health_reporter(health.reporter.clone());
        let request = Request::new(HealthCheckRequest::default());
        service.check(request).await.unwrap().into_inner().status()
    }

    #[tokio::test]
    async fn a_defragmentation_is_announced_only_if_the_gate_is_on() {
        for (stops, expected) in [(false, Said::Serving), (true, Said::NotServing)] {
            let health = Health::new(stops);
            assert_eq!(asked(&health).await, Said::Serving);
            let during = health.during_defrag(async { asked(&health).await }).await;
            assert_eq!(during, expected);
            while asked(&health).await != Said::Serving {
                tokio::task::yield_now().await;
            }
        }
    }
}
