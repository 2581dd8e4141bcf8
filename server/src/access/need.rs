//! What a request needs its maker to be allowed.
//!
//! Promise: a request type without an answer here does not pass the door, because it does not
//! compile. The replicated commands answer too, so that apply asks again what the edge asked.
//! Not known here: users, roles, who asks.
//!
//! Source: etcd 3.7.1, `server/etcdserver/apply/auth.go` and `v3rpc/{key,maintenance,member}.go`.

use crate::command::{
    Authenticate, Body, ChangeAlarm, ChangeAuth, ChangeDowngrade, ChangeKeys, Compact, Compare,
    DeletePlugin, DeleteRange, DeployPlugin, LeaseGrant, LeaseRevoke, Op, PluginChunk, Put,
    SetPluginState, Txn,
};
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::RangeQuery;
use crate::replica::{AddPrefixKey, RotatePrefixKey};

/// One thing that must be allowed while authentication is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need<'a> {
    /// To be somebody.
    User,
    /// The root role.
    Root,
    Read(&'a KeyRange),
    ReadKey(&'a [u8]),
    Write(&'a KeyRange),
    WriteKey(&'a [u8]),
    /// To read every key that hangs on this lease.
    ReadAttached(i64),
    /// To write every key that hangs on this lease.
    WriteAttached(i64),
    /// To read every key that hangs on any lease.
    ReadEveryAttached,
    /// To be this user, or root.
    BeUser(&'a str),
    /// To have this role, or root's.
    HaveRole(&'a str),
}

/// A request that says what it needs. All of its needs must be met; none means open to all.
pub trait Guarded {
    fn needs(&self) -> Vec<Need<'_>>;
}

/// The needs of request types that are the same whatever they hold.
macro_rules! guarded {
    ($needs:expr => $($type:ty),* $(,)?) => {$(
        impl $crate::access::Guarded for $type {
            fn needs(&self) -> Vec<$crate::access::Need<'_>> {
                $needs.to_vec()
            }
        }
    )*};
}
pub(crate) use guarded;

// Who proves who it is cannot have been somebody before.
guarded!([] => Authenticate);
guarded!([Need::User] => LeaseGrant);
guarded!([Need::Root] =>
    Compact, ChangeAlarm, ChangeAuth, ChangeDowngrade, ChangeKeys, AddPrefixKey, RotatePrefixKey,
    PluginChunk, DeployPlugin, SetPluginState, DeletePlugin,
);

impl Guarded for RangeQuery {
    fn needs(&self) -> Vec<Need<'_>> {
        vec![Need::Read(&self.range)]
    }
}

/// Without what a client wants to see of the record before: the command does not say it, and the
/// edge has asked for it.
impl Guarded for Put {
    fn needs(&self) -> Vec<Need<'_>> {
        let mut needs = Vec::new();
        self.add_needs(&mut needs);
        needs
    }
}

impl Put {
    fn add_needs<'a>(&'a self, needs: &mut Vec<Need<'a>>) {
        needs.push(Need::WriteKey(&self.key));
        if self.lease != 0 {
            needs.push(Need::WriteAttached(self.lease));
        }
    }
}

impl Guarded for DeleteRange {
    fn needs(&self) -> Vec<Need<'_>> {
        let mut needs = vec![Need::Write(&self.range)];
        if self.prev {
            needs.push(Need::Read(&self.range));
        }
        needs
    }
}

/// Both branches and everything below them, whichever will be taken.
impl Guarded for Txn {
    fn needs(&self) -> Vec<Need<'_>> {
        let mut needs = Vec::new();
        self.add_needs(&mut needs);
        needs
    }
}

impl Txn {
    fn add_needs<'a>(&'a self, needs: &mut Vec<Need<'a>>) {
        needs.extend(
            self.compares
                .iter()
                .map(|Compare { range, .. }| Need::Read(range)),
        );
        for op in self.success.iter().chain(&self.failure) {
            match op {
                Op::Range(query) => needs.push(Need::Read(&query.range)),
                Op::Put(put) => put.add_needs(needs),
                Op::DeleteRange(delete) => needs.extend(delete.needs()),
                Op::Txn(inner) => inner.add_needs(needs),
            }
        }
    }
}

impl Guarded for LeaseRevoke {
    fn needs(&self) -> Vec<Need<'_>> {
        vec![Need::User, Need::WriteAttached(self.id)]
    }
}

impl Guarded for Body {
    fn needs(&self) -> Vec<Need<'_>> {
        match self {
            Body::Put(put) => put.needs(),
            Body::DeleteRange(delete) => delete.needs(),
            Body::Txn(txn) => txn.needs(),
            Body::Compact(compact) => compact.needs(),
            Body::LeaseGrant(grant) => grant.needs(),
            Body::LeaseRevoke(revoke) => revoke.needs(),
            Body::Alarm(alarm) => alarm.needs(),
            Body::Downgrade(downgrade) => downgrade.needs(),
            Body::ChangeKeys(change) => change.needs(),
            Body::PluginChunk(chunk) => chunk.needs(),
            Body::DeployPlugin(deploy) => deploy.needs(),
            Body::SetPluginState(state) => state.needs(),
            Body::DeletePlugin(delete) => delete.needs(),
            Body::ChangeAuth(change) => change.needs(),
            Body::Authenticate(authenticate) => authenticate.needs(),
            // Commands that only the server itself makes: a client that gets one in needs root.
            Body::LeaseExpire(_)
            | Body::LeaseCheckpoint(_)
            | Body::PublishMember(_)
            | Body::CommitPlugin(_) => vec![Need::Root],
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::command::{CompareResult, CompareTarget};

    fn put(key: &'static [u8], lease: i64) -> Put {
        Put {
            key: Bytes::from_static(key),
            sealed_value: Bytes::new(),
            lease,
            ignore_value: false,
            ignore_lease: false,
        }
    }

    #[test]
    fn a_transaction_needs_what_both_its_branches_need_at_every_depth() {
        let compared = KeyRange::single(Bytes::from_static(b"compared"));
        let deleted = KeyRange::prefix(Bytes::from_static(b"deleted"));
        let inner = Txn {
            compares: vec![Compare {
                range: compared.clone(),
                result: CompareResult::Equal,
                target: CompareTarget::Version(0),
            }],
            success: vec![Op::Put(put(b"deep", 7))],
            failure: vec![Op::DeleteRange(DeleteRange {
                range: deleted.clone(),
                prev: true,
            })],
        };
        let outer = Txn {
            compares: Vec::new(),
            success: vec![Op::Txn(inner)],
            failure: vec![Op::Put(put(b"other", 0))],
        };
        let expected = [
            Need::Read(&compared),
            Need::WriteKey(b"deep"),
            Need::WriteAttached(7),
            Need::Write(&deleted),
            Need::Read(&deleted),
            Need::WriteKey(b"other"),
        ];
        assert_eq!(outer.needs(), expected);
    }
}
