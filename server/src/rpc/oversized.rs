//! What a client is told whose message is larger than the server reads: gRPC's words in Go, where
//! tonic has its own.

use axum::response::Response;
use tonic::{Code, Status};

const TONIC_START: &str = "Error, decoded message length too large: found ";
const TONIC_MIDDLE: &str = " bytes, the limit is: ";
const TONIC_END: &str = " bytes";

/// The status in etcd's words, if it is that of a message that was too large.
pub(super) fn in_etcds_words(status: &Status) -> Option<Status> {
    if status.code() != Code::OutOfRange {
        return None;
    }
    let rest = status.message().strip_prefix(TONIC_START)?;
    let (found, most) = rest.strip_suffix(TONIC_END)?.split_once(TONIC_MIDDLE)?;
    let text = format!("grpc: received message larger than max ({found} vs. {most})");
    Some(Status::resource_exhausted(text))
}

/// The same for a response that is nothing but such a status.
pub(super) fn reword(response: &mut Response) {
    let status = Status::from_header_map(response.headers());
    if let Some(status) = status.as_ref().and_then(in_etcds_words) {
        // Fails only for a text that no header can hold; then tonic's own words stay.
        let _ = status.add_header(response.headers_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_statuses_keep_their_words() {
        assert!(in_etcds_words(&Status::out_of_range("Error, decoded")).is_none());
        assert!(in_etcds_words(&Status::unavailable(TONIC_START)).is_none());
    }
}
