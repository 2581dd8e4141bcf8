//! etcd's Auth service: users, roles, and tokens for those who prove who they are.
//!
//! Promise: a password is hashed before anything is proposed, and stands in no log. Whether a user
//! exists cannot be told from how long a refusal takes.
//!
//! Source: etcd 3.7.1, the `Authenticator` of `server/etcdserver/v3_server.go`.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::authpb;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::auth_server::Auth;
use tonic::{Request, Response, Status};

use super::gate::AtLearner;
use super::parse::{self, BadRequest};
use super::{Edge, header, status};
use crate::access::{
    Guarded, Identity, Internal, Need, NewToken, Permitted, Secret, USER_NAME_BYTES_MAX, Verified,
    brought, guarded,
};
use crate::command::{AuthRefusal, Authenticate, ChangeAuth, NotApplied, Refusal, ReplyOf};
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read_view::ReadView;
use crate::seal::SealerError;
use crate::tables::auth::{Password, PasswordHash, Permission, ROOT};

/// Times that a password is verified anew because it was changed meanwhile.
const ATTEMPTS_MAX: usize = 4;
/// etcd's number of a permission to read and write.
const READWRITE: i32 = 2;

/// A user that is to be added, or a password that is to be changed.
struct PlainUser {
    name: String,
    password: PlainPassword,
}

enum PlainPassword {
    None,
    Plain(Secret),
    Hashed(PasswordHash),
}

struct UserList;
struct RoleList;
struct AuthStatus;
struct UserGet(String);
struct RoleGet(String);

guarded!([Need::Root] => PlainUser, UserList, RoleList);
guarded!([] => AuthStatus);

impl Guarded for UserGet {
    fn needs(&self) -> Vec<Need<'_>> {
        vec![Need::BeUser(&self.0)]
    }
}

impl Guarded for RoleGet {
    fn needs(&self) -> Vec<Need<'_>> {
        vec![Need::HaveRole(&self.0)]
    }
}

fn same(_: &ReadView, change: &ChangeAuth) -> Result<ChangeAuth, SealerError> {
    Ok(change.clone())
}

/// One RPC that is one change: what it is answered with has nothing but a header.
macro_rules! change {
    ($self:ident, $request:ident, $Response:ident, $body:ident => $change:expr) => {{
        let who = $self.admit(&$request, AtLearner::Refused)?;
        let $body = $request.into_inner();
        $self.fits(&who, parse::size(&$body, $self.limits.request_bytes_max))?;
        let header = $self.change_auth(&who, $change).await?;
        Ok(Response::new(pb::$Response { header }))
    }};
}

#[tonic::async_trait]
impl Auth for Edge {
    async fn auth_enable(
        &self,
        request: Request<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        change!(self, request, AuthEnableResponse, _body => ChangeAuth::Enable)
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        change!(self, request, AuthDisableResponse, _body => ChangeAuth::Disable)
    }

    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        self.agreed_point().await?;
        self.permit(&who, AuthStatus)?;
        let view = self.replica.view();
        Ok(Response::new(pb::AuthStatusResponse {
            header: header::full(&*self.replica, view.revision),
            enabled: view.auth.is_enabled(),
            auth_revision: view.auth.revision(),
        }))
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        // A token that came along does not matter: it may be what has ended.
        self.admit(&request, AtLearner::Refused)?;
        let source = request.remote_addr().map(|address| address.ip());
        let pb::AuthenticateRequest { name, password } = request.into_inner();
        let password = Secret::new(&password);
        self.read_point(false).await?;
        for _ in 0..ATTEMPTS_MAX {
            let verified_at = self.verify(&name, source, &password).await?;
            if let Some(response) = self.give_token(&name, verified_at).await? {
                return Ok(Response::new(response));
            }
        }
        Err(AuthRefusal::AuthenticationFailed.into())
    }

    async fn user_add(
        &self,
        request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let request = request.into_inner();
        self.fits(&who, parse::size(&request, self.limits.request_bytes_max))?;
        let no_password = request.options.is_some_and(|options| options.no_password);
        let password = if no_password {
            PlainPassword::None
        } else if request.password.is_empty() && !request.hashed_password.is_empty() {
            PlainPassword::Hashed(decode_hash(&request.hashed_password)?)
        } else {
            PlainPassword::Plain(Secret::new(&request.password))
        };
        let name = user_name(request.name)?;
        let plain = self
            .permit_write(&who, PlainUser { name, password })
            .await?;
        let add = self.hashed(&plain).await?;
        let header = self.propose_change(&add).await?;
        Ok(Response::new(pb::AuthUserAddResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        self.agreed_point().await?;
        let get = self.permit(&who, UserGet(request.into_inner().name))?;
        let view = self.replica.view();
        let user = view.auth.user(&get.request().0);
        let user = user.ok_or(AuthRefusal::UserNotFound)?;
        Ok(Response::new(pb::AuthUserGetResponse {
            header: header::full(&*self.replica, view.revision),
            roles: user.roles.clone(),
        }))
    }

    async fn user_list(
        &self,
        request: Request<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        self.agreed_point().await?;
        self.permit(&who, UserList)?;
        let view = self.replica.view();
        Ok(Response::new(pb::AuthUserListResponse {
            header: header::full(&*self.replica, view.revision),
            users: view.auth.users().map(|(name, _)| name.to_owned()).collect(),
        }))
    }

    async fn user_delete(
        &self,
        request: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Response<pb::AuthUserDeleteResponse>, Status> {
        change!(self, request, AuthUserDeleteResponse, body =>
            ChangeAuth::DeleteUser { name: body.name })
    }

    /// Without a password, and without a hash, none will match from then on, as in etcd.
    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let request = request.into_inner();
        self.fits(&who, parse::size(&request, self.limits.request_bytes_max))?;
        let password = if !request.password.is_empty() {
            PlainPassword::Plain(Secret::new(&request.password))
        } else if request.hashed_password.is_empty() {
            PlainPassword::Hashed(PasswordHash::new(String::new()))
        } else {
            PlainPassword::Hashed(decode_hash(&request.hashed_password)?)
        };
        let name = user_name(request.name)?;
        let plain = self
            .permit_write(&who, PlainUser { name, password })
            .await?;
        let Ok(change) = self.hashed(&plain).await?.in_form(|add| match add {
            ChangeAuth::AddUser {
                name,
                password: Password::Hashed(password),
            } => Ok::<_, Infallible>(ChangeAuth::ChangePassword {
                name: name.clone(),
                password: password.clone(),
            }),
            other => Ok(other.clone()),
        });
        let header = self.propose_change(&change).await?;
        Ok(Response::new(pb::AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Response<pb::AuthUserGrantRoleResponse>, Status> {
        change!(self, request, AuthUserGrantRoleResponse, body =>
            ChangeAuth::GrantRole { user: body.user, role: body.role })
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Response<pb::AuthUserRevokeRoleResponse>, Status> {
        change!(self, request, AuthUserRevokeRoleResponse, body =>
            ChangeAuth::RevokeRole { user: body.name, role: body.role })
    }

    async fn role_add(
        &self,
        request: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Response<pb::AuthRoleAddResponse>, Status> {
        change!(self, request, AuthRoleAddResponse, body =>
            ChangeAuth::AddRole { name: body.name })
    }

    async fn role_get(
        &self,
        request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        self.agreed_point().await?;
        let get = self.permit(&who, RoleGet(request.into_inner().role))?;
        let name = &get.request().0;
        let view = self.replica.view();
        let role = view.auth.role(name).ok_or(AuthRefusal::RoleNotFound)?;
        let perm = if name == ROOT {
            vec![everything()]
        } else {
            role.permissions.iter().map(permission).collect()
        };
        let header = header::full(&*self.replica, view.revision);
        Ok(Response::new(pb::AuthRoleGetResponse { header, perm }))
    }

    async fn role_list(
        &self,
        request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        self.agreed_point().await?;
        self.permit(&who, RoleList)?;
        let view = self.replica.view();
        Ok(Response::new(pb::AuthRoleListResponse {
            header: header::full(&*self.replica, view.revision),
            roles: view.auth.roles().map(|(name, _)| name.to_owned()).collect(),
        }))
    }

    async fn role_delete(
        &self,
        request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Response<pb::AuthRoleDeleteResponse>, Status> {
        change!(self, request, AuthRoleDeleteResponse, body =>
            ChangeAuth::DeleteRole { name: body.role })
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<pb::AuthRoleGrantPermissionResponse>, Status> {
        change!(self, request, AuthRoleGrantPermissionResponse, body =>
        ChangeAuth::GrantPermission {
            role: body.name,
            permission: body.perm.map(|perm| Permission {
                kind: perm.perm_type,
                range: KeyRange::from_wire(perm.key, perm.range_end),
            }),
        })
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<pb::AuthRoleRevokePermissionResponse>, Status> {
        change!(self, request, AuthRoleRevokePermissionResponse, body =>
        ChangeAuth::RevokePermission {
            role: body.role,
            range: KeyRange::from_wire(body.key, body.range_end),
        })
    }
}

impl Edge {
    async fn change_auth(
        &self,
        who: &Identity,
        change: ChangeAuth,
    ) -> Result<Option<pb::ResponseHeader>, Status> {
        let change = self.permit_write(who, change).await?;
        self.propose_change(&change).await
    }

    async fn propose_change(
        &self,
        change: &Permitted<ChangeAuth>,
    ) -> Result<Option<pb::ResponseHeader>, Status> {
        let ((), view) = self.write::<_, ChangeAuth>(change, same).await?;
        Ok(header::full(&*self.replica, view.revision))
    }

    /// The user as it is replicated: with a hash in place of its password.
    async fn hashed(&self, plain: &Permitted<PlainUser>) -> Result<Permitted<ChangeAuth>, Status> {
        let password = match &plain.request().password {
            PlainPassword::None => Password::None,
            PlainPassword::Hashed(hash) => Password::Hashed(hash.clone()),
            PlainPassword::Plain(password) => {
                let hash = self.door.passwords().hash(password.clone()).await?;
                Password::Hashed(hash)
            }
        };
        let Ok(add) = plain.in_form(|plain| {
            Ok::<_, Infallible>(ChangeAuth::AddUser {
                name: plain.name.clone(),
                password,
            })
        });
        Ok(add)
    }

    /// The auth revision at which this was the user's password.
    async fn verify(
        &self,
        name: &str,
        source: Option<IpAddr>,
        password: &Secret,
    ) -> Result<u64, Status> {
        let view = self.replica.view();
        if !view.auth.is_enabled() {
            return Err(AuthRefusal::NotEnabled.into());
        }
        let hash = match view.auth.user(name).map(|user| &user.password) {
            None => None,
            Some(Password::None) => return Err(status::no_password_user()),
            Some(Password::Hashed(hash)) => Some(hash.clone()),
        };
        let passwords = self.door.passwords();
        let verified = passwords.verify(name, source, password.clone(), hash.clone());
        match (verified.await?, hash) {
            (Verified::Right, _) => {}
            (Verified::RightAndOutdated, Some(from)) => {
                self.rehash(name.to_owned(), password.clone(), from);
            }
            (Verified::Wrong, _) | (Verified::RightAndOutdated, None) => {
                let source = source.map(|it| it.to_string());
                tracing::warn!(remote_addr = source, "a client failed to authenticate");
                return Err(AuthRefusal::AuthenticationFailed.into());
            }
        }
        Ok(view.auth.revision())
    }

    /// Gives a password that was proven the hash that is made today, in the background.
    fn rehash(&self, name: String, password: Secret, from: PasswordHash) {
        let edge = self.clone();
        tokio::spawn(async move {
            let Ok(to) = edge.door.passwords().hash(password).await else {
                return;
            };
            let rehash = ChangeAuth::Rehash { name, from, to };
            let rehash = Permitted::internal(Internal::PasswordRehash, rehash.into());
            if let Err(error) = edge.replica.propose(rehash).await {
                tracing::debug!(%error, "a password keeps its old hash until the next login");
            }
        });
    }

    /// A token for a user whose password was verified; none if the password was changed since.
    async fn give_token(
        &self,
        name: &str,
        verified_at: u64,
    ) -> Result<Option<pb::AuthenticateResponse>, Status> {
        if let Some(jwt) = self.door.jwt() {
            let view = self.replica.view();
            if view.auth.revision() != verified_at {
                return Ok(None);
            }
            let token = jwt.sign(name, verified_at)?;
            return Ok(Some(self.token_response(&view, token)));
        }
        let token = NewToken::random().map_err(|_| status::stopped())?;
        let authenticate = Authenticate {
            name: name.to_owned(),
            token_sha256: token.sha256(),
            verified_at,
        };
        let permitted = self.permit(&Identity::Anyone, authenticate)?;
        let Ok(body) = permitted.in_form(|it| Ok::<_, Infallible>(it.clone().into()));
        let applied = self.replica.propose(body).await?;
        match Authenticate::reply(applied.reply) {
            Ok(reply) => Ok(Some(
                self.token_response(&applied.view, token.into_token(reply.index)),
            )),
            Err(NotApplied::Refused(Refusal::Auth(AuthRefusal::AuthenticationFailed))) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn token_response(&self, view: &Arc<ReadView>, token: String) -> pb::AuthenticateResponse {
        pb::AuthenticateResponse {
            header: header::full(&*self.replica, view.revision),
            token,
        }
    }
}

/// A name that a command's header can carry.
fn user_name(name: String) -> Result<String, BadRequest> {
    if name.len() > USER_NAME_BYTES_MAX {
        return Err(BadRequest::RequestTooLarge);
    }
    Ok(name)
}

/// As etcd carries it: in base64.
fn decode_hash(encoded: &str) -> Result<PasswordHash, Status> {
    let bytes = STANDARD.decode(encoded).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let hash = text.and_then(|text| brought(&text).ok());
    hash.ok_or_else(status::no_password_user)
}

fn permission(permission: &Permission) -> authpb::Permission {
    authpb::Permission {
        perm_type: permission.kind,
        key: permission.range.key().clone(),
        range_end: permission.range.range_end(),
    }
}

/// What etcd shows as the permission of the root role.
fn everything() -> authpb::Permission {
    permission(&Permission {
        kind: READWRITE,
        range: KeyRange::all(),
    })
}
