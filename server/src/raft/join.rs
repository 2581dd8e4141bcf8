//! Finding one's place in a cluster that exists: asking its members before there is an identity.
//!
//! Promise: nothing is made or changed here or there; a member whose flags do not describe the
//! cluster is refused in etcd's words.
//! Source: etcd 3.7.1 `server/etcdserver/cluster_util.go` (GetClusterFromRemotePeers),
//! `server/etcdserver/api/membership/cluster.go` (ValidateClusterAndAssignIDs).
//! Not known here: the data directory.

use std::fmt;
use std::time::Duration;

use proto::sealkv::peer as pb;
use proto::sealkv::peer::peer_client::PeerClient;
use thiserror::Error;
use tonic::Status;

use super::identity::{PROTOCOL_MAX, PROTOCOL_MIN};
use super::link::Dial;
use crate::tls::Outbound;

/// How long each of the listed peers may take to answer, connecting included.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A cluster as one of its members describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingCluster {
    pub cluster_id: u64,
    /// By id.
    pub members: Vec<KnownMember>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownMember {
    pub id: u64,
    pub name: String,
    /// Sorted.
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}

/// Why there is no place for a member with these flags. etcd's texts.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum JoinError {
    #[error(
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from \
         the given URLs"
    )]
    NobodyAnswers,
    #[error("error validating peerURLs {cluster}: member count is unequal")]
    MemberCount { cluster: ExistingCluster },
    #[error(
        "error validating peerURLs {cluster}: PeerURLs: no match found for existing member \
         ({id:x}, [{}])", urls.join(" ")
    )]
    NoMatch {
        cluster: ExistingCluster,
        id: u64,
        urls: Vec<String>,
    },
    #[error("incompatible with current running cluster")]
    Incompatible,
    #[error("membership: too many learner members in cluster")]
    TooManyLearners,
}

/// Asks the listed peers, one after the other, until one describes the cluster.
pub async fn ask_for_cluster(
    peer_urls: &[String],
    election_timeout: Duration,
    way: Outbound,
) -> Result<ExistingCluster, JoinError> {
    let dial = Dial::Network {
        election_timeout,
        way,
    };
    for url in peer_urls {
        let asked = tokio::time::timeout(ANSWER_WITHIN, members_at(&dial, url)).await;
        match asked {
            Ok(Ok(answer)) if !answer.members.is_empty() => {
                if answer.protocol_min > PROTOCOL_MAX || answer.protocol_max < PROTOCOL_MIN {
                    return Err(JoinError::Incompatible);
                }
                return Ok(ExistingCluster::from_wire(answer));
            }
            Ok(Ok(_)) => tracing::warn!(address = url, "a peer belongs to no cluster yet"),
            Ok(Err(status)) => tracing::warn!(
                address = url,
                error = status.message(),
                "failed to get cluster response"
            ),
            Err(_) => tracing::warn!(address = url, "failed to get cluster response in time"),
        }
    }
    Err(JoinError::NobodyAnswers)
}

async fn members_at(dial: &Dial, url: &str) -> Result<pb::MembersResponse, Status> {
    let mut client = PeerClient::new(dial.dial(url)?);
    let answer = client.members(pb::MembersRequest {}).await?;
    Ok(answer.into_inner())
}

impl ExistingCluster {
    /// The id of the member with these peer URLs, if `listed`, the URLs of every member by the
    /// flags, describes this cluster.
    pub fn place_of(
        &self,
        own_urls: &[String],
        listed: &[Vec<String>],
        learners_max: usize,
    ) -> Result<u64, JoinError> {
        let cluster = || self.clone();
        if self.members.len() != listed.len() {
            return Err(JoinError::MemberCount { cluster: cluster() });
        }
        let no_match = |member: &KnownMember| JoinError::NoMatch {
            cluster: cluster(),
            id: member.id,
            urls: member.peer_urls.clone(),
        };
        let unlisted = self
            .members
            .iter()
            .find(|member| !listed.iter().any(|urls| same(urls, &member.peer_urls)));
        if let Some(member) = unlisted {
            return Err(no_match(member));
        }
        if self.members.iter().filter(|m| m.is_learner).count() > learners_max {
            return Err(JoinError::TooManyLearners);
        }
        // As many are listed as there are, and every one there is is listed.
        let own = self.members.iter().find(|m| same(&m.peer_urls, own_urls));
        own.map(|member| member.id)
            .ok_or(JoinError::MemberCount { cluster: cluster() })
    }

    fn from_wire(answer: pb::MembersResponse) -> Self {
        let members = answer.members.into_iter().map(|member| {
            let mut peer_urls = member.peer_urls;
            peer_urls.sort_unstable();
            KnownMember {
                id: member.id,
                name: member.name,
                peer_urls,
                client_urls: member.client_urls,
                is_learner: member.is_learner,
            }
        });
        Self {
            cluster_id: answer.cluster_id,
            members: members.collect(),
        }
    }
}

fn same(urls: &[String], others: &[String]) -> bool {
    urls.len() == others.len() && urls.iter().all(|url| others.contains(url))
}

/// As etcd prints a cluster into its errors.
impl fmt::Display for ExistingCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.members.iter().map(|member| {
            format!(
                "&{{ID:{:x} RaftAttributes:{{PeerURLs:[{}] IsLearner:{}}} \
                 Attributes:{{Name:{} ClientURLs:[{}]}}}}",
                member.id,
                member.peer_urls.join(" "),
                member.is_learner,
                member.name,
                member.client_urls.join(" "),
            )
        });
        write!(
            f,
            "{{ClusterID:{:x} Members:[{}] RemovedMemberIDs:[]}}",
            self.cluster_id,
            members.collect::<Vec<_>>().join(" ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn cluster() -> ExistingCluster {
        let member = |id, peers: &str, is_learner| KnownMember {
            id,
            name: format!("m{id}"),
            peer_urls: urls(peers),
            client_urls: urls("http://c:1"),
            is_learner,
        };
        ExistingCluster {
            cluster_id: 0xc1,
            members: vec![
                member(1, "http://a:1 http://a:2", false),
                member(2, "http://b:1", true),
            ],
        }
    }

    #[test]
    fn a_member_finds_itself_by_its_peer_urls() {
        let listed = [urls("http://b:1"), urls("http://a:2 http://a:1")];
        let place = |own: &str| cluster().place_of(&urls(own), &listed, 1);
        assert_eq!(place("http://b:1"), Ok(2));
        assert_eq!(place("http://a:2 http://a:1"), Ok(1));
    }

    #[test]
    fn flags_that_describe_another_cluster_are_refused_in_etcds_words() {
        let says = |listed: &[&str], learners| {
            let listed: Vec<_> = listed.iter().map(|text| urls(text)).collect();
            let error = cluster().place_of(&urls("http://b:1"), &listed, learners);
            error.unwrap_err().to_string()
        };
        let shown = "error validating peerURLs {ClusterID:c1 Members:[&{ID:1 \
                     RaftAttributes:{PeerURLs:[http://a:1 http://a:2] IsLearner:false} \
                     Attributes:{Name:m1 ClientURLs:[http://c:1]}} &{ID:2 \
                     RaftAttributes:{PeerURLs:[http://b:1] IsLearner:true} \
                     Attributes:{Name:m2 ClientURLs:[http://c:1]}}] RemovedMemberIDs:[]}";
        assert_eq!(
            says(&["http://b:1"], 1),
            format!("{shown}: member count is unequal")
        );
        assert_eq!(
            says(&["http://b:1", "http://a:1"], 1),
            format!(
                "{shown}: PeerURLs: no match found for existing member (1, [http://a:1 \
                 http://a:2])"
            )
        );
        assert_eq!(
            says(&["http://b:1", "http://a:1 http://a:2"], 0),
            "membership: too many learner members in cluster"
        );
    }
}
