//! Users, roles and tokens in scripts: the calls of the Auth service, and as whom the next calls are made.

use std::collections::BTreeMap;

use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::auth_client::AuthClient;

use super::normalise::{self, Answer};
use crate::client::Client;

/// What the next calls bring along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// No token.
    Nobody,
    /// One that no server has given out.
    Text(String),
    /// The one that the last successful login under this name of the script's gave.
    LoggedIn(u32),
}

/// The calls whose answers need nothing but their header made comparable.
macro_rules! auth_calls {
    ($($Name:ident, $word:literal, $Request:ident, $method:ident;)*) => {
        #[derive(Debug, Clone, PartialEq)]
        pub enum AuthCall {
            $($Name(pb::$Request),)*
        }

        impl AuthCall {
            pub(super) fn words(&self) -> (&'static str, Vec<u8>) {
                match self {
                    $(Self::$Name(request) => ($word, request.encode_to_vec()),)*
                }
            }

            /// `None` if the word names no such call, or the bytes are none.
            pub(super) fn parse(word: &str, bytes: &[u8]) -> Option<Self> {
                Some(match word {
                    $($word => Self::$Name(pb::$Request::decode(bytes).ok()?),)*
                    _ => return None,
                })
            }

            pub(super) async fn ask(&self, client: &Client) -> Answer {
                let mut auth = AuthClient::new(client.channel());
                match self {
                    $(Self::$Name(request) => {
                        let answer = auth.$method(client.ask(request.clone())).await;
                        Answer::of_result(answer.map(|response| {
                            let mut response = response.into_inner();
                            normalise::header(&mut response.header);
                            response
                        }))
                    })*
                }
            }
        }
    };
}

auth_calls! {
    Enable, "auth-enable", AuthEnableRequest, auth_enable;
    Disable, "auth-disable", AuthDisableRequest, auth_disable;
    Status, "auth-status", AuthStatusRequest, auth_status;
    UserAdd, "user-add", AuthUserAddRequest, user_add;
    UserGet, "user-get", AuthUserGetRequest, user_get;
    UserList, "user-list", AuthUserListRequest, user_list;
    UserDelete, "user-delete", AuthUserDeleteRequest, user_delete;
    ChangePassword, "change-password", AuthUserChangePasswordRequest, user_change_password;
    GrantRole, "grant-role", AuthUserGrantRoleRequest, user_grant_role;
    RevokeRole, "revoke-role", AuthUserRevokeRoleRequest, user_revoke_role;
    RoleAdd, "role-add", AuthRoleAddRequest, role_add;
    RoleGet, "role-get", AuthRoleGetRequest, role_get;
    RoleList, "role-list", AuthRoleListRequest, role_list;
    RoleDelete, "role-delete", AuthRoleDeleteRequest, role_delete;
    GrantPermission, "grant-permission", AuthRoleGrantPermissionRequest, role_grant_permission;
    RevokePermission, "revoke-permission", AuthRoleRevokePermissionRequest, role_revoke_permission;
}

impl AuthCall {
    /// Whether open watches may be told to end by it.
    pub(super) fn changes(&self) -> bool {
        !matches!(
            self,
            Self::Status(_)
                | Self::UserGet(_)
                | Self::UserList(_)
                | Self::RoleGet(_)
                | Self::RoleList(_)
        )
    }
}

impl AuthCall {
    /// Whose tokens from before it are worth nothing after it.
    pub(super) fn ends_tokens_of(&self) -> Option<&str> {
        match self {
            Self::UserDelete(request) => Some(&request.name),
            Self::ChangePassword(request) => Some(&request.name),
            _ => None,
        }
    }
}

/// The tokens that one server gave out.
#[derive(Default)]
pub(super) struct Tokens {
    of: BTreeMap<u32, Token>,
}

struct Token {
    user: String,
    text: String,
}

impl Tokens {
    /// Keeps the token; all that is comparable of it is that there is one.
    pub(super) async fn log_in(
        &mut self,
        client: &Client,
        slot: u32,
        request: &pb::AuthenticateRequest,
    ) -> Answer {
        let mut auth = AuthClient::new(client.channel());
        let answer = auth.authenticate(client.ask(request.clone())).await;
        Answer::of_result(answer.map(|response| {
            let mut response = response.into_inner();
            normalise::header(&mut response.header);
            if !response.token.is_empty() {
                let text = std::mem::replace(&mut response.token, "a token".into());
                let user = request.name.clone();
                self.of.insert(slot, Token { user, text });
            }
            response
        }))
    }

    pub(super) fn of(&self, who: &Who) -> Option<String> {
        match who {
            Who::Nobody => None,
            Who::Text(text) => Some(text.clone()),
            Who::LoggedIn(slot) => self.of.get(slot).map(|token| token.text.clone()),
        }
    }

    /// etcd lets a signed token that is older than its user's password go on managing users.
    pub(super) fn forget_signed(&mut self, user: &str) {
        // Of a simple one two parts are told apart, of a signed one three.
        self.of
            .retain(|_, token| token.user != user || token.text.split('.').count() != 3);
    }
}
