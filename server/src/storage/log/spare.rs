//! The next segment, zeroed ahead of need.
//!
//! Promise: a segment is handed out only when every byte of it is a durable zero. Zeroing goes
//! along with writing, a little after each batch, so filling a segment seldom waits for it. It is
//! always a new file: purged segments are removed, so no old bytes are ever under a new name.

use std::sync::Arc;

use super::disk::{LogDisk, LogFile};
use super::error::{DiskOperation, LogError};
use super::segment::{self, SPARE};

const CHUNK_BYTES: usize = 256 * 1024;
/// So that one sync never has a whole segment to write.
const SYNC_EVERY_BYTES: u64 = 4 * 1024 * 1024;

pub(super) struct Spare {
    file: Arc<dyn LogFile>,
    segment_bytes: u64,
    zeroed: u64,
    synced: u64,
}

impl Spare {
    pub(super) fn create(disk: &dyn LogDisk, segment_bytes: u64) -> Result<Self, LogError> {
        let file = disk
            .create(SPARE)
            .map_err(DiskOperation::Create.failed(SPARE))?;
        Ok(Self {
            file,
            segment_bytes,
            zeroed: 0,
            synced: 0,
        })
    }

    /// How long the segment will be.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Zeroes at least `bytes` more, if that many are left.
    pub(super) fn advance(&mut self, bytes: u64) -> Result<(), LogError> {
        let goal = self.segment_bytes.min(self.zeroed.saturating_add(bytes));
        while self.zeroed < goal {
            let chunk = CHUNK_BYTES.min(usize::try_from(goal - self.zeroed).unwrap_or(CHUNK_BYTES));
            self.file
                .write_all_at(self.zeroed, &vec![0; chunk])
                .map_err(DiskOperation::Write.failed(SPARE))?;
            self.zeroed += chunk as u64;
        }
        let due = self.zeroed == self.segment_bytes && self.synced < self.zeroed;
        if due || self.zeroed - self.synced >= SYNC_EVERY_BYTES {
            self.file
                .sync_data()
                .map_err(DiskOperation::Sync.failed(SPARE))?;
            self.synced = self.zeroed;
        }
        Ok(())
    }

    /// Finishes the zeroing and gives the file its name as a segment, durably.
    pub(super) fn become_segment(
        mut self,
        disk: &dyn LogDisk,
        new: u64,
    ) -> Result<Arc<dyn LogFile>, LogError> {
        self.advance(self.segment_bytes)?;
        disk.rename(SPARE, &segment::name(new))
            .map_err(DiskOperation::Rename.failed(SPARE))?;
        segment::sync_names(disk)?;
        Ok(self.file)
    }
}
