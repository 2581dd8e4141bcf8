//! Changes of users and roles, tokens that become known, and the question whether a command may
//! be applied at all.
//!
//! Promise: the same on every member, because it looks at the command's header and the replicated
//! state alone. A refused change counts for nothing.
//!
//! Source: etcd 3.7.1, `server/auth/store.go` and `server/etcdserver/apply/auth.go`.

use std::sync::Arc;

use super::{Context, Machine, Stop, Work, rows};
use crate::access::{Asking, Denied, Guarded, Rules};
use crate::command::{
    AuthRefusal, Authenticate, AuthenticateReply, Body, ChangeAuth, Header, Refusal,
};
use crate::mvcc::key_range::KeyRange;
use crate::storage::Keyspace;
use crate::tables::auth::{AuthTable, Password, PasswordHash, Permission, ROOT, Role, User};

/// A simple token that was given out; the registry of tokens takes it from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub token_sha256: [u8; 32],
    /// Of the entry that made the token known; a part of the token.
    pub index: u64,
    pub user: Arc<str>,
    pub auth_revision: u64,
}

/// Whose rows a change has to write or take away.
#[derive(Default)]
struct Touched {
    users: Vec<String>,
    roles: Vec<String>,
    gone_users: Vec<u32>,
    gone_roles: Vec<u32>,
}

impl Machine {
    /// Asks again what the edge has asked: the rules and the keys of leases may have changed.
    pub(super) fn check_caller(&self, header: &Header, body: &Body) -> Result<(), Denied> {
        if !self.auth.is_enabled() || header.is_internal() {
            return Ok(());
        }
        let rules = Rules {
            auth: &self.auth,
            leases: &self.leases,
        };
        let asking = Asking {
            user: &header.user,
            auth_revision: header.auth_revision,
        };
        rules.check(asking, &body.needs())
    }

    pub(super) fn change_auth(&mut self, work: &mut Work, change: ChangeAuth) -> Result<(), Stop> {
        let table = Arc::make_mut(&mut self.auth);
        let touched = run(table, change).map_err(Refusal::Auth)?;
        write_rows(&self.auth, work, &touched);
        Ok(())
    }

    pub(super) fn authenticate(
        &self,
        work: &mut Work,
        context: Context,
        authenticate: Authenticate,
    ) -> Result<AuthenticateReply, Stop> {
        let refuse = |refusal| Err(Refusal::Auth(refusal).into());
        if !self.auth.is_enabled() {
            return refuse(AuthRefusal::NotEnabled);
        }
        let Some(user) = self.auth.user(&authenticate.name) else {
            return refuse(AuthRefusal::AuthenticationFailed);
        };
        if user.password == Password::None || authenticate.verified_at < user.credentials_since {
            return refuse(AuthRefusal::AuthenticationFailed);
        }
        work.logins.push(Login {
            token_sha256: authenticate.token_sha256,
            index: context.index,
            user: authenticate.name.into(),
            auth_revision: self.auth.revision(),
        });
        Ok(AuthenticateReply {
            index: context.index,
        })
    }
}

fn write_rows(table: &AuthTable, work: &mut Work, touched: &Touched) {
    let open = &mut work.open;
    open.put_message(Keyspace::System, rows::AUTH, &table.to_row());
    for name in &touched.users {
        if let Some(user) = table.user(name) {
            open.put_message(Keyspace::System, &rows::user(user.id), &user.to_row(name));
        }
    }
    for name in &touched.roles {
        if let Some(role) = table.role(name) {
            open.put_message(Keyspace::System, &rows::role(role.id), &role.to_row(name));
        }
    }
    for id in &touched.gone_users {
        open.delete(Keyspace::System, &rows::user(*id));
    }
    for id in &touched.gone_roles {
        open.delete(Keyspace::System, &rows::role(*id));
    }
}

fn run(table: &mut AuthTable, change: ChangeAuth) -> Result<Touched, AuthRefusal> {
    match change {
        ChangeAuth::Enable => enable(table),
        ChangeAuth::Disable => {
            if table.is_enabled() {
                table.disable();
            }
            Ok(Touched::default())
        }
        ChangeAuth::AddUser { name, password } => add_user(table, name, password),
        ChangeAuth::DeleteUser { name } => delete_user(table, &name),
        ChangeAuth::ChangePassword { name, password } => change_password(table, name, password),
        ChangeAuth::GrantRole { user, role } => grant_role(table, user, role),
        ChangeAuth::RevokeRole { user, role } => revoke_role(table, user, &role),
        ChangeAuth::AddRole { name } => add_role(table, name),
        ChangeAuth::DeleteRole { name } => delete_role(table, &name),
        ChangeAuth::GrantPermission { role, permission } => {
            grant_permission(table, role, permission)
        }
        ChangeAuth::RevokePermission { role, range } => revoke_permission(table, role, &range),
        ChangeAuth::Rehash { name, from, to } => Ok(rehash(table, name, &from, to)),
    }
}

fn enable(table: &mut AuthTable) -> Result<Touched, AuthRefusal> {
    if !table.is_enabled() {
        let root = table.user(ROOT).ok_or(AuthRefusal::RootUserNotExist)?;
        if !root.is_root() {
            return Err(AuthRefusal::RootRoleNotExist);
        }
        table.enable();
    }
    Ok(Touched::default())
}

fn add_user(
    table: &mut AuthTable,
    name: String,
    password: Password,
) -> Result<Touched, AuthRefusal> {
    if name.is_empty() {
        return Err(AuthRefusal::UserEmpty);
    }
    if table.user(&name).is_some() {
        return Err(AuthRefusal::UserAlreadyExist);
    }
    let id = table.take_id();
    let since = table.bump();
    table.put_user(&name, User::new(id, password, since));
    Ok(touched_user(name))
}

fn delete_user(table: &mut AuthTable, name: &str) -> Result<Touched, AuthRefusal> {
    if table.is_enabled() && name == ROOT {
        return Err(AuthRefusal::InvalidManagement);
    }
    let user = table.remove_user(name).ok_or(AuthRefusal::UserNotFound)?;
    table.bump();
    Ok(Touched {
        gone_users: vec![user.id],
        ..Touched::default()
    })
}

/// A user without a password stays without one, and etcd counts a change all the same.
fn change_password(
    table: &mut AuthTable,
    name: String,
    password: PasswordHash,
) -> Result<Touched, AuthRefusal> {
    let mut user = user(table, &name)?;
    if user.password != Password::None {
        user.password = Password::Hashed(password);
    }
    user.credentials_since = table.bump();
    table.put_user(&name, user);
    Ok(touched_user(name))
}

/// A role that the user has already is no change. The root role need not exist.
fn grant_role(table: &mut AuthTable, name: String, role: String) -> Result<Touched, AuthRefusal> {
    let mut user = user(table, &name)?;
    if role != ROOT && table.role(&role).is_none() {
        return Err(AuthRefusal::RoleNotFound);
    }
    let Err(place) = user.roles.binary_search(&role) else {
        return Ok(Touched::default());
    };
    user.roles.insert(place, role);
    table.bump();
    table.put_user(&name, user);
    Ok(touched_user(name))
}

fn revoke_role(table: &mut AuthTable, name: String, role: &str) -> Result<Touched, AuthRefusal> {
    if table.is_enabled() && name == ROOT && role == ROOT {
        return Err(AuthRefusal::InvalidManagement);
    }
    let mut user = user(table, &name)?;
    if !user.has_role(role) {
        return Err(AuthRefusal::RoleNotGranted);
    }
    user.roles.retain(|held| held != role);
    table.bump();
    table.put_user(&name, user);
    Ok(touched_user(name))
}

fn add_role(table: &mut AuthTable, name: String) -> Result<Touched, AuthRefusal> {
    if name.is_empty() {
        return Err(AuthRefusal::RoleEmpty);
    }
    if table.role(&name).is_some() {
        return Err(AuthRefusal::RoleAlreadyExist);
    }
    let role = Role {
        id: table.take_id(),
        permissions: Vec::new(),
    };
    table.bump();
    table.put_role(&name, role);
    Ok(touched_role(name))
}

/// Takes the role from everyone who has it.
fn delete_role(table: &mut AuthTable, name: &str) -> Result<Touched, AuthRefusal> {
    if table.is_enabled() && name == ROOT {
        return Err(AuthRefusal::InvalidManagement);
    }
    let role = table.remove_role(name).ok_or(AuthRefusal::RoleNotFound)?;
    let holders: Vec<(String, User)> = table
        .users()
        .filter(|(_, user)| user.has_role(name))
        .map(|(holder, user)| (holder.to_owned(), user.clone()))
        .collect();
    let mut touched = Touched {
        gone_roles: vec![role.id],
        ..Touched::default()
    };
    for (holder, mut user) in holders {
        user.roles.retain(|held| held != name);
        table.put_user(&holder, user);
        touched.users.push(holder);
    }
    table.bump();
    Ok(touched)
}

/// etcd looks only at the first permission of the same key: one for the same range further back
/// stays beside the new one.
fn grant_permission(
    table: &mut AuthTable,
    name: String,
    permission: Option<Permission>,
) -> Result<Touched, AuthRefusal> {
    let permission = permission.ok_or(AuthRefusal::PermissionNotGiven)?;
    if permission.range.key().is_empty() || permission.range.is_empty() {
        return Err(AuthRefusal::InvalidManagement);
    }
    let mut role = role(table, &name)?;
    let place = role
        .permissions
        .partition_point(|it| it.range.key() < permission.range.key());
    match role.permissions.get_mut(place) {
        Some(same) if same.range == permission.range => same.kind = permission.kind,
        _ => {
            role.permissions.push(permission);
            role.permissions
                .sort_by(|a, b| a.range.key().cmp(b.range.key()));
        }
    }
    table.bump();
    table.put_role(&name, role);
    Ok(touched_role(name))
}

fn revoke_permission(
    table: &mut AuthTable,
    name: String,
    range: &KeyRange,
) -> Result<Touched, AuthRefusal> {
    let mut role = role(table, &name)?;
    let before = role.permissions.len();
    role.permissions.retain(|it| it.range != *range);
    if role.permissions.len() == before {
        return Err(AuthRefusal::PermissionNotGranted);
    }
    table.bump();
    table.put_role(&name, role);
    Ok(touched_role(name))
}

/// No change that anyone sees: identities and tokens stay.
fn rehash(table: &mut AuthTable, name: String, from: &PasswordHash, to: PasswordHash) -> Touched {
    match user(table, &name) {
        Ok(mut user) if user.password == Password::Hashed(from.clone()) => {
            user.password = Password::Hashed(to);
            table.put_user(&name, user);
            touched_user(name)
        }
        _ => Touched::default(),
    }
}

fn user(table: &AuthTable, name: &str) -> Result<User, AuthRefusal> {
    let user = table.user(name).ok_or(AuthRefusal::UserNotFound)?;
    Ok(User::clone(user))
}

fn role(table: &AuthTable, name: &str) -> Result<Role, AuthRefusal> {
    let role = table.role(name).ok_or(AuthRefusal::RoleNotFound)?;
    Ok(Role::clone(role))
}

fn touched_user(name: String) -> Touched {
    Touched {
        users: vec![name],
        ..Touched::default()
    }
}

fn touched_role(name: String) -> Touched {
    Touched {
        roles: vec![name],
        ..Touched::default()
    }
}
