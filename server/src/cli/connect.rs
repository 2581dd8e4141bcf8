//! From `--endpoints` to a channel.
//!
//! Promise: only connecting is tried at one endpoint after the other; a request is sent once, so
//! that no write happens twice.
//! Not known here: what is asked.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::Global;
use crate::config::{MemberUrl, Place, UrlError};

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("--endpoints: {0}")]
    Url(#[from] UrlError),
    #[error("--endpoints: unix sockets are not implemented for clients by this release: {0}")]
    Unix(MemberUrl),
    #[error("--endpoints: {url}: {error}")]
    Invalid {
        url: String,
        error: tonic::transport::Error,
    },
    #[error("no endpoint can be reached:{}", lines(.0))]
    Unreachable(Vec<(String, String)>),
}

fn lines(tried: &[(String, String)]) -> String {
    tried
        .iter()
        .map(|(url, error)| format!("\n  {url}: {error}"))
        .collect()
}

/// In the order given; `host:port` means `http://host:port`.
pub(super) fn endpoints(list: &str) -> Result<Vec<MemberUrl>, UrlError> {
    let with_scheme = |one: &str| {
        let one = one.trim();
        MemberUrl::parse(&if one.contains("://") {
            one.into()
        } else {
            format!("http://{one}")
        })
    };
    list.split(',').map(with_scheme).collect()
}

/// The first endpoint that takes a connection.
pub(super) async fn connect(global: &Global) -> Result<Channel, ConnectError> {
    let mut tried = Vec::new();
    for url in endpoints(&global.endpoints)? {
        match connect_one(&url, global).await {
            Ok(channel) => return Ok(channel),
            Err(ConnectError::Unreachable(error)) => tried.extend(error),
            Err(error) => return Err(error),
        }
    }
    Err(ConnectError::Unreachable(tried))
}

pub(super) async fn connect_one(url: &MemberUrl, global: &Global) -> Result<Channel, ConnectError> {
    if matches!(url.place(), Place::Unix(_)) {
        return Err(ConnectError::Unix(url.clone()));
    }
    let dial_timeout = Duration::from_secs(global.dial_timeout);
    let endpoint = Endpoint::from_shared(url.as_str().to_owned())
        .map_err(|error| ConnectError::Invalid {
            url: url.to_string(),
            error,
        })?
        .connect_timeout(dial_timeout)
        .tcp_nodelay(true);
    endpoint.connect().await.map_err(|error| {
        let why = deepest(&error);
        ConnectError::Unreachable(vec![(url.to_string(), why)])
    })
}

/// tonic's own text is "transport error"; the reason is at the bottom.
fn deepest(error: &dyn std::error::Error) -> String {
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
        let urls = endpoints("b:2, http://a:1").unwrap();
        let texts: Vec<_> = urls.iter().map(MemberUrl::as_str).collect();
        assert_eq!(texts, ["http://b:2", "http://a:1"]);
        assert!(matches!(endpoints("https://a:1"), Err(UrlError::Tls(_))));
        assert!(endpoints("").is_err());
    }
}
