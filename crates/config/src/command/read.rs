//! Parses a line into a [`Command`]: the table of commands, and the readers of their arguments.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::acl::{AclVerdict, Net, is_mask};
use crate::address::{Host, Local};
use crate::command::help::suggestion;
use crate::command::{
    BufferSide, Command, CommandError, Fastclose, Form, LogTarget, MAX_LINE, Nature, Number,
    ServerChange, Startup, Switch,
};
use crate::parse::grammar;
use crate::parse::grammar::{COUNT, GrammarError, ServerSpec, quoted};
use crate::proxy::{ProxyOut, Senders};
use crate::settings::{BufferSizes, Http};
use crate::tls::{Suite, SuiteList};

/// A command as the manual describes it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its word.
    pub word: &'static str,
    /// Its arguments.
    pub arguments: &'static str,
    /// Whether `no WORD` exists too.
    pub negatable: bool,
    /// What it does, in one line.
    pub help: &'static str,
    reader: Reader,
}

/// Reads the words after a command's word. The flag says that `no` came before the word.
type Reader = fn(&Entry, &mut WordIter<'_>, bool) -> Result<Command, CommandError>;

/// Parses one line, without its line end.
///
/// # Errors
/// The line is not a command. The caller does nothing except reply with the text of the error.
pub fn parse(line: &str) -> Result<Command, CommandError> {
    if line.len() > MAX_LINE { Err(CommandError::TooLong) } else { read(line) }
}

/// Parses one line of a file, or the text of `-O`. Nobody reads a reply there.
///
/// # Errors
/// The line is not a command, or the command only shows something (a setting without its value).
pub fn parse_configuration(line: &str) -> Result<Command, String> {
    let command = parse(line).map_err(|why| why.of_configuration())?;
    let mut words = WordIter(&line[..before_comment(line.as_bytes())]);
    let word = words.next().unwrap_or_default();
    match command.nature() {
        Nature::Sets | Nature::Does => Ok(command),
        Nature::Shows if SETTINGS.contains(&word) => Err(format!("{word}: its value is missing")),
        Nature::Shows => Err(format!(
            "{word}: only the control port takes this command: nobody reads here what it shows"
        )),
    }
}

/// Whether [`parse`] can return this command, with every value in its range. A command from another
/// process may be malformed.
pub fn is_well_formed(command: &Command) -> bool {
    // The displayed line can be longer than the original (`1::2:3:4:5:6:7` is `1:0:2:3:4:5:6:7`).
    read(&command.to_string()).as_ref() == Ok(command)
}

/// The length of a line without its comment. A word that begins with `#` begins the comment, at any
/// position.
pub fn before_comment(line: &[u8]) -> usize {
    let begins = |place: usize| {
        line[place] == b'#' && (place == 0 || matches!(line[place - 1], b' ' | b'\t'))
    };
    (0..line.len()).find(|place| begins(*place)).unwrap_or(line.len())
}

fn read(line: &str) -> Result<Command, CommandError> {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let mut words = WordIter(&line[..before_comment(line.as_bytes())]);
    let Some(first) = words.next() else { return Ok(Command::Nothing) };
    let (word, negated) = match first {
        "no" => {
            (words.next().ok_or(CommandError::Usage { word: "no", arguments: "COMMAND" })?, true)
        }
        word => (word, false),
    };
    let found = COMMANDS.iter().find(|entry| entry.word == word && (entry.negatable || !negated));
    let Some(entry) = found else {
        return Err(match negated {
            true => {
                let meant = suggestion(word, |entry| entry.negatable);
                let why = format!("nothing to switch off is called {}{meant}", quoted(word));
                CommandError::Argument { word: "no", why }
            }
            false => CommandError::Unknown(word.chars().take(100).collect()),
        });
    };
    // No name or path contains a control character, and some of them would split one line into two.
    if let Some(control) = words.0.chars().find(|found| found.is_control() && *found != '\t') {
        return Err(entry.wrong(format!(
            "control character {} in its arguments",
            quoted(control.encode_utf8(&mut [0; 4]))
        )));
    }
    let command = (entry.reader)(entry, &mut words, negated)?;
    // The check for surplus words is here, so that no reader can forget it. A surplus word is an
    // error, because the operator meant something by it.
    match words.next() {
        None => Ok(command),
        Some(word) => Err(entry.surplus(word, negated)),
    }
}

/// The words of a line before its comment.
struct WordIter<'l>(&'l str);

impl<'l> Iterator for WordIter<'l> {
    type Item = &'l str;

    fn next(&mut self) -> Option<&'l str> {
        let text = self.0.trim_start_matches([' ', '\t']);
        let end = text.find([' ', '\t']).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }
}

impl<'l> WordIter<'l> {
    /// The next word; it is not consumed.
    fn peek(&self) -> Option<&'l str> {
        WordIter(self.0).next()
    }
}

impl Entry {
    /// The arguments after `no` and the command's word.
    pub fn negated_arguments(&self) -> &'static str {
        match self.word {
            "acl" | "server" => "N",
            _ => "",
        }
    }

    fn surplus(&self, word: &str, negated: bool) -> CommandError {
        let (no, arguments) = match negated {
            true => ("no ", self.negated_arguments()),
            false => ("", self.arguments),
        };
        let form = format!("{no}{} {arguments}", self.word);
        self.wrong(format!("one word too many: {}; usage: {}", quoted(word), form.trim_end()))
    }

    fn required<'l>(&self, words: &mut WordIter<'l>) -> Result<&'l str, CommandError> {
        words.next().ok_or(CommandError::Usage { word: self.word, arguments: self.arguments })
    }

    fn wrong(&self, why: impl ToString) -> CommandError {
        CommandError::Argument { word: self.word, why: why.to_string() }
    }

    /// A number of an object. Only the running program knows how many objects there are, so the
    /// error does not give the limit.
    fn ordinal(&self, text: &str, of: &str) -> Result<u32, CommandError> {
        grammar::number(text, COUNT)
            .map_err(|_| self.wrong(format!("{} is not the number of {of}", quoted(text))))
    }

    fn number(&self, text: &str, range: RangeInclusive<u32>) -> Result<u32, CommandError> {
        grammar::number(text, range).map_err(|why| self.wrong(why))
    }
}

macro_rules! command {
    ($word:literal, $arguments:literal, $negatable:literal, $help:literal, $reader:expr) => {
        Entry {
            word: $word,
            arguments: $arguments,
            negatable: $negatable,
            help: $help,
            reader: $reader,
        }
    };
}

/// The commands that `show` shows: all that set a lasting value. `status_file` is shown as
/// `web_stats`.
pub const SETTINGS: &[&str] = &[
    "abuse",
    "accept_batch",
    "acl",
    "ascii",
    "backlog",
    "blacklist",
    "certificate",
    "client_acl",
    "client_ca",
    "clients_max",
    "conn_max",
    "control",
    "control_acl",
    "debug",
    "dummy",
    "emergency",
    "exit_command",
    "hash",
    "hash_always",
    "http",
    "idle_timeout",
    "idlers",
    "jail",
    "keepalive",
    "listen",
    "log",
    "max_servers",
    "pending_max",
    "pid_file",
    "prio",
    "proxy_protocol",
    "require_client_cert",
    "require_sandbox",
    "roundrobin",
    "server",
    "servers_only",
    "socket_buffers",
    "source",
    "ssl_ciphers",
    "ssl_ocsp_response",
    "ssl_option",
    "ssl_sni_path",
    "status_file",
    "stubborn",
    "tcp_fastclose",
    "tcp_nodelay",
    "timeout",
    "tracking",
    "user",
    "web_stats",
    "weight",
    "workers",
];

/// All commands in alphabetical order: the table that the parser uses and the manual lists.
pub const COMMANDS: &[Entry] = &[
    command!(
        "abort_on_error",
        "[on|off]",
        true,
        "No effect; accepted for old configuration files.",
        no_effect
    ),
    command!(
        "abuse",
        "[SERVER]",
        true,
        "Show or set where clients go that client_acl refuses (-B).",
        |e, w, no| { backup(Command::Abuse, e, w, no) }
    ),
    command!(
        "accept_batch",
        "[N]",
        false,
        "Show or set how many connections are accepted per wake-up (-m).",
        |e, w, _| { value(Number::AcceptBatch, e, w) }
    ),
    command!(
        "acl",
        "N permit|deny ADDRESS [MASK]",
        true,
        "Add an entry to access list N (0-9): IPv4 with a mask or /length, IPv6 with /length. no \
         acl N empties the list.",
        acl
    ),
    command!("ascii", "[on|off]", true, "Dumps as text instead of hex.", |e, w, no| switch(
        Switch::Ascii,
        e,
        w,
        no
    )),
    command!(
        "backlog",
        "[N]",
        false,
        "Show or set how many connections may wait to be accepted (-q).",
        |e, w, _| { value(Number::Backlog, e, w) }
    ),
    command!(
        "blacklist",
        "[SECONDS]",
        false,
        "Show or set how long a server that failed is left out; 0 = it never is.",
        |e, w, _| value(Number::Blacklist, e, w)
    ),
    command!(
        "block",
        "[on|off]",
        true,
        "No effect; accepted for old configuration files.",
        no_effect
    ),
    command!(
        "certificate",
        "[FILE [KEY]]",
        true,
        "Show or set the certificate and its key (-E, -K); only in a file or at the start.",
        certificate
    ),
    command!(
        "certificates",
        "[json]",
        false,
        "The certificates of TLS: whose, by whom, until when, with what kind of key, and what for.",
        |_, w, _| Ok(Command::Certificates(form(w)))
    ),
    command!("client_acl", "[N]", false, "Show or set the access list for clients.", |e, w, _| {
        value(Number::ClientAcl, e, w)
    }),
    command!(
        "client_ca",
        "[FILE|DIRECTORY [DIRECTORY]]",
        true,
        "Show or set whose client certificates are good (-G, -A); only in a file or at the start.",
        client_ca
    ),
    command!("clients_max", "[N]", false, "Show or enlarge the client table.", |e, w, _| value(
        Number::ClientsMax,
        e,
        w
    )),
    command!("close", "N", false, "End connection N at once.", |e, w, _| Ok(Command::Close(
        e.ordinal(e.required(w)?, CONNECTION)?
    ))),
    command!(
        "conn_max",
        "[N]",
        false,
        "Show or enlarge the number of simultaneous connections (-x).",
        |e, w, _| value(Number::ConnMax, e, w)
    ),
    command!("connection", "[N]", false, "Facts about connection N.", |e, w, _| Ok(
        Command::Connection(w.next().map_or(Ok(0), |n| e.ordinal(n, CONNECTION))?)
    )),
    command!(
        "control",
        "[ADDRESS]",
        true,
        "Show the control address; set it at the start (-C).",
        control
    ),
    command!(
        "control_acl",
        "[N]",
        false,
        "Show or set the access list for the control port.",
        |e, w, _| value(Number::ControlAcl, e, w)
    ),
    command!("debug", "[N]", false, "Show or set the debug level.", |e, w, _| value(
        Number::Debug,
        e,
        w
    )),
    command!(
        "delayed_forward",
        "[on|off]",
        true,
        "No effect; accepted for old configuration files.",
        no_effect
    ),
    command!("dsr_if", "INTERFACE", false, "Refused: no direct server return.", |e, _, _| refused(
        e, NO_DSR
    )),
    command!("dsr_ip", "ADDRESS", false, "Refused: no direct server return.", |e, _, _| refused(
        e, NO_DSR
    )),
    command!(
        "dummy",
        "[on|off]",
        true,
        "Answer every client with a fixed page, without a server; for load tests.",
        |e, w, no| switch(Switch::Dummy, e, w, no)
    ),
    command!(
        "emergency",
        "[SERVER]",
        true,
        "Show or set the server of last resort (-e).",
        |e, w, no| { backup(Command::Emergency, e, w, no) }
    ),
    command!("epoll", "", false, "No effect; accepted for old configuration files.", nothing),
    command!("exit", "", false, "End the program; only with -X.", |_, _, _| Ok(Command::Exit)),
    command!(
        "exit_command",
        "[on|off]",
        true,
        "Allow exit at the control port (-X); only at the start.",
        |e, w, no| { Ok(Command::Startup(Startup::ExitCommand(on(e, w, no)?))) }
    ),
    command!(
        "explain",
        "ADDRESS",
        false,
        "Which server a client with that address would get now, and why.",
        explain
    ),
    command!(
        "hash",
        "[on|off]",
        true,
        "A hash of the client's address chooses the first server.",
        |e, w, no| switch(Switch::Hash, e, w, no)
    ),
    command!(
        "hash_always",
        "[on|off]",
        true,
        "As hash, for every connection, whatever is remembered (-N).",
        |e, w, no| switch(Switch::HashAlways, e, w, no)
    ),
    command!("help", "[COMMAND]", false, "List the commands, or tell what one does.", help),
    command!(
        "http",
        "[on|off|mixed]",
        true,
        "Say in every HTTP request who the client is: X-Forwarded-For. What is not HTTP/1.x is \
         refused; with mixed it passes.",
        http
    ),
    command!(
        "idle_timeout",
        "[SECONDS]",
        false,
        "Show or set after how long without traffic a connection is closed; 0 = never.",
        idle_timeout
    ),
    command!(
        "idlers",
        "[N]",
        false,
        "Show or set how many connections to servers are kept open without a client; for tests.",
        |e, w, _| value(Number::Idlers, e, w)
    ),
    command!("include", "FILE", false, "Run the commands of a file.", |e, w, _| Ok(
        Command::Include(e.required(w)?.into())
    )),
    command!(
        "jail",
        "[DIRECTORY]",
        true,
        "Show the root directory of jailed processes; set it at the start (-j).",
        |e, w, no| { startup(|path| Startup::Jail(path.map(PathBuf::from)), e, w, no) }
    ),
    command!("keepalive", "[on|off]", true, "TCP keepalive towards servers.", |e, w, no| switch(
        Switch::Keepalive,
        e,
        w,
        no
    )),
    command!("kqueue", "", false, "No effect; accepted for old configuration files.", nothing),
    command!(
        "listen",
        "[[HOST:]PORT|/PATH]",
        false,
        "Show or move the listen address; open connections stay.",
        listen
    ),
    command!("log", "[FILE|HOST:PORT]", true, "Show or set the request log.", log),
    command!(
        "max_servers",
        "[N]",
        false,
        "Show the size of the server table; set it at the start (-S).",
        |e, w, _| { value(Number::MaxServers, e, w) }
    ),
    command!("mode", "[json]", false, "Show the modes.", |_, w, _| Ok(Command::Mode(form(w)))),
    command!(
        "overview",
        "",
        false,
        "Version, time, limits and all servers, in JSON: what penctl makes its table of servers \
         of.",
        |_, _, _| Ok(Command::Overview)
    ),
    command!("peek", "[on|off]", true, "Refused: the original never finished it.", |e, w, no| {
        off_only(e, "not supported: it was never finished, clients would hang", w, no)
    }),
    command!(
        "pending_max",
        "[N]",
        false,
        "Show or set how many connects to one server may be pending per worker; a server with that \
         many is passed over.",
        |e, w, _| { value(Number::PendingMax, e, w) }
    ),
    command!("pid", "", false, "Show the supervisor's pid.", |_, _, _| Ok(Command::Pid)),
    command!(
        "pid_file",
        "[FILE]",
        true,
        "Show the pid file; set it at the start (-p).",
        |e, w, no| { startup(|path| Startup::PidFile(path.map(PathBuf::from)), e, w, no) }
    ),
    command!("poll", "", false, "No effect; accepted for old configuration files.", nothing),
    command!(
        "prio",
        "[on|off]",
        true,
        "The available server with the lowest prio comes first.",
        |e, w, no| switch(Switch::Prio, e, w, no)
    ),
    command!(
        "proxy_protocol",
        "in from NET[,NET...]|off, or out v1|v2|off",
        false,
        "PROXY protocol: believe these senders whom their connections come from; tell servers whom \
         connections come from.",
        proxy_protocol
    ),
    command!(
        "recent",
        "[SECONDS] [json]",
        false,
        "Clients seen within so many seconds (default 300).",
        recent
    ),
    command!(
        "require_client_cert",
        "[on|off]",
        true,
        "Clients must present a valid certificate (-R).",
        |e, w, no| { switch(Switch::RequireClientCert, e, w, no) }
    ),
    command!(
        "require_sandbox",
        "[on|off]",
        true,
        "Do not start if the system cannot confine every process as it should; only at the start.",
        |e, w, no| Ok(Command::Startup(Startup::RequireSandbox(on(e, w, no)?)))
    ),
    command!("roundrobin", "[on|off]", true, "Round robin without tracking.", |e, w, no| switch(
        Switch::Roundrobin,
        e,
        w,
        no
    )),
    command!("sandbox", "", false, "What every process is confined by.", |_, _, _| Ok(
        Command::Sandbox
    )),
    command!("select", "", false, "No effect; accepted for old configuration files.", nothing),
    command!(
        "server",
        "N KEY VALUE ...",
        true,
        "Change server N: acl, address, blacklist, hard, max, port, prio, weight; all pairs or \
         none. no server N takes it away.",
        server
    ),
    command!("servers", "[json]", false, "List the servers.", |_, w, _| Ok(Command::Servers(
        form(w)
    ))),
    command!(
        "servers_only",
        "[on|off]",
        true,
        "In a file: servers that it does not name are taken away when it is read.",
        |e, w, no| switch(Switch::ServersOnly, e, w, no)
    ),
    command!(
        "show",
        "[SETTING [N]]",
        false,
        "Show what is in force, as a configuration file: all of it, or one setting; of acl and \
         server also number N alone.",
        show
    ),
    command!(
        "socket",
        "N",
        false,
        "To which connection a descriptor belongs; always -1, since descriptors are a worker's \
         own.",
        |e, w, _| Ok(Command::Socket(e.ordinal(e.required(w)?, "a descriptor")?))
    ),
    command!(
        "socket_buffers",
        "client|server RX TX",
        false,
        "Bytes of the kernel's receive and send buffers of each connection on that side; 0 = as \
         the kernel likes.",
        socket_buffers
    ),
    command!("source", "ADDRESS", true, "Local address for connections to servers.", source),
    command!(
        "ssl_ciphers",
        "[LIST]",
        true,
        "Show or set the cipher suites of TLS 1.2 by their OpenSSL names, joined by colons, best \
         first; with no, the default.",
        ciphers
    ),
    command!(
        "ssl_client_renegotiation_interval",
        "SECONDS",
        false,
        "No effect: there is no renegotiation.",
        |e, w, _| e.number(e.required(w)?, COUNT).map(Command::SslRenegotiation)
    ),
    command!(
        "ssl_ocsp_response",
        "FILE",
        true,
        "OCSP response (DER) to be stapled to the certificate of -E; repeat it to read the file \
         again.",
        |e, w, no| Ok(Command::SslOcsp(path(e, w, no)?))
    ),
    command!(
        "ssl_option",
        "OPTION",
        false,
        "no_tlsv1.2 leaves TLS 1.3 only, tlsv1.2 takes 1.2 too; no_sslv2, no_sslv3, no_tlsv1, \
         no_tlsv1.1 and cipher_server_preference are always so.",
        ssl_option
    ),
    command!(
        "ssl_sni_path",
        "DIRECTORY",
        true,
        "Certificates by server name: NAME.crt, NAME.key, and if they are there NAME.ca and \
         NAME.ocsp.",
        |e, w, no| Ok(Command::SslNames(path(e, w, no)?))
    ),
    command!("status", "[json]", false, "The status page.", |_, w, _| Ok(Command::Status(form(w)))),
    command!("status_file", "[FILE]", true, "As web_stats (-w).", web_stats),
    command!(
        "stubborn",
        "[on|off]",
        true,
        "Close the client if its first choice cannot be used.",
        |e, w, no| switch(Switch::Stubborn, e, w, no)
    ),
    command!("tarpit_acl", "[N]", false, "Refused: no direct server return.", |e, _, _| refused(
        e, NO_DSR
    )),
    command!(
        "tcp_fastclose",
        "up|down|both|off",
        false,
        "When the server (up), the client (down) or either ends its side, close both.",
        fastclose
    ),
    command!(
        "tcp_nodelay",
        "[on|off]",
        true,
        "TCP_NODELAY on both sides from the first byte.",
        |e, w, no| switch(Switch::TcpNodelay, e, w, no)
    ),
    command!("timeout", "[SECONDS]", false, "Show or set the connect timeout.", |e, w, _| value(
        Number::Timeout,
        e,
        w
    )),
    command!(
        "tracking",
        "[SECONDS]",
        false,
        "Show or set how long clients are remembered; 0 = for ever.",
        |e, w, _| value(Number::Tracking, e, w)
    ),
    command!(
        "transparent",
        "[on|off]",
        true,
        "Reach servers from the client's address. Not built in yet.",
        |e, w, no| off_only(e, LATER, w, no)
    ),
    command!(
        "user",
        "[NAME]",
        true,
        "Show as whom jailed processes run; set it at the start (-u).",
        |e, w, no| { startup(|user| Startup::User(user.map(str::to_owned)), e, w, no) }
    ),
    command!("web_stats", "[FILE]", true, "Show or set the file for status reports.", web_stats),
    command!(
        "weight",
        "[on|off]",
        true,
        "The server with the fewest connections by weight comes first.",
        |e, w, no| switch(Switch::Weight, e, w, no)
    ),
    command!("workers", "[N]", false, "Show the number of workers; set it at start.", |e, w, _| {
        value(Number::Workers, e, w)
    }),
    command!(
        "write",
        "[FILE|-]",
        false,
        "Write the settings as a configuration file; - replies with it.",
        |_, w, _| {
            Ok(match w.next() {
                Some("-") => Command::WriteHere,
                path => Command::Write(path.map(PathBuf::from)),
            })
        }
    ),
];

/// Error text: the range of connection numbers.
const CONNECTION: &str = "a connection, which begin at 0 and end below conn_max";

/// Error text: the range of server numbers.
const SERVER: &str = "a server, which begin at 0 and end below -S";

const LATER: &str = "not built in yet";

const NO_DSR: &str = "direct server return is not supported";

fn nothing(_: &Entry, _: &mut WordIter<'_>, _: bool) -> Result<Command, CommandError> {
    Ok(Command::Nothing)
}

fn refused(entry: &Entry, why: &'static str) -> Result<Command, CommandError> {
    Err(CommandError::Refused { word: entry.word, why })
}

/// A feature that pen does not have: only `off` is accepted.
fn off_only(
    entry: &Entry,
    why: &'static str,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    match on(entry, words, no)? {
        false => Ok(Command::Nothing),
        true => refused(entry, why),
    }
}

/// A switch of the original that has no effect here.
fn no_effect(entry: &Entry, words: &mut WordIter<'_>, no: bool) -> Result<Command, CommandError> {
    on(entry, words, no).map(|_| Command::Nothing)
}

fn ciphers(entry: &Entry, words: &mut WordIter<'_>, no: bool) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::SslCiphers(None));
    }
    let Some(text) = words.next() else { return Ok(shown(entry)) };
    let list = SuiteList::read(text);
    if list.suites.is_empty() {
        let known: Vec<&str> = Suite::ALL.iter().map(|suite| suite.name()).collect();
        return Err(entry.wrong(format!(
            "{} names no suite that is here; there are {}",
            quoted(text),
            known.join(", ")
        )));
    }
    Ok(Command::SslCiphers(Some(list)))
}

fn ssl_option(entry: &Entry, words: &mut WordIter<'_>, _: bool) -> Result<Command, CommandError> {
    match entry.required(words)? {
        "no_tlsv1.2" => Ok(Command::SslNoTls12),
        "tlsv1.2" => Ok(Command::SslTls12),
        "no_sslv2" | "no_sslv3" | "no_tlsv1" | "no_tlsv1.1" | "cipher_server_preference" => {
            Ok(Command::SslAlways)
        }
        other => Err(entry.wrong(format!("{} is no option", quoted(other)))),
    }
}

fn switch(
    switch: Switch,
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    Ok(Command::Switch(switch, on(entry, words, no)?))
}

/// The command for a setting without an argument, where the original has no reply of its own.
fn shown(entry: &Entry) -> Command {
    Command::Show(Some(entry.word.to_owned()))
}

fn show(entry: &Entry, words: &mut WordIter<'_>, _: bool) -> Result<Command, CommandError> {
    let Some(word) = words.next() else { return Ok(Command::Show(None)) };
    let Some(word) = SETTINGS.iter().find(|known| **known == word) else {
        let meant = suggestion(word, |entry| SETTINGS.contains(&entry.word));
        let known =
            if meant.is_empty() { format!("; there are {}", SETTINGS.join(", ")) } else { meant };
        return Err(entry.wrong(format!("{} is no setting{known}", quoted(word))));
    };
    // There are several settings of these two kinds, each with a number.
    let number = match (*word, words.peek()) {
        ("acl", Some(_)) => words.next().map(|text| list_number(entry, text).map(u32::from)),
        ("server", Some(_)) => words.next().map(|text| entry.ordinal(text, SERVER)),
        _ => None,
    };
    Ok(Command::Show(Some(match number.transpose()? {
        Some(number) => format!("{word} {number}"),
        None => (*word).to_owned(),
    })))
}

/// The emergency or abuse server.
fn backup(
    command: fn(Option<ServerSpec>) -> Command,
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        return Ok(command(None));
    }
    match words.next() {
        None => Ok(shown(entry)),
        Some(text) => {
            grammar::server(text).map(|spec| command(Some(spec))).map_err(|why| entry.wrong(why))
        }
    }
}

fn certificate(entry: &Entry, words: &mut WordIter<'_>, no: bool) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Certificate(None));
    }
    Ok(match words.next() {
        None => shown(entry),
        Some(file) => Command::Certificate(Some((file.into(), words.next().map(PathBuf::from)))),
    })
}

fn client_ca(entry: &Entry, words: &mut WordIter<'_>, no: bool) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::ClientCa(Vec::new()));
    }
    let paths: Vec<PathBuf> = words.by_ref().take(2).map(PathBuf::from).collect();
    Ok(if paths.is_empty() { shown(entry) } else { Command::ClientCa(paths) })
}

/// A port alone means an address of this machine only, because every client that reaches the port
/// can command pen.
fn control(entry: &Entry, words: &mut WordIter<'_>, no: bool) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Startup(Startup::Control(None)));
    }
    let Some(text) = words.next() else { return Ok(Command::Control) };
    let local = match grammar::local(text).map_err(|why| entry.wrong(why))? {
        Local::Inet { host: None, port } => {
            Local::Inet { host: Some(Host::Ip(Ipv4Addr::LOCALHOST.into())), port }
        }
        local => local,
    };
    Ok(Command::Startup(Startup::Control(Some(local))))
}

/// A setting of the start that has one word as its value.
fn startup(
    made: impl Fn(Option<&str>) -> Startup,
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    Ok(match (no, words.peek()) {
        (true, _) => Command::Startup(made(None)),
        (false, None) => shown(entry),
        (false, Some(_)) => Command::Startup(made(words.next())),
    })
}

fn path(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Option<PathBuf>, CommandError> {
    if no { Ok(None) } else { entry.required(words).map(|path| Some(path.into())) }
}

/// The value of a switch: nothing, `on` or `off`. After `no` and the word, no value is allowed.
fn on(entry: &Entry, words: &mut WordIter<'_>, no: bool) -> Result<bool, CommandError> {
    if no {
        return Ok(false);
    }
    match words.next() {
        None | Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(other) => Err(entry.wrong(format!("{} is neither on nor off", quoted(other)))),
    }
}

fn value(number: Number, entry: &Entry, words: &mut WordIter<'_>) -> Result<Command, CommandError> {
    let value = words.next().map(|text| entry.number(text, number.range())).transpose()?;
    Ok(Command::Number(number, value))
}

fn http(entry: &Entry, words: &mut WordIter<'_>, no: bool) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Http(Http::Off));
    }
    Ok(Command::Http(match words.next() {
        None | Some("on") => Http::On,
        Some("off") => Http::Off,
        Some("mixed") => Http::Mixed,
        Some(other) => {
            return Err(entry.wrong(format!("{} is none of on, off, mixed", quoted(other))));
        }
    }))
}

/// The original treats a negative time as 0.
fn idle_timeout(entry: &Entry, words: &mut WordIter<'_>, _: bool) -> Result<Command, CommandError> {
    match words.peek().and_then(|text| text.strip_prefix('-')) {
        Some(digits) => {
            words.next();
            entry.number(digits, COUNT)?;
            Ok(Command::Number(Number::IdleTimeout, Some(0)))
        }
        None => value(Number::IdleTimeout, entry, words),
    }
}

fn form(words: &mut WordIter<'_>) -> Form {
    match words.peek() {
        Some("json") => {
            words.next();
            Form::Json
        }
        Some(_) | None => Form::Plain,
    }
}

fn recent(entry: &Entry, words: &mut WordIter<'_>, _: bool) -> Result<Command, CommandError> {
    const SECONDS: u32 = 300;
    match words.next() {
        None => Ok(Command::Recent(SECONDS, Form::Plain)),
        Some("json") => Ok(Command::Recent(SECONDS, Form::Json)),
        Some(text) => Ok(Command::Recent(entry.number(text, COUNT)?, form(words))),
    }
}

fn acl(entry: &Entry, words: &mut WordIter<'_>, no: bool) -> Result<Command, CommandError> {
    if no {
        let text = words.next().ok_or(CommandError::Usage { word: "no acl", arguments: "N" })?;
        return Ok(Command::NoAcl(list_number(entry, text)?));
    }
    let list = list_number(entry, entry.required(words)?)?;
    let verdict = match entry.required(words)? {
        "permit" => AclVerdict::Permit,
        "deny" => AclVerdict::Deny,
        other => return Err(entry.wrong(format!("{} is neither permit nor deny", quoted(other)))),
    };
    let address = entry.required(words)?;
    if address == "country" {
        return refused(entry, "country: no country lookup is built in");
    }
    Ok(Command::Acl { list, verdict, net: net(entry, address, words)? })
}

fn list_number(entry: &Entry, text: &str) -> Result<u8, CommandError> {
    let number = entry.number(text, Number::ClientAcl.range())?;
    u8::try_from(number).map_err(|why| entry.wrong(why))
}

fn net(entry: &Entry, text: &str, words: &mut WordIter<'_>) -> Result<Net, CommandError> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let ip: IpAddr = address
        .parse()
        .map_err(|_| entry.wrong(format!("{} is no IP address", quoted(address))))?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    let length = length.map(|text| entry.number(text, 0..=longest)).transpose()?;
    let net = match ip {
        IpAddr::V6(ip) => Net::v6_prefix(ip, length.unwrap_or(128) as u8),
        IpAddr::V4(ip) => match length {
            Some(length) => Net::v4_prefix(ip, length as u8),
            None => match words.next() {
                None => Net::v4_prefix(ip, 32),
                Some(text) => Some(Net::v4(ip, mask(entry, text)?)),
            },
        },
    };
    net.ok_or_else(|| entry.wrong("the prefix is too long"))
}

/// Refuses a second address that is not a mask. Taken as a mask, it would permit or deny addresses
/// that the operator did not name.
fn mask(entry: &Entry, text: &str) -> Result<Ipv4Addr, CommandError> {
    let why = format!("{} is no IPv4 mask such as 255.255.255.0", quoted(text));
    match text.parse() {
        Ok(mask) if is_mask(mask) => Ok(mask),
        Ok(_) => Err(entry.wrong(why + "; a second address needs a line of its own")),
        Err(_) => Err(entry.wrong(why)),
    }
}

fn explain(entry: &Entry, words: &mut WordIter<'_>, _: bool) -> Result<Command, CommandError> {
    let text = entry.required(words)?;
    text.parse()
        .map(Command::Explain)
        .map_err(|_| entry.wrong(format!("{} is no IP address", quoted(text))))
}

fn help(entry: &Entry, words: &mut WordIter<'_>, _: bool) -> Result<Command, CommandError> {
    let Some(word) = words.next() else { return Ok(Command::Help(None)) };
    match COMMANDS.iter().find(|known| known.word == word) {
        Some(known) => Ok(Command::Help(Some(known.word.to_owned()))),
        None if word == "no" => Ok(Command::Help(Some(word.to_owned()))),
        None => Err(entry.wrong(format!(
            "no command is called {}{}",
            quoted(word),
            suggestion(word, |_| true)
        ))),
    }
}

fn listen(entry: &Entry, words: &mut WordIter<'_>, _: bool) -> Result<Command, CommandError> {
    let local = words
        .next()
        .map(|text| grammar::local(text).map_err(|why| entry.wrong(why)))
        .transpose()?;
    Ok(Command::Listen(local))
}

fn log(entry: &Entry, words: &mut WordIter<'_>, no: bool) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::NoLog);
    }
    let target =
        words.next().map(|text| log_target(text).map_err(|why| entry.wrong(why))).transpose()?;
    Ok(Command::Log(target))
}

/// Reads the destination of the request log: host:port if the text has a colon and no leading
/// slash, else a file.
///
/// # Errors
/// The text is neither; the error says why.
pub fn log_target(text: &str) -> Result<LogTarget, GrammarError> {
    if text.starts_with('/') || !text.contains(':') {
        return Ok(LogTarget::File(PathBuf::from(text)));
    }
    match grammar::local(text)? {
        Local::Inet { host: Some(host), port } => Ok(LogTarget::Network(host, port)),
        Local::Inet { host: None, .. } | Local::Unix(_) => {
            Err(GrammarError(format!("{} is no host:port", quoted(text))))
        }
    }
}

fn web_stats(_: &Entry, words: &mut WordIter<'_>, no: bool) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::NoWebStats);
    }
    Ok(Command::WebStats(words.next().map(PathBuf::from)))
}

fn source(entry: &Entry, words: &mut WordIter<'_>, no: bool) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Source(None));
    }
    let text = entry.required(words)?;
    text.parse()
        .map(|ip| Command::Source(Some(ip)))
        .map_err(|_| CommandError::Source(text.to_owned()))
}

fn proxy_protocol(
    entry: &Entry,
    words: &mut WordIter<'_>,
    _: bool,
) -> Result<Command, CommandError> {
    match (entry.required(words)?, entry.required(words)?) {
        ("in", "off") => Ok(Command::ProxyIn(Senders::default())),
        ("in", "from") => {
            let senders = Senders::read(entry.required(words)?).map_err(|why| entry.wrong(why))?;
            Ok(Command::ProxyIn(senders))
        }
        ("out", version) => {
            let known = ProxyOut::WORDS.iter().find(|(word, _)| *word == version);
            let (_, out) = known.ok_or_else(|| {
                entry.wrong(format!("{} is none of v1, v2, off", quoted(version)))
            })?;
            Ok(Command::ProxyOut(*out))
        }
        ("in", other) => Err(entry.wrong(format!("{} is neither from nor off", quoted(other)))),
        (other, _) => Err(entry.wrong(format!("{} is neither in nor out", quoted(other)))),
    }
}

fn socket_buffers(
    entry: &Entry,
    words: &mut WordIter<'_>,
    _: bool,
) -> Result<Command, CommandError> {
    let side = match entry.required(words)? {
        "client" => BufferSide::Client,
        "server" => BufferSide::Server,
        other => return Err(entry.wrong(format!("{} is neither client nor server", quoted(other)))),
    };
    let receive = entry.number(entry.required(words)?, BUFFER)?;
    let send = entry.number(entry.required(words)?, BUFFER)?;
    Ok(Command::SocketBuffers(side, BufferSizes { receive, send }))
}

/// The range of a socket buffer size, in bytes. The kernel limits it to `net.core.rmem_max` and
/// `wmem_max`.
pub(crate) const BUFFER: std::ops::RangeInclusive<u32> = 0..=64 << 20;

fn fastclose(entry: &Entry, words: &mut WordIter<'_>, _: bool) -> Result<Command, CommandError> {
    let which = match words.next() {
        None => return Err(CommandError::FastcloseAlone),
        Some("off") => Fastclose::Off,
        Some("up") => Fastclose::Up,
        Some("down") => Fastclose::Down,
        Some("both") => Fastclose::Both,
        Some(other) => {
            return Err(entry.wrong(format!("{} is none of up, down, both, off", quoted(other))));
        }
    };
    Ok(Command::Fastclose(which))
}

/// The keys of a server.
pub const SERVER_KEYS: &str = "acl, address, blacklist, hard, max, port, prio, weight";

/// A server's address: a host without a port, unlike an operand.
fn address(entry: &Entry, text: &str) -> Result<Host, CommandError> {
    grammar::server_address(text).map_err(|why| match text.rsplit_once(':') {
        Some((host, port))
            if grammar::server_address(host).is_ok() && grammar::service(port).is_ok() =>
        {
            entry.wrong(format!(
                "address {text}: an address has no port here; write address {host} port {port}"
            ))
        }
        Some(_) | None => entry.wrong(why),
    })
}

fn server(entry: &Entry, words: &mut WordIter<'_>, no: bool) -> Result<Command, CommandError> {
    if no {
        let text = words.next().ok_or(CommandError::Usage { word: "no server", arguments: "N" })?;
        return Ok(Command::NoServer(entry.ordinal(text, SERVER)?));
    }
    let number = entry.ordinal(entry.required(words)?, SERVER)?;
    let mut changes = Vec::new();
    let mut keys = Vec::new();
    while let Some(key) = words.next() {
        let value = entry.required(words)?;
        if keys.contains(&key) {
            return Err(
                entry.wrong(format!("{key} is given twice, the second time as {}", quoted(value)))
            );
        }
        keys.push(key);
        let count = || entry.number(value, COUNT);
        changes.push(match key {
            "acl" => ServerChange::Acl(list_number(entry, value)?),
            "address" => ServerChange::Address(address(entry, value)?),
            "blacklist" => ServerChange::Blacklist(count()?),
            "hard" => ServerChange::Hard(count()?),
            "max" => ServerChange::Max(count()?),
            "port" => ServerChange::Port(grammar::service(value).map_err(|why| entry.wrong(why))?),
            "prio" => ServerChange::Prio(count()?),
            "weight" => ServerChange::Weight(count()?),
            other => {
                return Err(entry.wrong(format!(
                    "no key is called {}; there are {SERVER_KEYS}",
                    quoted(other)
                )));
            }
        });
    }
    if changes.is_empty() {
        return Err(CommandError::Usage { word: entry.word, arguments: entry.arguments });
    }
    Ok(Command::Server { number, changes })
}
