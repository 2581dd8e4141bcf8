//! Reading a range at a revision.
//!
//! Promise: the rows, the count and `more` of one answer belong to one revision; a compaction that
//! overtakes the read is noticed after its last row, so a row is never silently missing.
//! The index is asked in chunks, so that no reader holds it for long.
//! Not known here: values. A sort by VALUE is finished by whoever can open them.

use std::cmp::Ordering;

use bytes::Bytes;
use parking_lot::RwLock;

use super::index::{Found, Index};
use super::key_range::KeyRange;
use super::read_view::ReadView;
use super::record::{BadRecord, Record};
use super::revision::Revision;
use crate::command::RecordRef;
use crate::storage::{Keyspace, StorageError, View};

/// Keys that are taken from the index under one lock.
const CHUNK_KEYS: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SortOrder {
    #[default]
    None,
    Ascend,
    Descend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SortTarget {
    #[default]
    Key,
    Version,
    Created,
    Modified,
    Value,
}

/// Bounds on revisions; 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RangeFilter {
    pub min_mod_revision: i64,
    pub max_mod_revision: i64,
    pub min_create_revision: i64,
    pub max_create_revision: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RangeQuery {
    pub range: KeyRange,
    /// 0 or less for all.
    pub limit: i64,
    /// 0 or less for the newest.
    pub revision: i64,
    pub sort_order: SortOrder,
    pub sort_target: SortTarget,
    pub keys_only: bool,
    pub count_only: bool,
    pub filter: RangeFilter,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct RangeRows {
    pub rows: Vec<RecordRef>,
    /// Keys of the range at that revision, whatever limit and filter say.
    pub count: u64,
    pub more: bool,
    /// The store's when the rows were read; never the one that was asked for.
    pub revision: i64,
    /// The rows are all there, in key order: `sort_by_value` finishes them.
    pub needs_value_sort: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the revision has been compacted")]
    Compacted,
    #[error("the revision is a future one")]
    FutureRevision,
    /// The newest revision was asked for and compacted meanwhile: take a newer view.
    #[error("the view has been compacted")]
    ViewTooOld,
    /// A record that must be there is not, or is none: this member's data is damaged.
    #[error("revision {0} is missing or damaged")]
    Corrupt(Revision),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl SortOrder {
    /// etcd's number.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            SortOrder::None => 0,
            SortOrder::Ascend => 1,
            SortOrder::Descend => 2,
        }
    }

    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        [SortOrder::None, SortOrder::Ascend, SortOrder::Descend]
            .into_iter()
            .find(|it| it.number() == number)
    }
}

impl SortTarget {
    /// etcd's number.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            SortTarget::Key => 0,
            SortTarget::Version => 1,
            SortTarget::Created => 2,
            SortTarget::Modified => 3,
            SortTarget::Value => 4,
        }
    }

    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        use SortTarget::{Created, Key, Modified, Value, Version};
        [Key, Version, Created, Modified, Value]
            .into_iter()
            .find(|it| it.number() == number)
    }
}

impl RangeFilter {
    fn is_none(&self) -> bool {
        *self == RangeFilter::default()
    }

    fn keeps(&self, row: &RecordRef) -> bool {
        let within = |revision, min, max| revision >= min && (max == 0 || revision <= max);
        // etcd takes a minimum of 0 as none, and so do all revisions.
        within(row.at.main, self.min_mod_revision, self.max_mod_revision)
            && within(
                row.created,
                self.min_create_revision,
                self.max_create_revision,
            )
    }
}

impl RangeQuery {
    /// Every key of the range at the newest revision, in key order.
    #[must_use]
    pub fn all(range: KeyRange) -> Self {
        RangeQuery {
            range,
            limit: 0,
            revision: 0,
            sort_order: SortOrder::None,
            sort_target: SortTarget::Key,
            keys_only: false,
            count_only: false,
            filter: RangeFilter::default(),
        }
    }

    fn limit(&self) -> Option<usize> {
        usize::try_from(self.limit).ok().filter(|&limit| limit > 0)
    }

    /// A target other than KEY is sorted by, even if no order was asked for.
    fn order(&self) -> SortOrder {
        match self.sort_order {
            SortOrder::None if self.sort_target != SortTarget::Key => SortOrder::Ascend,
            order => order,
        }
    }

    fn is_in_key_order(&self) -> bool {
        self.sort_target == SortTarget::Key && self.order() != SortOrder::Descend
    }
}

/// Where meta rows are read: a view, or an open batch over one.
pub(crate) trait MetaRows {
    fn meta_row(&self, at: Revision) -> Result<Option<Bytes>, StorageError>;
}

impl MetaRows for View {
    fn meta_row(&self, at: Revision) -> Result<Option<Bytes>, StorageError> {
        self.get(Keyspace::Meta, &at.to_bytes())
    }
}

/// Reads a range, as a client asks for it.
pub fn range(view: &ReadView, query: &RangeQuery) -> Result<RangeRows, ReadError> {
    let at = read_revision(query.revision, view.revision, view.compact_revision)?;
    let rows = select(&view.index, &view.store, query, at, view.revision);
    // Rows that a compaction took away look missing or make rows fail: it is asked first.
    if at < view.compact_revision_now() {
        return Err(if query.revision > 0 {
            ReadError::Compacted
        } else {
            ReadError::ViewTooOld
        });
    }
    rows
}

/// One key at a revision, 0 for the newest; none if it does not live then.
pub fn get(view: &ReadView, key: &[u8], revision: i64) -> Result<Option<RecordRef>, ReadError> {
    let at = read_revision(revision, view.revision, view.compact_revision)?;
    let found = view.index.read().get(key, at);
    let row = found.map(|found| resolve(found, &view.store)).transpose();
    if at < view.compact_revision_now() {
        return Err(if revision > 0 {
            ReadError::Compacted
        } else {
            ReadError::ViewTooOld
        });
    }
    row
}

/// How many keys live in the range now.
pub fn count(view: &ReadView, range: &KeyRange) -> u64 {
    view.index.read().count(range, view.revision)
}

/// Finishes a sort by VALUE: `values` are the opened ones, in the order of the rows.
pub fn sort_by_value<V: AsRef<[u8]>>(
    rows: &mut RangeRows,
    query: &RangeQuery,
    values: &mut Vec<V>,
) {
    let mut paired: Vec<(RecordRef, V)> = std::mem::take(&mut rows.rows)
        .into_iter()
        .zip(values.drain(..))
        .collect();
    paired.sort_by(|(_, a), (_, b)| directed(query.order(), a.as_ref().cmp(b.as_ref())));
    truncate(&mut paired, query.limit(), &mut rows.more);
    (rows.rows, *values) = paired.into_iter().unzip();
    rows.needs_value_sort = false;
}

/// The revision to read at. Reading exactly at the compact revision is allowed.
pub(crate) fn read_revision(asked: i64, current: i64, compact: i64) -> Result<i64, ReadError> {
    if asked > current {
        return Err(ReadError::FutureRevision);
    }
    let at = if asked <= 0 { current } else { asked };
    if at < compact {
        return Err(ReadError::Compacted);
    }
    Ok(at)
}

/// The rows of a query at a revision that was checked; `revision` goes into the answer.
pub(crate) fn select(
    index: &RwLock<Index>,
    metas: &impl MetaRows,
    query: &RangeQuery,
    at: i64,
    revision: i64,
) -> Result<RangeRows, ReadError> {
    let mut answer = RangeRows {
        revision,
        ..RangeRows::default()
    };
    if query.count_only {
        answer.count = index.read().count(&query.range, at);
        return Ok(answer);
    }
    // A quirk of etcd: without an order the limit comes first, by key, whatever the target.
    let ordered = query.sort_order != SortOrder::None && !query.is_in_key_order();
    let whole = ordered || !query.filter.is_none();
    let wanted = if whole {
        None
    } else {
        query.limit().map(|limit| limit.saturating_add(1))
    };
    answer.rows = rows_in_key_order(index, metas, &query.range, at, wanted)?;
    answer.count = match wanted {
        Some(wanted) if answer.rows.len() >= wanted => index.read().count(&query.range, at),
        _ => answer.rows.len() as u64,
    };
    answer.rows.retain(|row| query.filter.keeps(row));
    if query.sort_target == SortTarget::Value {
        answer.needs_value_sort = true;
        return Ok(answer);
    }
    if !query.is_in_key_order() {
        answer
            .rows
            .sort_by(|a, b| directed(query.order(), by_target(query.sort_target, a, b)));
    }
    truncate(&mut answer.rows, query.limit(), &mut answer.more);
    Ok(answer)
}

fn truncate<T>(rows: &mut Vec<T>, limit: Option<usize>, more: &mut bool) {
    if let Some(limit) = limit
        && rows.len() > limit
    {
        rows.truncate(limit);
        *more = true;
    }
}

fn by_target(target: SortTarget, a: &RecordRef, b: &RecordRef) -> Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Created => a.created.cmp(&b.created),
        SortTarget::Modified => a.at.main.cmp(&b.at.main),
        SortTarget::Value => Ordering::Equal,
    }
}

fn directed(order: SortOrder, ordering: Ordering) -> Ordering {
    if order == SortOrder::Descend {
        ordering.reverse()
    } else {
        ordering
    }
}

/// At most `wanted` live keys of the range at a revision.
pub(crate) fn rows_in_key_order(
    index: &RwLock<Index>,
    metas: &impl MetaRows,
    range: &KeyRange,
    at: i64,
    wanted: Option<usize>,
) -> Result<Vec<RecordRef>, ReadError> {
    if let Some(key) = range.as_single() {
        let found = index.read().get(key, at);
        return found
            .map(|found| resolve(found, metas))
            .into_iter()
            .collect();
    }
    let mut rows = Vec::new();
    let mut from: Option<Bytes> = None;
    loop {
        let room = wanted.map_or(usize::MAX, |wanted| wanted - rows.len());
        let chunk = index
            .read()
            .range_chunk(range, at, CHUNK_KEYS.min(room), from.as_deref());
        for found in chunk.found {
            rows.push(resolve(found, metas)?);
        }
        from = chunk.resume;
        if from.is_none() || wanted.is_some_and(|wanted| rows.len() >= wanted) {
            return Ok(rows);
        }
    }
}

/// The newest revision of a key stands in the index; an older one is in its meta row.
pub(crate) fn resolve(found: Found, metas: &impl MetaRows) -> Result<RecordRef, ReadError> {
    let at = found.modified;
    if let Some(latest) = found.latest {
        return Ok(RecordRef {
            key: found.key,
            at,
            created: latest.created,
            version: latest.version,
            lease: latest.lease,
            value_bytes: latest.value_bytes,
        });
    }
    let record = record_at(metas, at)?;
    Ok(RecordRef {
        key: found.key,
        at,
        created: record.created,
        version: record.version,
        lease: record.lease,
        value_bytes: record.value_bytes,
    })
}

/// A record that must be there.
pub(crate) fn record_at(metas: &impl MetaRows, at: Revision) -> Result<Record, ReadError> {
    let row = metas.meta_row(at)?.ok_or(ReadError::Corrupt(at))?;
    Record::decode(row).map_err(|BadRecord| ReadError::Corrupt(at))
}
