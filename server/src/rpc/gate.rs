//! What a request's metadata says and asks for, and what a learner may serve.
//!
//! Source: etcd 3.7.1, `server/etcdserver/api/v3rpc/interceptor.go`, and `AuthInfoFromCtx` in
//! `server/auth/store.go`.

use std::time::Duration;

use axum::extract::State;
use axum::middleware::Next;
use http::HeaderMap;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use super::{Edge, status};
use crate::access::{Caller, Denied, Guarded, Identity, Permitted, Secret, token_index};
use crate::serve::TlsClient;

/// Elections without a leader after which a stream that asks for one is ended.
const LEADERLESS_MAX: u32 = 3;
/// How long a request waits for this member to have applied the entry of its token.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Where a token is looked for, in this order.
const TOKEN_KEYS: [&str; 2] = ["token", "authorization"];

/// Whether a learner serves a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AtLearner {
    Served,
    Refused,
}

impl Edge {
    /// Who asks, if a request of this kind may be served here and now.
    pub(super) fn admit<T>(
        &self,
        request: &Request<T>,
        at_learner: AtLearner,
    ) -> Result<Identity, Status> {
        let place = self.replica.place();
        if place.is_learner && at_learner == AtLearner::Refused {
            return Err(status::not_supported_for_learner());
        }
        let metadata = request.metadata();
        if let Some(version) = metadata.get("client-api-version")
            && std::str::from_utf8(version.as_bytes()).is_err()
        {
            return Err(status::invalid_client_api_version());
        }
        if requires_leader(metadata) && place.leader == 0 {
            return Err(status::no_leader());
        }
        Ok(identity(request))
    }

    /// Lets a request pass by the rules that this member has applied.
    pub(super) fn permit<T: Guarded>(
        &self,
        who: &Identity,
        request: T,
    ) -> Result<Permitted<T>, Denied> {
        self.door.permit(self.replica.view().rules(), who, request)
    }

    /// As `permit`; what this member would refuse is asked again once it has applied all that was
    /// committed before: the rule that allows it may be on its way.
    pub(super) async fn permit_write<T: Guarded>(
        &self,
        who: &Identity,
        request: T,
    ) -> Result<Permitted<T>, Status> {
        let view = self.replica.view();
        let request = match self.door.permit_or_return(view.rules(), who, request) {
            Ok(permitted) => return Ok(permitted),
            Err((_, request)) => request,
        };
        drop(view);
        self.replica.read_barrier().await?;
        Ok(self.permit(who, request)?)
    }

    /// etcd looks once more after it has read: the rules may have changed meanwhile.
    pub(super) fn still_permitted(&self, caller: Option<&Caller>) -> Result<(), Denied> {
        match caller {
            Some(caller) => self.replica.view().rules().unchanged_since(caller),
            None => Ok(()),
        }
    }

    /// Never returns for a stream that does not ask for a leader; for one that does, once there
    /// has been none for three elections.
    pub(super) async fn leader_lost(&self, requires_leader: bool) {
        if !requires_leader {
            return std::future::pending().await;
        }
        let patience = self.limits.election_timeout * LEADERLESS_MAX;
        loop {
            self.replica.has_leader(false).await;
            let found = self.replica.has_leader(true);
            if tokio::time::timeout(patience, found).await.is_err() {
                return;
            }
        }
    }
}

/// A simple token names the entry that made it known. A member that has not applied that entry
/// yet is a little late, and the token is not invalid.
pub(super) async fn await_token(
    State(edge): State<Edge>,
    request: axum::extract::Request,
    next: Next,
) -> axum::response::Response {
    if let Some(token) = token(request.headers())
        && let Some(index) = token_index(&token)
        && edge.replica.view().auth.is_enabled()
    {
        // A token that was made up is refused afterwards.
        let _ = tokio::time::timeout(TOKEN_TIMEOUT, edge.replica.has_applied(index)).await;
    }
    next.run(request).await
}

/// A token goes before a certificate. The certificate of the JSON gateway is the server's own and
/// says nothing about who asks.
fn identity<T>(request: &Request<T>) -> Identity {
    let metadata = request.metadata();
    if let Some(token) = token(metadata.as_ref()) {
        return Identity::Token(token);
    }
    let tls = request.extensions().get::<TlsClient>();
    match tls.and_then(|tls| tls.common_name.as_deref()) {
        Some(name) if !name.is_empty() && !metadata.contains_key("grpcgateway-accept") => {
            Identity::Certificate(name.into())
        }
        _ => Identity::Anyone,
    }
}

/// What is no text is no valid token either.
fn token(headers: &HeaderMap) -> Option<Secret> {
    let value = TOKEN_KEYS.iter().find_map(|key| headers.get(*key))?;
    let text = value.to_str().unwrap_or_default();
    Some(Secret::new(text.strip_prefix("Bearer ").unwrap_or(text)))
}

pub(super) fn requires_leader(metadata: &MetadataMap) -> bool {
    metadata
        .get("hasleader")
        .is_some_and(|value| value.as_bytes() == b"true")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(pairs: &[(&'static str, &str)], common_name: Option<&str>) -> Identity {
        let mut request = Request::new(());
        for (key, value) in pairs {
            request.metadata_mut().insert(*key, value.parse().unwrap());
        }
        if let Some(name) = common_name {
            let common_name = Some(name.to_owned());
            request.extensions_mut().insert(TlsClient { common_name });
        }
        identity(&request)
    }

    fn token(token: &str) -> Identity {
        Identity::Token(Secret::new(token))
    }

    #[test]
    fn a_token_is_found_under_both_its_names_and_goes_before_a_certificate() {
        assert_eq!(request(&[("token", "a.1")], Some("alice")), token("a.1"));
        assert_eq!(
            request(&[("authorization", "Bearer b.2")], None),
            token("b.2")
        );
        assert_eq!(request(&[("authorization", "b.2")], None), token("b.2"));
        assert_eq!(
            request(&[("authorization", "x"), ("token", "y")], None),
            token("y")
        );
        assert_eq!(request(&[("token", "")], Some("alice")), token(""));
    }

    #[test]
    fn the_common_name_counts_but_for_the_json_gateway() {
        let alice = Identity::Certificate("alice".into());
        assert_eq!(request(&[], Some("alice")), alice);
        let gateway = [("grpcgateway-accept", "*/*")];
        assert_eq!(request(&gateway, Some("alice")), Identity::Anyone);
        assert_eq!(request(&[], Some("")), Identity::Anyone);
        assert_eq!(request(&[], None), Identity::Anyone);
    }
}
