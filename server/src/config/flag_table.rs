//! Every flag, once: how it is written, what it stands for here, what help says about it.
//!
//! Promise: each flag of etcd 3.7.1 is in the table, so that none is unknown by accident; what a
//! flag does not do here is said by its [`Standing`], never by silence.
//! Not known here: parsing, and the values that flags end up with.

mod clustering;
mod encryption;
mod features;
mod member;
mod observing;
mod security;

/// How the value of a flag is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Needs no value; `--flag=false` turns it off.
    Bool,
    Unsigned,
    Signed,
    Duration,
    /// `NAME=BOOL,NAME=BOOL…`; each occurrence adds to those before.
    Gates,
}

/// What becomes of a flag in this release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does what help says.
    Effective,
    /// It cannot mean anything in this server; taken with one warning that names it.
    Meaningless,
    /// Refused by name, unless its value is the one that this release behaves by anyway.
    Absent { unless: &'static str },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Member,
    Keys,
    Clustering,
    Security,
    Auth,
    Monitoring,
    Logging,
    Tracing,
    Features,
    Unsafe,
}

impl Group {
    pub const ALL: [Self; 10] = [
        Self::Member,
        Self::Keys,
        Self::Clustering,
        Self::Security,
        Self::Auth,
        Self::Monitoring,
        Self::Logging,
        Self::Tracing,
        Self::Features,
        Self::Unsafe,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::Member => "Member",
            Self::Keys => "Encryption at rest",
            Self::Clustering => "Clustering",
            Self::Security => "Security",
            Self::Auth => "Auth",
            Self::Monitoring => "Profiling and monitoring",
            Self::Logging => "Logging",
            Self::Tracing => "Distributed tracing",
            Self::Features => "Features",
            Self::Unsafe => "Unsafe",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct FlagSpec {
    pub name: &'static str,
    pub group: Group,
    pub kind: Kind,
    /// As shown by help; empty when there is none.
    pub default: &'static str,
    pub standing: Standing,
    pub help: &'static str,
}

pub(super) fn find(name: &str) -> Option<&'static FlagSpec> {
    FLAGS.iter().find(|flag| flag.name == name)
}

const fn works(
    group: Group,
    kind: Kind,
    name: &'static str,
    default: &'static str,
    help: &'static str,
) -> FlagSpec {
    FlagSpec {
        name,
        group,
        kind,
        default,
        standing: Standing::Effective,
        help,
    }
}

const fn meaningless(group: Group, kind: Kind, name: &'static str) -> FlagSpec {
    FlagSpec {
        name,
        group,
        kind,
        default: "",
        standing: Standing::Meaningless,
        help: "",
    }
}

const fn absent(group: Group, kind: Kind, name: &'static str, unless: &'static str) -> FlagSpec {
    FlagSpec {
        name,
        group,
        kind,
        default: unless,
        standing: Standing::Absent { unless },
        help: "",
    }
}

const PARTS: [&[FlagSpec]; 6] = [
    member::FLAGS,
    encryption::FLAGS,
    clustering::FLAGS,
    security::FLAGS,
    observing::FLAGS,
    features::FLAGS,
];

/// In the order in which help shows them.
pub const FLAGS: &[FlagSpec] = &joined::<{ count() }>();

const fn count() -> usize {
    let (mut count, mut part) = (0, 0);
    while part < PARTS.len() {
        count += PARTS[part].len();
        part += 1;
    }
    count
}

const fn joined<const COUNT: usize>() -> [FlagSpec; COUNT] {
    let mut flags = [PARTS[0][0]; COUNT];
    let (mut at, mut part) = (0, 0);
    while part < PARTS.len() {
        let mut next = 0;
        while next < PARTS[part].len() {
            flags[at] = PARTS[part][next];
            at += 1;
            next += 1;
        }
        part += 1;
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_flag_stands_twice() {
        let names: BTreeSet<_> = FLAGS.iter().map(|flag| flag.name).collect();
        assert_eq!(names.len(), FLAGS.len());
    }

    #[test]
    fn a_flag_that_works_says_what_it_does() {
        for flag in FLAGS {
            assert_eq!(
                flag.standing == Standing::Effective,
                !flag.help.is_empty(),
                "{}",
                flag.name
            );
        }
    }
}
