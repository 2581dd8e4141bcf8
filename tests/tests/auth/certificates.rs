//! A certificate's name as the user who asks, where the operator wants it so.

use proto::etcdserverpb as pb;
use tests::cluster::{Cluster, Plan};
use tests::tls::{Ca, Identity, Says, Tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

use crate::fixture::*;

pub(crate) const HERE: [&str; 2] = ["localhost", "127.0.0.1"];
/// What etcd answers to whoever shows a name where names do not count.
const NAME_IGNORED: &str = "CommonName of client sending a request against gateway will be ignored and not used as expected\n";

/// Certificates of a server and of clients by name.
pub(crate) struct Pki {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) ca: Ca,
    server: Identity,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = Ca::new(directory.path(), "ca");
        let server = ca.issue("server", &Says::of("", &HERE));
        Self {
            directory,
            ca,
            server,
        }
    }

    fn client(&self, common_name: &str) -> Tls {
        let identity = self
            .ca
            .issue("client", &Says::of(common_name, &["client.example"]));
        assert!(identity.certificate.starts_with(self.directory.path()));
        Tls::new(&self.ca, Some(&identity))
    }

    /// Members that let nobody in without a certificate.
    pub(crate) fn plan(&self) -> Plan {
        Cluster::plan()
            .clients_over(&self.client(""))
            .flag(file("cert-file", &self.server.certificate))
            .flag(file("key-file", &self.server.key))
            .flag(file("trusted-ca-file", &self.ca.certificate))
    }

    /// And no member either.
    pub(crate) fn with_peers(&self, plan: Plan) -> Plan {
        plan.peers_over_tls()
            .flag("--peer-client-cert-auth")
            .flag(file("peer-cert-file", &self.server.certificate))
            .flag(file("peer-key-file", &self.server.key))
            .flag(file("peer-trusted-ca-file", &self.ca.certificate))
    }

    async fn at(&self, cluster: &Cluster, member: usize, common_name: &str) -> As {
        let endpoint = cluster.members[member].endpoint();
        As::over(&endpoint, &self.client(common_name)).await
    }

    /// The code and the body of an answer of the gateway.
    async fn post(&self, cluster: &Cluster, common_name: &str, token: &str) -> (u16, String) {
        let mut stream = self
            .client(common_name)
            .http1()
            .open(cluster.members[0].client_port)
            .await
            .unwrap();
        let body = r#"{"key":"YS8x"}"#;
        let authorization = match token {
            "" => String::new(),
            token => format!("Authorization: {token}\r\n"),
        };
        let request = format!(
            "POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: */*\r\n{authorization}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A server may end TLS without a word.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (code.unwrap(), body.to_owned())
    }
}

pub(crate) fn file(flag: &str, path: &std::path::Path) -> String {
    format!("--{flag}={}", path.display())
}

async fn a_name_is_who_asks(pki: &Pki, cluster: &Cluster, member: usize) {
    let nobody = pki.at(cluster, 0, "").await;
    let root = set_up(nobody).await;
    let by_name = |name: &'static str| pki.at(cluster, member, name);

    let alice = by_name("alice").await;
    assert_eq!(alice.range("a/1", "").await.unwrap(), 1);
    alice.put(put("a/1")).await.unwrap();
    assert_denied(alice.range("b/1", "").await);
    assert_denied(alice.put(put("b/1")).await);
    assert_denied(alice.add_role("thief").await);
    let list = alice.ask(pb::MemberListRequest::default());
    alice.cluster().member_list(list).await.unwrap();
    assert!(!alice.watch("a/", "a0").await.next().await.canceled);
    assert!(alice.watch("b/", "b0").await.next().await.canceled);

    by_name("root").await.add_role("by root").await.unwrap();
    // Whom nobody knows is somebody who may nothing.
    let mallory = by_name("mallory").await;
    assert_denied(mallory.range("a/1", "").await);
    let refused = mallory.add_role("thief").await;
    let unknown = "etcdserver: user name not found";
    assert_refused(refused, Code::FailedPrecondition, unknown);
    // Without a name there is nobody, and a token says more than a name.
    let unnamed = by_name("").await;
    let refused = unnamed.add_role("thief").await;
    assert_refused(refused, Code::InvalidArgument, USER_EMPTY);
    if !is_etcd() {
        // etcd takes the empty name for somebody who may nothing.
        let refused = unnamed.range("a/1", "").await;
        assert_refused(refused, Code::InvalidArgument, USER_EMPTY);
    }
    let token = root.token.clone().unwrap();
    assert_eq!(alice.with(&token).range("b/1", "").await.unwrap(), 1);
    let refused = alice.with("no-token").range("a/1", "").await;
    assert_refused(refused, Code::Unauthenticated, INVALID_TOKEN);
}

#[tokio::test]
async fn a_certificates_name_is_who_asks() {
    let pki = Pki::new();
    let cluster = pki.plan().flag("--client-cert-auth").start().await;
    a_name_is_who_asks(&pki, &cluster, 0).await;
}

#[tokio::test]
async fn a_certificates_name_is_who_asks_a_follower() {
    let pki = Pki::new();
    let plan = pki.plan().flag("--client-cert-auth").members(3);
    let cluster = plan.start().await;
    let follower = (cluster.leader().await + 1) % 3;
    a_name_is_who_asks(&pki, &cluster, follower).await;
}

#[tokio::test]
async fn the_gateway_tells_whoever_shows_a_name_that_it_does_not_count() {
    let pki = Pki::new();
    let cluster = pki.plan().flag("--client-cert-auth").start().await;
    assert_eq!(pki.post(&cluster, "alice", "").await.0, 200);
    let root = set_up(pki.at(&cluster, 0, "").await).await;
    let token = root.token.clone().unwrap();
    let ignored = (400, NAME_IGNORED.to_owned());
    assert_eq!(pki.post(&cluster, "alice", "").await, ignored);
    assert_eq!(pki.post(&cluster, "alice", &token).await, ignored);
    assert_eq!(pki.post(&cluster, "", &token).await.0, 200);
    let (code, body) = pki.post(&cluster, "", "").await;
    assert_eq!(code, 400);
    assert!(body.contains(USER_EMPTY), "{body}");
}

#[tokio::test]
async fn a_name_counts_only_where_the_operator_says_so() {
    let pki = Pki::new();
    // A certificate must be shown here too.
    let cluster = pki.plan().start().await;
    let root = set_up(pki.at(&cluster, 0, "").await).await;
    let alice = pki.at(&cluster, 0, "alice").await;
    let refused = alice.range("a/1", "").await;
    assert_refused(refused, Code::InvalidArgument, USER_EMPTY);
    let token = root.token.clone().unwrap();
    assert_eq!(alice.with(&token).range("a/1", "").await.unwrap(), 1);
    assert_eq!(pki.post(&cluster, "alice", &token).await.0, 200);
}
