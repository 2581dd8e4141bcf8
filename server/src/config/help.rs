//! The flags as `--help` and the README show them, out of the one table.
//!
//! Not known here: subcommands, and where the text is printed.

use std::fmt::Write as _;

use super::flag_table::{FLAGS, FlagSpec, Group, Standing};

/// By group, then what is not implemented and what has no meaning here.
pub fn flags_help() -> String {
    let mut text = String::new();
    for group in Group::ALL {
        let mut flags = FLAGS
            .iter()
            .filter(|flag| flag.group == group && flag.standing == Standing::Effective)
            .peekable();
        if flags.peek().is_none() {
            continue;
        }
        let _ = writeln!(text, "{}:", group.title());
        for flag in flags {
            let _ = writeln!(text, "  --{} '{}'", flag.name, flag.default);
            let _ = writeln!(text, "    {}", flag.help);
        }
        text.push('\n');
    }
    text.push_str("Not implemented by this release (refused by name):\n");
    names(&mut text, |flag| {
        matches!(
            flag.standing,
            Standing::Absent { .. } | Standing::AbsentProtection { .. }
        )
    });
    text.push_str("\nWithout a meaning here (taken with a warning):\n");
    names(&mut text, |flag| flag.standing == Standing::Meaningless);
    text
}

/// As many to a line as fit in 80 columns.
fn names(text: &mut String, wanted: impl Fn(&FlagSpec) -> bool) {
    let mut line = String::from(" ");
    for flag in FLAGS.iter().filter(|flag| wanted(flag)) {
        if line.len() + flag.name.len() + 3 > 80 {
            let _ = writeln!(text, "{line}");
            line.truncate(1);
        }
        let _ = write!(line, " --{}", flag.name);
    }
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_flag() {
        let help = flags_help();
        for flag in FLAGS {
            assert!(help.contains(&format!("--{}", flag.name)), "{}", flag.name);
        }
    }

    #[test]
    fn the_readme_names_every_flag_that_works() {
        let readme = include_str!("../../../README.md");
        for flag in FLAGS
            .iter()
            .filter(|flag| flag.standing == Standing::Effective)
        {
            assert!(
                readme.contains(&format!("`--{}`", flag.name)),
                "{}",
                flag.name
            );
        }
    }
}
