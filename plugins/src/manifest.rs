//! What an operator asks of a plugin: its name, what it watches and writes, its settings,
//! its limits.
//!
//! Promise: a [`Manifest`] follows every rule on this page; [`Manifest::parse`] reports all
//! mistakes of a draft at once.
//! Not known here: users and permissions, which the server checks when it deploys.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::digest::Digest;
use crate::grants::Prefix;
use crate::limits::{Limits, SETTINGS_BYTES_MAX};

const NAME_BYTES_MAX: usize = 63;
const PREFIXES_MAX: usize = 64;
const PREFIX_BYTES_MAX: usize = 1_024;

/// A manifest as it was written; `Default` is a plugin that watches nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ManifestDraft {
    /// `None` takes the name the component gives itself.
    pub name: Option<String>,
    pub watch_prefixes: Vec<Vec<u8>>,
    pub write_prefixes: Vec<Vec<u8>>,
    /// A JSON object, or empty for none.
    pub settings_json: String,
    /// Deliver the record before with each event.
    pub prev_kv: bool,
    /// Deliver keys without values.
    pub keys_only: bool,
    /// Deliver what the watched prefixes hold before the changes.
    pub start_at_snapshot: bool,
    /// Suspend the plugin at a batch it cannot process, instead of dead-lettering the
    /// revision and going on.
    pub suspend_on_reject: bool,
    /// Allow write prefixes that overlap watch prefixes. Own effects are not delivered
    /// back even so.
    pub feedback: bool,
    /// Hexadecimal; refuse a component with another digest.
    pub sha256: Option<String>,
    pub limits: LimitsDraft,
}

/// Limits that differ from the defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsDraft {
    pub memory_bytes: Option<usize>,
    pub on_events_deadline: Option<Duration>,
    pub host_calls: Option<u32>,
    pub log_lines_per_second: Option<u32>,
}

/// A manifest that follows the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    name: PluginName,
    watch: Vec<Prefix>,
    write: Vec<Prefix>,
    settings: Settings,
    limits: Limits,
    prev_kv: bool,
    keys_only: bool,
    start_at_snapshot: bool,
    suspend_on_reject: bool,
}

/// 1 to 63 characters of a–z, 0–9 and '-'. As [`PluginName::user`] it is part of a user name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PluginName(String);

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a plugin's name has 1 to {NAME_BYTES_MAX} characters of a-z, 0-9 and '-'")]
pub struct BadName;

impl PluginName {
    pub fn parse(name: &str) -> Result<PluginName, BadName> {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let sized = (1..=NAME_BYTES_MAX).contains(&name.len());
        if sized && name.bytes().all(allowed) {
            Ok(PluginName(name.to_owned()))
        } else {
            Err(BadName)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The RBAC user the plugin acts as.
    pub fn user(&self) -> String {
        format!("plugin:{}", self.0)
    }
}

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A plugin's settings: the JSON text as written, and its members as the guest asks for
/// them. They may hold secrets: `Debug` shows none.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    json: String,
    members: BTreeMap<String, String>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Settings({} members)", self.members.len())
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            json: "{}".to_owned(),
            members: BTreeMap::new(),
        }
    }
}

impl Settings {
    pub fn parse(json: &str) -> Result<Settings, ManifestMistake> {
        if json.trim().is_empty() {
            return Ok(Settings::default());
        }
        if json.len() > SETTINGS_BYTES_MAX {
            return Err(ManifestMistake::SettingsTooLarge { bytes: json.len() });
        }
        let value =
            serde_json::from_str(json).map_err(|error| ManifestMistake::SettingsSyntax {
                line: error.line(),
                column: error.column(),
            })?;
        let serde_json::Value::Object(object) = value else {
            return Err(ManifestMistake::SettingsNotAnObject);
        };
        let text = |value| match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        Ok(Settings {
            json: json.to_owned(),
            members: object.into_iter().map(|(k, v)| (k, text(v))).collect(),
        })
    }

    pub fn json(&self) -> &str {
        &self.json
    }

    /// A string member as it is, any other as JSON.
    pub(crate) fn members(&self) -> &BTreeMap<String, String> {
        &self.members
    }
}

/// One rule that a draft breaks.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ManifestMistake {
    #[error("name: {0}")]
    Name(#[from] BadName),
    #[error("watch prefixes: name at least one")]
    WatchesNothing,
    #[error("{list} prefixes: {count} are more than {PREFIXES_MAX}")]
    TooManyPrefixes { list: PrefixList, count: usize },
    #[error("{list} prefix {prefix}: longer than {PREFIX_BYTES_MAX} bytes")]
    PrefixTooLong { list: PrefixList, prefix: Prefix },
    #[error("write prefixes: an empty one would be the whole store")]
    WritesEverything,
    #[error("{list} prefix {inner} lies inside {outer}")]
    PrefixTwice {
        list: PrefixList,
        inner: Prefix,
        outer: Prefix,
    },
    #[error("write prefix {write} overlaps watch prefix {watch}: the plugin would feed itself")]
    Feedback { watch: Prefix, write: Prefix },
    #[error("settings: {bytes} bytes are more than {SETTINGS_BYTES_MAX}")]
    SettingsTooLarge { bytes: usize },
    #[error("settings: no JSON (line {line}, column {column})")]
    SettingsSyntax { line: usize, column: usize },
    #[error("settings: a JSON object is needed")]
    SettingsNotAnObject,
    #[error("keys-only and prev-kv exclude each other")]
    KeysOnlyWithPrevKv,
    #[error("sha256: 64 hexadecimal digits are needed")]
    DigestSyntax,
    #[error("sha256: the component's is {found}")]
    OtherComponent { found: Digest },
    #[error("limit {limit}: between {min} and {max}")]
    Limit {
        limit: &'static str,
        min: u64,
        max: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixList {
    Watch,
    Write,
}

impl fmt::Display for PrefixList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PrefixList::Watch => "watch",
            PrefixList::Write => "write",
        })
    }
}

/// All mistakes of a draft; never empty.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub struct ManifestMistakes(pub Vec<ManifestMistake>);

impl fmt::Display for ManifestMistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{mistake}")?;
        }
        Ok(())
    }
}

impl Manifest {
    /// `component_name` and `component_digest` are those of the component it is deployed
    /// with.
    pub fn parse(
        draft: &ManifestDraft,
        component_name: &str,
        component_digest: Digest,
    ) -> Result<Manifest, ManifestMistakes> {
        let mut mistakes = Vec::new();
        let name = PluginName::parse(draft.name.as_deref().unwrap_or(component_name))
            .map_err(|bad| mistakes.push(bad.into()));
        let watch = prefixes(PrefixList::Watch, &draft.watch_prefixes, &mut mistakes);
        let write = prefixes(PrefixList::Write, &draft.write_prefixes, &mut mistakes);
        if !draft.feedback {
            mistakes.extend(feedback(&watch, &write));
        }
        if draft.keys_only && draft.prev_kv {
            mistakes.push(ManifestMistake::KeysOnlyWithPrevKv);
        }
        mistakes.extend(other_component(draft.sha256.as_deref(), component_digest));
        let limits = limits(&draft.limits, &mut mistakes);
        let settings =
            Settings::parse(&draft.settings_json).map_err(|mistake| mistakes.push(mistake));
        match (name, settings) {
            (Ok(name), Ok(settings)) if mistakes.is_empty() => Ok(Manifest {
                name,
                watch,
                write,
                settings,
                limits,
                prev_kv: draft.prev_kv,
                keys_only: draft.keys_only,
                start_at_snapshot: draft.start_at_snapshot,
                suspend_on_reject: draft.suspend_on_reject,
            }),
            _ => Err(ManifestMistakes(mistakes)),
        }
    }

    pub fn name(&self) -> &PluginName {
        &self.name
    }

    pub fn watch_prefixes(&self) -> &[Prefix] {
        &self.watch
    }

    pub fn write_prefixes(&self) -> &[Prefix] {
        &self.write
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn prev_kv(&self) -> bool {
        self.prev_kv
    }

    pub fn keys_only(&self) -> bool {
        self.keys_only
    }

    pub fn start_at_snapshot(&self) -> bool {
        self.start_at_snapshot
    }

    pub fn suspend_on_reject(&self) -> bool {
        self.suspend_on_reject
    }

    /// Whether a change of this key is delivered.
    pub fn watches(&self, key: &[u8]) -> bool {
        self.watch.iter().any(|prefix| prefix.contains(key))
    }

    /// Whether an effect on this range is within the grant.
    pub fn may_write(&self, key: &[u8], range_end: &[u8]) -> bool {
        crate::grants::granted(self.write.iter(), key, range_end)
    }

    /// A plugin reads what it watches and what it writes.
    pub fn may_read(&self, key: &[u8], range_end: &[u8]) -> bool {
        crate::grants::granted(self.watch.iter().chain(&self.write), key, range_end)
    }
}

fn prefixes(list: PrefixList, raw: &[Vec<u8>], mistakes: &mut Vec<ManifestMistake>) -> Vec<Prefix> {
    if raw.len() > PREFIXES_MAX {
        let count = raw.len();
        mistakes.push(ManifestMistake::TooManyPrefixes { list, count });
        return Vec::new();
    }
    if raw.is_empty() && list == PrefixList::Watch {
        mistakes.push(ManifestMistake::WatchesNothing);
    }
    if list == PrefixList::Write && raw.iter().any(Vec::is_empty) {
        mistakes.push(ManifestMistake::WritesEverything);
    }
    let prefixes: Vec<Prefix> = raw.iter().cloned().map(Prefix::new).collect();
    for (index, prefix) in prefixes.iter().enumerate() {
        if prefix.as_bytes().len() > PREFIX_BYTES_MAX {
            let prefix = prefix.clone();
            mistakes.push(ManifestMistake::PrefixTooLong { list, prefix });
        }
        for earlier in &prefixes[..index] {
            if prefix.overlaps(earlier) {
                mistakes.push(twice(list, prefix, earlier));
            }
        }
    }
    prefixes
}

fn twice(list: PrefixList, one: &Prefix, other: &Prefix) -> ManifestMistake {
    let (outer, inner) = if one.contains(other.as_bytes()) {
        (one, other)
    } else {
        (other, one)
    };
    ManifestMistake::PrefixTwice {
        list,
        inner: inner.clone(),
        outer: outer.clone(),
    }
}

fn feedback(watch: &[Prefix], write: &[Prefix]) -> Vec<ManifestMistake> {
    let pairs = watch.iter().flat_map(|a| write.iter().map(move |b| (a, b)));
    pairs
        .filter(|(watch, write)| watch.overlaps(write) && !write.as_bytes().is_empty())
        .map(|(watch, write)| ManifestMistake::Feedback {
            watch: watch.clone(),
            write: write.clone(),
        })
        .collect()
}

fn other_component(wanted: Option<&str>, found: Digest) -> Option<ManifestMistake> {
    match wanted.map(Digest::parse_hex)? {
        None => Some(ManifestMistake::DigestSyntax),
        Some(wanted) if wanted != found => Some(ManifestMistake::OtherComponent { found }),
        Some(_) => None,
    }
}

fn limits(draft: &LimitsDraft, mistakes: &mut Vec<ManifestMistake>) -> Limits {
    let (default, min, max) = (Limits::default(), Limits::MIN, Limits::MAX);
    let mut check = |limit, asked: u64, min: u64, max: u64| {
        if !(min..=max).contains(&asked) {
            mistakes.push(ManifestMistake::Limit { limit, min, max });
        }
    };
    let limits = Limits {
        memory_bytes: draft.memory_bytes.unwrap_or(default.memory_bytes),
        on_events_deadline: draft
            .on_events_deadline
            .unwrap_or(default.on_events_deadline),
        host_calls: draft.host_calls.unwrap_or(default.host_calls),
        log_lines_per_second: draft
            .log_lines_per_second
            .unwrap_or(default.log_lines_per_second),
    };
    let milliseconds = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    check(
        "memory-bytes",
        limits.memory_bytes as u64,
        min.memory_bytes as u64,
        max.memory_bytes as u64,
    );
    check(
        "on-events-deadline-ms",
        milliseconds(limits.on_events_deadline),
        milliseconds(min.on_events_deadline),
        milliseconds(max.on_events_deadline),
    );
    check(
        "host-calls",
        limits.host_calls.into(),
        min.host_calls.into(),
        max.host_calls.into(),
    );
    check(
        "log-lines-per-second",
        limits.log_lines_per_second.into(),
        min.log_lines_per_second.into(),
        max.log_lines_per_second.into(),
    );
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> ManifestDraft {
        ManifestDraft {
            watch_prefixes: vec![b"/services/".to_vec()],
            write_prefixes: vec![b"/index/".to_vec()],
            ..ManifestDraft::default()
        }
    }

    fn parse(draft: &ManifestDraft) -> Result<Manifest, ManifestMistakes> {
        Manifest::parse(draft, "index", Digest::of(b"component"))
    }

    fn mistakes(draft: &ManifestDraft) -> Vec<ManifestMistake> {
        parse(draft).expect_err("has mistakes").0
    }

    #[test]
    fn an_unnamed_plugin_takes_the_components_name() {
        assert_eq!(parse(&draft()).expect("valid").name().as_str(), "index");
        let named = ManifestDraft {
            name: Some("index-b".into()),
            ..draft()
        };
        let manifest = parse(&named).expect("valid");
        assert_eq!(manifest.name().user(), "plugin:index-b");
    }

    #[test]
    fn names_are_short_and_lower_case() {
        for good in ["a", "index-2", &"x".repeat(63)] {
            assert!(PluginName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "Index", "a_b", "a/b", "a.b", "é", &"x".repeat(64)] {
            assert_eq!(PluginName::parse(bad), Err(BadName), "{bad}");
        }
    }

    #[test]
    fn all_mistakes_are_reported_together() {
        let found = mistakes(&ManifestDraft {
            name: Some("No".into()),
            watch_prefixes: vec![b"/a/".to_vec(), b"/a/b/".to_vec()],
            write_prefixes: vec![b"/a/c/".to_vec()],
            settings_json: "[1]".into(),
            prev_kv: true,
            keys_only: true,
            sha256: Some("00".into()),
            limits: LimitsDraft {
                memory_bytes: Some(usize::MAX),
                on_events_deadline: Some(Duration::ZERO),
                ..LimitsDraft::default()
            },
            ..ManifestDraft::default()
        });
        let expected = [
            "name",
            "lies inside",
            "feed itself",
            "exclude each other",
            "64 hexadecimal",
            "memory-bytes",
            "on-events-deadline-ms",
            "a JSON object",
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (mistake, part) in found.iter().zip(expected) {
            assert!(mistake.to_string().contains(part), "{mistake}");
        }
    }

    #[test]
    fn a_plugin_must_not_watch_what_it_writes_unless_it_says_so() {
        let mut looping = draft();
        looping.write_prefixes = vec![b"/services/index/".to_vec()];
        assert!(matches!(
            mistakes(&looping)[..],
            [ManifestMistake::Feedback { .. }]
        ));
        looping.feedback = true;
        assert!(parse(&looping).is_ok());
    }

    #[test]
    fn the_whole_store_may_be_watched_but_not_written() {
        let watcher = ManifestDraft {
            watch_prefixes: vec![Vec::new()],
            ..ManifestDraft::default()
        };
        assert!(parse(&watcher).expect("valid").watches(b"anything"));
        let mut writer = draft();
        writer.write_prefixes = vec![Vec::new()];
        assert_eq!(mistakes(&writer), [ManifestMistake::WritesEverything]);
    }

    #[test]
    fn a_plugin_that_watches_nothing_is_a_mistake() {
        assert_eq!(
            mistakes(&ManifestDraft::default()),
            [ManifestMistake::WatchesNothing]
        );
    }

    #[test]
    fn another_component_than_the_named_one_is_refused() {
        let mut pinned = draft();
        pinned.sha256 = Some(Digest::of(b"component").to_string());
        assert!(parse(&pinned).is_ok());
        pinned.sha256 = Some(Digest::of(b"other").to_string());
        assert!(matches!(
            mistakes(&pinned)[..],
            [ManifestMistake::OtherComponent { .. }]
        ));
    }

    #[test]
    fn settings_are_an_object_whose_strings_lose_their_quotes() {
        let settings = Settings::parse(r#"{"a": "x", "b": 2, "c": ["y"]}"#).expect("an object");
        let members: Vec<_> = settings.members().iter().collect();
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let expected = [pair("a", "x"), pair("b", "2"), pair("c", "[\"y\"]")];
        assert!(members.into_iter().eq(expected.iter().map(|(k, v)| (k, v))));
        assert_eq!(Settings::parse("  ").expect("empty").json(), "{}");
        assert!(matches!(
            Settings::parse("{"),
            Err(ManifestMistake::SettingsSyntax { line: 1, .. })
        ));
    }

    #[test]
    fn settings_do_not_show_in_debug_output() {
        let mut secret = draft();
        secret.settings_json = r#"{"token": "canary"}"#.into();
        let shown = format!("{:?}", parse(&secret).expect("valid"));
        assert!(!shown.contains("canary"));
    }

    #[test]
    fn reads_reach_what_is_watched_and_written_and_writes_only_the_latter() {
        let manifest = parse(&draft()).expect("valid");
        assert!(manifest.may_read(b"/services/", b"/services0"));
        assert!(manifest.may_read(b"/index/a", b""));
        assert!(!manifest.may_read(b"/other", b""));
        assert!(manifest.may_write(b"/index/a", b""));
        assert!(!manifest.may_write(b"/services/a", b""));
        assert!(!manifest.may_write(b"/index/a", b"\0"));
    }
}
