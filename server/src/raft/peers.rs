//! Connections to the other members, and the greeting that goes with every call.
//!
//! Promise: a call is meant for one member in one data directory and says who makes it; a member
//! that answers to the same address with another identity is found out before it takes part. A
//! member that has left the cluster is told so, and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prost::Message;
use proto::sealkv::peer::Greeting;
use proto::sealkv::peer::peer_client::PeerClient;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use super::identity::{Identity, PROTOCOL_MAX, PROTOCOL_MIN};
use super::link::{Dial, Link};
use crate::mvcc::read_view::ReadView;
use crate::tls::Outbound;

/// Binary metadata of every call between members.
pub(super) const GREETING: &str = "sealkv-greeting-bin";
/// Set on a refusal: the callee knows the caller's member id by another data directory.
pub(super) const BOOTSTRAPPED: &str = "sealkv-bootstrapped";
/// Set on a refusal: the caller has left the cluster. etcd answers 410 Gone.
const REMOVED: &str = "sealkv-removed";

/// Why this member must not take part any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expelled {
    /// The cluster knows it by another data directory.
    LostDirectory,
    /// It has been removed.
    Removed,
}

pub(super) type Client = PeerClient<Link>;

/// Bulk traffic (log entries, snapshots) must not delay heartbeats and votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    Control,
    Bulk,
}

#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Identity,
    view: Arc<ArcSwap<ReadView>>,
    dial: Dial,
    links: Mutex<HashMap<(String, Lane), Link>>,
    /// Where the members are, by the newest membership; empty before the first.
    addresses: ArcSwap<BTreeMap<u64, Vec<String>>>,
    /// The directory in which a member was met that has not published one yet.
    met: Mutex<BTreeMap<u64, [u8; 16]>>,
    expelled: tokio::sync::watch::Sender<Option<Expelled>>,
    /// The term in which this member leads without a quorum; 0 in none.
    silent_in: AtomicU64,
}

impl Peers {
    pub fn new(
        identity: Identity,
        view: Arc<ArcSwap<ReadView>>,
        election_timeout: Duration,
        way: Outbound,
    ) -> Self {
        let dial = Dial::Network {
            election_timeout,
            way,
        };
        Self::over(identity, view, dial)
    }

    pub(super) fn over(identity: Identity, view: Arc<ArcSwap<ReadView>>, dial: Dial) -> Self {
        let links = Mutex::default();
        let expelled = tokio::sync::watch::Sender::new(None);
        Self {
            inner: Arc::new(Inner {
                identity,
                view,
                dial,
                links,
                addresses: ArcSwap::default(),
                met: Mutex::default(),
                expelled,
                silent_in: AtomicU64::new(0),
            }),
        }
    }

    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// Set once a peer, or the applied state, says that this member must not take part any more.
    pub fn expelled(&self) -> tokio::sync::watch::Receiver<Option<Expelled>> {
        self.inner.expelled.subscribe()
    }

    /// A leader that hears from no quorum must not keep its followers from electing another one
    /// by what still reaches them: in this term it begins no heartbeat and no stream of entries.
    /// etcd's steps down (raft's check of the quorum).
    pub(super) fn fall_silent(&self, term: Option<u64>) {
        let term = term.unwrap_or_default();
        self.inner.silent_in.store(term, Ordering::Relaxed);
    }

    pub(super) fn is_silent_in(&self, term: u64) -> bool {
        self.inner.silent_in.load(Ordering::Relaxed) == term
    }

    /// From now on members are called at these addresses.
    pub(super) fn learn_addresses(&self, addresses: BTreeMap<u64, Vec<String>>) {
        if addresses.is_empty() || **self.inner.addresses.load() == addresses {
            return;
        }
        self.inner
            .links
            .lock()
            .retain(|(url, _), _| addresses.values().flatten().any(|known| known == url));
        self.inner.addresses.store(Arc::new(addresses));
    }

    /// Where a member is now; `otherwise` before anything else is known.
    pub(super) fn urls_of(&self, member: u64, otherwise: &[String]) -> Vec<String> {
        let addresses = self.inner.addresses.load();
        let known = addresses.get(&member).map(Vec::as_slice);
        known.unwrap_or(otherwise).to_vec()
    }

    /// A client of the member at the first of these URLs; connects when first used and again
    /// after a break.
    pub fn client(&self, peer_urls: &[String], lane: Lane) -> Result<Client, Status> {
        let url = peer_urls
            .first()
            .ok_or_else(|| Status::unavailable("member has no peer URL"))?;
        let mut links = self.inner.links.lock();
        if let Some(link) = links.get(&(url.clone(), lane)) {
            return Ok(limits(PeerClient::new(link.clone())));
        }
        let link = self.inner.dial.dial(url)?;
        links.insert((url.clone(), lane), link.clone());
        Ok(limits(PeerClient::new(link)))
    }

    /// A request to a member, with the greeting.
    pub fn request<T>(&self, target: u64, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let value = MetadataValue::from_bytes(&self.greeting(target).encode_to_vec());
        request.metadata_mut().insert_bin(GREETING, value);
        request
    }

    /// What this member says of itself to another, and where it knows that one to be.
    pub fn greeting(&self, target: u64) -> Greeting {
        let view = self.inner.view.load();
        let directory = self.directory_of(&view, target);
        let mut greeting = self
            .inner
            .identity
            .greeting(target, directory.as_ref().map_or(&[], |id| &id[..]));
        if let Some(keyring_id) = view.key_table.keyring_id() {
            greeting.keyring_id = bytes::Bytes::copy_from_slice(keyring_id.as_bytes());
        }
        greeting
    }

    /// Notes what a refusal says of this member.
    pub fn note(&self, status: &Status) {
        if status.metadata().get(BOOTSTRAPPED).is_some() {
            self.expel(Expelled::LostDirectory);
        } else if status.metadata().get(REMOVED).is_some() {
            self.expel(Expelled::Removed);
        }
    }

    /// The first reason stays.
    pub(super) fn expel(&self, why: Expelled) {
        self.inner.expelled.send_if_modified(|expelled| {
            let first = expelled.is_none();
            expelled.get_or_insert(why);
            first
        });
    }

    /// The published one, or else the one in which this process has met it.
    fn directory_of(&self, view: &ReadView, member: u64) -> Option<[u8; 16]> {
        let published = view.members.directory_id(member);
        published.or_else(|| self.inner.met.lock().get(&member).copied())
    }

    /// Remembers the directory of a member that has not published one yet: should it lose that
    /// and come back with another, it must not pretend to have what it has told the leader.
    fn meet(&self, view: &ReadView, greeting: &Greeting) {
        let Ok(directory) = <[u8; 16]>::try_from(&greeting.directory_id[..]) else {
            return;
        };
        let mut met = self.inner.met.lock();
        if view.members.directory_id(greeting.member_id).is_some() {
            met.remove(&greeting.member_id);
        } else if self
            .inner
            .addresses
            .load()
            .contains_key(&greeting.member_id)
        {
            met.entry(greeting.member_id).or_insert(directory);
        }
    }

    /// Checks the greeting of an incoming call.
    pub fn welcome<T>(&self, request: &Request<T>) -> Result<Greeting, Status> {
        let greeting = request
            .metadata()
            .get_bin(GREETING)
            .and_then(|value| value.to_bytes().ok())
            .and_then(|bytes| Greeting::decode(bytes).ok())
            .ok_or_else(|| Status::unauthenticated("a peer call needs a greeting"))?;
        let me = &self.inner.identity;
        if greeting.cluster_id != me.cluster_id {
            tracing::warn!(
                local = format_args!("{:x}", me.cluster_id),
                remote = format_args!("{:x}", greeting.cluster_id),
                "rejected connection on peer endpoint: cluster ID mismatch"
            );
            return Err(Status::failed_precondition(
                "etcdserver: cluster ID mismatch",
            ));
        }
        if greeting.protocol_min > PROTOCOL_MAX || greeting.protocol_max < PROTOCOL_MIN {
            return Err(Status::failed_precondition(format!(
                "peer protocol {}..{} is not spoken here ({PROTOCOL_MIN}..{PROTOCOL_MAX})",
                greeting.protocol_min, greeting.protocol_max
            )));
        }
        if greeting.target_id != 0 && greeting.target_id != me.member_id {
            return Err(Status::failed_precondition(
                "this is another member than the one called",
            ));
        }
        self.refuse_removed(&greeting)?;
        self.check_keyring(&greeting)?;
        self.check_directories(&greeting)?;
        self.meet(&self.inner.view.load(), &greeting);
        Ok(greeting)
    }

    fn refuse_removed(&self, greeting: &Greeting) -> Result<(), Status> {
        let view = self.inner.view.load();
        if !view.members.is_removed(greeting.member_id) {
            return Ok(());
        }
        tracing::warn!(
            peer = format_args!("{:x}", greeting.member_id),
            "rejected connection on peer endpoint: the member has been removed"
        );
        let mut status =
            Status::failed_precondition("the member has been permanently removed from the cluster");
        status
            .metadata_mut()
            .insert(REMOVED, MetadataValue::from_static("1"));
        Err(status)
    }

    fn check_keyring(&self, greeting: &Greeting) -> Result<(), Status> {
        let view = self.inner.view.load();
        let Some(own) = view.key_table.keyring_id() else {
            return Ok(());
        };
        if greeting.keyring_id.is_empty() || greeting.keyring_id == own.as_bytes()[..] {
            return Ok(());
        }
        tracing::warn!(
            peer = format_args!("{:x}", greeting.member_id),
            "rejected connection on peer endpoint: keyring mismatch"
        );
        Err(Status::failed_precondition(
            "the caller belongs to another keyring",
        ))
    }

    fn check_directories(&self, greeting: &Greeting) -> Result<(), Status> {
        let view = self.inner.view.load();
        let me = &self.inner.identity;
        let target = &greeting.target_directory_id;
        if !target.is_empty() && target[..] != me.directory_id[..] {
            let known_here = view.members.directory_id(me.member_id);
            if known_here != Some(me.directory_id) {
                // The cluster knows this member by a directory that it no longer has.
                self.expel(Expelled::LostDirectory);
            }
            return Err(Status::failed_precondition(
                "this member has another data directory",
            ));
        }
        if let Some(known) = self.directory_of(&view, greeting.member_id)
            && known[..] != greeting.directory_id[..]
        {
            tracing::warn!(
                peer = format_args!("{:x}", greeting.member_id),
                "rejected connection on peer endpoint: member has already been bootstrapped \
                 with another data directory"
            );
            let mut status = Status::failed_precondition("member has already been bootstrapped");
            status
                .metadata_mut()
                .insert(BOOTSTRAPPED, MetadataValue::from_static("1"));
            return Err(status);
        }
        Ok(())
    }
}

/// Peers send whole batches of entries: the default message limit is for strangers.
fn limits(client: Client) -> Client {
    client
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// More than any batch of entries openraft sends at once.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 30;
