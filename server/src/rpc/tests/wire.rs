//! A served edge and the clients that talk to it over loopback.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::sealkv::v1::keys_client::KeysClient;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Status};

use super::super::Limits;
use super::single::Single;

pub(super) struct Served {
    pub(super) single: Arc<Single>,
    pub(super) kv: KvClient<Channel>,
    pub(super) watch: WatchClient<Channel>,
    pub(super) lease: LeaseClient<Channel>,
    pub(super) cluster: ClusterClient<Channel>,
    pub(super) maintenance: MaintenanceClient<Channel>,
    pub(super) keys: KeysClient<Channel>,
    pub(super) channel: Channel,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Deref for Served {
    type Target = Single;
    fn deref(&self) -> &Single {
        &self.single
    }
}

pub(super) async fn serve() -> Served {
    serve_with(Limits::default()).await
}

pub(super) async fn serve_with(limits: Limits) -> Served {
    let single = Single::start();
    let edge = single.edge(limits);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().add_routes(edge.services(None));
    let serving = tokio::spawn(async move {
        server
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
    let channel = Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let most = usize::MAX;
    Served {
        single,
        kv: KvClient::new(channel.clone()).max_decoding_message_size(most),
        watch: WatchClient::new(channel.clone()).max_decoding_message_size(most),
        lease: LeaseClient::new(channel.clone()),
        cluster: ClusterClient::new(channel.clone()),
        maintenance: MaintenanceClient::new(channel.clone()),
        keys: KeysClient::new(channel.clone()),
        channel,
        serving,
    }
}

impl Served {
    /// The revision of the put.
    pub(super) async fn put(&self, key: &str, value: &str) -> i64 {
        let request = put(key, value);
        let response = self.kv.clone().put(request).await.unwrap().into_inner();
        response.header.unwrap().revision
    }

    pub(super) async fn delete(&self, key: &str) -> i64 {
        let request = pb::DeleteRangeRequest {
            key: bytes(key),
            ..Default::default()
        };
        let response = self
            .kv
            .clone()
            .delete_range(request)
            .await
            .unwrap()
            .into_inner();
        response.header.unwrap().revision
    }

    pub(super) async fn range(
        &self,
        request: pb::RangeRequest,
    ) -> Result<pb::RangeResponse, Status> {
        Ok(self.kv.clone().range(request).await?.into_inner())
    }

    /// The value of a key, as text.
    pub(super) async fn get(&self, key: &str) -> Option<String> {
        let response = self.range(one(key)).await.unwrap();
        response.kvs.first().map(|kv| text(&kv.value))
    }

    pub(super) async fn compact(&self, revision: i64) {
        let request = pb::CompactionRequest {
            revision,
            physical: true,
        };
        self.kv.clone().compact(request).await.unwrap();
    }

    pub(super) async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        Ok(self.kv.clone().txn(request).await?.into_inner())
    }
}

pub(super) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(super) fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..Default::default()
    }
}

pub(super) fn one(key: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: bytes(key),
        ..Default::default()
    }
}

pub(super) fn span(key: &str, end: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        ..Default::default()
    }
}

pub(super) fn keys_of(response: &pb::RangeResponse) -> Vec<String> {
    response.kvs.iter().map(|kv| text(&kv.key)).collect()
}

pub(super) fn values_of(response: &pb::RangeResponse) -> Vec<String> {
    response.kvs.iter().map(|kv| text(&kv.value)).collect()
}

#[track_caller]
pub(super) fn assert_status<T: std::fmt::Debug>(
    answer: Result<T, Status>,
    code: Code,
    message: &str,
) {
    let status = answer.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, message));
}
