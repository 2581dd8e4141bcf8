//! Builds guests for tests.
