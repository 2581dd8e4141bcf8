//! etcd's Lease service.

use std::future::Future;
use std::pin::Pin;

use futures::{Stream, StreamExt as _, stream};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::lease_server::Lease;
use tonic::{Request, Response, Status, Streaming};

use super::gate::{AtLearner, requires_leader};
use super::{Edge, header, status};
use crate::access::{Guarded, Identity, Need};
use crate::command::{LeaseGrant, LeaseRevoke};
use crate::mvcc::read_view::ReadView;
use crate::replica::{LeaseError, ReadIndexError};
use crate::seal::SealerError;

type Lost = Pin<Box<dyn Future<Output = ()> + Send>>;

type Renewed = Result<pb::LeaseKeepAliveResponse, Status>;

/// Renewals of one stream that are on their way at once. Each waits until the leader has confirmed that it leads, and
/// clients ask again for what is not answered yet: one after the other they would fall behind until leases end.
const RENEWALS_AT_ONCE: usize = 32;

/// One keep-alive stream: requests are answered in their order.
struct Renewals {
    /// None once the stream has failed.
    answers: Option<Pin<Box<dyn Stream<Item = Renewed> + Send>>>,
    lost: Lost,
}

impl Renewals {
    /// None at the end of the client's stream and after the first error.
    async fn next(&mut self) -> Option<Renewed> {
        let answers = self.answers.as_mut()?;
        let answer = tokio::select! {
            () = &mut self.lost => Err(status::no_leader()),
            answer = answers.next() => answer?,
        };
        if answer.is_err() {
            self.answers = None;
        }
        Some(answer)
    }
}

/// The answers to requests in their order, several of them sought at once.
fn in_order<F>(
    requests: impl Stream<Item = Result<pb::LeaseKeepAliveRequest, Status>>,
    renew: impl Fn(i64) -> F,
) -> impl Stream<Item = Renewed>
where
    F: Future<Output = Renewed>,
{
    let renewals = requests.map(move |request| {
        let renewal = request.map(|request| renew(request.id));
        async move { renewal?.await }
    });
    renewals.buffered(RENEWALS_AT_ONCE)
}

/// A lease that is kept alive.
struct KeepAlive {
    id: i64,
}

impl Guarded for KeepAlive {
    fn needs(&self) -> Vec<Need<'_>> {
        vec![Need::User, Need::WriteAttached(self.id)]
    }
}

/// A lease that is asked about, maybe with its keys.
struct TimeToLive {
    id: i64,
    keys: bool,
}

impl Guarded for TimeToLive {
    fn needs(&self) -> Vec<Need<'_>> {
        let mut needs = vec![Need::User];
        if self.keys {
            needs.push(Need::ReadAttached(self.id));
        }
        needs
    }
}

fn same<B: Clone>(_: &ReadView, body: &B) -> Result<B, SealerError> {
    Ok(body.clone())
}

#[tonic::async_trait]
impl Lease for Edge {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let pb::LeaseGrantRequest { ttl, id } = request.into_inner();
        // One that is too large is refused where it is applied: an alarm is named before it.
        let ttl_seconds = ttl.max(self.limits.lease_ttl_seconds_min);
        let id = if id == 0 { random_id()? } else { id };
        let grant = self
            .permit_write(&who, LeaseGrant { id, ttl_seconds })
            .await?;
        let (reply, view) = self.write::<_, LeaseGrant>(&grant, same).await?;
        Ok(Response::new(pb::LeaseGrantResponse {
            header: header::full(&*self.replica, view.revision),
            id: reply.id,
            ttl: reply.ttl_seconds,
            error: String::new(),
        }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let id = request.into_inner().id;
        let revoke = self.permit_write(&who, LeaseRevoke { id }).await?;
        let ((), view) = self.write::<_, LeaseRevoke>(&revoke, same).await?;
        let header = header::full(&*self.replica, view.revision);
        Ok(Response::new(pb::LeaseRevokeResponse { header }))
    }

    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let required = requires_leader(request.metadata());
        let edge = self.clone();
        let lost: Lost = Box::pin(async move { edge.leader_lost(required).await });
        let edge = self.clone();
        let answers = in_order(request.into_inner(), move |id| {
            let (edge, who) = (edge.clone(), who.clone());
            async move { edge.renew(&who, id).await }
        });
        let renewals = Renewals {
            answers: Some(Box::pin(answers)),
            lost,
        };
        let answers = stream::unfold(renewals, |mut renewals| async {
            let answer = renewals.next().await?;
            Some((answer, renewals))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let pb::LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        // The lease's keys are told from what is applied here: what was attached before the
        // question has to be.
        match self.replica.read_barrier().await {
            Err(ReadIndexError::Timeout) if self.replica.place().leader == 0 => {
                return Err(LeaseError::NoLeader.into());
            }
            read => read?,
        }
        self.permit_write(&who, TimeToLive { id, keys }).await?;
        let left = self.replica.lease_remaining(id).await;
        let view = self.replica.view();
        let header = header::full(&*self.replica, view.revision);
        let gone = pb::LeaseTimeToLiveResponse {
            header,
            id,
            ttl: -1,
            ..Default::default()
        };
        let ttl = match left {
            Ok(ttl) => ttl,
            Err(LeaseError::NotFound) => return Ok(Response::new(gone)),
            Err(error) => return Err(error.into()),
        };
        let found = view.leases.read().get(id).map(|lease| {
            let attached = if keys {
                lease.keys().cloned().collect()
            } else {
                Vec::new()
            };
            (lease.ttl_seconds, attached)
        });
        let Some((granted_ttl, attached)) = found else {
            return Ok(Response::new(gone));
        };
        // Keys may have been attached since the door was passed.
        self.permit_write(&who, TimeToLive { id, keys }).await?;
        Ok(Response::new(pb::LeaseTimeToLiveResponse {
            ttl,
            granted_ttl,
            keys: attached,
            ..gone
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let request = request.into_inner();
        self.permit_write(&who, request).await?;
        let leases = self.replica.leases().into_iter();
        // Keys may have been attached since the door was passed.
        self.permit_write(&who, request).await?;
        let header = header::full(&*self.replica, self.replica.view().revision);
        let leases = leases.map(|id| pb::LeaseStatus { id }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header, leases }))
    }
}

impl Edge {
    /// The header is taken before the renewal: what it says was so when the lease still lived.
    async fn renew(&self, who: &Identity, id: i64) -> Renewed {
        self.permit_write(who, KeepAlive { id }).await?;
        let header = header::full(&*self.replica, self.replica.view().revision);
        let ttl = match self.replica.keep_alive(id).await {
            Ok(ttl) => ttl,
            Err(LeaseError::NotFound) => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(pb::LeaseKeepAliveResponse { header, id, ttl })
    }
}

/// Positive, as etcd's; practically never one that exists.
fn random_id() -> Result<i64, Status> {
    let random = getrandom::u64().map_err(|_| status::stopped())?;
    Ok(i64::try_from(random >> 1).unwrap_or(i64::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::Barrier;

    fn asked(ids: &[i64]) -> impl Stream<Item = Result<pb::LeaseKeepAliveRequest, Status>> {
        let requests = ids.iter().map(|&id| Ok(pb::LeaseKeepAliveRequest { id }));
        stream::iter(requests.collect::<Vec<_>>())
    }

    fn renewed(id: i64) -> Renewed {
        Ok(pb::LeaseKeepAliveResponse {
            id,
            ..Default::default()
        })
    }

    #[tokio::test]
    async fn renewals_wait_together_and_are_answered_in_their_order() {
        // None goes on before all have begun.
        let all = Arc::new(Barrier::new(3));
        let answers = in_order(asked(&[3, 1, 2]), |id| {
            let all = all.clone();
            async move {
                all.wait().await;
                renewed(id)
            }
        });
        let ids = answers.map(|answer| answer.map(|answer| answer.id).unwrap_or(0));
        assert_eq!(ids.collect::<Vec<_>>().await, [3, 1, 2]);
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_first_error() {
        let answers = in_order(asked(&[1, 2, 3]), |id| async move {
            if id == 2 {
                return Err(Status::unavailable("gone"));
            }
            renewed(id)
        });
        let mut renewals = Renewals {
            answers: Some(Box::pin(answers)),
            lost: Box::pin(std::future::pending()),
        };
        assert!(matches!(renewals.next().await, Some(Ok(_))));
        assert!(matches!(renewals.next().await, Some(Err(_))));
        assert!(renewals.next().await.is_none());
    }
}
