//! What is counted about the traffic between members, under etcd's names.
//!
//! Promise: bytes are those of messages, without what HTTP adds; a round trip is that of a
//! heartbeat.
//! Not known here: who the members are; whoever calls says so.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

use super::families::{Families, doubling};

#[derive(Debug)]
pub struct PeerMeters {
    sent_bytes: IntCounterVec,
    received_bytes: IntCounterVec,
    sent_failures: IntCounterVec,
    received_failures: IntCounterVec,
    round_trip_seconds: HistogramVec,
    active: IntGaugeVec,
    disconnected: IntCounterVec,
    known: IntGaugeVec,
    /// Whether the last that was heard of a peer was good.
    reached: Mutex<BTreeMap<(u64, u64), bool>>,

    snapshots_sent: IntCounterVec,
    snapshots_not_sent: IntCounterVec,
    snapshot_send_seconds: HistogramVec,
    snapshots_received: IntCounterVec,
    snapshots_not_received: IntCounterVec,
    snapshot_receive_seconds: HistogramVec,
}

impl PeerMeters {
    pub(super) fn register(to: &Families) -> Self {
        let seconds = || doubling(0.1, 10);
        Self {
            sent_bytes: to.counters(
                "etcd_network_peer_sent_bytes_total",
                "Bytes of messages sent to a peer.",
                &["To"],
            ),
            received_bytes: to.counters(
                "etcd_network_peer_received_bytes_total",
                "Bytes of messages received from a peer.",
                &["From"],
            ),
            sent_failures: to.counters(
                "etcd_network_peer_sent_failures_total",
                "Calls to a peer that failed.",
                &["To"],
            ),
            received_failures: to.counters(
                "etcd_network_peer_received_failures_total",
                "Calls of a peer that were refused or broke off.",
                &["From"],
            ),
            round_trip_seconds: to.histograms(
                "etcd_network_peer_round_trip_time_seconds",
                "Round trips of heartbeats to a peer.",
                &["To"],
                doubling(0.0001, 16),
            ),
            active: to.gauges(
                "etcd_network_active_peers",
                "Whether a peer can be reached.",
                &["Local", "Remote"],
            ),
            disconnected: to.counters(
                "etcd_network_disconnected_peers_total",
                "How often a peer was lost.",
                &["Local", "Remote"],
            ),
            known: to.gauges(
                "etcd_network_known_peers",
                "Members of the cluster.",
                &["Local", "Remote"],
            ),
            reached: Mutex::default(),
            snapshots_sent: to.counters(
                "etcd_network_snapshot_send_success",
                "Snapshots sent to a peer.",
                &["To"],
            ),
            snapshots_not_sent: to.counters(
                "etcd_network_snapshot_send_failures",
                "Snapshots that could not be sent.",
                &["To"],
            ),
            snapshot_send_seconds: to.histograms(
                "etcd_network_snapshot_send_total_duration_seconds",
                "How long sending a snapshot took.",
                &["To"],
                seconds(),
            ),
            snapshots_received: to.counters(
                "etcd_network_snapshot_receive_success",
                "Snapshots received from a peer.",
                &["From"],
            ),
            snapshots_not_received: to.counters(
                "etcd_network_snapshot_receive_failures",
                "Snapshots that broke off or were damaged.",
                &["From"],
            ),
            snapshot_receive_seconds: to.histograms(
                "etcd_network_snapshot_receive_total_duration_seconds",
                "How long receiving a snapshot took.",
                &["From"],
                seconds(),
            ),
        }
    }

    pub fn sent(&self, to: u64, bytes: usize) {
        self.sent_bytes
            .with_label_values(&[&hex(to)])
            .inc_by(bytes as u64);
    }

    pub fn received(&self, from: u64, bytes: usize) {
        self.received_bytes
            .with_label_values(&[&hex(from)])
            .inc_by(bytes as u64);
    }

    pub fn round_trip(&self, to: u64, took: Duration) {
        self.round_trip_seconds
            .with_label_values(&[&hex(to)])
            .observe(took.as_secs_f64());
    }

    /// A call of this peer could not be taken.
    pub fn refused(&self, from: u64) {
        self.received_failures
            .with_label_values(&[&hex(from)])
            .inc();
    }

    /// A peer has answered, or asked.
    pub fn reached(&self, local: u64, remote: u64) {
        if self.reached.lock().insert((local, remote), true) != Some(true) {
            self.active
                .with_label_values(&[&hex(local), &hex(remote)])
                .set(1);
        }
    }

    /// A call to a peer failed.
    pub fn lost(&self, local: u64, remote: u64) {
        self.sent_failures.with_label_values(&[&hex(remote)]).inc();
        let before = self.reached.lock().insert((local, remote), false);
        if before != Some(false) {
            let labels = [&hex(local), &hex(remote)];
            self.active.with_label_values(&labels).set(0);
            if before == Some(true) {
                self.disconnected.with_label_values(&labels).inc();
            }
        }
    }

    pub fn snapshot_sent(&self, to: u64, took: Duration, well: bool) {
        let to = hex(to);
        if well {
            self.snapshots_sent.with_label_values(&[&to]).inc();
            self.snapshot_send_seconds
                .with_label_values(&[&to])
                .observe(took.as_secs_f64());
        } else {
            self.snapshots_not_sent.with_label_values(&[&to]).inc();
        }
    }

    pub fn snapshot_received(&self, from: u64, took: Duration, well: bool) {
        let from = hex(from);
        if well {
            self.snapshots_received.with_label_values(&[&from]).inc();
            self.snapshot_receive_seconds
                .with_label_values(&[&from])
                .observe(took.as_secs_f64());
        } else {
            self.snapshots_not_received
                .with_label_values(&[&from])
                .inc();
        }
    }

    /// Just before a scrape; members that are gone take their series with them.
    pub fn set_known(&self, local: u64, members: &[u64]) {
        self.known.reset();
        for &remote in members {
            self.known
                .with_label_values(&[&hex(local), &hex(remote)])
                .set(1);
        }
        self.reached.lock().retain(|&(from, remote), _| {
            let stays = members.contains(&remote) || members.is_empty();
            if !stays {
                let _ = self.active.remove_label_values(&[&hex(from), &hex(remote)]);
            }
            stays
        });
    }
}

fn hex(id: u64) -> String {
    format!("{id:x}")
}

#[cfg(test)]
mod tests {
    use super::super::metrics;

    fn page() -> String {
        String::from_utf8(metrics().page()).unwrap()
    }

    #[test]
    fn a_peer_that_is_lost_is_counted_once_until_it_is_back() {
        let peers = &metrics().peers;
        let (local, remote) = (0xa1, 0xb2);
        peers.reached(local, remote);
        peers.lost(local, remote);
        peers.lost(local, remote);
        let labels = r#"{Local="a1",Remote="b2"}"#;
        let text = page();
        for line in [
            format!("etcd_network_active_peers{labels} 0"),
            format!("etcd_network_disconnected_peers_total{labels} 1"),
            r#"etcd_network_peer_sent_failures_total{To="b2"} 2"#.to_owned(),
        ] {
            assert!(text.contains(&line), "{line}");
        }
        peers.reached(local, remote);
        assert!(page().contains(&format!("etcd_network_active_peers{labels} 1")));
    }
}
