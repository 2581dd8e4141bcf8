//! Commands about members, alarms and the cluster's version.

use bytes::Bytes;
use proto::sealkv::replicated as wire;

use super::{BadBody, Wire};

/// What a member says of itself once it has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishMember {
    pub id: u64,
    pub name: String,
    pub client_urls: Vec<String>,
    pub directory_id: [u8; 16],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlarmKind {
    NoSpace,
    Corrupt,
}

impl AlarmKind {
    /// etcd's number.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            AlarmKind::NoSpace => 1,
            AlarmKind::Corrupt => 2,
        }
    }

    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(AlarmKind::NoSpace),
            2 => Some(AlarmKind::Corrupt),
            _ => None,
        }
    }
}

/// Raises an alarm of a member, or takes it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeAlarm {
    pub activate: bool,
    pub member: u64,
    pub kind: AlarmKind,
}

/// Says that the cluster is to go back to an older release of etcd, or takes that back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeDowngrade {
    pub target: Option<String>,
}

impl Wire for ChangeDowngrade {
    type Message = wire::Downgrade;
    fn to_wire(&self) -> wire::Downgrade {
        wire::Downgrade {
            enabled: self.target.is_some(),
            target_version: self.target.clone().unwrap_or_default(),
        }
    }
    fn from_wire(message: wire::Downgrade) -> Result<Self, BadBody> {
        Ok(ChangeDowngrade {
            target: message.enabled.then_some(message.target_version),
        })
    }
}

impl Wire for PublishMember {
    type Message = wire::PublishMember;
    fn to_wire(&self) -> wire::PublishMember {
        wire::PublishMember {
            id: self.id,
            name: self.name.clone(),
            client_urls: self.client_urls.clone(),
            directory_id: Bytes::copy_from_slice(&self.directory_id),
        }
    }
    fn from_wire(message: wire::PublishMember) -> Result<Self, BadBody> {
        Ok(PublishMember {
            id: message.id,
            name: message.name,
            client_urls: message.client_urls,
            directory_id: message
                .directory_id
                .as_ref()
                .try_into()
                .map_err(|_| BadBody)?,
        })
    }
}

impl Wire for ChangeAlarm {
    type Message = wire::Alarm;
    fn to_wire(&self) -> wire::Alarm {
        wire::Alarm {
            activate: self.activate,
            member_id: self.member,
            alarm: self.kind.number(),
        }
    }
    fn from_wire(message: wire::Alarm) -> Result<Self, BadBody> {
        let kind = AlarmKind::from_number(message.alarm).ok_or(BadBody)?;
        Ok(ChangeAlarm {
            activate: message.activate,
            member: message.member_id,
            kind,
        })
    }
}
