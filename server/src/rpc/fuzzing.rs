//! A way to parsing for the fuzz targets, past gRPC.

use prost::Message;
use proto::etcdserverpb as pb;

use super::{Limits, parse};

/// Reads the bytes as one kind of request, which the first of them chooses, and parses it.
pub fn request(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    let limits = Limits::default();
    match kind % 5 {
        0 => with(rest, |it: pb::RangeRequest| parse::range(it).is_ok()),
        1 => with(rest, |it: pb::RangeRequest| parse::range_stream(it).is_ok()),
        2 => with(rest, |it: pb::PutRequest| parse::put(it).is_ok()),
        3 => with(rest, |it: pb::DeleteRangeRequest| {
            parse::delete_range(it).is_ok()
        }),
        _ => with(rest, |it: pb::TxnRequest| {
            parse::size(&it, limits.request_bytes_max).is_ok()
                && parse::txn(it, limits.txn_ops_max)
                    .is_ok_and(|txn| txn.is_read_only() || !txn.is_serializable())
        }),
    }
}

fn with<T: Message + Default>(bytes: &[u8], parse: impl FnOnce(T) -> bool) {
    if let Ok(message) = T::decode(bytes) {
        parse(message);
    }
}
