//! Who may do what: the one door that every request passes.
//!
//! Promise: nothing reaches the proposer or the store's records without a `Permitted`, and only
//! this module makes one. A check that somebody forgets does not compile.
//! Not known here: gRPC, raft, how an identity was proven.

mod identity;
mod permitted;

pub use identity::Identity;
pub use permitted::{Internal, Permitted};

/// Why a request may not pass. The texts that clients see are in `rpc::status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("permission denied")]
    PermissionDenied,
}

/// The door. While authentication is off (there is no way to turn it on yet) it lets everyone
/// pass, as etcd does.
#[derive(Clone, Debug, Default)]
pub struct Door;

impl Door {
    #[must_use]
    pub fn new() -> Self {
        Door
    }

    /// Lets `identity` make `request`, or says why not.
    pub fn permit<T>(&self, identity: &Identity, request: T) -> Result<Permitted<T>, Denied> {
        match identity {
            Identity::Anyone => Ok(Permitted::by_door(request)),
        }
    }
}
