//! One of the two clusters: its endpoints, who asks, and asking again.
//!
//! Promise: what is asked here may be asked twice; a break is waited out for as long as the user
//! is patient, at every endpoint in turn. A token that has run out is renewed.
//! Not known here: what is copied.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proto::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::{self as pb};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::MigrateError;

/// For one attempt; a page of large values takes its time.
const ATTEMPT: Duration = Duration::from_secs(30);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Role {
    Source,
    Target,
}

impl Role {
    pub(super) fn user_flag(self) -> &'static str {
        match self {
            Self::Source => "--from-user",
            Self::Target => "--to-user",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "the source",
            Self::Target => "the target",
        })
    }
}

/// `NAME:PASSWORD`
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) name: String,
    pub(super) password: String,
}

#[derive(Clone)]
enum Login {
    /// Before the next call.
    Due,
    Token(MetadataValue<Ascii>),
    /// Nobody has to say who it is there, as with etcdctl.
    NotNeeded,
}

pub(super) struct Side {
    role: Role,
    channels: Vec<(String, Channel)>,
    current: AtomicUsize,
    credentials: Option<Credentials>,
    login: Mutex<Login>,
    patience: Duration,
}

impl Side {
    /// Asks for a token at once when there is somebody to be.
    pub(super) async fn new(
        role: Role,
        channels: Vec<(String, Channel)>,
        credentials: Option<Credentials>,
        patience: Duration,
    ) -> Result<Self, MigrateError> {
        let side = Self {
            role,
            channels,
            current: AtomicUsize::new(0),
            credentials,
            login: Mutex::new(Login::Due),
            patience,
        };
        if side.credentials.is_some() {
            side.ask("authenticate", |_| async { Ok(Response::new(())) })
                .await?;
        }
        Ok(side)
    }

    /// Whether this is who asks.
    pub(super) fn is(&self, name: &str) -> bool {
        self.credentials
            .as_ref()
            .is_some_and(|credentials| credentials.name == name)
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    fn place(&self) -> (&str, Channel) {
        let at = self.current.load(Ordering::Relaxed) % self.channels.len();
        let (url, channel) = &self.channels[at];
        (url, channel.clone())
    }

    /// The next call goes elsewhere, if there is an elsewhere.
    pub(super) fn turn_away(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Login::Token(token) = self.login.lock().clone() {
            request.metadata_mut().insert("token", token);
        }
        request
    }

    pub(super) fn kv(channel: Channel) -> KvClient<Channel> {
        KvClient::new(channel)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    pub(super) async fn ask<T, F, Fut>(
        &self,
        doing: &'static str,
        call: F,
    ) -> Result<T, MigrateError>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let begun = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            let (url, channel) = self.place();
            let attempt = async {
                self.authenticate(&channel).await?;
                call(channel).await
            };
            let status = match tokio::time::timeout(ATTEMPT, attempt).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer"),
            };
            if is_token_stale(&status) {
                self.log_in_again();
            } else if !is_transient(&status) {
                return Err(self.failed(doing, status));
            }
            if begun.elapsed() >= self.patience {
                return Err(MigrateError::Unreachable {
                    side: self.role,
                    url: url.to_owned(),
                    doing,
                    status: Box::new(status),
                });
            }
            self.turn_away();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    pub(super) fn failed(&self, doing: &'static str, status: Status) -> MigrateError {
        if status.message() == "etcdserver: user name is empty" && self.credentials.is_none() {
            return MigrateError::LoginNeeded {
                side: self.role,
                flag: self.role.user_flag(),
            };
        }
        MigrateError::Call {
            side: self.role,
            doing,
            status: Box::new(status),
        }
    }

    async fn authenticate(&self, channel: &Channel) -> Result<(), Status> {
        let Some(Credentials { name, password }) = self.credentials.clone() else {
            return Ok(());
        };
        if !matches!(*self.login.lock(), Login::Due) {
            return Ok(());
        }
        let request = pb::AuthenticateRequest { name, password };
        let answer = AuthClient::new(channel.clone()).authenticate(request).await;
        let login = match answer {
            Ok(answer) => Login::Token(
                MetadataValue::try_from(answer.into_inner().token)
                    .map_err(|_| Status::internal("the token is no text"))?,
            ),
            Err(status) if status.message() == AUTH_OFF => Login::NotNeeded,
            Err(status) => return Err(status),
        };
        *self.login.lock() = login;
        Ok(())
    }

    /// The token at hand counts for nothing any more.
    pub(super) fn log_in_again(&self) {
        *self.login.lock() = Login::Due;
    }

    pub(super) async fn range(
        &self,
        request: pb::RangeRequest,
    ) -> Result<pb::RangeResponse, MigrateError> {
        self.ask("read keys", |channel| {
            let request = self.request(request.clone());
            async move { Self::kv(channel).range(request).await }
        })
        .await
    }

    pub(super) async fn leases(&self) -> Result<Vec<i64>, MigrateError> {
        let listed = self.ask("list leases", |channel| {
            let request = self.request(pb::LeaseLeasesRequest {});
            async move { LeaseClient::new(channel).lease_leases(request).await }
        });
        Ok(listed.await?.leases.iter().map(|lease| lease.id).collect())
    }

    /// The TTL that a lease was granted; none if there is no such lease.
    pub(super) async fn granted_ttl(&self, id: i64) -> Result<Option<i64>, MigrateError> {
        let found = self
            .ask("look at a lease", |channel| {
                let request = self.request(pb::LeaseTimeToLiveRequest { id, keys: false });
                async move { LeaseClient::new(channel).lease_time_to_live(request).await }
            })
            .await?;
        Ok((found.ttl >= 0).then_some(found.granted_ttl))
    }
}

/// A break, an election, an overloaded server: not an answer.
pub(super) fn is_transient(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted
    ) || status.message() == "etcdserver: too many requests"
        // What a connection that breaks off in the middle of an answer looks like.
        || (status.code() == Code::Unknown
            && !["etcdserver:", "auth:"].iter().any(|by| status.message().starts_with(by)))
        || (status.code() == Code::Internal && status.message().contains("h2 protocol error"))
}

/// What a cluster without authentication says to whoever logs in.
pub(super) const AUTH_OFF: &str = "etcdserver: authentication is not enabled";

/// The same as a watch says it, which is ended with words alone; sealkv's ends with the last ones
/// when the token that it was opened with counts for nothing any more.
pub(super) fn is_token_stale_in(reason: &str) -> bool {
    [
        "invalid auth token",
        "revision of auth store is old",
        "permission denied",
    ]
    .iter()
    .any(|words| reason.contains(words))
}

fn is_token_stale(status: &Status) -> bool {
    matches!(
        status.message(),
        "etcdserver: invalid auth token" | "etcdserver: revision of auth store is old"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_breaks_are_waited_out() {
        for (status, transient) in [
            (Status::unavailable("etcdserver: no leader"), true),
            (Status::deadline_exceeded("x"), true),
            (Status::unknown("transport error"), true),
            (
                Status::resource_exhausted("etcdserver: too many requests"),
                true,
            ),
            (
                Status::resource_exhausted("etcdserver: mvcc: database space exceeded"),
                false,
            ),
            (
                Status::permission_denied("etcdserver: permission denied"),
                false,
            ),
            (Status::unimplemented("unknown service"), false),
            (
                Status::unknown(
                    "auth: authentication failed, password was given for no password user",
                ),
                false,
            ),
        ] {
            assert_eq!(is_transient(&status), transient, "{status:?}");
        }
    }
}
