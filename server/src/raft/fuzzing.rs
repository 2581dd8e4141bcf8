//! A way to the decoders of peers' messages and raft's records for the fuzz targets.

use bytes::Bytes;
use prost::Message;
use proto::sealkv::peer as pb;

use super::{types, wire};

/// Reads the bytes as one kind of message or record, which the first of them chooses.
pub fn peer_message(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    match kind % 9 {
        0 => with(rest, |it| wire::parse_append(it).is_ok()),
        1 => with(rest, |it| wire::parse_append_result(it).is_ok()),
        2 => with(rest, |it| wire::parse_vote_request(it).is_ok()),
        3 => with(rest, |it| wire::parse_vote_response(it).is_ok()),
        4 => with(rest, |it: pb::SnapshotHead| {
            wire::parse_snapshot_head(it).is_ok()
        }),
        5 => {
            if let Ok(vote) = types::decode_vote(rest) {
                let again = types::decode_vote(&types::encode_vote(&vote));
                assert_eq!(again.ok(), Some(vote));
            }
        }
        6 => {
            if let Ok(log_id) = types::decode_log_id(rest) {
                let again = types::decode_log_id(&types::encode_log_id(log_id));
                assert_eq!(again.ok(), Some(log_id));
            }
        }
        7 => {
            if let Ok(membership) = types::decode_stored_membership(rest) {
                let encoded = types::encode_stored_membership(&membership);
                let again = types::decode_stored_membership(encoded);
                assert_eq!(again.ok(), Some(membership));
            }
        }
        _ => {
            if let Ok(payload) = types::decode_payload(Bytes::copy_from_slice(rest)) {
                assert!(types::decode_payload(types::encode_payload(&payload)).is_ok());
            }
        }
    }
}

fn with<T: Message + Default>(bytes: &[u8], parse: impl FnOnce(T) -> bool) {
    if let Ok(message) = T::decode(bytes) {
        parse(message);
    }
}
