//! How long a client waits for its call: `grpc-timeout`.
//!
//! Promise: what is not answered by then is given up here too, with the code its client expects.
//! Not known here: what giving up means. A proposal that is on its way stays so.
//!
//! Source: gRPC over HTTP/2, "Timeout"; texts as grpc-go's.

use std::time::Duration;

use http::HeaderMap;
use tonic::Status;

const HEADER: &str = "grpc-timeout";
/// Digits that a timeout may have.
const DIGITS_MAX: usize = 8;

/// None if the client waits as long as it takes.
pub(super) fn of(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(HEADER) else {
        return Ok(None);
    };
    let parsed = value.to_str().ok().and_then(parse);
    parsed
        .map(Some)
        .ok_or_else(|| Status::internal("malformed grpc-timeout"))
}

fn parse(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > DIGITS_MAX {
        return None;
    }
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(count * 60 * 60),
        'M' => Duration::from_secs(count * 60),
        'S' => Duration::from_secs(count),
        'm' => Duration::from_millis(count),
        'u' => Duration::from_micros(count),
        'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

pub(super) fn exceeded() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_understood_and_nothing_else() {
        assert_eq!(parse("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse("3M"), Some(Duration::from_secs(180)));
        assert_eq!(parse("4S"), Some(Duration::from_secs(4)));
        assert_eq!(parse("99999999m"), Some(Duration::from_millis(99_999_999)));
        assert_eq!(parse("5u"), Some(Duration::from_micros(5)));
        assert_eq!(parse("6n"), Some(Duration::from_nanos(6)));
        for wrong in ["", "S", "1", "1s", "-1S", "+1S", "1 S", "123456789S", "1é"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
