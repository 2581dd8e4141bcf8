//! The listening end: from a stream to a TLS stream and who is behind it.
//!
//! Promise: a stream that is handed on was opened under the files in force at its handshake; a
//! client's name is told only of a certificate that was verified.
//! Not known here: sockets, deadlines, what is spoken inside.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{Acceptor, NoServerSessionStorage};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::address::{self, AddressMismatch};
use super::pem::{Files, Revoked, system_roots};
use super::source::{Refresh, Source};
use super::verify::{ClientVerifier, Policy};
use super::{TlsError, leaf, self_signed, suites};
use crate::config::{OwnCertificate, PemPair, TlsSettings};

/// In the order of preference.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// How long a refused client gets to read why, and how much of what it still says is listened to.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
const LEFT_BYTES_MAX: u64 = 64 * 1024;

/// What a listener shows and whom it believes, as of now. Clones are one and the same.
#[derive(Debug, Clone)]
pub struct ServerTls {
    source: Arc<Source<ServerConfig>>,
    check_client_address: bool,
    /// As in etcd a certificate says who asks only where the operator wants it to (`--client-cert-auth`), not wherever
    /// one must be shown.
    names_clients: bool,
}

/// Who is behind a connection: its client showed a certificate that was verified and that says who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsClient {
    pub common_name: Option<String>,
}

/// A handshake that went well.
#[derive(Debug)]
pub struct Secured<S> {
    pub stream: TlsStream<S>,
    /// `None`: no certificate was asked for, or it does not say who asks.
    pub client: Option<TlsClient>,
}

/// Why there is no connection, for the log.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct HandshakeError {
    /// The server that the client wanted, as far as it said so.
    pub server_name: Option<String>,
    pub reason: Reason,
}

#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// The client went away; scanners and probes do.
    #[error("{0}")]
    Io(io::Error),
    #[error("{}", say(.0))]
    Tls(rustls::Error),
    #[error("{0}")]
    Address(#[from] AddressMismatch),
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(error) => Self::Tls(error),
            Err(error) => Self::Io(error),
        }
    }
}

impl ServerTls {
    /// Of settings that have a certificate.
    pub fn load(settings: &TlsSettings) -> Result<Self, TlsError> {
        let pair = match &settings.certificate {
            OwnCertificate::Files(pair) => pair.clone(),
            OwnCertificate::SelfSigned(asked) => self_signed::files(asked),
            OwnCertificate::None => return Err(rustls::Error::NoCertificatesPresented.into()),
        };
        let mut paths = vec![pair.certificate.clone(), pair.key.clone()];
        paths.extend(settings.trusted_ca.clone());
        paths.extend(settings.crl.clone());
        let check_client_address = settings.check_client_address;
        let names_clients = settings.client_cert_auth;
        let settings = settings.clone();
        let make = move |files: &Files| config(&settings, &pair, files);
        Ok(Self {
            source: Source::load("a TLS listener", paths, make)?,
            check_client_address,
            names_clients,
        })
    }

    pub(super) fn source(&self) -> Arc<dyn Refresh> {
        self.source.clone()
    }

    /// `remote`: where the client comes from, unless it is this machine's file system.
    pub async fn accept<S>(
        &self,
        stream: S,
        remote: Option<IpAddr>,
    ) -> Result<Secured<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let refused = |server_name: Option<String>| {
            move |reason: Reason| HandshakeError {
                server_name,
                reason,
            }
        };
        let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let hello = match (&mut acceptor).await {
            Ok(hello) => hello,
            Err(error) => {
                if let Some(stream) = acceptor.take_io() {
                    take_leave(stream).await;
                }
                return Err(refused(None)(error.into()));
            }
        };
        let server_name = hello.client_hello().server_name().map(str::to_owned);
        let handshake = hello.into_stream(self.source.current()).into_fallible();
        let stream = match handshake.await {
            Ok(stream) => stream,
            Err((error, stream)) => {
                take_leave(stream).await;
                return Err(refused(server_name)(error.into()));
            }
        };
        let certificates = stream.get_ref().1.peer_certificates();
        let shown = certificates.and_then(|chain| leaf::read(chain.first()?));
        if let (true, Some(shown), Some(remote)) = (self.check_client_address, &shown, remote) {
            address::check(shown, remote)
                .await
                .map_err(|error| refused(server_name)(error.into()))?;
        }
        let client = shown.filter(|_| self.names_clients).map(|leaf| TlsClient {
            common_name: leaf.common_name,
        });
        Ok(Secured { stream, client })
    }
}

/// Closes so that the other end gets to read why: with bytes of it unread, the system would reset
/// the connection and take back what was sent.
pub async fn take_leave<S>(mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let leave = async {
        stream.shutdown().await?;
        let mut left = (&mut stream).take(LEFT_BYTES_MAX);
        tokio::io::copy(&mut left, &mut tokio::io::sink()).await
    };
    // Whether it was read is the other end's affair.
    let _ = tokio::time::timeout(LEAVE_TIMEOUT, leave).await;
}

/// Go's words for what operators look for in a log; else rustls' own.
fn say(error: &rustls::Error) -> String {
    use rustls::CertificateError as Certificate;
    let failed = |why: &dyn std::fmt::Display| format!("tls: failed to verify certificate: {why}");
    match error {
        rustls::Error::NoCertificatesPresented => {
            "tls: client didn't provide a certificate".to_owned()
        }
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer) => {
            failed(&"x509: certificate signed by unknown authority")
        }
        rustls::Error::InvalidCertificate(
            error @ (Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. }),
        ) => failed(&format_args!(
            "x509: certificate has expired or is not yet valid: {error}"
        )),
        rustls::Error::InvalidCertificate(Certificate::Other(refusal)) => refusal.0.to_string(),
        rustls::Error::AlertReceived(alert) => format!("remote error: tls: {alert:?}"),
        _ => error.to_string(),
    }
}

fn config(settings: &TlsSettings, pair: &PemPair, files: &Files) -> Result<ServerConfig, TlsError> {
    let provider = suites::provider_of(settings);
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&suites::versions(settings.versions))?;
    let asks = settings.asks_for_client_certificates();
    let builder = if asks {
        let trusted = match &settings.trusted_ca {
            Some(path) => files.trusted(path)?,
            None => system_roots("--trusted-ca-file")?,
        };
        let policy = policy(settings, files)?;
        builder.with_client_cert_verifier(ClientVerifier::new(trusted, provider, policy)?)
    } else {
        builder.with_no_client_auth()
    };
    let read = files.pair(pair)?;
    let mut config = builder
        .with_single_cert(read.chain, read.key)
        .map_err(|source| TlsError::Pair {
            certificate: pair.certificate.clone(),
            key: pair.key.clone(),
            source: Box::new(source),
        })?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    if asks {
        // A resumed session would not look at a certificate again, nor at what revoked it since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

pub(super) fn policy(settings: &TlsSettings, files: &Files) -> Result<Policy, TlsError> {
    let revoked = match &settings.crl {
        Some(path) => files.revoked(path)?,
        None => Revoked::default(),
    };
    Policy::new(revoked, &settings.allowed)
}
