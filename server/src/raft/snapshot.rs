//! Snapshots: a pinned view on its way out, a staged directory on its way in.
//!
//! Promise: neither side holds more than a few chunks of the state in memory; what arrives is
//! checked to its last chunk and synced in a directory of its own before anything is replaced.

use std::sync::Arc;

use futures::Stream;
use openraft::async_runtime::AsyncRuntime;
use proto::sealkv::peer as pb;
use tokio::sync::mpsc;

use super::executor;
use super::types::Runtime;
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

/// The messages of one transfer. The state is read aside from the connection, as fast as that
/// takes it.
pub(super) fn parts(
    head: pb::SnapshotHead,
    content: SnapshotContent,
) -> impl Stream<Item = pb::SnapshotPart> + Send + 'static {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    Runtime::spawn(async move {
        let SnapshotContent::View(view) = content else {
            return;
        };
        if let Err(error) = send(head, &view, &sender).await {
            // Without the closing message the receiver refuses what it has.
            tracing::warn!(%error, "a snapshot cannot be read to its end");
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

/// Ends early, and well, when nobody listens any more.
async fn send(
    head: pb::SnapshotHead,
    view: &ReadView,
    to: &mpsc::Sender<pb::SnapshotPart>,
) -> std::io::Result<()> {
    use pb::snapshot_part::Part;
    let part = |part| pb::SnapshotPart { part: Some(part) };
    if to.send(part(Part::Head(head))).await.is_err() {
        return Ok(());
    }
    let mut chunks = export(view);
    let mut chunks_total = 0;
    loop {
        let read = move || {
            let chunk = chunks.next();
            (chunks, chunk)
        };
        let (rest, chunk) = executor::blocking(read).await?;
        chunks = rest;
        let Some(chunk) = chunk else { break };
        let chunk = chunk.map_err(std::io::Error::other)?;
        if to.send(part(Part::Chunk(chunk))).await.is_err() {
            return Ok(());
        }
        chunks_total += 1;
    }
    // Whoever has gone away misses nothing.
    let _ = to.send(part(Part::ChunksTotal(chunks_total))).await;
    Ok(())
}
