//! What protects the root of the keys.

use std::path::PathBuf;

use super::super::KeySource;
use super::super::mistake::Problem;
use super::Settling;

impl Settling<'_> {
    pub(super) fn key_source(&mut self, data_dir: &std::path::Path) -> Option<KeySource> {
        let (flag, path) = ("root-key-file", self.given.text("root-key-file"));
        let passphrase = self.given.text("passphrase-file");
        for (flag, path) in [(flag, path), ("passphrase-file", passphrase)] {
            if path == Some("") {
                self.mistake(flag, Problem::Empty);
                return None;
            }
        }
        match (
            self.given.text("key-provider").unwrap_or("file"),
            path,
            passphrase,
        ) {
            ("file", None, None) => Some(KeySource::GeneratedKeyFile {
                path: beside(data_dir),
            }),
            ("file", Some(path), None) => Some(KeySource::KeyFile { path: path.into() }),
            ("file", _, Some(_)) => {
                self.mistake(
                    "passphrase-file",
                    Problem::OtherProvider { provider: "file" },
                );
                None
            }
            ("passphrase", None, Some(path)) => Some(KeySource::Passphrase { path: path.into() }),
            ("passphrase", None, None) => {
                self.mistake("passphrase-file", Problem::PassphraseUnset);
                None
            }
            ("passphrase", Some(_), _) => {
                self.mistake(
                    flag,
                    Problem::OtherProvider {
                        provider: "passphrase",
                    },
                );
                None
            }
            _ => {
                self.mistake(
                    "key-provider",
                    Problem::Choice {
                        allowed: "file or passphrase",
                    },
                );
                None
            }
        }
    }
}

/// `DATA_DIR.key`, beside the directory and never in it.
fn beside(data_dir: &std::path::Path) -> PathBuf {
    // Components drop a slash at the end, behind which the name would go into the directory.
    let mut path = data_dir.components().collect::<PathBuf>().into_os_string();
    path.push(".key");
    path.into()
}
