//! gRPC's health service: that of the process, as in etcd. Whoever answers serves.
//!
//! Known is the empty name alone. tonic's own service has other words for any other name, and ends a watch of one that
//! gRPC's rules keep open.
//!
//! Source: the gRPC health checking protocol; grpc-go, `health/server.go`.

use std::pin::Pin;

use futures::{Stream, StreamExt as _, stream};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// The whole process.
const EVERYTHING: &str = "";

pub(super) struct OfProcess;

pub(super) fn server() -> HealthServer<OfProcess> {
    HealthServer::new(OfProcess)
}

fn told(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl Health for OfProcess {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match request.get_ref().service.as_str() {
            EVERYTHING => Ok(Response::new(told(ServingStatus::Serving))),
            _ => Err(Status::not_found("unknown service")),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// Said once: it does not change while somebody is there to say it.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let status = match request.get_ref().service.as_str() {
            EVERYTHING => ServingStatus::Serving,
            _ => ServingStatus::ServiceUnknown,
        };
        let first = stream::iter([Ok(told(status))]);
        Ok(Response::new(Box::pin(first.chain(stream::pending()))))
    }
}
