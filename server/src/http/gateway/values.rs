//! JSON values one after the other in a body, cut apart as they arrive.
//!
//! Promise: a value is handed on as soon as its last byte is there; no more than one value is
//! held, and none that is larger than the bound.
//! Not known here: what the values mean. Whether one is valid JSON within is found out when it is
//! read.

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _};

/// Why there is no next value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ValueError {
    #[error("unexpected EOF")]
    Truncated,
    #[error("not a JSON object")]
    NoObject,
    #[error("larger than {bytes_max} bytes of JSON")]
    TooLarge { bytes_max: usize },
    #[error("the body ended early")]
    Broken,
}

/// The values of a body.
pub(super) struct Values<S> {
    chunks: S,
    held: BytesMut,
    /// How much of it has been looked at.
    seen: usize,
    place: Place,
    bytes_max: usize,
}

/// Where in a value the next byte stands.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// Objects and lists that are open.
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl<S, E> Values<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    pub(super) fn new(chunks: S, bytes_max: usize) -> Self {
        Self {
            chunks,
            held: BytesMut::new(),
            seen: 0,
            place: Place::default(),
            bytes_max,
        }
    }

    /// The next object or list; none at the end of the body.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, ValueError>> {
        loop {
            match self.cut() {
                Ok(None) => {}
                Ok(Some(value)) => return Some(Ok(value)),
                Err(error) => return Some(Err(error)),
            }
            match self.chunks.next().await {
                Some(Ok(chunk)) => self.held.extend_from_slice(&chunk),
                Some(Err(_)) => return Some(Err(ValueError::Broken)),
                None if self.held.is_empty() => return None,
                None => return Some(Err(ValueError::Truncated)),
            }
        }
    }

    /// The value at the front, if it is complete.
    fn cut(&mut self) -> Result<Option<Bytes>, ValueError> {
        if self.seen == 0 {
            let space = self.held.iter().take_while(|b| b.is_ascii_whitespace());
            let space = space.count();
            self.held.advance(space);
        }
        while let Some(&byte) = self.held.get(self.seen) {
            self.seen += 1;
            if self.place.depth == 0 && !matches!(byte, b'{' | b'[') {
                return Err(ValueError::NoObject);
            }
            if self.place.ends_with(byte) {
                let value = self.held.split_to(self.seen).freeze();
                self.seen = 0;
                return Ok(Some(value));
            }
            if self.seen > self.bytes_max {
                let bytes_max = self.bytes_max;
                return Err(ValueError::TooLarge { bytes_max });
            }
        }
        Ok(None)
    }
}

impl Place {
    /// Moves past a byte; true if it is the last of the value.
    fn ends_with(&mut self, byte: u8) -> bool {
        if self.in_text {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_text = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_text = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
        self.depth == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    async fn values(chunks: &[&str], bytes_max: usize) -> (Vec<String>, Option<ValueError>) {
        let chunks = chunks
            .iter()
            .map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk.to_string())));
        let mut values = Values::new(futures::stream::iter(chunks), bytes_max);
        let mut all = Vec::new();
        loop {
            match values.next().await {
                Some(Ok(value)) => all.push(String::from_utf8(value.to_vec()).unwrap()),
                Some(Err(error)) => return (all, Some(error)),
                None => return (all, None),
            }
        }
    }

    #[tokio::test]
    async fn values_are_cut_wherever_the_chunks_break() {
        let text = r#" {"a":"}\"{"}{"b":[{}]}
            {}"#;
        let whole = values(&[text], 100).await;
        assert_eq!(whole.0, [r#"{"a":"}\"{"}"#, r#"{"b":[{}]}"#, "{}"]);
        assert_eq!(whole.1, None);
        for at in 1..text.len() {
            let (left, right) = text.split_at(at);
            assert_eq!(values(&[left, right], 100).await, whole, "{at}");
        }
    }

    #[tokio::test]
    async fn the_first_bad_value_ends_the_body() {
        let cases = [
            ("{} x", 1, ValueError::NoObject),
            ("{}}", 1, ValueError::NoObject),
            (r#"{} {"a"#, 1, ValueError::Truncated),
            (
                r#"{"a":"0123456789"}"#,
                0,
                ValueError::TooLarge { bytes_max: 9 },
            ),
        ];
        for (text, good, expected) in cases {
            let (all, error) = values(&[text], 9).await;
            assert_eq!((all.len(), error), (good, Some(expected)), "{text}");
        }
        assert_eq!(values(&["  ", "\n"], 9).await, (Vec::new(), None));
    }
}
