//! A way to the decoders of peers' messages and raft's records for the fuzz targets.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use keys::StorageKeys;
use prost::Message;
use proto::sealkv::peer as pb;
use tonic::Request;
use tonic::metadata::MetadataValue;

use super::{Identity, Peers, types, wire};
use crate::apply::Machine;
use crate::storage::Store;
use crate::tls::Outbound;

const MEMBER: u64 = 1;
const CLUSTER: u64 = 2;

/// Reads the bytes as one kind of message or record, which the first of them chooses.
pub fn peer_message(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    match kind % 10 {
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
        8 => greeting(rest),
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

/// Once as it came, once with what has to be right about it put right.
fn greeting(bytes: &[u8]) {
    let _ = peers().welcome(&greeted(bytes));
    if let Ok(mut greeting) = pb::Greeting::decode(bytes) {
        greeting.cluster_id = CLUSTER;
        greeting.target_id = MEMBER;
        (greeting.protocol_min, greeting.protocol_max) = (0, u32::MAX);
        let _ = peers().welcome(&greeted(&greeting.encode_to_vec()));
    }
}

fn greeted(bytes: &[u8]) -> Request<()> {
    let mut request = Request::new(());
    let value = MetadataValue::from_bytes(bytes);
    request
        .metadata_mut()
        .insert_bin(super::peers::GREETING, value);
    request
}

fn peers() -> &'static Peers {
    static PEERS: OnceLock<Peers> = OnceLock::new();
    PEERS.get_or_init(|| {
        let store = Store::in_memory(StorageKeys::ephemeral());
        let machine = Machine::create(store, MEMBER).expect("an empty store is recovered");
        let identity = Identity {
            cluster_id: CLUSTER,
            member_id: MEMBER,
            name: "one".into(),
            directory_id: [1; 16],
            joined: false,
        };
        let view = Arc::new(ArcSwap::new(machine.view()));
        Peers::new(identity, view, Duration::from_secs(1), Outbound::default())
    })
}
