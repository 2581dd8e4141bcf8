//! What ordinary Rust does when it goes wrong, by the setting `mode`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sealkv_plugin::{Batch, Effects, HandlerError, Plugin, config, kv, lease, log, metrics};

struct Misbehaving;

static CALLS: AtomicU32 = AtomicU32::new(0);

impl Plugin for Misbehaving {
    const NAME: &'static str = "misbehaving";
    const VERSION: &'static str = "0.1.0";

    fn validate_settings(json: &str) -> Result<(), String> {
        match config::get("mode").as_deref() {
            Some("refuse") => Err(format!("{} bytes of settings", json.len())),
            Some("panic") => panic!("settings"),
            Some("read") => read("/in/").map(|_| ()),
            _ => Ok(()),
        }
    }

    fn on_events(batch: Batch) -> Result<Effects, HandlerError> {
        let mode = config::get("mode").unwrap_or_default();
        match mode.as_str() {
            "panic" => panic!("a reason"),
            "allocate" => allocate(),
            "sleep" => std::thread::sleep(Duration::from_secs(3_600)),
            "print" => print(),
            "exit" => std::process::exit(7),
            "log" => (0..500).for_each(|line| log::info("flood", &line.to_string())),
            "series" => (0..500).for_each(|n| metrics::counter_add(&format!("m{n}"), 1, &[])),
            "retry" => return Err(HandlerError::retry_after(u64::MAX, "later")),
            "reject" => return Err(HandlerError::reject("never")),
            _ => {}
        }
        let mut effects = Effects::none();
        match mode.as_str() {
            "outside" => effects.put("/elsewhere", "", 0),
            "outside-range" => effects.delete_range("/out/", "/p"),
            "remember" => {
                let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
                effects.put("/out/calls", calls.to_string(), 0);
            }
            "read" => {
                effects.put("/out/in", said(read("/in/")), 0);
                effects.put("/out/elsewhere", said(read("/elsewhere/")), 0);
                effects.put("/out/lease", format!("{:?}", lease::time_to_live(7)), 0);
            }
            // A map has random state, which plain Rust gets from WASI.
            _ => {
                let keys = batch
                    .events
                    .into_iter()
                    .map(|event| (event.kv.key, event.kv.value));
                for (key, value) in keys.collect::<HashMap<_, _>>() {
                    let copy = [b"/out", &key[..]].concat();
                    effects.put(copy, value.unwrap_or_default(), 0);
                }
            }
        }
        Ok(effects)
    }
}

fn allocate() {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        held.push(vec![1; 1 << 20]);
    }
}

fn print() {
    for _ in 0..1_000 {
        println!("{}", "x".repeat(1_000));
        eprintln!("{}", "x".repeat(1_000));
    }
}

fn read(prefix: &str) -> Result<usize, String> {
    let request = kv::RangeRequest {
        key: prefix.as_bytes().to_vec(),
        range_end: Vec::new(),
        limit: 0,
        revision: 0,
        keys_only: false,
    };
    let response = kv::range(&request).map_err(|error| format!("{error:?}"))?;
    Ok(response.kvs.len())
}

fn said(answer: Result<usize, String>) -> String {
    answer.map_or_else(|error| error, |rows| rows.to_string())
}

sealkv_plugin::export!(Misbehaving);
