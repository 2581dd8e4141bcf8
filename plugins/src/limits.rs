//! What a plugin may use, and the most an operator may allow.
//!
//! Owns every bound of the plugin host, and the memory meter wasmtime asks before a guest
//! grows. A limit that is hit costs the call that hit it and nothing else.

use std::time::Duration;

use wasmtime::ResourceLimiter;

pub const MIB: usize = 1024 * 1024;

/// Components larger than this are refused before they are read.
pub const COMPONENT_BYTES_MAX: usize = 32 * MIB;
/// Plugins a cluster runs at most.
pub const PLUGINS_MAX: usize = 64;
/// Generations of a plugin kept for rollback.
pub const GENERATIONS_MAX: usize = 3;
/// A batch holds at most this many events …
pub const BATCH_EVENTS_MAX: usize = 256;
/// … and, but for a single larger event, this many bytes.
pub const BATCH_BYTES_MAX: usize = MIB;
/// How long a batch that is not full waits for more.
pub const BATCH_LINGER: Duration = Duration::from_millis(20);
/// A chain of plugins stops after this many hops.
pub const HOPS_MAX: u8 = 8;
/// A longer wait than this is not granted to a plugin that asks to be retried.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

pub const EFFECT_OPS_MAX: usize = 1_024;
pub const EFFECT_BYTES_MAX: usize = MIB + MIB / 2;
/// What a guest may hand over in one host call or return, as wasmtime counts it.
pub(crate) const HOST_CALL_BYTES_MAX: usize = 4 * MIB;
/// Rows and bytes a plugin gets from one range call.
pub const RANGE_ROWS_MAX: u32 = 1_000;
pub const RANGE_BYTES_MAX: usize = MIB;

pub const SETTINGS_BYTES_MAX: usize = 64 * 1024;
pub const MESSAGE_BYTES_MAX: usize = 1_024;
pub(crate) const LOG_MESSAGE_BYTES_MAX: usize = 4 * 1_024;
pub(crate) const LOG_CONTEXT_BYTES_MAX: usize = 256;
pub(crate) const STDERR_BYTES_MAX: usize = 8 * 1_024;
pub const METRIC_SERIES_MAX: usize = 128;
pub(crate) const METRIC_LABELS_MAX: usize = 8;
pub(crate) const METRIC_TEXT_BYTES_MAX: usize = 64;
/// Streams, pollables and the like a guest may hold.
pub(crate) const RESOURCES_MAX: usize = 1_024;
pub(crate) const RANDOM_BYTES_MAX: u64 = 64 * 1024;

pub(crate) const EPOCH_TICK: Duration = Duration::from_millis(10);
/// For `describe` and `validate-settings`, which no change waits for.
pub(crate) const LIFECYCLE_DEADLINE: Duration = Duration::from_secs(5);

// Interpreted languages bring dozens of core modules; none brings hundreds.
const INSTANCES_MAX: usize = 128;
const TABLES_MAX: usize = 64;
const MEMORIES_MAX: usize = 16;
const TABLE_ELEMENTS_MAX: usize = 128 * 1024;

/// The limits of one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of one call, all memories together.
    pub memory_bytes: usize,
    /// From the start of the instance to its answer, waits on the host included.
    pub on_events_deadline: Duration,
    /// Calls from the guest to the host within one call.
    pub host_calls: u32,
    pub log_lines_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_bytes: 32 * MIB,
            on_events_deadline: Duration::from_secs(1),
            host_calls: 1_000,
            log_lines_per_second: 100,
        }
    }
}

impl Limits {
    /// The most an operator may allow a plugin.
    pub const MAX: Limits = Limits {
        memory_bytes: 256 * MIB,
        on_events_deadline: Duration::from_secs(30),
        host_calls: 100_000,
        log_lines_per_second: 1_000,
    };

    /// The least that lets any plugin run: a deadline below two ticks could end a call
    /// before it started.
    pub const MIN: Limits = Limits {
        memory_bytes: 2 * MIB,
        on_events_deadline: Duration::from_millis(20),
        host_calls: 1,
        log_lines_per_second: 1,
    };

    pub(crate) fn lifecycle() -> Limits {
        Limits {
            on_events_deadline: LIFECYCLE_DEADLINE,
            ..Limits::default()
        }
    }
}

/// Counts what one call holds and refuses what goes beyond its limits.
#[derive(Debug)]
pub(crate) struct Meter {
    memory_bytes_max: usize,
    memory_bytes: usize,
    table_elements: usize,
    refused: Option<Refused>,
}

/// What was refused last. A guest that is refused memory usually traps, and that trap says
/// nothing of the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Memory,
    Table,
}

impl Meter {
    pub(crate) fn new(limits: &Limits) -> Meter {
        Meter {
            memory_bytes_max: limits.memory_bytes,
            memory_bytes: 0,
            table_elements: 0,
            refused: None,
        }
    }

    /// Linear memory never shrinks, so what is held now is the most that was held.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    pub(crate) fn refused(&self) -> Option<Refused> {
        self.refused
    }
}

fn grown(held: usize, current: usize, desired: usize, max: usize) -> Option<usize> {
    held.checked_add(desired.saturating_sub(current))
        .filter(|total| *total <= max)
}

impl ResourceLimiter for Meter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let Some(total) = grown(self.memory_bytes, current, desired, self.memory_bytes_max) else {
            self.refused = Some(Refused::Memory);
            return Ok(false);
        };
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let Some(total) = grown(self.table_elements, current, desired, TABLE_ELEMENTS_MAX) else {
            self.refused = Some(Refused::Table);
            return Ok(false);
        };
        self.table_elements = total;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_over_all_memories_of_a_call() {
        let mut meter = Meter::new(&Limits::default());
        assert!(meter.memory_growing(0, 20 * MIB, None).expect("asks"));
        assert!(meter.memory_growing(0, 12 * MIB, None).expect("asks"));
        assert_eq!(meter.refused(), None);
        assert!(
            !meter
                .memory_growing(12 * MIB, 12 * MIB + 1, None)
                .expect("asks")
        );
        assert_eq!(meter.refused(), Some(Refused::Memory));
        assert_eq!(meter.memory_bytes(), 32 * MIB);
    }

    #[test]
    fn a_table_is_refused_beyond_its_limit() {
        let mut meter = Meter::new(&Limits::default());
        assert!(
            meter
                .table_growing(0, TABLE_ELEMENTS_MAX, None)
                .expect("asks")
        );
        assert!(!meter.table_growing(0, 1, None).expect("asks"));
        assert_eq!(meter.refused(), Some(Refused::Table));
    }
}
