//! The first-party plugins, built for the tests from their own crates.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::binary::workspace;

const TARGET: &str = "wasm32-wasip2";

/// The `index` plugin, or `None` and one line that says why where its target is not installed.
/// `SEALKV_REQUIRE_GUESTS` turns that into a failure.
pub fn index() -> Option<Vec<u8>> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let path = BUILT
        .get_or_init(|| {
            build(
                &workspace().join("plugins/bundled/index"),
                "sealkv_index.wasm",
            )
        })
        .as_ref()?;
    Some(std::fs::read(path).expect("cargo has just built it"))
}

fn build(directory: &Path, artifact: &str) -> Option<PathBuf> {
    if !target_installed(directory) {
        assert!(
            std::env::var_os("SEALKV_REQUIRE_GUESTS").is_none(),
            "plugins need the target {TARGET}: rustup target add {TARGET}"
        );
        eprintln!("skipped: the target {TARGET} is not installed (rustup target add {TARGET})");
        return None;
    }
    // Apart from the server's own results: guests share their dependencies with each other.
    let target = workspace().join("target/guests");
    let status = child("cargo", directory)
        .args(["build", "--release", "--locked", "--quiet"])
        .args(["--target", TARGET])
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .expect("cargo started this test, so it can be started again");
    assert!(status.success(), "the plugin does not build");
    Some(target.join(TARGET).join("release").join(artifact))
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

/// The variables of this test's own cargo would choose the wrong flags for a guest.
fn child(program: &str, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory);
    for variable in [
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
    ] {
        command.env_remove(variable);
    }
    command
}
