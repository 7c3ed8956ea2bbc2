//! The first form of a change: commands, and where they come from.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use pen_config::command::{Action, Command, Setting, SourcedCommand};

/// Commands that take effect together or not at all.
#[derive(Debug)]
pub(in crate::event_loop) struct Configuration {
    pub(in crate::event_loop) source: CommandSource,
    pub(in crate::event_loop) commands: Vec<SourcedCommand>,
}

/// The origin of commands, which decides their rights.
#[derive(Debug)]
pub(in crate::event_loop) enum CommandSource {
    /// The configuration file, which belongs to the administrator.
    File,
    /// An operator's setting, and the file that the control process opened for it.
    Setting(Setting, Option<OwnedFd>),
    /// A file that an operator named in an `include`.
    Include(PathBuf),
}

impl Configuration {
    /// The commands of the configuration file. Without commands, only the TLS files are read again.
    pub(in crate::event_loop) fn of_file(commands: Vec<SourcedCommand>) -> Configuration {
        Configuration { source: CommandSource::File, commands }
    }

    /// One setting of an operator, with the file that it names.
    pub(in crate::event_loop) fn of_operator(
        setting: Setting,
        file: Option<OwnedFd>,
    ) -> Configuration {
        let command = Command::Setting(setting.clone());
        Configuration {
            source: CommandSource::Setting(setting, file),
            commands: vec![SourcedCommand { source_line: String::new(), command }],
        }
    }

    /// The commands that are settings.
    pub(in crate::event_loop) fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.commands.iter().filter_map(SourcedCommand::setting)
    }
}

impl CommandSource {
    /// The command of the operator; none if it is the configuration file.
    pub(in crate::event_loop) fn command(&self) -> Option<Command> {
        match self {
            CommandSource::File => None,
            CommandSource::Setting(setting, _) => Some(Command::Setting(setting.clone())),
            CommandSource::Include(path) => Some(Command::Action(Action::Include(path.clone()))),
        }
    }

    /// Takes the file that the control process opened.
    pub(in crate::event_loop::reload) fn take_file(&mut self) -> Option<OwnedFd> {
        match self {
            CommandSource::Setting(_, file) => file.take(),
            CommandSource::File | CommandSource::Include(_) => None,
        }
    }

    /// Whether the commands have an operator's rights only.
    pub(in crate::event_loop) fn is_operator(&self) -> bool {
        match self {
            CommandSource::File => false,
            CommandSource::Setting(_, _) | CommandSource::Include(_) => true,
        }
    }
}

/// The path inside the jail for a path that an operator named.
pub(in crate::event_loop) fn in_jail(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}
