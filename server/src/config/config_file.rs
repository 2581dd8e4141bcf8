//! `--config-file`: etcd's YAML, read into the same flags that a command line gives.
//!
//! Promise: every key is a flag or a key that etcd once had; anything else, and every value of
//! another type than its flag's, is a mistake that names file, line and key; all of them together.
//! Not known here: what values mean together.

mod sections;
mod yaml;

use std::io::Read as _;
use std::path::Path;

use super::flag_syntax::{Given, check_kind};
use super::flag_table::{self, FlagSpec, Kind};
use super::mistake::{Mistake, Problem, Source};
use sections::{DEFAULT_IF_EMPTY, LISTS, RETIRED, SECTIONS, Section, section_of};
use yaml::{Entries, Entry, Value};

/// Far more than every key at its longest.
const FILE_BYTES_MAX: u64 = 1 << 20;

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
