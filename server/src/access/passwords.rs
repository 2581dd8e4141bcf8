//! Passwords: hashed and verified beside the threads that serve connections.
//!
//! Promise: only so many hashes are computed at a time, each takes 19 MiB; who asks for more than
//! can wait is refused. A user that does not exist costs as much time as one that does. No
//! password is kept, printed or logged.
//!
//! Parameters: OWASP's for Argon2id (19 MiB, two passes, one lane).

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc};
use argon2::{Algorithm, Argon2, Params, Version};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::backoff::{Backoff, LineFull};
use super::identity::Secret;
use crate::clock;
use crate::tables::auth::PasswordHash;

const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// What a hash that somebody brings may cost at most.
const MEMORY_KIB_MAX: u32 = 64 * 1024;
const PASSES_MAX: u32 = 8;
const LANES_MAX: u32 = 4;
const BCRYPT_COST_MAX: u32 = 14;

const AT_A_TIME_MAX: usize = 4;
/// Requests that wait for their turn.
const WAITING_MAX: usize = 256;

/// Cloning shares it.
#[derive(Clone)]
pub struct Passwords {
    shared: Arc<Shared>,
}

struct Shared {
    turns: Semaphore,
    /// A place for everyone who computes or waits.
    places: Semaphore,
    backoff: Mutex<Backoff>,
    /// Of a password that nobody knows.
    nobody: OnceLock<PasswordHash>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    #[error("too many requests")]
    TooMany,
    /// The process ends, or the operating system gave no random number.
    #[error("server stopped")]
    Stopped,
}

/// What came of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    Wrong,
    Right,
    /// Right, and the hash is not what is made today.
    RightAndOutdated,
}

/// A hash that was brought along cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither a bcrypt hash nor an Argon2id one of acceptable cost")]
pub struct BadHash;

impl Default for Passwords {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Shared {
            turns: Semaphore::new(cores.min(AT_A_TIME_MAX)),
            places: Semaphore::new(WAITING_MAX),
            backoff: Mutex::default(),
            nobody: OnceLock::new(),
        };
        Passwords {
            shared: Arc::new(shared),
        }
    }
}

impl Passwords {
    pub async fn hash(&self, password: Secret) -> Result<PasswordHash, PasswordError> {
        let hashed = self.in_turn(move |_| hash(&password)).await?;
        hashed.ok_or(PasswordError::Stopped)
    }

    /// Whether this is the password; `hash` is that of the user, if there is one. After failures
    /// the answer takes its time.
    pub async fn verify(
        &self,
        user: &str,
        source: Option<IpAddr>,
        password: Secret,
        hash: Option<PasswordHash>,
    ) -> Result<Verified, PasswordError> {
        let begun = self
            .shared
            .backoff
            .lock()
            .begin(user, source, clock::monotonic());
        let wait = begun.map_err(|LineFull| PasswordError::TooMany)?;
        if wait > Duration::ZERO {
            tokio::time::sleep(wait).await;
        }
        let verified = self
            .in_turn(move |shared| match hash {
                Some(hash) => verify(&password, &hash),
                None => {
                    verify(&password, shared.nobody());
                    Verified::Wrong
                }
            })
            .await?;
        if verified != Verified::Wrong {
            self.shared.backoff.lock().succeeded(user, source);
        }
        Ok(verified)
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let _place = self
            .shared
            .places
            .try_acquire()
            .map_err(|_| PasswordError::TooMany)?;
        let turn = self.shared.turns.acquire().await;
        let turn = turn.map_err(|_| PasswordError::Stopped)?;
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        drop(turn);
        done.map_err(|_| PasswordError::Stopped)
    }
}

impl Shared {
    fn nobody(&self) -> &PasswordHash {
        self.nobody.get_or_init(|| {
            let made = hash(&Secret::new(""));
            made.unwrap_or_else(|| PasswordHash::new(String::new()))
        })
    }
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None);
    let params = params.expect("these numbers are within Argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// None if the operating system gave no salt.
fn hash(password: &Secret) -> Option<PasswordHash> {
    let hash: phc::PasswordHash = argon2().hash_password(password.expose().as_bytes()).ok()?;
    Some(PasswordHash::new(hash.to_string()))
}

fn verify(password: &Secret, hash: &PasswordHash) -> Verified {
    let password = password.expose().as_bytes();
    if is_bcrypt(hash.expose()) {
        return match bcrypt::verify(password, hash.expose()) {
            Ok(true) => Verified::RightAndOutdated,
            Ok(false) | Err(_) => Verified::Wrong,
        };
    }
    let Ok(parsed) = phc::PasswordHash::new(hash.expose()) else {
        return Verified::Wrong;
    };
    match argon2().verify_password(password, &parsed) {
        Ok(()) if is_todays(&parsed) => Verified::Right,
        Ok(()) => Verified::RightAndOutdated,
        Err(_) => Verified::Wrong,
    }
}

fn is_todays(hash: &phc::PasswordHash) -> bool {
    Params::try_from(hash).is_ok_and(|params| {
        (params.m_cost(), params.t_cost(), params.p_cost()) == (MEMORY_KIB, PASSES, LANES)
    })
}

/// A hash that somebody brings, for instance out of an etcd: one that can be verified, at a cost
/// that this member can bear.
pub fn brought(hash: &str) -> Result<PasswordHash, BadHash> {
    let acceptable = if is_bcrypt(hash) {
        let parts: bcrypt::HashParts = hash.parse().map_err(|_| BadHash)?;
        parts.get_cost() <= BCRYPT_COST_MAX
    } else {
        let parsed = phc::PasswordHash::new(hash).map_err(|_| BadHash)?;
        let params = Params::try_from(&parsed).map_err(|_| BadHash)?;
        parsed.algorithm.as_str() == "argon2id"
            && parsed.hash.is_some()
            && params.m_cost() <= MEMORY_KIB_MAX
            && params.t_cost() <= PASSES_MAX
            && params.p_cost() <= LANES_MAX
    };
    if acceptable {
        Ok(PasswordHash::new(hash.to_owned()))
    } else {
        Err(BadHash)
    }
}

fn is_bcrypt(hash: &str) -> bool {
    ["$2a$", "$2b$", "$2x$", "$2y$"]
        .iter()
        .any(|start| hash.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text)
    }

    #[tokio::test]
    async fn a_password_is_known_again_and_no_other_is() {
        let passwords = Passwords::default();
        let hash = passwords.hash(secret("right")).await.unwrap();
        assert!(hash.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        let verify = |password, hash| passwords.verify("alice", None, secret(password), hash);
        assert_eq!(
            verify("right", Some(hash.clone())).await,
            Ok(Verified::Right)
        );
        assert_eq!(verify("wrong", Some(hash)).await, Ok(Verified::Wrong));
        assert_eq!(verify("", None).await, Ok(Verified::Wrong));
        let empty = PasswordHash::new(String::new());
        assert_eq!(verify("", Some(empty)).await, Ok(Verified::Wrong));
    }

    #[tokio::test]
    async fn the_same_password_never_has_the_same_hash() {
        let passwords = Passwords::default();
        let one = passwords.hash(secret("right")).await.unwrap();
        assert_ne!(one, passwords.hash(secret("right")).await.unwrap());
    }

    #[test]
    fn a_hash_of_an_etcd_is_verified_and_outdated() {
        let hash = brought(&bcrypt::hash("right", 4).unwrap()).unwrap();
        assert_eq!(verify(&secret("right"), &hash), Verified::RightAndOutdated);
        assert_eq!(verify(&secret("wrong"), &hash), Verified::Wrong);
    }

    #[test]
    fn a_hash_that_costs_too_much_or_is_none_is_not_taken() {
        let weak = "$argon2i$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$MTIzNDU2Nzg5MDEyMzQ1Ng";
        let dear = "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$MTIzNDU2Nzg5MDEyMzQ1Ng";
        let slow = "$2b$31$e0MYzXyjpJS7Pd0RVvHwHeFsV0nyX1rlB5aQeXqIJNbqOmQ7dXu1m";
        for hash in [weak, dear, slow, "", "plain", "$2b$", "$argon2id$"] {
            assert_eq!(brought(hash), Err(BadHash), "{hash}");
        }
    }
}
