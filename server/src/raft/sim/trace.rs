//! What happened, in order: a hash of all of it, and the last lines for whoever has to read them.

use std::collections::VecDeque;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

const LINES_KEPT: usize = 400;

pub(super) struct Trace {
    start: Instant,
    digest: Sha256,
    lines: VecDeque<String>,
    prints: bool,
}

impl Trace {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            digest: Sha256::new(),
            lines: VecDeque::new(),
            prints: std::env::var_os("SEALKV_SIM_TRACE").is_some(),
        }
    }

    pub(super) fn note(&mut self, what: &str) {
        let line = format!("{:>9} {what}", self.start.elapsed().as_micros());
        self.digest.update(line.as_bytes());
        self.digest.update(b"\n");
        if self.prints {
            println!("{line}");
        }
        if self.lines.len() == LINES_KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub(super) fn hash(&self) -> String {
        hex::encode(&self.digest.clone().finalize()[..8])
    }

    pub(super) fn tail(&self) -> String {
        Vec::from(self.lines.clone()).join("\n")
    }
}
