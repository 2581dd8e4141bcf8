//! A member's raft, put together and started.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use openraft::async_runtime::watch::Watch as _;
use openraft::{Config, Raft, SnapshotPolicy};
use parking_lot::Mutex;
use thiserror::Error;

use super::consensus::{Consensus, Parts};
use super::executor::Executor;
use super::identity::Identity;
use super::log_store::LogStore;
use super::membership::Rules;
use super::network::Network;
use super::peers::Peers;
use super::state_machine::{Audience, CompactionPace, StateMachine};
use super::types::{MemberNode, Watch};
use super::waiters::Waiters;
use crate::access::Sessions;
use crate::apply::Machine;
use crate::key_service::KeyringFollower;
use crate::lease::lessor::Lessor;
use crate::seal::Sealer;
use crate::storage::log::RaftLog;
use crate::storage::{StateDirectory, Store};
use crate::watch::Hub;

/// What raft is told by the configuration.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    /// Entries between snapshots.
    pub snapshot_count: u64,
    /// Entries kept behind a snapshot for followers that are a little late.
    pub snapshot_catchup_entries: u64,
    pub request_timeout: Duration,
    /// An apply that takes longer is logged.
    pub slow_apply: Duration,
    /// What a change of the membership must leave standing.
    pub rules: Rules,
    pub compaction: CompactionPace,
    /// Ends of leases may wait longer for apply than other writes.
    pub priority_requests: bool,
}

#[derive(Debug, Error)]
pub enum NodeError {
    #[error("the options of raft contradict each other: {0}")]
    Options(String),
    #[error("cannot start: {0}")]
    Start(String),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("the operating system gave no random number")]
    Random,
}

/// Everything a member's raft is made of.
pub struct Node {
    pub identity: Identity,
    pub options: NodeOptions,
    pub directory: Arc<Mutex<dyn StateDirectory>>,
    pub store: Store,
    pub machine: Machine,
    pub log: RaftLog,
    pub sealer: Sealer,
    pub keyring: KeyringFollower,
    pub hub: Hub,
    pub sessions: Sessions,
    /// Shared with whoever needs a view before raft runs.
    pub peers: Peers,
    pub view: Arc<ArcSwap<crate::mvcc::read_view::ReadView>>,
    /// The members to bootstrap a cluster with; none if the log says who they are.
    pub bootstrap: Option<BTreeMap<u64, (String, Vec<String>)>>,
}

impl Node {
    /// Starts raft on the current runtime.
    pub async fn start(self) -> Result<Consensus, NodeError> {
        let first = getrandom::u64().map_err(|_| NodeError::Random)?;
        self.start_with(first, Executor::Threads).await
    }

    /// `first` is the number of this run's first request; no earlier run of this member has used
    /// it or one near it.
    pub(super) async fn start_with(
        self,
        first: u64,
        executor: Executor,
    ) -> Result<Consensus, NodeError> {
        let config = self.options.raft()?;
        let member_id = self.identity.member_id;
        let waiters = Waiters::new(first);
        let lessor = Arc::new(Mutex::new(Lessor::new()));
        let view = self.view;
        self.keyring.follow(&view.load().key_table);
        self.sessions.applied(&[], &view.load().auth);
        let (applied_sender, applied) = Watch::channel(view.load().applied_index);
        let audience = Audience {
            member_id,
            view: view.clone(),
            keyring: self.keyring,
            hub: self.hub,
            sessions: self.sessions,
            waiters: waiters.clone(),
            lessor: lessor.clone(),
            applied: applied_sender,
            slow_apply: self.options.slow_apply,
            compaction: self.options.compaction,
        };
        let state_machine =
            StateMachine::start(self.machine, self.store, self.directory, audience, executor)?;
        let state = state_machine.handle();
        let network = Network::new(self.peers.clone());
        let log = LogStore::new(self.log.clone());
        let raft = Raft::new(member_id, config, network, log, state_machine)
            .await
            .map_err(|error| NodeError::Start(error.to_string()))?;
        if let Some(members) = self.bootstrap {
            bootstrap(&raft, &members).await?;
        }
        Ok(Consensus::new(Parts {
            raft,
            log: self.log,
            peers: self.peers,
            waiters,
            view,
            applied,
            lessor,
            state,
            sealer: self.sealer,
            request_timeout: self.options.request_timeout,
            rules: self.options.rules,
            priority_requests: self.options.priority_requests,
        }))
    }
}

/// The same first entry on every member; a member that a leader has reached before has it already.
async fn bootstrap(
    raft: &super::consensus::RaftHandle,
    members: &BTreeMap<u64, (String, Vec<String>)>,
) -> Result<(), NodeError> {
    let start = |error: &dyn std::fmt::Display| NodeError::Start(error.to_string());
    if raft.is_initialized().await.map_err(|e| start(&e))? {
        return Ok(());
    }
    let nodes: BTreeMap<u64, MemberNode> = members
        .iter()
        .map(|(id, (name, peer_urls))| {
            (
                *id,
                MemberNode {
                    name: name.clone(),
                    peer_urls: peer_urls.clone(),
                    joins_as_voter: false,
                },
            )
        })
        .collect();
    match raft.initialize(nodes).await {
        Ok(()) => Ok(()),
        Err(_) if raft.is_initialized().await.map_err(|e| start(&e))? => Ok(()),
        Err(error) => Err(start(&error)),
    }
}

impl NodeOptions {
    fn raft(&self) -> Result<Arc<Config>, NodeError> {
        let election = millis(self.election_timeout);
        let config = Config {
            cluster_name: "sealkv".into(),
            heartbeat_interval: millis(self.heartbeat_interval),
            // A follower waits for the longer of the two (the leader's lease) and then for a
            // random time between both: together about one election timeout without a heartbeat.
            election_timeout_min: election * 3 / 10,
            election_timeout_max: election * 6 / 10,
            enable_pre_vote: Some(true),
            // A leader that hears nobody falls silent, so that the others elect one who does.
            quorum_loss_probe_interval: Some(election * 2),
            // A leader commits what a quorum of others has on disk, before its own disk has it. One
            // that crashed in between and led on in the same term would fill the place of a
            // committed entry with another. It stands for election like everyone.
            enable_leader_restore: Some(false),
            // `schedule_snapshots` triggers them.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.snapshot_catchup_entries,
            // Only a follower whose entries are gone gets a snapshot.
            replication_lag_threshold: u64::MAX,
            max_payload_entries: 1_024,
            install_snapshot_timeout: 60_000,
            backoff: "20ms 50ms 100ms ..200ms".into(),
            ..Config::default()
        };
        let config = config
            .validate()
            .map_err(|e| NodeError::Options(e.to_string()))?;
        Ok(Arc::new(config))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
