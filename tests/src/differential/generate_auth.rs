//! Random users, roles and permissions over few names, and calls made as any of them.

use bytes::Bytes;
use proto::authpb;
use proto::etcdserverpb as pb;
use rand::Rng as _;

use super::auth::{AuthCall, Who};
use super::generate::Generator;
use super::script::Step;

const ROOT: &str = "root";
const USERS: [&str; 4] = [ROOT, "alice", "bob", ""];
const ROLES: [&str; 5] = [ROOT, "reader", "writer", "both", ""];
const PASSWORDS: [&str; 2] = ["right", "left"];
/// With its ends fewer than twelve ranges: etcd sorts more than that without keeping those of one key in order.
const PERMITTED: [&str; 4] = ["a", "a/1", "b", "c"];
const PERMITTED_ENDS: [&str; 3] = ["", "\0", "b"];
/// None of them was ever given out.
const TOKENS: [&str; 4] = ["", "garbage", "garbage.7", "Bearer x.1"];
const SLOTS: u32 = 4;
/// The one that root's logins go to, so that somebody may mostly change things.
const ROOTS_SLOT: u32 = 0;

impl Generator {
    /// A step of a script in which users come and go, and any of them may be the one who asks.
    pub fn step_as_somebody(&mut self, revision: i64) -> Step {
        match self.rng.random_range(0..1_000) {
            0..70 => Step::Become(self.somebody()),
            70..100 => self.log_in_as_root(),
            100..140 => self.log_in(),
            140..300 => Step::Auth(self.auth_call()),
            300..316 => Step::Defragment,
            316..322 => Step::Hash,
            322..326 => Step::Snapshot,
            _ => self.step(revision),
        }
    }

    /// What makes authentication possible to turn on, for the beginning of a script.
    pub fn first_users() -> Vec<Step> {
        let user = pb::AuthUserAddRequest {
            name: ROOT.into(),
            password: PASSWORDS[0].into(),
            ..Default::default()
        };
        let grant = pb::AuthUserGrantRoleRequest {
            user: ROOT.into(),
            role: ROOT.into(),
        };
        [
            AuthCall::Status(pb::AuthStatusRequest {}),
            AuthCall::UserAdd(user),
            AuthCall::GrantRole(grant),
            AuthCall::Enable(pb::AuthEnableRequest {}),
        ]
        .into_iter()
        .map(Step::Auth)
        .collect()
    }

    fn name(&mut self, of: &[&str]) -> String {
        // The empty name comes last, and rarely.
        let last = of.len() - 1;
        let chosen = if self.rng.random_bool(0.02) {
            last
        } else {
            self.rng.random_range(0..last)
        };
        of[chosen].to_owned()
    }

    fn password(&mut self) -> String {
        PASSWORDS[usize::from(self.rng.random_bool(0.1))].to_owned()
    }

    fn somebody(&mut self) -> Who {
        match self.rng.random_range(0..20) {
            0 => Who::Nobody,
            1 => Who::Text(TOKENS[self.rng.random_range(0..TOKENS.len())].to_owned()),
            2..10 => Who::LoggedIn(ROOTS_SLOT),
            _ => Who::LoggedIn(self.rng.random_range(0..SLOTS)),
        }
    }

    fn log_in_as_root(&mut self) -> Step {
        Step::LogIn {
            slot: ROOTS_SLOT,
            request: pb::AuthenticateRequest {
                name: ROOT.into(),
                password: self.password(),
            },
        }
    }

    fn log_in(&mut self) -> Step {
        Step::LogIn {
            slot: self.rng.random_range(1..SLOTS),
            request: pb::AuthenticateRequest {
                name: self.name(&USERS),
                password: self.password(),
            },
        }
    }

    fn auth_call(&mut self) -> AuthCall {
        match self.rng.random_range(0..100) {
            0..7 => AuthCall::Enable(pb::AuthEnableRequest {}),
            7..9 => AuthCall::Disable(pb::AuthDisableRequest {}),
            9..16 => AuthCall::Status(pb::AuthStatusRequest {}),
            16..26 => AuthCall::UserAdd(self.user()),
            26..31 => AuthCall::UserGet(pb::AuthUserGetRequest {
                name: self.name(&USERS),
            }),
            31..34 => AuthCall::UserList(pb::AuthUserListRequest {}),
            34..37 => AuthCall::UserDelete(pb::AuthUserDeleteRequest {
                name: self.name(&USERS),
            }),
            37..40 => AuthCall::ChangePassword(pb::AuthUserChangePasswordRequest {
                name: self.name(&USERS),
                password: self.password(),
                ..Default::default()
            }),
            40..54 => AuthCall::GrantRole(pb::AuthUserGrantRoleRequest {
                user: self.name(&USERS),
                role: self.name(&ROLES),
            }),
            54..58 => AuthCall::RevokeRole(pb::AuthUserRevokeRoleRequest {
                name: self.name(&USERS),
                role: self.name(&ROLES),
            }),
            58..68 => AuthCall::RoleAdd(pb::AuthRoleAddRequest {
                name: self.name(&ROLES),
            }),
            68..74 => AuthCall::RoleGet(pb::AuthRoleGetRequest {
                role: self.name(&ROLES),
            }),
            74..76 => AuthCall::RoleList(pb::AuthRoleListRequest {}),
            76..78 => AuthCall::RoleDelete(pb::AuthRoleDeleteRequest {
                role: self.name(&ROLES),
            }),
            78..95 => AuthCall::GrantPermission(self.permission()),
            _ => AuthCall::RevokePermission(pb::AuthRoleRevokePermissionRequest {
                role: self.name(&ROLES),
                key: self.one_of(&PERMITTED),
                range_end: self.one_of(&PERMITTED_ENDS),
            }),
        }
    }

    fn user(&mut self) -> pb::AuthUserAddRequest {
        let name = self.name(&USERS);
        // Nobody could turn authentication off again without a root that can log in.
        let no_password = name != ROOT && self.rng.random_bool(0.1);
        pb::AuthUserAddRequest {
            name,
            password: self.password(),
            options: self
                .rng
                .random_bool(0.5)
                .then_some(authpb::UserAddOptions { no_password }),
            ..Default::default()
        }
    }

    fn permission(&mut self) -> pb::AuthRoleGrantPermissionRequest {
        let perm = authpb::Permission {
            perm_type: self.rng.random_range(0..3),
            key: match self.rng.random_range(0..30) {
                0 => Bytes::new(),
                _ => self.one_of(&PERMITTED),
            },
            range_end: self.one_of(&PERMITTED_ENDS),
        };
        pb::AuthRoleGrantPermissionRequest {
            name: self.name(&ROLES),
            perm: (!self.rng.random_bool(0.03)).then_some(perm),
        }
    }
}
