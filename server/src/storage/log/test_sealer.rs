//! A real but cheap authenticated cipher for the log's own tests: a keyed stream and a keyed sum.

use super::batch::{BlockSealer, TAG_BYTES};

#[derive(Clone)]
pub(crate) struct TestSealer {
    key: u64,
}

impl TestSealer {
    pub(crate) fn new(key: u64) -> Self {
        Self { key }
    }

    fn tag(&self, associated_data: &[u8], body: &[u8]) -> [u8; TAG_BYTES] {
        let key = self.key.to_be_bytes();
        let low = crc32c::crc32c(&[&key, associated_data, body].concat());
        let high = crc32c::crc32c(&[body, associated_data, &key].concat());
        let mut tag = [0; TAG_BYTES];
        tag[..4].copy_from_slice(&low.to_be_bytes());
        tag[4..8].copy_from_slice(&high.to_be_bytes());
        // Never zeros only, so that a lost page cannot pass for a tag.
        tag[8..].fill(0xa5);
        tag
    }

    fn mask(&self, bytes: &[u8]) -> Vec<u8> {
        let mut state = self.key | 1;
        bytes
            .iter()
            .map(|byte| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                byte ^ (state >> 56) as u8
            })
            .collect()
    }
}

impl BlockSealer for TestSealer {
    fn overhead_bytes(&self) -> usize {
        TAG_BYTES
    }

    fn seal_block(&self, associated_data: &[u8], plaintext: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = self.mask(plaintext);
        let tag = self.tag(associated_data, &sealed);
        sealed.extend_from_slice(&tag);
        Some(sealed)
    }

    fn open_block(&self, associated_data: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (body, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG_BYTES)?)?;
        (tag == self.tag(associated_data, body)).then(|| self.mask(body))
    }
}
