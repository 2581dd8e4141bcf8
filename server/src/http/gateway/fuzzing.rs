//! Ways to what the gateway reads, for the fuzz targets.

use std::convert::Infallible;

use bytes::Bytes;
use futures::{FutureExt as _, stream};
use http::{HeaderMap, HeaderValue};

use super::values::Values;
use super::{json, metadata, routes};

const JSON_BYTES_MAX: usize = 4096;

/// Reads the bytes as the body of a route, which the first of them chooses. What could be read
/// is written and read again: it still says the same.
pub fn body(bytes: &[u8]) {
    let Some((route, text)) = bytes.split_first() else {
        return;
    };
    let paths = routes::paths();
    let method = routes::find(paths[usize::from(*route) % paths.len()]).expect("it is listed");
    let Ok(message) = json::decode(&method.request, text) else {
        return;
    };
    let written = json::encode(&method.request, message.clone().into()).expect("it was read");
    let again = json::decode(&method.request, &written).expect("it was written so");
    assert_eq!(message, again, "{}", String::from_utf8_lossy(&written));
}

/// Reads the bytes as an encoded answer of a route.
pub fn answer(bytes: &[u8]) {
    let Some((route, message)) = bytes.split_first() else {
        return;
    };
    let paths = routes::paths();
    let method = routes::find(paths[usize::from(*route) % paths.len()]).expect("it is listed");
    let _ = json::encode(&method.response, Bytes::copy_from_slice(message));
}

/// Cuts a body into its values, in one piece and in two: it comes to the same.
pub fn values(bytes: &[u8]) {
    let Some((at, text)) = bytes.split_first() else {
        return;
    };
    let (left, right) = text.split_at(usize::from(*at).min(text.len()));
    assert_eq!(cut(&[text]), cut(&[left, right]));
}

fn cut(pieces: &[&[u8]]) -> Vec<Option<Bytes>> {
    let pieces = pieces
        .iter()
        .map(|it| Ok::<_, Infallible>(Bytes::copy_from_slice(it)));
    let mut values = Values::new(stream::iter(pieces.collect::<Vec<_>>()), JSON_BYTES_MAX);
    let mut found = Vec::new();
    loop {
        let next = values.next().now_or_never().expect("it waits for nothing");
        match next {
            None => return found,
            Some(Err(_)) => {
                found.push(None);
                return found;
            }
            Some(Ok(value)) => found.push(Some(value)),
        }
    }
}

/// Reads lines of `name: value` as the headers of a request.
pub fn headers(text: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let Some(at) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = http::HeaderName::from_bytes(&line[..at]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&line[at + 1..])) {
            headers.append(name, value);
        }
    }
    let _ = metadata::timeout(&headers);
    let _ = metadata::of(&headers, None);
}
