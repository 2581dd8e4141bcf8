//! Response headers, as each of etcd's services fills them.

use proto::etcdserverpb::ResponseHeader;

use crate::replica::{Place, Replica};

/// The full header of KV, Lease, Watch and Maintenance.
pub(super) fn full(replica: &dyn Replica, revision: i64) -> Option<ResponseHeader> {
    Some(placed(replica.place(), revision))
}

/// The header of Cluster, which names no revision.
pub(super) fn of_cluster(replica: &dyn Replica) -> Option<ResponseHeader> {
    full(replica, 0)
}

/// The header of an answer inside a transaction, which names nothing else.
pub(super) fn inner(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}

pub(super) fn placed(place: Place, revision: i64) -> ResponseHeader {
    let Place {
        cluster_id,
        member_id,
        term,
        ..
    } = place;
    ResponseHeader {
        cluster_id,
        member_id,
        revision,
        raft_term: term,
    }
}
