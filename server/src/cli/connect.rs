//! From `--endpoints` to a channel, logged in.
//!
//! Promise: only connecting is tried at one endpoint after the other; a request is sent once, so
//! that no write happens twice.
//! Not known here: what is asked.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tonic::transport::{Channel, Endpoint};

use super::Global;
use super::login::{LoginError, Session};
use crate::config::{MemberUrl, PemPair, UrlError};
use crate::tls::{ClientTls, Connector, DialError, TlsError, Trust};

/// etcdctl's.
#[derive(Debug, Clone, Args)]
pub(super) struct Security {
    /// Believe servers whose certificates lead to this CA bundle.
    #[arg(long, global = true, env = "SEALKV_CACERT", value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Show this certificate.
    #[arg(
        id = "client-cert",
        long = "cert",
        global = true,
        env = "SEALKV_CERT",
        value_name = "FILE",
        requires = "client-key"
    )]
    cert: Option<PathBuf>,
    /// The key of --cert.
    // The names are the server's own: a subcommand's argument may be called `key` too.
    #[arg(
        id = "client-key",
        long = "key",
        global = true,
        env = "SEALKV_KEY",
        value_name = "FILE",
        requires = "client-cert"
    )]
    key: Option<PathBuf>,
    /// Believe any server's certificate (for tests only).
    #[arg(long, global = true)]
    insecure_skip_tls_verify: bool,
    /// Whether endpoints without a scheme may be plain; they are not if a certificate is named.
    #[arg(
        long,
        global = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true"
    )]
    insecure_transport: bool,
}

/// Where an endpoint is, and how it is dialled.
#[derive(Debug, Clone)]
pub(super) struct Way {
    url: MemberUrl,
    connector: Connector,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("--endpoints: {0}")]
    Url(#[from] UrlError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("--endpoints: {url}: {error}")]
    Invalid {
        url: String,
        error: tonic::transport::Error,
    },
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error("no endpoint can be reached:{}", lines(.0))]
    Unreachable(Vec<(String, String)>),
}

fn lines(tried: &[(String, String)]) -> String {
    tried
        .iter()
        .map(|(url, error)| format!("\n  {url}: {error}"))
        .collect()
}

impl Security {
    /// As etcdctl: an endpoint without a scheme speaks TLS if anything was said about it.
    pub(super) fn default_scheme(&self) -> &'static str {
        let asked = self.cacert.is_some() || self.cert.is_some() || self.insecure_skip_tls_verify;
        if asked || !self.insecure_transport {
            "https"
        } else {
            "http"
        }
    }

    fn trust(&self) -> Trust {
        let pair = self.cert.clone().zip(self.key.clone());
        Trust {
            ca: self.cacert.clone(),
            pair: pair.map(|(certificate, key)| PemPair { certificate, key }),
            skip_verification: self.insecure_skip_tls_verify,
        }
    }

    /// How each is dialled. Files are read only if one of them asks for TLS.
    fn ways(&self, urls: Vec<MemberUrl>) -> Result<Vec<Way>, ConnectError> {
        let tls = if urls.iter().any(MemberUrl::is_secure) {
            Some(ClientTls::of_client(&self.trust(), "--cacert")?)
        } else {
            None
        };
        let way = |url: MemberUrl| {
            let connector = Connector::new(&url, tls.as_ref())?;
            Ok(Way { url, connector })
        };
        urls.into_iter().map(way).collect()
    }
}

impl Global {
    /// In the order given.
    pub(super) fn ways(&self) -> Result<Vec<Way>, ConnectError> {
        let urls = endpoints(&self.endpoints, self.security.default_scheme())?;
        self.security.ways(urls)
    }
}

/// In the order given.
pub(super) fn endpoints(list: &str, default_scheme: &str) -> Result<Vec<MemberUrl>, UrlError> {
    let with_scheme = |one: &str| {
        let one = one.trim();
        MemberUrl::parse(&if one.contains("://") {
            one.into()
        } else {
            format!("{default_scheme}://{one}")
        })
    };
    list.split(',').map(with_scheme).collect()
}

/// The first endpoint that takes a connection.
pub(super) async fn connect(global: &Global) -> Result<Session, ConnectError> {
    let mut tried = Vec::new();
    for way in global.ways()? {
        match way.connect(global).await {
            Ok(channel) => return Ok(global.login.at(channel).await?),
            Err(ConnectError::Unreachable(error)) => tried.extend(error),
            Err(error) => return Err(error),
        }
    }
    Err(ConnectError::Unreachable(tried))
}

pub(super) async fn connect_one(url: &MemberUrl, global: &Global) -> Result<Session, ConnectError> {
    Ok(global.login.at(dial(url, global).await?).await?)
}

/// A channel that nobody has logged in at.
pub(super) async fn dial(url: &MemberUrl, global: &Global) -> Result<Channel, ConnectError> {
    let ways = global.security.ways(vec![url.clone()])?;
    match ways.first() {
        Some(way) => way.connect(global).await,
        None => Err(ConnectError::Unreachable(Vec::new())),
    }
}

impl Way {
    pub(super) async fn connect(&self, global: &Global) -> Result<Channel, ConnectError> {
        let endpoint = Endpoint::from_shared(self.connector.origin()).map_err(|error| {
            ConnectError::Invalid {
                url: self.url.to_string(),
                error,
            }
        })?;
        let endpoint = endpoint.connect_timeout(Duration::from_secs(global.dial_timeout));
        let dialled = endpoint
            .connect_with_connector(self.connector.clone())
            .await;
        dialled.map_err(|error| {
            let why = deepest(&error);
            ConnectError::Unreachable(vec![(self.url.to_string(), why)])
        })
    }
}

/// tonic's own text is "transport error"; the reason is at the bottom.
pub(super) fn deepest(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(below) => deepest(below),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_keep_their_order_and_need_no_scheme() {
        let urls = endpoints("b:2, http://a:1,unix:///s", "https").unwrap();
        let texts: Vec<_> = urls.iter().map(MemberUrl::as_str).collect();
        assert_eq!(texts, ["https://b:2", "http://a:1", "unix:///s"]);
        assert!(endpoints("", "http").is_err());
    }
}
