//! `--discovery-endpoints`: the initial cluster out of keys in another cluster.
//!
//! ```text
//! /_etcd/registry/TOKEN/_config/size     how many members there are to be; written by the operator
//! /_etcd/registry/TOKEN/members/ID       "name=url,name=url…", written by each member
//! ```
//!
//! Promise: etcd's keys, rules and texts, so that its members and these find each other; whoever
//! comes first belongs to the cluster, and whoever comes too late is refused. A service that cannot
//! be reached or does not answer is asked again, with longer and longer pauses, until the process is
//! told to stop; only a login that fails is not tried again. No password is logged.
//! Not known here: what becomes of the cluster.
//!
//! Source: etcd 3.7.1, `server/etcdserver/api/v3discovery/discovery.go`.

use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::watch_client::WatchClient;
use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::discovery::DiscoveryError;
use crate::config::{ClusterState, Config, Credentials, DiscoveryService, InitialCluster};
use crate::raft::member_id;
use crate::tls::{ClientTls, Connector, Trust};

const REGISTRY: &str = "/_etcd/registry";
/// etcd's server refuses more, and its client asks for no more whatever it was told.
const PING_INTERVAL_MIN: Duration = Duration::from_secs(10);
/// After so many attempts the pauses grow no longer.
const DOUBLINGS_MAX: u32 = 8;
const AUTH_OFF: &str = "etcdserver: authentication is not enabled";

/// Takes a place among the members, waits for the others, and sets the initial cluster.
pub(super) async fn by_service(
    mut config: Config,
    service: &DiscoveryService,
) -> Result<Config, DiscoveryError> {
    if config.initial_cluster_state == ClusterState::Existing {
        return Err(DiscoveryError::Joining);
    }
    tracing::info!("Bootstrapping cluster using v3 discovery.");
    let urls = config.advertise_peer_urls.iter();
    let own_urls: Vec<String> = urls.map(|url| url.as_str().to_owned()).collect();
    let own = own_urls.iter().map(|url| format!("{}={url}", config.name));
    let own = own.collect::<Vec<_>>().join(",");
    let id = format!("{:x}", member_id(&own_urls, &service.token));
    let mut discovery = Discovery {
        service,
        tls: tls(service)?,
        keys: Keys::of(&service.token, &id),
        attempts: 0,
        connection: None,
    };
    let cluster = discovery.join(&own).await?;
    tracing::info!(cluster, "discovery joined cluster successfully");
    config.initial_cluster = InitialCluster::parse(&cluster).map_err(DiscoveryError::Registered)?;
    Ok(config)
}

/// Files are read only if an endpoint asks for TLS.
fn tls(service: &DiscoveryService) -> Result<Option<ClientTls>, DiscoveryError> {
    if !service.endpoints.iter().any(|url| url.is_secure()) {
        return Ok(None);
    }
    let trust = Trust {
        ca: service.trusted_ca.clone(),
        pair: service.certificate.clone(),
        skip_verification: service.skip_verification,
    };
    Ok(Some(ClientTls::of_client(&trust, "--discovery-cacert")?))
}

struct Keys {
    size: String,
    members: String,
    own: String,
}

impl Keys {
    fn of(token: &str, id: &str) -> Self {
        // A path, as Go joins one.
        let mut parts: Vec<&str> = REGISTRY.split('/').skip(1).collect();
        for part in token.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let cluster = format!("/{}", parts.join("/"));
        let members = format!("{cluster}/members");
        Self {
            size: format!("{cluster}/_config/size"),
            own: format!("{members}/{id}"),
            members,
        }
    }

    /// All that begins like the members' keys.
    fn members_range(&self) -> (Bytes, Bytes) {
        let mut end = self.members.clone().into_bytes();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        (self.members.clone().into(), end.into())
    }
}

/// Who has registered, in that order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Registered(Vec<Member>);

#[derive(Debug, PartialEq, Eq)]
struct Member {
    key: String,
    /// `name=url,name=url`
    urls: String,
    create_revision: i64,
}

impl Registered {
    fn add(&mut self, record: &proto::mvccpb::KeyValue) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let (key, urls) = (text(&record.key), text(&record.value));
        if !urls.contains('=') {
            let why = "invalid peer info returned from discovery service";
            tracing::warn!(member_key = key, member_info = urls, "{why}");
            return;
        }
        if self.0.iter().any(|known| known.key == key) {
            let why = "found duplicate peer from discovery service";
            tracing::warn!(member_key = key, member_info = urls, "{why}");
            return;
        }
        tracing::info!(
            member_key = key,
            member_info = urls,
            "found peer from discovery service"
        );
        self.0.push(Member {
            key,
            urls,
            create_revision: record.create_revision,
        });
        self.0.sort_by_key(|member| member.create_revision);
    }

    /// More than there is room for may have registered at once: the first ones count.
    fn has_room_for(&self, own: &str, size: usize) -> bool {
        self.0.len() < size || self.0.iter().take(size).any(|member| member.key == own)
    }

    fn cluster(&self, size: usize) -> String {
        let first = self.0.iter().take(size);
        first
            .map(|member| member.urls.as_str())
            .collect::<Vec<_>>()
            .join(",")
    }
}

struct Discovery<'a> {
    service: &'a DiscoveryService,
    tls: Option<ClientTls>,
    keys: Keys,
    attempts: u32,
    /// Until something fails.
    connection: Option<Connection>,
}

#[derive(Clone)]
struct Connection {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Connection {
    fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

/// Why an attempt failed.
enum Failed {
    /// The next one may not.
    Attempt(String),
    ForGood(DiscoveryError),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Attempt(format!("{} ({:?})", status.message(), status.code()))
    }
}

impl Discovery<'_> {
    async fn join(&mut self, own: &str) -> Result<String, DiscoveryError> {
        self.check().await?;
        self.register(own).await?;
        loop {
            let (mut registered, size, revision) = self.check().await?;
            if registered.0.len() < size {
                let waited = self.wait(&mut registered, size, revision).await;
                if let Err(failed) = waited {
                    self.pause("wait for peers", failed).await?;
                    continue;
                }
            }
            return Ok(registered.cluster(size));
        }
    }

    /// Who is there, how many are to be, and as of when. Refused if there is no room.
    async fn check(&mut self) -> Result<(Registered, usize, i64), DiscoveryError> {
        loop {
            match self.look().await {
                Ok((registered, size, revision)) => {
                    self.attempts = 0;
                    if !registered.has_room_for(&self.keys.own, size) {
                        return Err(DiscoveryError::FullCluster);
                    }
                    return Ok((registered, size, revision));
                }
                Err(failed) => self.pause("cluster status check", failed).await?,
            }
        }
    }

    async fn look(&mut self) -> Result<(Registered, usize, i64), Failed> {
        let key = self.keys.size.clone();
        let answer = self.range(key.into(), Bytes::new()).await?;
        let Some(record) = answer.kvs.first() else {
            return Err(Failed::ForGood(DiscoveryError::SizeNotFound));
        };
        let size = str::from_utf8(&record.value).ok();
        let size = size.and_then(|text| text.parse().ok());
        let Some(size) = size.filter(|size| *size > 0) else {
            return Err(Failed::ForGood(DiscoveryError::BadSizeKey));
        };
        let (key, range_end) = self.keys.members_range();
        let answer = self.range(key, range_end).await?;
        let mut registered = Registered::default();
        answer.kvs.iter().for_each(|record| registered.add(record));
        let revision = answer.header.map_or(0, |header| header.revision);
        Ok((registered, size, revision))
    }

    async fn range(&mut self, key: Bytes, range_end: Bytes) -> Result<pb::RangeResponse, Failed> {
        let connection = self.connection().await?;
        let request = connection.ask(pb::RangeRequest {
            key,
            range_end,
            ..Default::default()
        });
        let mut client = KvClient::new(connection.channel.clone());
        self.within(client.range(request)).await
    }

    async fn register(&mut self, own: &str) -> Result<(), DiscoveryError> {
        while let Err(failed) = self.put(own).await {
            self.pause("register member itself", failed).await?;
        }
        self.attempts = 0;
        tracing::info!(
            member_key = self.keys.own,
            member_info = own,
            "register member itself successfully"
        );
        Ok(())
    }

    async fn put(&mut self, own: &str) -> Result<(), Failed> {
        let connection = self.connection().await?;
        let request = connection.ask(pb::PutRequest {
            key: self.keys.own.clone().into(),
            value: own.to_owned().into(),
            ..Default::default()
        });
        let mut client = KvClient::new(connection.channel.clone());
        self.within(client.put(request)).await.map(drop)
    }

    /// Until as many have registered as there are to be.
    async fn wait(
        &mut self,
        registered: &mut Registered,
        size: usize,
        revision: i64,
    ) -> Result<(), Failed> {
        tracing::info!(
            cluster_size = size,
            found_peers = registered.0.len(),
            "waiting for peers from discovery service"
        );
        let connection = self.connection().await?;
        let (key, range_end) = self.keys.members_range();
        let create = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: revision + 1,
            ..Default::default()
        };
        let create = pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
        };
        // The stream of requests stays open for as long as the watch is wanted.
        let (requests, outgoing) = tokio::sync::mpsc::channel(1);
        let _ = requests.try_send(create);
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let mut client = WatchClient::new(connection.channel.clone());
        let mut answers = self.within(client.watch(connection.ask(outgoing))).await?;
        while registered.0.len() < size {
            let Some(answer) = answers.message().await? else {
                return Err(Failed::Attempt("the watch ended".to_owned()));
            };
            if answer.canceled {
                return Err(Failed::Attempt(answer.cancel_reason));
            }
            let records = answer.events.iter().filter_map(|event| event.kv.as_ref());
            records.for_each(|record| registered.add(record));
        }
        tracing::info!(
            cluster_size = size,
            found_peers = registered.0.len(),
            "found all needed peers from discovery service"
        );
        Ok(())
    }

    async fn within<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Failed> {
        match timeout(self.service.request_timeout, call).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Failed::Attempt("context deadline exceeded".to_owned())),
        }
    }

    async fn connection(&mut self) -> Result<Connection, Failed> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let channel = self.dial().await?;
        let token = match &self.service.login {
            None => None,
            Some(login) => self.log_in(&channel, login).await?,
        };
        let connection = Connection { channel, token };
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    /// The first endpoint that takes a connection.
    async fn dial(&self) -> Result<Channel, Failed> {
        let mut tried = Vec::new();
        for url in &self.service.endpoints {
            let connector = Connector::new(url, self.tls.as_ref())
                .map_err(|error| Failed::ForGood(error.into()))?;
            let endpoint = Endpoint::from_shared(connector.origin());
            let endpoint = endpoint.map_err(|error| Failed::Attempt(error.to_string()))?;
            let mut endpoint = endpoint.connect_timeout(self.service.dial_timeout);
            if let Some(interval) = self.service.keepalive_interval {
                endpoint = endpoint
                    .http2_keep_alive_interval(interval.max(PING_INTERVAL_MIN))
                    .keep_alive_timeout(self.service.keepalive_timeout);
            }
            match endpoint.connect_with_connector(connector).await {
                Ok(channel) => return Ok(channel),
                Err(error) => tried.push(format!("{url}: {}", deepest(&error))),
            }
        }
        Err(Failed::Attempt(tried.join("; ")))
    }

    /// As etcd's client: nobody needs to log in where authentication is off.
    async fn log_in(
        &self,
        channel: &Channel,
        login: &Credentials,
    ) -> Result<Option<MetadataValue<Ascii>>, Failed> {
        let mut client = AuthClient::new(channel.clone());
        let credentials = pb::AuthenticateRequest {
            name: login.name.clone(),
            password: login.password.clone(),
        };
        let asked = timeout(self.service.dial_timeout, client.authenticate(credentials));
        let token = match asked.await {
            Ok(Ok(answer)) => answer.into_inner().token,
            Ok(Err(status)) if status.message() == AUTH_OFF => return Ok(None),
            Ok(Err(status)) if status.code() == tonic::Code::Unavailable => {
                return Err(status.into());
            }
            Ok(Err(status)) => {
                return Err(Failed::ForGood(DiscoveryError::Login(Box::new(status))));
            }
            Err(_) => return Err(Failed::Attempt("context deadline exceeded".to_owned())),
        };
        let mut token = MetadataValue::try_from(token)
            .map_err(|_| Failed::Attempt("the service's token is no text".to_owned()))?;
        token.set_sensitive(true);
        Ok(Some(token))
    }

    /// 2 s, 4 s, 8 s… 256 s, with a new connection after it.
    async fn pause(&mut self, step: &'static str, failed: Failed) -> Result<(), DiscoveryError> {
        let error = match failed {
            Failed::Attempt(error) => error,
            Failed::ForGood(error) => return Err(error),
        };
        self.connection = None;
        self.attempts = self.attempts.saturating_add(1).min(DOUBLINGS_MAX);
        let pause = Duration::from_secs(1 << self.attempts);
        tracing::warn!(
            reason = step,
            error,
            backoff = format!("{pause:?}"),
            "retry connecting to discovery service"
        );
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// tonic's own text is "transport error"; the reason is at the bottom.
fn deepest(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(below) => deepest(below),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::mvccpb::KeyValue;

    fn record(id: &str, value: &str, create_revision: i64) -> KeyValue {
        KeyValue {
            key: format!("/_etcd/registry/t/members/{id}").into(),
            value: value.to_owned().into(),
            create_revision,
            ..Default::default()
        }
    }

    #[test]
    fn keys_are_paths_as_etcd_joins_them() {
        let keys = Keys::of("t", "8e9e05c52164694d");
        assert_eq!(keys.size, "/_etcd/registry/t/_config/size");
        assert_eq!(keys.own, "/_etcd/registry/t/members/8e9e05c52164694d");
        let (from, to) = keys.members_range();
        assert_eq!(from, "/_etcd/registry/t/members");
        assert_eq!(to, "/_etcd/registry/t/membert");
        let odd = Keys::of("/a//./b/../c/", "1");
        assert_eq!(odd.members, "/_etcd/registry/a/c/members");
    }

    #[test]
    fn the_first_to_register_are_the_cluster() {
        let mut registered = Registered::default();
        registered.add(&record("c", " c=http://c:1,c=http://c:2\n", 9));
        registered.add(&record("a", "a=http://a:1", 5));
        registered.add(&record("a", "a=http://other:1", 10));
        registered.add(&record("x", "no address", 1));
        let own = |id: &str| format!("/_etcd/registry/t/members/{id}");
        assert_eq!(registered.0.len(), 2);
        assert!(registered.has_room_for(&own("b"), 3));
        assert!(!registered.has_room_for(&own("b"), 2));
        registered.add(&record("b", "b=http://b:1", 7));
        assert_eq!(registered.cluster(2), "a=http://a:1,b=http://b:1");
        assert_eq!(
            registered.cluster(3),
            "a=http://a:1,b=http://b:1,c=http://c:1,c=http://c:2"
        );
        assert!(registered.has_room_for(&own("b"), 2));
        assert!(!registered.has_room_for(&own("c"), 2));
    }
}
