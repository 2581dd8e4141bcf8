//! What the security flags ask for: which certificates are shown, and which are believed.
//!
//! Promise: rules and texts are etcd's, except where etcd takes a flag that protects and forgets
//! it: those are refused by name.
//! Not known here: what is in the files, and rustls.

use std::path::{Path, PathBuf};

use super::flag_syntax::Given;
use super::mistake::Mistake;
use super::url::{MemberUrl, Place};

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

/// The flags' names for one kind of endpoint.
struct Names {
    certificate: &'static str,
    key: &'static str,
    dialling_certificate: &'static str,
    dialling_key: &'static str,
    trusted_ca: &'static str,
    client_cert_auth: &'static str,
    crl: &'static str,
    /// `None` for clients.
    allowed_names: Option<&'static str>,
    allowed_hostnames: &'static str,
    auto: &'static str,
    /// Below the data directory.
    fixtures: &'static str,
}

const CLIENT: Names = Names {
    certificate: "cert-file",
    key: "key-file",
    dialling_certificate: "client-cert-file",
    dialling_key: "client-key-file",
    trusted_ca: "trusted-ca-file",
    client_cert_auth: "client-cert-auth",
    crl: "client-crl-file",
    allowed_names: None,
    allowed_hostnames: "client-cert-allowed-hostname",
    auto: "auto-tls",
    fixtures: "fixtures/client",
};

const PEER: Names = Names {
    certificate: "peer-cert-file",
    key: "peer-key-file",
    dialling_certificate: "peer-client-cert-file",
    dialling_key: "peer-client-key-file",
    trusted_ca: "peer-trusted-ca-file",
    client_cert_auth: "peer-client-cert-auth",
    crl: "peer-crl-file",
    allowed_names: Some("peer-cert-allowed-cn"),
    allowed_hostnames: "peer-cert-allowed-hostname",
    auto: "peer-auto-tls",
    fixtures: "fixtures/peer",
};

/// Where a member listens.
pub(super) struct Listens<'a> {
    pub(super) client: &'a [MemberUrl],
    pub(super) client_http: &'a [MemberUrl],
    pub(super) metrics: &'a [MemberUrl],
    pub(super) peer: &'a [MemberUrl],
}

/// Goes on after a mistake; what it returns beside mistakes is of no use.
pub(super) fn settle(
    given: &Given,
    data_dir: &Path,
    listens: &Listens<'_>,
    mistakes: &mut Vec<Mistake>,
) -> (TlsSettings, TlsSettings) {
    let mut settling = Settling {
        given,
        data_dir,
        mistakes,
    };
    let versions = settling.versions();
    let cipher_suites = settling.cipher_suites(versions);
    let clients = [listens.client, listens.client_http].concat();
    let client = settling.endpoint(&CLIENT, &clients, versions, &cipher_suites);
    let peer = settling.endpoint(&PEER, listens.peer, versions, &cipher_suites);
    settling.client_checks(&client);
    if secure(listens.peer).is_none() {
        settling.plain_peer_checks(&peer);
    }
    if client.certificate == OwnCertificate::None {
        for (flag, urls) in [
            ("listen-client-urls", listens.client),
            ("listen-client-http-urls", listens.client_http),
        ] {
            if let Some(url) = secure(urls) {
                settling.mistake(flag, TlsMistake::ClientPairUnset { url });
            }
        }
        if secure(listens.metrics).is_some() {
            settling.mistake("listen-metrics-urls", TlsMistake::MetricsPairUnset);
        }
    }
    if peer.certificate == OwnCertificate::None
        && let Some(url) = secure(listens.peer)
    {
        settling.mistake("listen-peer-urls", TlsMistake::PeerPairUnset { url });
    }
    (client, peer)
}

/// The first one, if there is any.
fn secure(urls: &[MemberUrl]) -> Option<MemberUrl> {
    urls.iter().find(|url| url.is_secure()).cloned()
}

struct Settling<'a> {
    given: &'a Given,
    data_dir: &'a Path,
    mistakes: &'a mut Vec<Mistake>,
}

impl Settling<'_> {
    fn mistake(&mut self, flag: &str, mistake: TlsMistake) {
        let source = self.given.source(flag);
        self.mistakes.push(Mistake::of(source, mistake.into()));
    }

    /// An empty path is none, as for etcd.
    fn path(&self, flag: &str) -> Option<PathBuf> {
        let path = self.given.text(flag).filter(|path| !path.is_empty());
        path.map(PathBuf::from)
    }

    fn on(&self, flag: &str) -> bool {
        self.given.bool(flag).unwrap_or(false)
    }

    fn list(&self, flag: &str) -> Vec<String> {
        let text = self.given.text(flag).unwrap_or_default();
        let items = text.split(',').map(str::trim);
        items
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect()
    }

    fn versions(&mut self) -> TlsVersions {
        let mut one = |flag: &'static str| {
            let given = self.given.text(flag).unwrap_or_default();
            TlsVersion::parse(given).unwrap_or_else(|mistake| {
                self.mistake(flag, mistake);
                None
            })
        };
        let versions = TlsVersions {
            least: one("tls-min-version").unwrap_or(TlsVersion::V12),
            most: one("tls-max-version").unwrap_or(TlsVersion::V13),
        };
        if versions.least > versions.most {
            let text = |flag| self.given.text(flag).unwrap_or_default().to_owned();
            let (least, most) = (text("tls-min-version"), text("tls-max-version"));
            self.mistake(
                "tls-min-version",
                TlsMistake::VersionsCrossed { least, most },
            );
        }
        versions
    }

    fn cipher_suites(&mut self, versions: TlsVersions) -> Option<Vec<CipherSuite>> {
        let names = self.list("cipher-suites");
        if names.is_empty() {
            return None;
        }
        if versions.least == TlsVersion::V13 {
            self.mistake("cipher-suites", TlsMistake::SuitesOfTls13);
        }
        let mut suites = Vec::new();
        for name in names {
            match CipherSuite::parse(&name) {
                Ok(suite) => suites.push(suite),
                Err(mistake) => self.mistake("cipher-suites", mistake),
            }
        }
        Some(suites)
    }

    fn pair(&mut self, certificate_flag: &'static str, key_flag: &str) -> Option<PemPair> {
        match (self.path(certificate_flag), self.path(key_flag)) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(PemPair { certificate, key }),
            (certificate, key) => {
                let text = |path: Option<PathBuf>| {
                    path.map(|path| path.display().to_string())
                        .unwrap_or_default()
                };
                let (key, certificate) = (text(key), text(certificate));
                self.mistake(certificate_flag, TlsMistake::HalfPair { key, certificate });
                None
            }
        }
    }

    fn endpoint(
        &mut self,
        names: &Names,
        listens: &[MemberUrl],
        versions: TlsVersions,
        cipher_suites: &Option<Vec<CipherSuite>>,
    ) -> TlsSettings {
        let certificate = match self.pair(names.certificate, names.key) {
            Some(pair) => OwnCertificate::Files(pair),
            None if self.on(names.auto) => {
                OwnCertificate::SelfSigned(self.self_signed(names, listens))
            }
            None => OwnCertificate::None,
        };
        let settings = TlsSettings {
            auto_ignored: self.on(names.auto) && matches!(certificate, OwnCertificate::Files(_)),
            certificate,
            dialling_certificate: self.pair(names.dialling_certificate, names.dialling_key),
            trusted_ca: self.path(names.trusted_ca),
            client_cert_auth: self.on(names.client_cert_auth),
            crl: self.path(names.crl),
            allowed: self.allowed(names),
            check_client_address: names.allowed_names.is_some()
                && !self.on("peer-skip-client-san-verification"),
            versions,
            cipher_suites: cipher_suites.clone(),
        };
        if matches!(settings.certificate, OwnCertificate::SelfSigned(_)) {
            self.auto_checks(names, &settings);
        }
        settings
    }

    fn self_signed(&mut self, names: &Names, listens: &[MemberUrl]) -> SelfSigned {
        let years = self
            .given
            .unsigned("self-signed-cert-validity")
            .unwrap_or(1);
        let years = match u32::try_from(years) {
            Ok(0) => {
                self.mistake("self-signed-cert-validity", TlsMistake::NoValidity);
                1
            }
            Ok(years) if years <= YEARS_MAX => years,
            _ => {
                self.mistake("self-signed-cert-validity", TlsMistake::TooLongValid);
                1
            }
        };
        let hosts = listens.iter().filter_map(|url| match url.place() {
            Place::Tcp { host, .. } if !host.is_empty() => Some(host.clone()),
            _ => None,
        });
        SelfSigned {
            directory: self.data_dir.join(names.fixtures),
            hosts: hosts.collect(),
            years,
        }
    }

    fn allowed(&mut self, names: &Names) -> AllowedNames {
        let common_names = names
            .allowed_names
            .map(|flag| self.list(flag))
            .unwrap_or_default();
        let hostnames = self.list(names.allowed_hostnames);
        for host in &hostnames {
            if rustls::pki_types::ServerName::try_from(host.as_str()).is_err() {
                self.mistake(names.allowed_hostnames, TlsMistake::NotAHost(host.clone()));
            }
        }
        match (common_names.is_empty(), hostnames.is_empty()) {
            (true, true) => AllowedNames::Anyone,
            (false, true) => AllowedNames::CommonNames(common_names),
            (true, false) => AllowedNames::Hostnames(hostnames),
            (false, false) => {
                let problem = TlsMistake::TwoKindsOfNames {
                    names: common_names,
                    hostnames,
                };
                self.mistake(names.allowed_hostnames, problem);
                AllowedNames::Anyone
            }
        }
    }

    /// etcd drops these when it makes the certificate itself.
    fn auto_checks(&mut self, names: &Names, settings: &TlsSettings) {
        let allowed = match settings.allowed {
            AllowedNames::Anyone => None,
            AllowedNames::CommonNames(_) => names.allowed_names,
            AllowedNames::Hostnames(_) => Some(names.allowed_hostnames),
        };
        let forgotten = [
            settings.client_cert_auth.then_some(names.client_cert_auth),
            settings.trusted_ca.as_ref().map(|_| names.trusted_ca),
            settings.crl.as_ref().map(|_| names.crl),
            allowed,
        ];
        for flag in forgotten.into_iter().flatten() {
            self.mistake(flag, TlsMistake::NotWithAuto { auto: names.auto });
        }
    }

    /// On the client side these are about clients' certificates alone.
    fn client_checks(&mut self, client: &TlsSettings) {
        let auto = matches!(client.certificate, OwnCertificate::SelfSigned(_));
        if client.asks_for_client_certificates() || auto {
            return;
        }
        if client.crl.is_some() {
            self.mistake(CLIENT.crl, TlsMistake::NoClientCertificates);
        }
        if client.allowed != AllowedNames::Anyone {
            self.mistake(CLIENT.allowed_hostnames, TlsMistake::NoClientCertificates);
        }
    }

    /// Who asks for certain members gets no others. etcd forgets these without TLS.
    fn plain_peer_checks(&mut self, peer: &TlsSettings) {
        let allowed = match peer.allowed {
            AllowedNames::Anyone => None,
            AllowedNames::CommonNames(_) => PEER.allowed_names,
            AllowedNames::Hostnames(_) => Some(PEER.allowed_hostnames),
        };
        for flag in [peer.crl.as_ref().map(|_| PEER.crl), allowed]
            .into_iter()
            .flatten()
        {
            self.mistake(flag, TlsMistake::NoPeerCertificates);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Asked, Config, ConfigError};
    use super::*;

    fn ask(arguments: &[&str]) -> Result<Config, ConfigError> {
        let arguments: Vec<_> = arguments.iter().map(|&a| a.to_owned()).collect();
        match Config::ask(&arguments, &[])? {
            Asked::Serve(config) => Ok(*config),
            other => panic!("{other:?}"),
        }
    }

    fn mistakes(arguments: &[&str]) -> Vec<String> {
        let error = ask(arguments).unwrap_err();
        error.mistakes().iter().map(ToString::to_string).collect()
    }

    const HTTPS: [&str; 2] = [
        "--listen-client-urls=https://127.0.0.1:1",
        "--advertise-client-urls=https://127.0.0.1:1",
    ];
    const PAIR: [&str; 2] = ["--cert-file=/c", "--key-file=/k"];

    #[test]
    fn every_flag_of_a_side_reaches_it() {
        let mut flags = [HTTPS, PAIR].concat();
        flags.extend([
            "--trusted-ca-file=/ca",
            "--client-cert-auth",
            "--client-crl-file=/crl",
            "--client-cert-allowed-hostname=a.example,10.0.0.1",
            "--listen-peer-urls=https://127.0.0.1:2",
            "--initial-advertise-peer-urls=https://127.0.0.1:2",
            "--peer-cert-file=/pc",
            "--peer-key-file=/pk",
            "--peer-client-cert-file=/dc",
            "--peer-client-key-file=/dk",
            "--peer-trusted-ca-file=/pca",
            "--peer-client-cert-auth",
            "--peer-crl-file=/pcrl",
            "--peer-cert-allowed-cn=one,two",
            "--tls-min-version=TLS1.2",
            "--tls-max-version=TLS1.3",
            "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        ]);
        let config = ask(&flags).unwrap();
        let (client, peer) = (config.client_tls, config.peer_tls);
        assert_eq!(
            client.certificate,
            OwnCertificate::Files(PemPair {
                certificate: "/c".into(),
                key: "/k".into()
            })
        );
        assert_eq!(client.trusted_ca, Some("/ca".into()));
        assert_eq!(client.crl, Some("/crl".into()));
        assert!(client.client_cert_auth && !client.check_client_address);
        assert_eq!(
            client.allowed,
            AllowedNames::Hostnames(vec!["a.example".into(), "10.0.0.1".into()])
        );
        assert_eq!(
            peer.allowed,
            AllowedNames::CommonNames(vec!["one".into(), "two".into()])
        );
        assert!(peer.check_client_address);
        assert_eq!(peer.dialling_certificate.unwrap().key, PathBuf::from("/dk"));
        assert_eq!(
            peer.cipher_suites,
            Some(vec![CipherSuite::EcdheRsaAes128Gcm])
        );
    }

    #[test]
    fn a_secure_url_needs_a_certificate() {
        assert_eq!(
            mistakes(&HTTPS),
            [
                "--listen-client-urls: TLS key/cert (--cert-file, --key-file) must be provided for \
              client url https://127.0.0.1:1 with HTTPS scheme"
            ]
        );
        assert_eq!(
            mistakes(&["--listen-peer-urls=https://127.0.0.1:1"]),
            [
                "--listen-peer-urls: cannot listen on TLS for https://127.0.0.1:1: KeyFile and \
              CertFile are not presented"
            ]
        );
        ask(&[&HTTPS[..], &["--auto-tls"]].concat()).unwrap();
    }

    #[test]
    fn half_a_pair_is_refused_with_etcds_text() {
        assert_eq!(
            mistakes(&["--cert-file=/c"]),
            ["--cert-file: KeyFile and CertFile must both be present[key: , cert: /c]"]
        );
        assert_eq!(mistakes(&["--peer-client-key-file=/k"]).len(), 1);
        ask(&["--cert-file=", "--key-file="]).unwrap();
    }

    #[test]
    fn suites_and_versions_are_gos() {
        for (flags, says) in [
            (
                &["--cipher-suites=TLS_HOPE"][..],
                "--cipher-suites: unexpected TLS cipher suite \"TLS_HOPE\"",
            ),
            (
                &["--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"],
                "too weak to be offered here",
            ),
            (
                &[
                    "--tls-min-version=TLS1.3",
                    "--cipher-suites=TLS_AES_128_GCM_SHA256",
                ],
                "cipher suites cannot be configured when only TLS1.3 is enabled",
            ),
            (
                &["--tls-min-version=TLS1.1"],
                "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)",
            ),
            (
                &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
                "min version (TLS1.3) is greater than max version (TLS1.2)",
            ),
        ] {
            let found = mistakes(flags);
            assert!(found.len() == 1 && found[0].contains(says), "{found:?}");
        }
        let config = ask(&["--tls-max-version=", "--tls-min-version="]).unwrap();
        let TlsVersions { least, most } = config.client_tls.versions;
        assert_eq!((least, most), (TlsVersion::V12, TlsVersion::V13));
    }

    #[test]
    fn protection_that_could_not_work_is_refused() {
        for flags in [
            &["--auto-tls", "--client-cert-auth"][..],
            &["--auto-tls", "--trusted-ca-file=/ca"],
            &["--peer-auto-tls", "--peer-crl-file=/crl"],
            &["--peer-auto-tls", "--peer-cert-allowed-cn=a"],
            &["--client-crl-file=/crl"],
            &["--client-cert-allowed-hostname=a"],
            &["--peer-crl-file=/crl"],
            &["--peer-cert-allowed-cn=a"],
            &["--peer-cert-allowed-hostname=a"],
            &["--peer-cert-allowed-cn=a", "--peer-cert-allowed-hostname=b"],
            &["--peer-cert-allowed-hostname=a b"],
            &["--auto-tls", "--self-signed-cert-validity=0"],
            &["--auto-tls", "--self-signed-cert-validity=100000"],
        ] {
            let found = mistakes(flags);
            let of = |mistake: &String, flag: &&str| {
                let name = flag.split('=').next().unwrap();
                mistake.starts_with(&format!("{name}:"))
            };
            let mut named = found.iter().map(|it| flags.iter().any(|flag| of(it, flag)));
            assert!(!found.is_empty() && named.all(|it| it), "{found:?}");
        }
    }

    #[test]
    fn own_certificates_are_made_below_the_data_directory_for_the_hosts_listened_on() {
        let flags = [
            &HTTPS[..],
            &[
                "--auto-tls",
                "--data-dir=/d",
                "--self-signed-cert-validity=3",
            ],
        ];
        let config = ask(&flags.concat()).unwrap();
        assert_eq!(
            config.client_tls.certificate,
            OwnCertificate::SelfSigned(SelfSigned {
                directory: "/d/fixtures/client".into(),
                hosts: vec!["127.0.0.1".into()],
                years: 3
            })
        );
        assert_eq!(config.peer_tls.certificate, OwnCertificate::None);
    }
}
