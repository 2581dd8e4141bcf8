//! A watch plugin for real: deployed, run by the leader, its writes exactly once across kills.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proto::etcdserverpb as pb;
use proto::sealkv::v1 as plugins;
use rand::{Rng as _, SeedableRng as _};
use tests::client::Client;
use tests::cluster::Cluster;
use tests::{guest, wait};

const CHUNK: usize = 256 << 10;
const INDEXED_WITHIN: Duration = Duration::from_secs(60);

fn manifest() -> plugins::PluginManifest {
    plugins::PluginManifest {
        name: "index".into(),
        watch_prefixes: vec!["/services/".into()],
        write_prefixes: vec!["/index/".into()],
        prev_kv: true,
        ..Default::default()
    }
}

async fn deploy(
    client: &Client,
    manifest: plugins::PluginManifest,
    component: &[u8],
) -> Result<plugins::PluginStatus, tonic::Status> {
    use plugins::plugin_deploy_request::Part;
    let chunks = component
        .chunks(CHUNK)
        .map(|chunk| Part::Chunk(bytes::Bytes::copy_from_slice(chunk)));
    let parts: Vec<_> = std::iter::once(Part::Manifest(manifest))
        .chain(chunks)
        .map(|part| plugins::PluginDeployRequest { part: Some(part) })
        .collect();
    let answer = client.plugins().deploy(tokio_stream::iter(parts)).await?;
    Ok(answer
        .into_inner()
        .plugin
        .expect("a deployed plugin is answered"))
}

async fn status(client: &Client) -> Option<plugins::PluginStatus> {
    let list = client
        .plugins()
        .list(plugins::PluginListRequest {})
        .await
        .ok()?
        .into_inner();
    list.plugins
        .into_iter()
        .find(|plugin| plugin.name == "index")
}

fn registration(host: &str) -> String {
    format!(r#"{{"host":"{host}","port":8080}}"#)
}

async fn index(client: &Client) -> Option<BTreeMap<String, (String, i64)>> {
    let kvs = client.prefix("/index/").await.ok()?.kvs;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(
        kvs.iter()
            .map(|kv| (text(&kv.key), (text(&kv.value), kv.lease)))
            .collect(),
    )
}

async fn indexed(client: &Client, expected: &[(&str, &str, i64)]) {
    let expected: BTreeMap<String, (String, i64)> = expected
        .iter()
        .map(|(key, value, lease)| (key.to_string(), (value.to_string(), *lease)))
        .collect();
    let found = tokio::time::timeout(INDEXED_WITHIN, async {
        while index(client).await.as_ref() != Some(&expected) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    if found.await.is_err() {
        panic!(
            "the index is {:?}, not {expected:?}; plugin: {:?}",
            index(client).await,
            status(client).await
        );
    }
}

#[tokio::test]
async fn registrations_are_indexed_by_host_with_their_lease() {
    let Some(component) = guest::index() else {
        return;
    };
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let deployed = deploy(&client, manifest(), component).await.unwrap();
    assert_eq!((deployed.name.as_str(), deployed.generation), ("index", 1));
    client.grant(7, 600).await.unwrap();
    let put = |key: &'static str, host: &str, lease: i64| {
        client.put_request(pb::PutRequest {
            key: key.into(),
            value: registration(host).into(),
            lease,
            ..Default::default()
        })
    };
    put("/services/web/1", "alpha", 7).await.unwrap();
    put("/services/web/2", "beta", 0).await.unwrap();
    indexed(
        &client,
        &[
            ("/index/alpha/web/1", "/services/web/1", 7),
            ("/index/beta/web/2", "/services/web/2", 0),
        ],
    )
    .await;
    put("/services/web/2", "alpha", 0).await.unwrap();
    indexed(
        &client,
        &[
            ("/index/alpha/web/1", "/services/web/1", 7),
            ("/index/alpha/web/2", "/services/web/2", 0),
        ],
    )
    .await;
    client.delete("/services/web/2").await.unwrap();
    indexed(&client, &[("/index/alpha/web/1", "/services/web/1", 7)]).await;
    client.revoke(7).await.unwrap();
    indexed(&client, &[]).await;
}

#[tokio::test]
async fn a_value_that_is_no_registration_is_dead_lettered_and_the_cursor_moves_on() {
    let Some(component) = guest::index() else {
        return;
    };
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    deploy(&client, manifest(), component).await.unwrap();
    let poison = client
        .put("/services/web/1", "not json: canary")
        .await
        .unwrap()
        .header
        .unwrap()
        .revision;
    client
        .put("/services/web/2", registration("alpha"))
        .await
        .unwrap();
    indexed(&client, &[("/index/alpha/web/2", "/services/web/2", 0)]).await;
    let letters = client
        .plugins()
        .dead_letters(plugins::PluginDeadLettersRequest {
            name: "index".into(),
        })
        .await
        .unwrap()
        .into_inner()
        .dead_letters;
    assert_eq!(
        letters
            .iter()
            .map(|letter| (letter.revision, letter.key.as_ref()))
            .collect::<Vec<_>>(),
        [(poison, b"/services/web/1".as_ref())]
    );
    assert!(
        !letters[0].error.contains("canary"),
        "a dead letter has no value: {}",
        letters[0].error
    );
    assert_eq!(status(&client).await.unwrap().dead_letters, 1);
}

#[tokio::test]
async fn a_paused_plugin_waits_and_a_resumed_one_misses_nothing() {
    let Some(component) = guest::index() else {
        return;
    };
    let mut cluster = Cluster::single().await;
    let client = cluster.client().await;
    deploy(&client, manifest(), component).await.unwrap();
    client
        .plugins()
        .pause(plugins::PluginPauseRequest {
            name: "index".into(),
        })
        .await
        .unwrap();
    client
        .put("/services/web/1", registration("alpha"))
        .await
        .unwrap();
    client
        .put("/services/web/1", registration("beta"))
        .await
        .unwrap();
    cluster.members[0].kill();
    cluster.members[0].start().await;
    let client = cluster.client().await;
    assert_eq!(status(&client).await.unwrap().state, "paused");
    assert_eq!(index(&client).await.unwrap().len(), 0);
    client
        .plugins()
        .resume(plugins::PluginResumeRequest {
            name: "index".into(),
        })
        .await
        .unwrap();
    indexed(&client, &[("/index/beta/web/1", "/services/web/1", 0)]).await;
    client
        .plugins()
        .delete(plugins::PluginDeleteRequest {
            name: "index".into(),
        })
        .await
        .unwrap();
    assert!(status(&client).await.is_none());
}

#[tokio::test]
async fn what_is_no_plugin_is_refused_with_a_reason_and_changes_nothing() {
    let Some(component) = guest::index() else {
        return;
    };
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let refused = [
        deploy(&client, manifest(), b"not wasm at all").await,
        deploy(&client, manifest(), b"").await,
        deploy(&client, manifest(), &component[..component.len() / 2]).await,
        deploy(
            &client,
            plugins::PluginManifest {
                name: "No Good Name".into(),
                ..manifest()
            },
            component,
        )
        .await,
        deploy(
            &client,
            plugins::PluginManifest {
                write_prefixes: vec!["/services/x/".into()],
                ..manifest()
            },
            component,
        )
        .await,
        deploy(
            &client,
            plugins::PluginManifest {
                settings_json: "{".into(),
                ..manifest()
            },
            component,
        )
        .await,
        deploy(
            &client,
            plugins::PluginManifest {
                sha256: "00".repeat(32),
                ..manifest()
            },
            component,
        )
        .await,
    ];
    for (number, answer) in refused.into_iter().enumerate() {
        let status = answer.expect_err("it is refused");
        assert!(
            matches!(
                status.code(),
                tonic::Code::InvalidArgument | tonic::Code::FailedPrecondition
            ),
            "{number}: {status:?}"
        );
        assert!(!status.message().is_empty());
    }
    for unknown in [
        client
            .plugins()
            .pause(plugins::PluginPauseRequest {
                name: "none".into(),
            })
            .await
            .map(drop),
        client
            .plugins()
            .delete(plugins::PluginDeleteRequest {
                name: "none".into(),
            })
            .await
            .map(drop),
    ] {
        assert_eq!(unknown.unwrap_err().code(), tonic::Code::NotFound);
    }
    assert!(status(&client).await.is_none());
}

/// Twenty leaders are killed while registrations come, move and go. Afterwards the index is exactly what the
/// registrations say, and the history of the index has each change once: a change told twice, or left out,
/// would show as a repeated or a missing write.
#[tokio::test]
async fn effects_happen_exactly_once_across_twenty_kills_of_the_leader() {
    const KILLS: usize = 20;
    let Some(component) = guest::index() else {
        return;
    };
    let mut cluster = Cluster::three().await;
    deploy(&cluster.client().await, manifest(), component)
        .await
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let writer = tokio::spawn(register(
        cluster.endpoints(),
        Arc::clone(&stop),
        Arc::clone(&written),
    ));
    for _ in 0..KILLS {
        let before = written.load(Ordering::Relaxed);
        wait::until_true("registrations to go on", Duration::from_secs(40), || {
            written.load(Ordering::Relaxed) > before + 5
        })
        .await;
        let leader = cluster.leader().await;
        cluster.members[leader].kill();
        cluster.leader().await;
        cluster.members[leader].start().await;
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    let client = cluster.client().await;
    let expected = expected_index(&client).await;
    let expected: Vec<(&str, &str, i64)> = expected
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str(), 0))
        .collect();
    indexed(&client, &expected).await;
    assert_every_change_once(&client).await;
}

/// Instances move between hosts; now and then one goes.
async fn register(endpoints: Vec<String>, stop: Arc<AtomicBool>, written: Arc<AtomicU64>) {
    let clients: Vec<Client> = endpoints
        .iter()
        .map(|endpoint| Client::lazy(endpoint))
        .collect();
    let mut rng = rand::rngs::StdRng::seed_from_u64(20);
    while !stop.load(Ordering::Relaxed) {
        let client = &clients[rng.random_range(0..clients.len())];
        let key = format!("/services/web/{}", rng.random_range(0..6));
        let value = registration(&format!("host-{}", rng.random_range(0..4)));
        let write = async {
            if rng.random_bool(0.2) {
                client.delete(key).await.is_ok()
            } else {
                client.put(key, value).await.is_ok()
            }
        };
        match tokio::time::timeout(Duration::from_secs(10), write).await {
            Ok(true) => {
                written.fetch_add(1, Ordering::Relaxed);
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn host_of(value: &[u8]) -> String {
    let value: serde_json::Value =
        serde_json::from_slice(value).expect("the test writes registrations");
    value["host"].as_str().expect("with a host").to_owned()
}

fn index_key(host: &str, registration: &str) -> String {
    format!(
        "/index/{host}/{}",
        registration.trim_start_matches("/services/")
    )
}

async fn expected_index(client: &Client) -> BTreeMap<String, String> {
    let kvs = client.prefix("/services/").await.unwrap().kvs;
    kvs.iter()
        .map(|kv| {
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            (index_key(&host_of(&kv.value), &key), key)
        })
        .collect()
}

/// Replays the registrations' history and compares it with the index's: per index key, puts and deletes
/// alternate, none is repeated, and every one follows from a change of the registrations.
async fn assert_every_change_once(client: &Client) {
    let history = events(client, "/index/").await;
    let mut live: BTreeMap<String, bool> = BTreeMap::new();
    let mut puts = 0;
    for (key, put, version) in &history {
        if *put {
            puts += 1;
            // The same registration may be written again with the same host: the record is then put again, in one life.
            assert!(*version >= 1);
        } else {
            assert_eq!(live.get(key), Some(&true), "{key} was removed twice");
        }
        live.insert(key.clone(), *put);
    }
    // Each registration put leads to at most one put of the index: batches fold several into one, kills repeat none.
    let registrations = events(client, "/services/")
        .await
        .iter()
        .filter(|(_, put, _)| *put)
        .count();
    assert!(
        puts <= registrations,
        "{puts} index writes for {registrations} registrations: some happened twice"
    );
    let status = status(client).await.expect("the plugin is deployed");
    assert_eq!(
        (status.state.as_str(), status.dead_letters),
        ("running", 0),
        "{status:?}"
    );
}

/// Every change under a prefix from the first revision: key, put or delete, version.
async fn events(client: &Client, prefix: &str) -> Vec<(String, bool, i64)> {
    let create = pb::WatchCreateRequest {
        key: prefix.to_owned().into(),
        range_end: tests::client::prefix_end(prefix.as_bytes()),
        start_revision: 2,
        ..Default::default()
    };
    let mut stream = client.watch(create).await.unwrap();
    let newest = client
        .prefix(prefix)
        .await
        .unwrap()
        .header
        .unwrap()
        .revision;
    let mut told = Vec::new();
    loop {
        stream.ask_progress().await;
        let Some(message) = stream.next_within(Duration::from_millis(500)).await else {
            continue;
        };
        let message = message.unwrap();
        if message.events.is_empty()
            && message
                .header
                .as_ref()
                .is_some_and(|header| header.revision >= newest)
        {
            return told;
        }
        for event in message.events {
            let put = event.r#type() == proto::mvccpb::event::EventType::Put;
            let kv = event.kv.unwrap();
            told.push((
                String::from_utf8_lossy(&kv.key).into_owned(),
                put,
                kv.version,
            ));
        }
    }
}
