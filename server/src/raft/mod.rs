//! The only place that knows openraft: proposing, reading, the state machine's thread, the peer
//! protocol, membership.
//!
//! Promise: `replica::Replica`. A write is proposed at most once and answered by this member's own
//! apply; a linearizable read waits for an index that the leader confirmed after it arrived.
//! Not known here: what a command does, what is stored how.

mod connectivity;
mod consensus;
mod executor;
mod force_new;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod identity;
mod join;
mod lease;
mod link;
pub mod log_store;
mod measure;
mod membership;
mod network;
mod news;
mod node;
mod peer_service;
mod peers;
mod propose;
mod read_index;
mod replica;
#[cfg(test)]
mod sim;
mod snapshot;
mod snapshot_schedule;
mod state_machine;
pub mod types;
mod waiters;
mod wire;

pub use consensus::{Consensus, Leadership};
pub use force_new::{ForceNewError, force_new_cluster};
pub use identity::{Identity, added_member_id, cluster_id, member_id};
pub use join::{ExistingCluster, JoinError, ask_for_cluster};
pub use membership::Rules;
pub use node::{Node, NodeOptions};
/// Waiting for the next value of what this module shows as it changes.
pub use openraft::async_runtime::watch::WatchReceiver as Watched;
pub use peer_service::PeerService;
pub use peers::{Expelled, Lane, Peers};
pub use state_machine::CompactionPace;
pub use types::encode_first_membership as first_membership;
