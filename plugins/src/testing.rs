//! Builds guests for tests, once per process.
//!
//! Where the guests' target is not installed, there is no component and one line on stderr
//! that says so; a guest that does not build is a panic.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

const TARGET: &str = "wasm32-wasip2";

/// A guest of this repository, built from its own crate with its own lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guest {
    /// A first-party plugin: the directory's name below `bundled/`.
    Bundled(&'static str),
    /// An example of the SDK.
    Example(&'static str),
    /// A guest of this crate's own tests.
    Test(&'static str),
}

impl Guest {
    fn directory(self) -> PathBuf {
        let plugins = Path::new(env!("CARGO_MANIFEST_DIR"));
        match self {
            Guest::Bundled(name) => plugins.join("bundled").join(name),
            Guest::Example(_) => plugins.join("sdk"),
            Guest::Test(_) => plugins.join("tests/guests"),
        }
    }

    fn example(self) -> Option<&'static str> {
        match self {
            Guest::Bundled(_) => None,
            Guest::Example(name) | Guest::Test(name) => Some(name),
        }
    }

    /// Where cargo puts the component, below its target directory.
    fn artifact(self) -> PathBuf {
        let release = Path::new(TARGET).join("release");
        match self {
            Guest::Bundled(name) => release.join(format!("sealkv_{}.wasm", name.replace('-', "_"))),
            Guest::Example(name) | Guest::Test(name) => {
                release.join("examples").join(format!("{name}.wasm"))
            }
        }
    }
}

/// The guest's component, or `None` where the target is not installed.
pub fn component(guest: Guest) -> Option<Arc<[u8]>> {
    static BUILT: Mutex<BTreeMap<Guest, Option<Arc<[u8]>>>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    built.entry(guest).or_insert_with(|| build(guest)).clone()
}

fn build(guest: Guest) -> Option<Arc<[u8]>> {
    let directory = guest.directory();
    if !target_installed(&directory) {
        eprintln!("skipped: the target {TARGET} is not installed (rustup target add {TARGET})");
        return None;
    }
    // The guests' own: they share their dependencies with each other, not with the server.
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests");
    let mut cargo = child("cargo", &directory);
    cargo
        .args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--target",
            TARGET,
        ])
        .env("CARGO_TARGET_DIR", &target);
    if let Some(example) = guest.example() {
        cargo.args(["--example", example]);
    }
    let output = cargo.output().expect("cargo built this test");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{guest:?} does not build: {errors}"
    );
    let component = std::fs::read(target.join(guest.artifact()));
    Some(component.expect("cargo has just built it").into())
}

fn target_installed(directory: &Path) -> bool {
    let printed = child("rustc", directory)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output();
    printed.is_ok_and(|output| {
        let libdir = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success() && Path::new(&libdir).is_dir()
    })
}

/// Cargo's and rustup's variables of the test run would choose the wrong toolchain, flags
/// and target directory for a guest.
fn child(program: &str, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory);
    for variable in [
        "CARGO",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "RUSTUP_AUTO_INSTALL",
        "RUSTUP_TOOLCHAIN",
    ] {
        command.env_remove(variable);
    }
    command
}
