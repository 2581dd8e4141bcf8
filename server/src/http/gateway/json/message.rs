//! JSON read by a message's descriptor, value after value.
//!
//! Not known here: what is told of a text that does not fit (`misfit`).

use std::borrow::Cow;
use std::fmt;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::scalar::{enum_named, scalar};

fn misfit<E: serde::de::Error>() -> E {
    E::custom("misfit")
}

pub(super) struct MessageSeed<'a> {
    pub(super) of: &'a MessageDescriptor,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = DynamicMessage;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<DynamicMessage, D::Error> {
        match json.deserialize_any(AnySeed::Message(self))? {
            Given::Message(message) => Ok(message),
            _ => Err(misfit()),
        }
    }
}

/// A JSON value, before it is known whether its field can hold it.
pub(super) enum Given<'de> {
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
        let Self::Message(MessageSeed { of }) = self else {
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
            if seen.contains(&field.number()) {
                return Err(misfit());
            }
            seen.push(field.number());
            let value = fields.next_value_seed(FieldSeed::of(&field))?;
            let Some(value) = value else { continue };
            if let Some(oneof) = field.containing_oneof()
                && oneof.fields().any(|other| message.has_field(&other))
            {
                return Err(misfit());
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
}

impl<'a> FieldSeed<'a> {
    fn of(field: &'a FieldDescriptor) -> Self {
        Self {
            field,
            element: false,
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
            Some(of) => AnySeed::Message(MessageSeed { of }),
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
        value.map(Some).ok_or_else(misfit)
    }
}

impl FieldSeed<'_> {
    fn is_whole_list(&self) -> bool {
        self.field.is_list() && !self.element
    }
}
