//! `--config-file`: etcd's YAML, read into the same flags that a command line gives.
//!
//! Promise: every key is a flag or a key that etcd once had; anything else, and every value of
//! another type than its flag's, is a mistake that names file, line and key; all of them together.
//! Not known here: what values mean together.

use std::fmt;
use std::io::Read as _;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::flag_syntax::{Given, check_kind};
use super::flag_table::{self, FlagSpec, Kind};
use super::mistake::{Mistake, Problem, Source};

/// Far more than every key at its longest.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Keys of a section, and the flags that they are.
type Section = &'static [(&'static str, &'static str)];

/// What etcd groups in its file although the flags are flat; a section in a section has both names.
const SECTIONS: &[(&str, Section)] = &[
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("auto-tls", "auto-tls"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            (
                "skip-client-san-verification",
                "peer-skip-client-san-verification",
            ),
        ],
    ),
    (
        "socket-options",
        &[
            ("reuse-port", "socket-reuse-port"),
            ("reuse-address", "socket-reuse-address"),
        ],
    ),
    ("discovery-config", &[("token", "discovery-token")]),
    (
        "discovery-config.client",
        &[
            ("endpoints", "discovery-endpoints"),
            ("dial-timeout", "discovery-dial-timeout"),
            ("request-timeout", "discovery-request-timeout"),
            ("keepalive-time", "discovery-keepalive-time"),
            ("keepalive-timeout", "discovery-keepalive-timeout"),
        ],
    ),
    (
        "discovery-config.client.secure",
        &[
            ("cert", "discovery-cert"),
            ("key", "discovery-key"),
            ("cacert", "discovery-cacert"),
            ("insecure-transport", "discovery-insecure-transport"),
            (
                "insecure-skip-tls-verify",
                "discovery-insecure-skip-tls-verify",
            ),
        ],
    ),
    (
        "discovery-config.client.auth",
        &[
            ("username", "discovery-user"),
            ("password", "discovery-password"),
        ],
    ),
];

/// Flags whose value is a list in the file.
const LISTS: &[&str] = &[
    "log-outputs",
    "discovery-endpoints",
    "cipher-suites",
    "client-cert-allowed-hostname",
    "peer-cert-allowed-cn",
    "peer-cert-allowed-hostname",
];

/// Flags for which an empty text means the default, as in etcd's file.
const DEFAULT_IF_EMPTY: &[&str] = &[
    "data-dir",
    "listen-peer-urls",
    "listen-client-urls",
    "listen-client-http-urls",
    "listen-metrics-urls",
    "initial-advertise-peer-urls",
    "advertise-client-urls",
    "initial-cluster-state",
    "cors",
    "host-whitelist",
];

/// Keys of the proxy, the discovery and the store of etcd 2, which etcd's own sample file still
/// carries and etcd 3.7 passes over; each is taken with a warning.
const RETIRED: &[&str] = &[
    "proxy",
    "proxy-failure-wait",
    "proxy-refresh-interval",
    "proxy-dial-timeout",
    "proxy-write-timeout",
    "proxy-read-timeout",
    "discovery-fallback",
    "discovery-proxy",
    "enable-v2",
    "debug",
    "log-package-levels",
];

/// The flags that stand in the file.
pub(super) fn read(path: &Path) -> Result<Given, Vec<Mistake>> {
    let shown = path.display().to_string();
    let text = load(path).map_err(|problem| vec![Mistake::new("config-file", problem)])?;
    parse(&shown, &text)
}

fn load(path: &Path) -> Result<String, Problem> {
    let failed = |error: std::io::Error| Problem::FileUnread {
        path: path.display().to_string(),
        error: error.to_string(),
    };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(std::io::Error::other("is larger than 1 MiB")));
    }
    Ok(text)
}

pub(super) fn parse(file: &str, text: &str) -> Result<Given, Vec<Mistake>> {
    let top = match serde_saphyr::from_str::<Option<Entries>>(text) {
        Ok(top) => top.unwrap_or_default(),
        Err(error) => {
            let line = error.location().map(|place| place.line());
            let why = error.without_snippet().to_string();
            return Err(vec![Mistake::in_file(
                file,
                line,
                "",
                Problem::Yaml { why },
            )]);
        }
    };
    let mut reading = Reading {
        file,
        given: Given::of_file(Path::new(file)),
        mistakes: Vec::new(),
    };
    reading.top(top);
    if reading.mistakes.is_empty() {
        Ok(reading.given)
    } else {
        Err(reading.mistakes)
    }
}

struct Reading<'a> {
    file: &'a str,
    given: Given,
    mistakes: Vec<Mistake>,
}

impl Reading<'_> {
    fn mistake(&mut self, line: u64, key: &str, problem: Problem) {
        self.mistakes
            .push(Mistake::in_file(self.file, Some(line), key, problem));
    }

    fn top(&mut self, top: Entries) {
        for Entry { line, key, value } in top.0 {
            if let Some((section, keys)) = SECTIONS.iter().find(|(name, _)| *name == key) {
                self.section(line, section, keys, value);
            } else if let Some(retired) = RETIRED.iter().find(|name| **name == key) {
                if !matches!(value, Value::Null) {
                    self.given.retire(retired);
                }
            } else if let Some(section) = section_of(&key) {
                self.mistake(line, &key, Problem::InSection { section });
            } else {
                match flag_table::find(&key).filter(|spec| spec.name != "config-file") {
                    Some(spec) => self.flag(line, &key, spec, value),
                    None => self.mistake(line, &key, Problem::UnknownKey),
                }
            }
        }
    }

    fn section(&mut self, line: u64, section: &str, keys: Section, value: Value) {
        let entries = match value {
            Value::Null => return,
            Value::Map(entries) => entries,
            _ => return self.mistake(line, section, Problem::WrongType { wanted: "a map" }),
        };
        for Entry { line, key, value } in entries.0 {
            let full = format!("{section}.{key}");
            if let Some((inner, keys)) = SECTIONS.iter().find(|(name, _)| *name == full) {
                self.section(line, inner, keys, value);
                continue;
            }
            let flag = keys.iter().find(|(name, _)| *name == key);
            match flag.and_then(|(_, flag)| flag_table::find(flag)) {
                Some(spec) => self.flag(line, &full, spec, value),
                // etcd has these two beside the sections' other keys, and reads neither.
                None if key == "client-crl-file" || key == "peer-crl-file" => {
                    self.mistake(line, &full, Problem::AtTop);
                }
                None => self.mistake(line, &full, Problem::UnknownKey),
            }
        }
    }

    fn flag(&mut self, line: u64, key: &str, spec: &'static FlagSpec, value: Value) {
        let text = match text_of(spec, value) {
            Ok(Some(text)) => text,
            Ok(None) => return,
            Err(problem) => return self.mistake(line, key, problem),
        };
        match check_kind(spec.kind, &text) {
            Ok(()) => {
                let source = Source::File {
                    file: self.file.to_owned(),
                    line: Some(line),
                    key: key.to_owned(),
                };
                self.given.set(spec, text, source);
            }
            Err(problem) => self.mistake(line, key, problem),
        }
    }
}

/// The section in which etcd's file has the flag, if it is not at the top.
fn section_of(flag: &str) -> Option<&'static str> {
    let (section, _) = SECTIONS
        .iter()
        .find(|(_, keys)| keys.iter().any(|(_, name)| *name == flag))?;
    Some(section)
}

/// As a command line would write it; nothing where the file leaves the default.
fn text_of(spec: &FlagSpec, value: Value) -> Result<Option<String>, Problem> {
    let wrong = |wanted| Err(Problem::WrongType { wanted });
    let text = match (spec.kind, value) {
        (_, Value::Null) => return Ok(None),
        (Kind::Text, Value::List(items)) if LISTS.contains(&spec.name) => {
            let mut texts = Vec::with_capacity(items.len());
            for item in items {
                match item {
                    Value::Text(text) => texts.push(text),
                    _ => return wrong("a list of texts"),
                }
            }
            if texts.is_empty() {
                return Ok(None);
            }
            texts.join(",")
        }
        (Kind::Text, _) if LISTS.contains(&spec.name) => return wrong("a list of texts"),
        (Kind::Text, Value::Text(text)) => {
            if text.is_empty() && DEFAULT_IF_EMPTY.contains(&spec.name) {
                return Ok(None);
            }
            text
        }
        (Kind::Gates, Value::Text(text)) if text.is_empty() => return Ok(None),
        (Kind::Gates, Value::Text(text)) => text,
        (Kind::Text | Kind::Gates, _) => return wrong("a text: put it in quotes"),
        (Kind::Bool, Value::Bool(on)) => on.to_string(),
        (Kind::Bool, Value::Text(word)) => match word.to_ascii_lowercase().as_str() {
            "yes" | "on" | "y" => "true".to_owned(),
            "no" | "off" | "n" => "false".to_owned(),
            _ => return wrong("true or false"),
        },
        (Kind::Bool, _) => return wrong("true or false"),
        (Kind::Unsigned | Kind::Signed, Value::Number(number)) => number,
        (Kind::Unsigned | Kind::Signed, _) => return wrong("a whole number"),
        // etcd's file has durations as nanoseconds only; Go's texts are taken as well.
        (Kind::Duration, Value::Number(number)) => format!("{number}ns"),
        (Kind::Duration, Value::Text(text)) => text,
        (Kind::Duration, _) => {
            return wrong("nanoseconds as a whole number, or a text such as 100ms");
        }
    };
    Ok(Some(text))
}

#[derive(Debug, Default)]
struct Entries(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    line: u64,
    key: String,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Null,
    Bool(bool),
    /// As it is written in base ten.
    Number(String),
    Text(String),
    List(Vec<Value>),
    Map(Entries),
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of keys and values")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entries, A::Error> {
                entries(map)
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

fn entries<'de, A: MapAccess<'de>>(mut map: A) -> Result<Entries, A::Error> {
    let mut entries = Vec::new();
    while let Some((key, value)) = map.next_entry::<Spanned<String>, Value>()? {
        let line = key.referenced.line();
        let key = key.value;
        entries.push(Entry { line, key, value });
    }
    Ok(Entries(entries))
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_none<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
                Value::deserialize(inner)
            }

            fn visit_bool<E>(self, on: bool) -> Result<Value, E> {
                Ok(Value::Bool(on))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
                Ok(Value::Number(number.to_string()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
                Ok(Value::Number(number.to_string()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
                Ok(Value::Number(number.to_string()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Value::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
                entries(map).map(Value::Map)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Given {
        parse("etcd.yml", text).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
    }

    fn mistakes(text: &str) -> Vec<String> {
        let mistakes = parse("etcd.yml", text).unwrap_err();
        mistakes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn etcds_keys_become_flags() {
        let given = given(
            "name: 'm1'\n\
             heartbeat-interval: 200\n\
             watch-progress-notify-interval: 600000000000\n\
             warning-apply-duration: 50ms\n\
             pre-vote: yes\n\
             log-outputs: [stderr, /var/log/etcd.log]\n\
             socket-options:\n  reuse-port: true\n\
             peer-transport-security:\n  cert-file: /p.crt\n  allowed-cn: [a, b]\n\
             client-transport-security:\n  cert-file: /c.crt\n  auto-tls: false\n\
             discovery-config:\n  token: t\n  client:\n    endpoints: [a:1, b:2]\n    \
             request-timeout: 5000000000\n    secure: {cacert: /ca}\n    auth:\n      \
             username: ann\n",
        );
        for (flag, text) in [
            ("name", "m1"),
            ("heartbeat-interval", "200"),
            ("watch-progress-notify-interval", "600000000000ns"),
            ("warning-apply-duration", "50ms"),
            ("pre-vote", "true"),
            ("log-outputs", "stderr,/var/log/etcd.log"),
            ("socket-reuse-port", "true"),
            ("peer-cert-file", "/p.crt"),
            ("peer-cert-allowed-cn", "a,b"),
            ("cert-file", "/c.crt"),
            ("auto-tls", "false"),
            ("discovery-token", "t"),
            ("discovery-endpoints", "a:1,b:2"),
            ("discovery-request-timeout", "5000000000ns"),
            ("discovery-cacert", "/ca"),
            ("discovery-user", "ann"),
        ] {
            assert_eq!(given.text(flag), Some(text), "{flag}");
        }
    }

    #[test]
    fn what_is_left_empty_keeps_its_default() {
        for text in ["", "# nothing\n", "data-dir:\n", "data-dir: ''\ncors:\n"] {
            assert_eq!(given(text).specs().count(), 0, "{text:?}");
        }
        assert_eq!(given("name: ''").text("name"), Some(""));
    }

    #[test]
    fn mistakes_name_their_line_and_key_and_are_reported_together() {
        let found = mistakes(
            "name: 5\n\
             nmae: x\n\
             heartbeat-interval: '100'\n\
             log-outputs: stderr\n\
             force-new-cluster: 1\n\
             snapshot-count: 1.5\n\
             cert-file: /x\n\
             client-transport-security:\n  cert: /x\n\
             peer-transport-security: /x\n\
             config-file: other.yml\n\
             discovery-config:\n  client:\n    secure: {server-name: x}\n",
        );
        let places = [
            "etcd.yml:1: name:",
            "etcd.yml:2: nmae: is no key of etcd's",
            "etcd.yml:3: heartbeat-interval:",
            "etcd.yml:4: log-outputs: must be a list",
            "etcd.yml:5: force-new-cluster:",
            "etcd.yml:6: snapshot-count:",
            "etcd.yml:7: cert-file: belongs under client-transport-security",
            "etcd.yml:9: client-transport-security.cert:",
            "etcd.yml:10: peer-transport-security: must be a map",
            "etcd.yml:11: config-file:",
            "etcd.yml:14: discovery-config.client.secure.server-name:",
        ];
        assert_eq!(found.len(), places.len(), "{found:#?}");
        for (mistake, place) in found.iter().zip(places) {
            assert!(mistake.starts_with(place), "{mistake} is not {place}");
        }
    }

    #[test]
    fn what_is_not_yaml_is_named_with_its_line() {
        for (text, line) in [
            ("name: [\n", "etcd.yml:"),
            ("name: a\nname: b\n", "etcd.yml:2"),
            ("- a\n- b\n", "etcd.yml:1"),
            ("just text", "etcd.yml:1"),
        ] {
            let found = mistakes(text);
            assert!(found[0].starts_with(line), "{text:?}: {found:?}");
            assert_eq!(found[0].lines().count(), 1, "{found:?}");
        }
    }

    #[test]
    fn keys_of_etcd_2_are_taken_with_a_warning() {
        let given = given("proxy: 'off'\nproxy-read-timeout: 0\nenable-v2:\n");
        assert_eq!(given.retired(), ["proxy", "proxy-read-timeout"]);
    }

    #[test]
    fn every_section_leads_to_flags_of_the_table() {
        for (section, keys) in SECTIONS {
            for (key, flag) in *keys {
                assert!(flag_table::find(flag).is_some(), "{section}.{key}");
            }
        }
        for flag in LISTS.iter().chain(DEFAULT_IF_EMPTY) {
            assert!(flag_table::find(flag).is_some(), "{flag}");
        }
    }
}
