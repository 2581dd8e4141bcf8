//! A log file that is set aside when it is full, as etcd's rotation does.
//!
//! ```text
//! etcd.log                            the current one, never larger than `bytes_max`
//! etcd-2026-11-23T14-05-01.000.log    set aside then; `.gz` when compressed
//! ```
//!
//! Promise: a line is never split over two files; what cannot be renamed, compressed or removed
//! is left alone and logging goes on.
//! Not known here: what a line says. Compressing and removing happen on a thread of their own.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use chrono::{DateTime, Local, NaiveDateTime, TimeDelta, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::clock;
use crate::config::LogRotation;

const STAMP: &str = "%Y-%m-%dT%H-%M-%S%.3f";
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

#[derive(Debug)]
pub(super) struct RotatedFile {
    path: PathBuf,
    rotation: LogRotation,
    file: File,
    bytes: u64,
    /// Whoever tidies up; a full inbox means that it is at it.
    tidy: mpsc::SyncSender<()>,
}

impl RotatedFile {
    pub(super) fn open(path: &Path, rotation: LogRotation) -> io::Result<Self> {
        let file = open(path)?;
        let bytes = file.metadata()?.len();
        let (tidy, inbox) = mpsc::sync_channel(1);
        let tidied = path.to_owned();
        std::thread::Builder::new()
            .name("log-rotation".to_owned())
            .spawn(move || {
                while inbox.recv().is_ok() {
                    tidy_up(&tidied, rotation);
                }
            })?;
        Ok(Self {
            path: path.to_owned(),
            rotation,
            file,
            bytes,
            tidy,
        })
    }

    pub(super) fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.bytes > 0 && self.bytes + length > self.rotation.bytes_max {
            self.set_aside();
        }
        self.file.write_all(line)?;
        self.bytes += length;
        Ok(())
    }

    /// Without a new file the old one goes on.
    fn set_aside(&mut self) {
        let Some(away) = free_name(&self.path, self.rotation.local_time) else {
            return;
        };
        if std::fs::rename(&self.path, &away).is_err() {
            return;
        }
        if let Ok(file) = open(&self.path) {
            self.file = file;
            self.bytes = 0;
        }
        let _ = self.tidy.try_send(());
    }
}

/// As lumberjack makes it: for its owner alone.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600).open(path)
}

/// By the time, or by the next millisecond that no file has yet.
fn free_name(path: &Path, local: bool) -> Option<PathBuf> {
    let now = now();
    let mut names = (0..1_000).map(|ms| {
        let at = now + TimeDelta::milliseconds(ms);
        aside(path, &stamp(at, local))
    });
    names.find(|name| !name.exists())
}

fn stamp(at: DateTime<Utc>, local: bool) -> String {
    if local {
        at.with_timezone(&Local).format(STAMP).to_string()
    } else {
        at.format(STAMP).to_string()
    }
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(clock::wall_ms()).unwrap_or_default()
}

/// `dir/name.ext` → (`name-`, `.ext`)
fn around(path: &Path) -> (String, String) {
    let part = |part: Option<&std::ffi::OsStr>| {
        part.map(|text| text.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let extension = match part(path.extension()) {
        extension if extension.is_empty() => extension,
        extension => format!(".{extension}"),
    };
    (format!("{}-", part(path.file_stem())), extension)
}

fn aside(path: &Path, stamp: &str) -> PathBuf {
    let (before, after) = around(path);
    path.with_file_name(format!("{before}{stamp}{after}"))
}

/// A file that was set aside.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Aside {
    at: NaiveDateTime,
    path: PathBuf,
    compressed: bool,
}

/// Newest first. Files with other names are nobody's business.
fn set_aside(path: &Path) -> Vec<Aside> {
    let (before, after) = around(path);
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found: Vec<Aside> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (plain, compressed) = match name.strip_suffix(".gz") {
                Some(plain) => (plain, true),
                None => (name.as_str(), false),
            };
            let stamp = plain.strip_prefix(&before)?.strip_suffix(&after)?;
            let at = NaiveDateTime::parse_from_str(stamp, STAMP).ok()?;
            let path = entry.path();
            Some(Aside {
                at,
                path,
                compressed,
            })
        })
        .collect();
    found.sort();
    found.reverse();
    found
}

/// Removes what is too old or too much, and compresses the rest.
fn tidy_up(path: &Path, rotation: LogRotation) {
    let now = if rotation.local_time {
        now().with_timezone(&Local).naive_local()
    } else {
        now().naive_utc()
    };
    for (position, aside) in set_aside(path).into_iter().enumerate() {
        let too_many = rotation.backups_max.is_some_and(|most| position >= most);
        let age_ms = (now - aside.at).num_milliseconds();
        let too_old = rotation
            .age_days_max
            .is_some_and(|days| age_ms > i64::from(days) * DAY_MS);
        if too_many || too_old {
            let _ = std::fs::remove_file(&aside.path);
        } else if rotation.compress && !aside.compressed {
            let _ = compress(&aside.path);
        }
    }
}

/// The original goes only once the copy is complete.
fn compress(path: &Path) -> io::Result<()> {
    let mut target = path.as_os_str().to_owned();
    target.push(".gz");
    let target = PathBuf::from(target);
    let made = write_compressed(path, &target);
    // Half a copy would pass for a backup.
    let unneeded = if made.is_ok() { path } else { &target };
    let _ = std::fs::remove_file(unneeded);
    made
}

fn write_compressed(from: &Path, to: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(to)?;
    let mut encoder = GzEncoder::new(file, Compression::default());
    io::copy(&mut File::open(from)?, &mut encoder)?;
    encoder.finish()?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    const ROTATION: LogRotation = LogRotation {
        bytes_max: 20,
        age_days_max: None,
        backups_max: None,
        local_time: false,
        compress: false,
    };

    fn write_aside(path: &Path, stamp: &str) {
        std::fs::write(aside(path, stamp), stamp).unwrap();
    }

    #[test]
    fn a_full_file_is_set_aside_and_no_line_is_split() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etcd.log");
        let mut log = RotatedFile::open(&path, ROTATION).unwrap();
        log.write_line(b"0123456789\n").unwrap();
        log.write_line(b"abcdefghi\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"abcdefghi\n");
        let away = set_aside(&path);
        assert_eq!(away.len(), 1);
        assert_eq!(std::fs::read(&away[0].path).unwrap(), b"0123456789\n");
        let long = [b'x'; 50];
        log.write_line(&long).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), long);
        let again = RotatedFile::open(&path, ROTATION).unwrap();
        assert_eq!(again.bytes, 50, "a restart goes on where it ended");
    }

    #[test]
    fn names_are_those_of_etcds_rotation() {
        let made = aside(Path::new("/var/log/etcd.log"), "2016-11-04T18-30-00.000");
        let wanted = Path::new("/var/log/etcd-2016-11-04T18-30-00.000.log");
        assert_eq!(made, wanted);
        assert_eq!(stamp(now(), false).len(), "2016-11-04T18-30-00.000".len());
        assert_eq!(aside(Path::new("log"), "x"), Path::new("log-x"));
    }

    #[test]
    fn the_newest_are_kept_and_the_old_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etcd.log");
        for year in 2001..=2005 {
            write_aside(&path, &format!("{year}-01-01T00-00-00.000"));
        }
        std::fs::write(directory.path().join("etcd-notes.log"), "mine").unwrap();
        let backups_max = Some(2);
        tidy_up(
            &path,
            LogRotation {
                backups_max,
                ..ROTATION
            },
        );
        let left: Vec<_> = set_aside(&path).into_iter().map(|a| a.at).collect();
        assert_eq!(left.len(), 2);
        assert!(left[0] > left[1] && left[1].to_string().starts_with("2004"));
        let age_days_max = Some(1);
        tidy_up(
            &path,
            LogRotation {
                age_days_max,
                ..ROTATION
            },
        );
        assert!(set_aside(&path).is_empty());
        assert!(directory.path().join("etcd-notes.log").exists());
    }

    #[test]
    fn what_is_set_aside_is_compressed_when_asked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etcd.log");
        write_aside(&path, "2001-01-01T00-00-00.000");
        let compress = true;
        tidy_up(
            &path,
            LogRotation {
                compress,
                ..ROTATION
            },
        );
        let left = set_aside(&path);
        assert!(left.len() == 1 && left[0].compressed, "{left:?}");
        let mut text = String::new();
        flate2::read::GzDecoder::new(File::open(&left[0].path).unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "2001-01-01T00-00-00.000");
    }

    #[test]
    fn logging_goes_on_when_the_directory_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/etcd.log");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let mut log = RotatedFile::open(&path, ROTATION).unwrap();
        log.write_line(b"0123456789\n").unwrap();
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        log.write_line(b"0123456789\n").unwrap();
        tidy_up(&path, ROTATION);
    }
}
