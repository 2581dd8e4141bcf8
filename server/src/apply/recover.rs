//! The state machine out of its store: a new one, or what an earlier run or a snapshot left.
//!
//! Promise: a recovered machine is the one that stopped, to the last entry it committed. Values
//! are not read: the index, the leases' keys and every table come from meta rows and tables alone.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::RwLock;
use prost::Message;
use proto::sealkv::replicated as wire;

use super::{Applied, Counters, Machine, Poison, bad_row, decode_row, rows};
use crate::command::AlarmKind;
use crate::lease::table::{Lease, LeaseTable};
use crate::mvcc::index::{Change, Index};
use crate::mvcc::key_history::Latest;
use crate::mvcc::key_range::KeyRange;
use crate::mvcc::read_view::{CompactMark, ReadView};
use crate::mvcc::record::{BadRecord, Kind, Record};
use crate::mvcc::revision::Revision;
use crate::storage::{Keyspace, Store, View};
use crate::tables::alarms::Alarms;
use crate::tables::auth::{AuthTable, Role, User};
use crate::tables::members::{MemberAttributes, Members};
use crate::tables::plugins::{Plugin, PluginTable};

/// Threads that read meta rows, each a range of revisions.
const LOADERS: i64 = 4;

impl Machine {
    /// The machine of a store that has seen no entry. `member` is who answers clients here: only
    /// its own commands get replies.
    pub fn create(store: Store, member: u64) -> Result<Machine, Poison> {
        let mut batch = store.batch();
        batch.put(
            Keyspace::System,
            rows::COUNTERS,
            &Counters::FRESH.to_row().encode_to_vec(),
        );
        batch.put(
            Keyspace::Raft,
            rows::APPLIED,
            &Applied::default().to_row().encode_to_vec(),
        );
        store.commit(batch)?;
        Self::recover(store, member)
    }

    /// Whether a machine could be recovered from this store, whatever its size, without the memory
    /// that the machine takes.
    pub fn check(store: &Store) -> Result<(), Poison> {
        let view = store.view();
        let row = view.get(Keyspace::System, rows::COUNTERS)?;
        let row = row.ok_or_else(|| bad_row(Keyspace::System, rows::COUNTERS))?;
        Counters::from_row(&decode_row(Keyspace::System, rows::COUNTERS, row)?);
        let row = view.get(Keyspace::Raft, rows::APPLIED)?;
        let row = row.ok_or_else(|| bad_row(Keyspace::Raft, rows::APPLIED))?;
        Applied::from_row(decode_row(Keyspace::Raft, rows::APPLIED, row)?);
        for found in changes(&view, 0, i64::MAX) {
            found?;
        }
        load_leases(&view)?;
        load_key_table(&view)?;
        load_members(&view)?;
        load_alarms(&view)?;
        load_downgrade(&view)?;
        load_plugins(&view)?;
        load_auth(&view)?;
        Ok(())
    }

    /// The machine that this store belongs to.
    pub fn recover(store: Store, member: u64) -> Result<Machine, Poison> {
        let view = store.view();
        let counters = match view.get(Keyspace::System, rows::COUNTERS)? {
            Some(row) => Counters::from_row(&decode_row(Keyspace::System, rows::COUNTERS, row)?),
            None => return Err(bad_row(Keyspace::System, rows::COUNTERS)),
        };
        let applied = match view.get(Keyspace::Raft, rows::APPLIED)? {
            Some(row) => Applied::from_row(decode_row(Keyspace::Raft, rows::APPLIED, row)?),
            None => return Err(bad_row(Keyspace::Raft, rows::APPLIED)),
        };
        let index = Arc::new(RwLock::new(load_index(&view, counters.revision)?));
        let mut leases = load_leases(&view)?;
        attach_keys(&index, &mut leases, counters.revision);
        let leases = Arc::new(RwLock::new(leases));
        let key_table = Arc::new(load_key_table(&view)?);
        let (members, alarms, plugins, auth) = (
            Arc::new(load_members(&view)?),
            Arc::new(load_alarms(&view)?),
            Arc::new(load_plugins(&view)?),
            Arc::new(load_auth(&view)?),
        );
        let downgrade = load_downgrade(&view)?;
        let compacting = CompactMark::new(counters.compact_revision);
        let first = ReadView {
            revision: counters.revision,
            compact_revision: counters.compact_revision,
            applied_index: applied.last.map_or(0, |last| last.index),
            applied_term: applied.last.map_or(0, |last| last.term),
            clock_ms: counters.clock_ms,
            store: view,
            index: index.clone(),
            leases: leases.clone(),
            key_table: key_table.clone(),
            members: members.clone(),
            plugins: plugins.clone(),
            alarms: alarms.clone(),
            downgrade: downgrade.clone(),
            auth: auth.clone(),
            stored_bytes: counters.stored_bytes,
            compacting: compacting.clone(),
        };
        Ok(Machine {
            store,
            member,
            index,
            leases,
            key_table,
            members,
            plugins,
            alarms,
            downgrade,
            auth,
            counters,
            applied,
            compacting,
            publisher: Arc::new(ArcSwap::from_pointee(first)),
            poisoned: false,
        })
    }
}

fn load_index(view: &View, revision: i64) -> Result<Index, Poison> {
    let step = (revision / LOADERS).max(1);
    let parts: Result<Vec<Vec<Change>>, Poison> = std::thread::scope(|scope| {
        let loaders: Vec<_> = (0..LOADERS)
            .map(|part| {
                let from = part * step;
                let to = if part == LOADERS - 1 {
                    i64::MAX
                } else {
                    from + step
                };
                scope.spawn(move || changes(view, from, to).collect())
            })
            .collect();
        let parts = loaders
            .into_iter()
            .map(|loader| loader.join().unwrap_or(Err(Poison::Earlier)));
        parts.collect()
    });
    Ok(Index::bulk_load(parts?))
}

/// The changes of `[from, to)`, in order.
fn changes(view: &View, from: i64, to: i64) -> impl Iterator<Item = Result<Change, Poison>> {
    let (from, to) = (
        Revision::new(from, 0).to_bytes(),
        Revision::new(to, 0).to_bytes(),
    );
    view.scan(Keyspace::Meta, &from[..]..&to[..]).map(|row| {
        let (key, row) = row?;
        let at = Revision::from_bytes(&key).ok_or_else(|| bad_row(Keyspace::Meta, &key))?;
        let record = Record::decode(row).map_err(|BadRecord| Poison::Record(at))?;
        Ok(change(at, record))
    })
}

fn change(at: Revision, record: Record) -> Change {
    let Record {
        key,
        created,
        version,
        lease,
        value_bytes,
        ..
    } = record;
    match record.kind {
        Kind::Put => Change::Put {
            key,
            latest: Latest {
                modified: at,
                created,
                version,
                lease,
                value_bytes,
            },
        },
        Kind::Delete => Change::Delete { key, at },
    }
}

fn load_leases(view: &View) -> Result<LeaseTable, Poison> {
    let mut leases = LeaseTable::default();
    for row in view.scan(Keyspace::Lease, ..) {
        let (key, row) = row?;
        let id = rows::lease_id(&key).ok_or_else(|| bad_row(Keyspace::Lease, &key))?;
        leases.insert(
            id,
            Lease::from_row(&decode_row(Keyspace::Lease, &key, row)?),
        );
    }
    Ok(leases)
}

/// A live key's newest record says which lease it hangs on.
fn attach_keys(index: &RwLock<Index>, leases: &mut LeaseTable, revision: i64) {
    let index = index.read();
    let mut resume: Option<Bytes> = None;
    loop {
        let chunk = index.range_chunk(&KeyRange::all(), revision, 4096, resume.as_deref());
        for found in chunk.found {
            let lease = found.latest.map_or(0, |latest| latest.lease);
            leases.attach(lease, &found.key);
        }
        resume = chunk.resume;
        if resume.is_none() {
            return;
        }
    }
}

fn load_key_table(view: &View) -> Result<keys::KeyTable, Poison> {
    match view.get(Keyspace::KeyTable, rows::KEY_TABLE)? {
        None => Ok(keys::KeyTable::new()),
        Some(row) => {
            keys::KeyTable::decode(&row).map_err(|_| bad_row(Keyspace::KeyTable, rows::KEY_TABLE))
        }
    }
}

fn load_members(view: &View) -> Result<Members, Poison> {
    let mut members = Members::default();
    for row in prefixed(view, Keyspace::System, rows::MEMBER) {
        let (key, row) = row?;
        let id = rows::number(&key, rows::MEMBER).ok_or_else(|| bad_row(Keyspace::System, &key))?;
        let row: wire::MemberRow = decode_row(Keyspace::System, &key, row)?;
        let attributes = MemberAttributes::from_row(row);
        members.publish(
            id,
            attributes.ok_or_else(|| bad_row(Keyspace::System, &key))?,
        );
    }
    for row in prefixed(view, Keyspace::System, rows::REMOVED) {
        let (key, _) = row?;
        let id = rows::number(&key, rows::REMOVED);
        members.remove(id.ok_or_else(|| bad_row(Keyspace::System, &key))?);
    }
    Ok(members)
}

fn load_alarms(view: &View) -> Result<Alarms, Poison> {
    let mut alarms = Alarms::default();
    for row in prefixed(view, Keyspace::System, rows::ALARM) {
        let (key, _) = row?;
        let (kind, member) = alarm(&key).ok_or_else(|| bad_row(Keyspace::System, &key))?;
        alarms.raise(kind, member);
    }
    Ok(alarms)
}

fn alarm(key: &[u8]) -> Option<(AlarmKind, u64)> {
    let (kind, member) = key.strip_prefix(rows::ALARM)?.split_first_chunk()?;
    let kind = AlarmKind::from_number(u32::from_be_bytes(*kind))?;
    Some((kind, u64::from_be_bytes(member.try_into().ok()?)))
}

fn load_downgrade(view: &View) -> Result<Option<Arc<str>>, Poison> {
    let Some(row) = view.get(Keyspace::System, rows::DOWNGRADE)? else {
        return Ok(None);
    };
    let row: wire::Downgrade = decode_row(Keyspace::System, rows::DOWNGRADE, row)?;
    Ok(row.enabled.then(|| row.target_version.into()))
}

fn load_plugins(view: &View) -> Result<PluginTable, Poison> {
    let mut plugins = PluginTable::default();
    for row in prefixed(view, Keyspace::Plugin, rows::PLUGIN) {
        let (key, row) = row?;
        let row: wire::PluginRow = decode_row(Keyspace::Plugin, &key, row)?;
        plugins.insert(Plugin::from_row(row).map_err(|_| bad_row(Keyspace::Plugin, &key))?);
    }
    Ok(plugins)
}

/// Roles first: what users are granted follows from them.
fn load_auth(view: &View) -> Result<AuthTable, Poison> {
    let mut table = match view.get(Keyspace::System, rows::AUTH)? {
        None => AuthTable::default(),
        Some(row) => AuthTable::from_row(&decode_row(Keyspace::System, rows::AUTH, row)?),
    };
    for row in prefixed(view, Keyspace::System, rows::ROLE) {
        let (key, row) = row?;
        let (name, role) = Role::from_row(decode_row(Keyspace::System, &key, row)?);
        table.put_role(&name, role);
    }
    for row in prefixed(view, Keyspace::System, rows::USER) {
        let (key, row) = row?;
        let (name, user) = User::from_row(decode_row(Keyspace::System, &key, row)?);
        table.put_user(&name, user);
    }
    Ok(table)
}

fn prefixed(view: &View, keyspace: Keyspace, prefix: &'static [u8]) -> crate::storage::Scan {
    let range = KeyRange::prefix(Bytes::from_static(prefix));
    view.scan(keyspace, range.bounds())
}
