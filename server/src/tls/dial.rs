//! The dialling end: TCP or a unix socket, with TLS where the URL says so.
//!
//! Promise: each connection is made with the files in force when it is dialled; a URL that asks
//! for TLS is never dialled without.
//! Not known here: when to dial, and what is asked.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::accept::policy;
use super::pem::{Files, system_roots};
use super::source::{Refresh, Source};
use super::verify::ServerVerifier;
use super::{TlsError, self_signed, suites};
use crate::config::{
    AllowedNames, MemberUrl, OwnCertificate, PemPair, Place, TlsSettings, TlsVersion, TlsVersions,
};

/// What a dialler shows and whom it believes, as of now. Clones are one and the same.
#[derive(Debug, Clone)]
pub struct ClientTls {
    source: Arc<Source<ClientConfig>>,
}

/// How a member dials its peers.
#[derive(Debug, Clone, Default)]
pub struct Outbound {
    /// What it shows, and whom it believes.
    pub tls: Option<ClientTls>,
    /// Whose certificate peers show, in place of the host that their URL names.
    pub server_name: Option<String>,
    /// Where its connections come from.
    pub local_address: Option<IpAddr>,
}

/// What a client that is no member was told on its command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// `None`: the system's.
    pub ca: Option<PathBuf>,
    pub pair: Option<PemPair>,
    pub skip_verification: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{0} asks for TLS, and no flag says how")]
    Unset(MemberUrl),
    #[error("{0} has no host whose certificate could be verified")]
    Host(MemberUrl),
}

impl ClientTls {
    /// A member towards its peers.
    pub(super) fn of_member(settings: &TlsSettings) -> Result<Self, TlsError> {
        let (own, verifies) = match &settings.certificate {
            OwnCertificate::None => (None, true),
            OwnCertificate::Files(pair) => (Some(pair.clone()), true),
            // Its peers made theirs the same way: there is nothing to hold them against.
            OwnCertificate::SelfSigned(asked) => (Some(self_signed::files(asked)), false),
        };
        let pair = settings.dialling_certificate.clone().or(own);
        Self::load(pair, settings.clone(), verifies, "--peer-trusted-ca-file")
    }

    /// `ca_flag`: what names the CA bundle, for a complaint that there is none.
    pub fn of_client(trust: &Trust, ca_flag: &'static str) -> Result<Self, TlsError> {
        let settings = TlsSettings {
            certificate: OwnCertificate::None,
            auto_ignored: false,
            dialling_certificate: None,
            trusted_ca: trust.ca.clone(),
            client_cert_auth: false,
            crl: None,
            allowed: AllowedNames::Anyone,
            check_client_address: false,
            versions: TlsVersions {
                least: TlsVersion::V12,
                most: TlsVersion::V13,
            },
            cipher_suites: None,
        };
        Self::load(
            trust.pair.clone(),
            settings,
            !trust.skip_verification,
            ca_flag,
        )
    }

    fn load(
        pair: Option<PemPair>,
        settings: TlsSettings,
        verifies: bool,
        ca_flag: &'static str,
    ) -> Result<Self, TlsError> {
        let pairs = pair.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
        let mut paths: Vec<PathBuf> = pairs.cloned().collect();
        paths.extend(settings.trusted_ca.clone());
        paths.extend(settings.crl.clone());
        let make = move |files: &Files| {
            let provider = suites::provider_of(&settings);
            let verifier = if verifies {
                let trusted = match &settings.trusted_ca {
                    Some(path) => files.trusted(path)?,
                    None => system_roots(ca_flag)?,
                };
                ServerVerifier::new(trusted, provider.clone(), policy(&settings, files)?)?
            } else {
                ServerVerifier::of_anyone(provider.clone())
            };
            let builder = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&suites::versions(settings.versions))?
                .dangerous()
                .with_custom_certificate_verifier(verifier);
            let mut config = match &pair {
                None => builder.with_no_client_auth(),
                Some(pair) => {
                    let read = files.pair(pair)?;
                    builder
                        .with_client_auth_cert(read.chain, read.key)
                        .map_err(|source| TlsError::Pair {
                            certificate: pair.certificate.clone(),
                            key: pair.key.clone(),
                            source: Box::new(source),
                        })?
                }
            };
            config.alpn_protocols = vec![b"h2".to_vec()];
            config.resumption = Resumption::disabled();
            Ok(config)
        };
        let source = Source::load("dialling with TLS", paths, make)?;
        Ok(Self { source })
    }

    pub(super) fn source(&self) -> Arc<dyn Refresh> {
        self.source.clone()
    }
}

/// Dials one URL, as tonic wants it.
#[derive(Debug, Clone)]
pub struct Connector {
    place: Place,
    tls: Option<(ClientTls, ServerName<'static>)>,
    local_address: Option<IpAddr>,
}

impl Connector {
    /// Of a member towards a peer.
    pub fn to_peer(url: &MemberUrl, way: &Outbound) -> Result<Self, DialError> {
        let mut connector = Self::new(url, way.tls.as_ref())?;
        connector.local_address = way.local_address;
        if let (Some((_, name)), Some(other)) = (&mut connector.tls, &way.server_name) {
            let other = ServerName::try_from(other.clone());
            *name = other.map_err(|_| DialError::Host(url.clone()))?;
        }
        Ok(connector)
    }

    pub fn new(url: &MemberUrl, tls: Option<&ClientTls>) -> Result<Self, DialError> {
        let tls = if url.is_secure() {
            let tls = tls.ok_or_else(|| DialError::Unset(url.clone()))?;
            let name = server_name(url.place()).ok_or_else(|| DialError::Host(url.clone()))?;
            Some((tls.clone(), name))
        } else {
            None
        };
        Ok(Self {
            place: url.place().clone(),
            tls,
            local_address: None,
        })
    }

    /// What requests carry as their authority.
    pub fn origin(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        match &self.place {
            Place::Tcp { host, port } if host.contains(':') => {
                format!("{scheme}://[{host}]:{port}")
            }
            Place::Tcp { host, port } => format!("{scheme}://{host}:{port}"),
            Place::Unix(_) => format!("{scheme}://localhost"),
        }
    }

    async fn connect(self) -> io::Result<Box<dyn Stream>> {
        match &self.place {
            Place::Tcp { host, port } => {
                let stream = match self.local_address {
                    None => TcpStream::connect((host.as_str(), *port)).await?,
                    Some(local) => connect_from(local, host, *port).await?,
                };
                stream.set_nodelay(true)?;
                self.secure(stream).await
            }
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                self.secure(stream).await
            }
        }
    }

    async fn secure<S: Stream + 'static>(&self, stream: S) -> io::Result<Box<dyn Stream>> {
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some((tls, name)) => {
                let connector = TlsConnector::from(tls.source.current());
                Ok(Box::new(connector.connect(name.clone(), stream).await?))
            }
        }
    }
}

/// To the first address of the host's, of the local address's kind, that answers.
async fn connect_from(local: IpAddr, host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let remotes = tokio::net::lookup_host((host, port)).await?;
    for remote in remotes.filter(|remote| remote.is_ipv4() == local.is_ipv4()) {
        let socket = if local.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        socket.bind(SocketAddr::new(local, 0))?;
        match socket.connect(remote).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// A host; for a socket its file's name up to a colon, as in etcd.
fn server_name(place: &Place) -> Option<ServerName<'static>> {
    let name = match place {
        Place::Tcp { host, .. } => host.clone(),
        Place::Unix(path) => {
            let file = path.file_name()?.to_str()?;
            file.split(':').next()?.to_owned()
        }
    };
    ServerName::try_from(name).ok()
}

/// What a connection is made of.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move { dial.connect().await.map(TokioIo::new) })
    }
}
