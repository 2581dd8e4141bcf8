//! Leases: what is replicated about them, and the time that only the leader keeps.

pub mod lessor;
pub mod table;
