//! Random steps over few keys, few leases and few values, so that they meet.

use std::collections::BTreeSet;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use proto::etcdserverpb::watch_request::RequestUnion;
use rand::Rng;
use rand::rngs::StdRng;

use super::script::Step;
use crate::txn;

/// At most twelve: etcd sorts more than that without keeping equal records in key order.
const KEYS: [&str; 10] = ["a", "a/", "a/1", "a/2", "b", "b/1", "c", "c\u{0}", "d", "z"];
const ENDS: [&str; 8] = ["", "\0", "a0", "a/2", "b", "c", "d", "zz"];
const VALUES: [&str; 5] = ["", "0", "1", "one", "two"];
const LEASES: i64 = 6;
/// Long enough that none expires while a script runs.
const TTL: std::ops::Range<i64> = 3_000..9_000;
const WATCHES: u32 = 8;
/// Nested transactions deeper than this say nothing new.
const DEPTH: usize = 3;

pub struct Generator {
    pub(super) rng: StdRng,
    revision: i64,
    /// Where compactions were asked for.
    compacted: BTreeSet<i64>,
    /// Then no range ends before its key and no alarm is raised: `normalise.rs` says why.
    pub(super) with_users: bool,
}

impl Generator {
    pub fn new(rng: StdRng) -> Self {
        Self {
            rng,
            revision: 1,
            compacted: BTreeSet::new(),
            with_users: false,
        }
    }

    /// The next step, given the newest revision that was seen.
    pub fn step(&mut self, revision: i64) -> Step {
        self.revision = revision;
        match self.rng.random_range(0..1_000) {
            0..260 => Step::Put(self.put()),
            260..440 => Step::Range(self.range()),
            440..470 => Step::RangeStream(streamable(self.range())),
            470..550 => Step::Delete(self.delete()),
            550..780 => Step::Txn(survivable(self.txn(0))),
            780..792 => Step::Compact(self.compact()),
            792..830 => Step::Grant(pb::LeaseGrantRequest {
                id: self.lease(),
                ttl: self.rng.random_range(TTL),
            }),
            830..845 => Step::Revoke(pb::LeaseRevokeRequest { id: self.lease() }),
            845..868 => Step::TimeToLive(pb::LeaseTimeToLiveRequest {
                id: self.lease(),
                keys: self.rng.random(),
            }),
            868..878 => Step::KeepAlive(pb::LeaseKeepAliveRequest { id: self.lease() }),
            878..886 => Step::Leases,
            886..925 => Step::Watch {
                slot: self.rng.random_range(0..WATCHES),
                create: self.watch(),
            },
            925..942 => Step::Unwatch {
                slot: self.rng.random_range(0..WATCHES),
            },
            942..945 => Step::Grant(pb::LeaseGrantRequest {
                id: self.lease(),
                ttl: 9_000_000_001,
            }),
            945..951 => Step::HashKv(self.hash_kv()),
            951..954 => Step::Status,
            954..956 => Step::Members(pb::MemberListRequest {
                linearizable: self.rng.random(),
            }),
            956..963 => Step::Talk(self.talk()),
            963..970 => Step::Alarm(self.alarm(AlarmAction::Deactivate)),
            970..972 => Step::Alarm(self.alarm(AlarmAction::Get)),
            972 if !self.with_users => Step::Alarm(self.alarm(AlarmAction::Activate)),
            _ => Step::Sync,
        }
    }

    pub(super) fn one_of(&mut self, choices: &'static [&'static str]) -> Bytes {
        Bytes::from_static(choices[self.rng.random_range(0..choices.len())].as_bytes())
    }

    fn key(&mut self) -> Bytes {
        // Now and then no key at all, or one past every other.
        match self.rng.random_range(0..100) {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"\0"),
            _ => self.one_of(&KEYS),
        }
    }

    fn end(&mut self) -> Bytes {
        if self.rng.random_bool(0.4) {
            Bytes::new()
        } else {
            self.one_of(&ENDS)
        }
    }

    /// A key and where a range from it ends.
    fn span(&mut self) -> (Bytes, Bytes) {
        let (key, end) = (self.key(), self.end());
        let inverted = end <= key && end.as_ref() != b"\0";
        match self.with_users && inverted {
            true => (key, Bytes::new()),
            false => (key, end),
        }
    }

    fn lease(&mut self) -> i64 {
        self.rng.random_range(1..=LEASES)
    }

    fn rarely(&mut self) -> bool {
        self.rng.random_bool(0.08)
    }

    /// Mostly near the newest revision, sometimes long gone, sometimes to come.
    fn some_revision(&mut self) -> i64 {
        match self.rng.random_range(0..20) {
            0 => self.revision + self.rng.random_range(1..4),
            1 => -self.rng.random_range(1..3),
            2..5 => self.rng.random_range(0..=self.revision),
            _ => (self.revision - self.rng.random_range(0..30)).max(0),
        }
    }

    fn put(&mut self) -> pb::PutRequest {
        let mut request = pb::PutRequest {
            key: self.key(),
            value: self.one_of(&VALUES),
            prev_kv: self.rng.random_bool(0.3),
            ..Default::default()
        };
        if self.rng.random_bool(0.25) {
            request.lease = self.lease();
        }
        if self.rarely() {
            request.ignore_value = true;
            if !self.rarely() {
                request.value = Bytes::new();
            }
        }
        if self.rarely() {
            request.ignore_lease = true;
            if !self.rarely() {
                request.lease = 0;
            }
        }
        request
    }

    fn range(&mut self) -> pb::RangeRequest {
        let (key, range_end) = self.span();
        let mut request = pb::RangeRequest {
            key,
            range_end,
            ..Default::default()
        };
        if self.rng.random_bool(0.3) {
            request.revision = self.some_revision();
        }
        if self.rng.random_bool(0.3) {
            request.limit = self.rng.random_range(0..5);
        }
        if self.rng.random_bool(0.3) {
            request.sort_order = self.rng.random_range(0..3);
            request.sort_target = self.rng.random_range(0..5);
        }
        if self.rng.random_bool(0.01) {
            request.sort_order = 7;
        }
        if self.rng.random_bool(0.2) {
            let bound = self.some_revision();
            let filters = [
                &mut request.min_mod_revision,
                &mut request.max_mod_revision,
                &mut request.min_create_revision,
                &mut request.max_create_revision,
            ];
            let chosen = self.rng.random_range(0..filters.len());
            *filters.into_iter().nth(chosen).expect("chosen among them") = bound;
        }
        request.keys_only = self.rng.random_bool(0.1);
        request.count_only = self.rng.random_bool(0.1);
        request.serializable = self.rng.random_bool(0.2);
        request
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let (key, range_end) = self.span();
        pb::DeleteRangeRequest {
            key,
            range_end,
            prev_kv: self.rng.random_bool(0.5),
        }
    }

    fn compact(&mut self) -> pb::CompactionRequest {
        let revision = match self.rng.random_range(0..10) {
            0 => self.some_revision(),
            _ => (self.revision - self.rng.random_range(0..40)).max(0),
        };
        self.compacted.insert(revision);
        pb::CompactionRequest {
            revision,
            physical: self.rng.random(),
        }
    }

    /// Not at a revision that was compacted to: `normalise.rs` says why.
    fn hash_kv(&mut self) -> pb::HashKvRequest {
        let revision = self.some_revision();
        let revision = match self.compacted.contains(&revision) {
            true => self.revision,
            false => revision,
        };
        pb::HashKvRequest { revision }
    }

    fn watch(&mut self) -> pb::WatchCreateRequest {
        let start_revision = if self.rng.random_bool(0.5) {
            0
        } else {
            self.some_revision()
        };
        let (key, range_end) = self.span();
        let mut request = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision,
            ..Default::default()
        };
        request.prev_kv = self.rng.random_bool(0.5);
        request.progress_notify = self.rng.random_bool(0.2);
        request.fragment = self.rng.random_bool(0.2);
        request.watch_id = if self.rarely() { 42 } else { 0 };
        if self.rng.random_bool(0.3) {
            request.filters = (0..2).filter(|_| self.rng.random()).collect();
        }
        request
    }

    /// Of a member that is none, as etcd lets it be raised.
    fn alarm(&mut self, action: AlarmAction) -> pb::AlarmRequest {
        let alarm = match self.rng.random_range(0..3) {
            0 => pb::AlarmType::Corrupt,
            _ => pb::AlarmType::Nospace,
        };
        pb::AlarmRequest {
            action: action.into(),
            member_id: 0,
            alarm: alarm.into(),
        }
    }

    /// Creates and cancels on one stream, of ids that meet.
    fn talk(&mut self) -> Vec<pb::WatchRequest> {
        (0..self.rng.random_range(1..7))
            .map(|_| {
                let request_union = match self.rng.random_range(0..10) {
                    0 => None,
                    1..4 => Some(RequestUnion::CancelRequest(pb::WatchCancelRequest {
                        watch_id: self.rng.random_range(0..4),
                    })),
                    _ => {
                        let mut create = self.watch();
                        // What a compacted start is told comes at any time.
                        create.start_revision = if self.rarely() { -2 } else { 0 };
                        create.watch_id = self.rng.random_range(0..4);
                        Some(RequestUnion::CreateRequest(create))
                    }
                };
                pb::WatchRequest { request_union }
            })
            .collect()
    }

    fn txn(&mut self, depth: usize) -> pb::TxnRequest {
        pb::TxnRequest {
            compare: self.some(2, |own| own.compare()),
            success: self.some(4, |own| own.operation(depth)),
            failure: self.some(3, |own| own.operation(depth)),
        }
    }

    fn some<T>(&mut self, max: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.rng.random_range(0..=max))
            .map(|_| make(self))
            .collect()
    }

    fn operation(&mut self, depth: usize) -> pb::RequestOp {
        match self.rng.random_range(0..100) {
            0..45 => txn::put_request(self.put()),
            45..75 => txn::range(self.range()),
            75..85 => {
                let delete = self.delete();
                pb::RequestOp {
                    request: Some(pb::request_op::Request::RequestDeleteRange(delete)),
                }
            }
            85 => pb::RequestOp { request: None },
            _ if depth < DEPTH => txn::nested(self.txn(depth + 1)),
            _ => txn::range(self.range()),
        }
    }

    fn compare(&mut self) -> pb::Compare {
        let target = self.rng.random_range(0..5);
        let union = match CompareTarget::try_from(target) {
            Ok(CompareTarget::Version) => TargetUnion::Version(self.rng.random_range(0..4)),
            Ok(CompareTarget::Create) => TargetUnion::CreateRevision(self.some_revision()),
            Ok(CompareTarget::Mod) => TargetUnion::ModRevision(self.some_revision()),
            Ok(CompareTarget::Value) => TargetUnion::Value(self.one_of(&VALUES)),
            _ => TargetUnion::Lease(self.rng.random_range(0..=LEASES)),
        };
        let union = (!self.rng.random_bool(0.03)).then_some(union);
        let (key, range_end) = if self.rng.random_bool(0.3) {
            self.span()
        } else {
            (self.key(), Bytes::new())
        };
        pb::Compare {
            result: self.rng.random_range(0..4),
            target,
            key,
            range_end,
            target_union: union,
        }
    }
}

/// A target without an order makes etcd 3.7.1 sort each piece by itself and go on after its last key, which loses keys
/// and repeats others; sealkv refuses it as it refuses an order.
fn streamable(mut request: pb::RangeRequest) -> pb::RangeRequest {
    if request.sort_order() == pb::range_request::SortOrder::None {
        request.sort_target = pb::range_request::SortTarget::Key.into();
    }
    request
}

/// etcd 3.7.1 dies of a put with `ignore_value` or `ignore_lease` whose key an open-ended delete of the same
/// transaction has removed: it checks that the key exists before it writes, and sees no overlap with `\0`.
fn survivable(mut txn: pb::TxnRequest) -> pb::TxnRequest {
    if deletes_open_ended(&txn) {
        keep_nothing(&mut txn);
    }
    txn
}

fn deletes_open_ended(txn: &pb::TxnRequest) -> bool {
    txn.success
        .iter()
        .chain(&txn.failure)
        .any(|operation| match &operation.request {
            Some(pb::request_op::Request::RequestDeleteRange(delete)) => {
                delete.range_end.as_ref() == b"\0"
            }
            Some(pb::request_op::Request::RequestTxn(nested)) => deletes_open_ended(nested),
            _ => false,
        })
}

fn keep_nothing(txn: &mut pb::TxnRequest) {
    for operation in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut operation.request {
            Some(pb::request_op::Request::RequestPut(put)) => {
                (put.ignore_value, put.ignore_lease) = (false, false)
            }
            Some(pb::request_op::Request::RequestTxn(nested)) => keep_nothing(nested),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn a_seed_gives_the_same_steps_again() {
        let steps = |seed| {
            let mut generator = Generator::new(StdRng::seed_from_u64(seed));
            (0..500)
                .map(|revision| generator.step(revision))
                .collect::<Vec<_>>()
        };
        assert_eq!(steps(1), steps(1));
        assert_ne!(steps(1), steps(2));
    }
}
