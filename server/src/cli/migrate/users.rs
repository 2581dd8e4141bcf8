//! Users and roles, made in the target as the source has them.
//!
//! Promise: what the target has already is completed, never taken away. Passwords cannot be read
//! over the API: a user gets the one that a file gives it, in a later run as well, or none and can
//! then log in only by a certificate.
//! Not known here: keys; whether authentication is on in the target stays the user's decision.

use std::collections::BTreeMap;
use std::path::Path;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::auth_client::AuthClient;

use super::MigrateError;
use super::side::{AUTH_OFF, Side};

#[derive(Debug, Default)]
pub(super) struct Users {
    pub(super) users: usize,
    pub(super) roles: usize,
    /// Made without a password.
    pub(super) without_password: Vec<String>,
    pub(super) auth_enabled: bool,
}

/// Asks one side one thing of its Auth service.
macro_rules! ask {
    ($side:expr, $doing:literal, $method:ident, $message:expr) => {{
        let (side, message) = ($side, $message);
        side.ask($doing, |channel| {
            let request = side.request(message.clone());
            async move { AuthClient::new(channel).$method(request).await }
        })
        .await
    }};
}

pub(super) async fn copy(
    source: &Side,
    target: &Side,
    passwords: &Passwords,
) -> Result<Users, MigrateError> {
    let status = ask!(
        source,
        "ask for auth",
        auth_status,
        pb::AuthStatusRequest {}
    )?;
    let mut copied = Users {
        auth_enabled: status.enabled,
        ..Users::default()
    };
    for role in ask!(source, "list roles", role_list, pb::AuthRoleListRequest {})?.roles {
        copy_role(source, target, role).await?;
        copied.roles += 1;
    }
    for name in ask!(source, "list users", user_list, pb::AuthUserListRequest {})?.users {
        if copy_user(source, target, &name, passwords).await? {
            copied.without_password.push(name);
        }
        copied.users += 1;
    }
    Ok(copied)
}

async fn copy_role(source: &Side, target: &Side, role: String) -> Result<(), MigrateError> {
    let request = pb::AuthRoleGetRequest { role: role.clone() };
    let found = ask!(source, "look at a role", role_get, request)?;
    let add = pb::AuthRoleAddRequest { name: role.clone() };
    unless_there(
        ask!(target, "add a role", role_add, add),
        "etcdserver: role name already exists",
    )?;
    // Everything is the root role's anyway.
    let grants = found.perm.into_iter().filter(|_| role != "root");
    for permission in grants {
        let grant = pb::AuthRoleGrantPermissionRequest {
            name: role.clone(),
            perm: Some(permission),
        };
        ask!(target, "grant a permission", role_grant_permission, grant)?;
    }
    Ok(())
}

/// Says whether the user was made without a password.
async fn copy_user(
    source: &Side,
    target: &Side,
    name: &str,
    passwords: &Passwords,
) -> Result<bool, MigrateError> {
    let request = pb::AuthUserGetRequest { name: name.into() };
    let found = ask!(source, "look at a user", user_get, request)?;
    let password = passwords.0.get(name);
    let add = pb::AuthUserAddRequest {
        name: name.into(),
        password: password.cloned().unwrap_or_default(),
        options: Some(proto::authpb::UserAddOptions {
            no_password: password.is_none(),
        }),
        ..Default::default()
    };
    let added = unless_there(
        ask!(target, "add a user", user_add, add),
        "etcdserver: user name already exists",
    )?;
    let mut roles = found.roles;
    if let Some(password) = password.filter(|_| !added)
        && !target.is(name)
    {
        roles.extend(give_password(target, name, password).await?);
    }
    for role in roles {
        let grant = pb::AuthUserGrantRoleRequest {
            user: name.into(),
            role,
        };
        ask!(target, "grant a role", user_grant_role, grant)?;
    }
    Ok(added && password.is_none())
}

/// To a user that the target has already, perhaps from an earlier run without a password: such a
/// user can be given one only by being made anew. Gives the roles that went with it.
async fn give_password(
    target: &Side,
    name: &str,
    password: &str,
) -> Result<Vec<String>, MigrateError> {
    let (name, password) = (name.to_owned(), password.to_owned());
    let login = pb::AuthenticateRequest {
        name: name.clone(),
        password: password.clone(),
    };
    match ask!(target, "try a password", authenticate, login) {
        Ok(_) => return Ok(Vec::new()),
        Err(error) if error.says(OTHER_PASSWORD) => {
            let change = pb::AuthUserChangePasswordRequest {
                name,
                password,
                ..Default::default()
            };
            ask!(target, "set a password", user_change_password, change)?;
            return Ok(Vec::new());
        }
        Err(error) if error.says(NO_PASSWORD) || error.says(AUTH_OFF) => {}
        Err(error) => return Err(error),
    }
    let get = pb::AuthUserGetRequest { name: name.clone() };
    let found = ask!(target, "look at a user", user_get, get)?;
    let delete = pb::AuthUserDeleteRequest { name: name.clone() };
    ask!(target, "make a user anew", user_delete, delete)?;
    let add = pb::AuthUserAddRequest {
        name,
        password,
        ..Default::default()
    };
    ask!(target, "make a user anew", user_add, add)?;
    Ok(found.roles)
}

const OTHER_PASSWORD: &str = "etcdserver: authentication failed, invalid user ID or password";
const NO_PASSWORD: &str = "auth: authentication failed, password was given for no password user";

/// An earlier run, or an attempt whose answer was lost, may have made it.
fn unless_there<T>(answer: Result<T, MigrateError>, already: &str) -> Result<bool, MigrateError> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.says(already) => Ok(false),
        Err(error) => Err(error),
    }
}

/// `NAME:PASSWORD` lines.
#[derive(Default)]
pub(super) struct Passwords(BTreeMap<String, String>);

impl Passwords {
    pub(super) fn read(path: &Path) -> Result<Self, MigrateError> {
        let text = std::fs::read_to_string(path).map_err(|source| MigrateError::Passwords {
            path: path.to_owned(),
            source,
        })?;
        let mut passwords = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            if line.is_empty() {
                continue;
            }
            let (name, password) =
                line.split_once(':')
                    .ok_or_else(|| MigrateError::PasswordLine {
                        path: path.to_owned(),
                        line: number + 1,
                    })?;
            passwords.insert(name.to_owned(), password.to_owned());
        }
        Ok(Self(passwords))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_may_hold_a_colon_and_a_line_without_one_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "root:a:b\n\nuser:\n").unwrap();
        let passwords = Passwords::read(file.path()).unwrap();
        assert_eq!(passwords.0["root"], "a:b");
        assert_eq!(passwords.0["user"], "");
        std::fs::write(file.path(), "root:x\nsecret\n").unwrap();
        let said = match Passwords::read(file.path()) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("taken"),
        };
        assert!(said.contains(":2:") && !said.contains("secret"), "{said}");
    }
}
