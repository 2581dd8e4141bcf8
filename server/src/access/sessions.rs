//! Simple tokens that this member knows, and news of changed rules.
//!
//! Promise: of a token only the SHA-256 of its random part is kept. A token ends when nobody has
//! used it here for its time, when its user is deleted or gets another password, and when
//! authentication is turned off; the last three follow from the replicated rules, so they hold on
//! every member at once. Tokens are in memory alone: they do not outlive the process, as in etcd.
//! Not known here: how a user proves who it is.
//!
//! Source: etcd 3.7.1, `server/auth/simple_token.go`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::identity::Secret;
use crate::apply::Login;
use crate::clock;
use crate::tables::auth::AuthTable;

/// `--auth-token-ttl`, if it is not given.
pub const TOKEN_TTL: Duration = Duration::from_secs(300);

/// Letters of the random part, as etcd's.
const RANDOM_LETTERS: usize = 16;
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
/// Bytes of chance from here on would make some letters likelier than others.
const FAIR_BYTES: u8 = 208;
/// Between two looks for tokens that have ended.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Cloning shares it.
#[derive(Clone, Debug)]
pub struct Sessions {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ttl: Duration,
    tokens: RwLock<Tokens>,
    changed: watch::Sender<RulesVersion>,
}

#[derive(Debug, Default)]
struct Tokens {
    by_digest: HashMap<[u8; 32], Token>,
    swept: Duration,
}

#[derive(Debug)]
struct Token {
    user: Arc<str>,
    /// Of the entry that made it known; a part of the token.
    index: u64,
    auth_revision: u64,
    /// Milliseconds of the member's monotonic clock.
    ends_ms: AtomicU64,
}

/// Which rules are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RulesVersion {
    pub enabled: bool,
    pub auth_revision: u64,
}

impl RulesVersion {
    #[must_use]
    pub fn of(table: &AuthTable) -> Self {
        RulesVersion {
            enabled: table.is_enabled(),
            auth_revision: table.revision(),
        }
    }
}

/// The random part of a token that is to be given out. It is the token only together with the
/// index of its entry.
pub struct NewToken {
    random: String,
}

impl NewToken {
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut random = String::with_capacity(RANDOM_LETTERS);
        while random.len() < RANDOM_LETTERS {
            let mut bytes = [0; 2 * RANDOM_LETTERS];
            getrandom::fill(&mut bytes)?;
            let fair = bytes.into_iter().filter(|byte| *byte < FAIR_BYTES);
            let letters = fair.map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
            random.extend(letters.take(RANDOM_LETTERS - random.len()));
        }
        Ok(NewToken { random })
    }

    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        digest(&self.random)
    }

    #[must_use]
    pub fn into_token(self, index: u64) -> String {
        format!("{}.{index}", self.random)
    }
}

fn digest(random: &str) -> [u8; 32] {
    Sha256::digest(random.as_bytes()).into()
}

/// The index of the entry that made a simple token known, if it is one.
#[must_use]
pub fn token_index(token: &Secret) -> Option<u64> {
    Some(parts(token)?.1)
}

fn parts(token: &Secret) -> Option<(&str, u64)> {
    let (random, index) = token.expose().split_once('.')?;
    Some((random, index.parse().ok()?))
}

impl Sessions {
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        let shared = Shared {
            ttl,
            tokens: RwLock::default(),
            changed: watch::Sender::new(RulesVersion::default()),
        };
        Sessions {
            shared: Arc::new(shared),
        }
    }

    /// Takes note of what was applied. The rules are in force already.
    pub fn applied(&self, logins: &[Login], rules: &AuthTable) {
        if !logins.is_empty() {
            self.add(logins);
        }
        self.shared.changed.send_if_modified(|known| {
            let now = RulesVersion::of(rules);
            std::mem::replace(known, now) != now
        });
    }

    fn add(&self, logins: &[Login]) {
        let now = clock::monotonic();
        let ends_ms = self.ends_ms(now);
        let mut tokens = self.shared.tokens.write();
        for login in logins {
            let token = Token {
                user: Arc::clone(&login.user),
                index: login.index,
                auth_revision: login.auth_revision,
                ends_ms: AtomicU64::new(ends_ms),
            };
            tokens.by_digest.insert(login.token_sha256, token);
        }
        tokens.sweep(now);
    }

    /// Whose token this is, if it still stands under these rules; it is used, and starts its time
    /// anew.
    #[must_use]
    pub fn user_of(&self, token: &Secret, rules: &AuthTable) -> Option<Arc<str>> {
        let (random, index) = parts(token)?;
        let now = clock::monotonic();
        let tokens = self.shared.tokens.read();
        let token = tokens.by_digest.get(&digest(random))?;
        let user = rules.user(&token.user)?;
        let stands = token.index == index
            && !token.has_ended(now)
            && token.auth_revision >= rules.tokens_since()
            && token.auth_revision >= user.credentials_since;
        if !stands {
            return None;
        }
        token.ends_ms.store(self.ends_ms(now), Ordering::Relaxed);
        Some(Arc::clone(&token.user))
    }

    /// Tells when the rules change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<RulesVersion> {
        self.shared.changed.subscribe()
    }

    fn ends_ms(&self, now: Duration) -> u64 {
        millis(now.saturating_add(self.shared.ttl))
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Sessions::new(TOKEN_TTL)
    }
}

impl Tokens {
    fn sweep(&mut self, now: Duration) {
        if now.saturating_sub(self.swept) < SWEEP_INTERVAL {
            return;
        }
        self.swept = now;
        self.by_digest.retain(|_, token| !token.has_ended(now));
    }
}

impl Token {
    fn has_ended(&self, now: Duration) -> bool {
        self.ends_ms.load(Ordering::Relaxed) < millis(now)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::auth::{Password, User};

    fn rules() -> AuthTable {
        let mut table = AuthTable::default();
        table.put_user("alice", User::new(1, Password::None, 1));
        table.enable();
        table
    }

    /// Sessions that know a token of alice's, and the token.
    fn sessions(ttl: Duration) -> (Sessions, Secret) {
        let sessions = Sessions::new(ttl);
        let new = NewToken::random().unwrap();
        let login = Login {
            token_sha256: new.sha256(),
            index: 9,
            user: "alice".into(),
            auth_revision: 1,
        };
        sessions.applied(&[login], &rules());
        (sessions, Secret::new(&new.into_token(9)))
    }

    #[test]
    fn a_token_is_its_users_and_nothing_else_is() {
        let (sessions, token) = sessions(TOKEN_TTL);
        assert_eq!(sessions.user_of(&token, &rules()).as_deref(), Some("alice"));
        let (random, _) = token.expose().split_once('.').unwrap();
        for other in [
            format!("{random}.8"),
            random.to_owned(),
            "x.9".to_owned(),
            String::new(),
        ] {
            assert_eq!(
                sessions.user_of(&Secret::new(&other), &rules()),
                None,
                "{other}"
            );
        }
    }

    #[test]
    fn a_token_ends_with_its_user_its_password_and_with_authentication() {
        let (sessions, token) = sessions(TOKEN_TTL);
        let mut deleted = rules();
        deleted.remove_user("alice");
        let mut added_again = deleted.clone();
        added_again.put_user("alice", User::new(2, Password::None, 3));
        let mut turned_off_and_on = rules();
        turned_off_and_on.disable();
        turned_off_and_on.enable();
        for rules in [deleted, added_again, turned_off_and_on] {
            assert_eq!(sessions.user_of(&token, &rules), None, "{rules:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_lives_as_long_as_it_is_used() {
        let ttl = Duration::from_secs(10);
        let (sessions, token) = sessions(ttl);
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(9)).await;
            assert!(sessions.user_of(&token, &rules()).is_some());
        }
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(sessions.user_of(&token, &rules()).is_none());
    }

    #[test]
    fn changed_rules_are_news_and_the_same_rules_are_none() {
        let (sessions, _) = sessions(TOKEN_TTL);
        let mut news = sessions.watch();
        news.mark_unchanged();
        sessions.applied(&[], &rules());
        assert!(!news.has_changed().unwrap());
        let mut off = rules();
        off.disable();
        sessions.applied(&[], &off);
        assert!(news.has_changed().unwrap());
    }
}
