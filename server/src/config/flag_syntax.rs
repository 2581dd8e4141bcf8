//! From arguments and environment to one text per flag, by the rules of Go's flag package.
//!
//! Promise: every value that is handed on parses as its flag's kind; the last of several wins;
//! a flag and its variable, or both its variables, are never weighed against each other.
//! Not known here: what values mean together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::duration::parse_duration;
use super::feature_gates::FeatureGates;
use super::flag_table::{self, FLAGS, FlagSpec, Kind};
use super::mistake::{Mistake, Problem, Source};

/// What was given, by flag; defaults are not in it.
#[derive(Debug, Default)]
pub struct Given {
    values: BTreeMap<&'static str, (String, Source)>,
    /// The file that these were read from.
    file: Option<PathBuf>,
    /// Keys of that file that etcd no longer has.
    retired: Vec<&'static str>,
    pub help: bool,
    pub version: bool,
}

impl Given {
    /// All mistakes that can be seen flag by flag.
    pub fn read(
        arguments: &[String],
        environment: &[(String, String)],
    ) -> Result<Self, Vec<Mistake>> {
        let mut given = Self::default();
        let mut mistakes = Vec::new();
        given.read_arguments(arguments, &mut mistakes);
        if given.help || given.version {
            return Ok(given);
        }
        given.read_environment(environment, &mut mistakes);
        if mistakes.is_empty() {
            Ok(given)
        } else {
            Err(mistakes)
        }
    }

    pub(super) fn of_file(path: &Path) -> Self {
        Self {
            file: Some(path.to_owned()),
            ..Self::default()
        }
    }

    /// Arguments alone, for finding the file that makes them irrelevant.
    pub(super) fn read_only_arguments(arguments: &[String]) -> Result<Self, Vec<Mistake>> {
        let mut given = Self::default();
        let mut mistakes = Vec::new();
        given.read_arguments(arguments, &mut mistakes);
        if mistakes.is_empty() || given.help || given.version {
            Ok(given)
        } else {
            Err(mistakes)
        }
    }

    /// A checked value.
    pub(super) fn set(&mut self, spec: &'static FlagSpec, value: String, source: Source) {
        let value = match self.values.remove(spec.name) {
            Some((before, _)) if spec.kind == Kind::Gates => format!("{before},{value}"),
            _ => value,
        };
        self.values.insert(spec.name, (value, source));
    }

    pub(super) fn retire(&mut self, key: &'static str) {
        self.retired.push(key);
    }

    pub(super) fn retired(&self) -> &[&'static str] {
        &self.retired
    }

    /// Whether these come from a configuration file.
    pub fn is_of_file(&self) -> bool {
        self.file.is_some()
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        debug_assert!(
            flag_table::find(name).is_some(),
            "{name} is not in the table"
        );
        self.values.get(name).map(|(value, _)| value.as_str())
    }

    /// Where a flag was written, for a mistake to name; a flag that was not is named where it
    /// could have been.
    pub(super) fn source(&self, name: &str) -> Source {
        match (self.values.get(name), &self.file) {
            (Some((_, source)), _) => source.clone(),
            (None, Some(file)) => Source::File {
                file: file.display().to_string(),
                line: None,
                key: name.to_owned(),
            },
            (None, None) => Source::Argument(name.to_owned()),
        }
    }

    /// `None` when it was not given.
    pub fn unsigned(&self, name: &str) -> Option<u64> {
        parse_unsigned(self.text(name)?)
    }

    pub fn signed(&self, name: &str) -> Option<i64> {
        parse_signed(self.text(name)?)
    }

    pub fn duration(&self, name: &str) -> Option<Duration> {
        parse_duration(self.text(name)?)
    }

    pub fn bool(&self, name: &str) -> Option<bool> {
        parse_bool(self.text(name)?)
    }

    /// The flags that were given, in the order of the table.
    pub fn specs(&self) -> impl Iterator<Item = (&'static FlagSpec, &str)> {
        FLAGS
            .iter()
            .filter_map(|spec| Some((spec, self.text(spec.name)?)))
    }

    fn read_arguments(&mut self, arguments: &[String], mistakes: &mut Vec<Mistake>) {
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let Some(flag) = Argument::parse(argument) else {
                mistakes.push(Mistake::new(argument, Problem::NotAFlag));
                return;
            };
            match flag.name {
                "help" | "h" => self.help = true,
                "version" => match flag.value.map_or(Some(true), parse_bool) {
                    Some(asked) => self.version = asked,
                    None => mistakes.push(Mistake::new("version", Problem::Bool)),
                },
                _ => {
                    let Some(spec) = flag_table::find(flag.name) else {
                        mistakes.push(Mistake::new(flag.name, Problem::Unknown));
                        // Whether the next word is its value cannot be known.
                        return;
                    };
                    let value = match (flag.value, spec.kind) {
                        (Some(value), _) => value,
                        (None, Kind::Bool) => "true",
                        (None, _) => match arguments.next() {
                            Some(value) => value,
                            None => {
                                mistakes.push(Mistake::new(flag.name, Problem::NoValue));
                                return;
                            }
                        },
                    };
                    let source = Source::Argument(spec.name.to_owned());
                    self.take(spec, source, value, mistakes);
                }
            }
        }
    }

    fn read_environment(&mut self, environment: &[(String, String)], mistakes: &mut Vec<Mistake>) {
        for spec in FLAGS {
            let (name, value) = match variable(spec.name, environment) {
                Ok(None) => continue,
                Ok(Some(found)) => found,
                Err(both) => {
                    mistakes.extend(both);
                    continue;
                }
            };
            if self.values.contains_key(spec.name) {
                let problem = Problem::Shadowed { variable: name };
                mistakes.push(Mistake::new(spec.name, problem));
                continue;
            }
            self.take(spec, Source::Variable(name), value, mistakes);
        }
    }

    fn take(
        &mut self,
        spec: &'static FlagSpec,
        source: Source,
        value: &str,
        mistakes: &mut Vec<Mistake>,
    ) {
        match check_kind(spec.kind, value) {
            Ok(()) => self.set(spec, value.to_owned(), source),
            Err(problem) => mistakes.push(Mistake::of(source, problem)),
        }
    }
}

/// The variable that sets a flag, and its value. An empty one counts as unset, as it does for
/// etcd.
pub(super) fn variable<'a>(
    flag: &str,
    environment: &'a [(String, String)],
) -> Result<Option<(String, &'a str)>, Vec<Mistake>> {
    let set = |name: &str| {
        let found = environment
            .iter()
            .find(|(key, value)| key == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    };
    let suffix = suffix(flag);
    let [etcd, ours] = [format!("ETCD_{suffix}"), format!("SEALKV_{suffix}")];
    match (set(&etcd), set(&ours)) {
        (None, None) => Ok(None),
        (Some(value), None) => Ok(Some((etcd, value))),
        (None, Some(value)) => Ok(Some((ours, value))),
        (Some(_), Some(_)) => {
            let problem = Problem::TwoVariables { etcd, ours };
            Err(vec![Mistake::new(flag, problem)])
        }
    }
}

fn suffix(flag: &str) -> String {
    flag.to_uppercase().replace('-', "_")
}

/// The names of all variables that set flags.
pub(super) fn set_variables(environment: &[(String, String)]) -> impl Iterator<Item = &str> {
    ours(environment).filter_map(|(name, flag)| flag.map(|_| name))
}

/// The variables that look like ours and set no flag: a misspelt one must not pass in silence.
pub(super) fn unknown_variables(environment: &[(String, String)]) -> impl Iterator<Item = &str> {
    ours(environment)
        .filter(|(name, flag)| flag.is_none() && *name != ENDPOINTS)
        .map(|(name, _)| name)
}

/// Of the subcommands.
const ENDPOINTS: &str = "SEALKV_ENDPOINTS";

fn ours(
    environment: &[(String, String)],
) -> impl Iterator<Item = (&str, Option<&'static FlagSpec>)> {
    let set = environment.iter().filter(|(_, value)| !value.is_empty());
    set.filter_map(|(name, _)| {
        let rest = name
            .strip_prefix("ETCD_")
            .or_else(|| name.strip_prefix("SEALKV_"))?;
        let flag = FLAGS.iter().find(|flag| suffix(flag.name) == rest);
        Some((name.as_str(), flag))
    })
}

struct Argument<'a> {
    name: &'a str,
    value: Option<&'a str>,
}

impl<'a> Argument<'a> {
    fn parse(argument: &'a str) -> Option<Self> {
        let body = argument
            .strip_prefix("--")
            .or_else(|| argument.strip_prefix('-'))?;
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        (!name.is_empty() && !name.starts_with('-')).then_some(Self { name, value })
    }
}

pub(super) fn check_kind(kind: Kind, value: &str) -> Result<(), Problem> {
    let (parses, problem) = match kind {
        Kind::Gates => return FeatureGates::parse(value).map(drop),
        Kind::Text => (true, Problem::NoValue),
        Kind::Bool => (parse_bool(value).is_some(), Problem::Bool),
        Kind::Unsigned => (parse_unsigned(value).is_some(), Problem::Unsigned),
        Kind::Signed => (parse_signed(value).is_some(), Problem::Signed),
        Kind::Duration => (parse_duration(value).is_some(), Problem::Duration),
    };
    if parses { Ok(()) } else { Err(problem) }
}

pub(super) fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's integers: decimal, or with a prefix that names the base.
fn parse_unsigned(value: &str) -> Option<u64> {
    let lower = value.to_ascii_lowercase();
    let (digits, radix) = match lower.get(..2) {
        Some("0x") => (&lower[2..], 16),
        Some("0o") => (&lower[2..], 8),
        Some("0b") => (&lower[2..], 2),
        _ if lower.len() > 1 && lower.starts_with('0') => (&lower[1..], 8),
        _ => (lower.as_str(), 10),
    };
    let starts_well = digits.starts_with(|c: char| c.is_ascii_alphanumeric());
    starts_well.then(|| u64::from_str_radix(digits, radix).ok())?
}

fn parse_signed(value: &str) -> Option<i64> {
    match value.strip_prefix('-') {
        Some(magnitude) => 0_i64.checked_sub_unsigned(parse_unsigned(magnitude)?),
        None => i64::try_from(parse_unsigned(value.strip_prefix('+').unwrap_or(value))?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Given, Vec<Mistake>> {
        let arguments: Vec<_> = arguments.iter().map(|&a| a.to_owned()).collect();
        let environment: Vec<_> = environment
            .iter()
            .map(|&(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        Given::read(&arguments, &environment)
    }

    fn only_mistake(arguments: &[&str], environment: &[(&str, &str)]) -> String {
        let mistakes = read(arguments, environment).unwrap_err();
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        mistakes[0].to_string()
    }

    #[test]
    fn every_form_of_a_flag_means_the_same() {
        for arguments in [
            &["--name", "m1"][..],
            &["--name=m1"],
            &["-name", "m1"],
            &["-name=m1"],
            &["--name", "m0", "--name=m1"],
        ] {
            assert_eq!(
                read(arguments, &[]).unwrap().text("name"),
                Some("m1"),
                "{arguments:?}"
            );
        }
        for environment in [("ETCD_NAME", "m1"), ("SEALKV_NAME", "m1")] {
            assert_eq!(read(&[], &[environment]).unwrap().text("name"), Some("m1"));
        }
    }

    #[test]
    fn a_bool_takes_no_word_after_it() {
        for (argument, value) in [
            ("--pre-vote", true),
            ("--pre-vote=true", true),
            ("-pre-vote=T", true),
            ("--pre-vote=false", false),
            ("--pre-vote=0", false),
        ] {
            assert_eq!(
                read(&[argument], &[]).unwrap().bool("pre-vote"),
                Some(value)
            );
        }
        let mistake = only_mistake(&["--pre-vote", "false"], &[]);
        assert_eq!(mistake, r#""false" is not a valid flag"#);
        assert!(only_mistake(&["--pre-vote=yes"], &[]).contains("--pre-vote"));
    }

    #[test]
    fn numbers_and_durations_are_gos() {
        let given = read(
            &[
                "--snapshot-count=0x10",
                "--quota-backend-bytes=-1",
                "--grpc-keepalive-interval=1m",
            ],
            &[],
        )
        .unwrap();
        assert_eq!(given.unsigned("snapshot-count"), Some(16));
        assert_eq!(given.signed("quota-backend-bytes"), Some(-1));
        assert_eq!(
            given.duration("grpc-keepalive-interval"),
            Some(Duration::from_secs(60))
        );
        for bad in [
            "--snapshot-count=-1",
            "--snapshot-count=+1",
            "--snapshot-count=",
            "--snapshot-count=1k",
            "--snapshot-count=99999999999999999999",
            "--quota-backend-bytes=9223372036854775808",
            "--quota-backend-bytes=--1",
            "--grpc-keepalive-interval=5",
        ] {
            let name = bad.split_once('=').unwrap().0;
            assert!(only_mistake(&[bad], &[]).starts_with(name), "{bad}");
        }
    }

    #[test]
    fn what_is_no_flag_is_named() {
        assert_eq!(
            only_mistake(&["--nmae=x"], &[]),
            "--nmae: flag provided but not defined"
        );
        assert_eq!(
            only_mistake(&["extra"], &[]),
            r#""extra" is not a valid flag"#
        );
        assert_eq!(
            only_mistake(&["---name"], &[]),
            r#""---name" is not a valid flag"#
        );
        assert_eq!(only_mistake(&["-"], &[]), r#""-" is not a valid flag"#);
        assert_eq!(only_mistake(&["--"], &[]), r#""--" is not a valid flag"#);
        assert_eq!(
            only_mistake(&["--name"], &[]),
            "--name: flag needs an argument"
        );
    }

    #[test]
    fn two_sources_of_one_flag_are_refused() {
        let mistake = only_mistake(&["--name=a"], &[("ETCD_NAME", "b")]);
        assert!(
            mistake.contains("--name") && mistake.contains("ETCD_NAME"),
            "{mistake}"
        );
        let mistake = only_mistake(&[], &[("ETCD_NAME", "a"), ("SEALKV_NAME", "a")]);
        assert!(
            mistake.contains("SEALKV_NAME") && mistake.contains("ETCD_NAME"),
            "{mistake}"
        );
        assert_eq!(
            read(&["--name=a"], &[("ETCD_NAME", "")])
                .unwrap()
                .text("name"),
            Some("a")
        );
    }

    #[test]
    fn a_bad_variable_is_named_as_the_variable() {
        let mistake = only_mistake(&[], &[("ETCD_SNAPSHOT_COUNT", "many")]);
        assert!(mistake.starts_with("ETCD_SNAPSHOT_COUNT"), "{mistake}");
    }

    #[test]
    fn mistakes_are_reported_together() {
        let mistakes = read(
            &["--snapshot-count=x", "--pre-vote=x"],
            &[("ETCD_MAX_TXN_OPS", "x")],
        )
        .unwrap_err();
        assert_eq!(mistakes.len(), 3);
    }

    #[test]
    fn help_and_version_need_nothing_else_to_be_right() {
        assert!(read(&["--help", "--snapshot-count=x"], &[]).unwrap().help);
        assert!(read(&["-h"], &[]).unwrap().help);
        assert!(read(&["--version"], &[("ETCD_NAME", "a")]).unwrap().version);
    }
}
