//! The guests are this crate's examples.
