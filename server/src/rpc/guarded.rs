//! What the requests of the wire need their makers to be allowed.
//!
//! Those that become commands say it again there, for apply; these add what only the edge knows:
//! whether the record before is to be shown.
//!
//! Source: etcd 3.7.1, `server/etcdserver/api/v3rpc/{maintenance,member}.go`.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::sealkv::v1 as sealkv;

use super::parse::{PlainOp, PlainPut, PlainTxn};
use crate::access::{Guarded, Need, guarded};
use crate::replica::{MemberChange, MoveLeader};

guarded!([Need::User] => pb::StatusRequest, pb::MemberListRequest);
guarded!([Need::Root] =>
    MemberChange, MoveLeader,
    pb::DefragmentRequest, pb::SnapshotRequest, pb::HashRequest, pb::HashKvRequest,
    pb::DowngradeRequest,
    sealkv::KeysEnvelopeRequest,
    sealkv::KeysListRequest,
    sealkv::PluginListRequest, sealkv::PluginDeadLettersRequest,
);
guarded!([Need::User, Need::ReadEveryAttached] => pb::LeaseLeasesRequest);

impl Guarded for pb::AlarmRequest {
    fn needs(&self) -> Vec<Need<'_>> {
        match AlarmAction::try_from(self.action) {
            Ok(AlarmAction::Get) => vec![Need::User],
            _ => vec![Need::Root],
        }
    }
}

impl Guarded for PlainPut {
    fn needs(&self) -> Vec<Need<'_>> {
        let mut needs = Vec::new();
        self.add_needs(&mut needs);
        needs
    }
}

impl PlainPut {
    fn add_needs<'a>(&'a self, needs: &mut Vec<Need<'a>>) {
        needs.push(Need::WriteKey(&self.key));
        if self.lease != 0 {
            needs.push(Need::WriteAttached(self.lease));
        }
        if self.prev_kv {
            needs.push(Need::ReadKey(&self.key));
        }
    }
}

impl Guarded for PlainTxn {
    fn needs(&self) -> Vec<Need<'_>> {
        let mut needs = Vec::new();
        self.add_needs(&mut needs);
        needs
    }
}

impl PlainTxn {
    fn add_needs<'a>(&'a self, needs: &mut Vec<Need<'a>>) {
        needs.extend(
            self.compares
                .iter()
                .map(|compare| Need::Read(&compare.range)),
        );
        for op in self.success.iter().chain(&self.failure) {
            match op {
                PlainOp::Range(range) => needs.push(Need::Read(&range.query.range)),
                PlainOp::Put(put) => put.add_needs(needs),
                PlainOp::DeleteRange(delete) => needs.extend(delete.needs()),
                PlainOp::Txn(inner) => inner.add_needs(needs),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn only_looking_at_alarms_is_open_to_every_user() {
        let of = |action: i32| pb::AlarmRequest {
            action,
            ..pb::AlarmRequest::default()
        };
        assert_eq!(of(0).needs(), [Need::User]);
        for action in [1, 2, 3, -1] {
            assert_eq!(of(action).needs(), [Need::Root], "action {action}");
        }
    }

    #[test]
    fn a_nested_put_that_shows_the_record_before_needs_to_read_it() {
        let put = PlainPut {
            key: Bytes::from_static(b"k"),
            value: Bytes::new(),
            lease: 0,
            prev_kv: true,
            ignore_value: false,
            ignore_lease: false,
        };
        let nested = PlainTxn {
            compares: Vec::new(),
            success: Vec::new(),
            failure: vec![PlainOp::Put(put)],
        };
        let outer = PlainTxn {
            compares: Vec::new(),
            success: vec![PlainOp::Txn(nested)],
            failure: Vec::new(),
        };
        assert_eq!(outer.needs(), [Need::WriteKey(b"k"), Need::ReadKey(b"k")]);
    }
}
