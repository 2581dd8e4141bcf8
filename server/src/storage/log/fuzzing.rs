//! A way to the log's decoders for the fuzz targets, past the seal.

use bytes::Bytes;

use super::batch::Header;
use super::record::Record;

/// Reads the bytes as a batch's header and as its records.
pub fn batch(bytes: &Bytes) {
    if let Some(header) = Header::parse(bytes) {
        assert!(header.batch_bytes() >= header.sealed_bytes);
    }
    let Some(records) = Record::decode_all(bytes.clone()) else {
        return;
    };
    let mut again = Vec::new();
    for record in &records {
        record.encode(&mut again);
    }
    assert_eq!(Record::decode_all(again.into()), Some(records));
}
