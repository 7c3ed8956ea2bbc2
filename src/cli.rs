//! Parses the command line into a [`Launch`], or into one line that says what is wrong.
//!
//! clap splits arguments into options and operands as getopt(3) did for the original: joined flags,
//! values attached or separate, options after operands, the last value wins. This module checks the
//! meaning of the values. It opens, resolves and changes nothing.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};
use pen_config::address::{Host, Local};
use pen_config::configuration::CommandLine;
use pen_config::grammar::{self, GrammarError, ServerSpec, quoted};
use pen_config::tls::Tls;
use pen_supervisor::Launch;

use options::{Group, OPTIONS, Opt, Value};

mod commands;
#[cfg(test)]
mod manual;
pub mod options;
#[cfg(test)]
mod penctl_words;
mod shell;

/// The request of the command line.
#[derive(Debug)]
pub enum Request {
    /// Run pen, after these notices were shown.
    Run(Box<Launch>, Vec<String>),
    /// Ask the pen of this pid file for an upgrade: `--upgrade`.
    Upgrade(PathBuf),
    /// Print a text: `--help`, `--version`.
    Show(String),
}

/// The error in the command line, in one line: `what: why`.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct UsageError {
    what: String,
    why: String,
}

/// Parses the arguments after the program's name.
///
/// # Errors
/// The arguments break a rule of the manual's SYNOPSIS or a range; nothing has been done.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, UsageError> {
    match command().try_get_matches_from(arguments) {
        Ok(matches) => {
            let given = Given(matches);
            given.refuse()?;
            if let Some(pid_file) = given.upgrade()? {
                return Ok(Request::Upgrade(pid_file));
            }
            Ok(Request::Run(Box::new(launch(&given)?), given.notices()?))
        }
        Err(error)
            if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) =>
        {
            Ok(Request::Show(error.render().to_string()))
        }
        Err(error) => Err(one_line(&error)),
    }
}

/// The table of options as a clap command.
fn command() -> Command {
    let mut groups: Vec<&Opt> = OPTIONS.iter().collect();
    groups.sort_by_key(|option| option.group);
    Command::new("pen")
        .version(env!("CARGO_PKG_VERSION"))
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .help_template(HELP)
        .args(groups.into_iter().map(argument))
        .arg(
            Arg::new("help")
                .long("help")
                .action(ArgAction::Help)
                .help("Print this help")
                .help_heading(HELP_HEADING),
        )
        .arg(
            Arg::new("version")
                .long("version")
                .action(ArgAction::Version)
                .help("Print the version")
                .help_heading(HELP_HEADING),
        )
        .arg(
            Arg::new(OPERANDS)
                .action(ArgAction::Append)
                .value_parser(ValueParser::os_string())
                .hide(true),
        )
}

fn argument(option: &'static Opt) -> Arg {
    let argument = Arg::new(option.long)
        .long(option.long)
        .help(option.help())
        .help_heading(option.group.heading());
    let argument = match option.value {
        Value::Flag => argument.action(ArgAction::SetTrue),
        // Not a count, because each occurrence has its position among the other options.
        Value::Repeated => argument.action(ArgAction::Append).num_args(0).default_missing_value(""),
        Value::Number(name, ..) | Value::Text(name) | Value::Texts(name) => argument
            // If only one value counts, all are kept: the last one counts, and a notice mentions
            // the others.
            .action(ArgAction::Append)
            .value_name(name)
            .value_parser(ValueParser::os_string())
            // As in getopt: the next argument is the value, even if it begins with a hyphen.
            .allow_hyphen_values(true),
    };
    match option.letter {
        Some(letter) => argument.short(letter),
        None => argument,
    }
}

/// Makes one line of an error that clap prints in several lines.
fn one_line(error: &clap::Error) -> UsageError {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let argument = context(ContextKind::InvalidArg).unwrap_or_default();
    // clap shows a known option as in its help: `--timeout <sec>`.
    let long = argument.strip_prefix("--").and_then(|argument| argument.split(' ').next());
    let option = long.and_then(find);
    let name = option.map_or_else(|| shown(argument), Opt::name);
    match (error.kind(), option.map(|option| &option.value)) {
        (ErrorKind::UnknownArgument, _) => usage(name, "unknown option; pen --help lists them"),
        (ErrorKind::TooManyValues, _) => usage(name, "takes no value"),
        (
            ErrorKind::InvalidValue,
            Some(Value::Number(value, ..) | Value::Text(value) | Value::Texts(value)),
        ) => usage(name, format!("its value is missing ({value})")),
        (kind, _) => {
            let why = kind.as_str().unwrap_or("not understood");
            usage(if argument.is_empty() { "command line".to_owned() } else { name }, why)
        }
    }
}

fn find(long: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|option| option.long == long)
}

/// An argument as it is; in quotes if it has special characters.
fn shown(argument: &str) -> String {
    let plain = argument.len() <= 40 && argument.bytes().all(|byte| byte.is_ascii_graphic());
    if plain { argument.to_owned() } else { quoted(argument) }
}

/// The arguments, separated into options and operands.
struct Given(ArgMatches);

impl Given {
    /// # Errors
    /// An option was given that pen never accepts, or does not accept yet.
    fn refuse(&self) -> Result<(), UsageError> {
        for option in OPTIONS.iter().filter(|option| self.has(option)) {
            if option.group == Group::NotBuiltIn {
                return Err(usage(option.name(), "not built in yet"));
            }
            if option.letter == Some('i') {
                return Err(usage(option.name(), "Windows only"));
            }
        }
        Ok(())
    }

    /// The pid file of `--upgrade`.
    ///
    /// # Errors
    /// It does not stand alone.
    fn upgrade(&self) -> Result<Option<PathBuf>, UsageError> {
        let Some(pid_file) = self.path("upgrade")? else { return Ok(None) };
        let has_others = OPTIONS.iter().any(|other| other.long != "upgrade" && self.has(other));
        if has_others || self.0.contains_id(OPERANDS) || self.values("upgrade").count() > 1 {
            return Err(usage("--upgrade", "takes the pid file of a running pen and nothing else"));
        }
        Ok(Some(pid_file))
    }

    /// Notices about options that are accepted with another effect or value.
    fn notices(&self) -> Result<Vec<String>, UsageError> {
        let obsolete =
            self.flag("delayed-forward").then(|| "-D: obsolete, it has no effect".to_owned());
        let small = self.number("backlog")?.filter(|backlog| *backlog < BACKLOG_MIN);
        let raised = small.map(|backlog| {
            format!("-q: {backlog} is too small, the listen backlog is {BACKLOG_MIN}")
        });
        let old = matches!(self.text("tls-floor")?, Some((_, "tls1")));
        let gone = old.then(|| {
            "-L: TLS 1.0 and 1.1 do not exist here; clients get TLS 1.2 or 1.3".to_owned()
        });
        let repeated = OPTIONS.iter().filter_map(|option| self.repeated(option));
        Ok(obsolete.into_iter().chain(raised).chain(gone).chain(repeated).collect())
    }

    fn has(&self, option: &'static Opt) -> bool {
        self.0.value_source(option.long) == Some(clap::parser::ValueSource::CommandLine)
    }

    fn flag(&self, long: &str) -> bool {
        self.0.get_flag(long)
    }

    fn given(&self, long: &str) -> bool {
        find(long).is_some_and(|option| self.has(option))
    }

    /// The positions of the option's occurrences on the command line.
    fn positions(&self, long: &str) -> Vec<usize> {
        if self.given(long) {
            self.0.indices_of(long).into_iter().flatten().collect()
        } else {
            Vec::new()
        }
    }

    /// The position of its last occurrence.
    fn position(&self, long: &str) -> usize {
        self.positions(long).last().copied().unwrap_or_default()
    }

    /// The values of an option, in order.
    fn values(&self, long: &str) -> impl DoubleEndedIterator<Item = &OsString> {
        self.0.get_many::<OsString>(long).unwrap_or_default()
    }

    /// The notice about an option of which one value counts, but several different values were
    /// given.
    fn repeated(&self, option: &Opt) -> Option<String> {
        match option.value {
            Value::Number(..) | Value::Text(_) => {}
            Value::Flag | Value::Repeated | Value::Texts(_) => return None,
        }
        let last = self.values(option.long).next_back()?;
        let others = self.values(option.long).any(|value| value != last);
        let last = quoted(&last.to_string_lossy());
        others.then(|| format!("{}: given several times; the last counts: {last}", option.name()))
    }

    /// The value of a text option; it must not be empty.
    fn raw(&self, long: &'static str) -> Result<Option<(String, &OsString)>, UsageError> {
        let Some(value) = self.values(long).next_back() else { return Ok(None) };
        let name = find(long).map_or(long.to_owned(), Opt::name);
        if value.is_empty() {
            return Err(usage(name, "its value is empty"));
        }
        Ok(Some((name, value)))
    }

    fn text(&self, long: &'static str) -> Result<Option<(String, &str)>, UsageError> {
        let Some((name, value)) = self.raw(long)? else { return Ok(None) };
        let text = utf8(value).map_err(|why| usage(&name, why))?;
        Ok(Some((name, text)))
    }

    fn path(&self, long: &'static str) -> Result<Option<PathBuf>, UsageError> {
        Ok(self.raw(long)?.map(|(_, value)| PathBuf::from(value)))
    }

    /// The value of a number option, or its default.
    fn number(&self, long: &'static str) -> Result<Option<u32>, UsageError> {
        let Some((option, Value::Number(_, range, default))) =
            find(long).map(|option| (option, &option.value))
        else {
            return Ok(None);
        };
        let Some(value) = self.values(long).next_back() else { return Ok(*default) };
        match grammar::number(&value.to_string_lossy(), range.clone()) {
            Ok(number) => Ok(Some(number)),
            Err(why) => Err(usage(option.name(), why.to_string())),
        }
    }

    fn server(&self, long: &'static str) -> Result<Option<ServerSpec>, UsageError> {
        let Some((name, text)) = self.text(long)? else { return Ok(None) };
        grammar::server(text)
            .map(Some)
            .map_err(|why| usage(format!("{name} {}", quoted(text)), why.to_string()))
    }

    /// `-E` and the other TLS options. `-L` is checked and has no effect: there are only two
    /// protocols, and both are on.
    fn tls(&self) -> Result<Tls, UsageError> {
        let tls = Tls {
            certificate: self.path("cert")?,
            key: self.path("key")?,
            ca_file: self.path("ca-file")?,
            ca_directory: self.path("ca-dir")?,
            required: self.flag("require-client-cert"),
            ..Tls::default()
        };
        match self.text("tls-floor")? {
            None | Some((_, "ssl23" | "tls1")) => {}
            Some((name, "ssl3" | "ssl2")) => {
                return Err(usage(name, "SSLv3 is not supported; use tls1 or ssl23"));
            }
            Some((name, other)) => {
                let known = "-L takes ssl23 or tls1, and clients get TLS 1.2 or 1.3 either way; \
                    for 1.3 alone add";
                let why = format!(
                    "protocol version {} not known; {known} -O 'ssl_option no_tlsv1.2'",
                    shown(other)
                );
                return Err(usage(name, why));
            }
        }
        Ok(tls)
    }

    /// `-C`. A port alone means an address of this machine only, because every client that reaches
    /// the port can command pen.
    fn control(&self) -> Result<Option<Local>, UsageError> {
        let Some((name, text)) = self.text("control")? else { return Ok(None) };
        match grammar::local(text) {
            Ok(Local::Inet { host: None, port }) => {
                Ok(Some(Local::Inet { host: Some(Host::Ip(Ipv4Addr::LOCALHOST.into())), port }))
            }
            Ok(local) => Ok(Some(local)),
            Err(why) => Err(usage(format!("{name} {}", quoted(text)), why.to_string())),
        }
    }
}

fn launch(given: &Given) -> Result<Launch, UsageError> {
    let mut operands = given.0.get_many::<OsString>(OPERANDS).unwrap_or_default();
    let first = operands.next();
    let local = first.map(local).transpose();
    let servers = operands.map(server).collect::<Result<Vec<_>, _>>();
    let number = |long| given.number(long).map(Option::unwrap_or_default);
    let launch = Launch {
        configuration: CommandLine {
            commands: commands::of(given)?,
            emergency: given.server("emergency")?,
            abuse: given.server("abuse")?,
            server_slots: given.number("max-servers")?,
            accept_batch: number("accept-batch")?,
            hash_always: given.flag("hash-always"),
            tls: given.tls()?,
            local: local?,
            servers: servers?,
        },
        foreground: given.flag("foreground"),
        jail: given.path("jail")?,
        user: given.text("user")?.map(|(_, user)| user.to_owned()),
        pid_file: given.path("pid-file")?,
        config: given.path("config")?,
        control: given.control()?,
        page: None,
        allow_exit: given.flag("exit-command"),
        require_sandbox: given.flag("require-sandbox"),
        check: given.flag("check"),
        show: given.flag("show"),
        command_line: shell::command_line(given, first),
    };
    if launch.show && !launch.check {
        return Err(usage("--show", "means nothing without --check, which changes nothing"));
    }
    // The commands of a file are not known here.
    let configuration = &launch.configuration;
    if launch.config.is_none() && !commands::are_given(given) {
        if configuration.local.is_none() {
            return Err(usage("no listen address", FORM));
        }
        if configuration.servers.is_empty() && configuration.emergency.is_none() {
            return Err(usage("no server", FORM));
        }
    }
    Ok(launch)
}

fn local(operand: &OsString) -> Result<Local, UsageError> {
    let what = || format!("listen address {}", quoted(&operand.to_string_lossy()));
    utf8(operand)
        .map_err(GrammarError)
        .and_then(grammar::local)
        .map_err(|why| usage(what(), why.to_string()))
}

fn server(operand: &OsString) -> Result<ServerSpec, UsageError> {
    let what = || format!("server {}", quoted(&operand.to_string_lossy()));
    utf8(operand)
        .map_err(GrammarError)
        .and_then(grammar::server)
        .map_err(|why| usage(what(), why.to_string()))
}

fn utf8(value: &OsString) -> Result<&str, String> {
    value.to_str().ok_or_else(|| "not valid UTF-8".to_owned())
}

fn usage(what: impl Into<String>, why: impl Into<String>) -> UsageError {
    UsageError { what: what.into(), why: why.into() }
}

const OPERANDS: &str = "operands";

/// A smaller listen backlog is raised to this value, as in the original.
const BACKLOG_MIN: u32 = pen_config::command::MIN_BACKLOG;

/// The form that a usage error about missing operands shows.
const FORM: &str = "give pen [options] [host:]port|/path server [server ...], or pen [options] -F \
    file; pen --help explains";

const HELP_HEADING: &str = "Help";

const HELP: &str = "\
{name} {version}: {about}

Usage: pen [options] [host:]port|/path server [server ...]
       pen [options] -F file
       pen --upgrade file

The first operand is where pen listens: a port, host:port, [IPv6]:port or the path of a Unix socket.
A server is host[:port[:soft[:hard[:weight[:prio]]]]]; its host is a name, IPv4, [IPv6] or a /path.

{all-args}
";

#[cfg(test)]
mod tests;
