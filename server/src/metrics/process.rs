//! What the operating system says of the process, under the names that etcd's page has.
//!
//! Promise: read at each scrape; where the system says nothing a family is left out.
//! Source: Linux, proc(5): `limits`, `net/netstat`.

use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntCounter};

/// Beside those of the `prometheus` crate.
pub(super) fn gather() -> Vec<MetricFamily> {
    let mut families = Vec::new();
    let descriptors = std::fs::read_dir("/proc/self/fd").ok();
    gauge(
        &mut families,
        "os_fd_used",
        "File descriptors in use.",
        descriptors.map(|entries| entries.count() as f64),
    );
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    gauge(
        &mut families,
        "os_fd_limit",
        "File descriptors that may be open.",
        limit(&limits, "Max open files"),
    );
    gauge(
        &mut families,
        "process_virtual_memory_max_bytes",
        "Virtual memory that may be used.",
        limit(&limits, "Max address space"),
    );
    let traffic = std::fs::read_to_string("/proc/self/net/netstat").unwrap_or_default();
    counter(
        &mut families,
        "process_network_receive_bytes_total",
        "Bytes that the network of this process has received.",
        octets(&traffic, "InOctets"),
    );
    counter(
        &mut families,
        "process_network_transmit_bytes_total",
        "Bytes that the network of this process has sent.",
        octets(&traffic, "OutOctets"),
    );
    families
}

fn gauge(families: &mut Vec<MetricFamily>, name: &str, help: &str, value: Option<f64>) {
    if let (Some(value), Ok(gauge)) = (value, Gauge::new(name, help)) {
        gauge.set(value);
        families.extend(gauge.collect());
    }
}

fn counter(families: &mut Vec<MetricFamily>, name: &str, help: &str, value: Option<u64>) {
    if let (Some(value), Ok(counter)) = (value, IntCounter::new(name, help)) {
        counter.inc_by(value);
        families.extend(counter.collect());
    }
}

/// The soft limit; Go shows no limit as the largest number.
fn limit(limits: &str, name: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX as f64),
        number => number.parse().ok(),
    }
}

/// Names stand on one line, numbers on the next.
fn octets(netstat: &str, name: &str) -> Option<u64> {
    let mut lines = netstat
        .lines()
        .filter_map(|line| line.strip_prefix("IpExt: "));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|word| word == name)?;
    numbers.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_read() {
        let limits = "Limit   Soft Limit  Hard Limit  Units\n\
                      Max open files            1024   4096   files\n\
                      Max address space         unlimited   unlimited   bytes\n";
        assert_eq!(limit(limits, "Max open files"), Some(1024.0));
        assert_eq!(limit(limits, "Max address space"), Some(u64::MAX as f64));
        assert_eq!(limit(limits, "Max nice"), None);
        let netstat = "TcpExt: A B\nTcpExt: 1 2\nIpExt: X InOctets OutOctets\nIpExt: 1 2 3\n";
        assert_eq!(octets(netstat, "InOctets"), Some(2));
        assert_eq!(octets(netstat, "OutOctets"), Some(3));
        assert_eq!(octets("", "InOctets"), None);
    }
}
