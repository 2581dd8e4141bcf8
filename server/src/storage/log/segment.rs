//! The names of segments.

use super::disk::LogDisk;
use super::error::{DiskOperation, LogError};

pub(super) const SPARE: &str = "spare.log";

pub(super) fn name(segment: u64) -> String {
    format!("{segment:016x}.log")
}

fn parse(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    let segment = u64::from_str_radix(digits, 16).ok()?;
    // Only the one spelling that `self::name` writes.
    (self::name(segment) == name).then_some(segment)
}

/// The ids of all segments on the disk, ascending, and whether a spare lies there.
pub(super) fn list(disk: &dyn LogDisk) -> Result<(Vec<u64>, bool), LogError> {
    let names = disk.list().map_err(DiskOperation::List.failed("."))?;
    let mut segments: Vec<u64> = names.iter().filter_map(|name| parse(name)).collect();
    segments.sort_unstable();
    Ok((segments, names.iter().any(|name| name == SPARE)))
}

pub(super) fn sync_names(disk: &dyn LogDisk) -> Result<(), LogError> {
    disk.sync_directory()
        .map_err(DiskOperation::Sync.failed("."))
}

pub(super) fn remove(disk: &dyn LogDisk, name: &str) -> Result<(), LogError> {
    disk.remove(name)
        .map_err(DiskOperation::Remove.failed(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_one_spelling_are_segments() {
        assert_eq!(parse(&name(0x1f)), Some(0x1f));
        for other in [
            "1f.log",
            "000000000000001F.log",
            "spare.log",
            "+00000000000001f.log",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
