//! Short ways to write transactions in tests.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;

pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> pb::RequestOp {
    put_request(pb::PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    })
}

pub fn put_request(request: pb::PutRequest) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(Request::RequestPut(request)),
    }
}

pub fn get(key: impl Into<Bytes>) -> pb::RequestOp {
    range(pb::RangeRequest {
        key: key.into(),
        ..Default::default()
    })
}

pub fn range(request: pb::RangeRequest) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(Request::RequestRange(request)),
    }
}

pub fn delete(key: impl Into<Bytes>) -> pb::RequestOp {
    delete_range(key, "")
}

pub fn delete_range(key: impl Into<Bytes>, range_end: impl Into<Bytes>) -> pb::RequestOp {
    let request = pb::DeleteRangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        ..Default::default()
    };
    pb::RequestOp {
        request: Some(Request::RequestDeleteRange(request)),
    }
}

pub fn nested(request: pb::TxnRequest) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(Request::RequestTxn(request)),
    }
}

/// A transaction without compares: its success branch is taken.
pub fn always(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest {
        success,
        ..Default::default()
    }
}

pub fn compare(key: impl Into<Bytes>, result: CompareResult, union: TargetUnion) -> pb::Compare {
    let target = match &union {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    pb::Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        target_union: Some(union),
        ..Default::default()
    }
}

/// What one operation of a transaction answered.
pub fn response(op: &pb::ResponseOp) -> &Response {
    op.response.as_ref().expect("every operation has an answer")
}

pub fn range_of(op: &pb::ResponseOp) -> &pb::RangeResponse {
    match response(op) {
        Response::ResponseRange(range) => range,
        other => panic!("not a range: {other:?}"),
    }
}

pub fn txn_of(op: &pb::ResponseOp) -> &pb::TxnResponse {
    match response(op) {
        Response::ResponseTxn(txn) => txn,
        other => panic!("not a txn: {other:?}"),
    }
}
