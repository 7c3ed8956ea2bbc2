//! The command line: arguments to a [`Launch`], or one line that says what is wrong with them.
//!
//! clap splits arguments into options and operands as getopt(3) did for the original: flags joined, values attached or apart, options
//! after operands, the last value wins. What the values mean is checked here. Nothing is opened, looked up or changed.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};
use pen_contract::address::Local;
use pen_contract::configuration::Configuration;
use pen_contract::grammar::{self, GrammarError, ServerSpec, quoted};
use pen_contract::settings::Selection;
use pen_supervisor::{Launch, LogTarget};

use options::{Group, OPTIONS, Opt, Value};

pub mod options;

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// To balance, after these notices were shown.
    Run(Box<Launch>, Vec<String>),
    /// To print a text: `--help`, `--version`.
    Show(String),
}

/// What is wrong with the command line: one line, `what: why`.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct UsageError {
    what: String,
    why: String,
}

/// Reads the arguments that follow the program's name.
///
/// # Errors
/// The arguments break a rule of SYNOPSIS or a range; nothing has been done.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, UsageError> {
    match command().try_get_matches_from(arguments) {
        Ok(matches) => {
            let given = Given(matches);
            given.refuse()?;
            Ok(Request::Run(Box::new(launch(&given)?), given.notices()?))
        }
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Request::Show(error.render().to_string()))
        }
        Err(error) => Err(one_line(&error)),
    }
}

/// clap's view of the table.
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
        .arg(Arg::new("help").long("help").action(ArgAction::Help).help("Print this help").help_heading(HELP_HEADING))
        .arg(
            Arg::new("version")
                .long("version")
                .action(ArgAction::Version)
                .help("Print the version")
                .help_heading(HELP_HEADING),
        )
        .arg(Arg::new(OPERANDS).action(ArgAction::Append).value_parser(ValueParser::os_string()).hide(true))
}

fn argument(option: &'static Opt) -> Arg {
    let argument = Arg::new(option.long).long(option.long).help(option.help()).help_heading(option.group.heading());
    let argument = match option.value {
        Value::Flag => argument.action(ArgAction::SetTrue),
        Value::Repeated => argument.action(ArgAction::Count),
        Value::Number(name, ..) | Value::Text(name) => argument
            .action(ArgAction::Set)
            .value_name(name)
            .value_parser(ValueParser::os_string())
            // As getopt: what follows is the value, whatever it looks like.
            .allow_hyphen_values(true),
    };
    match option.letter {
        Some(letter) => argument.short(letter),
        None => argument,
    }
}

/// Makes one line of an error that clap would print in several.
fn one_line(error: &clap::Error) -> UsageError {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let argument = context(ContextKind::InvalidArg).unwrap_or_default();
    // clap calls a known option as in its help: `--timeout <sec>`.
    let long = argument.strip_prefix("--").and_then(|argument| argument.split(' ').next());
    let option = long.and_then(find);
    let name = option.map_or_else(|| shown(argument), Opt::name);
    match (error.kind(), option.map(|option| &option.value)) {
        (ErrorKind::UnknownArgument, _) => usage(name, "unknown option; pen --help lists them"),
        (ErrorKind::TooManyValues, _) => usage(name, "takes no value"),
        (ErrorKind::InvalidValue, Some(Value::Number(value, ..) | Value::Text(value))) => {
            usage(name, format!("its value is missing ({value})"))
        }
        (kind, _) => {
            let why = kind.as_str().unwrap_or("not understood");
            usage(if argument.is_empty() { "command line".to_owned() } else { name }, why)
        }
    }
}

fn find(long: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|option| option.long == long)
}

/// An argument as it is, in quotes only where it is not plain.
fn shown(argument: &str) -> String {
    let plain = argument.len() <= 40 && argument.bytes().all(|byte| byte.is_ascii_graphic());
    if plain { argument.to_owned() } else { quoted(argument) }
}

/// The arguments, split into options and operands.
struct Given(ArgMatches);

impl Given {
    /// # Errors
    /// An option was given that is never accepted, or not yet.
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

    /// What is accepted, but not as it was given.
    fn notices(&self) -> Result<Vec<String>, UsageError> {
        let obsolete = self.flag("delayed-forward").then(|| "-D: obsolete, it has no effect".to_owned());
        let small = self.number("backlog")?.filter(|backlog| *backlog < BACKLOG_MIN);
        let raised = small.map(|backlog| format!("-q: {backlog} is too small, the listen backlog is {BACKLOG_MIN}"));
        Ok(obsolete.into_iter().chain(raised).collect())
    }

    fn has(&self, option: &'static Opt) -> bool {
        self.0.value_source(option.long) == Some(clap::parser::ValueSource::CommandLine)
    }

    fn flag(&self, long: &str) -> bool {
        self.0.get_flag(long)
    }

    /// A text option's value; it may not be empty.
    fn raw(&self, long: &'static str) -> Result<Option<(String, &OsString)>, UsageError> {
        let Some(value) = self.0.get_one::<OsString>(long) else { return Ok(None) };
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

    /// A number option's value, or its default.
    fn number(&self, long: &'static str) -> Result<Option<u32>, UsageError> {
        let Some((option, Value::Number(_, range, default))) = find(long).map(|option| (option, &option.value)) else {
            return Ok(None);
        };
        let Some(value) = self.0.get_one::<OsString>(long) else { return Ok(*default) };
        match grammar::number(&value.to_string_lossy(), range.clone()) {
            Ok(number) => Ok(Some(number)),
            Err(why) => Err(usage(option.name(), why.to_string())),
        }
    }

    fn server(&self, long: &'static str) -> Result<Option<ServerSpec>, UsageError> {
        let Some((name, text)) = self.text(long)? else { return Ok(None) };
        grammar::server(text).map(Some).map_err(|why| usage(format!("{name} {}", quoted(text)), why.to_string()))
    }

    /// A file, or host:port when there is a colon and no leading slash.
    fn log(&self) -> Result<Option<LogTarget>, UsageError> {
        let Some((name, value)) = self.raw("log")? else { return Ok(None) };
        let bytes = value.as_encoded_bytes();
        if bytes.starts_with(b"/") || !bytes.contains(&b':') {
            return Ok(self.path("log")?.map(LogTarget::File));
        }
        let text = utf8(value).map_err(|why| usage(&name, why))?;
        match grammar::local(text) {
            Ok(Local::Inet { host: Some(host), port }) => Ok(Some(LogTarget::Network(host, port))),
            Ok(_) => Err(usage(
                format!("{name} {}", quoted(text)),
                "with ':' it is host:port; the path of a file with ':' must begin with '/'",
            )),
            Err(why) => Err(usage(format!("{name} {}", quoted(text)), why.to_string())),
        }
    }
}

fn launch(given: &Given) -> Result<Launch, UsageError> {
    let mut operands = given.0.get_many::<OsString>(OPERANDS).unwrap_or_default();
    let local = operands.next().map(local);
    let servers = operands.map(server).collect::<Result<Vec<_>, _>>();
    let number = |long| given.number(long).map(Option::unwrap_or_default);
    let launch = Launch {
        configuration: Configuration {
            emergency: given.server("emergency")?,
            abuse: given.server("abuse")?,
            server_slots: given.number("max-servers")?,
            selection: Selection {
                roundrobin: given.flag("round-robin"),
                hash: given.flag("hash"),
                hash_always: given.flag("hash-always"),
                weight: given.flag("weight"),
                prio: given.flag("prio"),
                stubborn: given.flag("stubborn"),
            },
            blacklist: number("blacklist-time")?,
            connect_timeout: number("timeout")?,
            tracking: number("tracking")?,
            connections_max: number("max-connections")?,
            clients_max: number("clients")?,
            accept_batch: number("accept-batch")?,
            debug: given.0.get_count("debug").min(DEBUG_MAX),
            ascii: given.flag("ascii"),
            local: local.unwrap_or_else(|| Err(usage("no listen address", FORM)))?,
            servers: servers?,
        },
        workers: given.number("workers")?,
        backlog: number("backlog")?.max(BACKLOG_MIN),
        foreground: given.flag("foreground"),
        jail: given.path("jail")?,
        user: given.text("user")?.map(|(_, user)| user.to_owned()),
        pid_file: given.path("pid-file")?,
        status_file: given.path("status-file")?,
        log: given.log()?,
    };
    if launch.configuration.servers.is_empty() && launch.configuration.emergency.is_none() {
        return Err(usage("no server", FORM));
    }
    Ok(launch)
}

fn local(operand: &OsString) -> Result<Local, UsageError> {
    let what = || format!("listen address {}", quoted(&operand.to_string_lossy()));
    utf8(operand).map_err(GrammarError).and_then(grammar::local).map_err(|why| usage(what(), why.to_string()))
}

fn server(operand: &OsString) -> Result<ServerSpec, UsageError> {
    let what = || format!("server {}", quoted(&operand.to_string_lossy()));
    utf8(operand).map_err(GrammarError).and_then(grammar::server).map_err(|why| usage(what(), why.to_string()))
}

fn utf8(value: &OsString) -> Result<&str, String> {
    value.to_str().ok_or_else(|| "not valid UTF-8".to_owned())
}

fn usage(what: impl Into<String>, why: impl Into<String>) -> UsageError {
    UsageError { what: what.into(), why: why.into() }
}

const OPERANDS: &str = "operands";

/// A shorter listen backlog is raised to this, as the original does.
const BACKLOG_MIN: u32 = 50;

/// Above it there is nothing more to say.
const DEBUG_MAX: u8 = 3;

/// What a usage error about missing operands shows.
const FORM: &str = "give pen [options] [host:]port|/path server [server ...]; pen --help explains";

const HELP_HEADING: &str = "Help";

const HELP: &str = "\
{name} {version}: {about}

Usage: pen [options] [host:]port|/path server [server ...]

The first operand is where pen listens: a port, host:port, [IPv6]:port or the path of a Unix socket.
A server is host[:port[:soft[:hard[:weight[:prio]]]]]; its host is a name, IPv4, [IPv6] or a /path.

{all-args}
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::ffi::OsStringExt;

    use pen_contract::address::{Host, Service};
    use proptest::prelude::*;

    use super::*;

    fn arguments(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn run(line: &str) -> Launch {
        match parse(arguments(line)) {
            Ok(Request::Run(launch, _)) => *launch,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn failure(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> String {
        let why = parse(arguments.into_iter().map(Into::into)).unwrap_err().to_string();
        assert!(!why.contains('\n'), "{why:?}");
        why
    }

    #[test]
    fn clap_accepts_the_table() {
        command().debug_assert();
        let names: BTreeSet<&str> = OPTIONS.iter().map(|option| option.long).collect();
        assert_eq!(names.len(), OPTIONS.len());
    }

    #[test]
    fn every_letter_of_both_manuals_is_there() {
        let letters: String = OPTIONS.iter().filter_map(|option| option.letter).collect();
        for letter in "abcdefhijlmnopqrstuwxABCDEFGHKLNOPQRSTUWXZ".chars() {
            assert_eq!(letters.matches(letter).count(), 1, "-{letter}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let launch = run("80 host");
        let configuration = &launch.configuration;
        assert_eq!(configuration.local, grammar::local("80").unwrap());
        assert_eq!(configuration.servers, [grammar::server("host").unwrap()]);
        assert_eq!((configuration.blacklist, configuration.connect_timeout, configuration.tracking), (30, 5, 0));
        assert_eq!(
            (configuration.connections_max, configuration.clients_max, configuration.accept_batch),
            (256, 2048, 100)
        );
        assert_eq!((configuration.server_slots, &configuration.emergency, &configuration.abuse), (None, &None, &None));
        assert_eq!(
            (configuration.selection, configuration.debug, configuration.ascii),
            (Selection::default(), 0, false)
        );
        assert_eq!((launch.workers, launch.backlog, launch.foreground), (None, 500, false));
        assert_eq!((launch.jail, launch.user, launch.pid_file), (None, None, None));
        assert_eq!((launch.status_file, launch.log), (None, None));
    }

    #[test]
    fn every_option_has_its_effect() {
        let launch = run(
            "-r -h -N -W --prio -s -e last:1 -B bad:2 -b 1 -T 2 -t 3 -c 4 -x 5 -S 6 -m 7 -q 80 -f -u nobody -j /jail -p /pid \
             --workers 9 -l /log -w /web -d -d -a -n -P -Q 80 host",
        );
        let configuration = &launch.configuration;
        let all =
            Selection { roundrobin: true, hash: true, hash_always: true, weight: true, prio: true, stubborn: true };
        assert_eq!(configuration.selection, all);
        assert_eq!(configuration.emergency, Some(grammar::server("last:1").unwrap()));
        assert_eq!(configuration.abuse, Some(grammar::server("bad:2").unwrap()));
        assert_eq!((configuration.blacklist, configuration.tracking, configuration.connect_timeout), (1, 2, 3));
        assert_eq!((configuration.clients_max, configuration.connections_max), (4, 5));
        assert_eq!((configuration.server_slots, configuration.accept_batch, launch.backlog), (Some(6), 7, 80));
        assert_eq!((launch.foreground, launch.user.as_deref(), launch.workers), (true, Some("nobody"), Some(9)));
        assert_eq!((launch.jail, launch.pid_file), (Some("/jail".into()), Some("/pid".into())));
        assert_eq!((launch.log, launch.status_file), (Some(LogTarget::File("/log".into())), Some("/web".into())));
        assert_eq!((configuration.debug, configuration.ascii), (2, true));
    }

    #[test]
    fn long_names_are_the_same_options() {
        let short = "-r -h -N -W -s -e last:1 -B bad:2 -b 1 -T 2 -t 3 -c 4 -x 5 -S 6 -m 7 -q 80 -f -u nobody -j /jail -p /pid \
                     -l /log -w /web -d -a -n -P -Q 80 host";
        let long = short.split(' ').map(|word| {
            let letter = word.strip_prefix('-').and_then(|letter| letter.chars().next());
            let option = OPTIONS.iter().find(|option| letter.is_some() && option.letter == letter);
            option.map_or(word.to_owned(), |option| format!("--{}", option.long))
        });
        assert_eq!(format!("{:?}", run(&long.collect::<Vec<_>>().join(" "))), format!("{:?}", run(short)));
    }

    #[test]
    fn options_are_read_as_getopt_does() {
        let launch = run("-rdf 80 -b2 host -T 7 -dx9 other -T 8 -r");
        assert!(launch.foreground && launch.configuration.selection.roundrobin);
        assert_eq!((launch.configuration.debug, launch.configuration.blacklist), (2, 2));
        assert_eq!((launch.configuration.tracking, launch.configuration.connections_max), (8, 9));
        assert_eq!(launch.configuration.servers.len(), 2);
        assert!(run("80 host -f").foreground);
        assert_eq!(run("-dddddd 80 host").configuration.debug, 3);
        assert_eq!(run("--blacklist-time=4 80 host").configuration.blacklist, 4);
        assert_eq!(run("-d -- 80 host").configuration.servers.len(), 1);
        assert!(failure(["80", "--", "host", "-f"]).starts_with("server '-f'"));
        assert_eq!(run("-u -f 80 host").user.as_deref(), Some("-f"));
    }

    #[test]
    fn an_emergency_server_alone_is_enough() {
        assert!(run("-e last:1 80").configuration.servers.is_empty());
    }

    #[test]
    fn the_log_is_a_file_or_a_host_and_port() {
        let log = |value| run(&format!("-l {value} 80 host")).log.unwrap();
        assert_eq!(log("/var/log/pen:1"), LogTarget::File("/var/log/pen:1".into()));
        assert_eq!(log("pen.log"), LogTarget::File("pen.log".into()));
        assert_eq!(log("loghost:514"), LogTarget::Network(Host::Name("loghost".into()), Service::Port(514)));
        assert_eq!(log("[::1]:514"), LogTarget::Network(Host::Ip("::1".parse().unwrap()), Service::Port(514)));
        assert!(failure(["-l", "logs/a:b", "80", "host"]).contains("must begin with '/'"));
        assert!(failure(["-l", "loghost:", "80", "host"]).starts_with("-l 'loghost:': the port after ':' is empty"));
        assert!(failure(["-l", ":514", "80", "host"]).contains("host before ':' is empty"));
    }

    #[test]
    fn numbers_out_of_their_range_name_it() {
        let top = "2147483647";
        let rows = [
            ("-b", "0", top),
            ("-T", "0", top),
            ("-t", "1", top),
            ("-c", "1", "16777216"),
            ("-x", "1", "1048576"),
            ("-S", "1", "4096"),
            ("-m", "1", top),
            ("-q", "0", top),
            ("--workers", "1", "64"),
        ];
        for (option, low, high) in rows {
            let below = low.parse::<i64>().unwrap() - 1;
            let above = high.parse::<i64>().unwrap() + 1;
            for value in [&*below.to_string(), &*above.to_string(), "", "5x", "abc", "-4", " 5", "--", "--help", "1.5"]
            {
                let why = failure([option, value, "80", "host"]);
                assert_eq!(why, format!("{option}: {} is not a number from {low} to {high}", quoted(value)));
            }
            for value in [low, high] {
                assert!(parse([option, value, "80", "host"].map(OsString::from)).is_ok(), "{option} {value}");
            }
        }
    }

    #[test]
    fn what_is_not_built_in_says_so() {
        for option in ["-E", "-K", "-G", "-A", "-L", "-C", "-F", "-O", "-o"] {
            assert_eq!(failure([option, "value", "80", "host"]), format!("{option}: not built in yet"));
            assert_eq!(failure([option]), format!("{option}: its value is missing ({})", value_name(option)));
        }
        for option in ["-R", "-Z", "-X", "-H", "-U"] {
            assert_eq!(failure(["80", "host", option]), format!("{option}: not built in yet"));
        }
        assert_eq!(failure(["-i", "service"]), "-i: Windows only");
    }

    fn value_name(name: &str) -> &'static str {
        match OPTIONS.iter().find(|option| option.name() == name).unwrap().value {
            Value::Number(name, ..) | Value::Text(name) => name,
            Value::Flag | Value::Repeated => panic!("{name} has no value"),
        }
    }

    #[test]
    fn what_is_changed_or_dropped_is_noticed() {
        let Ok(Request::Run(_, notices)) = parse(arguments("-n -P -Q 80 host")) else { panic!() };
        assert!(notices.is_empty());
        let Ok(Request::Run(launch, notices)) = parse(arguments("-D -q 49 80 host")) else { panic!() };
        assert_eq!(notices, ["-D: obsolete, it has no effect", "-q: 49 is too small, the listen backlog is 50"]);
        assert_eq!(launch.backlog, 50);
    }

    #[test]
    fn every_usage_error_is_one_line() {
        let rows: &[(&[&str], &str)] = &[
            (&[], "no listen address: give pen [options] [host:]port|/path server [server ...]"),
            (&["-f"], "no listen address: give"),
            (&["80"], "no server: give pen [options] [host:]port|/path server [server ...]"),
            (&["-B", "bad:1", "80"], "no server: give"),
            (&["", "host"], "listen address '': it is empty"),
            (&["80", ""], "server '': it is empty"),
            (&["80", "host", ""], "server '': it is empty"),
            (&["--nonsense", "80", "host"], "--nonsense: unknown option"),
            (&["--nonsense=1", "80", "host"], "--nonsense: unknown option"),
            (&["--non sense\n"], "'--non sense\\n': unknown option"),
            (&["-k", "80", "host"], "-k: unknown option"),
            (&["-rk", "80", "host"], "-k: unknown option"),
            (&["-4", "80", "host"], "-4: unknown option"),
            (&["-é", "80", "host"], "'-é': unknown option"),
            (&["80", "host", "-b"], "-b: its value is missing (sec)"),
            (&["80", "host", "--timeout"], "-t: its value is missing (sec)"),
            (&["80", "host", "--workers"], "--workers: its value is missing (N)"),
            (&["--foreground=yes", "80", "host"], "-f: takes no value"),
            (&["-u", "", "80", "host"], "-u: its value is empty"),
            (&["-p", "", "80", "host"], "-p: its value is empty"),
            (&["-w", "", "80", "host"], "-w: its value is empty"),
            (&["-j", "", "80", "host"], "-j: its value is empty"),
            (&["-l", "", "80", "host"], "-l: its value is empty"),
            (&["-e", "", "80", "host"], "-e: its value is empty"),
            (&["-e", "host:0", "80"], "-e 'host:0': port: '0' is not a number from 1 to 65535"),
            (&["-B", "::1:80", "80", "host"], "-B '::1:80': an IPv6 address needs brackets"),
            (&["-"], "listen address '-'"),
            (&["80", "a\nb"], "server 'a\\nb'"),
        ];
        for (arguments, start) in rows {
            let why = failure(arguments.iter());
            assert!(why.starts_with(start), "{arguments:?}: {why}");
        }
    }

    #[test]
    fn arguments_that_are_no_utf8_are_errors() {
        let broken = || OsString::from_vec(b"a\xffb".to_vec());
        for option in ["-u", "-e", "-B"] {
            assert_eq!(
                failure([option.into(), broken(), "80".into(), "host".into()]),
                format!("{option}: not valid UTF-8")
            );
        }
        assert!(failure(["-b".into(), broken(), "80".into(), "host".into()]).contains("is not a number from"));
        assert!(failure([broken(), "host".into()]).starts_with("listen address 'a\u{fffd}b': not valid UTF-8"));
        assert!(failure(["80".into(), broken()]).starts_with("server 'a\u{fffd}b': not valid UTF-8"));
        for unknown in [b"-\xff".to_vec(), b"--\xff".to_vec(), b"--log\xff=1".to_vec(), b"-f\xff".to_vec()] {
            assert!(
                failure([OsString::from_vec(unknown.clone()), "80".into(), "host".into()]).contains("unknown option"),
                "{unknown:?}"
            );
        }
        let path = OsString::from_vec(b"/a\xffb".to_vec());
        let Ok(Request::Run(launch, _)) = parse(["-p".into(), path.clone(), "80".into(), "host".into()]) else {
            panic!()
        };
        assert_eq!(launch.pid_file, Some(PathBuf::from(path)));
    }

    #[test]
    fn help_and_version_are_texts() {
        let show = |line| match parse(arguments(line)) {
            Ok(Request::Show(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(show("--version"), format!("pen {}\n", env!("CARGO_PKG_VERSION")));
        let help = show("80 --help");
        for option in OPTIONS {
            assert!(help.contains(&option.help()) && help.contains(&format!("--{}", option.long)), "{}", option.name());
        }
        assert!(help.contains("Usage: pen [options] [host:]port|/path server [server ...]"));
    }

    proptest! {
        #[test]
        fn no_arguments_panic(
            known in prop::collection::vec("(-[a-zA-Z]{1,3}|--[a-z-]{0,9}|[0-9a-z:./\\[\\]]{0,12})", 0..8),
            raw in prop::collection::vec(any::<Vec<u8>>(), 0..3),
        ) {
            let arguments = known.into_iter().map(OsString::from).chain(raw.into_iter().map(OsString::from_vec));
            if let Err(why) = parse(arguments) {
                prop_assert!(!why.to_string().contains('\n'), "{}", why);
                prop_assert!(!why.what.is_empty() && !why.why.is_empty());
            }
        }
    }
}
