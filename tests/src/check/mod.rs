//! Guarantees as checks over recorded histories; one file per guarantee, no server in sight.

pub mod linearizability;
pub mod watch;
