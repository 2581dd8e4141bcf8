//! Ways to the state machine for the fuzz targets: entries of a log as they come, and a state
//! whose rows were damaged behind an intact seal.

use bytes::{BufMut, Bytes, BytesMut};
use keys::{Keyring, ProviderKind, SlotHolder, SlotKeyPair, StorageKeys};

use super::snapshot::{SnapshotLoader, export, fuzzing, rows_of};
use super::{EntryBody, EntryRef, Machine};
use crate::command::{
    AlarmKind, Body, ChangeAlarm, ChangeAuth, ChangeKeys, Command, Header, LeaseGrant,
    PublishMember, Put, RequestId,
};
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read::{self, RangeQuery};
use crate::mvcc::read_view::ReadView;
use crate::mvcc::{hash, history};
use crate::storage::{Keyspace, Store};
use crate::tables::auth::{Password, Permission};

const MEMBER: u64 = 1;
const TERM: u64 = 3;

/// Applies commands, each behind a length of two bytes, to a machine with a keyring and some
/// content. Whatever they are, the machine is found again in its store as it stands.
pub fn commands(mut bytes: &[u8]) {
    let mut machine = lived_in();
    while let Some(command) = take(&mut bytes) {
        let command = Bytes::copy_from_slice(command);
        if Command::decode(&command).is_err() {
            continue;
        }
        let index = machine.applied().last.map_or(1, |last| last.index + 1);
        let entry = EntryRef {
            index,
            term: TERM,
            leader: MEMBER,
            body: EntryBody::Command(&command),
        };
        if machine.apply(&[entry]).is_err() {
            return;
        }
    }
    let view = machine.view();
    let again = Machine::recover(machine.store.clone(), MEMBER);
    let again = again.expect("what a machine wrote, a machine reads");
    assert_eq!(hash_of(&again.view()), hash_of(&view));
    assert_eq!(again.counters, machine.counters);
    assert_eq!(again.applied, machine.applied);
}

/// Loads the rows of a small state, damaged as the bytes say, and recovers a machine from them.
pub fn damaged_state(mut bytes: &[u8]) {
    let mut rows = rows(&lived_in().view());
    while let Some(damage) = take(&mut bytes) {
        damage_one(&mut rows, damage);
    }
    let mut chunk = BytesMut::new();
    for (keyspace, key, row) in &rows {
        chunk.put_u8(keyspace.number());
        for bytes in [key, row] {
            chunk.put_u32(u32::try_from(bytes.len()).expect("they are small"));
            chunk.put_slice(bytes);
        }
    }
    let mut loader = SnapshotLoader::new(Store::in_memory(StorageKeys::ephemeral()));
    let chunk = chunk.freeze();
    let loaded = loader
        .chunk(&fuzzing::chunk_of(&chunk))
        .and_then(|()| loader.chunk(&fuzzing::last_chunk(&chunk)))
        .and_then(|()| loader.finish(None));
    let Ok((store, _)) = loaded else {
        return;
    };
    let Ok(machine) = Machine::recover(store, MEMBER) else {
        return;
    };
    // Reads may fail; they find nothing that makes them panic.
    let view = machine.view();
    let _ = read::range(&view, &RangeQuery::all(KeyRange::all()));
    let _ = history::events(&view, 1, view.revision, &KeyRange::all(), usize::MAX);
    let _ = hash::hash_kv(&view, 0);
    let _ = export(&view).count();
}

/// `place u8 | kind u8 | at u8 | rest`: which row, and what becomes of it.
fn damage_one(rows: &mut Vec<(Keyspace, Vec<u8>, Vec<u8>)>, damage: &[u8]) {
    let [place, kind, at, rest @ ..] = damage else {
        return;
    };
    let (place, at) = (usize::from(*place), usize::from(*at));
    if rows.is_empty() {
        return;
    }
    let place = place % rows.len();
    let (keyspace, key, row) = &mut rows[place];
    match kind % 6 {
        0 => *row = rest.to_vec(),
        1 => *key = rest.to_vec(),
        2 => overwrite(row, at, rest),
        3 => overwrite(key, at, rest),
        4 => drop(rows.remove(place)),
        _ => {
            let added = (*keyspace, [&key[..], rest].concat(), row.clone());
            rows.push(added);
        }
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    let at = at.min(bytes.len());
    for (byte, new) in bytes[at..].iter_mut().zip(with) {
        *byte = *new;
    }
}

fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
    let (taken, left) = rest.split_at(length);
    *bytes = left;
    Some(taken)
}

fn rows(view: &ReadView) -> Vec<(Keyspace, Vec<u8>, Vec<u8>)> {
    let chunks = export(view).map(|chunk| chunk.expect("it lies in memory"));
    let rows = chunks.flat_map(|chunk| rows_of(&chunk).collect::<Vec<_>>());
    rows.map(|(keyspace, key, row)| (keyspace, key.to_vec(), row.to_vec()))
        .collect()
}

fn hash_of(view: &ReadView) -> String {
    format!("{:?}", hash::hash_kv(view, 0).map_err(|it| it.to_string()))
}

/// A machine in whose store every kind of row stands.
fn lived_in() -> Machine {
    let store = Store::in_memory(StorageKeys::ephemeral());
    let mut machine = Machine::create(store, MEMBER).expect("an empty store is recovered");
    for (seq, body) in (1..).zip(bodies()) {
        let request = RequestId {
            member: MEMBER,
            seq,
        };
        let mut header = Header::new(request);
        header.clock_ms = 1_000;
        let command = Command::new(header, body).encode();
        let entry = EntryRef {
            index: seq,
            term: TERM,
            leader: MEMBER,
            body: EntryBody::Command(&command),
        };
        machine.apply(&[entry]).expect("it is in order");
    }
    machine
}

fn bodies() -> Vec<Body> {
    let holder = SlotHolder {
        member_id: MEMBER,
        provider: ProviderKind::File,
        public_key: SlotKeyPair::generate().public(),
    };
    let birth = Keyring::birth(&[holder]).expect("a keyring is born");
    let put = |key: &'static [u8], lease| Put {
        key: Bytes::from_static(key),
        sealed_value: sealed(),
        lease,
        ..Put::default()
    };
    let member = PublishMember {
        id: MEMBER,
        name: "one".into(),
        client_urls: vec!["http://127.0.0.1:1".into()],
        directory_id: [1; 16],
    };
    let (role, user) = ("readers".to_owned(), "root".to_owned());
    vec![
        ChangeKeys(keys::KeyChange::Init(birth)).into(),
        member.into(),
        LeaseGrant {
            id: 7,
            ttl_seconds: 60,
        }
        .into(),
        put(b"a", 7).into(),
        put(b"a", 0).into(),
        put(b"b", 7).into(),
        ChangeAlarm {
            activate: true,
            member: MEMBER,
            kind: AlarmKind::NoSpace,
        }
        .into(),
        ChangeAuth::AddRole { name: role.clone() }.into(),
        ChangeAuth::GrantPermission {
            role: role.clone(),
            permission: Some(Permission {
                kind: 2,
                range: KeyRange::prefix(Bytes::from_static(b"a")),
            }),
        }
        .into(),
        ChangeAuth::AddUser {
            name: user.clone(),
            password: Password::None,
        }
        .into(),
        ChangeAuth::GrantRole { user, role }.into(),
    ]
}

/// A value behind a right header, which nothing here opens.
fn sealed() -> Bytes {
    let mut sealed = vec![1, 1, 0, 0];
    sealed.extend_from_slice(&1_u32.to_be_bytes());
    sealed.extend_from_slice(&1_u32.to_be_bytes());
    sealed.extend_from_slice(&[7; 24 + 5 + 16]);
    sealed.into()
}
