//! Tokens that members sign: JSON Web Tokens, as etcd makes and takes them.
//!
//! Promise: a token is taken only if it is signed by the configured method with the configured key
//! and has not expired; the method that a token names is never followed. Key files are read again
//! when they change; files that cannot be used leave the key that was in force, and say so.
//! Not known here: whether the user exists.
//!
//! Source: RFC 7519, RFC 7515; etcd 3.7.1, `server/auth/jwt.go`.

mod keys;
mod method;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::identity::Secret;
use crate::clock;

pub use keys::KeyError;
use keys::Keys;
pub use method::Method;

/// Between two looks at the key files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What `--auth-token=jwt,…` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtOptions {
    pub method: Method,
    pub public_key: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
    pub ttl: Duration,
}

/// Cloning shares the keys.
#[derive(Clone)]
pub struct JwtTokens {
    shared: Arc<Shared>,
}

struct Shared {
    options: JwtOptions,
    keys: ArcSwap<Keys>,
    /// What the files looked like when they were read last.
    seen: Mutex<Vec<Stamp>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: Option<u64>,
}

/// This member can check tokens and has no key to sign any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("token signing attempted with verify-only key")]
pub struct VerifyOnly;

#[derive(Serialize, Deserialize)]
struct JoseHeader {
    alg: String,
    #[serde(default)]
    typ: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    exp: i64,
    revision: u64,
    username: &'a str,
}

#[derive(Deserialize)]
struct Claimed {
    username: String,
    /// JSON knows no integers.
    revision: f64,
    exp: Option<f64>,
    nbf: Option<f64>,
}

impl JwtTokens {
    pub fn open(options: JwtOptions) -> Result<Self, KeyError> {
        let seen = stamps(&options);
        let keys = read(&options)?;
        let shared = Shared {
            options,
            keys: ArcSwap::from_pointee(keys),
            seen: Mutex::new(seen),
        };
        Ok(JwtTokens {
            shared: Arc::new(shared),
        })
    }

    /// A token that says that this user proved who it is at this auth revision.
    pub fn sign(&self, user: &str, auth_revision: u64) -> Result<String, VerifyOnly> {
        let options = &self.shared.options;
        let ttl = i64::try_from(options.ttl.as_secs()).unwrap_or(i64::MAX);
        let header = JoseHeader {
            alg: options.method.name().to_owned(),
            typ: "JWT".to_owned(),
        };
        let claims = Claims {
            exp: (clock::wall_ms() / 1000).saturating_add(ttl),
            revision: auth_revision,
            username: user,
        };
        let json = |json: Result<Vec<u8>, serde_json::Error>| {
            URL_SAFE_NO_PAD.encode(json.expect("texts and numbers are always JSON"))
        };
        let header = json(serde_json::to_vec(&header));
        let message = format!("{header}.{}", json(serde_json::to_vec(&claims)));
        let signature = self.shared.keys.load().sign(message.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(signature.ok_or(VerifyOnly)?);
        Ok(format!("{message}.{signature}"))
    }

    /// The user and the auth revision that a valid token says.
    #[must_use]
    pub fn check(&self, token: &Secret) -> Option<(Arc<str>, u64)> {
        let (message, signature) = token.expose().rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let header: JoseHeader = decode(header)?;
        if header.alg != self.shared.options.method.name() {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let keys = self.shared.keys.load();
        if !keys.verifies(message.as_bytes(), &signature) {
            return None;
        }
        let claimed: Claimed = decode(claims)?;
        #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^53")]
        let now = clock::wall_ms() as f64 / 1000.0;
        let in_time =
            claimed.exp.is_none_or(|exp| now < exp) && claimed.nbf.is_none_or(|nbf| now >= nbf);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number that is no revision becomes the nearest one"
        )]
        let revision = claimed.revision as u64;
        in_time.then(|| (claimed.username.into(), revision))
    }

    /// Reads the key files again whenever they change; never returns.
    pub async fn follow_files(self) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        loop {
            looks.tick().await;
            let tokens = self.clone();
            // It fails only if the process ends.
            let _ = tokio::task::spawn_blocking(move || tokens.look()).await;
        }
    }

    fn look(&self) {
        let options = &self.shared.options;
        let now = stamps(options);
        {
            let mut seen = self.shared.seen.lock();
            if *seen == now {
                return;
            }
            *seen = now;
        }
        match read(options) {
            Ok(keys) => {
                self.shared.keys.store(Arc::new(keys));
                tracing::info!("the key files of --auth-token have changed and were read again");
            }
            Err(error) => tracing::warn!(
                %error,
                "the key files of --auth-token have changed and cannot be used; \
                 the key in force stays"
            ),
        }
    }
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn read(options: &JwtOptions) -> Result<Keys, KeyError> {
    let read = |path: &Option<PathBuf>| -> Result<Option<Vec<u8>>, KeyError> {
        let Some(path) = path else { return Ok(None) };
        let bytes = fs::read(path).map_err(|source| KeyError::Unread {
            path: path.clone(),
            source,
        })?;
        Ok(Some(bytes))
    };
    let (public, private) = (read(&options.public_key)?, read(&options.private_key)?);
    Keys::new(options.method, public.as_deref(), private.as_deref())
}

fn stamps(options: &JwtOptions) -> Vec<Stamp> {
    let paths = options.public_key.iter().chain(&options.private_key);
    paths
        .map(|path| {
            let metadata = fs::metadata(path).ok();
            Stamp {
                modified: metadata.as_ref().and_then(|it| it.modified().ok()),
                bytes: metadata.map(|it| it.len()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
