//! Options that only a start can set. The command line sets them by options, and commands may set
//! them again. The configuration file comes last, so that one file can contain everything. They
//! must be known first: they decide in which jail paths are, and which user runs the children.

#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use pen_config::command::{Command, Number, Startup};
use pen_config::configuration::SourcedCommand;

use crate::files::configuration;
use crate::files::configuration::Loaded;
use crate::jail::user;
use crate::jail::user::Identity;
use crate::launch::paths::absolute;
use crate::{Launch, StartError};

/// The commands of a start, as they were written.
#[derive(Clone, Debug)]
pub(crate) struct GivenCommands {
    /// The commands of the command line, and of the files that they include.
    pub(crate) given: Loaded,
    /// The commands of the configuration file.
    pub(crate) file: Loaded,
}

impl GivenCommands {
    /// Reads the files, and puts the options that only a start can set into `launch`.
    ///
    /// # Errors
    /// All errors in the files.
    pub(crate) fn read(
        launch: &mut Launch,
        start: &io::Result<PathBuf>,
    ) -> Result<GivenCommands, StartError> {
        let mut commands = std::mem::take(&mut launch.configuration.commands);
        let includes = commands.iter_mut().filter_map(|placed| match &mut placed.command {
            Command::Include(path) => Some(path),
            _ => None,
        });
        for path in includes.chain(&mut launch.config) {
            *path = absolute(path, start).map_err(StartError)?;
        }
        let directory = start.as_deref().unwrap_or(Path::new("/"));
        let given = configuration::expand(commands, directory).map_err(lines)?;
        let file = launch
            .config
            .as_deref()
            .map_or(Ok(Loaded::default()), configuration::load)
            .map_err(lines)?;
        let words = GivenCommands { given, file };
        words.all().for_each(|placed| take(launch, &placed.command));
        Ok(words)
    }

    /// All commands in order.
    fn all(&self) -> impl DoubleEndedIterator<Item = &SourcedCommand> {
        self.given.commands.iter().chain(&self.file.commands)
    }

    /// The origin of a setting for a message: the source line of its last command, or else the
    /// option.
    pub(crate) fn source_line(&self, word: &str, option: &str) -> String {
        let said = |placed: &&SourcedCommand| matches!(&placed.command, Command::Startup(startup) if startup.word() == word);
        let source_line = self.all().rev().find(said).map(|placed| placed.source_line.as_str());
        source_line.map_or(option.to_owned(), |source_line| format!("{source_line}: {word}"))
    }

    /// The origin of the status file's name.
    pub(crate) fn place_of_status_file(&self) -> &str {
        let named = |placed: &&SourcedCommand| matches!(placed.command, Command::WebStats(Some(_)));
        self.all().rev().find(named).map_or("-w", |placed| placed.source_line.as_str())
    }

    /// The user of the jailed processes.
    ///
    /// # Errors
    /// There is no such user, or only root may use it.
    pub(crate) fn identity(&self, launch: &Launch) -> Result<Identity, StartError> {
        user::of_workers(launch.user.as_deref(), launch.jail.is_some()).map_err(|error| {
            let text = error.to_string();
            let moved = |option: &str, word| {
                Some(self.source_line(word, option) + text.strip_prefix(option)?)
            };
            StartError(moved("-u", "user").or_else(|| moved("-j", "jail")).unwrap_or(text))
        })
    }
}

fn take(launch: &mut Launch, command: &Command) {
    let Command::Startup(startup) = command else { return };
    match startup.clone() {
        Startup::Control(local) => launch.control = local,
        Startup::ExitCommand(on) => launch.allow_exit = on,
        Startup::Jail(path) => launch.jail = path,
        Startup::PidFile(path) => launch.pid_file = path,
        Startup::RequireSandbox(on) => launch.require_sandbox = on,
        Startup::User(user) => launch.user = user,
    }
}

/// The options in force: one of each kind.
pub(crate) fn in_force(launch: &Launch) -> Vec<Startup> {
    vec![
        Startup::User(launch.user.clone()),
        Startup::Jail(launch.jail.clone()),
        Startup::RequireSandbox(launch.require_sandbox),
        Startup::Control(launch.control.clone()),
        Startup::ExitCommand(launch.allow_exit),
        Startup::PidFile(launch.pid_file.clone()),
    ]
}

/// The options that `write` saves: all that are set, and all that commands turned off or removed.
/// So the text is enough for a start.
pub(crate) fn written(in_force: &[Startup], commanded: &[Command]) -> Vec<Command> {
    let said = |word: &str| {
        commanded
            .iter()
            .any(|command| matches!(command, Command::Startup(startup) if startup.word() == word))
    };
    let startup = in_force.iter().filter(|startup| startup.is_set() || said(startup.word()));
    let sizes = commanded
        .iter()
        .filter(|command| matches!(command, Command::Number(Number::MaxServers, _)));
    startup.cloned().map(Command::Startup).chain(sizes.cloned()).collect()
}

/// The commands that set such options: the last of each kind.
pub(crate) fn commanded<'c>(
    commands: impl DoubleEndedIterator<Item = &'c SourcedCommand>,
) -> Vec<Command> {
    let kind = |command: &Command| match command {
        Command::Startup(startup) => Some(startup.word()),
        Command::Number(Number::MaxServers, Some(_)) => Some(Number::MaxServers.word()),
        _ => None,
    };
    let mut last: Vec<Command> = Vec::new();
    for SourcedCommand { command, .. } in commands.rev() {
        if kind(command).is_some() && last.iter().all(|known| kind(known) != kind(command)) {
            last.push(command.clone());
        }
    }
    last
}

/// Several errors as one, with a line for each.
pub(crate) fn lines(errors: Vec<String>) -> StartError {
    StartError(configuration::bounded(errors).join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_set_is_written_and_what_commands_took_away() {
        let command = |line: &str| pen_config::command::parse(line).unwrap();
        let startup = |line: &str| match command(line) {
            Command::Startup(startup) => startup,
            other => panic!("{other}"),
        };
        let in_force =
            ["user a", "no jail", "no require_sandbox", "control 1", "exit_command", "no pid_file"]
                .map(startup);
        let commanded = ["max_servers 3", "no jail", "user a"].map(command);
        let lines: Vec<String> =
            written(&in_force, &commanded).iter().map(Command::to_string).collect();
        assert_eq!(
            lines,
            ["user a", "no jail", "control 127.0.0.1:1", "exit_command", "max_servers 3"]
        );
    }

    #[test]
    fn the_last_of_each_kind_counts() {
        let placed = |line: &str| SourcedCommand {
            source_line: String::new(),
            command: pen_config::command::parse(line).unwrap(),
        };
        let commands =
            ["user a", "jail /x", "max_servers 3", "blacklist 3", "no user", "max_servers"]
                .map(placed);
        let lines: Vec<String> =
            commanded(commands.iter()).iter().map(Command::to_string).collect();
        assert_eq!(lines, ["no user", "max_servers 3", "jail /x"]);
    }
}
