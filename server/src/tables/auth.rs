//! Users, roles and what they may: the replicated rules of access.
//!
//! Promise: changed by `apply` alone, so they are the same on every member at the same place of
//! the log. The auth revision grows with every change but the one that turns authentication on, as
//! in etcd.
//! Not known here: who asks for what, tokens, how a password is checked.
//!
//! Source: etcd 3.7.1, `server/auth/store.go`.

mod coverage;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use proto::sealkv::replicated as wire;

use crate::mvcc::key_range::KeyRange;

pub use coverage::Coverage;

/// The user that must exist before authentication is turned on, and the role that may everything.
pub const ROOT: &str = "root";

/// etcd's numbers of what a permission gives.
const READ: i32 = 0;
const WRITE: i32 = 1;
const READWRITE: i32 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthTable {
    enabled: bool,
    revision: u64,
    /// Tokens given out before this auth revision are void: authentication was off since.
    tokens_since: u64,
    /// The auth revision at which a user was deleted last.
    users_deleted: u64,
    /// Of the next user or role; an id is never used twice.
    id_next: u32,
    users: BTreeMap<Arc<str>, Arc<User>>,
    roles: BTreeMap<Arc<str>, Arc<Role>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub id: u32,
    pub password: Password,
    /// Sorted.
    pub roles: Vec<String>,
    /// The auth revision at which the user was added or its password changed last: what proved it
    /// before proves nothing now.
    pub credentials_since: u64,
    granted: Granted,
}

/// What all roles of a user give together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Granted {
    read: Coverage,
    write: Coverage,
}

/// How a user proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// By a certificate alone.
    None,
    Hashed(PasswordHash),
}

/// An Argon2id hash as a PHC string, or a bcrypt one that came with users of an etcd; empty if no
/// password matches. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    #[must_use]
    pub fn new(hash: String) -> Self {
        PasswordHash(hash)
    }

    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    pub id: u32,
    /// By key.
    pub permissions: Vec<Permission>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// etcd's number; one that etcd does not know gives nothing, and is shown as it was given.
    pub kind: i32,
    pub range: KeyRange,
}

impl Permission {
    fn reads(&self) -> bool {
        matches!(self.kind, READ | READWRITE)
    }

    fn writes(&self) -> bool {
        matches!(self.kind, WRITE | READWRITE)
    }
}

impl Default for AuthTable {
    fn default() -> Self {
        AuthTable {
            enabled: false,
            revision: 1,
            tokens_since: 0,
            users_deleted: 0,
            id_next: 1,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
        }
    }
}

impl User {
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|held| held == role)
    }

    /// Whether it may everything.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.has_role(ROOT)
    }

    #[must_use]
    pub fn reads(&self) -> &Coverage {
        &self.granted.read
    }

    #[must_use]
    pub fn writes(&self) -> &Coverage {
        &self.granted.write
    }
}

impl AuthTable {
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// 1 at first.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    #[must_use]
    pub fn tokens_since(&self) -> u64 {
        self.tokens_since
    }

    #[must_use]
    pub fn users_deleted(&self) -> u64 {
        self.users_deleted
    }

    #[must_use]
    pub fn user(&self, name: &str) -> Option<&Arc<User>> {
        self.users.get(name)
    }

    #[must_use]
    pub fn role(&self, name: &str) -> Option<&Arc<Role>> {
        self.roles.get(name)
    }

    /// By name.
    pub fn users(&self) -> impl Iterator<Item = (&str, &User)> {
        self.users.iter().map(|(name, user)| (&**name, &**user))
    }

    /// By name.
    pub fn roles(&self) -> impl Iterator<Item = (&str, &Role)> {
        self.roles.iter().map(|(name, role)| (&**name, &**role))
    }

    pub(crate) fn enable(&mut self) {
        self.enabled = true;
    }

    /// Turns authentication off; no token survives it.
    pub(crate) fn disable(&mut self) {
        self.enabled = false;
        self.tokens_since = self.bump();
    }

    /// Counts a change.
    pub(crate) fn bump(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    pub(crate) fn take_id(&mut self) -> u32 {
        let id = self.id_next;
        self.id_next = self.id_next.saturating_add(1);
        id
    }

    /// Adds a user, or puts another in its place; what it is granted is worked out here.
    pub(crate) fn put_user(&mut self, name: &str, user: User) {
        let granted = self.granted(&user.roles);
        self.users
            .insert(name.into(), Arc::new(User { granted, ..user }));
    }

    pub(crate) fn remove_user(&mut self, name: &str) -> Option<Arc<User>> {
        let user = self.users.remove(name)?;
        self.users_deleted = self.revision.saturating_add(1);
        Some(user)
    }

    /// Adds a role, or puts another in its place, for those who have it too.
    pub(crate) fn put_role(&mut self, name: &str, role: Role) {
        self.roles.insert(name.into(), Arc::new(role));
        self.grant_anew(name);
    }

    pub(crate) fn remove_role(&mut self, name: &str) -> Option<Arc<Role>> {
        self.roles.remove(name)
    }

    fn grant_anew(&mut self, role: &str) {
        let holders: Vec<(Arc<str>, Arc<User>)> = self
            .users
            .iter()
            .filter(|(_, user)| user.has_role(role))
            .map(|(name, user)| (Arc::clone(name), Arc::clone(user)))
            .collect();
        for (name, user) in holders {
            self.put_user(&name, User::clone(&user));
        }
    }

    fn granted(&self, roles: &[String]) -> Granted {
        let permissions = || {
            let held = roles.iter().filter_map(|role| self.roles.get(&**role));
            held.flat_map(|role| &role.permissions)
        };
        let of = |gives: fn(&Permission) -> bool| {
            Coverage::of(permissions().filter(|it| gives(it)).map(|it| &it.range))
        };
        Granted {
            read: of(Permission::reads),
            write: of(Permission::writes),
        }
    }

    pub(crate) fn to_row(&self) -> wire::AuthRow {
        wire::AuthRow {
            enabled: self.enabled,
            revision: self.revision,
            tokens_since: self.tokens_since,
            users_deleted: self.users_deleted,
            id_next: self.id_next,
        }
    }

    /// Without users and roles, which have rows of their own.
    pub(crate) fn from_row(row: &wire::AuthRow) -> Self {
        AuthTable {
            enabled: row.enabled,
            revision: row.revision,
            tokens_since: row.tokens_since,
            users_deleted: row.users_deleted,
            id_next: row.id_next,
            ..AuthTable::default()
        }
    }
}

impl User {
    /// One without roles.
    pub(crate) fn new(id: u32, password: Password, credentials_since: u64) -> Self {
        User {
            id,
            password,
            roles: Vec::new(),
            credentials_since,
            granted: Granted::default(),
        }
    }

    pub(crate) fn to_row(&self, name: &str) -> wire::UserRow {
        let (no_password, password_hash) = match &self.password {
            Password::None => (true, String::new()),
            Password::Hashed(hash) => (false, hash.expose().to_owned()),
        };
        wire::UserRow {
            id: self.id,
            name: name.to_owned(),
            no_password,
            password_hash,
            roles: self.roles.clone(),
            credentials_since: self.credentials_since,
        }
    }

    /// With its name.
    pub(crate) fn from_row(row: wire::UserRow) -> (String, Self) {
        let password = if row.no_password {
            Password::None
        } else {
            Password::Hashed(PasswordHash::new(row.password_hash))
        };
        let mut user = User::new(row.id, password, row.credentials_since);
        user.roles = row.roles;
        (row.name, user)
    }
}

impl Role {
    pub(crate) fn to_row(&self, name: &str) -> wire::RoleRow {
        wire::RoleRow {
            id: self.id,
            name: name.to_owned(),
            permissions: self.permissions.iter().map(Permission::to_wire).collect(),
        }
    }

    /// With its name.
    pub(crate) fn from_row(row: wire::RoleRow) -> (String, Self) {
        let permissions = row.permissions.into_iter().map(Permission::from_wire);
        let role = Role {
            id: row.id,
            permissions: permissions.collect(),
        };
        (row.name, role)
    }
}

impl Permission {
    pub(crate) fn to_wire(&self) -> wire::Permission {
        wire::Permission {
            kind: self.kind,
            key: self.range.key().clone(),
            range_end: self.range.range_end(),
        }
    }

    pub(crate) fn from_wire(wire: wire::Permission) -> Self {
        // A copy: out of a request or a row it would keep all of that in memory.
        let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        Permission {
            kind: wire.kind,
            range: KeyRange::from_wire(copy(&wire.key), copy(&wire.range_end)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(kind: i32, key: &'static [u8], end: &'static [u8]) -> Permission {
        let range = KeyRange::from_wire(Bytes::from_static(key), Bytes::from_static(end));
        Permission { kind, range }
    }

    fn with_role(permissions: Vec<Permission>) -> AuthTable {
        let mut table = AuthTable::default();
        let mut user = User::new(1, Password::None, 1);
        user.roles = vec!["gardener".into()];
        table.put_user("alice", user);
        let role = Role { id: 2, permissions };
        table.put_role("gardener", role);
        table
    }

    #[test]
    fn a_user_is_granted_what_its_roles_say_now() {
        let mut table = with_role(vec![
            permission(READ, b"a", b"m"),
            permission(WRITE, b"b", b""),
        ]);
        let alice = table.user("alice").unwrap();
        assert!(alice.reads().covers_key(b"c") && !alice.reads().covers_key(b"n"));
        assert!(alice.writes().covers_key(b"b") && !alice.writes().covers_key(b"c"));
        table.put_role("gardener", Role::default());
        assert!(!table.user("alice").unwrap().reads().covers_key(b"c"));
    }

    #[test]
    fn a_kind_of_permission_that_nobody_knows_gives_nothing() {
        let table = with_role(vec![permission(3, b"a", b"z")]);
        let alice = table.user("alice").unwrap();
        assert!(!alice.reads().covers_key(b"b") && !alice.writes().covers_key(b"b"));
    }

    #[test]
    fn rows_read_back() {
        let table = with_role(vec![permission(READWRITE, b"a", b"\0")]);
        let mut again = AuthTable::from_row(&table.to_row());
        for (name, role) in table.roles() {
            let (name, role) = Role::from_row(role.to_row(name));
            again.put_role(&name, role);
        }
        for (name, user) in table.users() {
            let (name, user) = User::from_row(user.to_row(name));
            again.put_user(&name, user);
        }
        assert_eq!(again, table);
    }

    #[test]
    fn a_password_hash_is_not_printed() {
        let user = User::new(
            1,
            Password::Hashed(PasswordHash::new("$argon2id$x".into())),
            1,
        );
        assert!(!format!("{user:?}").contains("argon2id"));
    }
}
