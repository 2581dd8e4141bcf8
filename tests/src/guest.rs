//! Builds a first-party plugin to a component, once per test process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::binary;

const TARGET: &str = "wasm32-wasip2";
/// Of the test run: they would choose the wrong toolchain, flags and target directory for a guest.
const NOT_FOR_GUESTS: [&str; 7] = [
    "RUSTUP_AUTO_INSTALL",
    "RUSTUP_TOOLCHAIN",
    "CARGO",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTFLAGS",
    "CARGO_TARGET_DIR",
];

/// The bundled plugin `index`, or `None` with one line on stderr where the guests' target is not installed.
/// `SEALKV_REQUIRE_GUESTS` turns that into a failure.
pub fn index() -> Option<&'static [u8]> {
    static COMPONENT: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    COMPONENT.get_or_init(|| build("index")).as_deref()
}

fn build(plugin: &str) -> Option<Vec<u8>> {
    let directory = binary::workspace().join("plugins/bundled").join(plugin);
    if !target_installed(&directory) {
        assert!(
            std::env::var_os("SEALKV_REQUIRE_GUESTS").is_none(),
            "the target {TARGET} is not installed"
        );
        eprintln!("skipped: the target {TARGET} is not installed (rustup target add {TARGET})");
        return None;
    }
    let results = binary::workspace().join("target/guests");
    let status = guest_command("cargo", &directory)
        .args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--target",
            TARGET,
        ])
        .env("CARGO_TARGET_DIR", &results)
        .status()
        .expect("cargo built this test");
    assert!(status.success(), "the plugin {plugin} does not build");
    let file = results
        .join(TARGET)
        .join("release")
        .join(format!("sealkv_{}.wasm", plugin.replace('-', "_")));
    Some(std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
}

fn target_installed(directory: &Path) -> bool {
    let printed = guest_command("rustc", directory)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output();
    printed.is_ok_and(|output| {
        output.status.success()
            && PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).is_dir()
    })
}

fn guest_command(program: &str, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory);
    for variable in NOT_FOR_GUESTS {
        command.env_remove(variable);
    }
    command
}
