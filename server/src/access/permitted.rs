//! A request that has passed the door.

use std::sync::Arc;

/// Why the server itself makes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Internal {
    LeaseExpiry,
    LeaseCheckpoint,
    KeyService,
    MemberStart,
    SpaceQuota,
    AutoCompaction,
    CorruptionCheck,
    Health,
    PluginEffects,
    PasswordRehash,
}

/// Proof that a request may be made; holds it.
#[derive(Clone, Debug)]
pub struct Permitted<T> {
    request: T,
    by: By,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum By {
    Door(Caller),
    Server(Internal),
}

/// Whom the door let pass, and on which state of the users and roles it decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// None while authentication is off, and where nobody needs to be somebody.
    pub user: Option<Arc<str>>,
    /// The auth revision that was decided on; 0 without a user.
    pub auth_revision: u64,
}

impl<T> Permitted<T> {
    pub(super) fn by_door(caller: Caller, request: T) -> Self {
        Permitted {
            request,
            by: By::Door(caller),
        }
    }

    /// A request of the server's own. Clients' requests go through [`super::Door::permit`].
    #[must_use]
    pub fn internal(reason: Internal, request: T) -> Self {
        Permitted {
            request,
            by: By::Server(reason),
        }
    }

    /// Why the server makes this request itself; `None` for a client's.
    #[must_use]
    pub fn reason(&self) -> Option<Internal> {
        match self.by {
            By::Door(_) => None,
            By::Server(reason) => Some(reason),
        }
    }

    /// Who makes this request; `None` for one of the server's own.
    #[must_use]
    pub fn caller(&self) -> Option<&Caller> {
        match &self.by {
            By::Door(caller) => Some(caller),
            By::Server(_) => None,
        }
    }

    #[must_use]
    pub fn request(&self) -> &T {
        &self.request
    }

    #[must_use]
    pub fn into_request(self) -> T {
        self.request
    }

    /// The same request in another form: sealed, or as a command. The form must ask for nothing
    /// that this one does not ask for.
    pub(crate) fn in_form<U, E>(
        &self,
        form: impl FnOnce(&T) -> Result<U, E>,
    ) -> Result<Permitted<U>, E> {
        Ok(Permitted {
            request: form(&self.request)?,
            by: self.by.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_in_another_form_keeps_its_maker() {
        let caller = Caller {
            user: Some("alice".into()),
            auth_revision: 3,
        };
        let permitted = Permitted::by_door(caller.clone(), ());
        let other_form = permitted
            .in_form(|()| Ok::<_, ()>(1))
            .expect("the form cannot fail");
        assert_eq!(other_form.caller(), Some(&caller));
    }

    #[test]
    fn a_request_of_the_server_says_why() {
        let permitted = Permitted::internal(Internal::LeaseExpiry, ());
        let other_form = permitted
            .in_form(|()| Ok::<_, ()>(1))
            .expect("the form cannot fail");
        assert_eq!(other_form.reason(), Some(Internal::LeaseExpiry));
        assert_eq!(other_form.caller(), None);
    }
}
