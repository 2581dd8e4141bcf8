//! The peer protocol's other end: what members may ask of this one.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use keys::StorageKeys;
use openraft::raft::TransferLeaderError;
use parking_lot::Mutex;
use prost::Message as _;
use proto::sealkv::peer as pb;
use proto::sealkv::peer::peer_server::{Peer, PeerServer};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::consensus::Consensus;
use super::executor;
use super::identity::{PROTOCOL_MAX, PROTOCOL_MIN};
use super::lease::LeaseAtLeader;
use super::membership;
use super::peers::{Expelled, MESSAGE_BYTES_MAX};
use super::propose::NotProposed;
use super::snapshot::SnapshotContent;
use super::types::{SnapshotMeta, TypeConfig};
use super::wire;
use crate::apply::snapshot::SnapshotLoader;
use crate::command::Envelope;
use crate::key_service::{KeyService, MintError};
use crate::metrics::{Held, metrics};
use crate::mvcc::hash::hash_kv;
use crate::replica::{ClusterError, Member, ProposeError, Replica as _};
use crate::storage::{StagedState, StateDirectory};

type Answer<T> = Result<Response<T>, Status>;

pub struct PeerService {
    consensus: Consensus,
    keys: KeyService,
    directory: Arc<Mutex<dyn StateDirectory>>,
    storage_keys: StorageKeys,
}

impl PeerService {
    pub fn new(
        consensus: Consensus,
        keys: KeyService,
        directory: Arc<Mutex<dyn StateDirectory>>,
        storage_keys: StorageKeys,
    ) -> PeerServer<Self> {
        PeerServer::new(Self {
            consensus,
            keys,
            directory,
            storage_keys,
        })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Every call starts here: the caller belongs to this cluster and means this member.
    fn welcome<T>(&self, request: Request<T>) -> Result<(pb::Greeting, T), Status> {
        let greeting = self.consensus.peers().welcome(&request)?;
        Ok((greeting, request.into_inner()))
    }

    /// Raft's own calls. Whoever is none of the members that this one knows may have become one
    /// since: a member that replays an old log, or comes back after a long time, would refuse
    /// those who lead now. Raft's terms decide what they may do; who has left is refused above.
    fn welcome_raft<T>(&self, request: Request<T>) -> Result<T, Status> {
        let (_, message) = self.welcome(request)?;
        Ok(message)
    }

    /// What a member asks of another one: the caller must be a member now.
    fn welcome_member<T>(&self, request: Request<T>) -> Result<T, Status> {
        let (greeting, message) = self.welcome(request)?;
        let nodes = self.consensus.member_nodes();
        // A member that has no configuration yet knows nobody.
        if !nodes.is_empty() && !nodes.contains_key(&greeting.member_id) {
            return Err(Status::failed_precondition(
                "the caller is not a member of this cluster",
            ));
        }
        Ok(message)
    }

    /// A member that has lost its log and its votes, or has left, must not give another one.
    fn may_vote(&self) -> Result<(), Status> {
        let expelled = *self.consensus.peers().expelled().borrow();
        match expelled {
            None => Ok(()),
            Some(Expelled::LostDirectory) => Err(Status::failed_precondition(
                "this member has lost its data directory",
            )),
            Some(Expelled::Removed) => Err(Status::failed_precondition(
                "this member has been removed from the cluster",
            )),
        }
    }
}

fn invalid(error: wire::WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped<E: std::fmt::Display>(error: E) -> Status {
    Status::unavailable(format!("raft has stopped: {error}"))
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn greet(&self, request: Request<pb::GreetRequest>) -> Answer<pb::GreetResponse> {
        let peers = self.consensus.peers();
        let greeting = peers.welcome(&request)?;
        let known = self
            .consensus
            .view()
            .members
            .directory_id(greeting.member_id);
        let slot = self.keys.own_slot();
        Ok(Response::new(pb::GreetResponse {
            greeting: Some(peers.greeting(greeting.member_id)),
            slot_public_key: bytes::Bytes::copy_from_slice(slot.public_key.as_bytes()),
            slot_provider: slot.provider.as_str().to_owned(),
            caller_directory_id: known
                .map(|id| bytes::Bytes::copy_from_slice(&id))
                .unwrap_or_default(),
        }))
    }

    type AppendStream = Pin<Box<dyn Stream<Item = Result<pb::AppendResponse, Status>> + Send>>;

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Answer<Self::AppendStream> {
        self.may_vote()?;
        let (greeting, inbound) = self.welcome(request)?;
        let from = greeting.member_id;
        let local = self.consensus.member_id();
        let inbound = inbound.inspect(move |item| {
            let peers = &metrics().peers;
            match item {
                Ok(message) => {
                    peers.received(from, message.encoded_len());
                    peers.reached(local, from);
                }
                Err(_) => peers.refused(from),
            }
        });
        // A message that cannot be read ends the stream; raft starts a new one.
        let requests = inbound
            .map(|item| item.and_then(|message| wire::parse_append(message).map_err(invalid)))
            .take_while(|item| futures::future::ready(item.is_ok()))
            .filter_map(|item| futures::future::ready(item.ok()));
        let results = self.consensus.raft().stream_append(requests);
        let outbound =
            results.map(|result| result.map(wire::append_result).map_err(|e| stopped(&e)));
        let outbound = outbound.inspect(move |item| {
            if let Ok(message) = item {
                metrics().peers.sent(from, message.encoded_len());
            }
        });
        Ok(Response::new(Box::pin(outbound)))
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Answer<pb::VoteResponse> {
        self.may_vote()?;
        let message = self.welcome_raft(request)?;
        let vote = wire::parse_vote_request(message).map_err(invalid)?;
        let answer = self.consensus.raft().vote(vote).await.map_err(stopped)?;
        Ok(Response::new(wire::vote_response(&answer)))
    }

    async fn pre_vote(&self, request: Request<pb::VoteRequest>) -> Answer<pb::VoteResponse> {
        self.may_vote()?;
        let message = self.welcome_raft(request)?;
        let vote = wire::parse_vote_request(message).map_err(invalid)?;
        let answer = self
            .consensus
            .raft()
            .pre_vote(vote)
            .await
            .map_err(stopped)?;
        Ok(Response::new(wire::vote_response(&answer)))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Answer<pb::TransferLeaderResponse> {
        use pb::transfer_leader_response::Refusal;
        let message = self.welcome_member(request)?;
        let request = openraft::raft::TransferLeaderRequest::<TypeConfig>::new(
            wire::vote(message.from_leader).map_err(invalid)?,
            message.to_node_id,
            message.last_log_id.map(wire::parse_log_id),
        );
        let answer = self
            .consensus
            .raft()
            .handle_transfer_leader(request)
            .await
            .map_err(stopped)?;
        let refusal = answer.err().map(|error| match error {
            TransferLeaderError::VoteChanged { actual, .. } => {
                Refusal::VoteChangedTo(wire::ballot(&actual))
            }
            TransferLeaderError::LogNotFlushed { actual, .. } => {
                Refusal::LogFlushedTo(pb::Matched {
                    log_id: actual.as_ref().map(wire::log_id),
                })
            }
        });
        Ok(Response::new(pb::TransferLeaderResponse { refusal }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotPart>>,
    ) -> Answer<pb::SnapshotInstalled> {
        use pb::snapshot_part::Part;
        self.may_vote()?;
        let (greeting, mut inbound) = self.welcome(request)?;
        let from = greeting.member_id;
        let _receiving = Held::new(&metrics().snapshots_being_applied);
        let begun = Instant::now();
        let first = inbound.message().await?.and_then(|message| message.part);
        let Some(Part::Head(head)) = first else {
            return Err(Status::invalid_argument("a snapshot starts with its head"));
        };
        let (vote, meta) = wire::parse_snapshot_head(head).map_err(invalid)?;
        let received = self.receive(&mut inbound, &meta).await;
        let took = begun.elapsed();
        metrics()
            .peers
            .snapshot_received(from, took, received.is_ok());
        let staged = received?;
        let snapshot = openraft::type_config::alias::SnapshotOf::<TypeConfig, SnapshotContent> {
            meta,
            snapshot: SnapshotContent::Staged(Box::new(staged)),
        };
        let installed = self
            .consensus
            .raft()
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(stopped)?;
        let vote = Some(wire::ballot(&installed.vote));
        Ok(Response::new(pb::SnapshotInstalled { vote }))
    }

    async fn forward(&self, request: Request<pb::ForwardRequest>) -> Answer<pb::ForwardResponse> {
        use pb::forward_response::Refusal;
        let message = self.welcome_member(request)?;
        let answer = |refusal: Refusal| {
            Ok(Response::new(pb::ForwardResponse {
                refusal: refusal.into(),
            }))
        };
        let header = match Envelope::read(&message.command) {
            Ok(header) => header,
            Err(_) => return answer(Refusal::Invalid),
        };
        if !header.may_be_forwarded() {
            // Expiry, effects, key changes: only the leader's own.
            return answer(Refusal::Invalid);
        }
        if self.consensus.is_backlogged(header.ends_leases()) {
            return answer(Refusal::TooManyRequests);
        }
        let appended = self
            .consensus
            .append_in_term(None, message.term, message.command);
        let bounded = tokio::time::timeout(self.consensus.request_timeout(), appended);
        answer(match bounded.await {
            // The caller has given up by now; its waiter has the answer if there is one.
            Ok(Ok(())) | Err(_) => Refusal::None,
            Ok(Err(NotProposed::NotLeader)) => Refusal::NotLeader,
            Ok(Err(NotProposed::Refused(error))) => match error {
                ProposeError::TooManyRequests => Refusal::TooManyRequests,
                ProposeError::CannotOpen => Refusal::CannotOpen,
                ProposeError::Corrupt => Refusal::Corrupt,
                _ => Refusal::Stopped,
            },
        })
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Answer<pb::ReadIndexResponse> {
        self.welcome_member(request)?;
        let index = self.consensus.confirmed_index().await;
        Ok(Response::new(pb::ReadIndexResponse {
            confirmed: index.is_some(),
            index: index.unwrap_or(0),
        }))
    }

    async fn keep_alive(&self, request: Request<pb::LeaseRequest>) -> Answer<pb::LeaseResponse> {
        let message = self.welcome_member(request)?;
        let answer = self.consensus.keep_alive_here(message.id).await;
        Ok(Response::new(lease_response(answer)))
    }

    async fn lease_remaining(
        &self,
        request: Request<pb::LeaseRequest>,
    ) -> Answer<pb::LeaseResponse> {
        let message = self.welcome_member(request)?;
        let answer = self.consensus.lease_remaining_here(message.id).await;
        Ok(Response::new(lease_response(answer)))
    }

    async fn mint_key(&self, request: Request<pb::MintKeyRequest>) -> Answer<pb::MintKeyResponse> {
        use pb::mint_key_response::Refusal;
        let message = self.welcome_member(request)?;
        let minted = self.keys.mint_here(&message.prefix, message.rotate).await;
        let (refusal, log_index) = match minted {
            Ok(index) => (Refusal::None, index),
            Err(MintError::NotLeader) => (Refusal::NotLeader, 0),
            Err(MintError::CannotOpenRoot) => (Refusal::CannotOpenRoot, 0),
            Err(MintError::Exists) => (Refusal::AlreadyExists, 0),
            Err(MintError::NotFound) => (Refusal::NotFound, 0),
            Err(MintError::Unavailable(_)) => (Refusal::Unavailable, 0),
        };
        Ok(Response::new(pb::MintKeyResponse {
            refusal: refusal.into(),
            log_index,
        }))
    }

    async fn members(&self, _: Request<pb::MembersRequest>) -> Answer<pb::MembersResponse> {
        let member = |member: Member| pb::Member {
            id: member.id,
            name: member.name,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
            is_learner: member.is_learner,
        };
        Ok(Response::new(pb::MembersResponse {
            cluster_id: self.consensus.peers().identity().cluster_id,
            members: self.consensus.members().into_iter().map(member).collect(),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
        }))
    }

    async fn change_members(
        &self,
        request: Request<pb::ChangeMembersRequest>,
    ) -> Answer<pb::ChangeMembersResponse> {
        let message = self.welcome_member(request)?;
        let change = membership::from_wire(message)
            .ok_or_else(|| Status::invalid_argument("a change without its kind"))?;
        let changed = self.consensus.change_members_here(&change);
        let bounded = tokio::time::timeout(self.consensus.request_timeout(), changed).await;
        let timed_out = |_| Err(ClusterError::from(ProposeError::Timeout).into());
        let done = bounded.unwrap_or_else(timed_out);
        Ok(Response::new(membership::to_answer(done)))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Answer<pb::HashKvResponse> {
        let revision = self.welcome_member(request)?.revision;
        let view = self.consensus.view();
        let newest = view.revision;
        let hashed = executor::blocking(move || hash_kv(&view, revision))
            .await
            .map_err(|e| stopped(&e))?;
        let hashed = hashed.ok();
        Ok(Response::new(pb::HashKvResponse {
            absent: hashed.is_none(),
            hash: hashed.map_or(0, |it| it.hash),
            compact_revision: hashed.map_or(0, |it| it.compact_revision),
            revision: newest,
        }))
    }
}

impl PeerService {
    async fn receive(
        &self,
        inbound: &mut Streaming<pb::SnapshotPart>,
        meta: &SnapshotMeta,
    ) -> Result<StagedState, Status> {
        use pb::snapshot_part::Part;
        let failed = |e: &dyn std::fmt::Display| Status::internal(format!("snapshot: {e}"));
        let staged = self
            .directory
            .lock()
            .stage_state(self.storage_keys.clone())
            .map_err(|e| failed(&e))?;
        let expected = meta.last_log_id.map(|id| (id.leader_id.term, id.index));
        let mut loader = SnapshotLoader::new(staged.store().clone());
        let mut chunks = 0;
        while let Some(message) = inbound.message().await? {
            match message.part {
                Some(Part::Chunk(chunk)) => {
                    chunks += 1;
                    loader = executor::blocking(move || {
                        let mut loader = loader;
                        loader.chunk(&chunk).map(|()| loader)
                    })
                    .await
                    .map_err(|e| failed(&e))?
                    .map_err(|e| failed(&e))?;
                }
                Some(Part::ChunksTotal(total)) if total == chunks => {
                    let (_, applied) = executor::blocking(move || loader.finish(None))
                        .await
                        .map_err(|e| failed(&e))?
                        .map_err(|e| failed(&e))?;
                    if applied.last.map(|at| (at.term, at.index)) != expected {
                        return Err(failed(&"it ends at another entry than its head says"));
                    }
                    return Ok(staged);
                }
                _ => {
                    return Err(Status::invalid_argument(
                        "a part of the snapshot is out of place",
                    ));
                }
            }
        }
        Err(Status::invalid_argument(
            "the snapshot ended before its closing part",
        ))
    }
}

fn lease_response(answer: LeaseAtLeader) -> pb::LeaseResponse {
    use pb::lease_response::Result as Outcome;
    let with = |result: Outcome, ttl_seconds, granted_ttl_seconds| pb::LeaseResponse {
        result: result.into(),
        ttl_seconds,
        granted_ttl_seconds,
    };
    match answer {
        LeaseAtLeader::Found {
            ttl_seconds,
            granted_seconds,
        } => with(Outcome::Found, ttl_seconds, granted_seconds),
        LeaseAtLeader::NotFound => with(Outcome::NotFound, 0, 0),
        LeaseAtLeader::NotLeader => with(Outcome::NotLeader, 0, 0),
        LeaseAtLeader::Undecided => with(Outcome::Undecided, 0, 0),
    }
}
