//! Where a new member asks for the initial cluster instead of being told: DNS, or keys in another
//! cluster.
//!
//! Promise: one of the ways at most, and the other flags only beside it; a password is never printed.
//! Not known here: asking.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::MemberUrl;
use super::mistake::Problem;
use super::settle::Settling;
use super::tls::{PemPair, TlsMistake};

/// SRV records that name the members of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrvDiscovery {
    pub domain: String,
    /// What follows `etcd-server-` in the name of the service.
    pub service: Option<String>,
}

/// A cluster in which the members of another, yet to be, find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryService {
    /// Names the keys, and is the token of the new cluster.
    pub token: String,
    /// At least one.
    pub endpoints: Vec<MemberUrl>,
    pub dial_timeout: Duration,
    pub request_timeout: Duration,
    /// `None`: no pings.
    pub keepalive_interval: Option<Duration>,
    pub keepalive_timeout: Duration,
    /// `None`: the system's.
    pub trusted_ca: Option<PathBuf>,
    pub certificate: Option<PemPair>,
    pub skip_verification: bool,
    pub login: Option<Credentials>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub name: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Settling<'_> {
    /// What is empty is as good as unsaid.
    pub(super) fn stated(&self, flag: &str) -> Option<&str> {
        self.given.text(flag).filter(|text| !text.is_empty())
    }

    pub(super) fn discovery_srv(&mut self) -> Option<SrvDiscovery> {
        let domain = self.stated("discovery-srv").map(str::to_owned);
        let service = self.stated("discovery-srv-name").map(str::to_owned);
        let listed = self.stated("initial-cluster").is_some();
        let Some(domain) = domain else {
            if service.is_some() {
                self.mistake("discovery-srv-name", Problem::NoDiscovery);
            }
            return None;
        };
        if listed {
            self.mistake("discovery-srv", Problem::TwoBootstraps);
        }
        Some(SrvDiscovery { domain, service })
    }

    pub(super) fn discovery_service(&mut self) -> Option<DiscoveryService> {
        let (token, endpoints) = ("discovery-token", "discovery-endpoints");
        let stated = (
            self.stated(token).is_some(),
            self.stated(endpoints).is_some(),
        );
        let (found, wanted) = match stated {
            (false, false) => return None,
            (true, true) => (self.stated(token)?.to_owned(), self.discovery_endpoints()?),
            (true, false) => {
                self.mistake(token, Problem::HalfDiscovery);
                return None;
            }
            (false, true) => {
                self.mistake(endpoints, Problem::HalfDiscovery);
                return None;
            }
        };
        let others = ["initial-cluster", "discovery-srv"];
        if others.iter().any(|flag| self.stated(flag).is_some()) {
            self.mistake(endpoints, Problem::TwoBootstraps);
        }
        let path = |flag| self.stated(flag).map(PathBuf::from);
        let trusted_ca = path("discovery-cacert");
        let certificate = self.discovery_certificate();
        let login = self.discovery_login();
        let interval = self.duration("discovery-keepalive-time", 2_000);
        Some(DiscoveryService {
            token: found,
            endpoints: wanted,
            dial_timeout: self.duration("discovery-dial-timeout", 2_000),
            request_timeout: self.duration("discovery-request-timeout", 5_000),
            keepalive_interval: Some(interval).filter(|interval| !interval.is_zero()),
            keepalive_timeout: self.duration("discovery-keepalive-timeout", 6_000),
            trusted_ca,
            certificate,
            skip_verification: self.discovery_skips_verification(),
            login,
        })
    }

    fn discovery_skips_verification(&self) -> bool {
        let given = self.given.bool("discovery-insecure-skip-tls-verify");
        given.unwrap_or(false)
    }

    /// As etcd's client: one without a scheme speaks TLS if anything was said about it.
    fn discovery_endpoints(&mut self) -> Option<Vec<MemberUrl>> {
        const FLAG: &str = "discovery-endpoints";
        let said = ["discovery-cert", "discovery-key", "discovery-cacert"];
        let plain = self.given.bool("discovery-insecure-transport");
        let secure = said.iter().any(|flag| self.stated(flag).is_some())
            || self.discovery_skips_verification()
            || !plain.unwrap_or(true);
        let scheme = if secure { "https" } else { "http" };
        let texts: BTreeSet<&str> = self.stated(FLAG)?.split(',').map(str::trim).collect();
        if texts.contains("") {
            self.mistake(FLAG, Problem::EmptyEndpoint);
            return None;
        }
        let url = |text: &&str| match text.contains("://") {
            true => MemberUrl::parse(text),
            false => MemberUrl::parse(&format!("{scheme}://{text}")),
        };
        match texts.iter().map(url).collect() {
            Ok(urls) => Some(urls),
            Err(error) => {
                self.mistake(FLAG, error);
                None
            }
        }
    }

    fn discovery_certificate(&mut self) -> Option<PemPair> {
        let path = |flag| self.stated(flag).map(str::to_owned);
        match (path("discovery-cert"), path("discovery-key")) {
            (Some(certificate), Some(key)) => Some(PemPair {
                certificate: certificate.into(),
                key: key.into(),
            }),
            (None, None) => None,
            (certificate, key) => {
                let flag = if key.is_none() {
                    "discovery-cert"
                } else {
                    "discovery-key"
                };
                let problem = TlsMistake::HalfPair {
                    key: key.unwrap_or_default(),
                    certificate: certificate.unwrap_or_default(),
                };
                self.mistake(flag, problem);
                None
            }
        }
    }

    /// With a password of its own a colon is part of the name.
    fn discovery_login(&mut self) -> Option<Credentials> {
        let user = self.stated("discovery-user").map(str::to_owned);
        let password = self.stated("discovery-password").map(str::to_owned);
        match (user, password) {
            (Some(name), Some(password)) => Some(Credentials { name, password }),
            (Some(both), None) => match both.split_once(':') {
                Some((name, password)) if !password.is_empty() => Some(Credentials {
                    name: name.to_owned(),
                    password: password.to_owned(),
                }),
                _ => {
                    self.mistake("discovery-user", Problem::NoPassword);
                    None
                }
            },
            (None, Some(_)) => {
                self.mistake("discovery-password", Problem::NoUser);
                None
            }
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::asking::ask;
    use super::*;

    const BOTH: [&str; 2] = ["--discovery-token=t", "--discovery-endpoints=b:2,a:1,b:2"];

    fn service(more: &[&str]) -> DiscoveryService {
        let config = ask(&[&BOTH[..], more].concat()).unwrap();
        config.discovery_service.unwrap()
    }

    #[test]
    fn defaults_are_etcds_and_the_token_is_the_clusters() {
        let config = ask(&BOTH).unwrap();
        assert_eq!(config.initial_cluster_token, "t");
        let service = config.discovery_service.unwrap();
        let urls: Vec<_> = service.endpoints.iter().map(MemberUrl::as_str).collect();
        assert_eq!(urls, ["http://a:1", "http://b:2"]);
        let seconds = Duration::from_secs;
        assert_eq!(service.dial_timeout, seconds(2));
        assert_eq!(service.request_timeout, seconds(5));
        assert_eq!(service.keepalive_interval, Some(seconds(2)));
        assert_eq!(service.keepalive_timeout, seconds(6));
        assert!(ask(&[]).unwrap().discovery_service.is_none());
        // As those write it who keep etcd's default away.
        ask(&[&BOTH[..], &["--initial-cluster="]].concat()).unwrap();
    }

    #[test]
    fn whatever_is_said_of_tls_means_tls() {
        for flag in [
            "--discovery-insecure-transport=false",
            "--discovery-insecure-skip-tls-verify",
            "--discovery-cacert=ca",
        ] {
            let service = service(&[flag]);
            assert_eq!(service.endpoints[0].as_str(), "https://a:1", "{flag}");
        }
    }

    #[test]
    fn who_asks_is_a_name_with_a_password_and_is_never_shown() {
        let login = |more: &[&str]| service(more).login.map(|it| (it.name, it.password));
        let pair = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        assert_eq!(login(&["--discovery-user=a:b:c"]), pair("a", "b:c"));
        let two = ["--discovery-user=a:b", "--discovery-password=c"];
        assert_eq!(login(&two), pair("a:b", "c"));
        assert_eq!(login(&[]), None);
        let shown = format!("{:?}", service(&["--discovery-user=ann:secret"]));
        assert!(
            !shown.contains("secret") && !shown.contains("ann"),
            "{shown}"
        );
    }

    #[test]
    fn halves_and_contradictions_are_refused() {
        let with = |more: &'static str| [&BOTH[..], &[more]].concat();
        for (wrong, text) in [
            (
                vec!["--discovery-token=t"],
                "--discovery-token: both --discovery-token and --discovery-endpoints must be set",
            ),
            (
                vec!["--discovery-endpoints=a:1"],
                "--discovery-endpoints: both --discovery-token and --discovery-endpoints must be set",
            ),
            (
                vec!["--discovery-token=t", "--discovery-endpoints=a:1,,b:1"],
                "--discovery-endpoints: must not contain empty endpoints",
            ),
            (
                with("--initial-cluster=default=http://localhost:2380"),
                "--discovery-endpoints: multiple discovery or bootstrap flags are set. Choose one \
                 of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"",
            ),
            (
                with("--discovery-cert=c"),
                "--discovery-cert: KeyFile and CertFile must both be present[key: , cert: c]",
            ),
            (
                with("--discovery-user=a"),
                "--discovery-user: has no password: write NAME:PASSWORD, or set \
                 --discovery-password",
            ),
            (
                with("--discovery-password=a"),
                "--discovery-password: means nothing without --discovery-user",
            ),
        ] {
            let error = ask(&wrong).unwrap_err();
            let mistakes = error.mistakes().iter().map(ToString::to_string);
            assert_eq!(mistakes.collect::<Vec<_>>(), [text]);
        }
    }
}
