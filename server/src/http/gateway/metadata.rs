//! Which headers of an HTTP request its gRPC call carries, and under which names.
//!
//! Promise: a header can become metadata, never anything that gRPC itself reads; a client
//! certificate does not speak for a request that came through the gateway.
//!
//! Source: grpc-gateway 2.29, `runtime/context.go` and `runtime/mux.go`.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::Status;
use tonic::metadata::MetadataMap;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const ACCEPTED: HeaderName = HeaderName::from_static("grpcgateway-accept");
/// Before the name of a header that the client wants to be metadata.
const CUSTOM: &str = "grpc-metadata-";
/// Before the names of well-known headers.
const WELL_KNOWN: &str = "grpcgateway-";

/// Headers of IANA's permanent registry, as far as the gateway passes them on.
const PERMANENT: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-language",
    "accept-ranges",
    "authorization",
    "cache-control",
    "content-type",
    "cookie",
    "date",
    "expect",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-schedule-tag-match",
    "if-unmodified-since",
    "max-forwards",
    "origin",
    "pragma",
    "referer",
    "user-agent",
    "via",
    "warning",
];

/// The metadata of a call.
pub(super) fn of(headers: &HeaderMap, remote: Option<SocketAddr>) -> Result<HeaderMap, Status> {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        if name == AUTHORIZATION {
            metadata.append(AUTHORIZATION, value.clone());
        }
        let Some(key) = key(name) else { continue };
        if key.as_str().ends_with("-bin") {
            check_binary(name, &key, value)?;
        } else if !value.as_bytes().iter().all(|b| (0x20..0x7f).contains(b)) {
            continue;
        }
        metadata.append(key, value.clone());
    }
    if let Some(host) = headers.get(FORWARDED_HOST).or_else(|| headers.get(HOST)) {
        metadata.insert(FORWARDED_HOST, host.clone());
    }
    if let Some(passed) = passed_by(headers, remote) {
        metadata.insert(FORWARDED_FOR, passed);
    }
    // Its presence is how the services know the gateway.
    if !metadata.contains_key(ACCEPTED) {
        let accept = headers.get(ACCEPT).cloned();
        let accept = accept.unwrap_or(HeaderValue::from_static("*/*"));
        metadata.insert(ACCEPTED, accept);
    }
    Ok(metadata)
}

/// How long the client gives the call. `None`: as long as it takes.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(given) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let given = String::from_utf8_lossy(given.as_bytes());
    match parse_timeout(&given) {
        Some(timeout) => Ok(Some(timeout)),
        None => Err(Status::invalid_argument(format!(
            "invalid grpc-timeout: {given}"
        ))),
    }
}

fn parse_timeout(given: &str) -> Option<Duration> {
    let unit = given.chars().next_back()?;
    let amount: u64 = given.strip_suffix(unit)?.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(amount.checked_mul(3600)?),
        'M' => Duration::from_secs(amount.checked_mul(60)?),
        'S' => Duration::from_secs(amount),
        'm' => Duration::from_millis(amount),
        'u' => Duration::from_micros(amount),
        'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// The metadata that a header becomes, if any.
fn key(name: &HeaderName) -> Option<HeaderName> {
    let name = name.as_str();
    let key = match name.strip_prefix(CUSTOM) {
        Some(custom) if is_free(custom) => custom.to_owned(),
        Some(_) => return None,
        None if PERMANENT.contains(&name) => format!("{WELL_KNOWN}{name}"),
        None => return None,
    };
    HeaderName::try_from(key).ok()
}

/// Neither gRPC's own nor a header of the connection.
fn is_free(key: &str) -> bool {
    let taken = [
        "connection",
        "content-length",
        "content-type",
        "host",
        "te",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    ];
    !key.is_empty()
        && !key.starts_with("grpc-")
        && !taken.contains(&key)
        && key
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b))
}

fn check_binary(name: &HeaderName, key: &HeaderName, value: &HeaderValue) -> Result<(), Status> {
    let mut alone = HeaderMap::new();
    alone.insert(key.clone(), value.clone());
    let alone = MetadataMap::from_headers(alone);
    let decoded = alone.get_bin(key.as_str()).map(|value| value.to_bytes());
    match decoded {
        Some(Ok(_)) => Ok(()),
        _ => Err(Status::invalid_argument(format!(
            "invalid binary header {name}: illegal base64 data"
        ))),
    }
}

/// Who sent the request, behind those who passed it on.
fn passed_by(headers: &HeaderMap, remote: Option<SocketAddr>) -> Option<HeaderValue> {
    let mut all: Vec<String> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok().map(str::to_owned))
        .collect();
    all.extend(remote.map(|address| address.ip().to_string()));
    if all.is_empty() {
        return None;
    }
    HeaderValue::try_from(all.join(", ")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::from_static(value),
            )
        });
        pairs.collect()
    }

    fn metadata(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        of(&headers(pairs), Some("10.0.0.9:1".parse().unwrap())).unwrap()
    }

    #[test]
    fn the_token_and_custom_metadata_arrive_under_their_names() {
        let metadata = metadata(&[
            ("Authorization", "Bearer t"),
            ("Grpc-Metadata-HasLeader", "true"),
            ("Accept", "text/html"),
            ("X-Other", "1"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("Host", "etcd:2379"),
        ]);
        assert_eq!(metadata["authorization"], "Bearer t");
        assert_eq!(metadata["grpcgateway-authorization"], "Bearer t");
        assert_eq!(metadata["hasleader"], "true");
        assert_eq!(metadata["grpcgateway-accept"], "text/html");
        assert_eq!(metadata["x-forwarded-for"], "10.0.0.1, 10.0.0.9");
        assert_eq!(metadata["x-forwarded-host"], "etcd:2379");
        assert!(!metadata.contains_key("x-other"));
    }

    #[test]
    fn nothing_that_grpc_reads_can_be_set() {
        let metadata = metadata(&[
            ("Grpc-Metadata-Grpc-Encoding", "gzip"),
            ("Grpc-Metadata-Content-Type", "text/plain"),
            ("Grpc-Metadata-Te", "x"),
            ("Grpc-Encoding", "gzip"),
            ("Content-Type", "text/plain"),
        ]);
        for name in ["grpc-encoding", "content-type", "te"] {
            assert!(!metadata.contains_key(name), "{name}");
        }
        assert_eq!(metadata["grpcgateway-content-type"], "text/plain");
        assert!(metadata.contains_key("grpcgateway-accept"), "always there");
    }

    #[test]
    fn binary_metadata_must_be_base64() {
        assert_eq!(
            metadata(&[("Grpc-Metadata-x-bin", "/w==")])["x-bin"],
            "/w=="
        );
        of(&headers(&[("Grpc-Metadata-x-bin", "!!")]), None).unwrap_err();
    }

    #[test]
    fn timeouts_are_grpcs() {
        let timeout = |given| timeout(&headers(&[("Grpc-Timeout", given)]));
        assert_eq!(timeout("2S").unwrap(), Some(Duration::from_secs(2)));
        assert_eq!(timeout("1H").unwrap(), Some(Duration::from_secs(3600)));
        assert_eq!(timeout("5n").unwrap(), Some(Duration::from_nanos(5)));
        for wrong in ["zz", "S", "", "1", "-1S", "99999999999999999999S"] {
            assert!(timeout(wrong).is_err(), "{wrong}");
        }
    }
}
