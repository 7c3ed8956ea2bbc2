//! Options that only a start can set. The command line sets them by options, and commands may set
//! them again. The configuration file comes last, so that one file can contain everything. They
//! must be known first: they decide in which jail paths are, and which user runs the children.

#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use pen_config::command::{Action, Command, Number, Setting, SourcedCommand, Startup, last};

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
        let includes = commands.iter_mut().filter_map(|sourced| {
            let Command::Action(Action::Include(path)) = &mut sourced.command else { return None };
            Some(path)
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
        words.all().filter_map(SourcedCommand::setting).for_each(|setting| take(launch, setting));
        Ok(words)
    }

    /// All commands in order.
    fn all(&self) -> impl DoubleEndedIterator<Item = &SourcedCommand> {
        self.given.commands.iter().chain(&self.file.commands)
    }

    /// The origin of a setting for a message: the source line of its last command, or else the
    /// option.
    pub(crate) fn source_line(&self, word: &str, option: &str) -> String {
        let said = last(self.all(), |setting| (setting.word() == word).then_some(()));
        said.map_or(option.to_owned(), |((), sourced)| sourced.at() + word)
    }

    /// The origin of the status file's name.
    pub(crate) fn place_of_status_file(&self) -> &str {
        let named = last(self.all(), |setting| setting.web_stats().flatten());
        named.map_or("-w", |(_, sourced)| &sourced.source_line)
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

fn take(launch: &mut Launch, setting: &Setting) {
    let Setting::Startup(startup) = setting else { return };
    match startup.clone() {
        Startup::Control(local) => launch.control = local,
        Startup::ExitCommand(on) => launch.allow_exit = on,
        Startup::Jail(path) => launch.jail = path,
        Startup::Page(local) => launch.page = local,
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
        Startup::Page(launch.page.clone()),
        Startup::ExitCommand(launch.allow_exit),
        Startup::PidFile(launch.pid_file.clone()),
    ]
}

/// The options that `write` saves: all that are set, and all that commands turned off or removed.
/// So the text is enough for a start.
pub(crate) fn written(in_force: &[Startup], commanded: &[Setting]) -> Vec<Setting> {
    let said = |word: &str| commanded.iter().any(|setting| setting.word() == word);
    let startup = in_force.iter().filter(|startup| startup.is_set() || said(startup.word()));
    let sizes = commanded
        .iter()
        .filter(|setting| matches!(setting, Setting::Number(Number::MaxServers, _)));
    startup.cloned().map(Setting::Startup).chain(sizes.cloned()).collect()
}

/// The settings of such options by commands: the last of each kind.
pub(crate) fn commanded<'c>(
    commands: impl DoubleEndedIterator<Item = &'c SourcedCommand>,
) -> Vec<Setting> {
    let is_meant = |setting: &&Setting| {
        matches!(setting, Setting::Startup(_) | Setting::Number(Number::MaxServers, _))
    };
    let mut last: Vec<Setting> = Vec::new();
    for setting in commands.rev().filter_map(SourcedCommand::setting).filter(is_meant) {
        if last.iter().all(|known| known.word() != setting.word()) {
            last.push(setting.clone());
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
        let setting = |line: &str| match pen_config::command::parse(line) {
            Ok(Some(Command::Setting(setting))) => setting,
            other => panic!("{other:?}"),
        };
        let startup = |line: &str| match setting(line) {
            Setting::Startup(startup) => startup,
            other => panic!("{other}"),
        };
        let in_force =
            ["user a", "no jail", "no require_sandbox", "control 1", "exit_command", "no pid_file"]
                .map(startup);
        let commanded = ["max_servers 3", "no jail", "user a"].map(setting);
        let lines: Vec<String> =
            written(&in_force, &commanded).iter().map(Setting::to_string).collect();
        assert_eq!(
            lines,
            ["user a", "no jail", "control 127.0.0.1:1", "exit_command", "max_servers 3"]
        );
    }

    #[test]
    fn the_last_of_each_kind_counts() {
        let placed = |line: &str| SourcedCommand {
            source_line: String::new(),
            command: pen_config::command::parse(line).unwrap().unwrap(),
        };
        let commands =
            ["user a", "jail /x", "max_servers 3", "blacklist 3", "no user", "max_servers"]
                .map(placed);
        let lines: Vec<String> =
            commanded(commands.iter()).iter().map(Setting::to_string).collect();
        assert_eq!(lines, ["no user", "max_servers 3", "jail /x"]);
    }

    #[test]
    fn every_error_has_a_line_of_its_own() {
        assert_eq!(lines(vec!["a:1: x".into(), "a:2: y".into()]).to_string(), "a:1: x\na:2: y");
    }
}
