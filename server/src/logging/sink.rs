//! Where lines go: the standard streams, files, systemd's journal.
//!
//! Promise: a sink that fails is skipped for that line and never stops the server or the others.
//! Not known here: what a line says.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use parking_lot::Mutex;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::rotated_file::RotatedFile;
use super::{LogError, level_name};
use crate::config::{LogOutput, LogRotation};

const JOURNAL: &str = "/run/systemd/journal/socket";

#[derive(Debug)]
pub(super) struct Sinks(Vec<Sink>);

#[derive(Debug)]
enum Sink {
    Stderr,
    Stdout,
    File(File),
    Rotated(Mutex<RotatedFile>),
    Journal(UnixDatagram),
}

impl Sinks {
    pub(super) fn open(
        outputs: &[LogOutput],
        rotation: Option<LogRotation>,
    ) -> Result<Self, LogError> {
        let sinks = outputs.iter().map(|output| Sink::open(output, rotation));
        Ok(Self(sinks.collect::<Result<_, _>>()?))
    }

    fn write_line(&self, level: Level, line: &[u8]) {
        for sink in &self.0 {
            // There is nowhere left to complain to.
            let _ = sink.write_line(level, line);
        }
    }
}

impl Sink {
    fn open(output: &LogOutput, rotation: Option<LogRotation>) -> Result<Self, LogError> {
        match output {
            LogOutput::Stderr => Ok(Self::Stderr),
            LogOutput::Stdout => Ok(Self::Stdout),
            LogOutput::File(path) => open_file(path, rotation).map_err(|source| LogError::File {
                path: path.clone(),
                source,
            }),
            LogOutput::Journal => open_journal(JOURNAL).map_err(LogError::Journal),
        }
    }

    fn write_line(&self, level: Level, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().lock().write_all(line),
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(line)?;
                stdout.flush()
            }
            Self::File(file) => {
                let mut file = file;
                file.write_all(line)
            }
            Self::Rotated(file) => file.lock().write_line(line),
            Self::Journal(journal) => match journal.send(&journal_entry(level, line)) {
                Ok(_) => Ok(()),
                // etcd's way out, too: the journal is restarting, or the line is too long for it.
                Err(_) => io::stderr().lock().write_all(line),
            },
        }
    }
}

fn open_file(path: &Path, rotation: Option<LogRotation>) -> io::Result<Sink> {
    Ok(match rotation {
        Some(rotation) => Sink::Rotated(Mutex::new(RotatedFile::open(path, rotation)?)),
        None => Sink::File(OpenOptions::new().create(true).append(true).open(path)?),
    })
}

fn open_journal(socket: &str) -> io::Result<Sink> {
    let journal = UnixDatagram::unbound()?;
    journal.connect(socket)?;
    Ok(Sink::Journal(journal))
}

/// systemd's native protocol: fields by line, one with a newline in it by length.
fn journal_entry(level: Level, line: &[u8]) -> Vec<u8> {
    let priority = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut entry = format!(
        "PRIORITY={priority}\nSYSLOG_IDENTIFIER=sealkv\nLEVEL={}\nMESSAGE\n",
        level_name(level)
    )
    .into_bytes();
    entry.extend_from_slice(&(line.len() as u64).to_le_bytes());
    entry.extend_from_slice(line);
    entry.push(b'\n');
    entry
}

/// The formatter writes each event as one whole line.
pub(super) struct SinkWriter<'a> {
    sinks: &'a Sinks,
    level: Level,
}

impl Write for SinkWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.sinks.write_line(self.level, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sinks {
    type Writer = SinkWriter<'a>;

    fn make_writer(&'a self) -> SinkWriter<'a> {
        SinkWriter {
            sinks: self,
            level: Level::INFO,
        }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> SinkWriter<'a> {
        SinkWriter {
            sinks: self,
            level: *metadata.level(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_output_gets_the_line() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["a.log", "b.log"].map(|name| directory.path().join(name));
        let outputs = paths.clone().map(LogOutput::File);
        let sinks = Sinks::open(&outputs, None).unwrap();
        sinks.write_line(Level::INFO, b"one\n");
        sinks.write_line(Level::WARN, b"two\n");
        for path in paths {
            assert_eq!(std::fs::read(path).unwrap(), b"one\ntwo\n");
        }
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let output = LogOutput::File("/no/such/directory/x.log".into());
        let error = Sinks::open(&[output], None).unwrap_err().to_string();
        assert!(error.contains("/no/such/directory/x.log"), "{error}");
    }

    #[test]
    fn the_journal_gets_fields_and_the_line_whole() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("journal");
        let journal = UnixDatagram::bind(&socket).unwrap();
        let sink = open_journal(socket.to_str().unwrap()).unwrap();
        sink.write_line(Level::WARN, b"{\"msg\":\"x\"}\n").unwrap();
        let mut entry = [0; 256];
        let length = journal.recv(&mut entry).unwrap();
        let entry = &entry[..length];
        assert!(entry.starts_with(b"PRIORITY=4\n"));
        assert!(entry.ends_with(b"MESSAGE\n\x0b\0\0\0\0\0\0\0{\"msg\":\"x\"}\n"));
        drop(journal);
        sink.write_line(Level::WARN, b"to stderr\n").unwrap();
    }
}
