//! Certificates for tests, made on the spot, and clients that show them.
//!
//! Not known here: whom a server should believe.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A CA whose files lie in one directory.
pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
    pub certificate: PathBuf,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub serial: u64,
}

/// What a certificate says.
pub struct Says<'a> {
    pub common_name: &'a str,
    /// Host names and addresses.
    pub hosts: &'a [&'a str],
    /// Days from now.
    pub from: i64,
    pub until: i64,
}

impl<'a> Says<'a> {
    pub fn of(common_name: &'a str, hosts: &'a [&'a str]) -> Self {
        Self {
            common_name,
            hosts,
            from: -1,
            until: 30,
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a certificate is valid by the wall clock"
)]
fn days(from_now: i64) -> SystemTime {
    let by = DAY * u32::try_from(from_now.unsigned_abs()).expect("a test means no such time");
    if from_now < 0 {
        SystemTime::now() - by
    } else {
        SystemTime::now() + by
    }
}

fn named(common_name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("hosts of a test are hosts");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

impl Ca {
    pub fn new(directory: &Path, name: &str) -> Self {
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a CA signs itself");
        let certificate = directory.join(format!("{name}.pem"));
        std::fs::write(&certificate, issuer.pem()).expect("the directory can be written");
        Self {
            issuer,
            directory: directory.to_owned(),
            certificate,
        }
    }

    /// The CA's own certificate and key.
    pub fn itself(&self) -> Identity {
        let key = self.certificate.with_extension("key");
        std::fs::write(&key, self.issuer.key().serialize_pem())
            .expect("the directory can be written");
        Identity {
            certificate: self.certificate.clone(),
            key,
            serial: 0,
        }
    }

    /// Files `NAME.pem` and `NAME.key`; replaces them if they are there.
    pub fn issue(&self, name: &str, says: &Says<'_>) -> Identity {
        let serial: u64 = rand::random::<u64>() >> 1;
        let mut params = named(says.common_name, says.hosts);
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = days(says.from).into();
        params.not_after = days(says.until).into();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().expect("a key can be made");
        let signed = params
            .signed_by(&key, &self.issuer)
            .expect("a CA signs what a test wants");
        let identity = Identity {
            certificate: self.directory.join(format!("{name}.pem")),
            key: self.directory.join(format!("{name}.key")),
            serial,
        };
        std::fs::write(&identity.certificate, signed.pem()).expect("the directory can be written");
        std::fs::write(&identity.key, key.serialize_pem()).expect("the directory can be written");
        identity
    }

    /// A list of the revoked, in DER.
    pub fn revocation_list(&self, revoked: &[&Identity]) -> Vec<u8> {
        let revoked_certs = revoked.iter().map(|identity| RevokedCertParams {
            serial_number: SerialNumber::from(identity.serial),
            revocation_time: days(-1).into(),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: days(-1).into(),
            next_update: days(30).into(),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = list
            .signed_by(&self.issuer)
            .expect("a CA signs what a test wants");
        signed.der().as_ref().to_vec()
    }
}

/// A client's side of TLS.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
}

impl Tls {
    /// Believes `ca`, shows `own`.
    pub fn new(ca: &Ca, own: Option<&Identity>) -> Self {
        Self::of_versions(ca, own, rustls::ALL_VERSIONS)
    }

    pub fn of_versions(
        ca: &Ca,
        own: Option<&Identity>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(ca.issuer.der().clone())
            .expect("the CA's certificate is one");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("rustls speaks its versions")
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let chain = CertificateDer::pem_file_iter(&own.certificate)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .expect("an issued certificate can be read");
                let key = PrivateKeyDer::from_pem_file(&own.key).expect("and so can its key");
                builder
                    .with_client_auth_cert(chain, key)
                    .expect("and they belong together")
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self {
            config: Arc::new(config),
        }
    }

    /// Believes everybody.
    pub fn blind() -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .expect("rustls speaks its versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self {
            config: Arc::new(config),
        }
    }

    /// For HTTP/1.1.
    pub fn http1(mut self) -> Self {
        let mut config = (*self.config).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        self.config = Arc::new(config);
        self
    }

    /// A raw connection to a port of this machine.
    pub async fn open(&self, port: u16) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1").expect("an address is a server's name");
        TlsConnector::from(self.config.clone())
            .connect(name, stream)
            .await
    }

    pub async fn connect(
        &self,
        endpoint: &str,
        call_within: Duration,
    ) -> Result<Channel, tonic::transport::Error> {
        Endpoint::from_shared(endpoint.to_owned())?
            .connect_timeout(Duration::from_secs(5))
            .timeout(call_within)
            .connect_with_connector(Dial(self.clone()))
            .await
    }
}

struct Dial(Tls);

impl Service<http::Uri> for Dial {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let tls = self.0.clone();
        Box::pin(async move {
            let port = uri.port_u16().ok_or(io::ErrorKind::InvalidInput)?;
            tls.open(port).await.map(TokioIo::new)
        })
    }
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
