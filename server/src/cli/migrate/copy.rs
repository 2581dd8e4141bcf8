//! The keys of the source as they were at one revision, made those of the target.
//!
//! Promise: afterwards the target has exactly these keys, whatever it had before: what is the same
//! is left alone, what is other is written, what is too much is deleted. It goes on where it was
//! broken off.
//! Not known here: what has changed since that revision.

use std::cmp::Ordering;

use super::batch::{Batch, Write};
use super::pages::Pages;
use super::state::Phase;
use super::{MigrateError, Migration};

impl Migration {
    pub(super) async fn copy(&mut self) -> Result<i64, MigrateError> {
        let (revision, next) = match self.kept.state.phase.clone() {
            Phase::Copying { revision, next } => (revision, next),
            Phase::Following { revision } => return Ok(revision),
        };
        let mut source = Pages::read(&self.source, &self.scope, next.clone(), revision);
        let mut target = Pages::read(&self.target, &self.scope, next, 0);
        let mut batch = Batch::default();
        loop {
            let order = match (source.peek().await?, target.peek().await?) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(ours), Some(theirs)) => ours.key.cmp(&theirs.key),
            };
            let there = (order != Ordering::Less).then(|| target.pop()).flatten();
            let here = (order != Ordering::Greater).then(|| source.pop()).flatten();
            let write = match (here, there) {
                (Some(row), Some(found))
                    if row.value == found.value && row.lease == found.lease =>
                {
                    self.progress.copied(&row);
                    continue;
                }
                (Some(row), _) => {
                    self.progress.copied(&row);
                    self.with_its_lease(Write::put(row)).await?
                }
                (None, Some(found)) => Write::Delete { key: found.key },
                (None, None) => continue,
            };
            if !batch.has_room(std::slice::from_ref(&write)) {
                let next = write.key().clone();
                let phase = Phase::Copying { revision, next };
                self.kept.commit(&self.target, batch.take(), phase).await?;
            }
            batch.add(write);
        }
        let phase = Phase::Following { revision };
        self.kept.commit(&self.target, batch.take(), phase).await?;
        Ok(revision)
    }

    /// A key whose lease has ended in the source is about to go there: it goes here at once.
    pub(super) async fn with_its_lease(&self, write: Write) -> Result<Write, MigrateError> {
        match write {
            Write::Put { key, lease, .. } if lease != 0 && !self.leases.ensure(lease).await? => {
                Ok(Write::Delete { key })
            }
            write => Ok(write),
        }
    }

    /// Where both sides differ as of these revisions, and what each of them hashes to.
    pub(super) async fn compare(&self, source: i64, target: i64) -> Result<Compared, MigrateError> {
        let mut here = Pages::read(&self.source, &self.scope, self.scope.key.clone(), source);
        let mut there = Pages::read(&self.target, &self.scope, self.scope.key.clone(), target);
        let mut compared = Compared::default();
        loop {
            let order = match (here.peek().await?, there.peek().await?) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(ours), Some(theirs)) => ours.key.cmp(&theirs.key),
            };
            let ours = (order != Ordering::Greater).then(|| here.pop()).flatten();
            let theirs = (order != Ordering::Less).then(|| there.pop()).flatten();
            compared.see(ours.as_ref(), theirs.as_ref());
        }
        Ok(compared)
    }
}

/// What was found when both sides were read.
#[derive(Default)]
pub(super) struct Compared {
    source: sha2::Sha256,
    target: sha2::Sha256,
    pub(super) keys: u64,
    pub(super) differing: u64,
    /// The first of them.
    pub(super) examples: Vec<bytes::Bytes>,
}

const EXAMPLES_MAX: usize = 10;

impl Compared {
    fn see(
        &mut self,
        ours: Option<&proto::mvccpb::KeyValue>,
        theirs: Option<&proto::mvccpb::KeyValue>,
    ) {
        if let Some(row) = ours {
            absorb(&mut self.source, row);
            self.keys += 1;
        }
        if let Some(row) = theirs {
            absorb(&mut self.target, row);
        }
        let essence = |row: &proto::mvccpb::KeyValue| (row.value.clone(), row.lease);
        if ours.map(essence) != theirs.map(essence) {
            self.differing += 1;
            let key = ours.or(theirs).map(|row| row.key.clone());
            if self.examples.len() < EXAMPLES_MAX {
                self.examples.extend(key);
            }
        }
    }

    /// Of the source's plaintext and of the target's.
    pub(super) fn hashes(self) -> (String, String) {
        use sha2::Digest as _;
        let hex = |hash: sha2::Sha256| hex::encode(hash.finalize());
        (hex(self.source), hex(self.target))
    }

    pub(super) fn is_same(&self) -> bool {
        self.differing == 0
    }
}

/// Lengths first, so that no two sets of keys are the same bytes.
fn absorb(hash: &mut sha2::Sha256, row: &proto::mvccpb::KeyValue) {
    use sha2::Digest as _;
    for part in [&row.key, &row.value] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(row.lease.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::mvccpb::KeyValue;

    fn row(key: &'static str, value: &'static str, lease: i64) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: value.into(),
            lease,
            ..Default::default()
        }
    }

    #[test]
    fn what_differs_is_counted_named_and_hashed() {
        let mut compared = Compared::default();
        // Revisions and versions are each cluster's own.
        let mut moved = row("a", "1", 7);
        moved.mod_revision = 99;
        compared.see(Some(&row("a", "1", 7)), Some(&moved));
        assert!(compared.is_same());
        compared.see(Some(&row("b", "1", 0)), Some(&row("b", "2", 0)));
        compared.see(Some(&row("c", "1", 0)), Some(&row("c", "1", 8)));
        compared.see(None, Some(&row("d", "", 0)));
        assert_eq!(compared.differing, 3);
        assert_eq!(compared.examples, ["b", "c", "d"]);
        let (ours, theirs) = compared.hashes();
        assert_ne!(ours, theirs);
    }
}
