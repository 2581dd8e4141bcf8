//! From the security flags to the settings of both kinds of endpoint.
//!
//! Promise: a flag that protects is in force or refused; it goes on after a mistake.
//! Not known here: what the settings are used for.

use std::path::{Path, PathBuf};

use super::super::flag_syntax::Given;
use super::super::mistake::Mistake;
use super::super::url::{MemberUrl, Place};
use super::{
    AllowedNames, CipherSuite, OwnCertificate, PemPair, SelfSigned, TlsMistake, TlsSettings,
    TlsVersion, TlsVersions, YEARS_MAX,
};

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
pub(in crate::config) struct Listens<'a> {
    pub(in crate::config) client: &'a [MemberUrl],
    pub(in crate::config) client_http: &'a [MemberUrl],
    pub(in crate::config) metrics: &'a [MemberUrl],
    pub(in crate::config) peer: &'a [MemberUrl],
}

/// Goes on after a mistake; what it returns beside mistakes is of no use.
pub(in crate::config) fn settle(
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
