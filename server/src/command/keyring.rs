//! A change of the key table. Its secrets were minted and wrapped by the leader; its bytes and
//! its rules are the keys crate's.

use bytes::Bytes;
use proto::sealkv::replicated as wire;

use super::{BadBody, Wire};

#[derive(Clone, Debug, PartialEq)]
pub struct ChangeKeys(pub keys::KeyChange);

impl Wire for ChangeKeys {
    type Message = wire::KeyChange;
    fn to_wire(&self) -> wire::KeyChange {
        wire::KeyChange {
            change: Bytes::from(self.0.encode()),
        }
    }
    fn from_wire(message: wire::KeyChange) -> Result<Self, BadBody> {
        keys::KeyChange::decode(&message.change)
            .map(ChangeKeys)
            .map_err(|_| BadBody)
    }
}
