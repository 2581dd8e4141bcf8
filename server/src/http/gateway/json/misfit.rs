//! Where and why JSON does not fit a message, in the words of Go's `protojson`.
//!
//! Promise: only asked after a text was refused, and of a text that is JSON. Values are named as
//! etcd names them, but none of a field of bytes or text, which may be a secret, and no string
//! where an object or a list is wanted.
//! Source: protobuf-go, `encoding/protojson/decode.go`.

use std::fmt;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::message::Given;
use super::scalar::{kind_name, scalar};

/// What does not fit, and where it begins.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::http::gateway) struct Misfit {
    line: usize,
    column: usize,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Token(Named),
    NotUtf8,
    Value {
        kind: &'static str,
        field: String,
        value: Named,
    },
    Twice {
        name: String,
    },
    OneOf {
        name: String,
        oneof: String,
    },
    TooDeep,
}

/// A token, if it may be repeated.
#[derive(Debug, PartialEq, Eq)]
struct Named(Option<String>);

impl fmt::Display for Misfit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = (self.line, self.column);
        match &self.what {
            What::Token(Named(Some(token))) => {
                write!(
                    out,
                    "syntax error (line {line}:{column}): unexpected token {token}"
                )
            }
            What::Token(Named(None)) => {
                write!(out, "syntax error (line {line}:{column}): unexpected token")
            }
            What::NotUtf8 => {
                write!(
                    out,
                    "syntax error (line {line}:{column}): invalid UTF-8 in string"
                )
            }
            What::Value { kind, field, value } => {
                write!(
                    out,
                    "(line {line}:{column}): invalid value for {kind} field {field}"
                )?;
                match &value.0 {
                    Some(value) => write!(out, ": {value}"),
                    None => Ok(()),
                }
            }
            What::TooDeep => write!(out, "syntax error (line {line}:{column})"),
            What::Twice { name } => {
                write!(out, "(line {line}:{column}): duplicate field {name}")
            }
            What::OneOf { name, oneof } => write!(
                out,
                "(line {line}:{column}): error parsing {name}, oneof {oneof} is already set"
            ),
        }
    }
}

/// The first misfit of a JSON value, which begins and ends with the text; none if it all fits.
pub(super) fn first(of: &MessageDescriptor, json: &[u8]) -> Option<Misfit> {
    let mut walk = Walk {
        json,
        at: 0,
        depth: 0,
    };
    let (at, what) = walk.message(of).err()?;
    let before = json.get(..at).unwrap_or_default();
    let line_begins = before.iter().rposition(|byte| *byte == b'\n');
    let in_line = before.get(line_begins.map_or(0, |at| at + 1)..)?;
    Some(Misfit {
        line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
        column: 1 + String::from_utf8_lossy(in_line).chars().count(),
        what,
    })
}

type Found = (usize, What);

/// Messages in messages; deeper ones are not looked at.
const DEPTH_MAX: usize = 64;

struct Token<'t> {
    at: usize,
    text: &'t [u8],
}

impl Token<'_> {
    fn is(&self, byte: u8) -> bool {
        self.text == [byte]
    }

    fn is_string(&self) -> bool {
        self.text.first() == Some(&b'"')
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(self.text).into_owned()
    }

    /// The value, if it is a scalar.
    fn given(&self) -> Given<'static> {
        match serde_json::from_slice(self.text) {
            Ok(serde_json::Value::Null) => Given::Null,
            Ok(serde_json::Value::Bool(given)) => Given::Bool(given),
            Ok(serde_json::Value::String(text)) => Given::Text(text.into()),
            Ok(serde_json::Value::Number(number)) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => Given::Unsigned(number),
                (None, Some(number)) => Given::Signed(number),
                (None, None) => number.as_f64().map_or(Given::Nested, Given::Float),
            },
            _ => Given::Nested,
        }
    }
}

/// Goes through JSON that is known to be some, token by token.
struct Walk<'t> {
    json: &'t [u8],
    at: usize,
    depth: usize,
}

impl<'t> Walk<'t> {
    fn peek(&self) -> Token<'t> {
        let rest = self.json.get(self.at..).unwrap_or_default();
        // What stands between tokens says nothing that their order does not.
        let between = |byte: &u8| b" \t\r\n,:".contains(byte);
        let skipped = rest.iter().take_while(|byte| between(byte)).count();
        let rest = rest.get(skipped..).unwrap_or_default();
        let length = match rest.first() {
            None => 0,
            Some(b'{' | b'}' | b'[' | b']') => 1,
            Some(b'"') => string_length(rest),
            Some(_) => rest
                .iter()
                .take_while(|byte| !between(byte) && !b"]}".contains(byte))
                .count(),
        };
        Token {
            at: self.at + skipped,
            text: rest.get(..length).unwrap_or_default(),
        }
    }

    fn next(&mut self) -> Result<Token<'t>, Found> {
        let token = self.peek();
        self.at = token.at + token.text.len();
        if token.is_string() && std::str::from_utf8(token.text).is_err() {
            return Err((token.at, What::NotUtf8));
        }
        Ok(token)
    }

    fn opened(&mut self, by: u8) -> Result<(), Found> {
        let token = self.next()?;
        if token.is(by) {
            return Ok(());
        }
        let named = Named((!token.is_string()).then(|| token.shown()));
        Err((token.at, What::Token(named)))
    }

    /// A value, whatever it is.
    fn skip(&mut self) -> Result<(), Found> {
        let mut depth = 0_usize;
        loop {
            let token = self.next()?;
            match token.text {
                b"{" | b"[" => depth += 1,
                b"}" | b"]" => depth = depth.saturating_sub(1),
                b"" => return Ok(()),
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn message(&mut self, of: &MessageDescriptor) -> Result<(), Found> {
        self.opened(b'{')?;
        let (mut seen, mut unions) = (Vec::new(), Vec::new());
        loop {
            let key = self.next()?;
            if !key.is_string() {
                return Ok(());
            }
            let name: String = serde_json::from_slice(key.text).unwrap_or_default();
            let field = of
                .get_field_by_json_name(&name)
                .or_else(|| of.get_field_by_name(&name));
            let Some(field) = field else {
                self.skip()?;
                continue;
            };
            if seen.contains(&field.number()) {
                return Err((key.at, What::Twice { name: key.shown() }));
            }
            seen.push(field.number());
            if self.peek().text == b"null" {
                self.skip()?;
            } else if field.is_list() {
                self.list(&field)?;
            } else {
                if let Some(oneof) = field.containing_oneof() {
                    let oneof = oneof.full_name().to_owned();
                    let name = key.shown();
                    if unions.contains(&oneof) {
                        return Err((key.at, What::OneOf { name, oneof }));
                    }
                    unions.push(oneof);
                }
                self.one(&field)?;
            }
        }
    }

    fn list(&mut self, field: &FieldDescriptor) -> Result<(), Found> {
        self.opened(b'[')?;
        while !self.peek().is(b']') && !self.peek().text.is_empty() {
            self.one(field)?;
        }
        self.next().map(drop)
    }

    /// The value of a field, or an element of its list.
    fn one(&mut self, field: &FieldDescriptor) -> Result<(), Found> {
        let kind = field.kind();
        if let Kind::Message(of) = &kind {
            if self.depth == DEPTH_MAX {
                return Err((self.peek().at, What::TooDeep));
            }
            self.depth += 1;
            self.message(of)?;
            self.depth -= 1;
            return Ok(());
        }
        let token = self.next()?;
        let given = token.given();
        let is_name = matches!((&kind, &given), (Kind::Enum(_), Given::Text(_)));
        if is_name || scalar(&kind, given).is_some() {
            return Ok(());
        }
        let is_plain = !matches!(kind, Kind::Bytes | Kind::String);
        let is_mark = matches!(token.text, b"{" | b"[" | b"true" | b"false" | b"null");
        let value = Named((is_plain || is_mark).then(|| token.shown()));
        let (kind, field) = (kind_name(&kind), field.json_name().to_owned());
        Err((token.at, What::Value { kind, field, value }))
    }
}

/// Of the string that a text begins with, its quotes included.
fn string_length(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}
