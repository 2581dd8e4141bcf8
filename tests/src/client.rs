//! A client of the etcd API as the tests want it: short calls over the generated stubs.
//!
//! Promise: a call is made once and its answer is handed back as it came; nothing is retried.

use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::sealkv::v1::keys_client::KeysClient;
use proto::sealkv::v1::plugins_client::PluginsClient;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::tls::Tls;

/// Larger than any answer a test asks for.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// No call may take longer; a server that hangs fails its test instead of stopping the suite.
const CALL_WITHIN: Duration = Duration::from_secs(60);
/// How long a test waits for the next message of a stream before it calls it missing.
pub const MESSAGE_WITHIN: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub struct Client {
    channel: Channel,
    /// Sent along with every call that is made through this client's own methods.
    token: Option<String>,
}

impl Client {
    pub async fn connect(endpoint: &str) -> Self {
        Self::try_connect(endpoint)
            .await
            .unwrap_or_else(|| panic!("nobody answers at {endpoint}"))
    }

    /// `None` if nobody listens there.
    pub async fn try_connect(endpoint: &str) -> Option<Self> {
        let endpoint = Endpoint::from_shared(endpoint.to_owned())
            .ok()?
            .connect_timeout(Duration::from_secs(2))
            .timeout(CALL_WITHIN);
        Some(Self {
            channel: endpoint.connect().await.ok()?,
            token: None,
        })
    }

    /// `None` if nobody listens there, or one of the two ends does not believe the other.
    pub async fn try_connect_over(endpoint: &str, tls: &Tls) -> Option<Self> {
        Some(Self {
            channel: tls.connect(endpoint, CALL_WITHIN).await.ok()?,
            token: None,
        })
    }

    /// Connects at the first call, and again after the server was away.
    pub fn lazy(endpoint: &str) -> Self {
        let endpoint = Endpoint::from_shared(endpoint.to_owned())
            .expect("the harness makes well-formed endpoints");
        Self {
            channel: endpoint
                .connect_timeout(Duration::from_secs(2))
                .connect_lazy(),
            token: None,
        }
    }

    /// The same client as somebody.
    pub async fn log_in(mut self, name: &str, password: &str) -> Result<Self, Status> {
        let request = pb::AuthenticateRequest {
            name: name.to_owned(),
            password: password.to_owned(),
        };
        let answer = AuthClient::new(self.channel())
            .authenticate(request)
            .await?;
        self.token = Some(answer.into_inner().token);
        Ok(self)
    }

    /// The same client with this token, whatever it is worth, or with none.
    #[must_use]
    pub fn with_token(&self, token: Option<String>) -> Self {
        Self {
            channel: self.channel(),
            token,
        }
    }

    /// A request that brings the token along.
    pub fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            let token = token.parse().expect("a token is plain text");
            request.metadata_mut().insert("token", token);
        }
        request
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel())
    }

    pub fn keys(&self) -> KeysClient<Channel> {
        KeysClient::new(self.channel())
    }

    pub fn plugins(&self) -> PluginsClient<Channel> {
        PluginsClient::new(self.channel())
    }

    pub async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        self.kv()
            .range(self.ask(request))
            .await
            .map(tonic::Response::into_inner)
    }

    pub async fn get(&self, key: impl Into<Bytes>) -> Result<pb::RangeResponse, Status> {
        self.range(pb::RangeRequest {
            key: key.into(),
            ..Default::default()
        })
        .await
    }

    /// The value of one key, `None` if there is no such key.
    pub async fn value(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, Status> {
        Ok(self.get(key).await?.kvs.pop().map(|kv| kv.value))
    }

    /// Every key that begins with `prefix`.
    pub async fn prefix(&self, prefix: &str) -> Result<pb::RangeResponse, Status> {
        self.range(pb::RangeRequest {
            key: Bytes::copy_from_slice(prefix.as_bytes()),
            range_end: prefix_end(prefix.as_bytes()),
            ..Default::default()
        })
        .await
    }

    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<pb::PutResponse, Status> {
        self.put_request(pb::PutRequest {
            key: key.into(),
            value: value.into(),
            ..Default::default()
        })
        .await
    }

    pub async fn put_request(&self, request: pb::PutRequest) -> Result<pb::PutResponse, Status> {
        self.kv()
            .put(self.ask(request))
            .await
            .map(tonic::Response::into_inner)
    }

    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<pb::DeleteRangeResponse, Status> {
        self.delete_range(pb::DeleteRangeRequest {
            key: key.into(),
            ..Default::default()
        })
        .await
    }

    pub async fn delete_range(
        &self,
        request: pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, Status> {
        self.kv()
            .delete_range(self.ask(request))
            .await
            .map(tonic::Response::into_inner)
    }

    pub async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        self.kv()
            .txn(self.ask(request))
            .await
            .map(tonic::Response::into_inner)
    }

    pub async fn compact(&self, revision: i64) -> Result<pb::CompactionResponse, Status> {
        self.kv()
            .compact(self.ask(pb::CompactionRequest {
                revision,
                physical: true,
            }))
            .await
            .map(tonic::Response::into_inner)
    }

    pub async fn grant(&self, id: i64, ttl: i64) -> Result<pb::LeaseGrantResponse, Status> {
        self.lease()
            .lease_grant(self.ask(pb::LeaseGrantRequest { id, ttl }))
            .await
            .map(tonic::Response::into_inner)
    }

    pub async fn revoke(&self, id: i64) -> Result<pb::LeaseRevokeResponse, Status> {
        self.lease()
            .lease_revoke(self.ask(pb::LeaseRevokeRequest { id }))
            .await
            .map(tonic::Response::into_inner)
    }

    pub async fn time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Result<pb::LeaseTimeToLiveResponse, Status> {
        self.lease()
            .lease_time_to_live(self.ask(pb::LeaseTimeToLiveRequest { id, keys }))
            .await
            .map(tonic::Response::into_inner)
    }

    pub async fn leases(&self) -> Result<pb::LeaseLeasesResponse, Status> {
        self.lease()
            .lease_leases(self.ask(pb::LeaseLeasesRequest {}))
            .await
            .map(tonic::Response::into_inner)
    }

    /// One renewal on a stream of its own.
    pub async fn keep_alive(&self, id: i64) -> Result<pb::LeaseKeepAliveResponse, Status> {
        let requests = self.ask(tokio_stream::once(pb::LeaseKeepAliveRequest { id }));
        let mut answers = self.lease().lease_keep_alive(requests).await?.into_inner();
        answers
            .message()
            .await?
            .ok_or_else(|| Status::internal("the stream ended without an answer"))
    }

    pub async fn status(&self) -> Result<pb::StatusResponse, Status> {
        MaintenanceClient::new(self.channel())
            .status(self.ask(pb::StatusRequest {}))
            .await
            .map(tonic::Response::into_inner)
    }

    pub async fn alarm(&self, request: pb::AlarmRequest) -> Result<pb::AlarmResponse, Status> {
        MaintenanceClient::new(self.channel())
            .alarm(self.ask(request))
            .await
            .map(tonic::Response::into_inner)
    }

    pub async fn hash_kv(&self, request: pb::HashKvRequest) -> Result<pb::HashKvResponse, Status> {
        MaintenanceClient::new(self.channel())
            .hash_kv(self.ask(request))
            .await
            .map(tonic::Response::into_inner)
    }

    /// All pieces of a streamed range.
    pub async fn range_stream(
        &self,
        request: pb::RangeRequest,
    ) -> Result<Vec<pb::RangeStreamResponse>, Status> {
        let mut stream = self
            .kv()
            .range_stream(self.ask(request))
            .await?
            .into_inner();
        let mut pieces = Vec::new();
        while let Some(piece) = stream.message().await? {
            pieces.push(piece);
        }
        Ok(pieces)
    }

    pub async fn member_list(&self, linearizable: bool) -> Result<pb::MemberListResponse, Status> {
        ClusterClient::new(self.channel())
            .member_list(self.ask(pb::MemberListRequest { linearizable }))
            .await
            .map(tonic::Response::into_inner)
    }

    /// A stream that carries any number of watches. A server may answer only once it is asked something.
    pub fn watch_stream(&self) -> WatchStream {
        let (requests, receiver) = mpsc::channel(64);
        let opening = self.ask(ReceiverStream::new(receiver));
        let mut client =
            WatchClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let opening =
            tokio::spawn(
                async move { client.watch(opening).await.map(tonic::Response::into_inner) },
            );
        WatchStream {
            requests,
            answers: Answers::Opening(opening),
        }
    }

    /// A stream with one watch on it, its `created` message already read.
    pub async fn watch(&self, create: pb::WatchCreateRequest) -> Result<WatchStream, Status> {
        let mut stream = self.watch_stream();
        stream.create(create).await;
        let created = stream.next().await?;
        assert!(
            created.created && !created.canceled,
            "the watch was not created: {created:?}"
        );
        Ok(stream)
    }
}

/// The end of the range of all keys that begin with `prefix`.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

pub struct WatchStream {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Answers,
}

enum Answers {
    Opening(JoinHandle<Result<Streaming<pb::WatchResponse>, Status>>),
    Open(Box<Streaming<pb::WatchResponse>>),
    /// The server refused the stream itself.
    Refused(Status),
}

impl Answers {
    async fn message(&mut self) -> Result<Option<pb::WatchResponse>, Status> {
        if let Self::Opening(opening) = self {
            *self = match opening.await {
                Ok(Ok(stream)) => Self::Open(Box::new(stream)),
                Ok(Err(status)) => Self::Refused(status),
                Err(_) => Self::Refused(Status::cancelled("the runtime stops")),
            };
        }
        match self {
            Self::Open(answers) => answers.message().await,
            Self::Refused(status) => Err(status.clone()),
            Self::Opening(_) => unreachable!("opened above"),
        }
    }
}

impl WatchStream {
    pub async fn send(&self, request: pb::WatchRequest) {
        // A stream that the server has ended shows it in its next answer.
        let _ = self.requests.send(request).await;
    }

    async fn say(&self, request: pb::watch_request::RequestUnion) {
        self.send(pb::WatchRequest {
            request_union: Some(request),
        })
        .await;
    }

    pub async fn create(&self, create: pb::WatchCreateRequest) {
        self.say(pb::watch_request::RequestUnion::CreateRequest(create))
            .await;
    }

    pub async fn cancel(&self, watch_id: i64) {
        self.say(pb::watch_request::RequestUnion::CancelRequest(
            pb::WatchCancelRequest { watch_id },
        ))
        .await;
    }

    pub async fn ask_progress(&self) {
        self.say(pb::watch_request::RequestUnion::ProgressRequest(
            pb::WatchProgressRequest {},
        ))
        .await;
    }

    /// A request with no union set, which servers ignore.
    pub async fn send_nothing(&self) {
        self.send(pb::WatchRequest::default()).await;
    }

    /// The next message; fails the test if none comes.
    pub async fn next(&mut self) -> Result<pb::WatchResponse, Status> {
        match tokio::time::timeout(MESSAGE_WITHIN, self.answers.message()).await {
            Ok(Ok(Some(message))) => Ok(message),
            Ok(Ok(None)) => Err(Status::unavailable("the watch stream ended")),
            Ok(Err(status)) => Err(status),
            Err(_) => panic!("no watch message within {MESSAGE_WITHIN:?}"),
        }
    }

    /// The next message if one comes within `limit`.
    pub async fn next_within(
        &mut self,
        limit: Duration,
    ) -> Option<Result<pb::WatchResponse, Status>> {
        match tokio::time::timeout(limit, self.answers.message()).await {
            Ok(Ok(Some(message))) => Some(Ok(message)),
            Ok(Ok(None)) => Some(Err(Status::unavailable("the watch stream ended"))),
            Ok(Err(status)) => Some(Err(status)),
            Err(_) => None,
        }
    }

    /// Events of the following messages until `count` have come; other messages fail the test.
    pub async fn events(&mut self, count: usize) -> Vec<proto::mvccpb::Event> {
        let mut events = Vec::new();
        while events.len() < count {
            let message = self.next().await.expect("the watch goes on");
            assert!(
                !message.canceled && !message.created,
                "not an event message: {message:?}"
            );
            events.extend(message.events);
        }
        events
    }
}
