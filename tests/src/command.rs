//! The binary's subcommands, run as a person runs them.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails where the test fails"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::binary;
use crate::cluster::Member;

/// With no variables of whoever runs the tests.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary::sealkv());
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

pub fn output(arguments: &[&str]) -> Output {
    command(arguments)
        .output()
        .expect("the binary can be started")
}

/// What it prints.
pub fn succeeds(arguments: &[&str]) -> String {
    let output = output(arguments);
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {out}{error}");
    out
}

/// What it complains about.
pub fn fails(arguments: &[&str]) -> String {
    let output = output(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    text(&output.stderr)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn show(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

/// Where a member that is given no key file keeps it.
pub fn key_file(member: &Member) -> PathBuf {
    let mut name = member.data.clone().into_os_string();
    name.push(".key");
    name.into()
}

/// What lies there whose name has this in it.
pub fn beside(directory: &Path, part: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| text(path.as_os_str().as_encoded_bytes()).contains(part))
        .collect()
}

pub fn save(member: &Member, file: &Path) {
    let endpoint = member.endpoint();
    succeeds(&["--endpoints", &endpoint, "snapshot", "save", show(file)]);
}

/// The words that make the member's data directory out of a backup, by the flags that it is
/// started with later; what opens the backup is the caller's to add.
pub fn restore_words(member: &Member, file: &Path) -> Vec<String> {
    let wanted = [
        "--name=",
        "--data-dir=",
        "--initial-advertise-peer-urls=",
        "--initial-cluster=",
        "--initial-cluster-token=",
    ];
    let arguments = member
        .arguments
        .iter()
        .map(|it| text(it.as_encoded_bytes()));
    let flags = arguments.filter(|flag| wanted.iter().any(|prefix| flag.starts_with(prefix)));
    ["snapshot", "restore", show(file)]
        .map(str::to_owned)
        .into_iter()
        .chain(flags)
        .collect()
}

/// By the key file of the member that made the backup, which the member is started with too.
pub fn restore(member: &mut Member, file: &Path, key: &Path, more: &[&str]) -> String {
    let words = restore_words(member, file);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let out = succeeds(&[&words[..], &["--root-key-file", show(key)], more].concat());
    member.set_flag("root-key-file", show(key));
    out
}
