//! The URLs that flags carry: where to listen, and what to tell others.
//!
//! Promise: a [`MemberUrl`] is `http(s)://host:port` or `unix(s)://path`; its text is what etcd would
//! print for it, since member ids are hashes of such texts.
//! Not known here: which flag a URL came from, and sockets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// One URL out of a comma list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberUrl {
    text: String,
    place: Place,
}

/// What a URL points at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The host without brackets.
    Tcp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("no valid URLs given")]
    Empty,
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(UrlText),
    #[error(r#"URL address does not have the form "host:port": {0}"#)]
    HostPort(UrlText),
    #[error("URL must not contain a path: {0}")]
    Path(UrlText),
    #[error("expected IP in URL for binding ({0})")]
    NotAnAddress(UrlText),
    #[error("unexpected empty host ({0})")]
    EmptyHost(UrlText),
    #[error("{0} stands twice")]
    Twice(UrlText),
}

/// A URL as it was given; a type of its own so that an error cannot carry anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlText(String);

impl fmt::Display for UrlText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for MemberUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl MemberUrl {
    pub fn parse(given: &str) -> Result<Self, UrlError> {
        let given = given.trim();
        let shown = || UrlText(given.to_owned());
        let Some((scheme, rest)) = given.split_once("://") else {
            return Err(UrlError::Scheme(shown()));
        };
        let scheme = scheme.to_ascii_lowercase();
        let text = format!("{scheme}://{rest}");
        match scheme.as_str() {
            "http" | "https" => {
                if rest.contains(['/', '?', '#']) {
                    return Err(UrlError::Path(shown()));
                }
                let (host, port) =
                    host_and_port(rest).ok_or_else(|| UrlError::HostPort(shown()))?;
                Ok(Self {
                    text,
                    place: Place::Tcp { host, port },
                })
            }
            "unix" | "unixs" if rest.is_empty() => Err(UrlError::EmptyHost(shown())),
            "unix" | "unixs" => Ok(Self {
                text,
                place: Place::Unix(PathBuf::from(rest)),
            }),
            _ => Err(UrlError::Scheme(shown())),
        }
    }

    /// A comma list, sorted as etcd sorts it.
    pub fn parse_list(given: &str) -> Result<Vec<Self>, UrlError> {
        let mut urls = Vec::new();
        for one in given.split(',') {
            let url = Self::parse(one)?;
            if urls.contains(&url) {
                return Err(UrlError::Twice(UrlText(url.text)));
            }
            urls.push(url);
        }
        urls.sort();
        if urls.is_empty() {
            Err(UrlError::Empty)
        } else {
            Ok(urls)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether TLS is spoken there.
    pub fn is_secure(&self) -> bool {
        self.text.starts_with("https://") || self.text.starts_with("unixs://")
    }

    /// Listening takes an address, since a name may mean several of them.
    pub fn check_bindable(&self) -> Result<(), UrlError> {
        match &self.place {
            Place::Tcp { host, .. } if !host.is_empty() && bind_ip(host).is_none() => {
                Err(UrlError::NotAnAddress(UrlText(self.text.clone())))
            }
            _ => Ok(()),
        }
    }

    /// Others must be able to dial what we tell them.
    pub fn check_dialable(&self) -> Result<(), UrlError> {
        match &self.place {
            Place::Tcp { host, .. } if host.is_empty() => {
                Err(UrlError::EmptyHost(UrlText(self.text.clone())))
            }
            _ => Ok(()),
        }
    }

    /// The address, where it names one.
    pub fn ip(&self) -> Option<IpAddr> {
        match &self.place {
            Place::Tcp { host, .. } => host.parse().ok(),
            Place::Unix(_) => None,
        }
    }

    /// True when nobody outside this machine reaches it.
    pub fn is_local(&self) -> bool {
        match &self.place {
            Place::Tcp { host, .. } => bind_ip(host).is_some_and(|ip| ip.is_loopback()),
            Place::Unix(_) => true,
        }
    }
}

impl Place {
    /// The socket address to listen on; `localhost` is 127.0.0.1 and an empty host every address.
    pub fn bind_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { host, port } if host.is_empty() => {
                Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), *port))
            }
            Self::Tcp { host, port } => Some(SocketAddr::new(bind_ip(host)?, *port)),
            Self::Unix(_) => None,
        }
    }
}

fn bind_ip(host: &str) -> Option<IpAddr> {
    if host == "localhost" {
        return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    host.parse().ok()
}

fn host_and_port(authority: &str) -> Option<(String, u16)> {
    let (host, port) = authority.rsplit_once(':')?;
    let port = port
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| port.parse().ok())??;
    if let Some(inner) = host.strip_prefix('[') {
        return Some((inner.strip_suffix(']')?.to_owned(), port));
    }
    let plain = !host.contains([':', '[', ']', '@', ' ']);
    plain.then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_keep_their_text_and_lose_their_spaces() {
        let url = MemberUrl::parse(" HTTP://localhost:2379 ").unwrap();
        assert_eq!(url.as_str(), "http://localhost:2379");
        assert_eq!(
            url.place(),
            &Place::Tcp {
                host: "localhost".into(),
                port: 2379
            }
        );
        assert!(url.is_local() && !url.is_secure());
        assert!(MemberUrl::parse("https://h:1").unwrap().is_secure());
        assert!(MemberUrl::parse("unixs:///s").unwrap().is_secure());
    }

    #[test]
    fn every_family_of_address_is_taken() {
        for (given, bound) in [
            ("http://0.0.0.0:2379", "0.0.0.0:2379"),
            ("http://[::1]:2379", "[::1]:2379"),
            ("http://:2379", "0.0.0.0:2379"),
            ("http://localhost:0", "127.0.0.1:0"),
        ] {
            let url = MemberUrl::parse(given).unwrap();
            url.check_bindable().unwrap();
            assert_eq!(url.place().bind_address().unwrap().to_string(), bound);
        }
        let unix = MemberUrl::parse("unix:///run/sealkv.sock").unwrap();
        assert_eq!(unix.place(), &Place::Unix("/run/sealkv.sock".into()));
    }

    #[test]
    fn what_is_not_a_url_says_why() {
        for (given, says) in [
            ("localhost:2379", "URL scheme must be"),
            ("ftp://localhost:2379", "URL scheme must be"),
            ("http://localhost", "host:port"),
            ("http://localhost:+1", "host:port"),
            ("http://localhost:99999", "host:port"),
            ("http://::1:2379", "host:port"),
            ("http://localhost:2379/x", "must not contain a path"),
            ("", "URL scheme must be"),
        ] {
            let error = MemberUrl::parse(given).unwrap_err().to_string();
            assert!(error.contains(says), "{given}: {error}");
        }
        assert!(
            MemberUrl::parse("http://example.org:1")
                .unwrap()
                .check_bindable()
                .is_err()
        );
        assert!(
            MemberUrl::parse("http://:1")
                .unwrap()
                .check_dialable()
                .is_err()
        );
    }

    #[test]
    fn lists_are_sorted_and_refuse_doubles() {
        let list = MemberUrl::parse_list("http://b:1,http://a:1").unwrap();
        assert_eq!(list[0].as_str(), "http://a:1");
        assert!(matches!(
            MemberUrl::parse_list("http://a:1,http://a:1"),
            Err(UrlError::Twice(_))
        ));
        assert!(MemberUrl::parse_list("http://a:1,").is_err());
    }
}
