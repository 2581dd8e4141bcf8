//! Keys as etcd's benchmark makes them, and writing them.

use bytes::Bytes;
use clap::Args;
use proto::etcdserverpb::PutRequest;
use proto::etcdserverpb::kv_client::KvClient;
use rand::{Rng as _, RngCore as _};

use super::{BenchError, Target};

#[derive(Debug, Args)]
pub(super) struct Put {
    /// Bytes of each key
    #[arg(long, default_value_t = 8)]
    key_size: usize,
    /// Bytes of each value
    #[arg(long, default_value_t = 8)]
    val_size: usize,
    /// How many requests
    #[arg(long, default_value_t = 10_000)]
    total: u64,
    /// How many different keys
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 62))]
    key_space_size: u64,
    /// Take the keys in turn instead of at random
    #[arg(long)]
    sequential_keys: bool,
    /// Requests per second, 0 for as many as can be
    #[arg(long, default_value_t = 0)]
    rate: u32,
}

impl Put {
    pub(super) async fn run(&self, to: &Target<'_>) -> Result<String, BenchError> {
        fits(self.key_size, self.key_space_size)?;
        let value = random_bytes(self.val_size);
        let (space, sequential, key_size) =
            (self.key_space_size, self.sequential_keys, self.key_size);
        let load = to.load(self.total, self.rate);
        let [report] = load
            .run(to.each(KvClient::new), move |mut client, number| {
                let request = PutRequest {
                    key: key_bytes(chosen(number, space, sequential), key_size),
                    value: value.clone(),
                    ..Default::default()
                };
                async move { (0, client.put(request).await.map(|_| ())) }
            })
            .await;
        Ok(report.text(to.precise))
    }
}

/// The key of request `number`: in turn, or any.
pub(super) fn chosen(number: u64, space: u64, sequential: bool) -> u64 {
    if sequential {
        number % space
    } else {
        rand::rng().random_range(0..space)
    }
}

pub(super) fn random_bytes(size: usize) -> Bytes {
    let mut bytes = vec![0; size];
    rand::rng().fill_bytes(&mut bytes);
    bytes.into()
}

/// Whether every key of a space can be told from the others.
pub(super) fn fits(key_size: usize, key_space_size: u64) -> Result<(), BenchError> {
    let needed = varint(key_space_size - 1).len();
    if needed > key_size {
        return Err(BenchError::KeySize {
            key_size,
            key_space_size,
            needed,
        });
    }
    Ok(())
}

/// The key of a number: its zigzag varint, as Go's `binary.PutVarint` writes it, padded with zeros.
pub(super) fn key_bytes(number: u64, key_size: usize) -> Bytes {
    let mut key = varint(number);
    key.resize(key_size.max(key.len()), 0);
    key.into()
}

fn varint(number: u64) -> Vec<u8> {
    let mut rest = number << 1;
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_gos_signed_varints_padded_to_their_size() {
        assert_eq!(key_bytes(0, 4).as_ref(), [0, 0, 0, 0]);
        assert_eq!(key_bytes(1, 2).as_ref(), [2, 0]);
        assert_eq!(key_bytes(64, 2).as_ref(), [0x80, 1]);
        assert_eq!(
            key_bytes(99_999, 8).as_ref(),
            [0xbe, 0x9a, 0x0c, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn a_key_space_that_does_not_fit_its_keys_is_refused_before_any_load() {
        assert!(matches!(
            fits(1, 1_000),
            Err(BenchError::KeySize { needed: 2, .. })
        ));
        assert!(fits(2, 1_000).is_ok());
    }
}
