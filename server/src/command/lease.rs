//! Lease commands. Whether a lease may expire is the leader's business; these say what it saw.

use proto::sealkv::replicated as wire;

use super::{BadBody, Wire};

/// Grants `id`; the edge has picked it and raised the TTL to the minimum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseGrant {
    pub id: i64,
    pub ttl_seconds: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRevoke {
    pub id: i64,
}

/// Leases that the leader of `term` saw expire. Without effect in an entry of another term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseExpire {
    pub term: u64,
    pub ids: Vec<i64>,
}

/// Remaining times that survive a change of leader; 0 takes a checkpoint back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseCheckpoint {
    pub remaining_seconds: Vec<(i64, i64)>,
}

impl Wire for LeaseGrant {
    type Message = wire::LeaseGrant;
    fn to_wire(&self) -> wire::LeaseGrant {
        wire::LeaseGrant {
            id: self.id,
            ttl_seconds: self.ttl_seconds,
        }
    }
    fn from_wire(message: wire::LeaseGrant) -> Result<Self, BadBody> {
        Ok(LeaseGrant {
            id: message.id,
            ttl_seconds: message.ttl_seconds,
        })
    }
}

impl Wire for LeaseRevoke {
    type Message = wire::LeaseRevoke;
    fn to_wire(&self) -> wire::LeaseRevoke {
        wire::LeaseRevoke { id: self.id }
    }
    fn from_wire(message: wire::LeaseRevoke) -> Result<Self, BadBody> {
        Ok(LeaseRevoke { id: message.id })
    }
}

impl Wire for LeaseExpire {
    type Message = wire::LeaseExpire;
    fn to_wire(&self) -> wire::LeaseExpire {
        wire::LeaseExpire {
            term: self.term,
            ids: self.ids.clone(),
        }
    }
    fn from_wire(message: wire::LeaseExpire) -> Result<Self, BadBody> {
        Ok(LeaseExpire {
            term: message.term,
            ids: message.ids,
        })
    }
}

impl Wire for LeaseCheckpoint {
    type Message = wire::LeaseCheckpoint;
    fn to_wire(&self) -> wire::LeaseCheckpoint {
        let leases = self.remaining_seconds.iter();
        wire::LeaseCheckpoint {
            leases: leases
                .map(|&(id, remaining_seconds)| wire::LeaseRemaining {
                    id,
                    remaining_seconds,
                })
                .collect(),
        }
    }
    fn from_wire(message: wire::LeaseCheckpoint) -> Result<Self, BadBody> {
        let leases = message.leases.into_iter();
        Ok(LeaseCheckpoint {
            remaining_seconds: leases.map(|row| (row.id, row.remaining_seconds)).collect(),
        })
    }
}
