//! From what was given to a [`Config`]: defaults, meanings that depend on each other, refusals.
//!
//! Promise: it goes on after a mistake, so that one run names them all.
//! Not known here: how flags are written.

use std::path::PathBuf;
use std::time::Duration;

use super::cluster::InitialCluster;
use super::duration::parse_duration;
use super::flag_syntax::{Given, parse_bool};
use super::flag_table::{FlagSpec, Kind, Standing};
use super::mistake::{Mistake, Problem};
use super::tls;
use super::url::{MemberUrl, UrlError};
use super::{AllowList, AutoCompaction, ClusterState, Config, FeatureGates, Keepalive, KeySource};

const QUOTA_BYTES_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;
const ELECTION_MS_MAX: u64 = 50_000;
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
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

fn positive(revisions: i64) -> Option<AutoCompaction> {
    (revisions > 0).then_some(AutoCompaction::Revision(revisions))
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

    fn at_least_one(&mut self, flag: &'static str, default: u64) -> u64 {
        let value = self.given.unsigned(flag).unwrap_or(default);
        if value == 0 {
            self.mistake(flag, Problem::Zero);
        }
        value
    }

    fn size(&mut self, flag: &'static str, default: u64, most: u64) -> usize {
        let value = self.at_least_one(flag, default);
        if value > most {
            self.mistake(flag, Problem::TooLarge { most });
        }
        usize::try_from(value).unwrap_or(usize::MAX)
    }

    /// etcd takes a negative number, and then no learner.
    fn learners(&self) -> usize {
        let most = self.given.signed("max-learners").unwrap_or(1);
        usize::try_from(most).unwrap_or(0)
    }

    fn streams(&mut self) -> u32 {
        let most = u64::from(u32::MAX);
        let value = self.at_least_one("max-concurrent-streams", most);
        u32::try_from(value).unwrap_or_else(|_| {
            self.mistake("max-concurrent-streams", Problem::TooLarge { most });
            u32::MAX
        })
    }

    pub(super) fn duration(&self, flag: &'static str, default_ms: u64) -> Duration {
        self.given
            .duration(flag)
            .unwrap_or(Duration::from_millis(default_ms))
    }

    fn quota(&self) -> Option<u64> {
        match self.given.signed("quota-backend-bytes").unwrap_or(0) {
            0 => Some(QUOTA_BYTES_DEFAULT),
            bytes => u64::try_from(bytes).ok(),
        }
    }

    /// etcd's reading: a whole number is revisions or hours; anything else is a duration, which in
    /// revision mode counts as its nanoseconds.
    fn auto_compaction(&mut self) -> Option<AutoCompaction> {
        const MODE: &str = "auto-compaction-mode";
        const RETENTION: &str = "auto-compaction-retention";
        let by_revision = match self.given.text(MODE).unwrap_or("periodic") {
            "periodic" => false,
            "revision" => true,
            _ => {
                let allowed = "periodic or revision";
                self.mistake(MODE, Problem::Choice { allowed });
                return None;
            }
        };
        let given = self.given.text(RETENTION).unwrap_or("0");
        let given = if given.is_empty() { "0" } else { given };
        let retention = match given.parse::<u32>() {
            Ok(count) if by_revision => return positive(i64::from(count)),
            Ok(hours) => Some(Duration::from_secs(u64::from(hours) * 3600)),
            Err(_) => parse_duration(given),
        };
        let Some(retention) = retention else {
            self.mistake(RETENTION, Problem::Duration);
            return None;
        };
        if by_revision {
            return positive(i64::try_from(retention.as_nanos()).unwrap_or(i64::MAX));
        }
        (!retention.is_zero()).then_some(AutoCompaction::Periodic(retention))
    }

    /// 0 is etcd's default, as in etcd.
    fn compaction_batch_limit(&mut self) -> usize {
        let limit = self.given.signed("compaction-batch-limit").unwrap_or(0);
        match usize::try_from(limit) {
            Ok(0) => 1_000,
            Ok(limit) => limit,
            Err(_) => {
                self.mistake("compaction-batch-limit", Problem::Unsigned);
                1_000
            }
        }
    }

    fn compaction_sleep_interval(&self) -> Duration {
        let interval = self.duration("compaction-sleep-interval", 10);
        if interval.is_zero() {
            return Duration::from_millis(10);
        }
        interval
    }

    fn compact_hash_check_interval(&mut self) -> Duration {
        let interval = self.duration("compact-hash-check-time", 60_000);
        if interval.is_zero() {
            self.mistake("compact-hash-check-time", Problem::Zero);
        }
        interval
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

    fn keepalive(&self) -> Keepalive {
        let interval = self.duration("grpc-keepalive-interval", 2 * 60 * 60 * 1000);
        let timeout = self.duration("grpc-keepalive-timeout", 20_000);
        let on = !interval.is_zero() && !timeout.is_zero();
        Keepalive {
            interval: on.then_some(interval),
            timeout,
        }
    }

    /// 0 leaves it to gRPC, as in etcd.
    fn client_ping_interval_min(&self) -> Duration {
        match self.duration("grpc-keepalive-min-time", 5_000) {
            Duration::ZERO => Duration::from_secs(5 * 60),
            interval => interval,
        }
    }

    fn progress_interval(&mut self) -> Duration {
        let interval = self.duration("watch-progress-notify-interval", 600_000);
        if interval < PROGRESS_INTERVAL_MIN {
            let least = PROGRESS_INTERVAL_MIN;
            self.mistake(
                "watch-progress-notify-interval",
                Problem::TooShort { least },
            );
        }
        interval
    }

    fn raft_times(&mut self) -> (Duration, Duration) {
        let heartbeat_ms = self.at_least_one("heartbeat-interval", 100);
        let election_ms = self.at_least_one("election-timeout", 1000);
        if heartbeat_ms != 0 && election_ms != 0 && heartbeat_ms.saturating_mul(5) > election_ms {
            let problem = Problem::ElectionTooShort {
                election_ms,
                heartbeat_ms,
            };
            self.mistake("election-timeout", problem);
        }
        if election_ms > ELECTION_MS_MAX {
            self.mistake("election-timeout", Problem::ElectionTooLong { election_ms });
        }
        (
            Duration::from_millis(heartbeat_ms),
            Duration::from_millis(election_ms),
        )
    }

    fn urls(
        &mut self,
        flag: &'static str,
        default: &str,
        check: impl Fn(&MemberUrl) -> Result<(), UrlError>,
    ) -> Option<Vec<MemberUrl>> {
        let parsed = MemberUrl::parse_list(self.given.text(flag).unwrap_or(default));
        match parsed.and_then(|urls| urls.iter().try_for_each(&check).map(|()| urls)) {
            Ok(urls) => Some(urls),
            Err(error) => {
                self.mistake(flag, error);
                None
            }
        }
    }

    fn listen_urls(&mut self, flag: &'static str, default: &str) -> Option<Vec<MemberUrl>> {
        self.urls(flag, default, MemberUrl::check_bindable)
    }

    /// None by default.
    fn more_listen_urls(&mut self, flag: &'static str) -> Option<Vec<MemberUrl>> {
        match self.given.text(flag) {
            None | Some("") => Some(Vec::new()),
            Some(_) => self.listen_urls(flag, ""),
        }
    }

    fn http_urls_stand_alone(&mut self, all: Option<&[MemberUrl]>, http: Option<&[MemberUrl]>) {
        let (all, http) = (all.unwrap_or_default(), http.unwrap_or_default());
        let same = |one: &MemberUrl| all.iter().any(|other| other.place() == one.place());
        if let Some(url) = http.iter().find(|url| same(url)) {
            let url = url.clone();
            self.mistake("listen-client-http-urls", Problem::BothOn { url });
        }
    }

    fn cors(&mut self) -> AllowList {
        let origins = AllowList::parse(self.given.text("cors").unwrap_or("*"));
        let wrong = |origin: &str| origin != "*" && !is_origin(origin);
        if let Some(origin) = origins.names().find(|origin| wrong(origin)) {
            let origin = origin.to_owned();
            self.mistake("cors", Problem::NotAnOrigin { origin });
        }
        origins
    }

    fn extensive_metrics(&mut self) -> bool {
        match self.given.text("metrics").unwrap_or("basic") {
            "basic" => false,
            "extensive" => true,
            _ => {
                let allowed = "basic or extensive";
                self.mistake("metrics", Problem::Choice { allowed });
                false
            }
        }
    }

    fn advertised_urls(&mut self, flag: &'static str, default: &str) -> Option<Vec<MemberUrl>> {
        self.urls(flag, default, MemberUrl::check_dialable)
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

    fn key_source(&mut self, data_dir: &std::path::Path) -> Option<KeySource> {
        let (flag, path) = ("root-key-file", self.given.text("root-key-file"));
        let passphrase = self.given.text("passphrase-file");
        for (flag, path) in [(flag, path), ("passphrase-file", passphrase)] {
            if path == Some("") {
                self.mistake(flag, Problem::Empty);
                return None;
            }
        }
        match (
            self.given.text("key-provider").unwrap_or("file"),
            path,
            passphrase,
        ) {
            ("file", None, None) => Some(KeySource::GeneratedKeyFile {
                path: beside(data_dir),
            }),
            ("file", Some(path), None) => Some(KeySource::KeyFile { path: path.into() }),
            ("file", _, Some(_)) => {
                self.mistake(
                    "passphrase-file",
                    Problem::OtherProvider { provider: "file" },
                );
                None
            }
            ("passphrase", None, Some(path)) => Some(KeySource::Passphrase { path: path.into() }),
            ("passphrase", None, None) => {
                self.mistake("passphrase-file", Problem::PassphraseUnset);
                None
            }
            ("passphrase", Some(_), _) => {
                self.mistake(
                    flag,
                    Problem::OtherProvider {
                        provider: "passphrase",
                    },
                );
                None
            }
            _ => {
                self.mistake(
                    "key-provider",
                    Problem::Choice {
                        allowed: "file or passphrase",
                    },
                );
                None
            }
        }
    }
}

/// As browsers write one: a scheme and a host, maybe with a port.
fn is_origin(given: &str) -> bool {
    let rest = given
        .strip_prefix("http://")
        .or_else(|| given.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', '?', '#', ' ', '@']))
}

/// `DATA_DIR.key`, beside the directory and never in it.
fn beside(data_dir: &std::path::Path) -> PathBuf {
    // Components drop a slash at the end, behind which the name would go into the directory.
    let mut path = data_dir.components().collect::<PathBuf>().into_os_string();
    path.push(".key");
    path.into()
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
mod tests {
    use super::super::{Asked, ConfigError};
    use super::*;

    fn ask(arguments: &[&str]) -> Result<Config, ConfigError> {
        let arguments: Vec<_> = arguments.iter().map(|&a| a.to_owned()).collect();
        match Config::ask(&arguments, &[])? {
            Asked::Serve(config) => Ok(*config),
            other => panic!("{other:?}"),
        }
    }

    fn mistakes(arguments: &[&str]) -> Vec<String> {
        let error = ask(arguments).unwrap_err();
        assert_eq!(error.exit_code(), 1, "{error:?}");
        error.mistakes().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn no_flags_at_all_is_a_cluster_of_one() {
        let config = ask(&[]).unwrap();
        assert_eq!(config.data_dir, PathBuf::from("default.sealkv"));
        assert_eq!(
            config.key_source,
            KeySource::GeneratedKeyFile {
                path: "default.sealkv.key".into()
            }
        );
        assert_eq!(config.quota_bytes, Some(2_147_483_648));
        assert_eq!(config.message_bytes_max(), 2_097_152);
        assert_eq!(config.request_timeout(), Duration::from_secs(7));
        assert_eq!(config.keepalive.interval, Some(Duration::from_secs(7200)));
        assert_eq!(config.concurrent_streams_max, u32::MAX);
        config.check_bootstrap().unwrap();
    }

    #[test]
    fn a_name_alone_names_directory_and_cluster() {
        let config = ask(&["--name=m1"]).unwrap();
        assert_eq!(config.data_dir, PathBuf::from("m1.sealkv"));
        assert_eq!(config.initial_cluster.members().next().unwrap().0, "m1");
        config.check_bootstrap().unwrap();
    }

    #[test]
    fn the_cluster_is_held_against_the_member_only_at_bootstrap() {
        let config = ask(&["--name=m9", "--initial-cluster=m1=http://localhost:2380"]).unwrap();
        let error = config.check_bootstrap().unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert_eq!(
            error.mistakes()[0].to_string(),
            "--initial-cluster: couldn't find local name \"m9\" in the initial cluster configuration"
        );
    }

    #[test]
    fn all_mistakes_are_reported_each_with_its_flag() {
        let found = mistakes(&[
            "--name=",
            "--listen-client-urls=http://example.org:1",
            "--listen-peer-urls=nowhere",
            "--initial-cluster=a=nowhere",
            "--initial-cluster-state=old",
            "--heartbeat-interval=300",
            "--max-request-bytes=0",
            "--log-level=loud",
            "--key-provider=hope",
            "--cert-file=/x",
            "--discovery=x",
        ]);
        for flag in [
            "--name",
            "--listen-client-urls",
            "--listen-peer-urls",
            "--advertise-client-urls",
            "--initial-cluster",
            "--initial-cluster-state",
            "--election-timeout",
            "--max-request-bytes",
            "--log-level",
            "--key-provider",
            "--cert-file",
            "--discovery",
        ] {
            assert!(
                found.iter().any(|m| m.starts_with(flag)),
                "{flag} in {found:?}"
            );
        }
        assert_eq!(found.len(), 12, "{found:?}");
    }

    #[test]
    fn an_absent_flag_may_say_what_holds_anyway() {
        ask(&["--pre-vote=1", "--corrupt-check-time=0"]).unwrap();
        assert_eq!(
            mistakes(&["--pre-vote=false"]),
            ["--pre-vote: not implemented by this release; only true is accepted"]
        );
        assert_eq!(
            mistakes(&["--discovery=x"]),
            ["--discovery: not implemented by this release"]
        );
    }

    #[test]
    fn what_cannot_mean_anything_is_kept_for_a_warning() {
        let config = ask(&["--max-wals=3", "--backend-bbolt-freelist-type=map"]).unwrap();
        assert_eq!(
            config.meaningless_flags,
            ["max-wals", "backend-bbolt-freelist-type"]
        );
    }

    #[test]
    fn raft_times_have_etcds_texts() {
        assert_eq!(
            mistakes(&["--election-timeout=400"]),
            [
                "--election-timeout[400ms] should be at least as 5 times as \
              --heartbeat-interval[100ms]"
            ]
        );
        assert_eq!(
            mistakes(&["--election-timeout=50001"]),
            ["--election-timeout[50001ms] is too long, and should be set less than 50000ms"]
        );
        assert_eq!(
            mistakes(&["--heartbeat-interval=0"]),
            ["--heartbeat-interval: must be >0"]
        );
    }

    #[test]
    fn key_providers_take_only_their_own_file() {
        let source = |arguments: &[&str]| ask(arguments).unwrap().key_source;
        assert_eq!(
            source(&["--root-key-file=/k"]),
            KeySource::KeyFile { path: "/k".into() }
        );
        assert_eq!(
            source(&["--key-provider=passphrase", "--passphrase-file=/p"]),
            KeySource::Passphrase { path: "/p".into() }
        );
        assert_eq!(
            source(&["--data-dir=/d/m1/"]),
            KeySource::GeneratedKeyFile {
                path: "/d/m1.key".into()
            }
        );
        for wrong in [
            &["--key-provider=passphrase"][..],
            &[
                "--key-provider=passphrase",
                "--passphrase-file=/p",
                "--root-key-file=/k",
            ],
            &["--passphrase-file=/p"],
            &["--passphrase-file="],
            &["--root-key-file="],
            &["--key-provider=kms"],
        ] {
            assert_eq!(mistakes(wrong).len(), 1, "{wrong:?}");
        }
    }

    #[test]
    fn http_moves_to_its_own_urls_and_never_shares_them() {
        let config = ask(&[]).unwrap();
        assert!(config.json_gateway && config.cors.allows_all());
        assert!(config.listen_client_http_urls.is_empty());
        let config = ask(&[
            "--listen-client-http-urls=http://localhost:1",
            "--listen-metrics-urls=http://localhost:2,http://127.0.0.1:3",
            "--enable-grpc-gateway=false",
            "--cors=https://a,http://b:1",
            "--host-whitelist=a,b",
            "--metrics=extensive",
        ])
        .unwrap();
        assert_eq!(config.listen_metrics_urls.len(), 2);
        assert!(!config.json_gateway && config.extensive_metrics);
        assert!(config.cors.allows("https://a") && !config.host_whitelist.allows("c"));
        assert_eq!(
            mistakes(&["--listen-client-http-urls=http://localhost:2379"]),
            [
                "--listen-client-http-urls: cannot bind both --listen-client-urls and \
                 --listen-client-http-urls on the same url http://localhost:2379"
            ]
        );
        for wrong in ["--cors=a.example", "--cors=https://a/b", "--metrics=all"] {
            assert_eq!(mistakes(&[wrong]).len(), 1, "{wrong}");
        }
    }

    #[test]
    fn limits_can_be_lifted_and_refuse_nonsense() {
        assert_eq!(
            ask(&["--quota-backend-bytes=-1"]).unwrap().quota_bytes,
            None
        );
        assert_eq!(
            ask(&["--grpc-keepalive-interval=0s"])
                .unwrap()
                .keepalive
                .interval,
            None
        );
        for wrong in [
            "--max-concurrent-streams=4294967296",
            "--max-request-bytes=99999999999",
            "--watch-progress-notify-interval=1ms",
            "--snapshot-count=0",
            "--log-outputs=default,/var/log/x",
            "--log-outputs=stderr,",
            "--logger=capnslog",
            "--enable-log-rotation",
        ] {
            assert_eq!(mistakes(&[wrong]).len(), 1, "{wrong}");
        }
    }
}
