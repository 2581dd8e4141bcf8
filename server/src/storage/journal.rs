//! What a crash leaves of the engine's journal.
//!
//! The journal is not synced with each batch, and the system writes its pages back in any order:
//! after a power cut a page in its middle may be missing. The engine refuses to open such a
//! journal, or drops its rest, depending on which byte is lost. The raft log has every batch that
//! is not in synced tables, so the journal is cut before its first bad batch here: what is left is
//! a prefix of the batches. Only the last journal may be cut. An earlier one was synced when it
//! was closed; what is bad there is damage, and batches of later journals would stand behind a
//! hole.
//!
//! A journal is a sequence of batches, then zeroes, all numbers little-endian:
//!
//! ```text
//! batch: 1 u8 | items u32 | seqno u64 | item… | 3 u8 | xxh3 of the items u64 | "FJL" 3
//! item:  2 u8 | kind u8 | compression u8 = 0 | keyspace u64
//!        | key length u16 | value length u32 | stored length u32 | key | value
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::error::EngineError;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const UNCOMPRESSED: u8 = 0;
const TRAILER: [u8; 4] = *b"FJL\x03";
const READ_BUFFER_BYTES: usize = 1 << 20;

/// Cuts the last journal before its first bad batch. A missing directory has no journal.
pub(crate) fn repair(dir: &Path) -> Result<(), EngineError> {
    let mut journals = journals(dir).map_err(failed(dir))?;
    let Some((_, last)) = journals.pop() else {
        return Ok(());
    };
    let mut seqno = 0;
    for (_, path) in journals {
        let end = good_end(&path, &mut seqno).map_err(failed(&path))?;
        if !is_zero_from(&path, end).map_err(failed(&path))? {
            return Err(EngineError::Journal { path, offset: end });
        }
    }
    let end = good_end(&last, &mut seqno).map_err(failed(&last))?;
    cut(&last, end).map_err(failed(&last))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> EngineError {
    let path = path.to_owned();
    move |source| EngineError::Io { path, source }
}

/// By number, ascending. A name that is no number is left to the engine, which refuses it.
fn journals(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut journals = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_suffix(".jnl")?.parse().ok());
        journals.extend(number.map(|number| (number, path)));
    }
    journals.sort();
    Ok(journals)
}

fn cut(path: &Path, end: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() == end {
        return Ok(());
    }
    file.set_len(end)?;
    file.sync_all()
}

/// Where the last good batch ends that has no bad one before it. `seqno` is that of the last good
/// batch so far.
fn good_end(path: &Path, seqno: &mut u64) -> io::Result<u64> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut walk = Walk {
        reader: BufReader::with_capacity(READ_BUFFER_BYTES, file),
        left: bytes,
        hash: Xxh3::new(),
    };
    let mut good = 0;
    loop {
        match walk.batch() {
            // No checksum covers it. One that grew by damage is caught by the batch behind it.
            Ok(found) if found <= *seqno => return Ok(good),
            Ok(found) => {
                *seqno = found;
                good = bytes - walk.left;
            }
            Err(Stop::Io(error)) => return Err(error),
            Err(Stop::Bad) => return Ok(good),
        }
    }
}

fn is_zero_from(path: &Path, offset: u64) -> io::Result<bool> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut rest = BufReader::with_capacity(READ_BUFFER_BYTES, file);
    let zeroes = vec![0; READ_BUFFER_BYTES];
    loop {
        let bytes = rest.fill_buf()?;
        let count = bytes.len();
        if count == 0 {
            return Ok(true);
        }
        if *bytes != zeroes[..count] {
            return Ok(false);
        }
        rest.consume(count);
    }
}

struct Walk {
    reader: BufReader<File>,
    /// Bytes behind the reader's place.
    left: u64,
    hash: Xxh3,
}

enum Stop {
    /// No good batch stands here.
    Bad,
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Io(error)
    }
}

impl Walk {
    /// Gives the batch's seqno.
    fn batch(&mut self) -> Result<u64, Stop> {
        expect(self.bytes()?, [START])?;
        let items = u32::from_le_bytes(self.bytes()?);
        let seqno = u64::from_le_bytes(self.bytes()?);
        self.hash.reset();
        for _ in 0..items {
            self.item()?;
        }
        expect(self.bytes()?, [END])?;
        expect(self.bytes()?, self.hash.digest().to_le_bytes())?;
        expect(self.bytes()?, TRAILER)?;
        Ok(seqno)
    }

    fn item(&mut self) -> Result<(), Stop> {
        let head: [u8; 11] = self.bytes()?;
        expect([head[0], head[2]], [ITEM, UNCOMPRESSED])?;
        let key: [u8; 2] = self.bytes()?;
        let value: [u8; 4] = self.bytes()?;
        let stored: [u8; 4] = self.bytes()?;
        expect(stored, value)?;
        self.hash.update(&head);
        self.hash.update(&key);
        self.hash.update(&value);
        self.hash.update(&stored);
        self.hash_bytes(u64::from(u16::from_le_bytes(key)))?;
        self.hash_bytes(u64::from(u32::from_le_bytes(stored)))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        self.left = self.left.checked_sub(N as u64).ok_or(Stop::Bad)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn hash_bytes(&mut self, mut count: u64) -> Result<(), Stop> {
        self.left = self.left.checked_sub(count).ok_or(Stop::Bad)?;
        while count > 0 {
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                return Err(Stop::Bad);
            }
            let taken = bytes
                .len()
                .min(usize::try_from(count).unwrap_or(usize::MAX));
            self.hash.update(&bytes[..taken]);
            self.reader.consume(taken);
            count -= taken as u64;
        }
        Ok(())
    }
}

fn expect<T: PartialEq>(found: T, expected: T) -> Result<(), Stop> {
    if found == expected {
        Ok(())
    } else {
        Err(Stop::Bad)
    }
}
