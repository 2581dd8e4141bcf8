//! TLS: what endpoints show, whom they believe, and how files that change come into force.
//!
//! Promise: a listener or a dialler exists only once everything that its flags name was read and
//! understood; files that change are in force within [`LOOK_INTERVAL`] without a connection
//! noticing; a change that cannot be used leaves what was there, and is logged once.
//! Not known here: flags, HTTP, what a common name may do.

mod accept;
mod address;
mod dial;
mod leaf;
mod pem;
mod self_signed;
mod source;
mod suites;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, MemberUrl, OwnCertificate, TlsSettings};

pub use accept::{HandshakeError, Reason, Secured, ServerTls, TlsClient, take_leave};
pub use address::AddressMismatch;
pub use dial::{ClientTls, Connector, DialError, Outbound, Trust};

/// How often files are looked at.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Why files cannot be used. One line for a person.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} is not PEM: {source}", path.display())]
    Pem {
        path: PathBuf,
        source: rustls::pki_types::pem::Error,
    },
    #[error("{} holds no certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} holds no private key", path.display())]
    NoKey { path: PathBuf },
    #[error("{} holds a certificate that cannot be used: {source}", path.display())]
    Certificate {
        path: PathBuf,
        source: Box<rustls::Error>,
    },
    #[error("{} and {} cannot be used together: {source}", certificate.display(), key.display())]
    Pair {
        certificate: PathBuf,
        key: PathBuf,
        source: Box<rustls::Error>,
    },
    #[error("{} holds no certificate revocation list", path.display())]
    Crl { path: PathBuf },
    #[error("no certificate of a CA was given, and the system has none: name one with {flag}")]
    NoRoots { flag: &'static str },
    #[error("{host:?} is neither a host name nor an IP address")]
    Host { host: String },
    #[error("cannot make a certificate in {}: {source}", path.display())]
    Make { path: PathBuf, source: rcgen::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Of a member. What is `None` was not asked for.
#[derive(Debug, Clone)]
pub struct MemberTls {
    pub clients: Option<ServerTls>,
    pub peers: Option<ServerTls>,
    pub to_peers: Outbound,
}

impl MemberTls {
    /// Reads what the endpoints in use need; makes certificates where flags ask for it. The data
    /// directory must exist.
    pub fn load(config: &Config) -> Result<Self, TlsError> {
        let in_use = |urls: &[MemberUrl]| urls.iter().any(|url| url.is_secure());
        for settings in [&config.client_tls, &config.peer_tls] {
            if let OwnCertificate::SelfSigned(asked) = &settings.certificate {
                self_signed::ensure(asked)?;
            }
        }
        let peers_in_use = in_use(&config.listen_peer_urls)
            || in_use(&config.advertise_peer_urls)
            || config
                .initial_cluster
                .members()
                .any(|(_, urls)| in_use(urls));
        let dials = peers_in_use || has_certificate(&config.peer_tls);
        tell("starting with peer TLS", &config.peer_tls);
        tell("starting with client TLS", &config.client_tls);
        let for_clients = [
            &config.listen_client_urls[..],
            &config.listen_client_http_urls,
            &config.listen_metrics_urls,
        ]
        .concat();
        let listens = |urls: &[MemberUrl], settings| {
            in_use(urls).then(|| ServerTls::load(settings)).transpose()
        };
        Ok(Self {
            clients: listens(&for_clients, &config.client_tls)?,
            peers: listens(&config.listen_peer_urls, &config.peer_tls)?,
            to_peers: Outbound {
                tls: dials
                    .then(|| ClientTls::of_member(&config.peer_tls))
                    .transpose()?,
                // As etcd: who believes the system's authorities believes them for the domain.
                server_name: config
                    .discovery_srv
                    .as_ref()
                    .filter(|_| config.peer_tls.trusted_ca.is_none())
                    .map(|srv| srv.domain.clone()),
                local_address: config.peer_local_address(),
            },
        })
    }

    /// Looks at the files until the guard is dropped.
    pub fn keep_fresh(&self) -> Fresh {
        let mut sources: Vec<Arc<dyn source::Refresh>> = Vec::new();
        sources.extend(self.clients.iter().map(ServerTls::source));
        sources.extend(self.peers.iter().map(ServerTls::source));
        sources.extend(self.to_peers.tls.iter().map(ClientTls::source));
        Fresh(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(LOOK_INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !sources.is_empty() {
                ticks.tick().await;
                for source in sources.clone() {
                    // Files may lie on a disk that answers slowly.
                    let _ = tokio::task::spawn_blocking(move || source.refresh()).await;
                }
            }
        }))
    }
}

/// Flags that protect URLs with TLS say nothing about those without: etcd's warnings, in its words.
pub fn warn_of_unused(config: &Config) {
    let plain = |urls: &'_ [MemberUrl]| -> Vec<String> {
        let plain = urls.iter().filter(|url| !url.is_secure());
        plain.map(ToString::to_string).collect()
    };
    for url in plain(&config.listen_peer_urls) {
        if has_certificate(&config.peer_tls) {
            tracing::warn!(
                peer_url = url,
                "scheme is HTTP while key and cert files are present; ignoring key and cert files"
            );
        }
        if config.peer_tls.asks_for_client_certificates() {
            tracing::warn!(
                peer_url = url,
                "scheme is HTTP while --peer-client-cert-auth is enabled; ignoring client cert \
                 auth for this URL"
            );
        }
    }
    let client_urls = [
        &config.listen_client_urls[..],
        &config.listen_client_http_urls,
    ];
    for url in plain(&client_urls.concat()) {
        if has_certificate(&config.client_tls) {
            tracing::warn!(
                client_url = url,
                "scheme is http or unix while key and cert files are present; ignoring key and \
                 cert files"
            );
        }
        if config.client_tls.asks_for_client_certificates() {
            tracing::warn!(
                client_url = url,
                "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert \
                 auth for this URL"
            );
        }
    }
    if config.client_tls.auto_ignored {
        tracing::warn!("ignoring client auto TLS since certs given");
    }
    if config.peer_tls.auto_ignored {
        tracing::warn!("ignoring peer auto TLS since certs given");
    }
}

fn tell(what: &'static str, settings: &TlsSettings) {
    let (certificate, key) = match &settings.certificate {
        OwnCertificate::None => return,
        OwnCertificate::Files(pair) => (pair.certificate.clone(), pair.key.clone()),
        OwnCertificate::SelfSigned(asked) => {
            let pair = self_signed::files(asked);
            (pair.certificate, pair.key)
        }
    };
    let shown = |path: &Option<PathBuf>| {
        path.as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default()
    };
    tracing::info!(
        cert = %certificate.display(),
        key = %key.display(),
        trusted_ca = shown(&settings.trusted_ca),
        client_cert_auth = settings.client_cert_auth,
        crl_file = shown(&settings.crl),
        "{what}"
    );
}

fn has_certificate(settings: &TlsSettings) -> bool {
    settings.certificate != OwnCertificate::None
}

/// Keeps files in force for as long as it lives.
#[derive(Debug)]
#[must_use = "files are looked at only while it lives"]
pub struct Fresh(tokio::task::JoinHandle<()>);

impl Drop for Fresh {
    fn drop(&mut self) {
        self.0.abort();
    }
}
