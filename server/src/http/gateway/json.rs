//! Messages as JSON: proto field names, 64-bit integers as strings, bytes as base64, enums by
//! name, zero values left out.
//!
//! Promise: a request is read as etcd's gateway reads it (unknown fields and unknown enum names
//! passed over, `null` for what is not given, a field twice refused); no error repeats a value of
//! the request.
//! Not known here: HTTP and gRPC.
//!
//! Source: the ProtoJSON mapping; protobuf-go's `protojson` with the options of etcd 3.7.1,
//! `server/embed/serve.go`.

mod message;
mod scalar;

use std::cell::Cell;

use bytes::Bytes;
use prost_reflect::prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use serde::de::DeserializeSeed as _;
use serde_json::error::Category;

use message::MessageSeed;

/// Why a text is no message. Lines and columns count from one.
#[derive(Debug, thiserror::Error)]
pub(super) enum JsonError {
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: syntax error (line {line}:{column})")]
    Syntax { line: usize, column: usize },
    #[error("proto: syntax error (line 1:1): unexpected token")]
    NoObject,
    #[error("proto: (line {line}:{column}): {misfit}")]
    Misfit {
        line: usize,
        column: usize,
        misfit: Misfit,
    },
}

/// JSON that the message cannot be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Misfit {
    #[error("not an object")]
    NoObject,
    #[error("invalid value for {kind} field {field}")]
    Value { kind: &'static str, field: String },
    #[error("duplicate field {field:?}")]
    Twice { field: String },
    #[error("error parsing {field:?}, oneof {oneof} is already set")]
    OneOf { field: String, oneof: String },
}

/// An answer that is no message of its kind: a mistake of this program.
#[derive(Debug, thiserror::Error)]
#[error("failed to marshal the answer")]
pub(super) struct NotAMessage;

/// The message that a text stands for, encoded. Whatever follows the first JSON value is passed
/// over, and nothing at all is a message without fields.
pub(super) fn decode(of: &MessageDescriptor, text: &[u8]) -> Result<Vec<u8>, JsonError> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let misfit = Cell::new(None);
    let seed = MessageSeed {
        of,
        misfit: &misfit,
    };
    let message = seed.deserialize(&mut json).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        match (misfit.take(), error.classify()) {
            (Some(Misfit::NoObject), _) => JsonError::NoObject,
            (Some(misfit), _) => JsonError::Misfit {
                line,
                column,
                misfit,
            },
            (None, Category::Eof) => JsonError::Truncated,
            (None, _) => JsonError::Syntax { line, column },
        }
    })?;
    Ok(message.encode_to_vec())
}

/// An encoded message as JSON.
pub(super) fn encode(of: &MessageDescriptor, message: Bytes) -> Result<Vec<u8>, NotAMessage> {
    let message = DynamicMessage::decode(of.clone(), message).map_err(|_| NotAMessage)?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(true)
        .stringify_64_bit_integers(true);
    let mut text = Vec::new();
    let mut json = serde_json::Serializer::new(&mut text);
    message
        .serialize_with_options(&mut json, &options)
        .map_err(|_| NotAMessage)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::routes;
    use super::*;
    use proto::etcdserverpb as pb;
    use proto::mvccpb::KeyValue;

    fn read<M: prost::Message + Default>(at: &str, text: &str) -> Result<M, String> {
        let method = routes::find(at).unwrap();
        let bytes = decode(&method.request, text.as_bytes()).map_err(|error| error.to_string())?;
        Ok(M::decode(bytes.as_slice()).unwrap())
    }

    fn range(text: &str) -> Result<pb::RangeRequest, String> {
        read("/v3/kv/range", text)
    }

    fn written(at: &str, message: &impl prost::Message) -> serde_json::Value {
        let method = routes::find(at).unwrap();
        let text = encode(&method.response, message.encode_to_vec().into()).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn both_names_of_a_field_are_taken() {
        for text in [
            r#"{"key":"Zm9v","sort_target":"VALUE","rangeEnd":"Zm9w","limit":"3"}"#,
            r#"{"key":"Zm9v","sortTarget":4,"range_end":"Zm9w","limit":3.0}"#,
            r#"{"key":"Zm9v","sortTarget":4,"range_end":"Zm9w","limit":3e0} and more"#,
            "\n {\"key\":\"Zm9v\",\"sortTarget\":4,\"range_end\":\"Zm9w\",\"limit\":\"3e0\"}",
        ] {
            let request = range(text).unwrap();
            assert_eq!(request.key, "foo", "{text}");
            assert_eq!(request.range_end, "fop");
            assert_eq!((request.sort_target, request.limit), (4, 3));
        }
    }

    #[test]
    fn bytes_are_base64_of_either_alphabet() {
        for text in ["+/8=", "-_8=", "+/8", "-_8"] {
            let request = range(&format!(r#"{{"key":"{text}"}}"#)).unwrap();
            assert_eq!(request.key, [0xfb, 0xff].as_slice());
        }
    }

    #[test]
    fn padding_is_whole_or_none_and_a_numbers_text_is_a_json_number() {
        for (text, accepted) in [
            (r#"{"key":"YQ"}"#, true),
            (r#"{"key":"YQ=="}"#, true),
            (r#"{"key":"YQ="}"#, false),
            (r#"{"key":"YQ==="}"#, false),
            (r#"{"key":"Y Q"}"#, false),
            (r#"{"limit":"-0"}"#, true),
            (r#"{"limit":"1.50e1"}"#, true),
            (r#"{"limit":"01"}"#, false),
            (r#"{"limit":" 1"}"#, false),
            (r#"{"limit":"1\n"}"#, false),
            (r#"{"limit":""}"#, false),
            (r#"{"limit":"1."}"#, false),
            (r#"{"limit":"NaN"}"#, false),
        ] {
            assert_eq!(range(text).is_ok(), accepted, "{text}");
        }
    }

    #[test]
    fn nothing_unknown_and_null_are_passed_over() {
        assert_eq!(range("").unwrap(), pb::RangeRequest::default());
        assert_eq!(range(" \n").unwrap(), pb::RangeRequest::default());
        let text = r#"{"nokey":{"a":[1]},"key":null,"limit":null,"sort_order":"NONSENSE"}"#;
        assert_eq!(range(text).unwrap(), pb::RangeRequest::default());
        assert_eq!(range(r#"{"sort_order":77}"#).unwrap().sort_order, 77);
    }

    #[test]
    fn errors_name_the_field_and_never_the_value() {
        for (text, expected) in [
            (r#"{"key":"s3cret!"}"#, "invalid value for bytes field key"),
            (r#"{"key":5}"#, "invalid value for bytes field key"),
            (r#"{"key":["s3cret"]}"#, "invalid value for bytes field key"),
            (
                r#"{"key":{"s3cret":1}}"#,
                "invalid value for bytes field key",
            ),
            (
                r#"{"limit":"s3cret"}"#,
                "invalid value for int64 field limit",
            ),
            (r#"{"limit":"+1"}"#, "invalid value for int64 field limit"),
            (r#"{"limit":1.5}"#, "invalid value for int64 field limit"),
            (
                r#"{"limit":99999999999999999999}"#,
                "invalid value for int64 field limit",
            ),
            (
                r#"{"serializable":"true"}"#,
                "invalid value for bool field serializable",
            ),
            (r#"{"key":"","key":""}"#, r#"duplicate field "key""#),
            (r#"{"range_end":"","rangeEnd":""}"#, "duplicate field"),
            ("[]", "unexpected token"),
            ("5", "unexpected token"),
            ("null", "unexpected token"),
            (r#""s3cret""#, "unexpected token"),
            (r#"{"key":"Zm9v""#, "unexpected EOF"),
            ("nope", "syntax error (line 1:2)"),
            (r#"{"key" s3cret}"#, "syntax error"),
            (r#"{"key":"Zm9v",}"#, "syntax error"),
        ] {
            let error = range(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_transaction_nests_and_its_unions_hold_one() {
        let text = r#"{"compare":[{"key":"YQ==","result":"GREATER","target":"LEASE","lease":"7"}],
            "success":[{"request_put":{"key":"YQ==","value":"","prev_kv":true}},
                       {"requestTxn":{"failure":[{"request_range":{"key":"Yg=="}}]}}]}"#;
        let txn: pb::TxnRequest = read("/v3/kv/txn", text).unwrap();
        let compare = &txn.compare[0];
        assert_eq!(
            compare.target_union,
            Some(pb::compare::TargetUnion::Lease(7))
        );
        assert_eq!((compare.result, compare.target), (1, 4));
        assert_eq!(txn.success.len(), 2);
        let twice = r#"{"compare":[{"version":"0","lease":"0"}]}"#;
        let error = read::<pb::TxnRequest>("/v3/kv/txn", twice).unwrap_err();
        assert!(error.contains("already set"), "{error}");
        for wrong in [
            r#"{"compare":{}}"#,
            r#"{"compare":[5]}"#,
            r#"{"compare":[null]}"#,
        ] {
            read::<pb::TxnRequest>("/v3/kv/txn", wrong).unwrap_err();
        }
    }

    #[test]
    fn answers_leave_out_zeros_and_keep_present_messages() {
        let answer = pb::RangeResponse {
            header: Some(pb::ResponseHeader {
                cluster_id: u64::MAX,
                revision: -1,
                ..Default::default()
            }),
            kvs: vec![KeyValue {
                key: "a".into(),
                value: vec![0xff].into(),
                version: 1,
                ..Default::default()
            }],
            more: false,
            count: 1,
        };
        assert_eq!(
            written("/v3/kv/range", &answer),
            serde_json::json!({
                "header": {"cluster_id": "18446744073709551615", "revision": "-1"},
                "kvs": [{"key": "YQ==", "value": "/w==", "version": "1"}],
                "count": "1",
            })
        );
        let answer = pb::TxnResponse {
            responses: vec![pb::ResponseOp {
                response: Some(pb::response_op::Response::ResponsePut(
                    pb::PutResponse::default(),
                )),
            }],
            ..Default::default()
        };
        assert_eq!(
            written("/v3/kv/txn", &answer),
            serde_json::json!({"responses": [{"response_put": {}}]})
        );
        assert_eq!(
            written(
                "/v3/maintenance/defragment",
                &pb::DefragmentResponse::default()
            ),
            serde_json::json!({})
        );
    }

    #[test]
    fn names_with_capitals_and_enums_keep_etcds_spelling() {
        let answer = pb::MemberListResponse {
            members: vec![pb::Member {
                id: 5,
                peer_ur_ls: vec!["http://a:1".into()],
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(
            written("/v3/cluster/member/list", &answer),
            serde_json::json!({"members": [{"ID": "5", "peerURLs": ["http://a:1"]}]})
        );
        let answer = pb::AlarmResponse {
            alarms: vec![
                pb::AlarmMember {
                    member_id: 1,
                    alarm: 1,
                },
                pb::AlarmMember {
                    member_id: 2,
                    alarm: 9,
                },
            ],
            ..Default::default()
        };
        assert_eq!(
            written("/v3/maintenance/alarm", &answer),
            serde_json::json!({"alarms": [
                {"memberID": "1", "alarm": "NOSPACE"}, {"memberID": "2", "alarm": 9}
            ]})
        );
    }
}
