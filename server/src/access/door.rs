//! The door itself: from what came with a request to a request that may be made.

use std::sync::Arc;

use super::Denied;
use super::identity::{Identity, Secret};
use super::jwt::JwtTokens;
use super::need::{Guarded, Need};
use super::passwords::Passwords;
use super::permitted::{Caller, Permitted};
use super::rules::{Asking, Rules};
use super::sessions::Sessions;

/// A command's header has room for as much.
pub const USER_NAME_BYTES_MAX: usize = u16::MAX as usize;

/// Cloning shares it.
#[derive(Clone, Default)]
pub struct Door {
    sessions: Sessions,
    /// In place of simple tokens.
    jwt: Option<JwtTokens>,
    passwords: Passwords,
}

impl Door {
    /// `sessions` are told what is applied.
    #[must_use]
    pub fn new(sessions: Sessions) -> Self {
        Door {
            sessions,
            jwt: None,
            passwords: Passwords::default(),
        }
    }

    /// The door of a member whose tokens are signed.
    #[must_use]
    pub fn with_jwt(self, jwt: Option<JwtTokens>) -> Self {
        Door { jwt, ..self }
    }

    /// None if tokens are simple.
    #[must_use]
    pub fn jwt(&self) -> Option<&JwtTokens> {
        self.jwt.as_ref()
    }

    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    #[must_use]
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// Lets `identity` make `request`, or says why not.
    pub fn permit<T: Guarded>(
        &self,
        rules: Rules<'_>,
        identity: &Identity,
        request: T,
    ) -> Result<Permitted<T>, Denied> {
        let passed = self.permit_or_return(rules, identity, request);
        passed.map_err(|(denied, _)| denied)
    }

    /// As `permit`; what may not pass is given back, to ask again by newer rules.
    pub fn permit_or_return<T: Guarded>(
        &self,
        rules: Rules<'_>,
        identity: &Identity,
        request: T,
    ) -> Result<Permitted<T>, (Denied, T)> {
        match self.check(rules, identity, &request) {
            Ok(caller) => Ok(Permitted::by_door(caller, request)),
            Err(denied) => Err((denied, request)),
        }
    }

    /// Whether what came with a request names somebody, or nothing came at all.
    pub fn known(&self, rules: Rules<'_>, identity: &Identity) -> Result<(), Denied> {
        if !rules.auth.is_enabled() {
            return Ok(());
        }
        self.resolve(rules, identity).map(|_| ())
    }

    /// Who would make the request, if it may.
    fn check(
        &self,
        rules: Rules<'_>,
        identity: &Identity,
        request: &impl Guarded,
    ) -> Result<Caller, Denied> {
        if !rules.auth.is_enabled() {
            return Ok(Caller::default());
        }
        let mut caller = self.resolve(rules, identity)?;
        rules.check(caller.asking(), &request.needs())?;
        // What was decided here was decided on these rules, even if the identity was proven under
        // newer ones that this member has not applied yet.
        caller.auth_revision = caller.auth_revision.min(rules.auth.revision());
        Ok(caller)
    }

    fn resolve(&self, rules: Rules<'_>, identity: &Identity) -> Result<Caller, Denied> {
        let (user, auth_revision) = match identity {
            Identity::Anyone => return Ok(Caller::default()),
            Identity::Certificate(name) => (Arc::clone(name), rules.auth.revision()),
            Identity::Token(token) => self.of_token(rules, token)?,
        };
        if user.len() > USER_NAME_BYTES_MAX {
            return Err(Denied::PermissionDenied);
        }
        Ok(Caller {
            user: Some(user),
            auth_revision,
        })
    }

    fn of_token(&self, rules: Rules<'_>, token: &Secret) -> Result<(Arc<str>, u64), Denied> {
        if let Some(jwt) = &self.jwt {
            return jwt.check(token).ok_or(Denied::InvalidAuthToken);
        }
        let user = self.sessions.user_of(token, rules.auth);
        let user = user.ok_or(Denied::InvalidAuthToken)?;
        Ok((user, rules.auth.revision()))
    }
}

impl Caller {
    fn asking(&self) -> Asking<'_> {
        Asking {
            user: self.user.as_deref().unwrap_or_default(),
            auth_revision: self.auth_revision,
        }
    }
}

impl Rules<'_> {
    /// Whether a caller that was let pass before may still do what it does, by the rules of now.
    pub fn check_again(&self, caller: &Caller, needs: &[Need<'_>]) -> Result<(), Denied> {
        self.check(caller.asking(), &[Need::User])?;
        let now = Asking {
            auth_revision: self.auth.revision(),
            ..caller.asking()
        };
        self.check(now, needs)
    }

    /// Whether these are still the rules that a caller was let pass by.
    pub fn unchanged_since(&self, caller: &Caller) -> Result<(), Denied> {
        if caller.auth_revision != 0 && caller.auth_revision != self.auth.revision() {
            return Err(Denied::AuthOldRevision);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::RwLock;

    use super::*;
    use crate::apply::Login;
    use crate::command::Compact;
    use crate::lease::table::LeaseTable;
    use crate::tables::auth::{AuthTable, Password, ROOT, User};

    fn rules() -> AuthTable {
        let mut table = AuthTable::default();
        let mut root = User::new(1, Password::None, 1);
        root.roles = vec![ROOT.into()];
        table.put_user(ROOT, root);
        table.put_user("alice", User::new(2, Password::None, 1));
        table
    }

    fn permit(table: &AuthTable, identity: &Identity) -> Result<Permitted<Compact>, Denied> {
        let sessions = Sessions::default();
        let login = |index, user: &str| Login {
            token_sha256: sha2::Digest::finalize(sha2::Digest::chain_update(
                <sha2::Sha256 as sha2::Digest>::new(),
                user,
            ))
            .into(),
            index,
            user: user.into(),
            auth_revision: 1,
        };
        sessions.applied(&[login(5, ROOT), login(6, "alice")], table);
        let leases = RwLock::new(LeaseTable::default());
        let rules = Rules {
            auth: table,
            leases: &leases,
        };
        Door::new(sessions).permit(rules, identity, Compact { revision: 7 })
    }

    fn token(token: &str) -> Identity {
        Identity::Token(Secret::new(token))
    }

    #[test]
    fn the_door_lets_everyone_pass_while_authentication_is_off() {
        for identity in [Identity::Anyone, token("no token")] {
            let permitted = permit(&rules(), &identity).expect("authentication is off");
            assert_eq!(permitted.request().revision, 7);
            assert_eq!(permitted.caller(), Some(&Caller::default()));
        }
    }

    #[test]
    fn who_is_let_pass_is_named_with_the_rules_it_was_decided_on() {
        let mut table = rules();
        table.enable();
        let expected = Caller {
            user: Some(ROOT.into()),
            auth_revision: 1,
        };
        for identity in [token("root.5"), Identity::Certificate(ROOT.into())] {
            let permitted = permit(&table, &identity).expect("root may");
            assert_eq!(permitted.caller(), Some(&expected));
        }
    }

    #[test]
    fn each_refusal_says_its_own() {
        let mut table = rules();
        table.enable();
        let long = Identity::Certificate("x".repeat(USER_NAME_BYTES_MAX + 1).into());
        for (identity, denied) in [
            (Identity::Anyone, Denied::UserEmpty),
            (token("root.6"), Denied::InvalidAuthToken),
            (token("alice.6"), Denied::PermissionDenied),
            (Identity::Certificate("nobody".into()), Denied::UserNotFound),
            (long, Denied::PermissionDenied),
        ] {
            assert_eq!(permit(&table, &identity).err(), Some(denied), "{denied:?}");
        }
    }
}
