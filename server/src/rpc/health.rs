//! gRPC's health service: whoever answers serves, and says otherwise only while a defragmentation
//! is under way and the feature gate StopGRPCServiceOnDefrag is on.
//!
//! Known is the empty name alone. tonic's own service has other words for any other name, ends
//! a watch of one that gRPC's rules keep open, and lists nothing.
//!
//! Source: the gRPC health checking protocol; grpc-go, `health/server.go`; etcd 3.7.1,
//! `server/etcdserver/api/v3rpc/health.go`.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use proto::health::health_check_response::ServingStatus;
use proto::health::health_server::{self, HealthServer};
use proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status};

use super::Edge;
use super::gate::AtLearner;

/// The whole process.
const EVERYTHING: &str = "";

/// What the health service answers with. Cloning shares it.
#[derive(Clone, Default)]
pub struct Health {
    stops_on_defrag: bool,
    /// Defragmentations under way that are announced.
    announced: Arc<watch::Sender<u32>>,
}

impl Health {
    pub fn new(stops_on_defrag: bool) -> Self {
        Self {
            stops_on_defrag,
            ..Self::default()
        }
    }

    /// Runs a defragmentation. One whose client goes away ends its announcement too.
    pub(super) async fn during_defrag<T>(&self, defragment: impl Future<Output = T>) -> T {
        let _announced = self.stops_on_defrag.then(|| Announced::begin(self));
        defragment.await
    }
}

impl Edge {
    /// Without a look at who asks; a learner says that it serves nobody, by its refusal.
    pub(super) fn health(
        &self,
    ) -> InterceptedService<HealthServer<Health>, impl Interceptor + Clone + use<>> {
        let edge = self.clone();
        let gate = move |request: Request<()>| {
            edge.admit(&request, AtLearner::Refused)?;
            Ok(request)
        };
        InterceptedService::new(HealthServer::new(self.health.clone()), gate)
    }
}

/// Serves again when it is dropped.
struct Announced<'a>(&'a Health);

impl<'a> Announced<'a> {
    fn begin(health: &'a Health) -> Self {
        health.announced.send_if_modified(|running| {
            *running += 1;
            *running == 1
        });
        tracing::warn!(
            service = EVERYTHING,
            status = "NOT_SERVING",
            reason = "defrag is active",
            "grpc service status changed"
        );
        Self(health)
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        self.0.announced.send_if_modified(|running| {
            *running -= 1;
            *running == 0
        });
        tracing::info!(
            service = EVERYTHING,
            status = "SERVING",
            "grpc service status changed"
        );
    }
}

fn told(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

fn status(announced: u32) -> ServingStatus {
    match announced {
        0 => ServingStatus::Serving,
        _ => ServingStatus::NotServing,
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match request.get_ref().service.as_str() {
            EVERYTHING => Ok(Response::new(told(status(*self.announced.borrow())))),
            _ => Err(Status::not_found("unknown service")),
        }
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let everything = told(status(*self.announced.borrow()));
        let statuses = [(EVERYTHING.to_owned(), everything)].into();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let answers: Self::WatchStream = match request.get_ref().service.as_str() {
            EVERYTHING => {
                let announced = WatchStream::new(self.announced.subscribe());
                Box::pin(announced.map(|announced| Ok(told(status(announced)))))
            }
            // Said once: no other service comes or goes.
            _ => {
                let unknown = stream::iter([Ok(told(ServingStatus::ServiceUnknown))]);
                Box::pin(unknown.chain(stream::pending()))
            }
        };
        Ok(Response::new(answers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::health::health_server::Health as _;

    async fn asked(health: &Health) -> ServingStatus {
        let request = Request::new(HealthCheckRequest::default());
        health.check(request).await.unwrap().into_inner().status()
    }

    #[tokio::test]
    async fn a_defragmentation_is_announced_only_if_the_gate_is_on() {
        use ServingStatus::{NotServing, Serving};
        for (stops, expected) in [(false, Serving), (true, NotServing)] {
            let health = Health::new(stops);
            assert_eq!(asked(&health).await, Serving);
            let during = health.during_defrag(async { asked(&health).await }).await;
            assert_eq!(during, expected);
            assert_eq!(asked(&health).await, Serving);
        }
    }
}
