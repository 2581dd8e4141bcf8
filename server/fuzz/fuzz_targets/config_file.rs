//! The configuration file: any text is a configuration or mistakes that say what is wrong.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| server::config::fuzzing::file(text));
