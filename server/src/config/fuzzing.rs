//! A way to the configuration file for the fuzz targets, past the file.

use super::{config_file, settle};

/// Reads the text as a configuration file, as far as a configuration.
pub fn file(text: &str) {
    let mistakes = match config_file::parse("etcd.yml", text) {
        Err(mistakes) => mistakes,
        Ok(given) => match settle::settle(&given) {
            Ok(config) => {
                let _ = config.check_bootstrap();
                let _ = config.check_join();
                return;
            }
            Err(mistakes) => mistakes,
        },
    };
    assert!(!mistakes.is_empty());
    assert!(mistakes.iter().all(|it| !it.to_string().is_empty()));
}
