//! Users, roles and keys, and connections that say who uses them.

use proto::authpb;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::watch_client::WatchClient;
use tests::client::{Client, MESSAGE_WITHIN};
use tests::cluster::{Cluster, Program};
use tests::tls::Tls;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

pub(crate) const ROOT_PASSWORD: &str = "canary-root-password-1f";
pub(crate) const ALICE_PASSWORD: &str = "canary-alice-password-2e";

pub(crate) const READ: i32 = 0;
pub(crate) const WRITE: i32 = 1;
pub(crate) const READWRITE: i32 = 2;

/// Leases with a key that alice may write, and with one that she may not.
pub(crate) const LEASE_OF_ALICE: i64 = 1001;
pub(crate) const LEASE_OF_OTHERS: i64 = 1002;
/// No key hangs on it.
pub(crate) const LEASE_OF_NOBODY: i64 = 1003;

pub(crate) const USER_EMPTY: &str = "etcdserver: user name is empty";
pub(crate) const INVALID_TOKEN: &str = "etcdserver: invalid auth token";
pub(crate) const DENIED: &str = "etcdserver: permission denied";
pub(crate) const OLD_REVISION: &str = "etcdserver: revision of auth store is old";
pub(crate) const FAILED: &str = "etcdserver: authentication failed, invalid user ID or password";

pub(crate) fn is_etcd() -> bool {
    Program::under_test() == Program::Etcd
}

/// A connection and what it says about who uses it.
#[derive(Clone)]
pub(crate) struct As {
    pub(crate) client: Client,
    pub(crate) token: Option<String>,
}

impl As {
    pub(crate) async fn nobody(endpoint: &str) -> Self {
        let client = Client::connect(endpoint).await;
        As {
            client,
            token: None,
        }
    }

    pub(crate) async fn over(endpoint: &str, tls: &Tls) -> Self {
        let client = Client::try_connect_over(endpoint, tls).await;
        As {
            client: client.unwrap(),
            token: None,
        }
    }

    pub(crate) fn with(&self, token: &str) -> Self {
        As {
            client: self.client.clone(),
            token: Some(token.to_owned()),
        }
    }

    pub(crate) async fn user(endpoint: &str, name: &str, password: &str) -> Self {
        let nobody = As::nobody(endpoint).await;
        let token = nobody.authenticate(name, password).await.unwrap();
        nobody.with(&token)
    }

    /// The same user at another member.
    pub(crate) async fn at(&self, endpoint: &str) -> Self {
        As {
            client: Client::connect(endpoint).await,
            token: self.token.clone(),
        }
    }

    pub(crate) fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request
                .metadata_mut()
                .insert("token", token.parse().unwrap());
        }
        request
    }

    pub(crate) fn auth(&self) -> AuthClient<Channel> {
        AuthClient::new(self.client.channel())
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.client.channel())
    }

    pub(crate) fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.client.channel())
    }

    pub(crate) async fn authenticate(&self, name: &str, password: &str) -> Result<String, Status> {
        let request = pb::AuthenticateRequest {
            name: name.into(),
            password: password.into(),
        };
        Ok(self.auth().authenticate(request).await?.into_inner().token)
    }

    pub(crate) async fn range(&self, key: &str, end: &str) -> Result<usize, Status> {
        let range = pb::RangeRequest {
            key: bytes(key),
            range_end: bytes(end),
            ..Default::default()
        };
        let answer = self.client.kv().range(self.ask(range)).await?;
        Ok(answer.into_inner().kvs.len())
    }

    pub(crate) async fn put(&self, put: pb::PutRequest) -> Result<(), Status> {
        self.client.kv().put(self.ask(put)).await.map(drop)
    }

    pub(crate) async fn delete(&self, delete: pb::DeleteRangeRequest) -> Result<(), Status> {
        self.client
            .kv()
            .delete_range(self.ask(delete))
            .await
            .map(drop)
    }

    pub(crate) async fn txn(&self, txn: pb::TxnRequest) -> Result<(), Status> {
        self.client.kv().txn(self.ask(txn)).await.map(drop)
    }

    pub(crate) async fn revoke_role(&self, name: &str, role: &str) -> Result<(), Status> {
        let revoke = pb::AuthUserRevokeRoleRequest {
            name: name.into(),
            role: role.into(),
        };
        self.auth()
            .user_revoke_role(self.ask(revoke))
            .await
            .map(drop)
    }

    pub(crate) async fn add_role(&self, name: &str) -> Result<(), Status> {
        let add = pb::AuthRoleAddRequest { name: name.into() };
        self.auth().role_add(self.ask(add)).await.map(drop)
    }

    pub(crate) async fn grant(
        &self,
        role: &str,
        kind: i32,
        key: &str,
        end: &str,
    ) -> Result<(), Status> {
        let grant = pb::AuthRoleGrantPermissionRequest {
            name: role.into(),
            perm: Some(authpb::Permission {
                perm_type: kind,
                key: bytes(key),
                range_end: bytes(end),
            }),
        };
        self.auth()
            .role_grant_permission(self.ask(grant))
            .await
            .map(drop)
    }

    pub(crate) async fn add_user(
        &self,
        name: &str,
        password: &str,
        roles: &[&str],
    ) -> Result<(), Status> {
        let add = pb::AuthUserAddRequest {
            name: name.into(),
            password: password.into(),
            ..Default::default()
        };
        self.auth().user_add(self.ask(add)).await?;
        for role in roles {
            let grant = pb::AuthUserGrantRoleRequest {
                user: name.into(),
                role: (*role).into(),
            };
            self.auth().user_grant_role(self.ask(grant)).await?;
        }
        Ok(())
    }

    pub(crate) async fn change_password(&self, name: &str, password: &str) -> Result<(), Status> {
        let change = pb::AuthUserChangePasswordRequest {
            name: name.into(),
            password: password.into(),
            ..Default::default()
        };
        self.auth()
            .user_change_password(self.ask(change))
            .await
            .map(drop)
    }

    pub(crate) async fn delete_user(&self, name: &str) -> Result<(), Status> {
        let delete = pb::AuthUserDeleteRequest { name: name.into() };
        self.auth().user_delete(self.ask(delete)).await.map(drop)
    }

    pub(crate) async fn enable(&self) -> Result<(), Status> {
        self.auth()
            .auth_enable(self.ask(pb::AuthEnableRequest {}))
            .await
            .map(drop)
    }

    pub(crate) async fn revision(&self) -> u64 {
        let request = self.ask(pb::AuthStatusRequest {});
        let status = self.auth().auth_status(request).await;
        status.unwrap().into_inner().auth_revision
    }

    pub(crate) async fn watch(&self, key: &str, end: &str) -> Watch {
        let create = pb::WatchCreateRequest {
            key: bytes(key),
            range_end: bytes(end),
            ..Default::default()
        };
        let create = pb::watch_request::RequestUnion::CreateRequest(create);
        let (requests, outgoing) = tokio::sync::mpsc::channel(8);
        let request_union = Some(create);
        requests
            .send(pb::WatchRequest { request_union })
            .await
            .unwrap();
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let mut client = WatchClient::new(self.client.channel());
        let answers = client.watch(self.ask(outgoing)).await.unwrap().into_inner();
        Watch {
            _requests: requests,
            answers,
        }
    }
}

pub(crate) struct Watch {
    _requests: tokio::sync::mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
}

impl Watch {
    pub(crate) async fn next(&mut self) -> pb::WatchResponse {
        let answer = tokio::time::timeout(MESSAGE_WITHIN, self.answers.message()).await;
        answer.expect("a response in time").unwrap().unwrap()
    }
}

pub(crate) fn bytes(text: &str) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: bytes(key),
        value: bytes("v"),
        ..Default::default()
    }
}

pub(crate) fn delete(key: &str, end: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        ..Default::default()
    }
}

pub(crate) fn range(key: &str, end: &str) -> Op {
    Op::RequestRange(pb::RangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        ..Default::default()
    })
}

pub(crate) fn ops(ops: Vec<Op>) -> Vec<pb::RequestOp> {
    let op = |request| pb::RequestOp {
        request: Some(request),
    };
    ops.into_iter().map(op).collect()
}

pub(crate) fn txn(success: Vec<Op>, failure: Vec<Op>) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: Vec::new(),
        success: ops(success),
        failure: ops(failure),
    }
}

/// The transaction inside the branch that is not taken of another.
pub(crate) fn nested(inner: pb::TxnRequest) -> pb::TxnRequest {
    txn(vec![range("a/1", "")], vec![Op::RequestTxn(inner)])
}

#[track_caller]
pub(crate) fn assert_refused<T: std::fmt::Debug>(
    result: Result<T, Status>,
    code: Code,
    text: &str,
) {
    let status = result.expect_err("it must be refused");
    assert_eq!((status.code(), status.message()), (code, text));
}

#[track_caller]
pub(crate) fn assert_denied<T: std::fmt::Debug>(result: Result<T, Status>) {
    assert_refused(result, Code::PermissionDenied, DENIED);
}

/// Users, roles and keys, then authentication turned on. alice reads and writes `a/…`, reads `m`
/// alone, writes `w` alone, and reads everything from `y` on. Returns root.
pub(crate) async fn set_up(nobody: As) -> As {
    nobody.add_role("root").await.unwrap();
    nobody
        .add_user("root", ROOT_PASSWORD, &["root"])
        .await
        .unwrap();
    nobody.add_role("gardener").await.unwrap();
    for (kind, key, end) in [
        (READWRITE, "a/", "a0"),
        (READ, "m", ""),
        (WRITE, "w", ""),
        (READ, "y", "\0"),
    ] {
        nobody.grant("gardener", kind, key, end).await.unwrap();
    }
    nobody
        .add_user("alice", ALICE_PASSWORD, &["gardener"])
        .await
        .unwrap();
    for id in [LEASE_OF_ALICE, LEASE_OF_OTHERS, LEASE_OF_NOBODY] {
        let grant = pb::LeaseGrantRequest { ttl: 600, id };
        nobody.client.lease().lease_grant(grant).await.unwrap();
    }
    for (key, lease) in [
        ("a/1", LEASE_OF_ALICE),
        ("b/1", LEASE_OF_OTHERS),
        ("m", 0),
        ("w", 0),
        ("z", 0),
    ] {
        let put = pb::PutRequest { lease, ..put(key) };
        nobody.put(put).await.unwrap();
    }
    nobody.enable().await.unwrap();
    let token = nobody.authenticate("root", ROOT_PASSWORD).await.unwrap();
    nobody.with(&token)
}

pub(crate) async fn with_auth(cluster: &Cluster) -> As {
    set_up(As::nobody(&cluster.members[0].endpoint()).await).await
}

pub(crate) async fn alice(cluster: &Cluster) -> As {
    As::user(&cluster.members[0].endpoint(), "alice", ALICE_PASSWORD).await
}
