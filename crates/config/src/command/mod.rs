//! The commands of the control port, the configuration file and `-O`. They have one grammar, are
//! parsed once, and are typed values afterwards.
//!
//! Words are separated by spaces or tabs. There is no quoting. A word that begins with `#` begins a
//! comment. The parser guesses nothing, ignores nothing and looks nothing up. A malformed or
//! surplus word is an error, and the text of the error is the reply.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::grammar::quoted;

pub use crate::command::help::help;
#[cfg(test)]
pub(crate) use crate::command::read::is_readable;
pub(crate) use crate::command::read::parse_any;
pub use crate::command::read::servers::server_keys;
pub use crate::command::read::{before_comment, is_well_formed, parse, parse_configuration};
pub(crate) use crate::command::setting::{BOUND, DRAIN_TIME};
pub use crate::command::setting::{
    BufferSide, ConnectionLogTarget, LogTarget, MIN_BACKLOG, NamedFile, Number, ServerChange,
    Setting, Startup, Switch,
};
pub use crate::command::table::{COMMANDS, Entry, setting_words};
pub(crate) use crate::command::table::{Offered, is_offered};

mod help;
mod line;
mod read;
mod setting;
mod table;

/// Longest line, in bytes, without its line end.
pub const MAX_LINE: usize = 4095;

/// One command, checked.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Shows something and changes nothing. Only the control port accepts it, because only there
    /// somebody reads the reply.
    Query(Query),
    /// Sets or removes a setting. A file, `-O` and the control port accept it.
    Setting(Setting),
    /// Does something once. Only the control port accepts it, because a file would do it at every
    /// start. Exception: a file can `include` others.
    Action(Action),
}

/// A command with its source line.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SourcedCommand {
    /// The source of the command in messages: `FILE:LINE`, or the option. Empty at the control
    /// port, where the operator sees the command.
    pub source_line: String,
    /// The command.
    pub command: Command,
}

impl SourcedCommand {
    /// The setting, if the command is one.
    pub fn setting(&self) -> Option<&Setting> {
        match &self.command {
            Command::Setting(setting) => Some(setting),
            Command::Query(_) | Command::Action(_) => None,
        }
    }

    /// The beginning of a message about the command: its source line, a colon and a space.
    pub fn at(&self) -> String {
        if self.source_line.is_empty() { String::new() } else { format!("{}: ", self.source_line) }
    }
}

/// The last setting for which `pick` returns a value: that value, and the command.
pub fn last<'c, T>(
    commands: impl IntoIterator<Item = &'c SourcedCommand, IntoIter: DoubleEndedIterator>,
    pick: impl Fn(&'c Setting) -> Option<T>,
) -> Option<(T, &'c SourcedCommand)> {
    let picked = |sourced: &'c SourcedCommand| Some((pick(sourced.setting()?)?, sourced));
    commands.into_iter().rev().find_map(picked)
}

/// A command that shows something.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Query {
    /// The TLS certificates.
    Certificates(Form),
    /// The facts about a connection.
    Connection(u32),
    /// The connection log.
    ConnectionLog,
    /// The control address.
    Control,
    /// The last events, so many.
    Events(u32, Form),
    /// Which server an address would get, and why.
    Explain(IpAddr),
    /// The list of commands, or the help of one command by its word.
    Help(Option<String>),
    /// The listen address.
    Listen,
    /// The request log.
    Log,
    /// The selection modes.
    Mode(Form),
    /// A number.
    Number(Number),
    /// What pen is doing, in the text format of Prometheus.
    Metrics,
    /// The program, its limits and all its servers.
    Overview,
    /// The pid.
    Pid,
    /// The clients seen within the given number of seconds.
    Recent(u32, Form),
    /// The sandbox of every process.
    Sandbox,
    /// The servers.
    Servers(Form),
    /// All settings in force, or one setting by its word. The word can have a number after it, if
    /// there are several settings of that kind.
    Show(Option<String>),
    /// The connection that a descriptor belongs to.
    Socket(u32),
    /// The status page.
    Status(Form),
    /// Each event from now on, until the operator leaves.
    Watch(Form),
    /// The status file.
    WebStats,
}

/// A command that does something once.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// Ends a connection.
    Close(u32),
    /// Drains a server, and replies when it has no connection left.
    Drain {
        /// Its number, which can be beyond the end of the server table.
        server: u16,
        /// The seconds until the reply says how many connections are left.
        wait: u32,
        /// What happens to these.
        close: AfterDrain,
    },
    /// Ends the program.
    Exit,
    /// Runs the commands of a file.
    Include(PathBuf),
    /// Lets new clients wait.
    Pause,
    /// Serves them again.
    Resume,
    /// Goes on as the program that is installed now.
    Upgrade,
    /// Writes the settings to a file; `None` = the file of `-F`.
    Write(Option<PathBuf>),
    /// Replies with the text that `write` would write.
    WriteHere,
}

impl Action {
    /// How long `drain` waits if the command does not say, in seconds.
    pub const USUAL_DRAIN: u32 = 300;
}

/// What happens to the connections that are left when the time of a `drain` is over.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum AfterDrain {
    /// They stay.
    #[default]
    Keep,
    /// They are closed.
    Close,
}

/// The format of a report.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Form {
    /// Text, as in the original.
    #[default]
    Plain,
    /// JSON (RFC 8259).
    Json,
}

/// Why a line is not a command. The text is the reply.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CommandError {
    /// The first word names no command.
    #[error("do_cmd: ignoring command starting with \
        '{}'{}", .0.escape_debug(), help::suggestion(.0, |_| true))]
    Unknown(String),
    /// A required argument is missing.
    #[error("usage: {word} {arguments}")]
    Usage {
        /// The command's word.
        word: &'static str,
        /// Its arguments.
        arguments: &'static str,
    },
    /// An argument is wrong.
    #[error("{word}: {why}")]
    Argument {
        /// The command's word.
        word: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The command is known, but pen does not offer it.
    #[error("{word}: {why}")]
    Refused {
        /// The command's word.
        word: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// The line is longer than [`MAX_LINE`].
    #[error("line: longer than {MAX_LINE} bytes")]
    TooLong,
    /// `source` with an argument that is not an IP address; the text is the original's.
    #[error("unable to set source address to {}", quoted(.0))]
    Source(String),
    /// `tcp_fastclose` without an argument; the text is the original's.
    #[error("do_cmd: ignoring tcp_fastclose without argument")]
    FastcloseAlone,
}

impl CommandError {
    /// The error of a line in a file or an option. The replies of the control port say that a line
    /// is ignored, for scripts; a file or an option is not ignored.
    pub fn of_configuration(&self) -> String {
        match self {
            CommandError::Unknown(word) => {
                format!("no such command: {}{}", quoted(word), help::suggestion(word, |_| true))
            }
            CommandError::FastcloseAlone => "usage: tcp_fastclose up|down|both|off".to_owned(),
            CommandError::Usage { .. }
            | CommandError::Argument { .. }
            | CommandError::Refused { .. }
            | CommandError::TooLong
            | CommandError::Source(_) => self.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
