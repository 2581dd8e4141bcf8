//! openraft's types as this server fills them in, and their bytes.
//!
//! Promise: the bytes of votes, log ids, memberships and payloads are ours, versioned and never
//! openraft's; decoding takes any bytes and returns a value or an error.
//! Not known here: what a command says.
//!
//! ```text
//! vote       := 1 ‖ term u64 ‖ member u64 ‖ committed u8
//! log id     := 1 ‖ (0 | 1 ‖ term u64 ‖ index u64)
//! membership := 1 ‖ configs u32 ‖ (voters u32 ‖ member u64*)* ‖ nodes u32 ‖ (member u64 ‖ node)*
//! node       := text(name) ‖ urls u32 ‖ text*              text := length u32 ‖ UTF-8
//!               in version 2 of a membership also ‖ joins as voter u8
//! stored     := 1 ‖ (0 | 1 ‖ term u64 ‖ index u64) ‖ membership       the log id of a membership
//! payload    := kind u8 ‖ bytes
//! ```
//!
//! All integers are big-endian, the first byte is the version, member ids ascend. A membership has
//! version 2 exactly if a node in it joins as a voter. Kinds of payload:
//! 1 blank (no bytes), 2 normal (the command as it came), 3 membership. In the raft log the kind
//! stands beside the bytes, so a command is not copied.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::{Buf, BufMut, Bytes};
use openraft::async_runtime::{AsyncRuntime, watch};
use openraft::impls::leader_id_std;
use openraft::{OptionalSend, RaftTypeConfig};
use thiserror::Error;

/// A member's id by etcd's rule.
pub type MemberId = u64;

/// The runtime raft runs on. A task of raft's is spawned through it, so that the simulation can
/// end a member as a crash does.
#[cfg(not(test))]
pub type Runtime = openraft::impls::TokioRuntime;
#[cfg(test)]
pub type Runtime = super::sim::Runtime;

/// A value and whoever waits for the next one.
pub type Watch = <Runtime as AsyncRuntime>::Watch;
pub type WatchSender<T> = <Watch as watch::Watch>::Sender<T>;
pub type WatchReceiver<T> = <Watch as watch::Watch>::Receiver<T>;

/// The types raft is built with. Standard leader ids: one leader per term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = EntryData;
    type R = Done;
    type NodeId = MemberId;
    type Node = MemberNode;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, MemberId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<EntryData, MemberId, MemberNode>;
    type Entry = openraft::impls::Entry<CommittedLeaderId, Self::Payload>;
    type AsyncRuntime = Runtime;
    // One answer per proposal; openraft's default also tells of the commit, which nobody awaits.
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub type LeaderId = leader_id_std::LeaderId<u64, MemberId>;
pub type CommittedLeaderId = <LeaderId as openraft::vote::RaftLeaderId>::Committed;
pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub type EntryPayload = openraft::type_config::alias::PayloadOf<TypeConfig>;
pub type Membership = openraft::Membership<MemberId, MemberNode>;
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;

/// A command's bytes. They never show in a log line: only their number does.
#[derive(Clone, PartialEq, Eq)]
pub struct EntryData(pub Bytes);

impl fmt::Display for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryData({self})")
    }
}

/// That an entry was applied. What came of it goes to the waiting request by its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done;

/// What raft's membership says of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberNode {
    /// Empty until the member has started.
    pub name: String,
    pub peer_urls: Vec<String>,
    /// It was added as a voter: a learner to raft until its log has caught up, so that an added
    /// member never counts towards a quorum that it cannot help yet. Nobody calls it a learner.
    pub joins_as_voter: bool,
}

impl fmt::Display for MemberNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.peer_urls.join(","))
    }
}

/// Bytes that are not what they are taken for.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum CodecError {
    /// Written by a newer release.
    #[error("version {found} is not known here")]
    Version { found: u8 },
    #[error("payload kind {found} is not known here")]
    Kind { found: u8 },
    #[error("the bytes end too early")]
    Short,
    #[error("{bytes} bytes too many")]
    Long { bytes: usize },
    #[error("a value is outside of its range")]
    Value,
    #[error("a text is not UTF-8")]
    Text,
    /// A voter without a node, or an empty set of voters.
    #[error("the membership is not a possible one")]
    Membership,
}

impl From<bytes::TryGetError> for CodecError {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Short
    }
}

const VERSION: u8 = 1;
/// Of a membership whose nodes say whether they join as voters.
const VERSION_JOINING: u8 = 2;

pub const PAYLOAD_BLANK: u8 = 1;
pub const PAYLOAD_NORMAL: u8 = 2;
pub const PAYLOAD_MEMBERSHIP: u8 = 3;

/// Who led the entries of a term: with standard leader ids the term says it.
pub fn committed_leader(term: u64) -> CommittedLeaderId {
    CommittedLeaderId::new(term)
}

pub fn encode_vote(vote: &Vote) -> Bytes {
    let mut to = Vec::with_capacity(18);
    to.put_u8(VERSION);
    to.put_u64(vote.leader_id.term);
    to.put_u64(vote.leader_id.voted_for);
    to.put_u8(u8::from(vote.committed));
    to.into()
}

pub fn decode_vote(mut from: &[u8]) -> Result<Vote, CodecError> {
    check_version(&mut from)?;
    let term = from.try_get_u64()?;
    let member = from.try_get_u64()?;
    let committed = get_bool(&mut from)?;
    check_end(from)?;
    Ok(make_vote(term, member, committed))
}

pub(super) fn make_vote(term: u64, member: MemberId, committed: bool) -> Vote {
    if committed {
        Vote::new_committed(term, member)
    } else {
        Vote::new(term, member)
    }
}

pub fn encode_log_id(log_id: Option<LogId>) -> Bytes {
    let mut to = vec![VERSION];
    put_log_id(&mut to, log_id);
    to.into()
}

pub fn decode_log_id(mut from: &[u8]) -> Result<Option<LogId>, CodecError> {
    check_version(&mut from)?;
    let log_id = get_log_id(&mut from)?;
    check_end(from)?;
    Ok(log_id)
}

pub(super) fn make_log_id(term: u64, index: u64) -> LogId {
    LogId::new(committed_leader(term), index)
}

pub fn encode_stored_membership(stored: &StoredMembership) -> Bytes {
    let mut to = vec![VERSION];
    put_log_id(&mut to, *stored.log_id());
    put_membership(&mut to, stored.membership());
    to.into()
}

pub fn decode_stored_membership(from: impl AsRef<[u8]>) -> Result<StoredMembership, CodecError> {
    let mut from = from.as_ref();
    check_version(&mut from)?;
    let log_id = get_log_id(&mut from)?;
    let membership = decode_membership(from)?;
    Ok(StoredMembership::new(log_id, membership))
}

pub fn encode_membership(membership: &Membership) -> Bytes {
    let mut to = Vec::new();
    put_membership(&mut to, membership);
    to.into()
}

/// The membership of a cluster of voters, by id with name and peer URLs: the same bytes on each.
/// None for one that is no possible cluster.
pub fn encode_first_membership(
    members: &BTreeMap<MemberId, (String, Vec<String>)>,
) -> Option<Bytes> {
    let node = |(id, (name, peer_urls)): (&u64, &(String, Vec<String>))| {
        let node = MemberNode {
            name: name.clone(),
            peer_urls: peer_urls.clone(),
            joins_as_voter: false,
        };
        (*id, node)
    };
    let nodes: BTreeMap<_, _> = members.iter().map(node).collect();
    let voters = members.keys().copied().collect();
    let membership = Membership::new(vec![voters], nodes).ok()?;
    Some(encode_membership(&membership))
}

pub fn decode_membership(from: impl AsRef<[u8]>) -> Result<Membership, CodecError> {
    let mut from = from.as_ref();
    let joining = match from.try_get_u8()? {
        VERSION => false,
        VERSION_JOINING => true,
        found => return Err(CodecError::Version { found }),
    };
    let mut configs = Vec::new();
    for _ in 0..from.try_get_u32()? {
        configs.push(get_voters(&mut from)?);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..from.try_get_u32()? {
        let member = from.try_get_u64()?;
        check_ascending(nodes.last_key_value().map(|(last, _)| *last), member)?;
        let mut node = get_node(&mut from)?;
        node.joins_as_voter = joining && get_bool(&mut from)?;
        nodes.insert(member, node);
    }
    if joining && !nodes.values().any(|node| node.joins_as_voter) {
        return Err(CodecError::Value);
    }
    check_end(from)?;
    Membership::new(configs, nodes).map_err(|_| CodecError::Membership)
}

pub fn encode_payload(payload: &EntryPayload) -> Bytes {
    let (kind, bytes) = payload_parts(payload);
    let mut to = Vec::with_capacity(1 + bytes.len());
    to.put_u8(kind);
    to.put_slice(&bytes);
    to.into()
}

pub fn decode_payload(mut from: Bytes) -> Result<EntryPayload, CodecError> {
    let kind = from.try_get_u8()?;
    payload_from_parts(kind, from)
}

/// The kind and bytes of a payload; a command's bytes are shared, not copied.
pub(super) fn payload_parts(payload: &EntryPayload) -> (u8, Bytes) {
    match payload {
        EntryPayload::Blank => (PAYLOAD_BLANK, Bytes::new()),
        EntryPayload::Normal(data) => (PAYLOAD_NORMAL, data.0.clone()),
        EntryPayload::Membership(membership) => (PAYLOAD_MEMBERSHIP, encode_membership(membership)),
    }
}

pub(super) fn payload_from_parts(kind: u8, bytes: Bytes) -> Result<EntryPayload, CodecError> {
    match kind {
        PAYLOAD_BLANK => check_end(&bytes).map(|()| EntryPayload::Blank),
        PAYLOAD_NORMAL => Ok(EntryPayload::Normal(EntryData(bytes))),
        PAYLOAD_MEMBERSHIP => decode_membership(&bytes).map(EntryPayload::Membership),
        found => Err(CodecError::Kind { found }),
    }
}

fn put_membership(to: &mut Vec<u8>, membership: &Membership) {
    let joining = membership.nodes().any(|(_, node)| node.joins_as_voter);
    to.put_u8(if joining { VERSION_JOINING } else { VERSION });
    put_count(to, membership.get_joint_config().len());
    for voters in membership.get_joint_config() {
        put_count(to, voters.len());
        for voter in voters {
            to.put_u64(*voter);
        }
    }
    put_count(to, membership.nodes().count());
    for (member, node) in membership.nodes() {
        to.put_u64(*member);
        put_text(to, &node.name);
        put_count(to, node.peer_urls.len());
        for url in &node.peer_urls {
            put_text(to, url);
        }
        if joining {
            to.put_u8(u8::from(node.joins_as_voter));
        }
    }
}

fn put_log_id(to: &mut Vec<u8>, log_id: Option<LogId>) {
    to.put_u8(u8::from(log_id.is_some()));
    if let Some(log_id) = log_id {
        to.put_u64(log_id.leader_id.term);
        to.put_u64(log_id.index);
    }
}

fn get_log_id(from: &mut &[u8]) -> Result<Option<LogId>, CodecError> {
    if !get_bool(from)? {
        return Ok(None);
    }
    let term = from.try_get_u64()?;
    Ok(Some(make_log_id(term, from.try_get_u64()?)))
}

fn check_version(from: &mut &[u8]) -> Result<(), CodecError> {
    match from.try_get_u8()? {
        VERSION => Ok(()),
        found => Err(CodecError::Version { found }),
    }
}

fn check_end(from: &[u8]) -> Result<(), CodecError> {
    match from.len() {
        0 => Ok(()),
        bytes => Err(CodecError::Long { bytes }),
    }
}

/// Each value has one encoding: ids ascend and do not repeat.
fn check_ascending(last: Option<MemberId>, next: MemberId) -> Result<(), CodecError> {
    match last {
        Some(last) if last >= next => Err(CodecError::Value),
        _ => Ok(()),
    }
}

fn get_bool(from: &mut &[u8]) -> Result<bool, CodecError> {
    match from.try_get_u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(CodecError::Value),
    }
}

fn get_voters(from: &mut &[u8]) -> Result<BTreeSet<MemberId>, CodecError> {
    let mut voters = BTreeSet::new();
    for _ in 0..from.try_get_u32()? {
        let voter = from.try_get_u64()?;
        check_ascending(voters.last().copied(), voter)?;
        voters.insert(voter);
    }
    Ok(voters)
}

fn get_node(from: &mut &[u8]) -> Result<MemberNode, CodecError> {
    let name = get_text(from)?;
    let mut peer_urls = Vec::new();
    for _ in 0..from.try_get_u32()? {
        peer_urls.push(get_text(from)?);
    }
    Ok(MemberNode {
        name,
        peer_urls,
        joins_as_voter: false,
    })
}

fn put_count(to: &mut Vec<u8>, count: usize) {
    to.put_u32(u32::try_from(count).expect("no list or text of a membership reaches 4 GiB"));
}

fn put_text(to: &mut Vec<u8>, text: &str) {
    put_count(to, text.len());
    to.put_slice(text.as_bytes());
}

fn get_text(from: &mut &[u8]) -> Result<String, CodecError> {
    let length = from.try_get_u32()? as usize;
    let (text, rest) = from.split_at_checked(length).ok_or(CodecError::Short)?;
    *from = rest;
    let text = std::str::from_utf8(text).map_err(|_| CodecError::Text)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(name: &str) -> MemberNode {
        MemberNode {
            name: name.to_owned(),
            peer_urls: vec![format!("http://{name}:2380"), "http://[::1]:1".to_owned()],
            joins_as_voter: false,
        }
    }

    fn joint_with_a_learner() -> Membership {
        let configs = vec![BTreeSet::from([1, 2]), BTreeSet::from([2, u64::MAX])];
        let nodes = [1, 2, 7, u64::MAX].map(|id| (id, node(&format!("m{id}"))));
        Membership::new(configs, BTreeMap::from(nodes)).expect("every voter has a node")
    }

    fn with_one_who_joins() -> Membership {
        let joining = MemberNode {
            joins_as_voter: true,
            ..node("m3")
        };
        let nodes = BTreeMap::from([(1, node("m1")), (3, joining)]);
        Membership::new(vec![BTreeSet::from([1])], nodes).expect("the voter has a node")
    }

    #[test]
    fn every_value_reads_back() {
        for vote in [make_vote(3, 9, false), make_vote(u64::MAX, 0, true)] {
            assert_eq!(decode_vote(&encode_vote(&vote)), Ok(vote));
        }
        for log_id in [
            None,
            Some(make_log_id(0, 0)),
            Some(make_log_id(7, u64::MAX)),
        ] {
            assert_eq!(decode_log_id(&encode_log_id(log_id)), Ok(log_id));
        }
        for membership in [
            Membership::default(),
            joint_with_a_learner(),
            with_one_who_joins(),
        ] {
            let bytes = encode_membership(&membership);
            assert_eq!(decode_membership(&bytes), Ok(membership.clone()));
            let stored = StoredMembership::new(Some(make_log_id(2, 3)), membership);
            let bytes = encode_stored_membership(&stored);
            assert_eq!(decode_stored_membership(&bytes), Ok(stored));
        }
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(EntryData(Bytes::from_static(b"put"))),
            EntryPayload::Membership(joint_with_a_learner()),
        ] {
            let (kind, bytes) = payload_parts(&payload);
            assert_eq!(payload_from_parts(kind, bytes), Ok(payload.clone()));
            assert_eq!(decode_payload(encode_payload(&payload)), Ok(payload));
        }
    }

    #[test]
    fn the_bytes_are_the_documented_ones() {
        let vote = encode_vote(&make_vote(1, 2, true));
        assert_eq!(hex::encode(vote), "010000000000000001000000000000000201");
        let log_id = encode_log_id(Some(make_log_id(3, 4)));
        assert_eq!(hex::encode(log_id), "010100000000000000030000000000000004");
        let one = BTreeMap::from([(
            5,
            MemberNode {
                name: "a".to_owned(),
                peer_urls: vec!["u".to_owned()],
                joins_as_voter: false,
            },
        )]);
        let membership = Membership::new(vec![BTreeSet::from([5])], one);
        let bytes = encode_membership(&membership.expect("the voter has a node"));
        let expected = "0100000001000000010000000000000005\
                        0000000100000000000000050000000161000000010000000175";
        assert_eq!(hex::encode(bytes), expected);
        let bytes = encode_membership(&with_one_who_joins());
        assert_eq!((bytes[0], bytes.last()), (2, Some(&1)));
    }

    #[test]
    fn a_membership_has_the_version_that_it_needs() {
        let mut bytes = encode_membership(&with_one_who_joins()).to_vec();
        *bytes.last_mut().expect("not empty") = 0;
        assert_eq!(decode_membership(&bytes), Err(CodecError::Value));
    }

    #[test]
    fn cut_short_too_long_or_of_another_version_is_refused() {
        let all = [
            encode_vote(&make_vote(1, 2, true)),
            encode_log_id(Some(make_log_id(3, 4))),
            encode_membership(&joint_with_a_learner()),
        ];
        let decode = |which: usize, bytes: &[u8]| match which {
            0 => decode_vote(bytes).err(),
            1 => decode_log_id(bytes).err(),
            _ => decode_membership(bytes).err(),
        };
        for (which, bytes) in all.iter().enumerate() {
            for end in 0..bytes.len() {
                assert_eq!(decode(which, &bytes[..end]), Some(CodecError::Short));
            }
            let long = [&bytes[..], &[0]].concat();
            assert_eq!(decode(which, &long), Some(CodecError::Long { bytes: 1 }));
            let newer = [&[3], &bytes[1..]].concat();
            assert_eq!(
                decode(which, &newer),
                Some(CodecError::Version { found: 3 })
            );
        }
        let kind = decode_payload(Bytes::from_static(&[9]));
        assert_eq!(kind, Err(CodecError::Kind { found: 9 }));
    }

    #[test]
    fn a_voter_without_a_node_is_refused() {
        let bytes = [
            &[1, 0, 0, 0, 1, 0, 0, 0, 1][..],
            &5u64.to_be_bytes(),
            &[0; 4],
        ]
        .concat();
        assert_eq!(decode_membership(&bytes), Err(CodecError::Membership));
    }

    #[test]
    fn a_commands_bytes_never_show() {
        let data = EntryData(Bytes::from_static(b"secret"));
        assert_eq!(format!("{data} {data:?}"), "6 bytes EntryData(6 bytes)");
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            if let Ok(vote) = decode_vote(&bytes) {
                prop_assert_eq!(encode_vote(&vote), bytes.clone());
            }
            if let Ok(log_id) = decode_log_id(&bytes) {
                prop_assert_eq!(encode_log_id(log_id), bytes.clone());
            }
            if let Ok(membership) = decode_membership(&bytes) {
                prop_assert_eq!(encode_membership(&membership), bytes.clone());
            }
            if let Ok(stored) = decode_stored_membership(&bytes) {
                prop_assert_eq!(encode_stored_membership(&stored), bytes.clone());
            }
            if let Ok(payload) = decode_payload(bytes.clone().into()) {
                prop_assert_eq!(encode_payload(&payload), bytes);
            }
        }

        #[test]
        fn a_damaged_membership_decodes_or_is_refused(at in 0usize..150, to: u8) {
            let mut bytes = encode_membership(&joint_with_a_learner()).to_vec();
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = decode_membership(&bytes);
        }
    }
}
