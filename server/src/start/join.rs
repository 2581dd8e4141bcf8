//! A member without data that joins a cluster: who it is to be there.
//!
//! Promise: it is asked before anything is written; a member id that has been in use already is
//! not taken up again by another directory.

use super::StartError;
use super::bootstrap::Members;
use crate::config::{ClusterState, Config, MemberUrl};
use crate::raft::{ExistingCluster, ask_for_cluster};
use crate::storage::DataDir;
use crate::tls::Outbound;

/// What the members of a cluster say of it and of the one that joins.
pub(super) struct Place {
    pub(super) cluster_id: u64,
    pub(super) member_id: u64,
    pub(super) members: Members,
}

/// None for a member that has data, or bootstraps a cluster with the others.
pub(super) async fn find(
    config: &Config,
    directory: &DataDir,
    to_peers: Outbound,
) -> Result<Option<Place>, StartError> {
    if directory.has_state() || config.initial_cluster_state == ClusterState::New {
        return Ok(None);
    }
    config.check_join().map_err(StartError::Config)?;
    let mut remote: Vec<String> = Vec::new();
    let (mut own, mut listed) = (Vec::new(), Vec::new());
    for (name, urls) in config.initial_cluster.members() {
        let urls: Vec<String> = urls.iter().map(MemberUrl::to_string).collect();
        if name == config.name {
            own.clone_from(&urls);
        } else {
            remote.extend(urls.iter().cloned());
        }
        listed.push(urls);
    }
    remote.sort_unstable();
    let cluster = ask_for_cluster(&remote, config.election_timeout, to_peers).await?;
    let member_id = cluster.place_of(&own, &listed, config.learners_max)?;
    refuse_used(&cluster, member_id)?;
    Ok(Some(Place {
        cluster_id: cluster.cluster_id,
        member_id,
        members: others(cluster, member_id),
    }))
}

/// A member that has published itself has a log and votes, and these are not here.
fn refuse_used(cluster: &ExistingCluster, member: u64) -> Result<(), StartError> {
    let mut known = cluster.members.iter();
    if known.any(|known| known.id == member && !known.client_urls.is_empty()) {
        return Err(StartError::AlreadyBootstrapped { member });
    }
    Ok(())
}

fn others(cluster: ExistingCluster, own: u64) -> Members {
    let others = cluster.members.into_iter().filter(|known| known.id != own);
    others
        .map(|known| (known.id, (known.name, known.peer_urls)))
        .collect()
}
