//! Who a member is: member and cluster ids by etcd's rule, and what it says of itself.
//!
//! Source: etcd 3.7.1 `server/etcdserver/api/membership` (member.go, cluster.go): the first 8
//! bytes, big-endian, of SHA-1 over the sorted peer URLs followed by the cluster token; the
//! cluster id is the same over the sorted member ids.

use proto::sealkv::peer::Greeting;
use sha1::{Digest, Sha1};

/// The oldest and the newest peer protocol this release speaks.
pub(super) const PROTOCOL_MIN: u32 = 1;
pub(super) const PROTOCOL_MAX: u32 = 1;

/// The id of a member that bootstraps a cluster.
pub fn member_id(peer_urls: &[String], cluster_token: &str) -> u64 {
    hashed(peer_urls, cluster_token)
}

/// The id of a member that is added at this time, in seconds of the wall clock. etcd leaves the
/// token out here.
pub fn added_member_id(peer_urls: &[String], wall_seconds: i64) -> u64 {
    hashed(peer_urls, &wall_seconds.to_string())
}

fn hashed(peer_urls: &[String], suffix: &str) -> u64 {
    let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut digest = Sha1::new();
    for url in sorted {
        digest.update(url.as_bytes());
    }
    digest.update(suffix.as_bytes());
    leading_u64(&digest.finalize())
}

/// The id of the cluster that these members bootstrap.
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut sorted = member_ids.to_vec();
    sorted.sort_unstable();
    let mut digest = Sha1::new();
    for id in sorted {
        digest.update(id.to_be_bytes());
    }
    leading_u64(&digest.finalize())
}

fn leading_u64(digest: &[u8]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

/// What this member says of itself in every call to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: u64,
    pub member_id: u64,
    pub name: String,
    /// Random, made with the data directory: the same member id with another one has lost its
    /// log and its votes, and must not return.
    pub directory_id: [u8; 16],
    /// It was added to a cluster that existed: it never bootstraps one.
    pub joined: bool,
}

impl Identity {
    /// For the data directory:
    /// `(1 | 2 if joined) ‖ cluster id u64 ‖ member id u64 ‖ directory id[16] ‖ name`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![if self.joined { 2 } else { 1 }];
        out.extend_from_slice(&self.cluster_id.to_be_bytes());
        out.extend_from_slice(&self.member_id.to_be_bytes());
        out.extend_from_slice(&self.directory_id);
        out.extend_from_slice(self.name.as_bytes());
        out
    }

    /// None if these are not bytes that `encode` makes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (cluster_id, rest) = rest.split_first_chunk()?;
        let (member_id, rest) = rest.split_first_chunk()?;
        let (directory_id, name) = rest.split_first_chunk()?;
        let joined = match version {
            1 => false,
            2 => true,
            _ => return None,
        };
        Some(Self {
            cluster_id: u64::from_be_bytes(*cluster_id),
            member_id: u64::from_be_bytes(*member_id),
            name: std::str::from_utf8(name).ok()?.to_owned(),
            directory_id: *directory_id,
            joined,
        })
    }

    pub fn greeting(&self, target: u64, target_directory: &[u8]) -> Greeting {
        Greeting {
            cluster_id: self.cluster_id,
            keyring_id: bytes::Bytes::new(),
            member_id: self.member_id,
            directory_id: bytes::Bytes::copy_from_slice(&self.directory_id),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            target_id: target,
            target_directory_id: bytes::Bytes::copy_from_slice(target_directory),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Ids that etcd 3.7.1 logs for these flags.
    #[test]
    fn ids_follow_etcds_rule() {
        let id = member_id(&["http://localhost:2380".into()], "etcd-cluster");
        assert_eq!(format!("{id:x}"), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id(&[id])), "cdf818194e3a8c32");
    }

    // The id of a member that etcd 3.7.1 added.
    #[test]
    fn the_id_of_an_added_member_is_made_of_its_urls_and_the_time() {
        let id = added_member_id(&["http://127.0.0.1:21480".into()], 1_795_445_587);
        assert_eq!(format!("{id:x}"), "d519cea23feb3d60");
    }

    #[test]
    fn an_identity_is_read_as_it_was_written() {
        for joined in [false, true] {
            let identity = Identity {
                cluster_id: 1,
                member_id: u64::MAX,
                name: "m1".into(),
                directory_id: [7; 16],
                joined,
            };
            assert_eq!(Identity::decode(&identity.encode()), Some(identity));
        }
        assert_eq!(Identity::decode(&[3; 40]), None);
        assert_eq!(Identity::decode(&[1; 30]), None);
    }

    #[test]
    fn the_order_of_urls_and_members_does_not_matter() {
        let (a, b) = ("http://a:1".to_owned(), "http://b:2".to_owned());
        assert_eq!(
            member_id(&[a.clone(), b.clone()], "t"),
            member_id(&[b, a], "t")
        );
        assert_eq!(cluster_id(&[3, 1, 2]), cluster_id(&[1, 2, 3]));
    }
}
