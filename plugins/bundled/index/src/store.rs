//! Reading the store: all records below a prefix, page by page.

use sealkv_plugin::kv::{self, RangeRequest};
use sealkv_plugin::{HandlerError, KeyValue};

/// The store as the plan reads it.
pub(crate) trait Store {
    /// Everything below a prefix that ends in '/', in key order.
    fn below(&self, prefix: &str) -> Result<Vec<KeyValue>, HandlerError>;
}

/// The store the plugin was granted.
pub(crate) struct Granted;

const RETRY_MS: u64 = 1_000;

impl Store for Granted {
    fn below(&self, prefix: &str) -> Result<Vec<KeyValue>, HandlerError> {
        let mut records: Vec<KeyValue> = Vec::new();
        let mut key = prefix.as_bytes().to_vec();
        loop {
            let page = kv::range(&RangeRequest {
                key: key.clone(),
                range_end: end(prefix),
                limit: 0,
                revision: 0,
                keys_only: false,
            });
            let page = page.map_err(refused)?;
            records.extend(page.kvs);
            match records.last() {
                Some(last) if page.more => key = [&last.key[..], &[0]].concat(),
                _ => return Ok(records),
            }
        }
    }
}

/// The first key after all keys below a prefix: '0' follows '/'.
fn end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn refused(error: kv::Error) -> HandlerError {
    match error {
        kv::Error::PermissionDenied => {
            HandlerError::reject("may not read what it watches and writes")
        }
        _ => HandlerError::retry_after(RETRY_MS, "the store could not be read"),
    }
}
