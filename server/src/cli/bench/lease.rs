//! Renewing leases, each request on a stream of its own as etcd's client does it once.

use clap::Args;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest};
use tonic::Status;
use tonic::transport::Channel;

use super::{BenchError, Target};

/// As etcd's benchmark grants them.
const TTL_SECONDS: i64 = 100;

#[derive(Debug, Args)]
pub(super) struct LeaseKeepalive {
    /// How many requests
    #[arg(long, default_value_t = 10_000)]
    total: u64,
}

impl LeaseKeepalive {
    pub(super) async fn run(&self, to: &Target<'_>) -> Result<String, BenchError> {
        let mut clients = to.each(|channel| (LeaseClient::new(channel), 0));
        for (client, id) in &mut clients {
            let request = LeaseGrantRequest {
                ttl: TTL_SECONDS,
                id: 0,
            };
            let granted = client.lease_grant(request).await;
            *id = granted
                .map_err(BenchError::refused("no lease is granted"))?
                .into_inner()
                .id;
        }
        let [report] = to
            .load(self.total, 0)
            .run(clients, |(client, id), _| async move {
                (0, renew(client, id).await)
            })
            .await;
        Ok(report.text(to.precise))
    }
}

async fn renew(mut client: LeaseClient<Channel>, id: i64) -> Result<(), Status> {
    let requests = tokio_stream::once(LeaseKeepAliveRequest { id });
    let mut answers = client.lease_keep_alive(requests).await?.into_inner();
    match answers.message().await? {
        Some(renewed) if renewed.ttl > 0 => Ok(()),
        Some(_) => Err(Status::not_found("the lease is gone")),
        None => Err(Status::unavailable("the stream ended without an answer")),
    }
}
