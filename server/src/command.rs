//! What is replicated: one struct per command, the reply it gets, and its bytes in the log.
//!
//! Promise: the bytes of a command mean the same on every member and in every later release.
//! An unknown version or kind is an error that says so, never a guess.
//! Not known here: raft, storage, keys, what applying a command does.
//!
//! ```text
//! version u16 | kind u16 | flags u32 | member u64 | seq u64 | auth_revision u64 | clock_ms i64
//!   | user length u16 | user | body (protobuf, sealkv.replicated.v1)          all big-endian
//! ```
//!
//! The clock stands at a fixed place, so that the leader can set it in a command that another
//! member encoded, just before it proposes.

mod admin;
mod auth;
mod keyring;
mod kv;
mod lease;
mod plugin;
mod reply;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::access::Permitted;

pub use admin::{AlarmKind, ChangeAlarm, ChangeDowngrade, PublishMember};
pub use auth::{AuthRefusal, Authenticate, ChangeAuth};
pub use keyring::ChangeKeys;
pub use kv::{
    Compact, Compare, CompareResult, CompareTarget, DeleteRange, Op, Put, Txn, ValueCompare,
};
pub use lease::{LeaseCheckpoint, LeaseExpire, LeaseGrant, LeaseRevoke};
pub use plugin::{
    CommitPlugin, DeadLetter, DeletePlugin, DeployPlugin, EffectOp, PluginChunk, PluginSpec,
    PluginState, Position, SetPluginState,
};
pub use reply::{
    AlarmReply, AuthenticateReply, CommitPluginReply, CompactReply, DeleteRangeReply,
    DeployPluginReply, LeaseGrantReply, NoEffect, NotApplied, OpReply, PutReply, RangeReply,
    RecordRef, Refusal, Reply, ReplyOf, TxnReply,
};

/// The version of the envelope and of every body that this release writes.
pub const VERSION: u16 = 1;

/// The leader evaluates this command's compares while it holds back its other proposals.
pub const FLAG_LATCHED: u32 = 1;
/// On the link only: operands of VALUE compares are still sealed; the leader replaces them by
/// outcomes, and the flag goes with them.
pub const FLAG_SEALED_OPERANDS: u32 = 2;
/// The server's own command: nobody's permission was asked, and none is when it is applied.
pub const FLAG_INTERNAL: u32 = 4;
const FLAGS_KNOWN: u32 = FLAG_LATCHED | FLAG_SEALED_OPERANDS | FLAG_INTERNAL;

const SEQ_AT: std::ops::Range<usize> = 16..24;
const CLOCK_AT: usize = 32;
const FIXED_BYTES: usize = 42;

/// Names one proposal. The member that received the request counts them; a number is never
/// used twice, not even for the same request tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    pub member: u64,
    pub seq: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub version: u16,
    pub flags: u32,
    pub request: RequestId,
    /// Empty while authentication is off.
    pub user: String,
    pub auth_revision: u64,
    /// The leader's wall clock; never decides about a lease.
    pub clock_ms: i64,
}

impl Header {
    #[must_use]
    pub fn new(request: RequestId) -> Self {
        Header {
            version: VERSION,
            flags: 0,
            request,
            user: String::new(),
            auth_revision: 0,
            clock_ms: 0,
        }
    }

    /// The header of a request that has passed the door, or of the server's own.
    #[must_use]
    pub fn of<T>(request: RequestId, permitted: &Permitted<T>) -> Self {
        let header = Header::new(request);
        match permitted.caller() {
            None => Header {
                flags: FLAG_INTERNAL,
                ..header
            },
            Some(caller) => Header {
                user: caller.user.as_deref().unwrap_or_default().to_owned(),
                auth_revision: caller.auth_revision,
                ..header
            },
        }
    }

    /// Whether the server itself made the command.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.flags & FLAG_INTERNAL != 0
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub header: Header,
    pub body: Body,
}

/// Everything that can change the replicated state.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    Put(Put),
    DeleteRange(DeleteRange),
    Txn(Txn),
    Compact(Compact),
    LeaseGrant(LeaseGrant),
    LeaseRevoke(LeaseRevoke),
    LeaseExpire(LeaseExpire),
    LeaseCheckpoint(LeaseCheckpoint),
    ChangeKeys(ChangeKeys),
    PublishMember(PublishMember),
    Alarm(ChangeAlarm),
    Downgrade(ChangeDowngrade),
    PluginChunk(PluginChunk),
    DeployPlugin(DeployPlugin),
    SetPluginState(SetPluginState),
    DeletePlugin(DeletePlugin),
    CommitPlugin(CommitPlugin),
    ChangeAuth(ChangeAuth),
    Authenticate(Authenticate),
}

/// Bytes that are no command of this release. In the log this stops the member.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CommandError {
    #[error("a command of {bytes} bytes is shorter than its header")]
    Short { bytes: usize },
    #[error("command version {version} needs a newer release than this one, which knows {VERSION}")]
    Version { version: u16 },
    #[error("command kind {kind} needs a newer release than this one")]
    Kind { kind: u16 },
    #[error("the flags {flags:#x} of a command need a newer release than this one")]
    Flags { flags: u32 },
    #[error("the user name of a command is not UTF-8")]
    User,
    #[error("the body of a command of kind {kind} cannot be read")]
    Body { kind: u16 },
}

/// A body whose fields do not make sense; `decode` adds the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadBody;

impl From<prost::DecodeError> for BadBody {
    fn from(_: prost::DecodeError) -> Self {
        BadBody
    }
}

/// A body and its message on the wire.
pub(crate) trait Wire: Sized {
    type Message: Message + Default;
    fn to_wire(&self) -> Self::Message;
    fn from_wire(message: Self::Message) -> Result<Self, BadBody>;

    fn decode(bytes: Bytes) -> Result<Self, BadBody> {
        Self::from_wire(Self::Message::decode(bytes)?)
    }
}

/// One line per body: its number in the log, for ever.
macro_rules! bodies {
    ($($kind:literal $name:ident($type:ty)),* $(,)?) => {
        impl Body {
            /// The number that stands for this body in the log.
            #[must_use]
            pub fn kind(&self) -> u16 {
                match self { $(Body::$name(_) => $kind,)* }
            }

            /// The name of this body, for logs and metrics.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Body::$name(_) => stringify!($name),)* }
            }

            fn put_message(&self, out: &mut BytesMut) {
                match self { $(Body::$name(body) => encode_message(&body.to_wire(), out),)* }
            }

            fn decode(kind: u16, bytes: Bytes) -> Result<Self, CommandError> {
                match kind {
                    $($kind => <$type as Wire>::decode(bytes)
                        .map(Body::$name)
                        .map_err(|BadBody| CommandError::Body { kind }),)*
                    _ => Err(CommandError::Kind { kind }),
                }
            }
        }
        $(impl From<$type> for Body {
            fn from(body: $type) -> Self { Body::$name(body) }
        })*
    };
}

bodies! {
    1 Put(Put),
    2 DeleteRange(DeleteRange),
    3 Txn(Txn),
    4 Compact(Compact),
    10 LeaseGrant(LeaseGrant),
    11 LeaseRevoke(LeaseRevoke),
    12 LeaseExpire(LeaseExpire),
    13 LeaseCheckpoint(LeaseCheckpoint),
    20 ChangeKeys(ChangeKeys),
    30 PublishMember(PublishMember),
    31 Alarm(ChangeAlarm),
    32 Downgrade(ChangeDowngrade),
    40 PluginChunk(PluginChunk),
    41 DeployPlugin(DeployPlugin),
    42 SetPluginState(SetPluginState),
    43 DeletePlugin(DeletePlugin),
    44 CommitPlugin(CommitPlugin),
    50 ChangeAuth(ChangeAuth),
    51 Authenticate(Authenticate),
}

/// `LeaseRevoke` and `LeaseExpire`.
const ENDS_OF_LEASES: [u16; 2] = [11, 12];

impl Body {
    /// A lease that is revoked, or leases that have expired.
    #[must_use]
    pub fn ends_leases(&self) -> bool {
        ENDS_OF_LEASES.contains(&self.kind())
    }
}

fn encode_message(message: &impl Message, out: &mut BytesMut) {
    out.reserve(message.encoded_len());
    message
        .encode(out)
        .expect("a BytesMut grows as it is written");
}

impl Command {
    #[must_use]
    pub fn new(header: Header, body: impl Into<Body>) -> Self {
        Command {
            header,
            body: body.into(),
        }
    }

    /// An encoded command as another request of its member.
    #[must_use]
    pub fn renumbered(encoded: &[u8], seq: u64) -> Bytes {
        let mut again = BytesMut::from(encoded);
        again[SEQ_AT].copy_from_slice(&seq.to_be_bytes());
        again.freeze()
    }

    #[must_use]
    pub fn encode(&self) -> Bytes {
        let header = &self.header;
        let mut out = BytesMut::with_capacity(FIXED_BYTES + header.user.len());
        out.put_u16(header.version);
        out.put_u16(self.body.kind());
        out.put_u32(self.flags());
        out.put_u64(header.request.member);
        out.put_u64(header.request.seq);
        out.put_u64(header.auth_revision);
        out.put_i64(header.clock_ms);
        // etcd bounds a user name by the request; 64 KiB is far above what the edge lets through.
        let user = &header.user.as_bytes()[..header.user.len().min(usize::from(u16::MAX))];
        out.put_u16(u16::try_from(user.len()).expect("cut to fit above"));
        out.put_slice(user);
        self.body.put_message(&mut out);
        out.freeze()
    }

    /// The header's flags, and what the body itself says.
    fn flags(&self) -> u32 {
        let sealed = matches!(&self.body, Body::Txn(txn) if txn.has_sealed_operands());
        let rest = self.header.flags & !FLAG_SEALED_OPERANDS;
        if sealed {
            rest | FLAG_SEALED_OPERANDS
        } else {
            rest
        }
    }

    /// Reads a command. Values and keys share the memory of `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<Self, CommandError> {
        let fixed: &[u8; FIXED_BYTES] = bytes
            .first_chunk()
            .ok_or(CommandError::Short { bytes: bytes.len() })?;
        let u16_at = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let u64_at = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| fixed[at + i]));
        let version = u16_at(0);
        if version != VERSION {
            return Err(CommandError::Version { version });
        }
        let flags = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        if flags & !FLAGS_KNOWN != 0 {
            return Err(CommandError::Flags { flags });
        }
        let body_at = FIXED_BYTES + usize::from(u16_at(40));
        let user = bytes
            .get(FIXED_BYTES..body_at)
            .ok_or(CommandError::Short { bytes: bytes.len() })?;
        let header = Header {
            version,
            flags,
            request: RequestId {
                member: u64_at(8),
                seq: u64_at(16),
            },
            user: std::str::from_utf8(user)
                .map_err(|_| CommandError::User)?
                .to_owned(),
            auth_revision: u64_at(24),
            clock_ms: u64_at(CLOCK_AT).cast_signed(),
        };
        let body = Body::decode(u16_at(2), bytes.slice(body_at..))?;
        Ok(Command { header, body })
    }
}

/// Sets the clock in an encoded command: the leader's last touch before it proposes.
pub fn set_clock(encoded: &mut [u8], clock_ms: i64) -> Result<(), CommandError> {
    let bytes = encoded.len();
    let place = encoded
        .get_mut(CLOCK_AT..CLOCK_AT + 8)
        .ok_or(CommandError::Short { bytes })?;
    place.copy_from_slice(&clock_ms.to_be_bytes());
    Ok(())
}

/// What a proposer needs to know of an encoded command, without reading its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    kind: u16,
    flags: u32,
    pub request: RequestId,
}

impl Envelope {
    pub fn read(encoded: &[u8]) -> Result<Self, CommandError> {
        let fixed: &[u8; FIXED_BYTES] = encoded.first_chunk().ok_or(CommandError::Short {
            bytes: encoded.len(),
        })?;
        let u16_at = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let u64_at = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| fixed[at + i]));
        let version = u16_at(0);
        if version != VERSION {
            return Err(CommandError::Version { version });
        }
        Ok(Envelope {
            kind: u16_at(2),
            flags: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            request: RequestId {
                member: u64_at(8),
                seq: u64_at(16),
            },
        })
    }

    #[must_use]
    pub fn is_latched(&self) -> bool {
        self.flags & FLAG_LATCHED != 0
    }

    #[must_use]
    pub fn has_sealed_operands(&self) -> bool {
        self.flags & FLAG_SEALED_OPERANDS != 0
    }

    /// A lease that is revoked, or leases that have expired.
    #[must_use]
    pub fn ends_leases(&self) -> bool {
        ENDS_OF_LEASES.contains(&self.kind)
    }

    /// Clients' writes, plugins' deployment, and what a member says of itself, its acknowledgement
    /// of the root key among them: that one is a change of the key table like any other, and the
    /// table's own rules refuse what does not fit. The rest only a leader proposes, for itself: a
    /// forwarded one could act for a leader that is none any more.
    #[must_use]
    pub fn may_be_forwarded(&self) -> bool {
        matches!(self.kind, 1..=4 | 10 | 11 | 20 | 30..=32 | 40..=43 | 50 | 51)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mvcc::key_range::KeyRange;
    use crate::mvcc::read::RangeQuery;

    fn header() -> Header {
        Header {
            user: "root".into(),
            auth_revision: 7,
            clock_ms: -5,
            ..Header::new(RequestId {
                member: 1 << 63,
                seq: 2,
            })
        }
    }

    #[test]
    fn a_renumbered_command_is_the_same_but_for_its_number() {
        let mut command = Command::new(header(), LeaseRevoke { id: 1 });
        let again = Command::renumbered(&command.encode(), 9);
        command.header.request.seq = 9;
        assert_eq!(again, command.encode());
    }

    #[test]
    fn revocations_and_expiries_end_leases_and_nothing_else_does() {
        let revoke: Body = LeaseRevoke { id: 1 }.into();
        let expire: Body = LeaseExpire {
            term: 1,
            ids: vec![1],
        }
        .into();
        let grant: Body = LeaseGrant {
            id: 1,
            ttl_seconds: 2,
        }
        .into();
        for (body, ends) in [(revoke, true), (expire, true), (grant, false)] {
            assert_eq!(body.ends_leases(), ends);
            let encoded = Command::new(header(), body).encode();
            assert_eq!(Envelope::read(&encoded).unwrap().ends_leases(), ends);
        }
    }

    fn reads_back(body: impl Into<Body>) {
        let command = Command::new(header(), body);
        let again = Command::decode(&command.encode()).unwrap();
        assert_eq!(again.body, command.body);
        assert_eq!(
            Header {
                flags: 0,
                ..again.header
            },
            command.header
        );
    }

    fn position(revision: i64) -> Position {
        Position::Snapshot {
            revision,
            last_key: Bytes::from_static(b"k"),
        }
    }

    #[test]
    fn every_body_is_read_as_it_was_written() {
        let range = KeyRange::from_wire(Bytes::from_static(b"a"), Bytes::from_static(b"\0"));
        let put = Put {
            key: Bytes::from_static(b"a"),
            sealed_value: Bytes::from_static(b"sealed"),
            lease: -1,
            ignore_value: true,
            ignore_lease: true,
        };
        let delete = DeleteRange {
            range: range.clone(),
            prev: true,
        };
        let spec = PluginSpec {
            name: "index".into(),
            watch_prefixes: vec![Bytes::from_static(b"/services/")],
            sha256: [9; 32],
            chunks: 3,
            ..PluginSpec::default()
        };
        let letter = DeadLetter {
            revision: 4,
            error: "reject".into(),
            ..DeadLetter::default()
        };
        reads_back(put.clone());
        reads_back(delete.clone());
        reads_back(Compact { revision: 9 });
        reads_back(LeaseGrant {
            id: 1,
            ttl_seconds: 2,
        });
        reads_back(LeaseRevoke { id: -1 });
        reads_back(LeaseExpire {
            term: 3,
            ids: vec![1, -2],
        });
        reads_back(LeaseCheckpoint {
            remaining_seconds: vec![(1, 2), (3, 0)],
        });
        reads_back(ChangeAlarm {
            activate: true,
            member: 4,
            kind: AlarmKind::Corrupt,
        });
        reads_back(PluginChunk {
            sha256: [1; 32],
            index: 2,
            data: Bytes::from_static(b"wasm"),
        });
        reads_back(DeployPlugin { spec });
        for (generation, state) in [
            (None, PluginState::Paused),
            (Some(4), PluginState::Incompatible),
        ] {
            reads_back(SetPluginState {
                name: "index".into(),
                generation,
                state,
                reason: "why".into(),
            });
        }
        reads_back(DeletePlugin {
            name: "index".into(),
        });
        reads_back(CommitPlugin {
            name: "index".into(),
            generation: 2,
            term: 3,
            from: position(4),
            to: Position::Changes {
                revision: 4,
                sub: u32::MAX,
            },
            effects: vec![EffectOp::Put(put), EffectOp::DeleteRange(delete)],
            dead_letters: vec![letter],
            hops: 8,
        });
    }

    fn compare() -> impl Strategy<Value = Compare> {
        let value = prop_oneof![
            any::<[u8; 3]>().prop_map(|it| ValueCompare::Sealed(it.to_vec().into())),
            (any::<bool>(), any::<i64>(), any::<u64>()).prop_map(
                |(result, revision, live_keys)| ValueCompare::Outcome {
                    result,
                    revision,
                    live_keys
                }
            ),
        ];
        let target = prop_oneof![
            any::<i64>().prop_map(CompareTarget::Version),
            any::<i64>().prop_map(CompareTarget::Created),
            any::<i64>().prop_map(CompareTarget::Modified),
            any::<i64>().prop_map(CompareTarget::Lease),
            value.prop_map(CompareTarget::Value),
        ];
        use CompareResult::{Equal, Greater, Less, NotEqual};
        let result = proptest::sample::select(vec![Equal, Greater, Less, NotEqual]);
        (range(), result, target).prop_map(|(range, result, target)| Compare {
            range,
            result,
            target,
        })
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        (
            any::<[u8; 2]>(),
            proptest::collection::vec(any::<u8>(), 0..2),
        )
            .prop_map(|(key, end)| KeyRange::from_wire(key.to_vec().into(), end.into()))
    }

    fn txn() -> impl Strategy<Value = Txn> {
        let leaf = prop_oneof![
            range().prop_map(|range| Op::Range(RangeQuery::all(range))),
            range().prop_map(|range| Op::DeleteRange(DeleteRange { range, prev: false })),
            any::<[u8; 2]>().prop_map(|key| Op::Put(Put {
                key: key.to_vec().into(),
                ..Put::default()
            })),
        ];
        let op = leaf.prop_recursive(3, 20, 3, |inner| ops(inner).prop_map(Op::Txn));
        ops(op)
    }

    fn ops(op: impl Strategy<Value = Op> + Clone) -> impl Strategy<Value = Txn> {
        use proptest::collection::vec;
        (vec(compare(), 0..3), vec(op.clone(), 0..3), vec(op, 0..3)).prop_map(
            |(compares, success, failure)| Txn {
                compares,
                success,
                failure,
            },
        )
    }

    proptest! {
        #[test]
        fn a_transaction_is_read_as_it_was_written(txn in txn()) {
            reads_back(txn);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..120),
            kind in 0..50u8,
            framed: bool,
        ) {
            let mut bytes = bytes;
            if framed {
                let mut start = Command::new(header(), LeaseRevoke { id: 0 }).encode()[..46].to_vec();
                start[3] = kind;
                bytes.splice(0..0, start);
            }
            let _ = Command::decode(&bytes.into());
        }
    }

    /// A client's `TxnRequest` as deep as the wire lets it through must not stop the members.
    #[test]
    fn a_transaction_nests_as_deep_in_the_log_as_on_the_wire() {
        use proto::etcdserverpb as etcd;
        let leaf = || etcd::RequestOp {
            request: Some(etcd::request_op::Request::RequestPut(etcd::PutRequest {
                key: Bytes::from_static(b"k"),
                ..Default::default()
            })),
        };
        let mut client = etcd::TxnRequest {
            success: vec![leaf()],
            ..Default::default()
        };
        let put = Put {
            key: Bytes::from_static(b"k"),
            ..Put::default()
        };
        let guarded = Compare {
            range: KeyRange::all(),
            result: CompareResult::Equal,
            target: CompareTarget::Value(ValueCompare::Outcome {
                result: true,
                revision: 1,
                live_keys: 1,
            }),
        };
        let mut ours = Txn {
            compares: vec![guarded],
            success: vec![Op::Put(put)],
            failure: vec![],
        };
        let mut depth = 0;
        while etcd::TxnRequest::decode(&client.encode_to_vec()[..]).is_ok() {
            let command = Command::new(header(), ours.clone());
            assert!(
                Command::decode(&command.encode()).is_ok(),
                "nested {depth} deep"
            );
            let request = Some(etcd::request_op::Request::RequestTxn(client));
            client = etcd::TxnRequest {
                success: vec![etcd::RequestOp { request }],
                ..Default::default()
            };
            ours = Txn {
                success: vec![Op::Txn(ours)],
                ..Txn::default()
            };
            depth += 1;
        }
        assert!(depth > 10);
    }

    #[test]
    fn the_leader_sets_the_clock_in_place() {
        let mut bytes = Command::new(header(), LeaseRevoke { id: 1 })
            .encode()
            .to_vec();
        set_clock(&mut bytes, 1_234_567).unwrap();
        assert_eq!(
            Command::decode(&bytes.into()).unwrap().header.clock_ms,
            1_234_567
        );
        assert_eq!(
            set_clock(&mut [0; 20], 1),
            Err(CommandError::Short { bytes: 20 })
        );
    }

    #[test]
    fn what_a_newer_release_wrote_is_named_not_guessed() {
        let bytes = Command::new(header(), LeaseRevoke { id: 1 }).encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = bytes.to_vec();
            bytes[at] = byte;
            Command::decode(&bytes.into()).unwrap_err()
        };
        assert_eq!(with(1, 2), CommandError::Version { version: 2 });
        assert_eq!(with(3, 99), CommandError::Kind { kind: 99 });
        assert_eq!(with(4, 1), CommandError::Flags { flags: 1 << 24 });
        for end in 0..46 {
            assert_eq!(
                Command::decode(&bytes.slice(..end)),
                Err(CommandError::Short { bytes: end })
            );
        }
    }
}
