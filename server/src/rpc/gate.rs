//! What a request's metadata asks for, and what a learner may serve.
//!
//! Source: etcd 3.7.1, `server/etcdserver/api/v3rpc/interceptor.go`.

use tokio::time::MissedTickBehavior;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use super::{Edge, status};
use crate::access::{Denied, Guarded, Identity, Permitted};

/// Elections without a leader after which a stream that asks for one is ended.
const LEADERLESS_MAX: u32 = 3;

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
        Ok(Identity::Anyone)
    }

    pub(super) fn permit<T: Guarded>(
        &self,
        who: &Identity,
        request: T,
    ) -> Result<Permitted<T>, Denied> {
        self.door.permit(who, request)
    }

    /// Never returns for a stream that does not ask for a leader; for one that does, once there
    /// has been none for three elections.
    pub(super) async fn leader_lost(&self, requires_leader: bool) {
        if !requires_leader {
            return std::future::pending().await;
        }
        let mut ticks = tokio::time::interval(self.limits.election_timeout);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut without = 0;
        while without < LEADERLESS_MAX {
            ticks.tick().await;
            without = if self.replica.place().leader == 0 {
                without + 1
            } else {
                0
            };
        }
    }
}

pub(super) fn requires_leader(metadata: &MetadataMap) -> bool {
    metadata
        .get("hasleader")
        .is_some_and(|value| value.as_bytes() == b"true")
}
