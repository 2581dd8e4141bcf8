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

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use prost_reflect::prost::Message as _;
use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions,
    Value,
};
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

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

/// serde's own error texts repeat what they met, so what is wrong is told beside them.
type Told<'a> = &'a Cell<Option<Misfit>>;

fn refuse<E: serde::de::Error>(told: Told<'_>, misfit: Misfit) -> E {
    told.set(Some(misfit));
    E::custom("misfit")
}

struct MessageSeed<'a> {
    of: &'a MessageDescriptor,
    misfit: Told<'a>,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = DynamicMessage;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<DynamicMessage, D::Error> {
        let misfit = self.misfit;
        match json.deserialize_any(AnySeed::Message(self))? {
            Given::Message(message) => Ok(message),
            _ => Err(refuse(misfit, Misfit::NoObject)),
        }
    }
}

/// A JSON value, before it is known whether its field can hold it.
enum Given<'de> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(Cow<'de, str>),
    Message(DynamicMessage),
    List(Vec<Value>),
    /// An object or a list where a scalar is wanted.
    Nested,
}

/// What an object or a list would mean here.
enum AnySeed<'a> {
    Scalar,
    Message(MessageSeed<'a>),
    List(FieldSeed<'a>),
}

impl<'de> DeserializeSeed<'de> for AnySeed<'_> {
    type Value = Given<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Given<'de>, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnySeed<'_> {
    type Value = Given<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Given<'de>, E> {
        Ok(Given::Null)
    }

    fn visit_bool<E>(self, given: bool) -> Result<Given<'de>, E> {
        Ok(Given::Bool(given))
    }

    fn visit_u64<E>(self, given: u64) -> Result<Given<'de>, E> {
        Ok(Given::Unsigned(given))
    }

    fn visit_i64<E>(self, given: i64) -> Result<Given<'de>, E> {
        Ok(Given::Signed(given))
    }

    fn visit_f64<E>(self, given: f64) -> Result<Given<'de>, E> {
        Ok(Given::Float(given))
    }

    fn visit_borrowed_str<E>(self, given: &'de str) -> Result<Given<'de>, E> {
        Ok(Given::Text(Cow::Borrowed(given)))
    }

    fn visit_str<E>(self, given: &str) -> Result<Given<'de>, E> {
        Ok(Given::Text(Cow::Owned(given.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Given<'de>, A::Error> {
        let Self::List(field) = self else {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Given::Nested);
        };
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(field.element())? {
            // An unknown enum name is passed over in a list too.
            values.extend(value);
        }
        Ok(Given::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Given<'de>, A::Error> {
        let Self::Message(MessageSeed { of, misfit }) = self else {
            while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Given::Nested);
        };
        let mut message = DynamicMessage::new(of.clone());
        let mut seen = Vec::new();
        while let Some(name) = fields.next_key::<Cow<'_, str>>()? {
            let field = of
                .get_field_by_json_name(&name)
                .or_else(|| of.get_field_by_name(&name));
            let Some(field) = field else {
                fields.next_value::<IgnoredAny>()?;
                continue;
            };
            let named = || field.name().to_owned();
            if seen.contains(&field.number()) {
                return Err(refuse(misfit, Misfit::Twice { field: named() }));
            }
            seen.push(field.number());
            let value = fields.next_value_seed(FieldSeed::of(&field, misfit))?;
            let Some(value) = value else { continue };
            if let Some(oneof) = field.containing_oneof()
                && oneof.fields().any(|other| message.has_field(&other))
            {
                let oneof = oneof.full_name().to_owned();
                let field = named();
                return Err(refuse(misfit, Misfit::OneOf { field, oneof }));
            }
            message.set_field(&field, value);
        }
        Ok(Given::Message(message))
    }
}

/// The value of a field, or of an element of one.
#[derive(Clone, Copy)]
struct FieldSeed<'a> {
    field: &'a FieldDescriptor,
    element: bool,
    misfit: Told<'a>,
}

impl<'a> FieldSeed<'a> {
    fn of(field: &'a FieldDescriptor, misfit: Told<'a>) -> Self {
        Self {
            field,
            element: false,
            misfit,
        }
    }

    fn element(self) -> Self {
        Self {
            element: true,
            ..self
        }
    }
}

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    /// None for `null` and for an enum name that is not known.
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Option<Value>, D::Error> {
        let kind = self.field.kind();
        let message = match &kind {
            Kind::Message(of) => Some(of.clone()),
            _ => None,
        };
        let seed = match &message {
            _ if self.field.is_list() && !self.element => AnySeed::List(self),
            Some(of) => AnySeed::Message(MessageSeed {
                of,
                misfit: self.misfit,
            }),
            None => AnySeed::Scalar,
        };
        let value = match seed.deserialize(json)? {
            Given::Null if !self.element => return Ok(None),
            Given::Message(message) => Some(Value::Message(message)),
            Given::List(values) => Some(Value::List(values)),
            Given::Text(name) if matches!(kind, Kind::Enum(_)) && !self.is_whole_list() => {
                let Kind::Enum(of) = &kind else {
                    return Err(D::Error::custom("an enum a line ago"));
                };
                return Ok(enum_named(of, &name));
            }
            given if !self.is_whole_list() => scalar(&kind, given),
            _ => None,
        };
        value.map(Some).ok_or_else(|| {
            let field = self.field.name().to_owned();
            let kind = kind_name(&kind);
            refuse(self.misfit, Misfit::Value { kind, field })
        })
    }
}

impl FieldSeed<'_> {
    fn is_whole_list(&self) -> bool {
        self.field.is_list() && !self.element
    }
}

fn enum_named(of: &EnumDescriptor, name: &str) -> Option<Value> {
    let value = of.get_value_by_name(name)?;
    Some(Value::EnumNumber(value.number()))
}

/// None for what the kind cannot hold.
fn scalar(kind: &Kind, given: Given<'_>) -> Option<Value> {
    match kind {
        Kind::Bool => match given {
            Given::Bool(given) => Some(Value::Bool(given)),
            _ => None,
        },
        Kind::String => match given {
            Given::Text(text) => Some(Value::String(text.into_owned())),
            _ => None,
        },
        Kind::Bytes => match given {
            Given::Text(text) => base64_decoded(&text).map(|bytes| Value::Bytes(bytes.into())),
            _ => None,
        },
        Kind::Enum(_) => match given {
            Given::Text(_) => None,
            number => integer(number)?.try_into().ok().map(Value::EnumNumber),
        },
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            integer(given)?.try_into().ok().map(Value::I64)
        }
        Kind::Uint64 | Kind::Fixed64 => integer(given)?.try_into().ok().map(Value::U64),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            integer(given)?.try_into().ok().map(Value::I32)
        }
        Kind::Uint32 | Kind::Fixed32 => integer(given)?.try_into().ok().map(Value::U32),
        // etcd's messages have no floating point.
        Kind::Double | Kind::Float | Kind::Message(_) => None,
    }
}

/// A number, or the text of one; `1.0` and `1e3` are whole.
fn integer(given: Given<'_>) -> Option<i128> {
    match given {
        Given::Unsigned(number) => Some(number.into()),
        Given::Signed(number) => Some(number.into()),
        Given::Float(number) => whole(number),
        Given::Text(text) => {
            let number = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
            if text.is_empty() || text.starts_with('+') || !text.bytes().all(number) {
                return None;
            }
            text.parse().ok().or_else(|| whole(text.parse().ok()?))
        }
        _ => None,
    }
}

fn whole(number: f64) -> Option<i128> {
    // Beyond it no 64-bit field could hold the number, and the conversion would saturate.
    let fits = number.fract() == 0.0 && number.abs() < 1e20;
    #[expect(clippy::cast_possible_truncation, reason = "whole and below 1e20")]
    fits.then_some(number as i128)
}

fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Bool => "bool",
        Kind::String => "string",
        Kind::Bytes => "bytes",
        Kind::Enum(_) => "enum",
        Kind::Int64 => "int64",
        Kind::Sint64 => "sint64",
        Kind::Sfixed64 => "sfixed64",
        Kind::Uint64 => "uint64",
        Kind::Fixed64 => "fixed64",
        Kind::Int32 => "int32",
        Kind::Sint32 => "sint32",
        Kind::Sfixed32 => "sfixed32",
        Kind::Uint32 => "uint32",
        Kind::Fixed32 => "fixed32",
        Kind::Double => "double",
        Kind::Float => "float",
        Kind::Message(_) => "message",
    }
}

/// Both alphabets, with padding or without.
fn base64_decoded(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    let engine = if text.contains(['-', '_']) {
        URL_SAFE
    } else {
        STANDARD
    };
    engine.decode(text).ok()
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
