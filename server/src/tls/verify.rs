//! Whom an end believes: chains, revocation, names.
//!
//! Promise: what the flags ask for is checked within the handshake, so that it holds for
//! everything that is spoken over a connection; a revoked certificate is refused wherever in the
//! chain it was shown.
//! Not known here: where certificates come from.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use super::TlsError;
use super::leaf::{self, Usage};
use super::pem::{Revoked, Trusted};
use crate::config::AllowedNames;

/// What must hold beside a chain to a CA that is believed.
#[derive(Debug)]
pub(super) struct Policy {
    revoked: Revoked,
    allowed: Allowed,
}

#[derive(Debug)]
enum Allowed {
    Anyone,
    CommonNames(Vec<String>),
    Hostnames(Vec<ServerName<'static>>),
}

/// etcd's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("transport: certificate serial {} revoked", hex::encode(.0))]
    Revoked(Vec<u8>),
    #[error(
        "client certificate authentication failed: common name {common_name:?}, \
         dns names {dns_names:?}, ip addresses {addresses:?}"
    )]
    NotAllowed {
        common_name: String,
        dns_names: Vec<String>,
        addresses: Vec<std::net::IpAddr>,
    },
    #[error("the certificate cannot be read")]
    Unreadable,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

impl Policy {
    pub(super) fn new(revoked: Revoked, allowed: &AllowedNames) -> Result<Self, TlsError> {
        let allowed = match allowed {
            AllowedNames::Anyone => Allowed::Anyone,
            AllowedNames::CommonNames(names) => Allowed::CommonNames(names.clone()),
            AllowedNames::Hostnames(hosts) => {
                let parse = |host: &String| {
                    ServerName::try_from(host.clone())
                        .map_err(|_| TlsError::Host { host: host.clone() })
                };
                Allowed::Hostnames(hosts.iter().map(parse).collect::<Result<_, _>>()?)
            }
        };
        Ok(Self { revoked, allowed })
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        for certificate in std::iter::once(end_entity).chain(intermediates) {
            let serial = leaf::serial(certificate).ok_or(Refusal::Unreadable)?;
            if self.revoked.has(&serial) {
                return Err(Refusal::Revoked(serial).into());
            }
        }
        let allowed = match &self.allowed {
            Allowed::Anyone => true,
            Allowed::CommonNames(names) => {
                let name = leaf::read(end_entity).and_then(|leaf| leaf.common_name);
                name.is_some_and(|name| names.contains(&name))
            }
            Allowed::Hostnames(hosts) => {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                let mut hosts = hosts.iter();
                hosts.any(|host| verify_server_name(&certificate, host).is_ok())
            }
        };
        if allowed {
            return Ok(());
        }
        let leaf = leaf::read(end_entity).ok_or(Refusal::Unreadable)?;
        Err(Refusal::NotAllowed {
            common_name: leaf.common_name.unwrap_or_default(),
            dns_names: leaf.dns_names,
            addresses: leaf.addresses,
        }
        .into())
    }
}

/// As for Go, a certificate that the operator named is good for whoever has its key, whether it
/// says that it is a CA or not; webpki takes none that does.
#[derive(Debug)]
struct Named(Vec<CertificateDer<'static>>);

impl Named {
    fn has(&self, usage: Usage, certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
        let mut named = self.0.iter();
        named.any(|one| one == certificate) && leaf::may_be(usage, certificate, now)
    }
}

/// What both kinds of verifiers ask of the handshake itself: that the other end has the
/// certificate's key, shown with an algorithm of the verifier's `provider`.
macro_rules! checks_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls12_signature(message, certificate, signed, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signed, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider
                .signature_verification_algorithms
                .supported_schemes()
        }
    };
}

/// Of clients. A certificate is always asked for.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
    named: Named,
    policy: Policy,
}

impl ClientVerifier {
    pub(super) fn new(
        trusted: Trusted,
        provider: Arc<CryptoProvider>,
        policy: Policy,
    ) -> Result<Arc<Self>, TlsError> {
        let chain = WebPkiClientVerifier::builder_with_provider(trusted.roots, provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(Arc::new(Self {
            chain,
            provider,
            named: Named(trusted.certificates),
            policy,
        }))
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = self
            .chain
            .verify_client_cert(end_entity, intermediates, now);
        if let Err(error) = chain
            && !self.named.has(Usage::Client, end_entity, now)
        {
            return Err(error);
        }
        self.policy.check(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    checks_signatures!();
}

/// Of servers that are dialled.
pub(super) struct ServerVerifier {
    /// `None`: any certificate will do, as long as the server has its key.
    chain: Option<(Arc<WebPkiServerVerifier>, Named, Policy)>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verifies = self.chain.is_some();
        f.debug_struct("ServerVerifier")
            .field("verifies", &verifies)
            .finish_non_exhaustive()
    }
}

impl ServerVerifier {
    pub(super) fn new(
        trusted: Trusted,
        provider: Arc<CryptoProvider>,
        policy: Policy,
    ) -> Result<Arc<Self>, TlsError> {
        let chain = WebPkiServerVerifier::builder_with_provider(trusted.roots, provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(Arc::new(Self {
            chain: Some((chain, Named(trusted.certificates), policy)),
            provider,
        }))
    }

    /// It only keeps out who listens, not who stands in the middle.
    pub(super) fn of_anyone(provider: Arc<CryptoProvider>) -> Arc<Self> {
        Arc::new(Self {
            chain: None,
            provider,
        })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some((chain, named, policy)) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified =
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if let Err(error) = verified {
            if !named.has(Usage::Server, end_entity, now) {
                return Err(error);
            }
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        }
        policy.check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    checks_signatures!();
}
