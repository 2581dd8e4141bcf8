//! Keys, members, alarms and the cluster's version.

use std::sync::Arc;

use super::{Machine, Stop, Work, rows};
use crate::command::{
    AlarmReply, ChangeAlarm, ChangeDowngrade, ChangeKeys, PublishMember, Refusal, Wire,
};
use crate::storage::Keyspace;
use crate::tables::members::MemberAttributes;

impl Machine {
    /// The rules are the key table's; a refused change leaves it as it was.
    pub(super) fn change_keys(
        &mut self,
        work: &mut Work,
        change: &ChangeKeys,
    ) -> Result<keys::Applied, Stop> {
        let clock_ms = self.counters.clock_ms;
        let table = Arc::make_mut(&mut self.key_table);
        let applied = table.apply(&change.0, clock_ms).map_err(Refusal::Keys)?;
        work.open
            .put(Keyspace::KeyTable, rows::KEY_TABLE, &table.encode());
        work.keys_changed = true;
        Ok(applied)
    }

    /// Whoever was a member and is none any more is removed, for ever.
    pub(super) fn change_members(&mut self, work: &mut Work, ids: &[u64]) {
        for &id in &self.applied.member_ids {
            if ids.contains(&id) {
                continue;
            }
            work.open.delete(Keyspace::System, &rows::member(id));
            work.open.put(Keyspace::System, &rows::removed(id), &[]);
            Arc::make_mut(&mut self.members).remove(id);
        }
        self.applied.member_ids = ids.to_vec();
    }

    /// A member keeps the data directory that it was first published with.
    pub(super) fn publish_member(
        &mut self,
        work: &mut Work,
        member: PublishMember,
    ) -> Result<(), Stop> {
        if self.members.is_removed(member.id) {
            return Err(Refusal::MemberNotFound.into());
        }
        let known = self.members.directory_id(member.id);
        if known.is_some_and(|known| known != member.directory_id) {
            return Err(Refusal::AnotherDirectory.into());
        }
        let attributes = MemberAttributes {
            name: member.name,
            client_urls: member.client_urls,
            directory_id: member.directory_id,
        };
        work.open.put_message(
            Keyspace::System,
            &rows::member(member.id),
            &attributes.to_row(),
        );
        Arc::make_mut(&mut self.members).publish(member.id, attributes);
        Ok(())
    }

    pub(super) fn change_downgrade(&mut self, work: &mut Work, change: ChangeDowngrade) {
        if change.target.is_some() {
            work.open
                .put_message(Keyspace::System, rows::DOWNGRADE, &change.to_wire());
        } else {
            work.open.delete(Keyspace::System, rows::DOWNGRADE);
        }
        self.downgrade = change.target.map(Into::into);
    }

    /// etcd: raising answers the alarm, raised before or not; taking back answers one that was.
    pub(super) fn change_alarm(&mut self, work: &mut Work, change: &ChangeAlarm) -> AlarmReply {
        let ChangeAlarm {
            activate,
            member,
            kind,
        } = *change;
        let row = rows::alarm(kind.number(), member);
        let alarms = Arc::make_mut(&mut self.alarms);
        if activate {
            work.open.put(Keyspace::System, &row, &[]);
            alarms.raise(kind, member);
            return AlarmReply {
                alarms: vec![(kind, member)],
            };
        }
        work.open.delete(Keyspace::System, &row);
        let was_raised = alarms.take_back(kind, member);
        AlarmReply {
            alarms: was_raised.then_some((kind, member)).into_iter().collect(),
        }
    }
}
