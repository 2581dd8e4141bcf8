//! Encryption at rest.

use super::Group::Keys;
use super::Kind::Text;
use super::{FlagSpec, works};

pub(super) const FLAGS: &[FlagSpec] = &[
    works(
        Keys,
        Text,
        "key-provider",
        "file",
        "What protects the root of the keys: file, or passphrase.",
    ),
    works(
        Keys,
        Text,
        "root-key-file",
        "${data-dir}.key",
        "Path to the key file; made at the first start if it is this default, with mode 0600.",
    ),
    works(
        Keys,
        Text,
        "passphrase-file",
        "",
        "Path to a file whose first line is the passphrase (with --key-provider=passphrase).",
    ),
];
