//! etcd's advisories, each as a test that is named after it.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request as Op;
use tests::client::Client;
use tests::cluster::{Cluster, Program, free_port};
use tests::raw::Raw;
use tests::tls::{Says, Tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::certificates::{Pki, file};
use crate::fixture::*;
use crate::matrix::{Alice, Row};
use crate::{on_cluster, on_keys};

#[tokio::test]
async fn ghsa_xg4h_6gfc_h4m8_one_key_gives_no_open_ended_range_or_watch() {
    let cluster = Cluster::single().await;
    with_auth(&cluster).await;
    let alice = alice(&cluster).await;
    assert_denied(alice.range("m", "\0").await);
    assert_denied(alice.delete(delete("w", "\0")).await);
    let mut watch = alice.watch("m", "\0").await;
    let told = watch.next().await;
    assert!(
        told.created && told.canceled && told.watch_id == -1,
        "{told:?}"
    );
    let reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    assert_eq!(told.cancel_reason, reason);
    assert!(!alice.watch("m", "").await.next().await.canceled);
}

/// CVE-2021-28235, and more: no file holds a password or a token.
#[tokio::test]
async fn cve_2021_28235_no_password_and_no_token_is_written_down() {
    let cluster = Cluster::single().await;
    let root = with_auth(&cluster).await;
    let alice = alice(&cluster).await;
    let nobody = As::nobody(&cluster.members[0].endpoint()).await;
    nobody
        .authenticate("alice", "canary-wrong-password-3d")
        .await
        .unwrap_err();
    root.change_password("alice", "canary-new-password-4c")
        .await
        .unwrap();
    let tokens = [root.token.clone().unwrap(), alice.token.clone().unwrap()];
    let mut wanted = vec![
        ROOT_PASSWORD.to_owned(),
        ALICE_PASSWORD.to_owned(),
        "canary-wrong-password-3d".to_owned(),
        "canary-new-password-4c".to_owned(),
    ];
    // etcd writes the random part of a token into its log.
    if !is_etcd() {
        let random = |token: String| token.split_once('.').unwrap().0.to_owned();
        wanted.extend(tokens.map(random));
    }
    for (path, bytes) in cluster.files() {
        // Preallocated files end in zeros, where nothing can stand.
        let written = bytes.iter().rposition(|byte| *byte != 0);
        let bytes = &bytes[..written.map_or(0, |last| last + 1)];
        for secret in &wanted {
            let found = bytes
                .windows(secret.len())
                .any(|it| it == secret.as_bytes());
            assert!(!found, "{} holds {secret}", path.display());
        }
    }
}

/// What the advisory names: calls that once asked for a user, or for nobody, and not for a role.
fn calls_for_a_role() -> Vec<Row> {
    let advised = [
        "compact",
        "member add",
        "member remove",
        "member update",
        "member promote",
        "taking back an alarm",
        "raising an alarm",
        "defragment",
        "hash",
        "hash of keys",
        "snapshot",
        "move leader",
        "downgrade",
        "revoke of a foreign lease",
        "keep-alive of a foreign lease",
        "time to live with foreign keys",
        "list of leases",
    ];
    let rows = [on_cluster::calls(), on_keys::calls()].concat().into_iter();
    let rows: Vec<Row> = rows.filter(|(name, ..)| advised.contains(name)).collect();
    assert_eq!(rows.len(), advised.len());
    rows
}

#[tokio::test]
async fn cve_2026_33413_maintenance_members_leases_and_compaction_ask_for_their_role() {
    let cluster = Cluster::single().await;
    let root = with_auth(&cluster).await;
    let alice = alice(&cluster).await;
    let nobody = As::nobody(&cluster.members[0].endpoint()).await;
    for (name, expected, call) in calls_for_a_role() {
        assert_eq!(expected, Alice::MayNot, "{name}");
        let by_nobody = call(nobody.clone())
            .await
            .map_err(|it| it.message().to_owned());
        assert_eq!(by_nobody, Err(USER_EMPTY.to_owned()), "{name}, nobody");
        let by_alice = call(alice.clone())
            .await
            .map_err(|it| it.message().to_owned());
        assert_eq!(by_alice, Err(DENIED.to_owned()), "{name}, alice");
    }
    // Nothing of it has happened.
    let root = root.client.with_token(root.token.clone());
    let alarms = root.alarm(pb::AlarmRequest::default()).await.unwrap();
    assert_eq!(alarms.alarms, []);
    assert_eq!(root.member_list(true).await.unwrap().members.len(), 1);
    let left = root.time_to_live(LEASE_OF_OTHERS, true).await.unwrap();
    assert!(left.ttl > 0 && left.keys == [bytes("b/1")], "{left:?}");
    let hash = root.hash_kv(pb::HashKvRequest::default()).await.unwrap();
    assert_eq!(hash.compact_revision, -1);
    assert!(root.status().await.unwrap().errors.is_empty());
}

/// `inner` below so many transactions, each time in the branch that is taken or in the other.
fn buried(inner: pb::TxnRequest, depth: usize, taken: bool) -> pb::TxnRequest {
    (0..depth).fold(inner, |inner, _| {
        let (inner, beside) = (vec![Op::RequestTxn(inner)], vec![range("a/1", "")]);
        match taken {
            true => txn(inner, beside),
            false => txn(beside, inner),
        }
    })
}

#[tokio::test]
async fn cve_2026_33343_nothing_inside_a_nested_transaction_escapes_the_check() {
    let cluster = Cluster::single().await;
    let root = with_auth(&cluster).await;
    let alice = alice(&cluster).await;
    let lease = LEASE_OF_OTHERS;
    let prev_kv = true;
    let foreign = [
        range("b/1", ""),
        range("m", "\0"),
        Op::RequestPut(put("b/2")),
        Op::RequestPut(pb::PutRequest {
            lease,
            ..put("a/2")
        }),
        Op::RequestPut(pb::PutRequest {
            prev_kv,
            ..put("w")
        }),
        Op::RequestDeleteRange(delete("b/1", "")),
        Op::RequestDeleteRange(delete("a/", "\0")),
        Op::RequestDeleteRange(pb::DeleteRangeRequest {
            prev_kv,
            ..delete("w", "")
        }),
    ];
    let compares = [("b/1", ""), ("m", "\0")].map(|(key, end)| pb::TxnRequest {
        compare: vec![pb::Compare {
            key: bytes(key),
            range_end: bytes(end),
            ..Default::default()
        }],
        ..txn(vec![range("a/1", "")], vec![])
    });
    let mut inner = Vec::from(compares);
    for op in foreign {
        inner.push(txn(vec![op.clone()], vec![]));
        inner.push(txn(vec![], vec![op]));
    }
    let before = root.range("\0", "\0").await.unwrap();
    for depth in 0..4 {
        for taken in [true, false] {
            for inner in &inner {
                let buried = buried(inner.clone(), depth, taken);
                let refused = alice.txn(buried.clone()).await;
                let told = refused.map_err(|it| it.message().to_owned());
                assert_eq!(told, Err(DENIED.to_owned()), "{buried:?}");
            }
            let allowed = txn(vec![Op::RequestPut(put("a/1"))], vec![range("a/", "a0")]);
            alice.txn(buried(allowed, depth, taken)).await.unwrap();
        }
    }
    assert_eq!(root.range("\0", "\0").await.unwrap(), before);
}

async fn page(tls: &Tls, port: u16, path: &str) -> String {
    // TLS 1.3 tells a client that it is refused after its own half of the handshake.
    let Ok(mut stream) = tls.clone().http1().open(port).await else {
        return String::new();
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    if stream.write_all(request.as_bytes()).await.is_ok() {
        let _ = stream.read_to_end(&mut answer).await;
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn ghsa_3wh4_j44w_pg92_a_revocation_list_binds_on_every_listener() {
    let pki = Pki::new();
    let path = |name: &str| pki.directory.path().join(name);
    let good = pki
        .ca
        .issue("good", &Says::of("good", &["localhost", "127.0.0.1"]));
    let revoked = pki
        .ca
        .issue("revoked", &Says::of("revoked", &["localhost", "127.0.0.1"]));
    std::fs::write(path("crl"), pki.ca.revocation_list(&[&revoked])).unwrap();
    let (http, metrics) = (free_port(), free_port());
    for own_http in [false, true] {
        let mut plan = pki
            .with_peers(pki.plan())
            .flag("--client-cert-auth")
            .flag(file("client-crl-file", &path("crl")))
            .flag(file("peer-crl-file", &path("crl")))
            .flag(format!("--listen-metrics-urls=https://127.0.0.1:{metrics}"));
        if own_http {
            plan = plan.flag(format!(
                "--listen-client-http-urls=https://127.0.0.1:{http}"
            ));
        }
        let cluster = plan.start().await;
        let member = &cluster.members[0];
        let peer_url = member.peer_url();
        let peer = peer_url.rsplit(':').next().unwrap().parse().unwrap();
        let pages = if own_http { http } else { member.client_port };
        let (good, revoked) = (
            Tls::new(&pki.ca, Some(&good)),
            Tls::new(&pki.ca, Some(&revoked)),
        );
        for (port, path) in [
            (pages, "/version"),
            (pages, "/health"),
            (metrics, "/metrics"),
            (peer, "/version"),
            (peer, "/members"),
        ] {
            let served = page(&good, port, path).await;
            assert!(served.starts_with("HTTP/1.1 200"), "{path}: {served}");
            assert_eq!(page(&revoked, port, path).await, "", "{path}");
        }
        let call = async |tls: &Tls| {
            let client = Client::try_connect_over(&member.endpoint(), tls).await?;
            client.put("k", "v").await.ok()
        };
        assert!(call(&good).await.is_some());
        assert!(call(&revoked).await.is_none());
    }
}

/// A client that never ends its handshake is sent away, by every listener that speaks TLS.
#[tokio::test]
async fn ghsa_6vch_q96h_7gc3_a_handshake_has_a_deadline() {
    let pki = Pki::new();
    let (http, metrics) = (free_port(), free_port());
    // etcd 3.7.1 has none on a client port for gRPC alone.
    let plan = pki
        .with_peers(pki.plan())
        .program(Program::Sealkv)
        .flag(format!(
            "--listen-client-http-urls=https://127.0.0.1:{http}"
        ))
        .flag(format!("--listen-metrics-urls=https://127.0.0.1:{metrics}"));
    let cluster = plan.start().await;
    let member = &cluster.members[0];
    let peer_url = member.peer_url();
    let peer = peer_url.rsplit(':').next().unwrap().parse().unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for port in [member.client_port, http, metrics, peer] {
        // Nothing; the head of a record; a hello that lacks its end.
        for sent in [
            &b""[..],
            b"\x16\x03\x01",
            b"\x16\x03\x01\x01\xf4\x01\x00\x01\xf0\x03\x03",
        ] {
            waiting.spawn(async move {
                let mut raw = Raw::connect(port).await;
                raw.send(sent).await.unwrap();
                assert!(
                    raw.until_closed().await.is_some(),
                    "{port}, {sent:?}: still open"
                );
            });
        }
    }
    while let Some(ended) = waiting.join_next().await {
        ended.unwrap();
    }
    cluster.client().await.put("k", "v").await.unwrap();
}
