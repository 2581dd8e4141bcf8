//! `--discovery-srv`: the initial cluster out of DNS.
//!
//! Promise: etcd's rules. `_etcd-server-ssl._tcp` names members with TLS, `_etcd-server._tcp` those
//! without; both count. This member's record is the one that leads to an address that it advertises;
//! the others get numbers as names until they publish theirs. It is asked only before a member has
//! data.
//! Not known here: what becomes of the cluster.
//!
//! Source: etcd 3.7.1, `client/pkg/srv/srv.go` and `server/embed/config.go`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::RData;

use crate::config::{ClusterError, Config, InitialCluster, MemberUrl, Place, SrvDiscovery};

#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    #[error("--discovery-srv: the system's name servers cannot be read: {0}")]
    Resolver(Box<NetError>),
    #[error("--discovery-srv: error querying DNS SRV records for _{service}: {source}")]
    Srv {
        service: String,
        source: Box<NetError>,
    },
    #[error("--discovery-srv: {host} has no address: {source}")]
    Host { host: String, source: Box<NetError> },
    #[error("--discovery-srv: there is no usable SRV record for _{service}")]
    NoRecord { service: String },
    #[error(
        "--discovery-srv: bootstrap at {found} from DNS for {service} has scheme mismatch with \
         expected peer {expected}"
    )]
    Scheme {
        found: String,
        service: String,
        expected: MemberUrl,
    },
    #[error("cannot find local etcd member {name:?} in SRV records")]
    NoLocalMember { name: String },
    #[error("--discovery-srv: {0}")]
    Cluster(#[from] ClusterError),
    #[error("discovery failed: {0}")]
    Tls(#[from] crate::tls::TlsError),
    #[error("discovery failed: {0}")]
    Dial(#[from] crate::tls::DialError),
    #[error("discovery failed: cannot log in: {}", .0.message())]
    Login(Box<tonic::Status>),
    #[error("discovery: size key is bad")]
    BadSizeKey,
    #[error("discovery: size key not found")]
    SizeNotFound,
    #[error(
        "discovery: cluster is full: do not reuse a discovery token; generate a new one to \
         bootstrap a cluster"
    )]
    FullCluster,
    #[error("discovery: invalid peer URL: {0}")]
    Registered(ClusterError),
    #[error("discovery URL should not be set when joining existing initial cluster")]
    Joining,
}

/// Sets the initial cluster that DNS tells of. An own URL that was advertised as another way to
/// the same address takes the text that the other members see, since ids are made of it.
pub(super) async fn by_dns(
    mut config: Config,
    srv: &SrvDiscovery,
) -> Result<Config, DiscoveryError> {
    let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
    let dns = Dns(resolver.map_err(|error| DiscoveryError::Resolver(Box::new(error)))?);
    let cluster = discover(&dns, &config, srv).await?;
    let own = cluster
        .urls_of(&config.name)
        .map_err(|_| DiscoveryError::NoLocalMember {
            name: config.name.clone(),
        })?;
    if own.len() == config.advertise_peer_urls.len() {
        config.advertise_peer_urls = own.to_vec();
    }
    config.initial_cluster = cluster;
    Ok(config)
}

async fn discover(
    dns: &Dns,
    config: &Config,
    srv: &SrvDiscovery,
) -> Result<InitialCluster, DiscoveryError> {
    let suffix = srv.service.as_ref().map(|name| format!("-{name}"));
    let suffix = suffix.unwrap_or_default();
    let (mut pairs, mut failures) = (Vec::new(), Vec::new());
    for (scheme, service) in [("https", "etcd-server-ssl"), ("http", "etcd-server")] {
        let service = format!("{service}{suffix}");
        match members(dns, config, &srv.domain, scheme, &service).await {
            Ok(found) => {
                tracing::info!(
                    service_scheme = scheme,
                    service_name = service,
                    found_cluster = found.join(","),
                    "got bootstrap from DNS for etcd-server"
                );
                pairs.extend(found);
            }
            Err(error) => {
                tracing::warn!(%error, "failed to resolve during SRV discovery");
                failures.push(error);
            }
        }
    }
    match (pairs.is_empty(), failures.into_iter().next_back()) {
        (true, Some(error)) => Err(error),
        _ => Ok(InitialCluster::parse(&pairs.join(","))?),
    }
}

/// `name=url` for every record of one service. A record that is of no use is passed over, unless
/// none is left.
async fn members(
    dns: &Dns,
    config: &Config,
    domain: &str,
    scheme: &str,
    service: &str,
) -> Result<Vec<String>, DiscoveryError> {
    let mut own = Vec::new();
    for url in &config.advertise_peer_urls {
        if let Place::Tcp { host, port } = url.place() {
            own.push((url, dns.addresses(host, *port).await?));
        }
    }
    let (mut pairs, mut failure, mut unnamed) = (Vec::new(), None, 0);
    for (host, port) in dns.services(service, domain).await? {
        let addresses = match dns.addresses(&host, port).await {
            Ok(addresses) => addresses,
            Err(error) => {
                failure = Some(error);
                continue;
            }
        };
        let short = host.trim_end_matches('.');
        let found = format!("{scheme}://{short}:{port}");
        let ours = own.iter().find(|(_, at)| !at.is_disjoint(&addresses));
        match ours {
            Some((url, _)) if url.is_secure() != (scheme == "https") => {
                failure = Some(DiscoveryError::Scheme {
                    found,
                    service: service.to_owned(),
                    expected: (*url).clone(),
                });
            }
            Some(_) => pairs.push(format!("{}={found}", config.name)),
            None => {
                pairs.push(format!("{unnamed}={found}"));
                unnamed += 1;
            }
        }
    }
    if !pairs.is_empty() {
        return Ok(pairs);
    }
    let service = service.to_owned();
    Err(failure.unwrap_or(DiscoveryError::NoRecord { service }))
}

struct Dns(TokioResolver);

impl Dns {
    /// Hosts and ports, the most wanted first.
    async fn services(
        &self,
        service: &str,
        domain: &str,
    ) -> Result<Vec<(String, u16)>, DiscoveryError> {
        // With the dot the system's search domains stay out of it.
        let name = format!("_{service}._tcp.{}.", domain.trim_end_matches('.'));
        let lookup = self.0.srv_lookup(name).await;
        let lookup = lookup.map_err(|error| DiscoveryError::Srv {
            service: service.to_owned(),
            source: Box::new(error),
        })?;
        let mut records: Vec<_> = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some((srv.priority, srv.target.to_ascii(), srv.port)),
                _ => None,
            })
            .collect();
        records.sort();
        let places = records.into_iter().map(|(_, host, port)| (host, port));
        Ok(places.collect())
    }

    async fn addresses(
        &self,
        host: &str,
        port: u16,
    ) -> Result<BTreeSet<SocketAddr>, DiscoveryError> {
        let found = self.0.lookup_ip(host).await;
        let found = found.map_err(|error| DiscoveryError::Host {
            host: host.to_owned(),
            source: Box::new(error),
        })?;
        Ok(found.iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{IpAddr, Ipv4Addr};

    use hickory_resolver::Resolver;
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::rdata::{A, SRV};
    use hickory_resolver::proto::rr::{Name, Record, RecordType};
    use tokio::net::UdpSocket;

    use super::*;
    use crate::config::Asked;

    type Zone = BTreeMap<(&'static str, RecordType), Vec<RData>>;

    fn a(last: u8) -> RData {
        RData::A(A(Ipv4Addr::new(10, 0, 0, last)))
    }

    fn srv(priority: u16, port: u16, target: &str) -> RData {
        RData::SRV(SRV::new(
            priority,
            0,
            port,
            Name::from_ascii(target).unwrap(),
        ))
    }

    /// A name server that knows these records, for as long as the test's runtime lives.
    async fn serving(zone: Zone) -> Dns {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let asked = query.queries[0].clone();
                let name = asked.name().to_ascii();
                let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
                answer.add_query(asked.clone());
                let known = zone.iter().find(|((known, kind), _)| {
                    known.eq_ignore_ascii_case(&name) && *kind == asked.query_type()
                });
                match known {
                    Some((_, data)) => {
                        for data in data {
                            let record = Record::from_rdata(asked.name().clone(), 60, data.clone());
                            answer.add_answer(record);
                        }
                    }
                    None => answer.metadata.response_code = ResponseCode::NXDomain,
                }
                let bytes = answer.to_vec().unwrap();
                socket.send_to(&bytes, from).await.unwrap();
            }
        });
        let mut connection = ConnectionConfig::udp();
        connection.port = port;
        let mut server = NameServerConfig::udp(IpAddr::V4(Ipv4Addr::LOCALHOST));
        server.connections = vec![connection];
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        Dns(builder.build().unwrap())
    }

    fn config(arguments: &[&str]) -> Config {
        let arguments: Vec<_> = arguments.iter().map(|&text| text.to_owned()).collect();
        match Config::ask(&arguments, &[]).unwrap() {
            Asked::Serve(config) => *config,
            other => panic!("{other:?}"),
        }
    }

    async fn found(zone: Zone, arguments: &[&str]) -> Result<Vec<String>, String> {
        let config = config(arguments);
        let srv = config.discovery_srv.clone().unwrap();
        let dns = serving(zone).await;
        let cluster = discover(&dns, &config, &srv).await;
        let cluster = cluster.map_err(|error| error.to_string())?;
        let pairs = cluster.members();
        Ok(pairs
            .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
            .collect())
    }

    fn hosts() -> Zone {
        Zone::from([
            (("a.example.com.", RecordType::A), vec![a(1)]),
            (("b.example.com.", RecordType::A), vec![a(2)]),
            (("c.example.com.", RecordType::A), vec![a(3)]),
        ])
    }

    const PLAIN: &str = "_etcd-server._tcp.example.com.";
    const SECURE: &str = "_etcd-server-ssl._tcp.example.com.";

    #[tokio::test]
    async fn every_record_is_a_member_and_the_own_one_is_known_by_its_address() {
        let mut zone = hosts();
        let records = vec![
            srv(1, 2380, "b.example.com."),
            srv(0, 2380, "c.example.com."),
            srv(1, 2380, "a.example.com."),
        ];
        zone.insert((PLAIN, RecordType::SRV), records);
        for advertised in ["http://b.example.com:2380", "http://10.0.0.2:2380"] {
            let advertise = format!("--initial-advertise-peer-urls={advertised}");
            let arguments = ["--name=m", &advertise, "--discovery-srv=example.com"];
            assert_eq!(
                found(zone.clone(), &arguments).await.unwrap(),
                [
                    "0=http://c.example.com:2380",
                    "1=http://a.example.com:2380",
                    "m=http://b.example.com:2380"
                ]
            );
        }
    }

    #[tokio::test]
    async fn a_service_may_have_a_suffix_and_records_with_tls_count_too() {
        let mut zone = hosts();
        zone.insert(
            ("_etcd-server-ssl-blue._tcp.example.com.", RecordType::SRV),
            vec![
                srv(0, 2380, "a.example.com."),
                srv(0, 2380, "gone.example.com."),
            ],
        );
        let arguments = [
            "--name=m",
            "--initial-advertise-peer-urls=https://a.example.com:2380",
            "--discovery-srv=example.com",
            "--discovery-srv-name=blue",
        ];
        assert_eq!(
            found(zone, &arguments).await.unwrap(),
            ["m=https://a.example.com:2380"]
        );
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_said_in_etcds_words() {
        let arguments = [
            "--name=m",
            "--initial-advertise-peer-urls=http://a.example.com:2380",
            "--discovery-srv=example.com",
        ];
        let error = found(hosts(), &arguments).await.unwrap_err();
        assert!(
            error.contains("error querying DNS SRV records for _etcd-server: "),
            "{error}"
        );
        let mut zone = hosts();
        zone.insert(
            (SECURE, RecordType::SRV),
            vec![srv(0, 2380, "a.example.com.")],
        );
        zone.insert(
            (PLAIN, RecordType::SRV),
            vec![srv(0, 1, "gone.example.com.")],
        );
        let error = found(zone, &arguments).await.unwrap_err();
        assert!(
            error.contains("gone.example.com. has no address"),
            "{error}"
        );
    }
}
