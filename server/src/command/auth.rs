//! Commands that change users and roles, and the one that makes a token known.
//!
//! Promise: no password and no token stands in one: only a hash of it.

use bytes::Bytes;
use proto::sealkv::replicated as wire;

use super::{BadBody, Wire};
use crate::mvcc::key_range::KeyRange;
use crate::tables::auth::{Password, PasswordHash, Permission};

/// One change of the rules of access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeAuth {
    Enable,
    Disable,
    AddUser {
        name: String,
        password: Password,
    },
    DeleteUser {
        name: String,
    },
    ChangePassword {
        name: String,
        password: PasswordHash,
    },
    GrantRole {
        user: String,
        role: String,
    },
    RevokeRole {
        user: String,
        role: String,
    },
    AddRole {
        name: String,
    },
    DeleteRole {
        name: String,
    },
    /// Without a permission it is refused, where etcd refuses it: when it is applied.
    GrantPermission {
        role: String,
        permission: Option<Permission>,
    },
    RevokePermission {
        role: String,
        range: KeyRange,
    },
    /// The same password under a better hash, if the hash is still the one it was verified with.
    Rehash {
        name: String,
        from: PasswordHash,
        to: PasswordHash,
    },
}

/// A user has proven who it is and gets a simple token.
#[derive(Clone, PartialEq, Eq)]
pub struct Authenticate {
    pub name: String,
    /// Of the random part of the token.
    pub token_sha256: [u8; 32],
    /// The auth revision at which the password was verified.
    pub verified_at: u64,
}

/// etcd's refusals of changes and of authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthRefusal {
    #[error("root user does not exist")]
    RootUserNotExist,
    #[error("root user does not have root role")]
    RootRoleNotExist,
    #[error("user name is empty")]
    UserEmpty,
    #[error("user name already exists")]
    UserAlreadyExist,
    #[error("user name not found")]
    UserNotFound,
    #[error("role name is empty")]
    RoleEmpty,
    #[error("role name already exists")]
    RoleAlreadyExist,
    #[error("role name not found")]
    RoleNotFound,
    #[error("role is not granted to the user")]
    RoleNotGranted,
    #[error("permission not given")]
    PermissionNotGiven,
    #[error("permission is not granted to the role")]
    PermissionNotGranted,
    /// It would lock everyone out, or is no range.
    #[error("invalid auth management")]
    InvalidManagement,
    #[error("authentication is not enabled")]
    NotEnabled,
    #[error("authentication failed, invalid user ID or password")]
    AuthenticationFailed,
}

impl std::fmt::Debug for Authenticate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticate").finish_non_exhaustive()
    }
}

impl Wire for ChangeAuth {
    type Message = wire::ChangeAuth;

    fn to_wire(&self) -> wire::ChangeAuth {
        use wire::change_auth::Change;
        let change = match self.clone() {
            ChangeAuth::Enable => Change::Enable(wire::AuthEnable {}),
            ChangeAuth::Disable => Change::Disable(wire::AuthDisable {}),
            ChangeAuth::AddUser { name, password } => Change::AddUser(match password {
                Password::None => wire::AddUser {
                    name,
                    no_password: true,
                    password_hash: String::new(),
                },
                Password::Hashed(hash) => wire::AddUser {
                    name,
                    no_password: false,
                    password_hash: hash.expose().to_owned(),
                },
            }),
            ChangeAuth::DeleteUser { name } => Change::DeleteUser(name),
            ChangeAuth::ChangePassword { name, password } => {
                let password_hash = password.expose().to_owned();
                Change::ChangePassword(wire::ChangePassword {
                    name,
                    password_hash,
                })
            }
            ChangeAuth::GrantRole { user, role } => {
                Change::GrantRole(wire::UserAndRole { user, role })
            }
            ChangeAuth::RevokeRole { user, role } => {
                Change::RevokeRole(wire::UserAndRole { user, role })
            }
            ChangeAuth::AddRole { name } => Change::AddRole(name),
            ChangeAuth::DeleteRole { name } => Change::DeleteRole(name),
            ChangeAuth::GrantPermission { role, permission } => {
                let permission = permission.as_ref().map(Permission::to_wire);
                Change::GrantPermission(wire::GrantPermission { role, permission })
            }
            ChangeAuth::RevokePermission { role, range } => {
                Change::RevokePermission(wire::RevokePermission {
                    role,
                    key: range.key().clone(),
                    range_end: range.range_end(),
                })
            }
            ChangeAuth::Rehash { name, from, to } => Change::Rehash(wire::RehashPassword {
                name,
                from: from.expose().to_owned(),
                to: to.expose().to_owned(),
            }),
        };
        wire::ChangeAuth {
            change: Some(change),
        }
    }

    fn from_wire(message: wire::ChangeAuth) -> Result<Self, BadBody> {
        use wire::change_auth::Change;
        Ok(match message.change.ok_or(BadBody)? {
            Change::Enable(wire::AuthEnable {}) => ChangeAuth::Enable,
            Change::Disable(wire::AuthDisable {}) => ChangeAuth::Disable,
            Change::AddUser(add) => ChangeAuth::AddUser {
                name: add.name,
                password: if add.no_password {
                    Password::None
                } else {
                    Password::Hashed(PasswordHash::new(add.password_hash))
                },
            },
            Change::DeleteUser(name) => ChangeAuth::DeleteUser { name },
            Change::ChangePassword(change) => ChangeAuth::ChangePassword {
                name: change.name,
                password: PasswordHash::new(change.password_hash),
            },
            Change::GrantRole(wire::UserAndRole { user, role }) => {
                ChangeAuth::GrantRole { user, role }
            }
            Change::RevokeRole(wire::UserAndRole { user, role }) => {
                ChangeAuth::RevokeRole { user, role }
            }
            Change::AddRole(name) => ChangeAuth::AddRole { name },
            Change::DeleteRole(name) => ChangeAuth::DeleteRole { name },
            Change::GrantPermission(grant) => ChangeAuth::GrantPermission {
                role: grant.role,
                permission: grant.permission.map(Permission::from_wire),
            },
            Change::RevokePermission(revoke) => ChangeAuth::RevokePermission {
                role: revoke.role,
                range: KeyRange::from_wire(revoke.key, revoke.range_end),
            },
            Change::Rehash(rehash) => ChangeAuth::Rehash {
                name: rehash.name,
                from: PasswordHash::new(rehash.from),
                to: PasswordHash::new(rehash.to),
            },
        })
    }
}

impl Wire for Authenticate {
    type Message = wire::Authenticate;

    fn to_wire(&self) -> wire::Authenticate {
        wire::Authenticate {
            name: self.name.clone(),
            token_sha256: Bytes::copy_from_slice(&self.token_sha256),
            verified_at: self.verified_at,
        }
    }

    fn from_wire(message: wire::Authenticate) -> Result<Self, BadBody> {
        Ok(Authenticate {
            name: message.name,
            token_sha256: message
                .token_sha256
                .as_ref()
                .try_into()
                .map_err(|_| BadBody)?,
            verified_at: message.verified_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<ChangeAuth> {
        let hash = || PasswordHash::new("$argon2id$…".into());
        let [name, user, role] = ["alice", "alice", "gardener"].map(String::from);
        let range = KeyRange::from_wire(Bytes::from_static(b"a"), Bytes::from_static(b"\0"));
        let permission = Permission {
            kind: 2,
            range: range.clone(),
        };
        let add = |password| ChangeAuth::AddUser {
            name: "alice".into(),
            password,
        };
        vec![
            ChangeAuth::Enable,
            ChangeAuth::Disable,
            add(Password::None),
            add(Password::Hashed(hash())),
            ChangeAuth::DeleteUser { name: name.clone() },
            ChangeAuth::ChangePassword {
                name: name.clone(),
                password: hash(),
            },
            ChangeAuth::GrantRole {
                user: user.clone(),
                role: role.clone(),
            },
            ChangeAuth::RevokeRole {
                user,
                role: role.clone(),
            },
            ChangeAuth::AddRole { name: role.clone() },
            ChangeAuth::DeleteRole { name: role.clone() },
            ChangeAuth::GrantPermission {
                role: role.clone(),
                permission: Some(permission),
            },
            ChangeAuth::GrantPermission {
                role: role.clone(),
                permission: None,
            },
            ChangeAuth::RevokePermission { role, range },
            ChangeAuth::Rehash {
                name,
                from: hash(),
                to: hash(),
            },
        ]
    }

    #[test]
    fn every_change_reads_back() {
        for change in all() {
            assert_eq!(ChangeAuth::from_wire(change.to_wire()), Ok(change));
        }
    }

    #[test]
    fn an_authentication_reads_back_and_a_short_digest_does_not() {
        let authenticate = Authenticate {
            name: "alice".into(),
            token_sha256: [7; 32],
            verified_at: 4,
        };
        let wire = authenticate.to_wire();
        assert_eq!(Authenticate::from_wire(wire.clone()), Ok(authenticate));
        let short = wire::Authenticate {
            token_sha256: Bytes::from_static(b"short"),
            ..wire
        };
        assert_eq!(Authenticate::from_wire(short), Err(BadBody));
    }

    #[test]
    fn hashes_are_not_printed() {
        for change in all() {
            assert!(!format!("{change:?}").contains("argon2id"));
        }
    }
}
