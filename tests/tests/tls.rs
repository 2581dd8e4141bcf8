//! TLS on the client and the peer side: who is let in, who is not and why, files that change, and
//! members that trust each other by certificate alone.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tests::client::Client;
use tests::cluster::{Cluster, END_WITHIN, Member, Plan, Program, free_port};
use tests::tls::{Ca, Identity, Says, Tls};
use tests::{binary, wait};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const HERE: [&str; 2] = ["localhost", "127.0.0.1"];
/// Files are looked at twice a second; a loaded machine takes longer.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(20);

/// A CA, a server's certificate and a client's.
struct Pki {
    directory: tempfile::TempDir,
    ca: Ca,
    server: Identity,
    alice: Identity,
}

impl Pki {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = Ca::new(directory.path(), "ca");
        let server = ca.issue("server", &Says::of("server", &HERE));
        let alice = ca.issue("alice", &Says::of("alice", &["alice.example"]));
        Self {
            directory,
            ca,
            server,
            alice,
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn as_alice(&self) -> Tls {
        Tls::new(&self.ca, Some(&self.alice))
    }

    /// Members that let in who shows a certificate of the CA.
    fn plan(&self) -> Plan {
        Cluster::plan()
            .program(Program::Sealkv)
            .clients_over(&self.as_alice())
            .flag(flag("cert-file", &self.server.certificate))
            .flag(flag("key-file", &self.server.key))
            .flag(flag("trusted-ca-file", &self.ca.certificate))
            .flag("--client-cert-auth")
    }

    fn peer_flags(&self, plan: Plan, own: &Identity) -> Plan {
        plan.peers_over_tls()
            .flag(flag("peer-cert-file", &own.certificate))
            .flag(flag("peer-key-file", &own.key))
            .flag(flag("peer-trusted-ca-file", &self.ca.certificate))
            .flag("--peer-client-cert-auth")
    }
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

async fn refused(member: &Member, tls: &Tls) -> bool {
    match Client::try_connect_over(&member.endpoint(), tls).await {
        None => true,
        // TLS 1.3 tells a client that it is refused after its own half of the handshake.
        Some(client) => client.get("k").await.is_err(),
    }
}

async fn logged(member: &Member, says: &str) {
    wait::until_true(says, END_WITHIN, || member.log().contains(says)).await;
}

async fn page<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    if stream.write_all(request.as_bytes()).await.is_ok() {
        let _ = stream.read_to_end(&mut answer).await;
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn run(program: &Path, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_certificate_is_all_that_lets_a_client_in_and_each_refusal_says_why() {
    let pki = Pki::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let other_ca = Ca::new(elsewhere.path(), "other");
    let revoked = pki.ca.issue("revoked", &Says::of("rita", &["rita"]));
    std::fs::write(pki.path("crl"), pki.ca.revocation_list(&[&revoked])).unwrap();
    let cluster = pki
        .plan()
        .flag(flag("client-crl-file", &pki.path("crl")))
        .start()
        .await;
    let member = &cluster.members[0];
    let client = cluster.client().await;
    client.put("k", "v").await.unwrap();
    for versions in [
        &[&rustls::version::TLS12][..],
        &[&rustls::version::TLS13][..],
    ] {
        let tls = Tls::of_versions(&pki.ca, Some(&pki.alice), versions);
        assert!(!refused(member, &tls).await);
    }

    let old = Says {
        until: -1,
        from: -2,
        ..Says::of("olga", &["olga"])
    };
    let early = Says {
        from: 1,
        ..Says::of("eve", &["eve"])
    };
    let strange = other_ca.issue("mallory", &Says::of("mallory", &["mallory"]));
    // Its bytes, but for leading zeros.
    let serial = format!("{:016x}", revoked.serial);
    let serial = format!(
        "certificate serial {} revoked",
        serial.trim_start_matches("00")
    );
    for (own, why) in [
        (None, "tls: client didn't provide a certificate"),
        (
            Some(&pki.ca.issue("old", &old)),
            "certificate has expired or is not yet valid",
        ),
        (
            Some(&pki.ca.issue("early", &early)),
            "certificate has expired or is not yet valid",
        ),
        (Some(&strange), "certificate signed by unknown authority"),
        (Some(&revoked), serial.as_str()),
    ] {
        let tls = Tls::new(&pki.ca, own);
        assert!(refused(member, &tls).await, "{why}");
        // The pages are behind the same door.
        if let Ok(stream) = tls.http1().open(member.client_port).await {
            assert_eq!(page(stream, "/version").await, "", "{why}");
        }
        logged(member, why).await;
    }
    // A server that the client does not believe is told so by it.
    assert!(refused(member, &Tls::new(&other_ca, Some(&pki.alice))).await);
    logged(member, "remote error: tls: ").await;
    // Not TLS at all.
    let plain = tokio::net::TcpStream::connect(("127.0.0.1", member.client_port))
        .await
        .unwrap();
    assert_eq!(page(plain, "/version").await, "");
    logged(
        member,
        "tls: first record does not look like a TLS handshake",
    )
    .await;

    let log = member.log();
    let refusals = log.lines().filter(|line| line.contains("rejected"));
    for line in refusals {
        assert!(line.contains("rejected connection on client endpoint"));
        assert!(line.contains("\"remote-addr\":\"127.0.0.1:"), "{line}");
    }
    let stream = pki.as_alice().http1().open(member.client_port).await;
    let answer = page(stream.unwrap(), "/version").await;
    assert!(answer.contains("3.7.1"), "{answer}");
    assert!(client.get("k").await.unwrap().kvs[0].value == "v");
}

#[tokio::test]
async fn only_clients_of_an_allowed_host_are_let_in() {
    let pki = Pki::new();
    let bob = pki.ca.issue("bob", &Says::of("bob", &["bob.example"]));
    let cluster = pki
        .plan()
        .flag("--client-cert-allowed-hostname=carol.example,alice.example")
        .start()
        .await;
    let member = &cluster.members[0];
    assert!(!refused(member, &pki.as_alice()).await);
    assert!(refused(member, &Tls::new(&pki.ca, Some(&bob))).await);
    logged(member, "client certificate authentication failed").await;
    logged(member, "bob.example").await;
}

/// As etcd takes it: one certificate, made by hand, that is its own CA.
#[tokio::test]
async fn a_certificate_that_the_operator_names_is_good_for_itself() {
    let pki = Pki::new();
    let cluster = pki.plan().start().await;
    let itself = Tls::new(&pki.ca, Some(&pki.ca.itself()));
    assert!(!refused(&cluster.members[0], &itself).await);
}

#[tokio::test]
async fn plain_and_secure_clients_share_a_port_if_both_urls_are_given() {
    let pki = Pki::new();
    let mut cluster = pki.plan().prepare().await;
    let plain_port = free_port();
    let member = &mut cluster.members[0];
    let both = format!(
        "http://127.0.0.1:{0},https://127.0.0.1:{0},http://127.0.0.1:{plain_port}",
        member.client_port
    );
    member.set_flag("listen-client-urls", &both);
    member.start().await;
    member.client().await.put("k", "over TLS").await.unwrap();
    let plain = Client::connect(&format!("http://127.0.0.1:{}", member.client_port)).await;
    assert_eq!(plain.value("k").await.unwrap().unwrap(), "over TLS");
    // A port that is plain alone says so, to its log.
    let tls = pki.as_alice();
    assert!(tls.open(plain_port).await.is_err());
    logged(member, "a TLS handshake on a listener without TLS").await;
    logged(member, "ignoring key and cert files").await;
    logged(member, "ignoring client cert auth for this URL").await;
}

#[tokio::test]
async fn the_least_version_and_the_suites_that_were_asked_for_bind() {
    let pki = Pki::new();
    let cluster = pki.plan().flag("--tls-min-version=TLS1.3").start().await;
    let member = &cluster.members[0];
    let old = Tls::of_versions(&pki.ca, Some(&pki.alice), &[&rustls::version::TLS12]);
    assert!(old.open(member.client_port).await.is_err());
    drop(cluster);

    let cluster = pki
        .plan()
        .flag("--tls-max-version=TLS1.2")
        .flag("--cipher-suites=TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305")
        .start()
        .await;
    let stream = pki.as_alice().open(cluster.members[0].client_port).await;
    let suite = stream.unwrap().get_ref().1.negotiated_cipher_suite();
    assert_eq!(
        suite.unwrap().suite(),
        rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
    );
}

/// Asks all the time, on one connection that stays and on new ones; counts, and keeps what failed.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Result<(), String>>>,
}

impl Load {
    async fn start(member: &Member, tls: &Tls) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for stays in [true, false] {
            let endpoint = member.endpoint();
            let (stop, done, tls) = (stop.clone(), done.clone(), tls.clone());
            let mut client = member.client().await;
            tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    if !stays {
                        client = Client::try_connect_over(&endpoint, &tls)
                            .await
                            .ok_or("no connection")?;
                    }
                    let put = client.put("load", "x").await;
                    put.map_err(|status| status.to_string())?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }));
        }
        Self { stop, done, tasks }
    }

    async fn some_more(&self) {
        let enough = self.done.load(Ordering::Relaxed) + 10;
        wait::until_true("load", END_WITHIN, || {
            self.done.load(Ordering::Relaxed) >= enough
                || self.tasks.iter().any(|t| t.is_finished())
        })
        .await;
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap().unwrap();
        }
    }
}

/// A page that is asked for over TLS; nothing if the client was not let in.
async fn secure_page(tls: &Tls, port: u16, path: &str) -> String {
    match tls.clone().http1().open(port).await {
        Ok(stream) => page(stream, path).await,
        Err(_) => String::new(),
    }
}

#[tokio::test]
async fn the_listeners_of_pages_ask_for_the_same_certificates_and_follow_the_files() {
    let pki = Pki::new();
    let crl = pki.path("crl");
    let bob = pki.ca.issue("bob", &Says::of("bob", &["bob"]));
    std::fs::write(&crl, pki.ca.revocation_list(&[])).unwrap();
    let (http, metrics, open) = (free_port(), free_port(), free_port());
    let cluster = pki
        .plan()
        .flag(flag("client-crl-file", &crl))
        .flag(format!(
            "--listen-client-http-urls=https://127.0.0.1:{http}"
        ))
        .flag(format!(
            "--listen-metrics-urls=https://127.0.0.1:{metrics},http://127.0.0.1:{open}"
        ))
        .start()
        .await;
    let member = &cluster.members[0];
    let (alice, as_bob) = (pki.as_alice(), Tls::new(&pki.ca, Some(&bob)));
    let nobody = Tls::new(&pki.ca, None);
    let pages = [(http, "/version", "3.7.1"), (metrics, "/metrics", "etcd_")];
    for (port, path, says) in pages {
        for tls in [&alice, &as_bob] {
            let answer = secure_page(tls, port, path).await;
            assert!(answer.contains(says), "{path}: {answer}");
        }
        assert_eq!(secure_page(&nobody, port, path).await, "", "{path}");
        let plain = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
        assert_eq!(page(plain.unwrap(), path).await, "", "{path}");
    }
    logged(member, "tls: client didn't provide a certificate").await;
    // As in etcd, a plain URL of metrics asks for nothing.
    let plain = tokio::net::TcpStream::connect(("127.0.0.1", open)).await;
    assert!(page(plain.unwrap(), "/metrics").await.contains("etcd_"));

    let renewed = pki.ca.issue("server", &Says::of("server", &HERE));
    let serial = renewed.serial.to_be_bytes();
    std::fs::write(&crl, pki.ca.revocation_list(&[&bob])).unwrap();
    for (port, path, _) in pages {
        let shown = || async {
            let stream = alice.open(port).await.ok()?;
            let certificate = stream.get_ref().1.peer_certificates()?[0].clone();
            let has = certificate.windows(8).any(|bytes| bytes == serial);
            has.then_some(())
        };
        wait::until("the new certificate", IN_FORCE_WITHIN, shown).await;
        let out = || async {
            let answer = secure_page(&as_bob, port, path).await;
            answer.is_empty().then_some(())
        };
        wait::until("the revocation", IN_FORCE_WITHIN, out).await;
        assert_ne!(secure_page(&alice, port, path).await, "", "{path}");
    }
    assert!(refused(member, &as_bob).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_ca_and_revocations_change_under_load_without_a_failed_request() {
    let pki = Pki::new();
    let crl = pki.path("crl");
    std::fs::write(&crl, pki.ca.revocation_list(&[])).unwrap();
    let cluster = pki.plan().flag(flag("client-crl-file", &crl)).start().await;
    let member = &cluster.members[0];
    let load = Load::start(member, &pki.as_alice()).await;
    load.some_more().await;

    // A new certificate of the server.
    let renewed = pki.ca.issue("server", &Says::of("server", &HERE));
    let shown = || async {
        let stream = pki.as_alice().open(member.client_port).await.unwrap();
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let serial = renewed.serial.to_be_bytes();
        let has = certificate.windows(8).any(|bytes| bytes == serial);
        has.then_some(())
    };
    wait::until("the new certificate", IN_FORCE_WITHIN, shown).await;
    load.some_more().await;

    // A revoked client, who had been welcome.
    let bob = pki.ca.issue("bob", &Says::of("bob", &["bob"]));
    let as_bob = Tls::new(&pki.ca, Some(&bob));
    assert!(!refused(member, &as_bob).await);
    std::fs::write(&crl, pki.ca.revocation_list(&[&bob])).unwrap();
    let out = || async { refused(member, &as_bob).await.then_some(()) };
    wait::until("the new revocation list", IN_FORCE_WITHIN, out).await;

    // A second CA beside the first.
    let elsewhere = tempfile::tempdir().unwrap();
    let second = Ca::new(elsewhere.path(), "second");
    let carol = second.issue("carol", &Says::of("carol", &["carol"]));
    let as_carol = Tls::new(&pki.ca, Some(&carol));
    assert!(refused(member, &as_carol).await);
    let bundle =
        [&pki.ca.certificate, &second.certificate].map(|path| std::fs::read(path).unwrap());
    std::fs::write(&pki.ca.certificate, bundle.concat()).unwrap();
    let welcome = || async { (!refused(member, &as_carol).await).then_some(()) };
    wait::until("the second CA", IN_FORCE_WITHIN, welcome).await;
    load.some_more().await;

    // Files that cannot be used: what was in force stays, and each is named once.
    let broken = "cannot be used; what was in force stays in force";
    for (path, bytes) in [
        (&renewed.key, &b"no key"[..]),
        (&crl, b"no list"),
        (&pki.ca.certificate, b""),
    ] {
        let whole = std::fs::read(path).unwrap();
        let before = member.log().matches(broken).count();
        std::fs::write(path, bytes).unwrap();
        let said = || member.log().matches(broken).count() > before;
        wait::until_true("a line about it", IN_FORCE_WITHIN, said).await;
        let log = member.log();
        let line = log.lines().rfind(|line| line.contains(broken)).unwrap();
        assert!(line.contains(&path.display().to_string()), "{line}");
        assert!(!refused(member, &pki.as_alice()).await);
        assert!(refused(member, &as_bob).await);
        load.some_more().await;
        std::fs::write(path, whole).unwrap();
        assert_eq!(member.log().matches(broken).count(), before + 1);
    }
    load.stop().await;
}

#[tokio::test]
async fn three_members_that_trust_one_ca_form_a_cluster_and_survive_restarts() {
    let pki = Pki::new();
    let peer = pki.ca.issue("peer", &Says::of("peer", &["127.0.0.1"]));
    let plan = pki.plan().members(3).flag("--peer-cert-allowed-cn=peer");
    let mut cluster = pki.peer_flags(plan, &peer).start().await;
    let leader = cluster.leader().await;
    cluster.client().await.put("k", "v").await.unwrap();
    cluster.members[leader].terminate().await;
    let next = cluster.leader().await;
    let client = cluster.members[next].client().await;
    client.put("k", "w").await.unwrap();
    cluster.members[leader].start().await;
    let back = cluster.members[leader].client().await;
    assert_eq!(back.value("k").await.unwrap().unwrap(), "w");
    for member in &cluster.members {
        assert!(!member.log().contains("peers talk without TLS"));
    }

    // Whoever has no certificate of the CA, or one of another name, does not reach the peer port.
    let member = &cluster.members[0];
    let port = peer_port(member);
    for (own, why) in [
        (None, "tls: client didn't provide a certificate"),
        (Some(&pki.alice), "client certificate authentication failed"),
    ] {
        if let Ok(stream) = Tls::new(&pki.ca, own).http1().open(port).await {
            assert_eq!(page(stream, "/version").await, "", "{why}");
        }
        logged(member, why).await;
        logged(member, "rejected connection on peer endpoint").await;
    }
}

fn peer_port(member: &Member) -> u16 {
    let arguments = member.arguments.iter().map(|one| one.to_string_lossy());
    let url = arguments
        .filter_map(|one| one.strip_prefix("--listen-peer-urls=").map(str::to_owned))
        .next()
        .unwrap();
    url.rsplit_once(':').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn a_peer_that_comes_from_elsewhere_than_its_certificate_says_is_refused() {
    let pki = Pki::new();
    let away = pki.ca.issue("away", &Says::of("peer", &["10.9.8.7"]));
    let own = pki.ca.issue("peer", &Says::of("peer", &["127.0.0.1"]));
    for (extra, welcome) in [
        (None, false),
        (Some("--peer-skip-client-san-verification"), true),
    ] {
        let plan = extra.into_iter().fold(pki.plan(), Plan::flag);
        let cluster = pki.peer_flags(plan, &own).start().await;
        let member = &cluster.members[0];
        let tls = Tls::new(&pki.ca, Some(&away)).http1();
        let answer = match tls.open(peer_port(member)).await {
            Ok(stream) => page(stream, "/version").await,
            Err(_) => String::new(),
        };
        assert_eq!(answer.contains("3.7.1"), welcome, "{answer}");
        if !welcome {
            logged(
                member,
                "x509: certificate is valid for 10.9.8.7, not 127.0.0.1",
            )
            .await;
        }
    }
}

#[tokio::test]
async fn members_make_their_own_certificates_when_told_to_and_keep_them() {
    use std::os::unix::fs::PermissionsExt as _;

    let mut cluster = Cluster::plan()
        .program(Program::Sealkv)
        .members(3)
        .clients_over(&Tls::blind())
        .peers_over_tls()
        .flag("--auto-tls")
        .flag("--peer-auto-tls")
        .start()
        .await;
    cluster.client().await.put("k", "v").await.unwrap();
    let member = &mut cluster.members[1];
    let read = |path: &str| std::fs::read(member.data.join("fixtures").join(path)).unwrap();
    let before = (read("client/cert.pem"), read("peer/cert.pem"));
    for kind in ["client", "peer"] {
        let key = member.data.join("fixtures").join(kind).join("key.pem");
        let mode = std::fs::metadata(key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    member.terminate().await;
    member.start().await;
    let read = |path: &str| std::fs::read(member.data.join("fixtures").join(path)).unwrap();
    assert_eq!(before, (read("client/cert.pem"), read("peer/cert.pem")));
    let client = member.client().await;
    assert_eq!(client.value("k").await.unwrap().unwrap(), "v");
}

#[tokio::test]
async fn the_commands_take_etcdctls_flags_and_say_what_is_wrong() {
    let pki = Pki::new();
    let cluster = pki.plan().start().await;
    let member = &cluster.members[0];
    let endpoint = format!("127.0.0.1:{}", member.client_port);
    let (ca, cert, key) = (
        pki.ca.certificate.display().to_string(),
        pki.alice.certificate.display().to_string(),
        pki.alice.key.display().to_string(),
    );
    let sealkv = |arguments: &[&str]| {
        let all = [&["--endpoints", &endpoint], arguments, &["status"]].concat();
        let output = run(binary::sealkv(), &all);
        let said = text(&output.stdout) + &text(&output.stderr);
        (output.status.success(), said)
    };
    let own = ["--cert", &cert, "--key", &key];
    let (ok, said) = sealkv(&[&["--cacert", &ca][..], &own].concat());
    assert!(ok && said.contains("leader"), "{said}");
    let (ok, said) = sealkv(&[&["--insecure-skip-tls-verify"][..], &own].concat());
    assert!(ok, "{said}");
    for (arguments, why) in [
        (vec!["--cacert", &ca], "CertificateRequired"),
        (
            [&["--cacert", &cert][..], &own].concat(),
            "invalid peer certificate",
        ),
        (vec!["--cacert", "/no/such/file"], "/no/such/file"),
        (vec!["--cacert", &key], "holds no certificate"),
        (vec!["--cert", &cert], "--key"),
    ] {
        let (ok, said) = sealkv(&arguments);
        assert!(!ok && said.contains(why), "{why}: {said}");
    }
    let bench = ["--cacert", &ca, "bench", "put", "--total", "20"];
    let output = run(
        binary::sealkv(),
        &[&["--endpoints", &endpoint], &own[..], &bench].concat(),
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[tokio::test]
async fn etcdctl_and_curl_are_served_over_mutual_tls() {
    let pki = Pki::new();
    let cluster = pki.plan().start().await;
    let port = cluster.members[0].client_port;
    let (ca, cert, key) = (
        pki.ca.certificate.display().to_string(),
        pki.alice.certificate.display().to_string(),
        pki.alice.key.display().to_string(),
    );
    let etcdctl = binary::interop().join("etcdctl");
    if etcdctl.exists() {
        let endpoints = format!("--endpoints=https://localhost:{port}");
        let flags = ["--cacert", &ca, "--cert", &cert, "--key", &key];
        let put = [&[endpoints.as_str()], &flags[..], &["put", "a", "b"]].concat();
        let output = run(&etcdctl, &put);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let curl = Path::new("/usr/bin/curl");
    if curl.exists() {
        let url = format!("https://127.0.0.1:{port}/health");
        for version in ["--http1.1", "--http2"] {
            let flags = ["-sS", version, "--cacert", &ca, "--cert", &cert];
            let output = run(curl, &[&flags[..], &["--key", &key, &url]].concat());
            assert!(text(&output.stdout).contains("true"), "{output:?}");
        }
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_end_a_start_with_one_line_that_names_them() {
    let pki = Pki::new();
    let other = Pki::new();
    let empty = pki.path("empty");
    std::fs::write(&empty, "").unwrap();
    let missing = pki.path("missing");
    let cases = [
        ("cert-file", missing.as_path(), "cannot read"),
        ("cert-file", &empty, "holds no certificate"),
        ("key-file", &empty, "holds no private key"),
        ("key-file", &other.server.key, "cannot be used together"),
        ("trusted-ca-file", &pki.server.key, "holds no certificate"),
        ("client-crl-file", &empty, "no certificate revocation list"),
    ];
    for (name, path, why) in cases {
        let mut cluster = pki.plan().prepare().await;
        let member = &mut cluster.members[0];
        member.set_flag(name, &path.display().to_string());
        member.launch();
        let status = member.wait_end().await;
        assert_eq!(status.code(), Some(1));
        let log = member.log();
        let line = log.lines().last().unwrap();
        assert!(line.contains(why), "{name}: {line}");
        assert!(line.contains(&path.display().to_string()), "{name}: {line}");
    }
}
