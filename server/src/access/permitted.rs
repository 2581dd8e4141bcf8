//! A request that has passed the door.

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
    /// An entry that another member's door let pass and forwarded here.
    Forwarded,
}

/// Proof that a request may be made; holds it.
#[derive(Clone, Debug)]
pub struct Permitted<T> {
    request: T,
    by: By,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Door,
    Server(Internal),
}

impl<T> Permitted<T> {
    pub(super) fn by_door(request: T) -> Self {
        Permitted {
            request,
            by: By::Door,
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
            By::Door => None,
            By::Server(reason) => Some(reason),
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
            by: self.by,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Door, Identity};
    use super::*;

    #[test]
    fn the_door_lets_everyone_pass_while_authentication_is_off() {
        let permitted = Door::new()
            .permit(&Identity::Anyone, 7)
            .expect("authentication is off");
        assert_eq!((*permitted.request(), permitted.reason()), (7, None));
    }

    #[test]
    fn a_request_of_the_server_says_why() {
        let permitted = Permitted::internal(Internal::LeaseExpiry, ());
        let other_form = permitted
            .in_form(|()| Ok::<_, ()>(1))
            .expect("the form cannot fail");
        assert_eq!(other_form.reason(), Some(Internal::LeaseExpiry));
    }
}
