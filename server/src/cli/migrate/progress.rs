//! What a migration shows of itself while it works: a bar on a terminal, lines elsewhere.
//!
//! Promise: stdout is left to the result; a closed stderr stops nothing. No key is shown here.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::mvccpb::KeyValue;

use super::super::output::complain;

/// Between lines, where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    said: Instant,
    pub(super) keys: u64,
    pub(super) bytes: u64,
    pub(super) changes: u64,
}

impl Progress {
    pub(super) fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(
            None,
            if is_terminal {
                ProgressDrawTarget::stderr()
            } else {
                ProgressDrawTarget::hidden()
            },
        );
        Self {
            bar,
            is_terminal,
            said: Instant::now(),
            keys: 0,
            bytes: 0,
            changes: 0,
        }
    }

    /// A new beginning, of so many keys.
    pub(super) fn copying(&mut self, keys: u64) {
        let style = "{msg} [{bar:30}] {human_pos}/{human_len} keys, {per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(style) {
            self.bar.set_style(style);
        }
        self.bar.set_length(keys);
        self.bar.set_position(0);
        self.bar.set_message("copying");
        self.note(&format!("copying {keys} keys"));
        self.keys = 0;
        self.bytes = 0;
    }

    pub(super) fn copied(&mut self, row: &KeyValue) {
        self.keys += 1;
        self.bytes += (row.key.len() + row.value.len()) as u64;
        self.bar.set_position(self.keys);
        self.now_and_then(|this| format!("copied {} keys, {} bytes", this.keys, this.bytes));
    }

    pub(super) fn changed(&mut self) {
        self.changes += 1;
    }

    pub(super) fn following(&mut self, revision: i64) {
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            self.bar.set_style(style);
        }
        let text = format!(
            "following: at revision {revision} of the source, {} changes",
            self.changes
        );
        self.bar.set_message(text.clone());
        self.bar.tick();
        self.now_and_then(|_| text.clone());
    }

    /// Something that people should read.
    pub(super) fn note(&self, text: &str) {
        if self.is_terminal {
            self.bar.println(text);
        } else {
            complain(text);
        }
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn now_and_then(&mut self, text: impl Fn(&Self) -> String) {
        if !self.is_terminal && self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            complain(&text(self));
        }
    }
}
