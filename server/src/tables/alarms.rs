//! Alarms that some member raised and nobody has taken back.

use std::collections::BTreeSet;

use crate::command::AlarmKind;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    raised: BTreeSet<(AlarmKind, u64)>,
}

impl Alarms {
    /// Whether any member has raised it.
    #[must_use]
    pub fn is_raised(&self, kind: AlarmKind) -> bool {
        self.raised
            .range((kind, 0)..=(kind, u64::MAX))
            .next()
            .is_some()
    }

    /// By kind, then member.
    pub fn iter(&self) -> impl Iterator<Item = (AlarmKind, u64)> {
        self.raised.iter().copied()
    }

    pub(crate) fn raise(&mut self, kind: AlarmKind, member: u64) {
        self.raised.insert((kind, member));
    }

    /// Whether it was raised.
    pub(crate) fn take_back(&mut self, kind: AlarmKind, member: u64) -> bool {
        self.raised.remove(&(kind, member))
    }
}
