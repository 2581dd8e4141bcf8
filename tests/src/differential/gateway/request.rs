//! Steps as the gateway's requests: which path, and the message as JSON.
//!
//! A message has many spellings that mean the same (names as in the proto or with capitals, numbers as numbers or
//! texts, enums by name or number, zero values told or not). Its own bytes choose one, so a script always asks the same.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use proto::etcdserverpb as pb;
use serde_json::Value;

use crate::differential::Step;

static MESSAGES: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(proto::DESCRIPTORS).expect("the build wrote it"));

/// A call of one request.
pub(super) struct Call {
    pub(super) path: &'static str,
    pub(super) body: String,
}

impl Call {
    /// `None` for a step that is no such call. A range is no stream here: the gateway has none.
    pub(super) fn of(step: &Step) -> Option<Self> {
        let (path, body) = match step {
            Step::Put(request) => ("/v3/kv/put", json("PutRequest", request)),
            Step::Range(request) | Step::RangeStream(request) => {
                ("/v3/kv/range", json("RangeRequest", request))
            }
            Step::Delete(request) => ("/v3/kv/deleterange", json("DeleteRangeRequest", request)),
            Step::Txn(request) => ("/v3/kv/txn", json("TxnRequest", request)),
            Step::Compact(request) => ("/v3/kv/compaction", json("CompactionRequest", request)),
            Step::Grant(request) => ("/v3/lease/grant", json("LeaseGrantRequest", request)),
            Step::Revoke(request) => (
                either(request.id, "/v3/lease/revoke", "/v3/kv/lease/revoke"),
                json("LeaseRevokeRequest", request),
            ),
            Step::TimeToLive(request) => (
                either(
                    request.id,
                    "/v3/lease/timetolive",
                    "/v3/kv/lease/timetolive",
                ),
                json("LeaseTimeToLiveRequest", request),
            ),
            Step::KeepAlive(request) => (
                "/v3/lease/keepalive",
                json("LeaseKeepAliveRequest", request),
            ),
            Step::Leases => ("/v3/lease/leases", "{}".to_owned()),
            Step::Alarm(request) => ("/v3/maintenance/alarm", json("AlarmRequest", request)),
            Step::Status => ("/v3/maintenance/status", "{}".to_owned()),
            Step::HashKv(request) => ("/v3/maintenance/hashkv", json("HashKVRequest", request)),
            Step::Members(request) => (
                "/v3/cluster/member/list",
                json("MemberListRequest", request),
            ),
            _ => return None,
        };
        Some(Self { path, body })
    }
}

/// Some calls have two paths.
fn either(id: i64, one: &'static str, other: &'static str) -> &'static str {
    if id % 2 == 0 { one } else { other }
}

/// A request of a watch stream.
pub(super) fn watch(request: &pb::WatchRequest) -> String {
    json("WatchRequest", request)
}

pub(super) fn create(create: &pb::WatchCreateRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(
            create.clone(),
        )),
    }
}

fn json(name: &str, message: &impl Message) -> String {
    let of = MESSAGES
        .get_message_by_name(&format!("etcdserverpb.{name}"))
        .unwrap_or_else(|| panic!("{name} is a message"));
    let bytes = message.encode_to_vec();
    let spelling = bytes
        .iter()
        .fold(0_u32, |hash, byte| hash.wrapping_mul(31) ^ u32::from(*byte));
    let may = |bit: u32| spelling >> bit & 1 == 1;
    let options = SerializeOptions::new()
        .use_proto_field_name(may(0))
        .stringify_64_bit_integers(may(1))
        .use_enum_numbers(may(2))
        .skip_default_fields(may(3) || may(4));
    let message = DynamicMessage::decode(of, &*bytes).expect("it was encoded by the same proto");
    let value = message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .unwrap_or_else(|error| panic!("{name} can be written as JSON: {error}"));
    text(&value, may(5))
}

/// With or without spaces between.
fn text(value: &Value, pretty: bool) -> String {
    if pretty {
        format!("{value:#}")
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_asked_for_in_its_own_words() {
        let put = pb::PutRequest {
            key: "k".into(),
            value: "v".into(),
            lease: 7,
            ..Default::default()
        };
        let call = Call::of(&Step::Put(put)).unwrap();
        assert_eq!(call.path, "/v3/kv/put");
        let body: Value = serde_json::from_str(&call.body).unwrap();
        assert_eq!(body["key"], "aw==");
        assert!(body["lease"] == "7" || body["lease"] == 7, "{body}");
        assert!(Call::of(&Step::Sync).is_none());
    }

    #[test]
    fn spellings_differ_from_message_to_message() {
        let bodies = (0..64).map(|limit| {
            let request = pb::RangeRequest {
                key: "k".into(),
                range_end: "l".into(),
                limit,
                sort_order: 1,
                ..Default::default()
            };
            Call::of(&Step::Range(request)).unwrap().body
        });
        let bodies = bodies.collect::<Vec<_>>();
        for spelling in ["range_end", "rangeEnd", "\"ASCEND\"", "serializable"] {
            let with = bodies.iter().filter(|body| body.contains(spelling)).count();
            assert!(0 < with && with < bodies.len(), "{spelling}: {with}");
        }
    }
}
