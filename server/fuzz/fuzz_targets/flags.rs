//! The command line: any arguments are a configuration or mistakes that say what is wrong.
#![no_main]

use libfuzzer_sys::fuzz_target;
use server::config::Config;

fuzz_target!(|text: &str| {
    let arguments: Vec<String> = text.lines().map(str::to_owned).collect();
    if let Err(error) = Config::ask(&arguments, &[]) {
        assert!(!error.mistakes().is_empty());
        assert!(error.mistakes().iter().all(|it| !it.to_string().is_empty()));
    }
});
