//! Durations as Go writes them: `100ms`, `1m30s`, `1.5h`.
//!
//! Not known here: flags.

use std::fmt::Write as _;
use std::time::Duration;

/// `None` for what Go would not take, and for what does not fit 64 bits of nanoseconds.
/// Negative durations mean nothing to any flag and are refused as well.
pub fn parse_duration(given: &str) -> Option<Duration> {
    let given = given.strip_prefix('+').unwrap_or(given);
    if given == "0" {
        return Some(Duration::ZERO);
    }
    if given.is_empty() {
        return None;
    }
    let mut rest = given;
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        nanos = nanos.checked_add(scaled(number, nanos_of(unit)?)?)?;
        rest = next;
    }
    i64::try_from(nanos).ok()?;
    Some(Duration::from_nanos(nanos))
}

fn nanos_of(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `number` is digits with at most one point and at least one digit.
fn scaled(number: &str, unit_nanos: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut nanos = whole.checked_mul(unit_nanos)?;
    let mut scale = unit_nanos;
    for digit in fraction.bytes() {
        // Each further digit is worth a tenth, until it is worth less than a nanosecond.
        let worth = u64::from(digit - b'0') * scale / 10;
        scale /= 10;
        nanos = nanos.checked_add(worth)?;
    }
    Some(nanos)
}

/// As Go prints it, for messages and help.
pub fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000_000_000 {
        let (unit, size) = match nanos {
            0..1_000 => ("ns", 1),
            1_000..1_000_000 => ("µs", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{}{unit}", nanos as f64 / f64::from(size));
    }
    let seconds = duration.as_secs();
    let mut text = String::new();
    if seconds >= 3600 {
        let _ = write!(text, "{}h", seconds / 3600);
    }
    if seconds >= 60 {
        let _ = write!(text, "{}m", seconds % 3600 / 60);
    }
    let rest = (seconds % 60) as f64 + f64::from(duration.subsec_nanos()) / 1e9;
    let _ = write!(text, "{rest}s");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read() {
        for (given, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("100ms", 100_000_000),
            ("1m0s", 60_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("2us", 2_000),
            ("2µs", 2_000),
            ("7ns", 7),
            ("+3s", 3_000_000_000),
        ] {
            assert_eq!(
                parse_duration(given),
                Some(Duration::from_nanos(nanos)),
                "{given}"
            );
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for given in [
            "",
            "5",
            "s",
            ".s",
            "1.2.3s",
            "1d",
            "-1s",
            "1 s",
            "300000000000h",
            "1s2",
        ] {
            assert_eq!(parse_duration(given), None, "{given}");
        }
    }

    #[test]
    fn durations_are_shown_as_go_shows_them() {
        for text in ["0s", "100ms", "1.5s", "1m0s", "2h0m0s", "10m0s", "5s"] {
            assert_eq!(show_duration(parse_duration(text).unwrap()), text);
        }
    }
}
