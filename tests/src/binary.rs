//! The programs under test: the sealkv binary, built once per test process, and the real etcd.
//!
//! Cargo builds another package's binary for no test, so it is asked here. `SEALKV_BIN` names a binary
//! to use instead. The real etcd is looked for where `tests/interop/setup.sh` puts it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The top of the checkout.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests crate lies in the workspace")
}

/// The sealkv binary of this profile, built on first use.
pub fn sealkv() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("SEALKV_BIN") {
        Some(path) => PathBuf::from(path),
        None => build_sealkv(),
    })
}

/// The directory of this profile's results: a test runs from `PROFILE/deps`, a binary from `PROFILE`.
fn profile_directory() -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    let directory = own.parent().expect("a program lies in a directory");
    if directory.ends_with("deps") {
        directory.parent().unwrap_or(directory)
    } else {
        directory
    }
    .to_path_buf()
}

fn build_sealkv() -> PathBuf {
    let results = profile_directory();
    let profile = match results.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).args([
        "build",
        "--quiet",
        // The whole workspace, tests included, as `cargo test` builds it: with other features the
        // dependencies would be compiled once more.
        "--workspace",
        "--all-targets",
        "--profile",
        profile,
    ]);
    if let Some(target) = results.parent() {
        cargo.arg("--target-dir").arg(target);
    }
    let status = cargo
        .status()
        .expect("cargo started this test, so it can be started again");
    assert!(status.success(), "building the sealkv binary failed");
    results.join("sealkv")
}

/// The directory that `tests/interop/setup.sh` fills.
pub fn interop() -> PathBuf {
    workspace().join("target/interop")
}

/// The real etcd (`SEALKV_ETCD_BIN`, else as installed by the setup script), if it is there.
pub fn etcd() -> Option<PathBuf> {
    let path =
        std::env::var_os("SEALKV_ETCD_BIN").map_or_else(|| interop().join("etcd"), PathBuf::from);
    path.exists().then_some(path)
}

/// The real etcd, or one line that says why a test is skipped. `SEALKV_REQUIRE_ETCD` turns that into a failure.
pub fn etcd_or_skip(test: &str) -> Option<PathBuf> {
    let found = etcd();
    if found.is_none() {
        assert!(
            std::env::var_os("SEALKV_REQUIRE_ETCD").is_none(),
            "{test} needs the real etcd: run tests/interop/setup.sh"
        );
        eprintln!("{test}: skipped, no real etcd here (tests/interop/setup.sh builds it)");
    }
    found
}
