//! The arrows of the architecture: which crate may know which, and which module alone names a library.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tests::binary::workspace;

/// Each crate and the crates of this workspace that it may depend on.
const ARROWS: [(&str, &[&str]); 5] = [
    ("proto", &[]),
    ("keys", &[]),
    ("plugins", &[]),
    ("server", &["proto", "keys", "plugins"]),
    ("tests", &["server", "proto"]),
];

/// A library and the only places that may name it.
const CONFINED: [(&str, &[&str]); 5] = [
    ("fjall", &["server/src/storage"]),
    ("openraft", &["server/src/raft"]),
    ("wasmtime", &["plugins"]),
    ("wasmtime_wasi", &["plugins"]),
    ("aes_gcm", &["keys"]),
];

/// What a crate must not name anywhere, in code or in its manifest.
const FORBIDDEN: [(&str, &[&str]); 3] = [
    (
        "keys",
        &[
            "tokio", "tonic", "fjall", "openraft", "wasmtime", "plugins", "server", "proto",
        ],
    ),
    (
        "plugins",
        &["tonic", "fjall", "openraft", "keys", "server", "proto"],
    ),
    ("proto", &["fjall", "openraft", "keys", "plugins", "server"]),
];

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
    {
        let path = entry.expect("a directory can be listed").path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if path.is_dir() && !["target", "fuzz", "sdk", "bundled", "guests"].contains(&name) {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn files_of(part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    rust_files(&workspace().join(part), &mut found);
    found
}

/// The code of a file without its comments and texts; good enough for looking for paths.
fn code(path: &Path) -> String {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let without_comments = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    without_comments
        .map(|line| line.split('"').step_by(2).collect::<Vec<_>>().join(""))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Does the code name a crate: `use name`, `name::`, `extern crate name`?
fn names(code: &str, library: &str) -> bool {
    code.match_indices(library).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + library.len()..];
        let starts_a_word = !before.is_some_and(|letter| {
            letter.is_alphanumeric() || letter == '_' || letter == ':' || letter == '.'
        });
        let in_use = code[..at].trim_end().ends_with("use")
            && (after.starts_with(';') || after.starts_with(" as ") || after.starts_with("::"));
        starts_a_word && (after.starts_with("::") && !in_module_of_that_name(code, at) || in_use)
    })
}

/// `crate::keys::x` and `super::keys::x` begin with `:`; a bare `keys::x` beside `mod keys;` is the module.
fn in_module_of_that_name(code: &str, at: usize) -> bool {
    let library: String = code[at..]
        .chars()
        .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
        .collect();
    code.contains(&format!("mod {library};"))
        || code.contains(&format!("mod {library} {{"))
        || code.contains(&format!("super::{library}"))
        || code.contains(&format!("crate::{library}"))
}

/// The names under `[dependencies]` and its kin.
fn dependencies(part: &str) -> BTreeSet<String> {
    let manifest = std::fs::read_to_string(workspace().join(part).join("Cargo.toml"))
        .expect("every crate has a manifest");
    let mut in_dependencies = false;
    let mut found = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            in_dependencies = line.trim_matches(['[', ']']).ends_with("dependencies");
        } else if in_dependencies && !line.starts_with('#') {
            let name: String = line
                .chars()
                .take_while(|letter| letter.is_alphanumeric() || *letter == '_' || *letter == '-')
                .collect();
            found.extend((!name.is_empty()).then(|| name.trim_start_matches("sealkv-").to_owned()));
        }
    }
    found
}

#[test]
fn crates_depend_only_along_the_arrows() {
    for (part, allowed) in ARROWS {
        // A crate may name itself, to have a feature of its own in its tests.
        for (other, _) in ARROWS.into_iter().filter(|(other, _)| *other != part) {
            let depends = dependencies(part).contains(other);
            assert!(
                !depends || allowed.contains(&other),
                "{part} must not depend on {other}"
            );
        }
    }
}

#[test]
fn a_library_is_named_only_where_it_belongs() {
    for (library, places) in CONFINED {
        for path in ["server", "plugins", "keys", "proto", "tests"]
            .iter()
            .flat_map(|part| files_of(part))
        {
            let inside = path
                .strip_prefix(workspace())
                .expect("the files are in the workspace");
            // This file names them all.
            if places.iter().any(|place| inside.starts_with(place))
                || inside.ends_with("layering.rs")
            {
                continue;
            }
            assert!(
                !names(&code(&path), library),
                "{} names {library}, which only {places:?} may",
                inside.display()
            );
        }
    }
}

#[test]
fn leaves_name_nothing_that_they_must_not_know() {
    for (part, forbidden) in FORBIDDEN {
        for library in forbidden {
            assert!(
                !dependencies(part).contains(*library),
                "{part} must not depend on {library}"
            );
            for path in files_of(&format!("{part}/src")) {
                assert!(
                    !names(&code(&path), library),
                    "{} must not name {library}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn every_file_says_what_it_owns() {
    for path in [
        "server/src",
        "plugins/src",
        "keys/src",
        "proto/src",
        "tests",
    ]
    .iter()
    .flat_map(|part| files_of(part))
    {
        let text = std::fs::read_to_string(&path).expect("a listed file can be read");
        assert!(
            text.trim_start().starts_with("//!"),
            "{} begins without a //! line",
            path.display()
        );
    }
}

#[test]
fn dependency_versions_stand_in_the_workspace_manifest_alone() {
    for (part, _) in ARROWS {
        let manifest = std::fs::read_to_string(workspace().join(part).join("Cargo.toml"))
            .expect("every crate has a manifest");
        let dependencies = manifest.split("dependencies]").skip(1).collect::<String>();
        assert!(
            !dependencies.contains("version ="),
            "{part}/Cargo.toml has a version of its own"
        );
    }
}

#[test]
fn the_search_tells_a_crate_from_a_word_and_from_a_module() {
    assert!(names("use fjall::Keyspace;", "fjall"));
    assert!(names("let x = fjall::open();", "fjall"));
    assert!(!names("let fjall_path = 1;", "fjall"));
    assert!(!names("use crate::fjall::Store;", "fjall"));
    assert!(!names("mod keys;\nkeys::run()", "keys"));
}
