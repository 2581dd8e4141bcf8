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
            for line in lines(flag.help, 76) {
                let _ = writeln!(text, "    {line}");
            }
        }
        text.push('\n');
    }
    text.push_str("Not implemented by this release (refused by name):\n");
    names(&mut text, |flag| {
        matches!(flag.standing, Standing::Absent { .. })
    });
    text.push_str("\nWithout a meaning here (taken with a warning):\n");
    names(&mut text, |flag| flag.standing == Standing::Meaningless);
    text
}

/// What the README has between its marks: a table of the flags that work, then the others.
pub fn flags_markdown() -> String {
    let mut text = String::from("| flag | default | |\n|---|---|---|\n");
    for group in Group::ALL {
        let works = |flag: &&FlagSpec| flag.standing == Standing::Effective;
        for flag in FLAGS
            .iter()
            .filter(|flag| flag.group == group)
            .filter(works)
        {
            let default = match flag.default {
                "" => String::new(),
                default => format!("`{default}`"),
            };
            let help = flag.help.replace('|', "\\|").replace('<', "&lt;");
            let _ = writeln!(text, "| `--{}` | {default} | {help} |", flag.name);
        }
    }
    let absent = |flag: &FlagSpec| matches!(flag.standing, Standing::Absent { .. });
    let meaningless = |flag: &FlagSpec| flag.standing == Standing::Meaningless;
    list(
        &mut text,
        "Refused by name, unless the value is the one that holds anyway:",
        absent,
    );
    list(
        &mut text,
        "Without a meaning here, and taken with a warning:",
        meaningless,
    );
    text
}

/// A line for each, so that two changes of the table seldom meet in one line.
fn list(text: &mut String, head: &str, wanted: impl Fn(&FlagSpec) -> bool) {
    let names: Vec<_> = FLAGS.iter().filter(|flag| wanted(flag)).collect();
    let Some((last, others)) = names.split_last() else {
        return;
    };
    let _ = writeln!(text, "\n{head}");
    for flag in others {
        let _ = writeln!(text, "`--{}`,", flag.name);
    }
    let _ = writeln!(text, "`--{}`.", last.name);
}

/// Broken between words.
fn lines(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("it begins with one and only grows");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= width {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
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

    const BEGIN: &str = "<!-- flags: SEALKV_UPDATE=1 cargo test -p sealkv-server readme -->\n";
    const END: &str = "<!-- end of flags -->";

    #[test]
    fn the_readme_has_the_table_as_the_code_has_it() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
        let readme = std::fs::read_to_string(path).unwrap();
        let (before, rest) = readme.split_once(BEGIN).expect("the README has the mark");
        let (table, after) = rest.split_once(END).expect("and its end");
        let wanted = flags_markdown();
        if table == wanted {
            return;
        }
        assert!(
            std::env::var_os("SEALKV_UPDATE").is_some(),
            "the README's flags are not the code's: SEALKV_UPDATE=1 writes them"
        );
        std::fs::write(path, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
    }

    #[test]
    fn help_fits_a_terminal() {
        let help = flags_help();
        // A default is shown whole, however long.
        for line in help.lines().filter(|line| !line.starts_with("  --")) {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
