//! What flags come to together, and what is refused.

use std::time::Duration;

use super::*;
use crate::config::KeySource;
use crate::config::asking::{ask, mistakes};

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
