//! `member.key`: any bytes are refused without a panic, under a checksum that fits too.
#![no_main]

use keys::{FileProvider, MemberKey, MemberKeyOutline, Secret};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

fuzz_target!(|bytes: &[u8]| {
    let provider = FileProvider::from_secret(&Secret::from_bytes([1; 32]));
    assert!(MemberKey::open(bytes, &provider).is_err());
    let mut summed = bytes.to_vec();
    summed.extend_from_slice(&Sha256::digest(bytes));
    let _ = MemberKeyOutline::decode(&summed);
    assert!(MemberKey::open(&summed, &provider).is_err());
});
