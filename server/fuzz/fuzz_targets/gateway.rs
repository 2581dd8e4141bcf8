//! HTTP clients' JSON: bodies, their cutting apart, answers, headers that become metadata.
#![no_main]

use libfuzzer_sys::fuzz_target;
use server::http::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    match kind % 4 {
        0 => fuzzing::answer(rest),
        1 => fuzzing::values(rest),
        2 => fuzzing::headers(rest),
        _ => fuzzing::body(rest),
    }
});
