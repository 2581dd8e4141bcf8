//! The initial cluster: who its members are and where.
//!
//! Promise: the rules and texts are etcd's; URLs are compared as text, without asking DNS.
//! Not known here: member ids, and whether a data directory makes all this irrelevant.

use std::collections::BTreeMap;

use super::url::{MemberUrl, UrlError};

/// `name=url,name=url`, by name; the URLs of a member are sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialCluster {
    members: BTreeMap<String, Vec<MemberUrl>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    #[error("initial cluster unset")]
    Unset,
    #[error("{name:?}: {error}")]
    Url { name: String, error: UrlError },
    #[error("couldn't find local name {name:?} in the initial cluster configuration")]
    NoLocalName { name: String },
    #[error("initial cluster {cluster} has duplicate url")]
    DuplicateUrl { cluster: String },
    #[error(
        "--initial-cluster has {missing} but missing from --initial-advertise-peer-urls={advertised}"
    )]
    NotAdvertised { missing: String, advertised: String },
    #[error(
        "--initial-advertise-peer-urls has {missing} but missing from --initial-cluster={ours}"
    )]
    NotInCluster { missing: String, ours: String },
}

impl InitialCluster {
    pub fn parse(given: &str) -> Result<Self, ClusterError> {
        let mut members: BTreeMap<String, Vec<MemberUrl>> = BTreeMap::new();
        for pair in given.split(',').filter(|pair| !pair.is_empty()) {
            let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
            let url = MemberUrl::parse(url).map_err(|error| ClusterError::Url {
                name: name.to_owned(),
                error,
            })?;
            members.entry(name.to_owned()).or_default().push(url);
        }
        members.values_mut().for_each(|urls| urls.sort());
        if members.is_empty() {
            Err(ClusterError::Unset)
        } else {
            Ok(Self { members })
        }
    }

    /// A cluster of one.
    pub fn of(name: &str, urls: &[MemberUrl]) -> Self {
        Self {
            members: BTreeMap::from([(name.to_owned(), urls.to_vec())]),
        }
    }

    /// In order of names.
    pub fn members(&self) -> impl ExactSizeIterator<Item = (&str, &[MemberUrl])> {
        self.members
            .iter()
            .map(|(name, urls)| (name.as_str(), urls.as_slice()))
    }

    /// What must hold before a new directory is filled: the cluster has this member, under
    /// exactly the peer URLs that it advertises, and no URL belongs to two.
    pub fn check(&self, name: &str, advertised: &[MemberUrl]) -> Result<(), ClusterError> {
        let ours = self.urls_of(name)?;
        let missing: Vec<_> = ours
            .iter()
            .filter(|url| !advertised.contains(url))
            .collect();
        if !missing.is_empty() {
            let missing = missing.iter().map(|url| format!("{name}={url}"));
            return Err(ClusterError::NotAdvertised {
                missing: missing.collect::<Vec<_>>().join(","),
                advertised: join(advertised.iter().map(MemberUrl::to_string)),
            });
        }
        let missing: Vec<_> = advertised
            .iter()
            .filter(|url| !ours.contains(url))
            .collect();
        if !missing.is_empty() {
            return Err(ClusterError::NotInCluster {
                missing: join(missing.iter().map(|url| url.to_string())),
                ours: join(advertised.iter().map(|url| format!("{name}={url}"))),
            });
        }
        self.check_distinct()
    }

    /// What must hold before a member of this name joins a cluster that exists.
    pub fn check_join(&self, name: &str) -> Result<(), ClusterError> {
        self.urls_of(name)?;
        self.check_distinct()
    }

    /// The peer URLs of the member of this name.
    pub fn urls_of(&self, name: &str) -> Result<&[MemberUrl], ClusterError> {
        let urls = self.members.get(name).map(Vec::as_slice);
        urls.ok_or_else(|| ClusterError::NoLocalName {
            name: name.to_owned(),
        })
    }

    fn check_distinct(&self) -> Result<(), ClusterError> {
        let mut urls: Vec<_> = self.members.values().flatten().collect();
        let all = urls.len();
        urls.sort();
        urls.dedup();
        if urls.len() == all {
            return Ok(());
        }
        let pairs = self.members.iter();
        let pairs = pairs.flat_map(|(name, urls)| urls.iter().map(move |u| format!("{name}={u}")));
        Err(ClusterError::DuplicateUrl {
            cluster: join(pairs),
        })
    }
}

fn join(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "a=http://127.0.0.1:1,b=http://127.0.0.1:2,c=http://127.0.0.1:3";

    fn advertised(text: &str) -> Vec<MemberUrl> {
        MemberUrl::parse_list(text).unwrap()
    }

    #[test]
    fn a_cluster_that_matches_its_member_is_taken() {
        let cluster = InitialCluster::parse(THREE).unwrap();
        cluster
            .check("b", &advertised("http://127.0.0.1:2"))
            .unwrap();
        assert_eq!(cluster.members().len(), 3);
        let two_urls = InitialCluster::parse("a=http://h:2,a=http://h:1,").unwrap();
        two_urls
            .check("a", &advertised("http://h:1,http://h:2"))
            .unwrap();
    }

    #[test]
    fn every_mismatch_has_etcds_text() {
        let cluster = InitialCluster::parse(THREE).unwrap();
        let says = |name: &str, urls: &str| {
            cluster
                .check(name, &advertised(urls))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            says("d", "http://127.0.0.1:2"),
            r#"couldn't find local name "d" in the initial cluster configuration"#
        );
        assert_eq!(
            says("a", "http://127.0.0.1:9"),
            "--initial-cluster has a=http://127.0.0.1:1 but missing from \
             --initial-advertise-peer-urls=http://127.0.0.1:9"
        );
        assert_eq!(
            says("a", "http://127.0.0.1:1,http://127.0.0.1:9"),
            "--initial-advertise-peer-urls has http://127.0.0.1:9 but missing from \
             --initial-cluster=a=http://127.0.0.1:1,a=http://127.0.0.1:9"
        );
        let doubled = InitialCluster::parse("a=http://h:1,b=http://h:1").unwrap();
        assert_eq!(
            doubled
                .check("a", &advertised("http://h:1"))
                .unwrap_err()
                .to_string(),
            "initial cluster a=http://h:1,b=http://h:1 has duplicate url"
        );
    }

    #[test]
    fn what_does_not_parse_names_the_member() {
        let error = InitialCluster::parse("a=http://h:1,b=h:2")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(r#""b": URL scheme"#), "{error}");
        assert!(InitialCluster::parse("a").is_err());
        assert_eq!(InitialCluster::parse("").unwrap_err(), ClusterError::Unset);
    }
}
