//! A running member: its parts in the order in which they start, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use parking_lot::Mutex;
use proto::sealkv::peer as pb;
use sd_notify::NotifyState;
use tonic::service::Routes;

use super::bootstrap::{self, Opened};
use super::listen::{listen, secure, tell_security};
use super::pages::{PagesCluster, PagesNode};
use super::plugins::Plugins;
use super::{StartError, discovery, join, memory, registry};
use crate::access::{Door, Internal, JwtTokens, Permitted, Sessions};
use crate::apply::Machine;
use crate::command::PublishMember;
use crate::compaction_schedule;
use crate::config::{AuthToken, Config, Gate};
use crate::corruption_check;
use crate::http::{FrontDoor, Gateway};
use crate::key_service::{KeyService, KeyringFollower};
use crate::lease::lessor::ttl_seconds_min;
use crate::metrics::metrics;
use crate::raft::{
    CompactionPace, Consensus, Expelled, Identity, Lane, Node, NodeOptions, PeerService, Peers,
    Rules, force_new_cluster,
};
use crate::rpc::{Edge, Health, Limits, Room};
use crate::seal::Sealer;
use crate::serve::{self, Endpoint, Listener, Services, Workers};
use crate::shutdown::Shutdown;
use crate::storage::DataDir;
use crate::storage::log::RaftLog;
use crate::tls::{MemberTls, Outbound};
use crate::traces::Traces;
use crate::watch::Hub;

/// How long a new member waits for an answer when it asks its peers whether they know it.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a member goes on after it has learned that it was removed (etcd: 1 s).
const REMOVED_SERVES_FOR: Duration = Duration::from_secs(1);
/// Between attempts to publish this member's name and client URLs.
const PUBLISH_RETRY: Duration = Duration::from_millis(500);

pub(super) async fn run(config: Arc<Config>, shutdown: Shutdown) -> Result<(), StartError> {
    shutdown.on_signals().map_err(|source| StartError::Io {
        what: "cannot listen for signals",
        source,
    })?;
    for feature in config.features.states() {
        metrics().set_feature(feature.name, feature.stage, feature.enabled);
    }
    if config.extensive_metrics {
        metrics().calls().measure_handling();
    }
    let peer_listeners = listen(&config.listen_peer_urls, &config)?;
    let client_listeners = ClientListeners {
        grpc: listen(&config.listen_client_urls, &config)?,
        http: listen(&config.listen_client_http_urls, &config)?,
        metrics: listen(&config.listen_metrics_urls, &config)?,
    };
    let traces = config.tracing.as_ref().map(Traces::start).transpose()?;
    if config.lock_memory {
        memory::lock()?;
    }
    let places = config.clone();
    let directory = aside(move || {
        let mut directory = DataDir::open(&places.data_dir)?;
        directory.keep_log_in(places.wal_dir.as_deref())?;
        Ok(directory)
    })
    .await?;
    let is_first_start = !directory.has_state();
    let config = match discover(config, is_first_start, &shutdown).await? {
        Some(config) => config,
        None => return Ok(()),
    };
    let (tls, opening) = (config.clone(), config.clone());
    // Before anything is written that a mistake in the flags would leave behind.
    let tls = aside(move || Ok(MemberTls::load(&tls)?)).await?;
    let _fresh = tls.keep_fresh();
    let place = join::find(&config, &directory, tls.to_peers.clone()).await?;
    let mut opened = aside(move || bootstrap::open(&opening, directory, place)).await?;
    // If a crash cut the first start short, nothing here says who the others are.
    let bootstraps_again = !is_first_start && opened.bootstrap.is_some();
    let config = match discover(config, bootstraps_again, &shutdown).await? {
        Some(config) => config,
        None => return Ok(()),
    };
    if bootstraps_again {
        opened.bootstrap_with(&config);
    } else if !is_first_start && config.discovery_service.is_some() {
        tracing::warn!("discovery token is ignored since cluster already initialized");
    }
    let peer_listeners = secure(peer_listeners, tls.peers.as_ref());
    let client_listeners = client_listeners.map(|wanted| secure(wanted, tls.clients.as_ref()));
    let has_data = opened.bootstrap.is_none() && opened.machine.applied().last.is_some();
    let member = Member::start(&config, opened, tls.to_peers).await?;
    // A member without data has nothing to compare.
    if has_data && config.features.enabled(Gate::InitialCorruptCheck) {
        corruption_check::initial(&member.consensus).await?;
    }
    let workers = Arc::new(Workers::start_per_core().map_err(|source| StartError::Io {
        what: "cannot start threads",
        source,
    })?);
    // Peers are answered to the very end: leadership is handed over after the clients are gone.
    let peers_end = Shutdown::new();
    let peer_tasks = member.serve_peers(&config, peer_listeners, &workers, &peers_end);
    let ended = member
        .live(&config, client_listeners, &workers, &shutdown)
        .await;
    member.plugins.stop().await;
    member.consensus.resign().await;
    peers_end.begin();
    for task in peer_tasks {
        let _ = task.await;
    }
    member.consensus.stop().await;
    if let Some(traces) = traces {
        traces.stop().await;
    }
    ended
}

/// With the initial cluster, wherever it is to be asked for; nothing once the process is told to
/// stop.
async fn discover(
    config: Arc<Config>,
    is_wanted: bool,
    shutdown: &Shutdown,
) -> Result<Option<Arc<Config>>, StartError> {
    if !is_wanted {
        return Ok(Some(config));
    }
    let found = async {
        match (&config.discovery_srv, &config.discovery_service) {
            (Some(srv), _) => discovery::by_dns((*config).clone(), srv).await,
            (_, Some(service)) => registry::by_service((*config).clone(), service).await,
            _ => Ok((*config).clone()),
        }
    };
    tokio::select! {
        found = found => Ok(Some(Arc::new(found?))),
        // Whoever waits for others may wait for long.
        () = shutdown.begun() => Ok(None),
    }
}

/// Work that blocks.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| StartError::Raft(error.to_string()))?
}

/// What clients and operators connect to.
struct ClientListeners<L> {
    /// gRPC, and HTTP too if that has no listeners of its own.
    grpc: L,
    http: L,
    metrics: L,
}

impl<L> ClientListeners<L> {
    fn map<M>(self, make: impl Fn(L) -> M) -> ClientListeners<M> {
        ClientListeners {
            grpc: make(self.grpc),
            http: make(self.http),
            metrics: make(self.metrics),
        }
    }
}

struct Member {
    consensus: Consensus,
    keys: KeyService,
    plugins: Plugins,
    edge: Edge,
    peers: Routes,
}

impl Member {
    async fn start(
        config: &Config,
        opened: Opened,
        to_peers: Outbound,
    ) -> Result<Self, StartError> {
        let Opened {
            directory,
            member_key,
            inherited,
            identity,
            store,
            machine,
            log,
            bootstrap,
            may_know,
        } = opened;
        let storage_keys = member_key.storage_keys().clone();
        let view = Arc::new(ArcSwap::new(machine.view()));
        let peers = Peers::new(
            identity.clone(),
            view.clone(),
            config.election_timeout,
            to_peers,
        );
        let others = may_know.iter();
        for (id, (_, urls)) in others.filter(|(id, _)| **id != identity.member_id) {
            refuse_if_known(&peers, &identity, *id, urls).await?;
        }
        refuse_hole(&log, &machine)?;
        if config.force_new_cluster {
            force_new_cluster(&log, machine.applied(), identity.member_id).await?;
        }
        let sealer = Sealer::new();
        let hub = Hub::start(machine.view()).map_err(|source| StartError::Io {
            what: "cannot start threads",
            source,
        })?;
        let (sessions, jwt) = match &config.auth_token {
            AuthToken::Simple { ttl } => (Sessions::new(*ttl), None),
            AuthToken::Jwt(options) => {
                let jwt = JwtTokens::open(options.clone())?;
                tokio::spawn(jwt.clone().follow_files());
                (Sessions::default(), Some(jwt))
            }
        };
        let member_key_path = directory.member_key();
        let left_over = inherited.as_ref().map(|_| directory.inherited_root());
        let directory = Arc::new(Mutex::new(directory));
        let consensus = Node {
            identity,
            options: node_options(config),
            directory: directory.clone(),
            store,
            machine,
            log,
            sealer: sealer.clone(),
            keyring: KeyringFollower::new(member_key.slot().clone(), inherited, sealer.clone()),
            hub: hub.clone(),
            sessions: sessions.clone(),
            peers,
            view,
            bootstrap,
        }
        .start()
        .await
        .map_err(|error| StartError::Raft(error.to_string()))?;
        let keys = KeyService::new(consensus.clone(), member_key, member_key_path, left_over);
        let peer_service =
            PeerService::new(consensus.clone(), keys.clone(), directory, storage_keys);
        let limits = limits(config);
        let plugins = Plugins::new(&consensus, &sealer, limits.quota_bytes);
        let edge = Edge {
            replica: Arc::new(consensus.clone()),
            key_admin: Arc::new(keys.clone()),
            cluster: Arc::new(consensus.clone()),
            sealer,
            hub,
            door: Door::new(sessions).with_jwt(jwt),
            limits: Arc::new(limits),
            health: Health::new(config.features.enabled(Gate::StopGrpcServiceOnDefrag)),
        };
        Ok(Self {
            consensus,
            keys,
            plugins,
            edge,
            peers: Routes::new(peer_service),
        })
    }

    fn serve_peers(
        &self,
        config: &Config,
        listeners: Vec<Listener>,
        workers: &Arc<Workers>,
        end: &Shutdown,
    ) -> Vec<tokio::task::JoinHandle<()>> {
        let pages = crate::http::peer_pages(PagesCluster(self.consensus.clone()));
        let services = Services::new(self.peers.clone(), pages);
        let limits = serve::Limits::new(u32::MAX, config.keepalive);
        serve_all(Endpoint::Peer, listeners, &services, workers, limits, end)
    }

    /// From the start on, so that a member that does not get ready can say why.
    fn serve_metrics(
        &self,
        config: &Config,
        listeners: Vec<Listener>,
        workers: &Arc<Workers>,
        end: &Shutdown,
    ) -> Vec<tokio::task::JoinHandle<()>> {
        for listener in &listeners {
            tracing::info!(address = %listener.url(), "serving metrics");
        }
        let services = Services::pages_alone(crate::http::metrics_pages(self.pages_node()));
        let limits = serve::Limits::new(config.concurrent_streams_max, config.keepalive);
        serve_all(Endpoint::Client, listeners, &services, workers, limits, end)
    }

    fn pages_node(&self) -> PagesNode {
        PagesNode {
            edge: self.edge.clone(),
        }
    }

    fn client_pages(&self, config: &Config, routes: &Routes, shutdown: &Shutdown) -> Router {
        let gateway = config.json_gateway.then(|| {
            let slow = config.warning_unary_request_duration;
            let bytes_max = config.message_bytes_max();
            Gateway::new(routes.clone(), bytes_max, slow, shutdown.clone())
        });
        let door = FrontDoor {
            origins: config.cors.clone(),
            hosts: config.host_whitelist.clone(),
        };
        if config.profiles {
            tracing::info!(path = "/debug/pprof", "pprof is enabled");
        }
        crate::http::client_pages(self.pages_node(), gateway, config.profiles, door)
    }

    /// From the first election to the request to stop.
    async fn live(
        &self,
        config: &Config,
        listeners: ClientListeners<Vec<Listener>>,
        workers: &Arc<Workers>,
        shutdown: &Shutdown,
    ) -> Result<(), StartError> {
        let consensus = &self.consensus;
        let mut tasks = self.serve_metrics(config, listeners.metrics, workers, shutdown);
        tokio::spawn(self.keys.clone().run());
        tokio::spawn(consensus.clone().watch_leases(config.election_timeout));
        tokio::spawn(consensus.clone().schedule_snapshots(config.snapshot_count));
        tokio::spawn(consensus.clone().watch_peers(config.election_timeout));
        tokio::spawn(consensus.clone().watch_members());
        self.plugins.start();
        if let Some(mode) = config.auto_compaction {
            tokio::spawn(compaction_schedule::run(Arc::new(consensus.clone()), mode));
        }
        if let Some(interval) = config.corrupt_check_interval {
            tokio::spawn(corruption_check::run(consensus.clone(), interval));
        }
        if config.features.enabled(Gate::CompactHashCheck) {
            let interval = config.compact_hash_check_interval;
            tokio::spawn(corruption_check::run_compacted(consensus.clone(), interval));
        }
        tokio::spawn(publish(consensus.clone(), config.clone()));
        let trouble = async {
            tokio::select! {
                why = expulsion(consensus) => why,
                reason = consensus.failed() => StartError::Raft(reason),
            }
        };
        tokio::pin!(trouble);
        let ready = async {
            self.keys.ready().await;
            while consensus.read_barrier().await.is_err() {}
            consensus.leases_are_kept().await;
        };
        tokio::select! {
            () = ready => {}
            () = shutdown.begun() => return Ok(()),
            error = &mut trouble => return Err(error),
        }
        let routes = self.edge.services(Some(self.plugins.service(&self.edge)));
        let pages = self.client_pages(config, &routes, shutdown);
        let limits = serve::Limits::new(config.concurrent_streams_max, config.keepalive)
            .with_connections_max(serve::clients_max())
            .with_slow_request(config.warning_unary_request_duration)
            .with_ping_interval_min(config.client_ping_interval_min);
        for listener in listeners.grpc.iter().chain(&listeners.http) {
            tracing::info!(listener = %listener.url(), "ready to serve client requests");
            tell_security(listener);
        }
        let main = if listeners.http.is_empty() {
            Services::new(routes, pages.clone())
        } else {
            Services::grpc_alone(routes)
        };
        let http = Services::pages_alone(pages);
        for (listeners, services) in [(listeners.grpc, main), (listeners.http, http)] {
            let client = Endpoint::Client;
            tasks.extend(serve_all(
                client, listeners, &services, workers, limits, shutdown,
            ));
        }
        tell_supervisor(NotifyState::Ready);
        let ended = tokio::select! {
            () = shutdown.begun() => Ok(()),
            error = &mut trouble => served_until(error, shutdown).await,
        };
        tell_supervisor(NotifyState::Stopping);
        shutdown.begin();
        for task in tasks {
            let _ = task.await;
        }
        ended
    }
}

/// Why this member must not take part any more, once that is so.
async fn expulsion(consensus: &Consensus) -> StartError {
    let member = consensus.member_id();
    let mut expelled = consensus.peers().expelled();
    let why = expelled.wait_for(Option::is_some).await.map(|why| *why);
    match why {
        Ok(Some(Expelled::Removed)) => StartError::Removed,
        Ok(Some(Expelled::LostDirectory)) => StartError::AlreadyBootstrapped { member },
        // Whoever could tell has gone: the end is near by another way.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

/// To be removed while one serves is a regular end: requests get a moment, as in etcd.
async fn served_until(error: StartError, shutdown: &Shutdown) -> Result<(), StartError> {
    if !matches!(error, StartError::Removed) {
        return Err(error);
    }
    let moment = tokio::time::sleep(REMOVED_SERVES_FOR);
    tokio::select! {
        () = moment => {}
        () = shutdown.begun() => {}
    }
    tracing::warn!(
        error = "the member has been permanently removed from the cluster",
        "server error"
    );
    tracing::warn!("data-dir used by this member must be removed");
    Ok(())
}

/// systemd, if it has started this process and wants to know.
fn tell_supervisor(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "failed to notify systemd");
    }
}

fn serve_all(
    endpoint: Endpoint,
    listeners: Vec<Listener>,
    services: &Services,
    workers: &Arc<Workers>,
    limits: serve::Limits,
    end: &Shutdown,
) -> Vec<tokio::task::JoinHandle<()>> {
    listeners
        .into_iter()
        .map(|listener| {
            let (services, workers, end) = (services.clone(), workers.clone(), end.clone());
            tokio::spawn(async move {
                serve::run(endpoint, listener, services, &workers, limits, end).await;
            })
        })
        .collect()
}

/// A member that its peers know by another data directory has lost its log and its votes.
async fn refuse_if_known(
    peers: &Peers,
    identity: &Identity,
    peer: u64,
    urls: &[String],
) -> Result<(), StartError> {
    let Ok(mut client) = peers.client(urls, Lane::Control) else {
        return Ok(());
    };
    let call = client.greet(peers.request(peer, pb::GreetRequest {}));
    // Nobody there: a cluster that starts for the first time, or a peer that will say so later.
    let Ok(answer) = tokio::time::timeout(KNOWN_TIMEOUT, call).await else {
        return Ok(());
    };
    let known_elsewhere = match answer {
        Ok(answer) => {
            let known = answer.into_inner().caller_directory_id;
            !known.is_empty() && known[..] != identity.directory_id[..]
        }
        Err(status) => {
            peers.note(&status);
            let expelled = *peers.expelled().borrow();
            if expelled == Some(Expelled::Removed) {
                return Err(StartError::Removed);
            }
            expelled.is_some()
        }
    };
    if known_elsewhere {
        return Err(StartError::AlreadyBootstrapped {
            member: identity.member_id,
        });
    }
    Ok(())
}

/// Entries between the applied state and the log's start are lost: raft would send a member whose
/// log looks complete no snapshot.
fn refuse_hole(log: &RaftLog, machine: &Machine) -> Result<(), StartError> {
    let purged = log.bounds().purged.map(|at| at.index);
    let applied = machine.applied().last.map(|at| at.index);
    match purged {
        Some(purged) if applied < Some(purged) => Err(StartError::LogStartsAfterState {
            applied: applied.unwrap_or(0),
            first: purged + 1,
        }),
        _ => Ok(()),
    }
}

/// Tells the cluster this member's name, client URLs and data directory.
async fn publish(consensus: Consensus, config: Config) {
    let identity = consensus.peers().identity().clone();
    loop {
        let body = PublishMember {
            id: identity.member_id,
            name: config.name.clone(),
            client_urls: config
                .advertise_client_urls
                .iter()
                .map(|url| url.as_str().to_owned())
                .collect(),
            directory_id: identity.directory_id,
        };
        let permitted = Permitted::internal(Internal::MemberStart, body.into());
        match consensus.propose(permitted).await {
            Ok(_) => return,
            Err(error) => {
                tracing::debug!(%error, "this member is not published yet");
                tokio::time::sleep(PUBLISH_RETRY).await;
            }
        }
    }
}

fn node_options(config: &Config) -> NodeOptions {
    NodeOptions {
        heartbeat_interval: config.heartbeat_interval,
        election_timeout: config.election_timeout,
        snapshot_count: config.snapshot_count,
        snapshot_catchup_entries: config.snapshot_catchup_entries,
        request_timeout: config.request_timeout(),
        slow_apply: config.warning_apply_duration,
        rules: Rules {
            strict: config.strict_reconfig_check,
            learners_max: config.learners_max,
        },
        compaction: CompactionPace {
            slice_keys_max: config.compaction_batch_limit,
            pause: config.compaction_sleep_interval,
        },
        priority_requests: config.features.enabled(Gate::PriorityRequest),
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        request_bytes_max: config.request_bytes_max,
        txn_ops_max: config.txn_ops_max,
        quota_bytes: config.quota_bytes,
        lease_ttl_seconds_min: ttl_seconds_min(config.election_timeout),
        watch_progress_interval: config.watch_progress_interval,
        election_timeout: config.election_timeout,
        answers: Room::default(),
    }
}
