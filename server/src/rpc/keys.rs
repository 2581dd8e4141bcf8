//! sealkv's Keys service: which prefix keys there are, new ones, new versions.
//!
//! Promise: answers name ids, prefixes and times, or what every backup says of how it is opened; no
//! secret leaves here.

use keys::{KeyTable, PrefixKey};
use proto::sealkv::v1 as pb;
use proto::sealkv::v1::keys_server::Keys;
use tonic::{Request, Response, Status};

use super::gate::AtLearner;
use super::parse::BadRequest;
use super::{Edge, header};
use crate::replica::{AddPrefixKey, RotatePrefixKey};
use crate::seal::SealerError;

#[tonic::async_trait]
impl Keys for Edge {
    async fn list(
        &self,
        request: Request<pb::KeysListRequest>,
    ) -> Result<Response<pb::KeysListResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        self.permit(&who, request.into_inner())?;
        self.read_point(false).await?;
        let view = self.replica.view();
        let table = &view.key_table;
        let mut prefix_keys: Vec<&PrefixKey> = table.prefix_keys().collect();
        prefix_keys.sort_unstable_by(|a, b| a.prefix.cmp(&b.prefix));
        let keyring_id = table.keyring_id().map(|id| id.as_bytes().to_vec());
        Ok(Response::new(pb::KeysListResponse {
            header: header::full(&*self.replica, view.revision),
            keyring_id: keyring_id.unwrap_or_default().into(),
            root_version: table.root_version().unwrap_or_default(),
            keys: prefix_keys.into_iter().map(prefix_key).collect(),
            slots: table.slots().map(slot).collect(),
        }))
    }

    async fn add(
        &self,
        request: Request<pb::KeysAddRequest>,
    ) -> Result<Response<pb::KeysAddResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let prefix = request.into_inner().prefix;
        if prefix.is_empty() {
            return Err(BadRequest::EmptyPrefix.into());
        }
        let add = self.permit(
            &who,
            AddPrefixKey {
                prefix: prefix.clone(),
            },
        )?;
        let view = self.key_admin.add_prefix(add).await?;
        let header = header::full(&*self.replica, view.revision);
        let key = find(&view.key_table, &prefix);
        Ok(Response::new(pb::KeysAddResponse { header, key }))
    }

    async fn rotate(
        &self,
        request: Request<pb::KeysRotateRequest>,
    ) -> Result<Response<pb::KeysRotateResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        let prefix = request.into_inner().prefix;
        let rotate = self.permit(
            &who,
            RotatePrefixKey {
                prefix: prefix.clone(),
            },
        )?;
        let view = self.key_admin.rotate_prefix(rotate).await?;
        let header = header::full(&*self.replica, view.revision);
        let key = find(&view.key_table, &prefix);
        Ok(Response::new(pb::KeysRotateResponse { header, key }))
    }

    async fn envelope(
        &self,
        request: Request<pb::KeysEnvelopeRequest>,
    ) -> Result<Response<pb::KeysEnvelopeResponse>, Status> {
        let who = self.admit(&request, AtLearner::Refused)?;
        self.permit(&who, request.into_inner())?;
        self.read_point(false).await?;
        let view = self.replica.view();
        let sealed = self.key_admin.seal_backup(&view);
        let (_, envelope) = sealed.ok_or(SealerError::RootNotOpen)?;
        Ok(Response::new(pb::KeysEnvelopeResponse {
            header: header::full(&*self.replica, view.revision),
            envelope: envelope.encode().into(),
        }))
    }
}

fn find(table: &KeyTable, prefix: &[u8]) -> Option<pb::PrefixKey> {
    table.prefix_key_of(prefix).map(prefix_key)
}

fn prefix_key(key: &PrefixKey) -> pb::PrefixKey {
    let current = key.current().map(|version| version.version);
    let versions = key.versions().map(|version| pb::DekVersion {
        version: version.version,
        current: current == Some(version.version),
        created_ms: version.created_ms,
    });
    let prefix = key.prefix.clone().into();
    pb::PrefixKey {
        id: key.id,
        prefix,
        versions: versions.collect(),
    }
}

fn slot(slot: &keys::Slot) -> pb::Slot {
    pb::Slot {
        id: slot.id,
        member_id: slot.member_id,
        provider: slot.provider.as_str().to_owned(),
        public_key: slot.public_key.as_bytes().to_vec().into(),
        proven: slot.proven,
    }
}
