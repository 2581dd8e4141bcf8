//! Plugins: the bundled index over real members, through restarts, kills and bad registrations.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::mvccpb;
use proto::mvccpb::event::EventType;
use proto::sealkv::v1;
use proto::sealkv::v1::plugin_deploy_request::Part;
use tests::client::{Client, prefix_end};
use tests::cluster::Cluster;
use tests::{guests, wait};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

const SETTLES_WITHIN: Duration = Duration::from_secs(60);
const CHUNK_BYTES: usize = 512 * 1024;
/// How often the leader is killed.
const KILLS: usize = 20;

fn manifest() -> v1::PluginManifest {
    v1::PluginManifest {
        watch_prefixes: vec!["/services/".into()],
        write_prefixes: vec!["/index/".into()],
        prev_kv: true,
        ..Default::default()
    }
}

async fn deploy(
    client: &Client,
    manifest: v1::PluginManifest,
    component: &[u8],
) -> Result<v1::PluginStatus, Status> {
    let chunks: Vec<Part> = component
        .chunks(CHUNK_BYTES)
        .map(|chunk| Part::Chunk(Bytes::copy_from_slice(chunk)))
        .collect();
    let parts = std::iter::once(Part::Manifest(manifest)).chain(chunks);
    let parts = parts.map(|part| v1::PluginDeployRequest { part: Some(part) });
    let requests = tokio_stream::iter(parts.collect::<Vec<_>>());
    let answer = client.plugins().deploy(requests).await?.into_inner();
    Ok(answer.plugin.expect("an answer holds the plugin"))
}

async fn list(client: &Client) -> Result<v1::PluginListResponse, Status> {
    let answer = client.plugins().list(v1::PluginListRequest {}).await?;
    Ok(answer.into_inner())
}

async fn status(client: &Client) -> v1::PluginStatus {
    list(client).await.unwrap().plugins.remove(0)
}

async fn dead_letters(client: &Client) -> Vec<v1::DeadLetter> {
    let name = "index".to_owned();
    let request = v1::PluginDeadLettersRequest { name };
    let answer = client.plugins().dead_letters(request).await.unwrap();
    answer.into_inner().dead_letters
}

fn registration(host: &str) -> String {
    format!(r#"{{"host":"{host}","port":8080}}"#)
}

async fn register(client: &Client, instance: &str, host: &str) -> Result<i64, Status> {
    let put = client
        .put(format!("/services/{instance}"), registration(host))
        .await?;
    Ok(put.header.expect("an answer has a header").revision)
}

/// Key and value of every index record.
async fn index(client: &Client) -> BTreeMap<String, String> {
    let kvs = client.prefix("/index/").await.unwrap().kvs;
    kvs.into_iter()
        .map(|kv| (text(&kv.key), text(&kv.value)))
        .collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until the cursor stands at the end of the store.
async fn caught_up(client: &Client) -> v1::PluginStatus {
    wait::until("the plugin to catch up", SETTLES_WITHIN, async || {
        let listed = list(client).await.ok()?;
        let plugin = listed.plugins.into_iter().next()?;
        (plugin.lag_revisions == 0).then_some(plugin)
    })
    .await
}

async fn index_becomes(client: &Client, expected: &[(&str, &str)]) {
    let expected: BTreeMap<String, String> = expected
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    wait::until("the index to follow", SETTLES_WITHIN, async || {
        (index(client).await == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn registrations_are_indexed_under_their_lease() {
    let Some(component) = guests::index() else {
        return;
    };
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    register(&client, "web/0", "early").await.unwrap();
    let plugin = deploy(&client, manifest(), &component).await.unwrap();
    assert_eq!((&plugin.name[..], plugin.generation), ("index", 1));
    client.grant(7, 600).await.unwrap();
    client
        .put_request(pb::PutRequest {
            key: "/services/web/1".into(),
            value: registration("a").into(),
            lease: 7,
            ..Default::default()
        })
        .await
        .unwrap();
    register(&client, "web/2", "a").await.unwrap();
    index_becomes(
        &client,
        &[
            ("/index/a/web/1", "/services/web/1"),
            ("/index/a/web/2", "/services/web/2"),
        ],
    )
    .await;
    let leased = client.get("/index/a/web/1").await.unwrap().kvs.remove(0);
    assert_eq!((leased.lease, leased.version), (7, 1));
    register(&client, "web/2", "b").await.unwrap();
    index_becomes(
        &client,
        &[
            ("/index/a/web/1", "/services/web/1"),
            ("/index/b/web/2", "/services/web/2"),
        ],
    )
    .await;
    client.revoke(7).await.unwrap();
    client.delete("/services/web/2").await.unwrap();
    index_becomes(&client, &[]).await;
    let plugin = caught_up(&client).await;
    assert_eq!((&plugin.state[..], plugin.dead_letters), ("running", 0));
}

#[tokio::test]
async fn what_was_there_before_is_indexed_if_the_deploy_asks_for_it() {
    let Some(component) = guests::index() else {
        return;
    };
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let mut expected = BTreeMap::new();
    // More than a page.
    for number in 0..300 {
        let instance = format!("web/{number:03}");
        register(&client, &instance, "a").await.unwrap();
        expected.insert(
            format!("/index/a/{instance}"),
            format!("/services/{instance}"),
        );
    }
    let manifest = v1::PluginManifest {
        start_at_snapshot: true,
        ..manifest()
    };
    deploy(&client, manifest, &component).await.unwrap();
    wait::until("the index of the contents", SETTLES_WITHIN, async || {
        (index(&client).await == expected).then_some(())
    })
    .await;
    caught_up(&client).await;
    let kvs = client.prefix("/index/").await.unwrap().kvs;
    assert!(kvs.iter().all(|kv| kv.version == 1), "each written once");
}

#[tokio::test]
async fn a_bad_registration_is_set_aside_once_and_passed() {
    let Some(component) = guests::index() else {
        return;
    };
    let mut cluster = Cluster::single().await;
    let client = cluster.client().await;
    deploy(&client, manifest(), &component).await.unwrap();
    // One transaction, so that good and bad are sure to be in one batch.
    let put = |key: String, value: String| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
            key: key.into(),
            value: value.into(),
            ..Default::default()
        })),
    };
    let mut success: Vec<_> = (0..9)
        .map(|number| put(format!("/services/web/{number}"), registration("a")))
        .collect();
    success.insert(4, put("/services/web/bad".into(), "canary-value".into()));
    let written = client
        .txn(pb::TxnRequest {
            success,
            ..Default::default()
        })
        .await
        .unwrap();
    let revision = written.header.unwrap().revision;
    let plugin = caught_up(&client).await;
    assert_eq!((&plugin.state[..], plugin.dead_letters), ("running", 1));
    let letters = dead_letters(&client).await;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!(
        (letter.revision, letter.sub_revision, &letter.key[..]),
        (revision, 4, &b"/services/web/bad"[..])
    );
    assert!(!letter.error.contains("canary"), "{}", letter.error);
    assert_eq!(index(&client).await.len(), 9);
    let member = &mut cluster.members[0];
    member.kill();
    member.start().await;
    let client = member.client().await;
    register(&client, "web/after", "b").await.unwrap();
    let plugin = caught_up(&client).await;
    assert_eq!(plugin.dead_letters, 1, "not a second time");
    assert_eq!(index(&client).await.len(), 10);
    assert!(!cluster.members[0].log().contains("canary"));
}

#[tokio::test]
async fn a_paused_plugin_goes_on_where_it_was() {
    let Some(component) = guests::index() else {
        return;
    };
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    deploy(&client, manifest(), &component).await.unwrap();
    register(&client, "web/1", "a").await.unwrap();
    caught_up(&client).await;
    let name = || "index".to_owned();
    let request = v1::PluginPauseRequest { name: name() };
    client.plugins().pause(request).await.unwrap();
    assert_eq!(status(&client).await.state, "paused");
    register(&client, "web/2", "a").await.unwrap();
    let redeployed = deploy(&client, manifest(), &component).await.unwrap();
    assert_eq!(redeployed.generation, 2);
    let request = v1::PluginResumeRequest { name: name() };
    client.plugins().resume(request).await.unwrap();
    register(&client, "web/3", "a").await.unwrap();
    let plugin = caught_up(&client).await;
    assert_eq!(plugin.effects_committed, 3);
    assert_eq!(index(&client).await.len(), 3);
    let request = v1::PluginDeleteRequest { name: name() };
    client.plugins().delete(request).await.unwrap();
    assert!(list(&client).await.unwrap().plugins.is_empty());
    let request = v1::PluginPauseRequest { name: name() };
    let gone = client.plugins().pause(request).await.unwrap_err();
    assert_eq!(
        (gone.code(), gone.message()),
        (Code::NotFound, "sealkv: plugin not found")
    );
}

#[tokio::test]
async fn a_plugin_overtaken_by_a_compaction_is_given_the_contents() {
    let Some(component) = guests::index() else {
        return;
    };
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    deploy(&client, manifest(), &component).await.unwrap();
    register(&client, "web/1", "a").await.unwrap();
    register(&client, "web/2", "a").await.unwrap();
    caught_up(&client).await;
    let name = || "index".to_owned();
    let request = v1::PluginPauseRequest { name: name() };
    client.plugins().pause(request).await.unwrap();
    // Neither the delete nor the move will be told of.
    client.delete("/services/web/1").await.unwrap();
    register(&client, "web/2", "b").await.unwrap();
    let last = register(&client, "web/3", "c").await.unwrap();
    client.compact(last).await.unwrap();
    let request = v1::PluginResumeRequest { name: name() };
    client.plugins().resume(request).await.unwrap();
    index_becomes(
        &client,
        &[
            ("/index/b/web/2", "/services/web/2"),
            ("/index/c/web/3", "/services/web/3"),
        ],
    )
    .await;
    register(&client, "web/4", "d").await.unwrap();
    caught_up(&client).await;
    assert_eq!(index(&client).await.len(), 3);
}

#[tokio::test]
async fn what_cannot_be_deployed_is_refused_with_its_reason() {
    let Some(component) = guests::index() else {
        return;
    };
    let cluster = Cluster::single().await;
    let client = cluster.client().await;
    let cases: [(v1::PluginManifest, &[u8], &str); 6] = [
        (manifest(), b"", "empty"),
        (manifest(), b"not wasm at all", "no WebAssembly"),
        (
            manifest(),
            &component[..component.len() / 2],
            "no valid component",
        ),
        (
            v1::PluginManifest {
                write_prefixes: vec!["/services/x/".into()],
                ..manifest()
            },
            &component,
            "would feed itself",
        ),
        (
            v1::PluginManifest {
                settings_json: r#"{"index_prefix":"/index"}"#.into(),
                ..manifest()
            },
            &component,
            "refuses its settings",
        ),
        (
            v1::PluginManifest {
                sha256: "00".repeat(32),
                ..manifest()
            },
            &component,
            "sha256",
        ),
    ];
    for (manifest, component, reason) in cases {
        let refused = deploy(&client, manifest, component).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains(reason), "{refused:?}");
    }
    assert!(list(&client).await.unwrap().plugins.is_empty());
}

/// Writes registrations to one member until it is told to stop: most are written once, some move
/// from host to host, some are deleted, a few are none. What became of a call that failed is not
/// asked: the store knows.
struct Registrar {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Registrar {
    fn start(endpoint: &str, number: usize, stop: &Arc<AtomicBool>) -> Self {
        let client = Client::lazy(endpoint);
        let (stop, acknowledged) = (Arc::clone(stop), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let task = tokio::spawn(async move {
            let mut round = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                round += 1;
                let write = write(&client, number, round);
                match tokio::time::timeout(Duration::from_secs(8), write).await {
                    Ok(Ok(_)) => {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    // Without a leader nobody is asked thousands of times.
                    _ => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        Registrar {
            stop,
            acknowledged,
            task,
        }
    }
}

async fn write(client: &Client, number: usize, round: u64) -> Result<i64, Status> {
    match round % 10 {
        // Moves between three hosts.
        3 | 7 => {
            let host = format!("m{}", round % 3);
            register(client, &format!("moving/{number}"), &host).await
        }
        // Away again, if it was ever there.
        5 => {
            let key = format!("/services/once/{number}-{}", round - 1);
            let deleted = client.delete(key).await?;
            Ok(deleted.header.map_or(0, |header| header.revision))
        }
        9 if round % 50 == 49 => {
            let put = client
                .put(format!("/services/bad/{number}-{round}"), "canary")
                .await?;
            Ok(put.header.map_or(0, |header| header.revision))
        }
        _ => {
            let host = format!("h{}", round % 7);
            register(client, &format!("once/{number}-{round}"), &host).await
        }
    }
}

/// Every change below a prefix, from the first revision up to this one.
async fn history(client: &Client, prefix: &str, until: i64) -> Vec<mvccpb::Event> {
    let mut stream = client
        .watch(pb::WatchCreateRequest {
            key: Bytes::copy_from_slice(prefix.as_bytes()),
            range_end: prefix_end(prefix.as_bytes()),
            start_revision: 1,
            progress_notify: true,
            ..Default::default()
        })
        .await
        .unwrap();
    let mut events: Vec<mvccpb::Event> = Vec::new();
    // The last change below the prefix is known from outside: `until` is one.
    while events.last().is_none_or(|event| revision(event) < until) {
        let message = stream.next().await.unwrap();
        assert!(!message.canceled, "{message:?}");
        events.extend(message.events);
    }
    events
}

fn revision(event: &mvccpb::Event) -> i64 {
    event
        .kv
        .as_ref()
        .expect("an event has a record")
        .mod_revision
}

fn key(event: &mvccpb::Event) -> String {
    text(&event.kv.as_ref().expect("an event has a record").key)
}

/// The host of a registration as the index has to see it.
fn host(value: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(value).ok()?;
    Some(value.get("host")?.as_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_registration_is_indexed_exactly_once_while_leaders_are_killed() {
    let Some(component) = guests::index() else {
        return;
    };
    let mut cluster = Cluster::three().await;
    let client = cluster.client().await;
    deploy(&client, manifest(), &component).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let registrars: Vec<Registrar> = cluster
        .endpoints()
        .iter()
        .enumerate()
        .map(|(number, endpoint)| Registrar::start(endpoint, number, &stop))
        .collect();
    let acknowledged = || -> u64 {
        let counts = registrars.iter();
        counts
            .map(|it| it.acknowledged.load(Ordering::Relaxed))
            .sum()
    };
    for _ in 0..KILLS {
        let before = acknowledged();
        wait::until_true("registrations to go on", SETTLES_WITHIN, || {
            acknowledged() > before + 20
        })
        .await;
        let leader = cluster.leader().await;
        cluster.members[leader].kill();
        let at_kill = acknowledged();
        wait::until_true("registrations to resume", SETTLES_WITHIN, || {
            acknowledged() > at_kill + 20
        })
        .await;
        cluster.members[leader].start().await;
    }
    stop.store(true, Ordering::Relaxed);
    for registrar in registrars {
        registrar.task.await.unwrap();
        assert!(registrar.stop.load(Ordering::Relaxed));
    }
    let client = cluster.client().await;
    // The last registration and the last record, so that both histories have a known end.
    register(&client, "once/last", "last").await.unwrap();
    wait::until("the last record", SETTLES_WITHIN, async || {
        client.value("/index/last/once/last").await.ok()?
    })
    .await;
    let plugin = caught_up(&client).await;
    assert_eq!(plugin.state, "running", "{}", plugin.last_error);
    agrees(&client, &plugin).await;
}

/// Holds the index and its whole history against the registrations.
async fn agrees(client: &Client, plugin: &v1::PluginStatus) {
    let services = client.prefix("/services/").await.unwrap();
    let expected: BTreeMap<String, String> = services
        .kvs
        .iter()
        .filter_map(|kv| {
            let instance = text(&kv.key).strip_prefix("/services/")?.to_owned();
            let record = format!("/index/{}/{instance}", host(&kv.value)?);
            Some((record, text(&kv.key)))
        })
        .collect();
    assert_eq!(index(client).await, expected);
    let last = |kvs: &[mvccpb::KeyValue]| kvs.iter().map(|kv| kv.mod_revision).max().unwrap();
    let records = client.prefix("/index/").await.unwrap();
    let told = history(client, "/services/", last(&services.kvs)).await;
    let written = history(client, "/index/", last(&records.kvs)).await;

    // A registration that was written once has a record that was written at most once, and removed
    // at most once.
    let mut writes: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for event in written.iter().filter(|event| key(event).contains("/once/")) {
        let kind = usize::from(event.r#type() == EventType::Delete);
        writes.entry(key(event)).or_default()[kind] += 1;
    }
    for (record, [puts, deletes]) in &writes {
        assert!(*puts == 1 && *deletes <= 1, "{record}: {puts} {deletes}");
    }
    for kv in records
        .kvs
        .iter()
        .filter(|kv| text(&kv.key).contains("/once/"))
    {
        assert_eq!(kv.version, 1, "{}", text(&kv.key));
    }
    // A key that moves gets no more writes than it was moved, and none that it was not moved to.
    let moves = told.iter().filter(|event| key(event).contains("/moving/"));
    let followed = written
        .iter()
        .filter(|event| key(event).contains("/moving/") && event.r#type() == EventType::Put);
    assert!(followed.count() <= moves.count());
    // Each bad one was set aside once, wherever the leader was at that time.
    let bad: BTreeSet<i64> = told
        .iter()
        .filter(|event| key(event).starts_with("/services/bad/"))
        .map(revision)
        .collect();
    let letters: Vec<i64> = dead_letters(client)
        .await
        .iter()
        .map(|letter| letter.revision)
        .collect();
    assert_eq!(letters, Vec::from_iter(bad.iter().copied()));
    assert_eq!(plugin.dead_letters, bad.len() as u64);
    assert_eq!(plugin.effects_committed, written.len() as u64);
    assert_eq!(plugin.lag_revisions, 0);
}
