//! A machine to try things on: an in-memory store, a real key table, values that only look sealed.
//! Nothing here opens a value, so their bytes are plain behind a right header.

use bytes::Bytes;
use keys::{Keyring, ProviderKind, RowNonce, SlotHolder, SlotKeyPair};

use super::{EntryBody, EntryRef, Machine, Outcome};
use crate::command::{
    Body, ChangeKeys, Command, Compact, Compare, CompareResult, CompareTarget, DeleteRange, Header,
    LeaseGrant, NotApplied, Op, Put, ReplyOf, RequestId, Txn,
};
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::{self, RangeQuery};
use crate::mvcc::read_view::ReadView;
use crate::storage::{RowSealer, RowUnopened, Store};

/// Seals rows by putting their place in front: enough to see a row that moved.
pub(crate) struct PlaceSealer(pub(crate) u8);

impl RowSealer for PlaceSealer {
    fn seal_row(&self, keyspace: u8, row_key: &[u8], plaintext: &[u8], _: RowNonce) -> Vec<u8> {
        [&[self.0, keyspace, row_key.len() as u8], row_key, plaintext].concat()
    }

    fn open_row(
        &self,
        keyspace: u8,
        row_key: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, RowUnopened> {
        let place = [&[self.0, keyspace, row_key.len() as u8], row_key].concat();
        sealed
            .strip_prefix(&place[..])
            .map(<[u8]>::to_vec)
            .ok_or(RowUnopened)
    }
}

/// A value as if sealed under this key.
pub(crate) fn sealed_under(prefix_key_id: u32, dek_version: u32, value: &[u8]) -> Bytes {
    let mut sealed = vec![1, 1, 0, 0];
    sealed.extend_from_slice(&prefix_key_id.to_be_bytes());
    sealed.extend_from_slice(&dek_version.to_be_bytes());
    sealed.extend_from_slice(&[7; 24]);
    sealed.extend_from_slice(value);
    let sum = crc32c::crc32c(value).to_be_bytes();
    sealed.extend(sum.iter().cycle().take(16));
    sealed.into()
}

/// Under the empty prefix's first key.
pub(crate) fn sealed(value: &[u8]) -> Bytes {
    sealed_under(1, 1, value)
}

pub(crate) fn unsealed(sealed: &[u8]) -> &[u8] {
    &sealed[36..sealed.len() - 16]
}

pub(crate) const MEMBER: u64 = 1;
pub(crate) const TERM: u64 = 3;

pub(crate) fn birth() -> ChangeKeys {
    let holder = SlotHolder {
        member_id: MEMBER,
        provider: ProviderKind::File,
        public_key: SlotKeyPair::generate().public(),
    };
    ChangeKeys(keys::KeyChange::Init(
        Keyring::birth(&[holder]).expect("a keyring is born"),
    ))
}

/// A machine that is handed one entry after another.
pub(crate) struct Bench {
    pub(crate) machine: Machine,
    /// What it was handed, as it would stand in the log.
    pub(crate) log: Vec<Bytes>,
    pub(crate) outcome: Option<Outcome>,
}

impl Bench {
    /// Without a keyring.
    pub(crate) fn unborn() -> Self {
        let store = Store::in_memory(PlaceSealer(1));
        let machine = Machine::create(store, MEMBER).expect("an empty store is recovered");
        Bench {
            machine,
            log: Vec::new(),
            outcome: None,
        }
    }

    pub(crate) fn new() -> Self {
        let mut bench = Self::unborn();
        bench.run(birth()).expect("there is no keyring yet");
        bench
    }

    pub(crate) fn run<B: Into<Body> + ReplyOf>(&mut self, body: B) -> Result<B::Reply, NotApplied> {
        self.run_in_term(body, TERM)
    }

    pub(crate) fn run_in_term<B: Into<Body> + ReplyOf>(
        &mut self,
        body: B,
        term: u64,
    ) -> Result<B::Reply, NotApplied> {
        let seq = self.log.len() as u64;
        let mut header = Header::new(RequestId {
            member: MEMBER,
            seq,
        });
        header.clock_ms = 1_000 + seq as i64;
        let bytes = Command::new(header, body).encode();
        self.log.push(bytes.clone());
        let entry = EntryRef {
            index: seq,
            term,
            leader: MEMBER,
            body: EntryBody::Command(&bytes),
        };
        let mut outcome = self.machine.apply(&[entry]).expect("nothing is broken");
        let (request, reply) = outcome.replies.pop().expect("its own command is answered");
        assert_eq!(
            request,
            RequestId {
                member: MEMBER,
                seq
            }
        );
        self.outcome = Some(outcome);
        B::reply(reply)
    }

    pub(crate) fn outcome(&self) -> &Outcome {
        self.outcome.as_ref().expect("something was applied")
    }

    pub(crate) fn view(&self) -> ReadView {
        (*self.machine.view()).clone()
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) -> i64 {
        self.run(put(key, value))
            .expect("a put is applied")
            .revision
    }

    pub(crate) fn delete(&mut self, key: &str) -> u64 {
        let delete = DeleteRange {
            range: one(key),
            prev: false,
        };
        self.run(delete).expect("a delete is applied").deleted
    }

    pub(crate) fn compact(&mut self, revision: i64) {
        self.run(Compact { revision })
            .expect("a compaction is applied");
    }

    pub(crate) fn grant(&mut self, id: i64) {
        self.run(LeaseGrant {
            id,
            ttl_seconds: 60,
        })
        .expect("a lease is granted");
    }

    pub(crate) fn value(&self, key: &str) -> Option<String> {
        let view = self.view();
        let record =
            read::get(&view, key.as_bytes(), 0).expect("the newest revision can be read")?;
        let value = view
            .store
            .value(record.at)
            .expect("memory can be read")
            .expect("a record has a value");
        Some(String::from_utf8(unsealed(&value).to_vec()).expect("values are text here"))
    }

    /// Keys as text, of a whole range query.
    pub(crate) fn keys(&self) -> Vec<String> {
        let rows = read::range(&self.view(), &RangeQuery::all(KeyRange::all()))
            .expect("it can be read")
            .rows;
        rows.into_iter()
            .map(|row| String::from_utf8(row.key.to_vec()).expect("keys are text here"))
            .collect()
    }

    /// Compacts the bytes away, in small slices.
    pub(crate) fn sweep(&mut self) {
        let mut compactor = self.machine.compactor();
        while let crate::mvcc::compact::Progress::Working { .. } =
            compactor.slice(2).expect("memory can be written")
        {}
    }
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn one(key: &str) -> KeyRange {
    KeyRange::single(bytes(key))
}

pub(crate) fn span(key: &str, end: &str) -> KeyRange {
    KeyRange::from_wire(bytes(key), bytes(end))
}

pub(crate) fn put(key: &str, value: &str) -> Put {
    Put {
        key: bytes(key),
        sealed_value: sealed(value.as_bytes()),
        ..Put::default()
    }
}

pub(crate) fn leased(key: &str, value: &str, lease: i64) -> Put {
    Put {
        lease,
        ..put(key, value)
    }
}

pub(crate) fn delete(range: KeyRange) -> DeleteRange {
    DeleteRange { range, prev: true }
}

pub(crate) fn compare(range: KeyRange, result: CompareResult, target: CompareTarget) -> Compare {
    Compare {
        range,
        result,
        target,
    }
}

pub(crate) fn txn(compares: Vec<Compare>, success: Vec<Op>, failure: Vec<Op>) -> Txn {
    Txn {
        compares,
        success,
        failure,
    }
}
