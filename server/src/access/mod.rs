//! Who may do what: the one door that every request passes.
//!
//! Promise: nothing reaches the proposer or the store's records without a `Permitted`, and only
//! this module makes one. A check that somebody forgets does not compile, and neither does a
//! request that does not say what it needs.
//! Not known here: gRPC, raft, how an identity was proven.

mod backoff;
mod door;
mod identity;
mod jwt;
mod need;
mod passwords;
mod permitted;
mod rules;
mod sessions;

pub use door::{Door, USER_NAME_BYTES_MAX};
pub use identity::{Identity, Secret};
pub use jwt::{JwtOptions, JwtTokens, KeyError, Method, VerifyOnly};
pub(crate) use need::guarded;
pub use need::{Guarded, Need};
pub use passwords::{BadHash, PasswordError, Passwords, Verified, brought};
pub use permitted::{Caller, Internal, Permitted};
pub(crate) use rules::Asking;
pub use rules::Rules;
pub use sessions::{NewToken, RulesVersion, Sessions, TOKEN_TTL, token_index};

/// Why a request may not pass. The texts that clients see are in `rpc::status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(
    clippy::enum_variant_names,
    reason = "etcd's names are what everyone looks for"
)]
pub enum Denied {
    #[error("permission denied")]
    PermissionDenied,
    /// Nothing came that says who asks.
    #[error("user name is empty")]
    UserEmpty,
    #[error("user name not found")]
    UserNotFound,
    /// The rules have changed since the identity was proven.
    #[error("revision of auth store is old")]
    AuthOldRevision,
    #[error("invalid auth token")]
    InvalidAuthToken,
}
