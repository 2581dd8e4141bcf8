//! Who may do what: the one door that every request passes.
//!
//! Promise: nothing reaches the proposer or the store's records without a `Permitted`, and only
//! this module makes one. A check that somebody forgets does not compile, and neither does a
//! request that does not say what it needs.
//! Not known here: gRPC, raft, how an identity was proven.

mod identity;
mod need;
mod permitted;

pub use identity::{Identity, Secret};
pub(crate) use need::guarded;
pub use need::{Guarded, Need};
pub use permitted::{Caller, Internal, Permitted};

/// Why a request may not pass. The texts that clients see are in `rpc::status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("permission denied")]
    PermissionDenied,
}

/// The door. While authentication is off (there is no way to turn it on yet) it lets everyone
/// pass, whatever came with the request, as etcd does.
#[derive(Clone, Debug, Default)]
pub struct Door;

impl Door {
    #[must_use]
    pub fn new() -> Self {
        Door
    }

    /// Lets `identity` make `request`, or says why not.
    pub fn permit<T: Guarded>(
        &self,
        _identity: &Identity,
        request: T,
    ) -> Result<Permitted<T>, Denied> {
        Ok(Permitted::by_door(Caller::default(), request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Compact;

    #[test]
    fn the_door_lets_everyone_pass_while_authentication_is_off() {
        let compact = Compact { revision: 7 };
        let permitted = Door::new()
            .permit(&Identity::Anyone, compact)
            .expect("authentication is off");
        assert_eq!(permitted.request().revision, 7);
        assert_eq!(
            (permitted.reason(), permitted.caller()),
            (None, Some(&Caller::default()))
        );
    }
}
