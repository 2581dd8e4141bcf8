//! Snapshot: a backup of this member's state, streamed as etcd streams its database.
//!
//! Promise: one revision, whatever is written meanwhile; blobs of 32 KiB, the rest that remains,
//! and the SHA-256 of all of it at the end. A slow client holds a few blobs and a view, no thread.
//! Not known here: the bytes of a backup.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use keys::{BackupEnvelope, BackupKey};
use proto::etcdserverpb as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::super::Edge;
use super::downgrade::cluster_version;
use crate::backup::{BackupWriter, Header, measure};
use crate::mvcc::read_view::ReadView;
use crate::seal::SealerError;
use crate::storage::StorageError;
use crate::storage::layout::FORMAT;

/// etcd's.
const BLOB_BYTES: usize = 32 * 1024;
/// Sent but not taken yet.
const BLOBS_AHEAD: usize = 16;

type Blobs = mpsc::Sender<Result<pb::SnapshotResponse, Status>>;

impl Edge {
    pub(super) fn backup(
        &self,
    ) -> Result<impl Stream<Item = Result<pb::SnapshotResponse, Status>> + use<>, Status> {
        let view = self.replica.view();
        let (key, envelope) = self
            .key_admin
            .seal_backup(&view)
            .ok_or(SealerError::RootNotOpen)?;
        let cluster_id = self.replica.place().cluster_id;
        let (blobs, receiver) = mpsc::channel(BLOBS_AHEAD);
        tokio::spawn(async move {
            if let Err(error) = send(view, cluster_id, key, envelope, &blobs).await {
                tracing::warn!(%error, "failed to send a snapshot");
                // Whoever has gone away misses nothing.
                let _ = blobs.send(Err(Status::unknown(error.to_string()))).await;
            }
        });
        Ok(ReceiverStream::new(receiver))
    }
}

/// A stored row could not be read, or the server stops.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the server is stopping")]
    Stopped,
}

/// Ends early, and well, when nobody listens any more.
async fn send(
    view: Arc<ReadView>,
    cluster_id: u64,
    key: BackupKey,
    envelope: BackupEnvelope,
    blobs: &Blobs,
) -> Result<(), SendError> {
    let measuring = Arc::clone(&view);
    let measured = off_thread(move || measure(&measuring)).await??;
    let header = Header {
        cluster_id,
        member_id: envelope.member_id(),
        envelope,
        revision: view.revision,
        compact_revision: view.compact_revision,
        records: measured.records,
        sections: measured.sections,
        body_bytes: measured.body_bytes,
        data_keys: measured.data_keys,
        storage_version: cluster_version(&view),
        layout: FORMAT,
    };
    let mut writer = BackupWriter::new(&view, &header, key);
    let version = header.storage_version.clone();
    let mut remaining = writer.total_bytes(&header);
    tracing::info!(
        total_bytes = remaining,
        revision = view.revision,
        storage_version = version,
        "sending database snapshot to client"
    );
    let mut blob = |bytes: Bytes| {
        remaining = remaining.saturating_sub(bytes.len() as u64);
        pb::SnapshotResponse {
            header: None,
            remaining_bytes: remaining,
            blob: bytes,
            version: version.clone(),
        }
    };
    let mut waiting = BytesMut::new();
    loop {
        let piece;
        (writer, piece) = off_thread(move || {
            let piece = writer.next();
            (writer, piece)
        })
        .await?;
        let Some(piece) = piece else { break };
        waiting.extend_from_slice(&piece?);
        while waiting.len() >= BLOB_BYTES {
            let full = waiting.split_to(BLOB_BYTES).freeze();
            if blobs.send(Ok(blob(full))).await.is_err() {
                return Ok(());
            }
        }
    }
    if !waiting.is_empty() && blobs.send(Ok(blob(waiting.freeze()))).await.is_err() {
        return Ok(());
    }
    if blobs.send(Ok(blob(writer.sha256()))).await.is_ok() {
        tracing::info!("successfully sent database snapshot to client");
    }
    Ok(())
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SendError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| SendError::Stopped)
}
