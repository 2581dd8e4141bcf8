//! Whether a caller's needs are met: the same answer at the edge and when a command is applied.
//!
//! Source: etcd 3.7.1, `isOpPermitted` and `IsAdminPermitted` in `server/auth/store.go`, and
//! `server/etcdserver/apply/auth.go`.

use bytes::Bytes;
use parking_lot::RwLock;

use super::Denied;
use super::need::Need;
use crate::lease::table::LeaseTable;
use crate::mvcc::read_view::ReadView;
use crate::tables::auth::{AuthTable, Coverage, User};

/// What is asked: users and roles, and the keys of leases.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    pub auth: &'a AuthTable,
    pub leases: &'a RwLock<LeaseTable>,
}

/// Who asks; the empty name and revision 0 are nobody's.
#[derive(Clone, Copy)]
pub(crate) struct Asking<'a> {
    pub(crate) user: &'a str,
    pub(crate) auth_revision: u64,
}

#[derive(Clone, Copy)]
enum Access {
    Read,
    Write,
}

impl Access {
    fn granted(self, user: &User) -> &Coverage {
        match self {
            Access::Read => user.reads(),
            Access::Write => user.writes(),
        }
    }
}

impl ReadView {
    #[must_use]
    pub fn rules(&self) -> Rules<'_> {
        Rules {
            auth: &self.auth,
            leases: &self.leases,
        }
    }
}

impl Rules<'_> {
    /// Everything is allowed while authentication is off.
    pub(crate) fn check(&self, asking: Asking<'_>, needs: &[Need<'_>]) -> Result<(), Denied> {
        if !self.auth.is_enabled() {
            return Ok(());
        }
        needs.iter().try_for_each(|need| self.meets(asking, need))
    }

    fn meets(&self, asking: Asking<'_>, need: &Need<'_>) -> Result<(), Denied> {
        match *need {
            Need::User => self.is_somebody(asking),
            Need::Root => self.is_root(asking),
            Need::Read(range) => self.op(asking, Access::Read, |given| given.covers(range)),
            Need::ReadKey(key) => self.op(asking, Access::Read, |given| given.covers_key(key)),
            Need::Write(range) => self.op(asking, Access::Write, |given| given.covers(range)),
            Need::WriteKey(key) => self.op(asking, Access::Write, |given| given.covers_key(key)),
            Need::ReadAttached(lease) => self.attached(asking, Access::Read, lease),
            Need::WriteAttached(lease) => self.attached(asking, Access::Write, lease),
            Need::ReadEveryAttached => self.every_attached(asking),
            Need::BeUser(name) => self
                .is_root(asking)
                .or_else(|denied| (asking.user == name).then_some(()).ok_or(denied)),
            Need::HaveRole(role) => self.is_root(asking).or_else(|denied| {
                let user = self.auth.user(asking.user);
                let held = user.is_some_and(|user| user.has_role(role));
                held.then_some(()).ok_or(denied)
            }),
        }
    }

    /// etcd asks for no more than an identity. Here one must not be out of date besides: of a user
    /// that was deleted since, or from before a change of its password.
    fn is_somebody(&self, asking: Asking<'_>) -> Result<(), Denied> {
        if asking.user.is_empty() {
            return Err(Denied::UserEmpty);
        }
        let since = match self.auth.user(asking.user) {
            Some(user) => user.credentials_since,
            None => self.auth.users_deleted(),
        };
        if asking.auth_revision < since {
            return Err(Denied::AuthOldRevision);
        }
        Ok(())
    }

    /// Asked of the rules as they are now, whatever they were when the identity was proven.
    fn is_root(&self, asking: Asking<'_>) -> Result<(), Denied> {
        self.is_somebody(asking)?;
        let user = self.auth.user(asking.user).ok_or(Denied::UserNotFound)?;
        if user.is_root() {
            Ok(())
        } else {
            Err(Denied::PermissionDenied)
        }
    }

    /// Asked only of rules that have not changed since the identity was proven.
    fn op(
        &self,
        asking: Asking<'_>,
        access: Access,
        covered: impl Fn(&Coverage) -> bool,
    ) -> Result<(), Denied> {
        let user = self.current(asking)?;
        if user.is_root() || covered(access.granted(user)) {
            Ok(())
        } else {
            Err(Denied::PermissionDenied)
        }
    }

    fn current(&self, asking: Asking<'_>) -> Result<&User, Denied> {
        if asking.auth_revision == 0 {
            return Err(Denied::UserEmpty);
        }
        if asking.auth_revision < self.auth.revision() {
            return Err(Denied::AuthOldRevision);
        }
        let user = self.auth.user(asking.user);
        user.map(AsRef::as_ref).ok_or(Denied::PermissionDenied)
    }

    /// A lease that does not exist has no keys.
    fn attached(&self, asking: Asking<'_>, access: Access, lease: i64) -> Result<(), Denied> {
        let leases = self.leases.read();
        let keys = leases.get(lease).into_iter().flat_map(|lease| lease.keys());
        self.keys(asking, access, keys)
    }

    fn every_attached(&self, asking: Asking<'_>) -> Result<(), Denied> {
        let leases = self.leases.read();
        let keys = leases.iter().flat_map(|(_, lease)| lease.keys());
        self.keys(asking, Access::Read, keys)
    }

    fn keys<'k>(
        &self,
        asking: Asking<'_>,
        access: Access,
        mut keys: impl Iterator<Item = &'k Bytes>,
    ) -> Result<(), Denied> {
        if self.is_root(asking).is_ok() {
            return Ok(());
        }
        keys.try_for_each(|key| self.op(asking, access, |given| given.covers_key(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::table::Lease;
    use crate::mvcc::key_range::KeyRange;
    use crate::tables::auth::{Password, Permission, ROOT, Role};

    const READ: i32 = 0;
    const WRITE: i32 = 1;

    fn key(key: &'static [u8]) -> Bytes {
        Bytes::from_static(key)
    }

    /// alice reads `[a, m)` and writes `b`; root is root; the revision is 5.
    fn table() -> AuthTable {
        let mut table = AuthTable::default();
        let permission = |kind, first, end| Permission {
            kind,
            range: KeyRange::from_wire(key(first), key(end)),
        };
        let permissions = vec![permission(READ, b"a", b"m"), permission(WRITE, b"b", b"")];
        table.put_role("gardener", Role { id: 1, permissions });
        for (id, name, role) in [
            (2, "alice", "gardener"),
            (3, ROOT, ROOT),
            (4, "bob", "none"),
        ] {
            let mut user = User::new(id, Password::None, 2);
            user.roles = vec![role.to_owned()];
            table.put_user(name, user);
        }
        while table.revision() < 5 {
            table.bump();
        }
        table.enable();
        table
    }

    fn leases() -> RwLock<LeaseTable> {
        let mut leases = LeaseTable::default();
        for (id, keys) in [(1, vec![b"b"]), (2, vec![b"b", b"c"]), (3, vec![])] {
            leases.insert(id, Lease::new(60, 0));
            for it in keys {
                leases.attach(id, &Bytes::copy_from_slice(it));
            }
        }
        RwLock::new(leases)
    }

    fn ask(user: &str, auth_revision: u64, need: Need<'_>) -> Result<(), Denied> {
        let (auth, leases) = (table(), leases());
        let rules = Rules {
            auth: &auth,
            leases: &leases,
        };
        let asking = Asking {
            user,
            auth_revision,
        };
        rules.check(asking, &[need])
    }

    #[test]
    fn nobody_may_nothing_that_somebody_must_be() {
        let range = KeyRange::all();
        for need in [
            Need::User,
            Need::Root,
            Need::Read(&range),
            Need::WriteKey(b"b"),
        ] {
            assert_eq!(ask("", 0, need), Err(Denied::UserEmpty), "{need:?}");
        }
    }

    #[test]
    fn a_user_reads_and_writes_what_its_roles_give() {
        assert_eq!(ask("alice", 5, Need::ReadKey(b"c")), Ok(()));
        assert_eq!(ask("alice", 5, Need::WriteKey(b"b")), Ok(()));
        for need in [Need::WriteKey(b"c"), Need::ReadKey(b"m"), Need::Root] {
            assert_eq!(
                ask("alice", 5, need),
                Err(Denied::PermissionDenied),
                "{need:?}"
            );
        }
    }

    #[test]
    fn an_open_ended_range_needs_an_open_ended_permission() {
        let open = KeyRange::from_key(key(b"a"));
        assert_eq!(
            ask("alice", 5, Need::Read(&open)),
            Err(Denied::PermissionDenied)
        );
        assert_eq!(ask(ROOT, 5, Need::Read(&open)), Ok(()));
    }

    #[test]
    fn keys_are_not_given_at_an_old_revision_but_roots_work_goes_on() {
        assert_eq!(
            ask("alice", 4, Need::ReadKey(b"c")),
            Err(Denied::AuthOldRevision)
        );
        assert_eq!(
            ask(ROOT, 4, Need::ReadKey(b"c")),
            Err(Denied::AuthOldRevision)
        );
        assert_eq!(ask(ROOT, 4, Need::Root), Ok(()));
        assert_eq!(ask("alice", 4, Need::User), Ok(()));
    }

    #[test]
    fn an_identity_from_before_a_new_password_is_old_for_everything() {
        assert_eq!(ask(ROOT, 1, Need::Root), Err(Denied::AuthOldRevision));
        assert_eq!(ask("alice", 1, Need::User), Err(Denied::AuthOldRevision));
    }

    #[test]
    fn a_deleted_user_is_nobody_for_what_it_proved_before() {
        let mut auth = table();
        auth.remove_user("alice");
        auth.bump();
        let leases = leases();
        let rules = Rules {
            auth: &auth,
            leases: &leases,
        };
        let at = |auth_revision| Asking {
            user: "alice",
            auth_revision,
        };
        assert_eq!(
            rules.check(at(5), &[Need::User]),
            Err(Denied::AuthOldRevision)
        );
        assert_eq!(
            rules.check(at(5), &[Need::ReadKey(b"c")]),
            Err(Denied::AuthOldRevision)
        );
        assert_eq!(
            rules.check(at(6), &[Need::ReadKey(b"c")]),
            Err(Denied::PermissionDenied)
        );
        assert_eq!(rules.check(at(6), &[Need::Root]), Err(Denied::UserNotFound));
    }

    #[test]
    fn a_lease_is_as_guarded_as_its_keys() {
        assert_eq!(ask("alice", 5, Need::WriteAttached(1)), Ok(()));
        assert_eq!(
            ask("alice", 5, Need::WriteAttached(2)),
            Err(Denied::PermissionDenied)
        );
        assert_eq!(ask("alice", 5, Need::ReadAttached(2)), Ok(()));
        assert_eq!(
            ask("bob", 5, Need::ReadEveryAttached),
            Err(Denied::PermissionDenied)
        );
        for lease in [3, 99] {
            assert_eq!(
                ask("bob", 5, Need::WriteAttached(lease)),
                Ok(()),
                "lease {lease}"
            );
        }
        assert_eq!(ask(ROOT, 4, Need::WriteAttached(2)), Ok(()));
    }

    #[test]
    fn everybody_looks_at_itself_and_at_its_own_roles() {
        assert_eq!(ask("alice", 4, Need::BeUser("alice")), Ok(()));
        assert_eq!(ask("alice", 4, Need::HaveRole("gardener")), Ok(()));
        assert_eq!(
            ask("bob", 4, Need::BeUser("alice")),
            Err(Denied::PermissionDenied)
        );
        assert_eq!(
            ask("bob", 4, Need::HaveRole("gardener")),
            Err(Denied::PermissionDenied)
        );
        assert_eq!(ask(ROOT, 4, Need::BeUser("alice")), Ok(()));
        assert_eq!(
            ask("", 0, Need::HaveRole("gardener")),
            Err(Denied::UserEmpty)
        );
    }
}
