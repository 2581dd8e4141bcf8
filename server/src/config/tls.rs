//! What the security flags ask for: which certificates are shown, and which are believed.
//!
//! Promise: rules and texts are etcd's, except where etcd takes a flag that protects and forgets
//! it: those are refused by name.
//! Not known here: what is in the files, and rustls.

mod settle;

use std::path::PathBuf;

use super::url::MemberUrl;
pub(super) use settle::{Listens, settle};

/// Of one kind of endpoint, for clients or for peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    pub certificate: OwnCertificate,
    /// One was to be made, and files were given as well.
    pub auto_ignored: bool,
    /// Shown when dialling, in place of the listeners' certificate.
    pub dialling_certificate: Option<PemPair>,
    /// `None`: the system's certificates are believed.
    pub trusted_ca: Option<PathBuf>,
    pub client_cert_auth: bool,
    pub crl: Option<PathBuf>,
    pub allowed: AllowedNames,
    /// Whether a client whose certificate names hosts must come from one of them.
    pub check_client_address: bool,
    pub versions: TlsVersions,
    /// For TLS 1.2; those of TLS 1.3 cannot be chosen. `None`: all that are safe.
    pub cipher_suites: Option<Vec<CipherSuite>>,
}

/// What a listener shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnCertificate {
    None,
    Files(PemPair),
    /// Made at the first start.
    SelfSigned(SelfSigned),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PemPair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfSigned {
    /// Holds `cert.pem` and `key.pem`.
    pub directory: PathBuf,
    /// Host names and addresses.
    pub hosts: Vec<String>,
    pub years: u32,
}

/// Whose certificates are good enough, once they are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedNames {
    Anyone,
    CommonNames(Vec<String>),
    Hostnames(Vec<String>),
}

/// Both ends inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsVersions {
    pub least: TlsVersion,
    pub most: TlsVersion,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V12,
    V13,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CipherSuite {
    EcdheEcdsaAes128Gcm,
    EcdheEcdsaAes256Gcm,
    EcdheEcdsaChacha20,
    EcdheRsaAes128Gcm,
    EcdheRsaAes256Gcm,
    EcdheRsaChacha20,
    /// One of TLS 1.3, all of which are always offered, as Go does.
    OfTls13,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsMistake {
    #[error("KeyFile and CertFile must both be present[key: {key}, cert: {certificate}]")]
    HalfPair { key: String, certificate: String },
    #[error(
        "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
    )]
    ClientPairUnset { url: MemberUrl },
    #[error(
        "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url"
    )]
    MetricsPairUnset,
    #[error("cannot listen on TLS for {url}: KeyFile and CertFile are not presented")]
    PeerPairUnset { url: MemberUrl },
    #[error(
        "AllowedCNs and AllowedHostnames are mutually exclusive (cns={names:?}, hostnames={hostnames:?})"
    )]
    TwoKindsOfNames {
        names: Vec<String>,
        hostnames: Vec<String>,
    },
    #[error("does not go with --{auto}: whoever makes a certificate would be let in")]
    NotWithAuto { auto: &'static str },
    #[error(
        "needs --client-cert-auth or --trusted-ca-file: without them no client shows a certificate"
    )]
    NoClientCertificates,
    #[error("needs https peer URLs: without TLS no member shows a certificate")]
    NoPeerCertificates,
    #[error("unexpected TLS cipher suite {name:?}")]
    UnknownSuite { name: String },
    #[error("TLS cipher suite {name:?} is too weak to be offered here: {WHY_WEAK}")]
    WeakSuite { name: String },
    #[error("cipher suites cannot be configured when only TLS1.3 is enabled")]
    SuitesOfTls13,
    #[error("unexpected TLS version {given:?} (must be one of: TLS1.2, TLS1.3)")]
    UnknownVersion { given: String },
    #[error("min version ({least}) is greater than max version ({most})")]
    VersionsCrossed { least: String, most: String },
    #[error("selfSignedCertValidity is invalid,it should be greater than 0")]
    NoValidity,
    #[error("must be at most {YEARS_MAX}")]
    TooLongValid,
    #[error("{0:?} is neither a host name nor an IP address")]
    NotAHost(String),
}

const WHY_WEAK: &str = "only ECDHE with AES-GCM or ChaCha20-Poly1305 is";
/// A certificate's last year has four digits.
const YEARS_MAX: u32 = 1000;

/// What Go knows and no longer offers by itself, or offers to old clients only.
const WEAK: [&str; 16] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
];

impl CipherSuite {
    /// By Go's name.
    fn parse(name: &str) -> Result<Self, TlsMistake> {
        Ok(match name {
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => Self::EcdheEcdsaAes128Gcm,
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => Self::EcdheEcdsaAes256Gcm,
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
            | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => Self::EcdheEcdsaChacha20,
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => Self::EcdheRsaAes128Gcm,
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => Self::EcdheRsaAes256Gcm,
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"
            | "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" => Self::EcdheRsaChacha20,
            "TLS_AES_128_GCM_SHA256"
            | "TLS_AES_256_GCM_SHA384"
            | "TLS_CHACHA20_POLY1305_SHA256" => Self::OfTls13,
            _ => {
                let name = name.to_owned();
                return Err(if WEAK.contains(&name.as_str()) {
                    TlsMistake::WeakSuite { name }
                } else {
                    TlsMistake::UnknownSuite { name }
                });
            }
        })
    }
}

impl TlsVersion {
    /// Empty leaves it to us.
    fn parse(given: &str) -> Result<Option<Self>, TlsMistake> {
        match given {
            "" => Ok(None),
            "TLS1.2" => Ok(Some(Self::V12)),
            "TLS1.3" => Ok(Some(Self::V13)),
            _ => Err(TlsMistake::UnknownVersion {
                given: given.to_owned(),
            }),
        }
    }
}

impl TlsSettings {
    /// Whether an endpoint asks who dials it.
    pub fn asks_for_client_certificates(&self) -> bool {
        self.client_cert_auth || self.trusted_ca.is_some()
    }
}

#[cfg(test)]
mod tests;
