//! The log: one line per event, JSON as etcd writes it or a form for people.
//!
//! Promise: a closed or full output never stops the server; fields come in the order they were
//! given, after `level`, `ts`, `caller` and `msg`. The level can be changed while it runs.
//! Not known here: what is logged. Who logs decides that no value, password, token or key
//! material is in it.

mod rotated_file;
mod sink;

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::sync::OnceLock;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogFormat, LogLevel, LogOutput, LogRotation};
use sink::Sinks;

/// The filter that a running process can exchange.
static SWITCH: OnceLock<Switch> = OnceLock::new();

struct Switch {
    configured: LogLevel,
    filter: reload::Handle<Targets, tracing_subscriber::Registry>,
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("--log-outputs: cannot open {}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("--log-outputs: systemd/journal cannot be reached: {0}")]
    Journal(std::io::Error),
}

/// Once per process; a second call changes nothing.
pub fn start(
    level: LogLevel,
    format: LogFormat,
    outputs: &[LogOutput],
    rotation: Option<LogRotation>,
) -> Result<(), LogError> {
    let layer = tracing_subscriber::fmt::layer()
        .event_format(Line { format })
        .with_writer(Sinks::open(outputs, rotation)?)
        // It would print its own trouble to the very stderr that is in trouble, and panic there.
        .log_internal_errors(false);
    let (filter, handle) = reload::Layer::new(filter(level));
    let started = tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init();
    if started.is_ok() {
        let configured = level;
        let filter = handle;
        let _ = SWITCH.set(Switch { configured, filter });
    }
    Ok(())
}

/// From now on everything of ours is logged, whatever was configured.
pub fn log_everything() {
    if let Some(switch) = SWITCH.get() {
        switch.to(LogLevel::Debug);
        tracing::info!(level = "debug", "changed log level");
    }
}

/// Back to the level that was configured.
pub fn log_as_configured() {
    if let Some(switch) = SWITCH.get() {
        let level = switch.configured.name();
        tracing::info!(level, "changed log level");
        switch.to(switch.configured);
    }
}

impl Switch {
    fn to(&self, level: LogLevel) {
        // Fails only when there is no subscriber left to tell.
        let _ = self.filter.reload(filter(level));
    }
}

/// Our own events at the level asked for; libraries' only when something is wrong with them,
/// and never below what was asked for.
fn filter(level: LogLevel) -> Targets {
    let (ours, theirs) = match level {
        LogLevel::Debug => (Level::DEBUG, Level::WARN),
        LogLevel::Info => (Level::INFO, Level::WARN),
        LogLevel::Warn => (Level::WARN, Level::WARN),
        LogLevel::Error => (Level::ERROR, Level::ERROR),
    };
    let ours_by_crate = [
        "server",
        "sealkv",
        "sealkv_keys",
        "sealkv_plugins",
        "keys",
        "plugins",
    ];
    Targets::new()
        .with_default(theirs)
        .with_targets(ours_by_crate.map(|target| (target, ours)))
        // openraft reports every lost vote and unreachable peer as an error; elections are not.
        .with_target("openraft", tracing::level_filters::LevelFilter::OFF)
}

struct Line {
    format: LogFormat,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut ts = String::new();
        SystemTime.format_time(&mut Writer::new(&mut ts))?;
        let level = level_name(*event.metadata().level());
        let caller = caller(event.metadata().file(), event.metadata().line());
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = match self.format {
            LogFormat::Json => fields.json(level, &ts, &caller),
            LogFormat::Console => fields.console(level, &ts, &caller),
        };
        writer.write_str(&line)
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// The last directory, the file and the line, as etcd's callers read.
fn caller(file: Option<&str>, line: Option<u32>) -> String {
    let file = file.unwrap_or("unknown");
    let start = file
        .rmatch_indices('/')
        .nth(1)
        .map_or(0, |(slash, _)| slash + 1);
    format!("{}:{}", &file[start..], line.unwrap_or(0))
}

#[derive(Default)]
struct Fields {
    message: String,
    named: Vec<(&'static str, Value)>,
}

impl Fields {
    fn json(&self, level: &str, ts: &str, caller: &str) -> String {
        let mut line = String::with_capacity(256);
        let head = [
            ("level", level),
            ("ts", ts),
            ("caller", caller),
            ("msg", &self.message),
        ];
        for (position, (name, text)) in head.into_iter().enumerate() {
            line.push(if position == 0 { '{' } else { ',' });
            push_pair(&mut line, name, &Value::from(text));
        }
        for (name, value) in &self.named {
            line.push(',');
            push_pair(&mut line, &name.replace('_', "-"), value);
        }
        line.push_str("}\n");
        line
    }

    fn console(&self, level: &str, ts: &str, caller: &str) -> String {
        // Control characters of a client's making must not reach a terminal.
        let message: String = self.message.chars().map(harmless).collect();
        let mut line = format!("{ts}\t{level}\t{caller}\t{message}");
        if !self.named.is_empty() {
            line.push('\t');
            for (position, (name, value)) in self.named.iter().enumerate() {
                line.push_str(if position == 0 { "{" } else { ", " });
                push_pair(&mut line, &name.replace('_', "-"), value);
            }
            line.push('}');
        }
        line.push('\n');
        line
    }

    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", value) => self.message = value.to_string(),
            (name, value) => self.named.push((name.trim_start_matches("r#"), value)),
        }
    }
}

fn harmless(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

fn push_pair(line: &mut String, name: &str, value: &Value) {
    // Writing to a String cannot fail.
    let _ = write!(line, "{}:{value}", Value::from(name));
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Value::from(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Value::from(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, Value::from(value.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Line { format })
            .with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry()
            .with(filter(LogLevel::Info))
            .with(layer);
        tracing::subscriber::with_default(subscriber, log);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_have_etcds_shape() {
        let text = logged(LogFormat::Json, || {
            tracing::info!(
                member_id = 7_u64,
                reason = "a \"b\"",
                "ready to serve client requests"
            );
            tracing::debug!("not at this level");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with(r#"{"level":"info","ts":"20"#), "{text}");
        let tail = r#","msg":"ready to serve client requests","member-id":7,"reason":"a \"b\""}"#;
        assert!(text.trim_end().ends_with(tail), "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert!(
            line["caller"]
                .as_str()
                .unwrap()
                .starts_with("src/logging.rs:"),
            "{text}"
        );
    }

    #[test]
    fn console_lines_are_one_line_each() {
        let text = logged(LogFormat::Console, || {
            tracing::warn!(name = "x\ny", "two\nlines")
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("\twarn\t"), "{text}");
        assert!(
            text.ends_with("two lines\t{\"name\":\"x\\ny\"}\n"),
            "{text}"
        );
    }

    #[test]
    fn libraries_are_heard_only_when_something_is_wrong() {
        let text = logged(LogFormat::Json, || {
            tracing::info!(target: "hyper::proto", "chatter");
            tracing::warn!(target: "hyper::proto", "trouble");
            tracing::error!(target: "openraft::core", "a lost vote");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("trouble"), "{text}");
    }
}
