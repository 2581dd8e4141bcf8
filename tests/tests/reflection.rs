//! gRPC's own services, as its own clients use them: reflection and health.
//!
//! etcd has no reflection; health it has.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use prost::Message as _;
use prost_types::FileDescriptorProto;
use proto::etcdserverpb as pb;
use proto::health::health_check_response::ServingStatus;
use proto::health::health_client::HealthClient;
use proto::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest};
use tests::client::{Client, MESSAGE_WITHIN};
use tests::cluster::{Cluster, Program};
use tests::interop;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

const SERVICES: [&str; 10] = [
    "etcdserverpb.Auth",
    "etcdserverpb.Cluster",
    "etcdserverpb.KV",
    "etcdserverpb.Lease",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Watch",
    "grpc.health.v1.Health",
    "sealkv.v1.Keys",
    "v3electionpb.Election",
    "v3lockpb.Lock",
];

/// The same client for both versions, which differ in nothing but their name.
macro_rules! reflection_client {
    ($version:ident) => {
        mod $version {
            use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, ServerReflectionResponse,
            };

            use super::*;

            async fn ask(
                channel: &Channel,
                token: Option<&str>,
                asked: MessageRequest,
            ) -> Result<MessageResponse, Status> {
                let request = ServerReflectionRequest {
                    host: String::new(),
                    message_request: Some(asked),
                };
                let mut request = Request::new(tokio_stream::once(request));
                if let Some(token) = token {
                    request
                        .metadata_mut()
                        .insert("token", token.parse().unwrap());
                }
                let mut client = ServerReflectionClient::new(channel.clone());
                let mut answers = client.server_reflection_info(request).await?.into_inner();
                let answer: Option<ServerReflectionResponse> = answers.message().await?;
                Ok(answer.unwrap().message_response.unwrap())
            }

            pub(super) async fn services(
                channel: &Channel,
                token: Option<&str>,
            ) -> Result<Vec<String>, Status> {
                let asked = MessageRequest::ListServices(String::new());
                match ask(channel, token, asked).await? {
                    MessageResponse::ListServicesResponse(list) => {
                        Ok(list.service.into_iter().map(|it| it.name).collect())
                    }
                    other => panic!("a list of services, not {other:?}"),
                }
            }

            /// The files that describe a symbol, as `grpcurl describe` asks for them.
            pub(super) async fn files(
                channel: &Channel,
                symbol: &str,
            ) -> Result<Vec<FileDescriptorProto>, i32> {
                let asked = MessageRequest::FileContainingSymbol(symbol.to_owned());
                match ask(channel, None, asked).await {
                    Ok(MessageResponse::FileDescriptorResponse(files)) => Ok(files
                        .file_descriptor_proto
                        .iter()
                        .map(|file| FileDescriptorProto::decode(file.as_slice()).unwrap())
                        .collect()),
                    Ok(MessageResponse::ErrorResponse(error)) => Err(error.error_code),
                    Ok(other) => panic!("files, not {other:?}"),
                    Err(status) => Err(status.code() as i32),
                }
            }
        }
    };
}

reflection_client!(v1);
reflection_client!(v1alpha);

/// The methods of a service in the files that describe it.
fn methods(files: &[FileDescriptorProto], service: &str) -> Vec<String> {
    let services = files.iter().flat_map(|file| {
        let package = file.package().to_owned();
        let of_package = file.service.iter();
        of_package.map(move |it| (format!("{package}.{}", it.name()), it))
    });
    let mut found = services.filter(|(name, _)| name == service);
    let (_, service) = found.next().expect("the service is in its files");
    service
        .method
        .iter()
        .map(|it| it.name().to_owned())
        .collect()
}

#[tokio::test]
async fn a_client_finds_every_service_and_can_describe_it() {
    let cluster = Cluster::plan().program(Program::Sealkv).start().await;
    let channel = cluster.client().await.channel();
    for listed in [
        v1::services(&channel, None).await.unwrap(),
        v1alpha::services(&channel, None).await.unwrap(),
    ] {
        for service in SERVICES {
            assert!(
                listed.iter().any(|it| it == service),
                "{service}: {listed:?}"
            );
        }
        assert!(
            !listed
                .iter()
                .any(|it| it.contains("peer") || it.contains("replicated")),
            "what members say to each other is nobody's: {listed:?}"
        );
    }
    for files in [
        v1::files(&channel, "etcdserverpb.KV").await.unwrap(),
        v1alpha::files(&channel, "etcdserverpb.KV").await.unwrap(),
    ] {
        assert_eq!(
            methods(&files, "etcdserverpb.KV"),
            [
                "Range",
                "RangeStream",
                "Put",
                "DeleteRange",
                "Txn",
                "Compact"
            ]
        );
    }
    let of_messages = v1::files(&channel, "etcdserverpb.RangeRequest").await;
    let described = of_messages.unwrap();
    let range = described.iter().flat_map(|file| &file.message_type);
    let range = range.into_iter().find(|it| it.name() == "RangeRequest");
    assert_eq!(range.unwrap().field.len(), 13);
    for unknown in ["etcdserverpb.Nothing", "", "sealkv.peer.Raft"] {
        let refused = v1::files(&channel, unknown).await.err();
        assert_eq!(refused, Some(Code::NotFound as i32), "{unknown:?}");
    }
}

#[tokio::test]
async fn with_authentication_on_reflection_is_for_users_and_health_for_everybody() {
    let mut cluster = Cluster::plan().program(Program::Sealkv).start().await;
    interop::require_login(&mut cluster).await;
    let channel = Client::connect(&cluster.members[0].endpoint())
        .await
        .channel();
    let refused = |answer: Result<Vec<String>, Status>| {
        let status = answer.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    let empty = (
        Code::InvalidArgument,
        "etcdserver: user name is empty".to_owned(),
    );
    let invalid = (
        Code::Unauthenticated,
        "etcdserver: invalid auth token".to_owned(),
    );
    assert_eq!(refused(v1::services(&channel, None).await), empty);
    assert_eq!(refused(v1alpha::services(&channel, None).await), empty);
    assert_eq!(refused(v1::services(&channel, Some("x.1")).await), invalid);
    assert_eq!(
        refused(v1alpha::services(&channel, Some("x.1")).await),
        invalid
    );
    let login = pb::AuthenticateRequest {
        name: interop::USER.into(),
        password: interop::PASSWORD.into(),
    };
    let mut auth = pb::auth_client::AuthClient::new(channel.clone());
    let token = auth.authenticate(login).await.unwrap().into_inner().token;
    let listed = v1::services(&channel, Some(&token)).await.unwrap();
    assert!(listed.len() >= SERVICES.len());
    let listed = v1alpha::services(&channel, Some(&token)).await.unwrap();
    assert!(listed.len() >= SERVICES.len());
    assert_eq!(check(&channel, "").await, Ok(ServingStatus::Serving as i32));
}

async fn check(channel: &Channel, service: &str) -> Result<i32, (Code, String)> {
    let request = HealthCheckRequest {
        service: service.into(),
    };
    let answer = HealthClient::new(channel.clone()).check(request).await;
    answer
        .map(|it| it.into_inner().status)
        .map_err(|it| (it.code(), it.message().to_owned()))
}

/// The first thing that a watch of a service's health is told.
async fn watch(channel: &Channel, service: &str) -> i32 {
    let request = HealthCheckRequest {
        service: service.into(),
    };
    let answer = HealthClient::new(channel.clone()).watch(request).await;
    let mut answers = answer.unwrap().into_inner();
    let first = tokio::time::timeout(MESSAGE_WITHIN, answers.message()).await;
    first.unwrap().unwrap().unwrap().status
}

#[tokio::test]
async fn health_is_checked_listed_and_watched_as_with_etcd() {
    let cluster = Cluster::single().await;
    let channel = cluster.client().await.channel();
    assert_eq!(check(&channel, "").await, Ok(ServingStatus::Serving as i32));
    assert_eq!(
        check(&channel, "etcdserverpb.KV").await,
        Err((Code::NotFound, "unknown service".to_owned()))
    );
    let listed = HealthClient::new(channel.clone())
        .list(HealthListRequest {})
        .await;
    let serving = HealthCheckResponse {
        status: ServingStatus::Serving.into(),
    };
    assert_eq!(
        listed.unwrap().into_inner().statuses,
        [(String::new(), serving)].into()
    );
    assert_eq!(watch(&channel, "").await, ServingStatus::Serving as i32);
    let unknown = watch(&channel, "etcdserverpb.KV").await;
    assert_eq!(unknown, ServingStatus::ServiceUnknown as i32);
}
