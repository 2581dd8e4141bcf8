//! The bytes of a profile, as `go tool pprof` reads them.
//!
//! Source: github.com/google/pprof, `proto/profile.proto`.

use std::collections::HashMap;
use std::hash::Hash;
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use pprof::{Frames, Symbol};
use prost::Message;

const NANOSECONDS: i64 = 1_000_000_000;

/// When and how often samples were taken.
pub(super) struct Timing {
    pub(super) samples_per_second: i32,
    pub(super) began: SystemTime,
    pub(super) length: Duration,
}

/// Stacks and how often each was met, compressed as Go sends them. A stack's names are kept once,
/// so that it matters little how many there are.
pub(super) fn encode(
    stacks: impl Iterator<Item = (Frames, isize)>,
    timing: &Timing,
) -> io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&profile(stacks, timing).encode_to_vec())?;
    gzip.finish()
}

fn profile(stacks: impl Iterator<Item = (Frames, isize)>, timing: &Timing) -> Profile {
    let mut tables = Tables::default();
    tables.string("");
    let (samples, count) = (tables.string("samples"), tables.string("count"));
    let (cpu, nanoseconds) = (tables.string("cpu"), tables.string("nanoseconds"));
    let thread = tables.string("thread");
    let time = ValueType {
        kind: cpu,
        unit: nanoseconds,
    };
    let period = NANOSECONDS / i64::from(timing.samples_per_second.max(1));
    let taken = stacks.map(|(frames, times)| {
        let times = i64::try_from(times).unwrap_or(i64::MAX);
        Sample {
            location_id: tables.stack(&frames),
            value: vec![times, times.saturating_mul(period)],
            label: vec![Label {
                key: thread,
                text: tables.string(&frames.thread_name_or_id()),
            }],
        }
    });
    let sample = taken.collect();
    let began = timing.began.duration_since(UNIX_EPOCH);
    let nanos = |length: Duration| i64::try_from(length.as_nanos()).unwrap_or(i64::MAX);
    Profile {
        sample_type: vec![
            ValueType {
                kind: samples,
                unit: count,
            },
            time.clone(),
        ],
        sample,
        mapping: vec![Mapping {
            id: 1,
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
        }],
        location: tables.locations,
        function: tables.functions,
        string_table: tables.strings.in_order,
        time_nanos: nanos(began.unwrap_or_default()),
        duration_nanos: nanos(timing.length),
        period_type: Some(time),
        period,
    }
}

/// Things in the order of their first use.
struct Table<T> {
    places: HashMap<T, usize>,
    in_order: Vec<T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            places: HashMap::new(),
            in_order: Vec::new(),
        }
    }
}

impl<T: Clone + Eq + Hash> Table<T> {
    /// Its place, and whether it is new there.
    fn place(&mut self, thing: T) -> (usize, bool) {
        let next = self.in_order.len();
        let place = *self.places.entry(thing.clone()).or_insert(next);
        if place == next {
            self.in_order.push(thing);
        }
        (place, place == next)
    }
}

/// What samples and each other refer to by numbers; all but strings count from 1.
#[derive(Default)]
struct Tables {
    strings: Table<String>,
    functions: Vec<Function>,
    function_ids: Table<(i64, i64)>,
    locations: Vec<Location>,
    location_ids: Table<Vec<(u64, i64)>>,
}

impl Tables {
    fn string(&mut self, text: &str) -> i64 {
        self.strings.place(text.to_owned()).0 as i64
    }

    /// The innermost first.
    fn stack(&mut self, frames: &Frames) -> Vec<u64> {
        let own = |inlined: &&Vec<Symbol>| inlined.iter().any(is_the_profilers);
        let stack = frames.frames.iter().skip_while(own);
        stack.map(|inlined| self.location(inlined)).collect()
    }

    /// A function and those around it that it was inlined into.
    fn location(&mut self, inlined: &[Symbol]) -> u64 {
        let lines = inlined.iter().map(|symbol| {
            let line = symbol.lineno.map_or(0, i64::from);
            (self.function(symbol), line)
        });
        let lines: Vec<_> = lines.collect();
        let (place, is_new) = self.location_ids.place(lines.clone());
        let id = place as u64 + 1;
        if is_new {
            let line = |(function_id, line)| Line { function_id, line };
            self.locations.push(Location {
                id,
                mapping_id: 1,
                line: lines.into_iter().map(line).collect(),
            });
        }
        id
    }

    fn function(&mut self, symbol: &Symbol) -> u64 {
        let name = self.string(&symbol.name());
        let filename = self.string(&symbol.filename());
        let (place, is_new) = self.function_ids.place((name, filename));
        let id = place as u64 + 1;
        if is_new {
            let system_name = self.string(&symbol.sys_name());
            self.functions.push(Function {
                id,
                name,
                system_name,
                filename,
            });
        }
        id
    }
}

/// Such stand on top of every stack.
fn is_the_profilers(symbol: &Symbol) -> bool {
    let name = symbol.name();
    name.starts_with("backtrace::") || name.contains("pprof::backtrace::")
}

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

/// Of the program, which is all that is looked at.
#[derive(Clone, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "8")]
    has_filenames: bool,
    #[prost(bool, tag = "9")]
    has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn symbol(name: &str, line: u32) -> Symbol {
        Symbol {
            name: Some(name.as_bytes().to_vec()),
            addr: None,
            lineno: Some(line),
            filename: Some("a.rs".into()),
        }
    }

    fn frames(stack: &[&[(&str, u32)]]) -> Frames {
        let frame = |inlined: &&[(&str, u32)]| -> Vec<Symbol> {
            let symbols = inlined.iter().map(|(name, line)| symbol(name, *line));
            symbols.collect()
        };
        Frames {
            frames: stack.iter().map(frame).collect(),
            thread_name: "raft".to_owned(),
            thread_id: 1,
            sample_timestamp: UNIX_EPOCH,
        }
    }

    #[test]
    fn a_stack_keeps_its_order_its_inlined_functions_and_its_thread_but_not_the_profiler() {
        let stack = frames(&[&[("inner", 3), ("outer", 7)], &[("main", 1)]]);
        let recursive = frames(&[
            &[("backtrace::trace", 1)],
            &[("main", 1)],
            &[("main", 1)],
            &[("main", 9)],
        ]);
        let timing = Timing {
            samples_per_second: 100,
            began: UNIX_EPOCH,
            length: Duration::from_secs(1),
        };
        let mut bytes = Vec::new();
        let packed = encode([(stack, 2), (recursive, 5)].into_iter(), &timing).unwrap();
        let mut gzip = flate2::read::GzDecoder::new(&packed[..]);
        gzip.read_to_end(&mut bytes).unwrap();
        let profile = Profile::decode(&bytes[..]).unwrap();
        assert_eq!(
            (profile.period, profile.duration_nanos),
            (10_000_000, NANOSECONDS)
        );
        let text = |at: i64| profile.string_table[at as usize].as_str();
        assert_eq!(text(0), "");
        let name = |line: &Line| {
            let function = &profile.function[line.function_id as usize - 1];
            assert_eq!(function.id, line.function_id);
            (text(function.name), line.line)
        };
        let stack_of = |times: i64| -> Vec<Vec<(&str, i64)>> {
            let mut samples = profile.sample.iter();
            let sample = samples.find(|sample| sample.value[0] == times).unwrap();
            assert_eq!(text(sample.label[0].text), "raft");
            let places = sample.location_id.iter();
            let places = places.map(|id| &profile.location[*id as usize - 1]);
            places
                .map(|at| at.line.iter().map(name).collect())
                .collect()
        };
        assert_eq!(
            stack_of(2),
            [vec![("inner", 3), ("outer", 7)], vec![("main", 1)]]
        );
        assert_eq!(
            stack_of(5),
            [vec![("main", 1)], vec![("main", 1)], vec![("main", 9)]]
        );
        assert_eq!((profile.function.len(), profile.location.len()), (3, 3));
    }
}
