//! openraft's calls to other members, over the peer protocol.
//!
//! Log entries and snapshots go over a lane of their own: a heartbeat or a vote never waits
//! behind them.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, v2::RaftNetworkV2};
use openraft::raft::{
    SnapshotResponse, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse,
};
use parking_lot::Mutex;
use prost::Message as _;
use proto::sealkv::peer as pb;
use tokio::time::Instant;
use tonic::Status;

use super::peers::{Client, Lane, Peers};
use super::snapshot::{self, SnapshotContent};
use super::types::{MemberNode, TypeConfig, Vote};
use super::wire::{self, AppendEntries, VoteRequest, VoteResponse};
use crate::metrics::metrics;

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotContent>;

/// Makes the clients that openraft asks for.
pub(super) struct Network {
    peers: Peers,
}

impl Network {
    pub(super) fn new(peers: Peers) -> Self {
        Self { peers }
    }

    fn connection(&self, target: u64, node: &MemberNode, lane: Lane) -> Connection {
        Connection {
            peers: self.peers.clone(),
            target,
            node: node.clone(),
            lane,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &MemberNode) -> Connection {
        self.connection(target, node, Lane::Bulk)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &MemberNode) -> Connection {
        self.connection(target, node, Lane::Control)
    }
}

/// When each message of a stream was sent, until its answer comes.
#[derive(Default)]
struct Asked(Mutex<VecDeque<Instant>>);

impl Asked {
    fn now(&self) {
        self.0.lock().push_back(Instant::now());
    }

    fn took(&self) -> Option<Duration> {
        self.0.lock().pop_front().map(|at| at.elapsed())
    }
}

/// Calls to one member.
pub(super) struct Connection {
    peers: Peers,
    target: u64,
    node: MemberNode,
    lane: Lane,
}

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

impl Connection {
    fn client(&self, lane: Lane) -> Rpc<Client> {
        self.peers
            .client(&self.urls(), lane)
            .map_err(|s| self.failed(&s))
    }

    /// openraft keeps a connection while the member's address changes.
    fn urls(&self) -> Vec<String> {
        self.peers.urls_of(self.target, &self.node.peer_urls)
    }

    fn failed(&self, status: &Status) -> RPCError<TypeConfig> {
        self.peers.note(status);
        self.lost();
        match status.code() {
            // Nobody there: openraft backs off before it asks again.
            tonic::Code::Unavailable | tonic::Code::FailedPrecondition => {
                RPCError::Unreachable(Unreachable::new(status))
            }
            _ => RPCError::Network(NetworkError::new(status)),
        }
    }

    /// A heartbeat's way there and back is the network's; entries are also written on the way.
    fn answered(&self, asked: &Asked, bytes: usize) {
        let peers = &metrics().peers;
        peers.received(self.target, bytes);
        peers.reached(self.peers.identity().member_id, self.target);
        if let (Some(took), Lane::Control) = (asked.took(), self.lane) {
            peers.round_trip(self.target, took);
        }
    }

    async fn within<T>(
        &self,
        action: RPCTypes,
        option: &RPCOption,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Rpc<T> {
        match tokio::time::timeout(option.hard_ttl(), call).await {
            Ok(answer) => answer.map_err(|status| self.failed(&status)),
            Err(_) => Err(self.timed_out(action, option)),
        }
    }

    fn timed_out(&self, action: RPCTypes, option: &RPCOption) -> RPCError<TypeConfig> {
        self.lost();
        RPCError::Timeout(Timeout {
            action,
            id: self.peers.identity().member_id,
            target: self.target,
            timeout: option.hard_ttl(),
        })
    }

    /// The peer has not answered.
    fn lost(&self) {
        let local = self.peers.identity().member_id;
        metrics().peers.lost(local, self.target);
    }

    async fn ask_for_vote(
        &self,
        rpc: VoteRequest,
        option: RPCOption,
        pre: bool,
    ) -> Rpc<VoteResponse> {
        let mut client = self.client(Lane::Control)?;
        let request = self.peers.request(self.target, wire::vote_request(&rpc));
        let answer = self
            .within(RPCTypes::Vote, &option, async {
                if pre {
                    client.pre_vote(request).await
                } else {
                    client.vote(request).await
                }
            })
            .await?;
        wire::parse_vote_response(answer.into_inner())
            .map_err(|e| RPCError::Network(NetworkError::new(&e)))
    }
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotContent;

    async fn append_entries(
        &mut self,
        rpc: AppendEntries,
        option: RPCOption,
    ) -> Rpc<openraft::raft::AppendEntriesResponse<TypeConfig>> {
        use openraft::raft::{AppendEntriesResponse as Response, StreamAppendError};
        let ttl = option.hard_ttl();
        let (id, target) = (self.peers.identity().member_id, self.target);
        let one = async {
            let input = futures::stream::iter([rpc]);
            let mut output = RaftNetworkV2::stream_append(self, input, option).await?;
            output.next().await.unwrap_or_else(|| {
                let gone = Status::unavailable("the peer closed the stream");
                Err(RPCError::Unreachable(Unreachable::new(&gone)))
            })
        };
        let timed_out = || Timeout {
            action: RPCTypes::AppendEntries,
            id,
            target,
            timeout: ttl,
        };
        let result = tokio::time::timeout(ttl, one).await.map_err(|_| {
            // What is sent one by one are heartbeats.
            metrics().heartbeat_send_failures.inc();
            metrics().peers.lost(id, target);
            RPCError::Timeout(timed_out())
        })??;
        Ok(match result {
            Ok(matched) => Response::PartialSuccess(matched),
            Err(StreamAppendError::Conflict(_)) => Response::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => Response::HigherVote(vote),
        })
    }

    /// Calls once there is something to send: openraft backs off from a member that is not there
    /// by holding the first request back.
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntries> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            let Some(first) = input.next().await else {
                return Ok(Box::pin(futures::stream::empty()) as BoxStream<'s, _>);
            };
            if self.peers.is_silent_in(first.vote.leader_id.term) {
                return Err(self.failed(&Status::unavailable("no quorum answers this leader")));
            }
            let mut client = self.client(self.lane)?;
            let asked = Arc::new(Asked::default());
            let (target, sending) = (self.target, asked.clone());
            let requests = futures::stream::once(std::future::ready(first)).chain(input);
            let outbound = requests.map(move |request| {
                let message = wire::append(&request);
                metrics().peers.sent(target, message.encoded_len());
                sending.now();
                message
            });
            let request = self.peers.request(self.target, outbound);
            let answer = client.append(request).await.map_err(|s| self.failed(&s))?;
            let this = &*self;
            let inbound = answer.into_inner().map(move |item| match item {
                Ok(response) => {
                    this.answered(&asked, response.encoded_len());
                    wire::parse_append_result(response)
                        .map_err(|e| RPCError::Network(NetworkError::new(&e)))
                }
                Err(status) => Err(this.failed(&status)),
            });
            Ok(Box::pin(inbound) as BoxStream<'s, _>)
        })
    }

    async fn vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Rpc<VoteResponse> {
        self.ask_for_vote(rpc, option, false).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Rpc<VoteResponse> {
        self.ask_for_vote(rpc, option, true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let unreachable = |s: &Status| StreamingError::Unreachable(Unreachable::new(s));
        let mut client = self
            .peers
            .client(&self.urls(), Lane::Bulk)
            .map_err(|s| unreachable(&s))?;
        let head = wire::snapshot_head(&vote, &snapshot.meta);
        tracing::info!(
            peer = format_args!("{:x}", self.target),
            "sending a snapshot"
        );
        let parts = snapshot::parts(head, snapshot.snapshot);
        let request = self.peers.request(self.target, parts);
        let begun = Instant::now();
        let sent = tokio::select! {
            biased;
            closed = cancel => return Err(StreamingError::Closed(closed)),
            sent = client.install_snapshot(request) => sent,
        };
        metrics()
            .peers
            .snapshot_sent(self.target, begun.elapsed(), sent.is_ok());
        let installed = sent.map_err(|status| {
            self.peers.note(&status);
            unreachable(&status)
        })?;
        let vote = wire::vote(installed.into_inner().vote)
            .map_err(|e| StreamingError::Network(NetworkError::new(&e)))?;
        Ok(SnapshotResponse::new(vote))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        use pb::transfer_leader_response::Refusal;
        let mut client = self.client(Lane::Control)?;
        let message = pb::TransferLeaderRequest {
            from_leader: Some(wire::ballot(req.from_leader())),
            to_node_id: *req.to_node_id(),
            last_log_id: req.last_log_id().map(wire::log_id),
        };
        let request = self.peers.request(self.target, message);
        let answer = self
            .within(
                RPCTypes::TransferLeader,
                &option,
                client.transfer_leader(request),
            )
            .await?;
        let expected_vote = *req.from_leader();
        Ok(match answer.into_inner().refusal {
            None => Ok(()),
            Some(Refusal::VoteChangedTo(ballot)) => Err(TransferLeaderError::VoteChanged {
                expected: expected_vote,
                actual: wire::vote(Some(ballot))
                    .map_err(|e| RPCError::Network(NetworkError::new(&e)))?,
            }),
            Some(Refusal::LogFlushedTo(matched)) => Err(TransferLeaderError::LogNotFlushed {
                expected: req.last_log_id().cloned(),
                actual: matched.log_id.map(wire::parse_log_id),
            }),
        })
    }
}
