//! Server reflection: which services there are, for `grpcurl` and its like. etcd has none.
//!
//! Promise: behind the same door as everything else; it tells of clients' services alone, not of
//! the protocol between members.

use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tonic_reflection::server::v1alpha::{
    ServerReflection as OldServerReflection, ServerReflectionServer as OldServerReflectionServer,
};
use tonic_reflection::server::{Builder, Error};

use super::Edge;
use super::gate::AtLearner;
use crate::access::{Need, guarded};

/// A look at what is served.
#[derive(Clone, Copy)]
struct Describe;

guarded!([Need::User] => Describe);

impl Edge {
    /// In the version that clients ask for first.
    pub(super) fn reflection(
        &self,
    ) -> Result<
        InterceptedService<
            ServerReflectionServer<impl ServerReflection + use<>>,
            impl Interceptor + Clone + use<>,
        >,
        Error,
    > {
        let service = described().build_v1()?;
        Ok(InterceptedService::new(service, self.reflection_door()))
    }

    /// In the version that older ones know.
    pub(super) fn old_reflection(
        &self,
    ) -> Result<
        InterceptedService<
            OldServerReflectionServer<impl OldServerReflection + use<>>,
            impl Interceptor + Clone + use<>,
        >,
        Error,
    > {
        let service = described().build_v1alpha()?;
        Ok(InterceptedService::new(service, self.reflection_door()))
    }

    fn reflection_door(&self) -> impl Interceptor + Clone + use<> {
        let edge = self.clone();
        move |request: Request<()>| {
            let who = edge.admit(&request, AtLearner::Served)?;
            edge.permit(&who, Describe)?;
            Ok::<_, Status>(request)
        }
    }
}

fn described<'a>() -> Builder<'a> {
    Builder::configure().register_encoded_file_descriptor_set(proto::DESCRIPTORS)
}
