//! Whether a text begins with a JSON value, and what is wrong with it, in the words of Go's
//! `encoding/json`.
//!
//! Promise: the first byte that cannot stand where it stands is named, and nothing else of the
//! text. What follows the first value is not looked at.
//! Not known here: messages.

use std::borrow::Cow;

/// Why a text does not begin with a JSON value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::http::gateway) enum SyntaxError {
    #[error("unexpected EOF")]
    Truncated,
    #[error("invalid character {} {place}", quoted(*byte))]
    Character { byte: u8, place: Cow<'static, str> },
}

/// Where the first value of a text begins and ends.
pub(super) fn first_value(text: &[u8]) -> Result<std::ops::Range<usize>, SyntaxError> {
    let mut scan = Scan { text, at: 0 };
    scan.space();
    let start = scan.at;
    scan.value()?;
    Ok(start..scan.at)
}

struct Scan<'t> {
    text: &'t [u8],
    at: usize,
}

/// What is open around a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Around {
    Object,
    List,
}

impl Around {
    fn opened_by(byte: u8) -> Option<Self> {
        match byte {
            b'{' => Some(Self::Object),
            b'[' => Some(Self::List),
            _ => None,
        }
    }

    fn end(self) -> u8 {
        match self {
            Self::Object => b'}',
            Self::List => b']',
        }
    }
}

impl Scan<'_> {
    fn peek(&self) -> Result<u8, SyntaxError> {
        self.text
            .get(self.at)
            .copied()
            .ok_or(SyntaxError::Truncated)
    }

    fn next(&mut self) -> Result<u8, SyntaxError> {
        let byte = self.peek()?;
        self.at += 1;
        Ok(byte)
    }

    fn space(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// One value and all that is in it; what is open is a list here, so that no depth of a text is
    /// a depth of calls.
    fn value(&mut self) -> Result<(), SyntaxError> {
        let mut open = Vec::new();
        loop {
            self.space();
            let byte = self.next()?;
            if let Some(around) = Around::opened_by(byte) {
                self.space();
                if self.peek()? == around.end() {
                    self.at += 1;
                } else {
                    open.push(around);
                    if around == Around::Object {
                        self.key()?;
                    }
                    continue;
                }
            } else {
                self.scalar(byte)?;
            }
            if !self.next_value_follows(&mut open)? {
                return Ok(());
            }
        }
    }

    /// Behind a value: closes what ends here; false once everything is closed.
    fn next_value_follows(&mut self, open: &mut Vec<Around>) -> Result<bool, SyntaxError> {
        while let Some(around) = open.last().copied() {
            self.space();
            match (self.next()?, around) {
                (b',', Around::List) => return Ok(true),
                (b',', Around::Object) => {
                    self.space();
                    self.key()?;
                    return Ok(true);
                }
                (byte, _) if byte == around.end() => {
                    open.pop();
                }
                (byte, Around::Object) => return wrong(byte, "after object key:value pair"),
                (byte, Around::List) => return wrong(byte, "after array element"),
            }
        }
        Ok(false)
    }

    fn key(&mut self) -> Result<(), SyntaxError> {
        match self.next()? {
            b'"' => self.string()?,
            byte => return wrong(byte, "looking for beginning of object key string"),
        }
        self.space();
        match self.next()? {
            b':' => Ok(()),
            byte => wrong(byte, "after object key"),
        }
    }

    fn scalar(&mut self, first: u8) -> Result<(), SyntaxError> {
        match first {
            b'"' => self.string(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' => match self.next()? {
                digit @ b'0'..=b'9' => self.number(digit),
                byte => wrong(byte, "in numeric literal"),
            },
            digit @ b'0'..=b'9' => self.number(digit),
            byte => wrong(byte, "looking for beginning of value"),
        }
    }

    fn string(&mut self) -> Result<(), SyntaxError> {
        loop {
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => self.escape()?,
                byte @ 0..0x20 => return wrong(byte, "in string literal"),
                _ => {}
            }
        }
    }

    fn escape(&mut self) -> Result<(), SyntaxError> {
        match self.next()? {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => Ok(()),
            b'u' => {
                for _ in 0..4 {
                    let byte = self.next()?;
                    if !byte.is_ascii_hexdigit() {
                        return wrong(byte, "in \\u hexadecimal character escape");
                    }
                }
                Ok(())
            }
            byte => wrong(byte, "in string escape code"),
        }
    }

    /// Its first letter is read.
    fn literal(&mut self, word: &'static str) -> Result<(), SyntaxError> {
        for expected in word.chars().skip(1) {
            let byte = self.next()?;
            if char::from(byte) != expected {
                let place = Cow::Owned(format!("in literal {word} (expecting '{expected}')"));
                return Err(SyntaxError::Character { byte, place });
            }
        }
        Ok(())
    }

    /// Its first digit is read.
    fn number(&mut self, first: u8) -> Result<(), SyntaxError> {
        if first != b'0' {
            self.digits();
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digit("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            if matches!(self.peek()?, b'+' | b'-') {
                self.at += 1;
            }
            self.digit("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn digit(&mut self, place: &'static str) -> Result<(), SyntaxError> {
        match self.next()? {
            b'0'..=b'9' => self.digits(),
            byte => return wrong(byte, place),
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }
}

fn wrong<T>(byte: u8, place: &'static str) -> Result<T, SyntaxError> {
    let place = Cow::Borrowed(place);
    Err(SyntaxError::Character { byte, place })
}

/// As Go quotes a byte: it takes it for a character of Latin-1.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        7 => r"'\a'".to_owned(),
        8 => r"'\b'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        11 => r"'\v'".to_owned(),
        12 => r"'\f'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        0..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        0x80..=0xa0 | 0xad => format!("'\\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        first_value(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn the_first_value_ends_where_it_ends() {
        for (text, value) in [
            (" {} x", "{}"),
            ("[1,2]]", "[1,2]"),
            ("\n0.5e-1,", "0.5e-1"),
            (
                r#"{"a":[{"b":"\u00e4\""}, null]}{"#,
                r#"{"a":[{"b":"\u00e4\""}, null]}"#,
            ),
            ("01", "0"),
            ("true!", "true"),
        ] {
            let range = first_value(text.as_bytes()).unwrap();
            assert_eq!(&text[range], value, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_as_go_tells_it() {
        for (text, expected) in [
            ("}", "invalid character '}' looking for beginning of value"),
            (
                "{\"a\":1,}",
                "invalid character '}' looking for beginning of object key string",
            ),
            (
                "{'a'}",
                r"invalid character '\'' looking for beginning of object key string",
            ),
            (r#"{"a" "b"}"#, "invalid character '\"' after object key"),
            (
                r#"{"a":01}"#,
                "invalid character '1' after object key:value pair",
            ),
            ("[1 2]", "invalid character '2' after array element"),
            (
                "[1,]",
                "invalid character ']' looking for beginning of value",
            ),
            ("\"a\nb\"", r"invalid character '\n' in string literal"),
            (r#""\q""#, "invalid character 'q' in string escape code"),
            (
                r#""\u00g0""#,
                r"invalid character 'g' in \u hexadecimal character escape",
            ),
            ("-x", "invalid character 'x' in numeric literal"),
            (
                "1.x",
                "invalid character 'x' after decimal point in numeric literal",
            ),
            (
                "1e+x",
                "invalid character 'x' in exponent of numeric literal",
            ),
            (
                "nul}",
                "invalid character '}' in literal null (expecting 'l')",
            ),
            ("ÿ", "invalid character 'Ã' looking for beginning of value"),
            (
                "\u{1}",
                r"invalid character '\x01' looking for beginning of value",
            ),
            ("{\"a\":\"b\"", "unexpected EOF"),
            ("\"\\", "unexpected EOF"),
            ("[", "unexpected EOF"),
        ] {
            assert_eq!(error(text), expected, "{text}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(error(&deep), "unexpected EOF");
    }
}
