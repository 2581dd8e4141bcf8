//! Values that are no messages: what a field of a kind can hold.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{EnumDescriptor, Kind, Value};

use super::message::Given;

pub(super) fn enum_named(of: &EnumDescriptor, name: &str) -> Option<Value> {
    let value = of.get_value_by_name(name)?;
    Some(Value::EnumNumber(value.number()))
}

/// None for what the kind cannot hold.
pub(super) fn scalar(kind: &Kind, given: Given<'_>) -> Option<Value> {
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
            // No zeros in front and no spaces: a number as JSON writes it.
            if text.contains(char::is_whitespace) {
                return None;
            }
            let number: serde_json::Number = serde_json::from_str(&text).ok()?;
            text.parse().ok().or_else(|| whole(number.as_f64()?))
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

pub(super) fn kind_name(kind: &Kind) -> &'static str {
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

/// Both alphabets, with the whole padding or with none.
fn base64_decoded(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
    const PADDED: GeneralPurposeConfig =
        LENIENT.with_decode_padding_mode(DecodePaddingMode::RequireCanonical);
    const BARE: GeneralPurposeConfig =
        LENIENT.with_decode_padding_mode(DecodePaddingMode::RequireNone);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, PADDED);
    const STANDARD_BARE: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, BARE);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, PADDED);
    const URL_SAFE_BARE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, BARE);
    let url_safe = text.contains(['-', '_']);
    let engine = match (url_safe, text.len().is_multiple_of(4)) {
        (false, true) => STANDARD,
        (false, false) => STANDARD_BARE,
        (true, true) => URL_SAFE,
        (true, false) => URL_SAFE_BARE,
    };
    engine.decode(text).ok()
}
