//! What changed, as watchers and plugins are told.

use bytes::Bytes;

pub use super::record::{Cause, Kind};
use crate::command::RecordRef;

/// All changes of one revision, in order of their sub-revisions. Never empty, never split.
#[derive(Clone, Debug, PartialEq)]
pub struct RevisionEvents {
    pub revision: i64,
    pub events: Vec<Event>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub kind: Kind,
    /// Of a delete: the key and where it was deleted; the rest is 0.
    pub record: RecordRef,
    /// Sealed; empty of a delete.
    pub value: Bytes,
    /// What was there before; none if nothing was, or if it is compacted.
    pub prev: Option<RecordRef>,
    pub cause: Cause,
    pub hops: u8,
}
