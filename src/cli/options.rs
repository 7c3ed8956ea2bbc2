//! The table of pen's options. The clap command is built from it, `--help` shows it, and the manual
//! page is checked against it.
//!
//! It is pure data: [`super`] interprets the values.

use std::ops::RangeInclusive;

use pen_config::grammar::COUNT;
use pen_config::ids::{MAX_SERVERS, MAX_WORKERS};

use self::Group::{
    Control, Limits, NotBuiltIn, Obsolete, Process, Reports, Selection, Tls, Traffic,
};
use self::Value::{Flag, Repeated, Text, Texts};

/// One option.
#[derive(Debug)]
pub struct Opt {
    /// Its letter; only options that the original does not have can lack one.
    pub letter: Option<char>,
    /// Its long name; the original has none.
    pub long: &'static str,
    /// The value after it.
    pub value: Value,
    /// The group in which `--help` lists it.
    pub group: Group,
    /// The effect, in half a sentence.
    pub help: &'static str,
}

/// The value after an option.
#[derive(Clone, Debug)]
pub enum Value {
    /// No value.
    Flag,
    /// No value; the option may be repeated for a stronger effect.
    Repeated,
    /// A number: its name, its range and the default.
    Number(&'static str, RangeInclusive<u32>, Option<u32>),
    /// A text with this name.
    Text(&'static str),
    /// A text with this name; the option may be repeated, and every text counts.
    Texts(&'static str),
}

/// A heading of `--help`, in the order of the list.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Group {
    /// The selection of a client's server.
    Selection,
    /// The traffic to servers.
    Traffic,
    /// Limits and sizes.
    Limits,
    /// How the program runs.
    Process,
    /// Logs and reports.
    Reports,
    /// TLS towards clients.
    Tls,
    /// Control while pen runs.
    Control,
    /// Accepted for old scripts, without an effect.
    Obsolete,
    /// An error until the option is implemented.
    NotBuiltIn,
}

impl Group {
    /// The heading.
    pub fn heading(self) -> &'static str {
        match self {
            Group::Selection => "Server selection",
            Group::Traffic => "Traffic",
            Group::Limits => "Limits and times",
            Group::Process => "Process",
            Group::Reports => "Reports",
            Group::Tls => "TLS towards clients",
            Group::Control => "Control port and configuration file",
            Group::Obsolete => "Obsolete",
            Group::NotBuiltIn => "Not built in yet",
        }
    }
}

impl Opt {
    /// Its name in messages, as in the manual: `-b`, or `--workers` if it has no letter.
    pub fn name(&self) -> String {
        match self.letter {
            Some(letter) => format!("-{letter}"),
            None => format!("--{}", self.long),
        }
    }

    /// Its line in `--help`, with the range and the default of a number.
    pub fn help(&self) -> String {
        match &self.value {
            Value::Number(_, range, Some(default)) => {
                format!("{} [{} to {}; default {default}]", self.help, range.start(), range.end())
            }
            Value::Number(_, range, None) => {
                format!("{} [{} to {}]", self.help, range.start(), range.end())
            }
            Value::Flag | Value::Repeated | Value::Text(_) | Value::Texts(_) => {
                self.help.to_owned()
            }
        }
    }
}

const fn opt(
    letter: char,
    long: &'static str,
    value: Value,
    group: Group,
    help: &'static str,
) -> Opt {
    Opt { letter: Some(letter), long, value, group, help }
}

/// A number of seconds, for which 0 has a meaning.
const fn seconds(default: u32) -> Value {
    Value::Number("sec", COUNT, Some(default))
}

/// A count of at least one.
const fn amount(most: u32, default: Option<u32>) -> Value {
    Value::Number("N", 1..=most, default)
}

/// All options. Defaults are those of the manual page of release 0.13; the manual states the
/// ranges.
pub static OPTIONS: &[Opt] = &[
    opt(
        'r',
        "round-robin",
        Flag,
        Selection,
        "Round robin, without looking up which server a client used",
    ),
    opt('h', "hash", Flag, Selection, "A hash of the client's address chooses the first server"),
    opt('N', "hash-always", Flag, Selection, "As -h, for every connection, without tracking"),
    opt(
        'W',
        "weight",
        Flag,
        Selection,
        "The server with the least load for its weight comes first",
    ),
    Opt {
        letter: None,
        long: "prio",
        value: Flag,
        group: Selection,
        help: "The available server with the lowest prio comes first",
    },
    opt(
        's',
        "stubborn",
        Flag,
        Selection,
        "If the first choice cannot be used, close the client; no failover",
    ),
    opt(
        'e',
        "emergency",
        Text("server"),
        Selection,
        "The server of last resort, when no other can be used",
    ),
    opt(
        'B',
        "abuse",
        Text("server"),
        Selection,
        "Where clients go that the client access list refuses",
    ),
    opt(
        'H',
        "forwarded-for",
        Flag,
        Traffic,
        "Say in every HTTP request who the client is: X-Forwarded-For",
    ),
    opt(
        'b',
        "blacklist-time",
        seconds(30),
        Limits,
        "How long a server that failed is left out; 0 = never",
    ),
    opt('T', "tracking", seconds(0), Limits, "How long a client is remembered; 0 = for ever"),
    opt(
        't',
        "timeout",
        Value::Number("sec", 1..=*COUNT.end(), Some(5)),
        Limits,
        "How long a connect may take",
    ),
    opt('c', "clients", amount(16_777_216, Some(2048)), Limits, "Slots of the client table"),
    opt(
        'x',
        "max-connections",
        amount(1_048_576, Some(256)),
        Limits,
        "Most simultaneous connections",
    ),
    opt(
        'S',
        "max-servers",
        amount(MAX_SERVERS, None),
        Limits,
        "Slots of the server table; 16 or what is needed if not given",
    ),
    opt(
        'm',
        "accept-batch",
        amount(*COUNT.end(), Some(100)),
        Limits,
        "Most connections accepted per wake-up",
    ),
    opt(
        'q',
        "backlog",
        Value::Number("N", COUNT, Some(500)),
        Limits,
        "Listen backlog; at least 50",
    ),
    opt('f', "foreground", Flag, Process, "Stay in the foreground"),
    opt('u', "user", Text("user"), Process, "Run the workers as this user and its groups"),
    opt('j', "jail", Text("dir"), Process, "Run the workers in this root directory"),
    opt('p', "pid-file", Text("file"), Process, "Write the pid to this file"),
    Opt {
        letter: None,
        long: "workers",
        value: amount(MAX_WORKERS, None),
        group: Process,
        help: "Number of worker processes; one per processor if not given",
    },
    Opt {
        letter: None,
        long: "require-sandbox",
        value: Flag,
        group: Process,
        help: "Do not start if the system cannot confine every process as it should",
    },
    opt(
        'l',
        "log",
        Text("file|host:port"),
        Reports,
        "Log requests to a file, or by UDP to penlogd",
    ),
    opt(
        'w',
        "status-file",
        Text("file"),
        Reports,
        "On signal USR1, write the HTML status report to this file",
    ),
    opt('d', "debug", Repeated, Reports, "Say more; repeat for still more"),
    opt('a', "ascii", Flag, Reports, "With -dd, dump traffic in ASCII instead of hexadecimal"),
    opt(
        'F',
        "config",
        Text("file"),
        Control,
        "Configuration file, read after all options; read again on signal HUP",
    ),
    opt(
        'O',
        "command",
        Texts("command"),
        Control,
        "Run a command of the control port at the start; may be repeated",
    ),
    opt('o', "option", Texts("command"), Control, "As -O"),
    opt(
        'C',
        "control",
        Text("port|host:port|path"),
        Control,
        "Control port; a port alone is one of 127.0.0.1",
    ),
    opt(
        'X',
        "exit-command",
        Flag,
        Control,
        "Allow the commands exit and upgrade on the control port",
    ),
    Opt {
        letter: None,
        long: "check",
        value: Flag,
        group: Control,
        help: "Print ok or every error of the configuration, and do nothing",
    },
    Opt {
        letter: None,
        long: "show",
        value: Flag,
        group: Control,
        help: "With --check, print the settings that a start would have instead of ok",
    },
    Opt {
        letter: None,
        long: "upgrade",
        value: Text("file"),
        group: Control,
        help: "Ask the pen of this pid file to go on as the program that is installed now",
    },
    opt('n', "nonblocking", Flag, Obsolete, "No effect: sockets are always nonblocking"),
    opt('D', "delayed-forward", Flag, Obsolete, "No effect"),
    opt('P', "poll", Flag, Obsolete, "No effect"),
    opt('Q', "kqueue", Flag, Obsolete, "No effect"),
    opt('i', "windows-service", Text("name"), Obsolete, "Windows only"),
    opt(
        'E',
        "cert",
        Text("file"),
        Tls,
        "Certificate and its chain (PEM), and the key unless -K names it; turns TLS on",
    ),
    opt('K', "key", Text("file"), Tls, "Private key (PEM)"),
    opt('R', "require-client-cert", Flag, Tls, "Clients must present a valid certificate"),
    opt(
        'G',
        "ca-file",
        Text("file"),
        Tls,
        "Certification authorities of clients (PEM); with neither -G nor -A the system's",
    ),
    opt(
        'A',
        "ca-dir",
        Text("dir"),
        Tls,
        "Directory of certification authorities of clients, in files called hash.N",
    ),
    opt('L', "tls-floor", Text("protocol"), Tls, "ssl23 or tls1: TLS 1.2 and 1.3 either way"),
    opt('Z', "tls-workarounds", Flag, Obsolete, "No effect"),
    opt('U', "udp", Flag, NotBuiltIn, "UDP instead of TCP"),
];
