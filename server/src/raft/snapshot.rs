//! Snapshots: a pinned view on its way out, a staged directory on its way in.
//!
//! Promise: neither side holds more than a few chunks of the state in memory; what arrives is
//! checked to its last chunk and synced in a directory of its own before anything is replaced.

use std::sync::Arc;

use futures::Stream;
use proto::sealkv::peer as pb;
use tokio::sync::mpsc;

use crate::apply::snapshot::export;
use crate::mvcc::read_view::ReadView;
use crate::storage::StagedState;

/// What openraft hands around as the data of a snapshot.
pub(super) enum SnapshotContent {
    /// To be sent: everything up to the view's applied index.
    View(Arc<ReadView>),
    /// Received, complete and synced; not yet live.
    Staged(Box<StagedState>),
}

impl std::fmt::Debug for SnapshotContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::View(_) => "view",
            Self::Staged(_) => "staged",
        })
    }
}

/// Chunks read ahead of the connection.
const CHUNKS_AHEAD: usize = 4;

/// The messages of one transfer. The state is read on a thread of its own, as fast as the
/// connection takes it.
pub(super) fn parts(
    head: pb::SnapshotHead,
    content: SnapshotContent,
) -> impl Stream<Item = pb::SnapshotPart> + Send + 'static {
    use pb::snapshot_part::Part;
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    tokio::task::spawn_blocking(move || {
        let part = |part| pb::SnapshotPart { part: Some(part) };
        let SnapshotContent::View(view) = content else {
            return;
        };
        if sender.blocking_send(part(Part::Head(head))).is_err() {
            return;
        }
        let mut chunks_total = 0;
        for chunk in export(&view) {
            match chunk {
                // Without the closing message the receiver refuses what it has.
                Err(error) => {
                    tracing::warn!(%error, "a snapshot cannot be read to its end");
                    return;
                }
                Ok(chunk) => {
                    if sender.blocking_send(part(Part::Chunk(chunk))).is_err() {
                        return;
                    }
                    chunks_total += 1;
                }
            }
        }
        let _ = sender.blocking_send(part(Part::ChunksTotal(chunks_total)));
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}
