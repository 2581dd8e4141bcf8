//! `sealkv completion SHELL`: what a shell needs to complete subcommands and flags.
//!
//! Not known here: what they do.

use clap::{Arg, ArgAction, Command, ValueEnum};
use clap_complete::Shell;

use super::CliError;
use super::output::print;
use crate::config::{FLAGS, Kind, Standing};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ShellName {
    Bash,
    Zsh,
    Fish,
}

/// `client` has the subcommands; the server's flags are no business of clap's and come from
/// their own table.
pub(super) fn run(shell: ShellName, client: Command) -> Result<(), CliError> {
    Ok(print(&script(shell, client))?)
}

fn script(shell: ShellName, client: Command) -> String {
    let server = with_flags(Command::new("server").about("Start a server"));
    let mut command = with_flags(client).subcommand(server);
    let shell = match shell {
        ShellName::Bash => Shell::Bash,
        ShellName::Zsh => Shell::Zsh,
        ShellName::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "sealkv", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

fn with_flags(command: Command) -> Command {
    FLAGS
        .iter()
        .filter(|flag| flag.standing == Standing::Effective)
        .fold(command, |command, flag| {
            let action = match flag.kind {
                Kind::Bool => ArgAction::SetTrue,
                _ => ArgAction::Set,
            };
            let hint = if flag.name.ends_with("-file") {
                clap::ValueHint::FilePath
            } else if flag.name.ends_with("-dir") {
                clap::ValueHint::DirPath
            } else {
                clap::ValueHint::Unknown
            };
            let arg = Arg::new(flag.name)
                .long(flag.name)
                .help(flag.help)
                .action(action);
            command.arg(match flag.kind {
                Kind::Bool => arg,
                _ => arg.value_hint(hint),
            })
        })
}

#[cfg(test)]
mod tests {
    use super::super::Client;
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn every_shell_learns_subcommands_and_flags() {
        for shell in [ShellName::Bash, ShellName::Zsh, ShellName::Fish] {
            let script = script(shell, Client::command());
            for word in ["migrate", "data-dir", "endpoints", "dead-letters"] {
                assert!(script.contains(word), "{word} for {shell:?}");
            }
        }
    }
}
