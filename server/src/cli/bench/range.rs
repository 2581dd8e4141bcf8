//! Reading keys: one, a range, page by page or as a stream.

use bytes::Bytes;
use clap::Args;
use proto::etcdserverpb::RangeRequest;
use proto::etcdserverpb::kv_client::KvClient;
use tonic::Status;
use tonic::transport::Channel;

use super::{ANSWER_BYTES_MAX, Consistency, Target};

/// The page that Kubernetes' watch cache asks for, as in etcd's benchmark.
const PAGE: i64 = 10_000;

#[derive(Debug, Args)]
pub(super) struct Range {
    #[arg(required_unless_present = "prefix")]
    key: Option<String>,
    end_range: Option<String>,
    /// Linearizable or serializable
    #[arg(long, value_enum, default_value_t = Consistency::L)]
    consistency: Consistency,
    /// How many requests
    #[arg(long, default_value_t = 10_000)]
    total: u64,
    /// Keys of an answer at most, 0 for all
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    limit: i64,
    /// Ask for the number of keys alone
    #[arg(long, conflicts_with = "keys_only")]
    count_only: bool,
    /// Ask for keys without values
    #[arg(long)]
    keys_only: bool,
    /// Take all keys that begin with KEY
    #[arg(long, conflicts_with = "end_range")]
    prefix: bool,
    /// Ask for a stream of the range instead of one answer
    #[arg(long, conflicts_with = "paginate")]
    stream: bool,
    /// Ask for pages of 10,000 keys, one after the other
    #[arg(long, conflicts_with = "limit")]
    paginate: bool,
    /// Requests per second, 0 for as many as can be
    #[arg(long, default_value_t = 0)]
    rate: u32,
}

impl Range {
    pub(super) async fn run(&self, to: &Target<'_>) -> String {
        let request = self.request();
        let (stream, paginate) = (self.stream, self.paginate);
        let clients =
            to.each(|channel| KvClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX));
        let load = to.load(self.total, self.rate);
        let [report] = load
            .run(clients, move |mut client, _| {
                let request = request.clone();
                async move {
                    let answer = match (stream, paginate) {
                        (true, _) => streamed(&mut client, request).await,
                        (_, true) => paged(&mut client, request).await,
                        _ => client.range(request).await.map(|_| ()),
                    };
                    (0, answer)
                }
            })
            .await;
        report.text(to.precise)
    }

    fn request(&self) -> RangeRequest {
        let key = self.key.clone().unwrap_or_default();
        let (key, range_end) = match (self.prefix, key.is_empty()) {
            (true, true) => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
            (true, false) => (Bytes::from(key.clone()), prefix_end(key.as_bytes())),
            (false, _) => (
                Bytes::from(key),
                Bytes::from(self.end_range.clone().unwrap_or_default()),
            ),
        };
        RangeRequest {
            key,
            range_end,
            limit: self.limit,
            serializable: matches!(self.consistency, Consistency::S),
            count_only: self.count_only,
            keys_only: self.keys_only,
            ..Default::default()
        }
    }
}

async fn streamed(client: &mut KvClient<Channel>, request: RangeRequest) -> Result<(), Status> {
    let mut chunks = client.range_stream(request).await?.into_inner();
    while chunks.message().await?.is_some() {}
    Ok(())
}

/// All pages at the revision of the first.
async fn paged(client: &mut KvClient<Channel>, mut request: RangeRequest) -> Result<(), Status> {
    request.limit = PAGE;
    loop {
        let page = client.range(request.clone()).await?.into_inner();
        let Some(last) = page.kvs.last().filter(|_| page.more) else {
            return Ok(());
        };
        request.key = [last.key.as_ref(), b"\0"].concat().into();
        if request.revision == 0 {
            request.revision = page.header.map_or(0, |header| header.revision);
        }
    }
}

/// The end of the range of all keys that begin with `prefix`.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte < 0xff);
    match kept {
        None => Bytes::from_static(b"\0"),
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(prefix_end(b"ab"), b"ac".as_slice());
        assert_eq!(prefix_end(b"a\xff"), b"b".as_slice());
        assert_eq!(prefix_end(b"\xff"), b"\0".as_slice());
    }
}
