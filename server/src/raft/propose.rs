//! The way of a write: to the leader, into the log, and back by this member's own apply.
//!
//! Promise: a request is proposed at most once, in the term its waiter knows, and answered by the
//! reply of its entry as this member applied it. Everything that leaves the outcome open gets one
//! of etcd's ambiguous errors.
//!
//! Not known here: what a command does.

use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::ClientWriteError;
use openraft::raft::responder::OneshotResponder;
use proto::sealkv::peer as pb;
use tonic::Code;

use super::consensus::{Consensus, Leadership};
use super::peers::Lane;
use super::types::{EntryData, TypeConfig};
use crate::access::Permitted;
use crate::command::{self, Body, Command, Header, RequestId};
use crate::metrics::{Held, metrics};
use crate::replica::{Applied, ProposeError};

/// Why an entry was certainly not appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotProposed {
    /// Ask again, maybe elsewhere.
    NotLeader,
    /// Ask again elsewhere or not at all.
    Refused(ProposeError),
}

/// How long to wait before asking for the leader again.
const LEADER_RETRY: Duration = Duration::from_millis(20);

impl Consensus {
    /// Replicates a command and waits until this member has applied it.
    pub async fn propose(&self, permitted: Permitted<Body>) -> Result<Applied, ProposeError> {
        self.propose_marked(permitted, 0).await
    }

    /// As `propose`; the leader evaluates the command's compares while it holds back every other
    /// proposal of its own, so that their guards hold unless the leader changes.
    pub async fn propose_latched(
        &self,
        permitted: Permitted<Body>,
    ) -> Result<Applied, ProposeError> {
        self.propose_marked(permitted, command::FLAG_LATCHED).await
    }

    async fn propose_marked(
        &self,
        permitted: Permitted<Body>,
        flags: u32,
    ) -> Result<Applied, ProposeError> {
        // As etcd: the member that the client asks looks at itself; a leader looks once more at
        // what others forward to it.
        if self.is_backlogged(permitted.request().ends_leases()) {
            metrics().proposals_failed.inc();
            return Err(ProposeError::TooManyRequests);
        }
        let _pending = Held::new(&metrics().proposals_pending);
        let mut ticket = self.waiters().register();
        let request = RequestId {
            member: self.member_id(),
            seq: ticket.seq,
        };
        let mut header = Header::of(request, &permitted);
        header.flags |= flags;
        let mut encoded = Command {
            header,
            body: permitted.into_request(),
        }
        .encode();
        let leader_before = self.leadership().leader;
        let (mut may_be_sent, mut refused_here) = (false, false);
        let answered = tokio::time::timeout(self.request_timeout(), async {
            loop {
                let leadership = self.leadership();
                // A leader out of reach is not called in vain, nor is this one again that took
                // nothing: what was perhaps sent has no certain end.
                let leader = match leadership.leader {
                    own if own == self.member_id() && !refused_here => own,
                    _ => self.leader_in_reach(),
                };
                may_be_sent = leader != 0;
                let outcome = match leader {
                    0 => Err(NotProposed::NotLeader),
                    id if id == self.member_id() => {
                        self.propose_here(&mut ticket, leadership.term, encoded.clone())
                            .await
                    }
                    id => {
                        let sent = self.forward(ticket.seq, id, leadership, encoded.clone());
                        match sent.await {
                            Ok(()) => Ok(ticket.answer().await),
                            Err(not_proposed) => Err(not_proposed),
                        }
                    }
                };
                match outcome {
                    // This attempt certainly had no effect and never will.
                    Ok(Err(ProposeError::LeaderChanged)) => {}
                    Ok(answer) => return answer,
                    Err(NotProposed::Refused(error)) => return Err(error),
                    Err(NotProposed::NotLeader) => {
                        refused_here |= leader == self.member_id();
                        may_be_sent = false;
                        self.leader_may_have_changed().await?;
                    }
                }
                // What is tried again is another request: an old ticket may have been told of the
                // old attempt's end in the meantime.
                ticket = self.waiters().register();
                encoded = Command::renumbered(&encoded, ticket.seq);
            }
        });
        let answer = match answered.await {
            Ok(answer) => answer,
            Err(_) if !may_be_sent => Err(ProposeError::NeverSent),
            Err(_) if self.leadership().leader != leader_before => {
                Err(ProposeError::TimeoutDueToLeaderFail)
            }
            Err(_) => Err(ProposeError::Timeout),
        };
        if answer.is_err() {
            metrics().proposals_failed.inc();
        }
        answer
    }

    /// Replicates one of the leader's own commands; never forwarded.
    pub async fn propose_at_leader(
        &self,
        permitted: Permitted<Body>,
    ) -> Result<Applied, ProposeError> {
        let leadership = self.leadership();
        if leadership.leader != self.member_id() {
            return Err(ProposeError::LeaderChanged);
        }
        if self.is_backlogged(permitted.request().ends_leases()) {
            return Err(ProposeError::TooManyRequests);
        }
        let mut ticket = self.waiters().register();
        let request = RequestId {
            member: self.member_id(),
            seq: ticket.seq,
        };
        let header = Header::of(request, &permitted);
        let encoded = Command::new(header, permitted.into_request()).encode();
        let proposed = self.propose_here(&mut ticket, leadership.term, encoded);
        match tokio::time::timeout(self.request_timeout(), proposed).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(NotProposed::NotLeader)) => Err(ProposeError::LeaderChanged),
            Ok(Err(NotProposed::Refused(error))) => Err(error),
            Err(_) => Err(ProposeError::Timeout),
        }
    }

    /// Waits for news of the leader, or a moment. There is none once raft has stopped.
    pub(crate) async fn leader_may_have_changed(&self) -> Result<(), ProposeError> {
        let mut leadership = self.watch_leadership();
        match tokio::time::timeout(LEADER_RETRY, leadership.changed()).await {
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// The answer of the entry, or why it was certainly not appended.
    async fn propose_here(
        &self,
        ticket: &mut super::waiters::Ticket,
        term: u64,
        encoded: Bytes,
    ) -> Result<Result<Applied, ProposeError>, NotProposed> {
        let seq = ticket.seq;
        let appended = self.append_in_term(Some(seq), term, encoded);
        tokio::pin!(appended);
        // The entry's own reply arrives through the ticket; `append_in_term` ends when the entry
        // was applied, or could not be appended.
        tokio::select! {
            biased;
            answer = ticket.answer() => Ok(answer),
            appended = &mut appended => {
                appended?;
                Ok(ticket.answer().await)
            }
        }
    }

    /// Appends a command in exactly this term, as its leader; whoever calls has seen that apply is
    /// not too far behind. Ends once the entry is applied, or
    /// its fate is no longer this leader's: the waiter learns which.
    pub(super) async fn append_in_term(
        &self,
        own: Option<u64>,
        term: u64,
        encoded: Bytes,
    ) -> Result<(), NotProposed> {
        let prepared = self.prepare(term, encoded).await?;
        // A VALUE compare's outcome needs a term of its own entries to stand on; so does sealing.
        if let Some(seq) = own
            && !self.waiters().proposing(seq, term)
        {
            return Err(NotProposed::NotLeader);
        }
        let (responder, outcome) = OneshotResponder::<TypeConfig, _>::new_pair();
        let leader = super::types::CommittedLeaderId::new(term);
        self.raft()
            .write(EntryData(prepared.encoded))
            .with_leader(leader)
            .responder(responder)
            .await
            .map_err(|_| NotProposed::Refused(ProposeError::Stopped))?;
        let outcome = outcome.await;
        drop(prepared.held);
        match outcome {
            Ok(Err(
                ClientWriteError::ForwardToLeader(_) | ClientWriteError::PreconditionFailed(_),
            )) => Err(NotProposed::NotLeader),
            // Applied; or discarded and perhaps committed by another leader: the ticket tells.
            Ok(_) => Ok(()),
            Err(_) => Err(NotProposed::Refused(ProposeError::Stopped)),
        }
    }

    async fn forward(
        &self,
        seq: u64,
        leader: u64,
        leadership: Leadership,
        command: Bytes,
    ) -> Result<(), NotProposed> {
        let Some(urls) = self.peer_urls(leader) else {
            return Err(NotProposed::NotLeader);
        };
        if !self.waiters().proposing(seq, leadership.term) {
            return Err(NotProposed::NotLeader);
        }
        let peers = self.peers();
        let mut client = peers
            .client(&urls, Lane::Bulk)
            .map_err(|_| NotProposed::NotLeader)?;
        let message = pb::ForwardRequest {
            term: leadership.term,
            command,
        };
        match client.forward(peers.request(leader, message)).await {
            Ok(answer) => refusal(answer.into_inner().refusal()),
            Err(status) => {
                peers.note(&status);
                if never_sent(&status) {
                    return Err(NotProposed::NotLeader);
                }
                // It may be in the leader's log: the waiter hears of it, of a later term, or of
                // the timeout.
                Ok(())
            }
        }
    }
}

/// A connection that could not be made carried nothing.
pub(super) fn never_sent(status: &tonic::Status) -> bool {
    if status.code() == Code::FailedPrecondition {
        return true;
    }
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        source = error.source();
    }
    false
}

fn refusal(refusal: pb::forward_response::Refusal) -> Result<(), NotProposed> {
    use pb::forward_response::Refusal;
    Err(match refusal {
        Refusal::None => return Ok(()),
        Refusal::NotLeader => NotProposed::NotLeader,
        Refusal::TooManyRequests => NotProposed::Refused(ProposeError::TooManyRequests),
        Refusal::Stopped => NotProposed::Refused(ProposeError::Stopped),
        Refusal::CannotOpen => NotProposed::Refused(ProposeError::CannotOpen),
        Refusal::Corrupt | Refusal::Invalid => NotProposed::Refused(ProposeError::Corrupt),
    })
}
