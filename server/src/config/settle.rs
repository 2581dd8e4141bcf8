//! From what was given to a [`Config`]: defaults, meanings that depend on each other, refusals.
//!
//! Promise: it goes on after a mistake, so that one run names them all.
//! Not known here: how flags are written.

mod compaction;
mod key_source;
mod limits;
mod urls;

use std::path::PathBuf;

use super::cluster::InitialCluster;
use super::flag_syntax::{Given, parse_bool};
use super::flag_table::{FlagSpec, Kind, Standing};
use super::mistake::{Mistake, Problem};
use super::tls;
use super::url::MemberUrl;
use super::{AllowList, ClusterState, Config, FeatureGates};

/// tonic's and HTTP/2's lengths are 32 bits; the rest of a message needs room too.
const REQUEST_BYTES_MAX: u64 = 1 << 30;

pub(super) fn settle(given: &Given) -> Result<Config, Vec<Mistake>> {
    let mut settling = Settling {
        given,
        mistakes: Vec::new(),
    };
    let meaningless_flags = settling.standings();
    let config = settling.config(meaningless_flags);
    match config {
        Some(config) if settling.mistakes.is_empty() => Ok(config),
        _ => Err(settling.mistakes),
    }
}

pub(super) struct Settling<'a> {
    pub(super) given: &'a Given,
    mistakes: Vec<Mistake>,
}

impl Settling<'_> {
    pub(super) fn mistake(&mut self, flag: &str, problem: impl Into<Problem>) {
        let source = self.given.source(flag);
        self.mistakes.push(Mistake::of(source, problem.into()));
    }

    /// Refuses what this release does not do; returns what cannot mean anything.
    fn standings(&mut self) -> Vec<&'static str> {
        let mut meaningless = Vec::new();
        for (spec, value) in self.given.specs() {
            match spec.standing {
                Standing::Effective => {}
                Standing::Meaningless => meaningless.push(spec.name),
                Standing::Absent { unless } if same_value(spec, value, unless) => {}
                Standing::Absent { unless: "" } => self.mistake(spec.name, Problem::Absent),
                Standing::Absent { unless } => {
                    self.mistake(spec.name, Problem::AbsentUnless { unless });
                }
            }
        }
        meaningless
    }

    /// `None` only beside a mistake.
    fn config(&mut self, meaningless_flags: Vec<&'static str>) -> Option<Config> {
        let name = self.not_empty("name", "default");
        let data_dir = match self.given.text("data-dir") {
            Some(path) if !path.is_empty() => PathBuf::from(path),
            _ => PathBuf::from(format!("{name}.sealkv")),
        };
        let listen_client_urls = self.listen_urls("listen-client-urls", "http://localhost:2379");
        let listen_client_http_urls = self.more_listen_urls("listen-client-http-urls");
        let listen_metrics_urls = self.more_listen_urls("listen-metrics-urls");
        self.http_urls_stand_alone(
            listen_client_urls.as_deref(),
            listen_client_http_urls.as_deref(),
        );
        let listen_peer_urls = self.listen_urls("listen-peer-urls", "http://localhost:2380");
        let advertise_client_urls =
            self.advertised_urls("advertise-client-urls", "http://localhost:2379");
        // etcd asks for it on a command line, not in a file.
        if !self.given.is_of_file()
            && self.given.text("listen-client-urls").is_some()
            && self.given.text("advertise-client-urls").is_none()
        {
            self.mistake("advertise-client-urls", Problem::AdvertiseUnset);
        }
        let advertise_peer_urls =
            self.advertised_urls("initial-advertise-peer-urls", "http://localhost:2380");
        let initial_cluster = self.initial_cluster(&name, advertise_peer_urls.as_deref());
        let discovery_service = self.discovery_service();
        let initial_cluster_token = match &discovery_service {
            Some(service) => service.token.clone(),
            None => self.not_empty("initial-cluster-token", "etcd-cluster"),
        };
        let initial_cluster_state = self.cluster_state();
        let (heartbeat_interval, election_timeout) = self.raft_times();
        let key_source = self.key_source(&data_dir);
        let (client_tls, peer_tls) = tls::settle(
            self.given,
            &data_dir,
            &tls::Listens {
                client: listen_client_urls.as_deref().unwrap_or_default(),
                client_http: listen_client_http_urls.as_deref().unwrap_or_default(),
                metrics: listen_metrics_urls.as_deref().unwrap_or_default(),
                peer: listen_peer_urls.as_deref().unwrap_or_default(),
            },
            &mut self.mistakes,
        );
        let auth_token = self.auth_token();
        let log_level = self.log_level();
        let log_format = self.log_format();
        let log_outputs = self.log_outputs();
        let log_rotation = self.log_rotation(&log_outputs);
        Some(Config {
            initial_cluster_token,
            strict_reconfig_check: self.given.bool("strict-reconfig-check").unwrap_or(true),
            learners_max: self.learners(),
            force_new_cluster: self.given.bool("force-new-cluster").unwrap_or(false),
            snapshot_count: self.at_least_one("snapshot-count", 10_000),
            snapshot_catchup_entries: self
                .given
                .unsigned("snapshot-catchup-entries")
                .unwrap_or(5_000),
            request_bytes_max: self.size("max-request-bytes", 1_572_864, REQUEST_BYTES_MAX),
            txn_ops_max: self.size("max-txn-ops", 128, u64::from(u32::MAX)),
            quota_bytes: self.quota(),
            auto_compaction: self.auto_compaction(),
            compaction_batch_limit: self.compaction_batch_limit(),
            compaction_sleep_interval: self.compaction_sleep_interval(),
            corrupt_check_interval: Some(self.duration("corrupt-check-time", 0))
                .filter(|interval| !interval.is_zero()),
            compact_hash_check_interval: self.compact_hash_check_interval(),
            features: self.features(),
            concurrent_streams_max: self.streams(),
            keepalive: self.keepalive(),
            client_ping_interval_min: self.client_ping_interval_min(),
            reuse_port: self.given.bool("socket-reuse-port").unwrap_or(false),
            client_tls,
            peer_tls,
            watch_progress_interval: self.progress_interval(),
            warning_apply_duration: self.duration("warning-apply-duration", 100),
            warning_unary_request_duration: self.duration("warning-unary-request-duration", 300),
            wal_dir: self.path("wal-dir"),
            unsafe_no_fsync: self.given.bool("unsafe-no-fsync").unwrap_or(false),
            lock_memory: self.given.bool("memory-mlock").unwrap_or(false),
            name,
            data_dir,
            listen_client_urls: listen_client_urls?,
            listen_client_http_urls: listen_client_http_urls?,
            listen_metrics_urls: listen_metrics_urls?,
            json_gateway: self.given.bool("enable-grpc-gateway").unwrap_or(true),
            profiles: self.given.bool("enable-pprof").unwrap_or(false),
            cors: self.cors(),
            host_whitelist: AllowList::parse(self.given.text("host-whitelist").unwrap_or("*")),
            advertise_client_urls: advertise_client_urls?,
            listen_peer_urls: listen_peer_urls?,
            advertise_peer_urls: advertise_peer_urls?,
            initial_cluster: initial_cluster?,
            discovery_srv: self.discovery_srv(),
            discovery_service,
            initial_cluster_state,
            heartbeat_interval,
            election_timeout,
            tracing: self.tracing(),
            auth_token,
            key_source: key_source?,
            log_level,
            log_format,
            log_outputs,
            log_rotation,
            extensive_metrics: self.extensive_metrics(),
            meaningless_flags,
            unknown_variables: Vec::new(),
            file: None,
        })
    }

    fn not_empty(&mut self, flag: &'static str, default: &str) -> String {
        let value = self.given.text(flag).unwrap_or(default).to_owned();
        if value.is_empty() {
            self.mistake(flag, Problem::Empty);
        }
        value
    }

    fn path(&self, flag: &'static str) -> Option<PathBuf> {
        let given = self.given.text(flag)?;
        (!given.is_empty()).then(|| PathBuf::from(given))
    }

    fn features(&mut self) -> FeatureGates {
        let given = self.given.text("feature-gates").unwrap_or_default();
        let parsed = FeatureGates::parse(given);
        match parsed.and_then(|gates| gates.check().map(|()| gates)) {
            Ok(gates) => gates,
            Err(problem) => {
                self.mistake("feature-gates", problem);
                FeatureGates::default()
            }
        }
    }

    fn initial_cluster(
        &mut self,
        name: &str,
        advertised: Option<&[MemberUrl]>,
    ) -> Option<InitialCluster> {
        let ways = ["discovery-endpoints", "discovery-srv"];
        let is_asked_for = ways.iter().any(|flag| self.stated(flag).is_some());
        let given = self.given.text("initial-cluster");
        let given = given.filter(|text| !(text.is_empty() && is_asked_for));
        match given.map(InitialCluster::parse) {
            Some(Ok(cluster)) => Some(cluster),
            Some(Err(error)) => {
                self.mistake("initial-cluster", error);
                None
            }
            None => Some(InitialCluster::of(name, advertised?)),
        }
    }

    fn cluster_state(&mut self) -> ClusterState {
        match self.given.text("initial-cluster-state").unwrap_or("new") {
            "new" => ClusterState::New,
            "existing" => ClusterState::Existing,
            _ => {
                let allowed = "new or existing";
                self.mistake("initial-cluster-state", Problem::Choice { allowed });
                ClusterState::New
            }
        }
    }
}

/// Equal as values of the flag's kind, so that `--pre-vote=1` is `true`.
fn same_value(spec: &FlagSpec, given: &str, unless: &str) -> bool {
    match spec.kind {
        Kind::Bool => parse_bool(given) == parse_bool(unless),
        Kind::Duration => super::parse_duration(given) == super::parse_duration(unless),
        Kind::Text | Kind::Gates | Kind::Unsigned | Kind::Signed => given == unless,
    }
}

#[cfg(test)]
mod tests;
