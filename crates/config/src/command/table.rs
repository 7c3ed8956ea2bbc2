//! The table of commands: their words, arguments and help texts, and how they are read.

use crate::command::read::checks::{check, drain, on_down, servers_from};
use crate::command::read::limits::{per_client_net, per_client_rate, unlimited_acl};
use crate::command::read::queries::{
    close, connection, events, explain, form, help, recent, show, write,
};
use crate::command::read::servers::{acl, backup, proxy_protocol, server};
use crate::command::read::tls::{
    certificate, ciphers, client_ca, path, renegotiation, server_tls_ca, server_tls_cert,
    server_tls_name, ssl_option,
};
use crate::command::read::values::{
    connection_log, connection_log_format, control, fastclose, http, idle_timeout, listen, log,
    maglev, page, socket_buffers, source, start_switch, startup, web_stats,
};
use crate::command::read::{WordIter, off_only, refused, switch_without_effect};
use crate::command::{
    Action, Command, CommandError, Number, Query, ServerChange, Setting, Startup, Switch,
};

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
    pub(super) reader: Reader,
}

/// How the words after a command's word are read. The flag says that `no` came before the word.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reader {
    /// Nothing, `on` or `off`.
    Switch(Switch),
    /// A number; nothing asks for it.
    Number(Number),
    /// Another setting that `show` shows; without its value it may be a query.
    Setting(Read<Command>),
    /// A setting without effect, which `show` does not show.
    NotShown(fn(&Entry, &mut WordIter<'_>) -> Result<Setting, CommandError>),
    Query(fn(&Entry, &mut WordIter<'_>) -> Result<Query, CommandError>),
    Action(fn(&Entry, &mut WordIter<'_>) -> Result<Action, CommandError>),
    /// A command of the original that is accepted without effect, or refused.
    NoEffect(Read<()>),
}

type Read<T> = fn(&Entry, &mut WordIter<'_>, bool) -> Result<T, CommandError>;

impl Entry {
    /// Whether it sets a lasting value, which `show` shows.
    pub fn is_setting(&self) -> bool {
        match self.reader {
            Reader::Switch(_) | Reader::Number(_) | Reader::Setting(_) => true,
            Reader::NotShown(_) | Reader::Query(_) | Reader::Action(_) | Reader::NoEffect(_) => {
                false
            }
        }
    }

    /// The arguments after `no` and the command's word.
    pub fn negated_arguments(&self) -> &'static str {
        match self.word {
            "acl" | "server" => "N",
            "servers_from" => "NAME",
            _ => "",
        }
    }
}

/// The commands that set a lasting value, in alphabetical order. `status_file` is shown as
/// `web_stats`.
pub fn setting_words() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().filter(|entry| entry.is_setting()).map(|entry| entry.word)
}

const NO_DSR: &str = "direct server return is not supported";

const LATER: &str = "not built in yet";

const UNFINISHED: &str = "not supported: it was never finished, clients would hang";

/// Makes the entries, each `WORD ARGUMENTS: READER, HELP;`. A `no` before the colon means that the
/// command can follow `no`.
macro_rules! table {
    ($(
        $word:literal $arguments:literal $($no:ident)?: $kind:ident($reader:expr), $help:literal;
    )*) => {
        &[$(Entry {
            word: $word,
            arguments: $arguments,
            negatable: !concat!($(stringify!($no))?).is_empty(),
            help: $help,
            reader: Reader::$kind($reader),
        },)*]
    };
}

/// The commands, and after `server` its keys, whose grammar is here but nothing behind it yet. They
/// are refused, and neither help nor the manual has them.
pub(crate) const UNBUILT: &[&str] = &[];

/// Which commands are read and shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Offered {
    /// Those that pen offers: all but [`UNBUILT`].
    Built,
    /// All that have a grammar.
    All,
}

impl Offered {
    /// All entries in alphabetical order.
    pub(crate) fn entries(self) -> &'static [Entry] {
        match self {
            Offered::Built => COMMANDS,
            Offered::All => WITH_GRAMMAR,
        }
    }

    /// Whether `server N` takes a key.
    pub(crate) fn has_key(self, key: &str) -> bool {
        match self {
            Offered::All => true,
            Offered::Built => !UNBUILT.iter().any(|word| word.strip_prefix("server ") == Some(key)),
        }
    }
}

/// Whether pen offers a setting, with all keys if it is a server's.
pub(crate) fn is_offered(setting: &Setting, offered: Offered) -> bool {
    let is_known = offered.entries().iter().any(|entry| entry.word == setting.word());
    let changes: &[ServerChange] =
        if let Setting::Server { changes, .. } = setting { changes } else { &[] };
    is_known && changes.iter().all(|change| offered.has_key(change.key()))
}

/// The refusal of a command without anything behind it.
pub(super) fn unbuilt<T>(entry: &Entry) -> Result<T, CommandError> {
    refused(entry, LATER)
}

/// All commands in alphabetical order: the table that the parser uses and the manual lists.
pub const COMMANDS: &[Entry] = &BUILT;

/// [`WITH_GRAMMAR`] without [`UNBUILT`].
const BUILT: [Entry; WITH_GRAMMAR.len() - unbuilt_commands()] = {
    let mut built = [WITH_GRAMMAR[0]; WITH_GRAMMAR.len() - unbuilt_commands()];
    let (mut from, mut to) = (0, 0);
    while from < WITH_GRAMMAR.len() {
        if !is_unbuilt(WITH_GRAMMAR[from].word) {
            built[to] = WITH_GRAMMAR[from];
            to += 1;
        }
        from += 1;
    }
    built
};

const fn unbuilt_commands() -> usize {
    let (mut place, mut count) = (0, 0);
    while place < WITH_GRAMMAR.len() {
        count += is_unbuilt(WITH_GRAMMAR[place].word) as usize;
        place += 1;
    }
    count
}

const fn is_unbuilt(word: &str) -> bool {
    let mut place = 0;
    while place < UNBUILT.len() {
        if is_same(word.as_bytes(), UNBUILT[place].as_bytes()) {
            return true;
        }
        place += 1;
    }
    false
}

/// A comparison of texts that constants can use.
const fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut place = 0;
    while place < one.len() {
        if one[place] != other[place] {
            return false;
        }
        place += 1;
    }
    true
}

/// All commands that have a grammar, in alphabetical order.
const WITH_GRAMMAR: &[Entry] = table! {
    "abort_on_error" "[on|off]" no: NoEffect(switch_without_effect),
        "No effect; accepted for old configuration files.";
    "abuse" "[SERVER]" no: Setting(|e, w, no| backup(Setting::Abuse, e, w, no)),
        "Show or set where clients go that client_acl refuses, and with abuse_over those beyond a \
         limit (-B).";
    "abuse_over" "[on|off]" no: Switch(Switch::AbuseOver),
        "Send connections beyond a limit per client to the abuse server.";
    "accept_batch" "[N]": Number(Number::AcceptBatch),
        "Show or set how many connections are accepted per wake-up (-m).";
    "acl" "N permit|deny ADDRESS [MASK]" no: Setting(acl),
        "Add an entry to access list N (0-9): IPv4 with a mask or /length, IPv6 with /length. no \
         acl N empties the list.";
    "ascii" "[on|off]" no: Switch(Switch::Ascii),
        "Dumps as text instead of hex.";
    "backlog" "[N]": Number(Number::Backlog),
        "Show or set how many connections may wait to be accepted (-q).";
    "blacklist" "[SECONDS]": Number(Number::Blacklist),
        "Show or set how long a server that failed is left out; 0 = it never is.";
    "block" "[on|off]" no: NoEffect(switch_without_effect),
        "No effect; accepted for old configuration files.";
    "certificate" "[FILE [KEY]]" no: Setting(certificate),
        "Show or set the certificate and its key (-E, -K); only in a file or at the start.";
    "certificates" "[json]": Query(|_, w| Ok(Query::Certificates(form(w)))),
        "The certificates of TLS: whose, by whom, until when, with what kind of key, and what for.";
    "check" "[off|KIND [KEY VALUE ...]]": Setting(check),
        "Show or set how servers are checked; KIND: tcp, tls, http PATH, https PATH, smtp, pgsql, \
         mysql USER, redis [master], ldap, dns NAME, send TEXT expect TEXT; KEY: host, status, \
         body, port, proxy.";
    "check_fall" "[N]": Number(Number::CheckFall),
        "Show or set how many failed checks in a row make a server down; default 3.";
    "check_interval" "[SECONDS]": Number(Number::CheckInterval),
        "Show or set the time from one check of a server to the next; default 2.";
    "check_rise" "[N]": Number(Number::CheckRise),
        "Show or set how many good checks in a row make a server up; default 2.";
    "check_timeout" "[SECONDS]": Number(Number::CheckTimeout),
        "Show or set how long a check may take; default 1.";
    "client_acl" "[N]": Number(Number::ClientAcl),
        "Show or set the access list for clients.";
    "client_ca" "[FILE|DIRECTORY [DIRECTORY]]" no: Setting(client_ca),
        "Show or set whose client certificates are good (-G, -A); only in a file or at the start.";
    "clients_max" "[N]": Number(Number::ClientsMax),
        "Show or enlarge the client table.";
    "close" "N": Action(close),
        "End connection N at once.";
    "conn_max" "[N]": Number(Number::ConnMax),
        "Show or enlarge the number of simultaneous connections (-x).";
    "connection" "[N]": Query(connection),
        "Facts about connection N.";
    "connection_log" "[FILE|syslog|HOST:PORT]" no: Setting(connection_log),
        "Show or set the connection log: one line at the end of each connection. HOST:PORT gets \
         syslog messages by UDP.";
    "connection_log_format" "[text|json|haproxy|haproxy_http]": Setting(connection_log_format),
        "Show or set what a line of the connection log looks like; haproxy is the TCP log of \
         haproxy, and haproxy_http its HTTP log, for halog.";
    "control" "[ADDRESS]" no: Setting(control),
        "Show the control address; set it at the start (-C).";
    "control_acl" "[N]": Number(Number::ControlAcl),
        "Show or set the access list for the control port.";
    "debug" "[N]": Number(Number::Debug),
        "Show or set the debug level.";
    "delayed_forward" "[on|off]" no: NoEffect(switch_without_effect),
        "No effect; accepted for old configuration files.";
    "drain" "N [wait SECONDS] [close]": Action(drain),
        "Send no new clients to server N, and reply when it has no connection left, or after \
         SECONDS (300) with how many are left; close ends those.";
    "drain_timeout" "[SECONDS]": Number(Number::DrainTimeout),
        "Show or set how long after an upgrade the old workers keep their connections; 0 = until \
         these end.";
    "dsr_if" "INTERFACE": NoEffect(|e, _, _| refused(e, NO_DSR)),
        "Refused: no direct server return.";
    "dsr_ip" "ADDRESS": NoEffect(|e, _, _| refused(e, NO_DSR)),
        "Refused: no direct server return.";
    "dummy" "[on|off]" no: Switch(Switch::Dummy),
        "Answer every client with a fixed page, without a server; for load tests.";
    "emergency" "[SERVER]" no: Setting(|e, w, no| backup(Setting::Emergency, e, w, no)),
        "Show or set the server of last resort (-e).";
    "epoll" "": NoEffect(|_, _, _| Ok(())),
        "No effect; accepted for old configuration files.";
    "events" "[N] [json]": Query(events),
        "The last N events, 20 without N and at most 1000, with their times.";
    "exit" "": Action(|_, _| Ok(Action::Exit)),
        "End the program; only with -X.";
    "exit_command" "[on|off]" no: Setting(|e, w, no| start_switch(Startup::ExitCommand, e, w, no)),
        "Allow exit and upgrade at the control port (-X); only at the start.";
    "explain" "ADDRESS": Query(explain),
        "Which server a client with that address would get now, and why.";
    "fail_open" "[on|off]" no: Switch(Switch::FailOpen),
        "While checks find all servers down and there is no emergency server, use them all the \
         same.";
    "hash" "[on|off]" no: Switch(Switch::Hash),
        "A hash of the client's address chooses the first server.";
    "hash_always" "[on|off]" no: Switch(Switch::HashAlways),
        "As hash, for every connection, whatever is remembered (-N).";
    "help" "[COMMAND]": Query(help),
        "List the commands, or tell what one does.";
    "hold" "[SECONDS]": Number(Number::Hold),
        "Show or set how long a client waits while no server can be used; 0 = it is closed at \
         once.";
    "http" "[on|off|mixed]" no: Setting(http),
        "Say in every HTTP request who the client is: X-Forwarded-For. What is not HTTP/1.x is \
         refused; with mixed it passes.";
    "idle_timeout" "[SECONDS]": Setting(idle_timeout),
        "Show or set after how long without traffic a connection is closed; 0 = never.";
    "idlers" "[N]": Number(Number::Idlers),
        "Show or set how many connections to servers are kept open without a client; for tests.";
    "include" "FILE": Action(|e, w| Ok(Action::Include(e.required(w)?.into()))),
        "Run the commands of a file.";
    "jail" "[DIRECTORY]" no: Setting(|e, w, no| startup(Startup::Jail, e, w, no)),
        "Show the root directory of jailed processes; set it at the start (-j).";
    "keepalive" "[on|off]" no: Switch(Switch::Keepalive),
        "TCP keepalive towards servers.";
    "kqueue" "": NoEffect(|_, _, _| Ok(())),
        "No effect; accepted for old configuration files.";
    "leastconn" "[on|off]" no: Switch(Switch::Leastconn),
        "The server with the fewest connections for its weight comes first.";
    "listen" "[[HOST:]PORT|/PATH]": Setting(listen),
        "Show or move the listen address; open connections stay.";
    "log" "[FILE|HOST:PORT]" no: Setting(log),
        "Show or set the request log.";
    "maglev" "[on|off|bounded PERCENT]" no: Setting(maglev),
        "The server at the client's position in a table comes first, the same after every restart \
         and on every machine; bounded passes over servers with more than PERCENT of the mean.";
    "max_servers" "[N]": Number(Number::MaxServers),
        "Show the size of the server table; set it at the start (-S).";
    "metrics" "": Query(|_, _| Ok(Query::Metrics)),
        "What pen is doing and has counted, in the text format of Prometheus.";
    "mode" "[json]": Query(|_, w| Ok(Query::Mode(form(w)))),
        "Show the modes.";
    "on_down" "[keep|close]": Setting(on_down),
        "Show or set what happens to the connections of a server that checks find down.";
    "overview" "": Query(|_, _| Ok(Query::Overview)),
        "Version, time, limits and all servers, in JSON: what penctl makes its table of servers \
         of.";
    "p2c" "[on|off]" no: Switch(Switch::P2c),
        "Of two servers drawn by weight, the one with fewer connections for its weight comes \
         first.";
    "page" "[[HOST:]PORT|/PATH]" no: Setting(page),
        "Show where the status page, the metrics and the events are served over HTTP; set it at \
         the start. A port alone is one of this machine.";
    "page_acl" "[N]": Number(Number::PageAcl),
        "Show or set the access list for the status page.";
    "pause" "": Action(|_, _| Ok(Action::Pause)),
        "Let all new clients wait until resume.";
    "peek" "[on|off]" no: NoEffect(|e, w, no| off_only(e, UNFINISHED, w, no)),
        "Refused: the original never finished it.";
    "pending_max" "[N]": Number(Number::PendingMax),
        "Show or set how many connects to one server may be pending per worker; a server with \
         that many is passed over.";
    "per_client_max" "[N]": Number(Number::PerClientMax),
        "Show or set how many connections of one client may be open, at most 1048576; 0 = any \
         number.";
    "per_client_net" "[V4 V6]": Setting(per_client_net),
        "Show or set how many leading bits of an IPv4 (1-32) and of an IPv6 address (1-128) make \
         one client, for the limits per client; default 32 64.";
    "per_client_rate" "[N SECONDS]" no: Setting(per_client_rate),
        "Show or set how many new connections (1-1048576) one client may have within so many \
         seconds (1-86400); refused ones count too.";
    "pid" "": Query(|_, _| Ok(Query::Pid)),
        "Show the supervisor's pid.";
    "pid_file" "[FILE]" no: Setting(|e, w, no| startup(Startup::PidFile, e, w, no)),
        "Show the pid file; set it at the start (-p).";
    "poll" "": NoEffect(|_, _, _| Ok(())),
        "No effect; accepted for old configuration files.";
    "prio" "[on|off]" no: Switch(Switch::Prio),
        "The available server with the lowest prio comes first.";
    "proxy_protocol" "in from NET[,NET...]|off, or out v1|v2|off": Setting(proxy_protocol),
        "PROXY protocol: believe these senders whom their connections come from; tell servers \
         whom connections come from.";
    "rebalance" "[PERCENT]": Number(Number::Rebalance),
        "Show or set how many of a server's connections are closed per minute while it has more \
         than its share, so that their clients come back elsewhere; 0 = none.";
    "recent" "[SECONDS] [json]": Query(recent),
        "Clients seen within so many seconds (default 300).";
    "require_client_cert" "[on|off]" no: Switch(Switch::RequireClientCert),
        "Clients must present a valid certificate (-R).";
    "require_sandbox" "[on|off]" no:
        Setting(|e, w, no| start_switch(Startup::RequireSandbox, e, w, no)),
        "Do not start if the system cannot confine every process as it should; only at the start.";
    "resolve" "[SECONDS]": Number(Number::Resolve),
        "Show or set how many seconds after a lookup the names of servers are looked up again; 0 = never.";
    "resume" "": Action(|_, _| Ok(Action::Resume)),
        "Serve the clients that pause let wait, and all new ones.";
    "roundrobin" "[on|off]" no: Switch(Switch::Roundrobin),
        "Round robin without tracking.";
    "sandbox" "": Query(|_, _| Ok(Query::Sandbox)),
        "What every process is confined by.";
    "select" "": NoEffect(|_, _, _| Ok(())),
        "No effect; accepted for old configuration files.";
    "server" "N KEY VALUE ..." no: Setting(server),
        "Change server N: acl, address, blacklist, check, hard, max, port, prio, state, tls, weight; \
         all pairs or none. no server N takes it away.";
    "server_tls" "[on|off]" no: Switch(Switch::ServerTls),
        "Connect to servers with TLS, except those for which server N tls says otherwise.";
    "server_tls_ca" "[FILE|DIRECTORY]" no: Setting(server_tls_ca),
        "Show or set whose certificates of servers are good; with no, the system's. Only in a file \
         or at the start.";
    "server_tls_cert" "[FILE [KEY]]" no: Setting(server_tls_cert),
        "Show or set the certificate and key for servers that ask for one; only in a file or at \
         the start.";
    "server_tls_name" "[NAME]" no: Setting(server_tls_name),
        "Show or set the name that is sent to servers and that their certificates must have; with \
         no, each has that in its address.";
    "server_tls_verify" "[on|off]" no: Switch(Switch::ServerTlsVerify),
        "Connect with TLS only if the server's certificate is good and has its name; default on.";
    "servers" "[json]": Query(|_, w| Ok(Query::Servers(form(w)))),
        "List the servers.";
    "servers_from" "[NAME PORT FIRST-LAST [srv]]" no: Setting(servers_from),
        "Show or let servers FIRST to LAST follow the addresses of NAME, or its SRV records with \
         their ports, weights and prios.";
    "servers_only" "[on|off]" no: Switch(Switch::ServersOnly),
        "In a file: servers that it does not name are taken away when it is read.";
    "show" "[SETTING [N]]": Query(show),
        "Show what is in force, as a configuration file: all of it, or one setting; of acl and \
         server also number N alone.";
    "slow_start" "[SECONDS]": Number(Number::SlowStart),
        "Show or set how long the share of a server grows, from a tenth, that is new or was out of \
         service, at most 86400; 0 = it has its share at once.";
    "socket" "N": Query(|e, w| Ok(Query::Socket(e.ordinal(e.required(w)?, "a descriptor")?))),
        "To which connection a descriptor belongs; always -1, since descriptors are a worker's \
         own.";
    "socket_buffers" "client|server RX TX": Setting(socket_buffers),
        "Bytes of the kernel's receive and send buffers of each connection on that side; 0 = as \
         the kernel likes.";
    "source" "ADDRESS" no: Setting(source),
        "Local address for connections to servers.";
    "ssl_ciphers" "[LIST]" no: Setting(ciphers),
        "Show or set the cipher suites of TLS 1.2 by their OpenSSL names, joined by colons, best \
         first; with no, the default.";
    "ssl_client_renegotiation_interval" "SECONDS": NotShown(renegotiation),
        "No effect: there is no renegotiation.";
    "ssl_ocsp_response" "FILE" no: Setting(|e, w, no| path(Setting::SslOcsp, e, w, no)),
        "OCSP response (DER) to be stapled to the certificate of -E; repeat it to read the file \
         again.";
    "ssl_option" "OPTION": Setting(ssl_option),
        "no_tlsv1.2 leaves TLS 1.3 only, tlsv1.2 takes 1.2 too; no_sslv2, no_sslv3, no_tlsv1, \
         no_tlsv1.1 and cipher_server_preference are always so.";
    "ssl_sni_path" "DIRECTORY" no: Setting(|e, w, no| path(Setting::SslNames, e, w, no)),
        "Certificates by server name: NAME.crt, NAME.key, and if they are there NAME.ca and \
         NAME.ocsp.";
    "status" "[json]": Query(|_, w| Ok(Query::Status(form(w)))),
        "The status page.";
    "status_file" "[FILE]" no: Setting(web_stats),
        "As web_stats (-w).";
    "stubborn" "[on|off]" no: Switch(Switch::Stubborn),
        "Close the client if its first choice cannot be used.";
    "tarpit" "[SECONDS]": Number(Number::Tarpit),
        "Show or set how long a connection beyond a limit per client is kept open and silent, at \
         most 3600; 0 = it is reset at once.";
    "tarpit_acl" "[N]": NoEffect(|e, _, _| refused(e, NO_DSR)),
        "Refused: no direct server return.";
    "tcp_fastclose" "up|down|both|off": Setting(fastclose),
        "When the server (up), the client (down) or either ends its side, close both.";
    "tcp_nodelay" "[on|off]" no: Switch(Switch::TcpNodelay),
        "TCP_NODELAY on both sides from the first byte.";
    "timeout" "[SECONDS]": Number(Number::Timeout),
        "Show or set the connect timeout.";
    "tracking" "[SECONDS]": Number(Number::Tracking),
        "Show or set how long clients are remembered; 0 = for ever.";
    "transparent" "[on|off]" no: NoEffect(|e, w, no| off_only(e, LATER, w, no)),
        "Reach servers from the client's address. Not built in yet.";
    "unlimited_acl" "[N]" no: Setting(unlimited_acl),
        "Show or set the access list of the clients that have no limits per client.";
    "upgrade" "": Action(|_, _| Ok(Action::Upgrade)),
        "Go on as the program that is installed now, without losing a client; only with -X.";
    "user" "[NAME]" no: Setting(|e, w, no| startup(Startup::User, e, w, no)),
        "Show as whom jailed processes run; set it at the start (-u).";
    "watch" "[json]": Query(|_, w| Ok(Query::Watch(form(w)))),
        "Each event as it happens, until the connection is closed.";
    "web_stats" "[FILE]" no: Setting(web_stats),
        "Show or set the file for status reports.";
    "weight" "[on|off]" no: Switch(Switch::Weight),
        "The server with the fewest connections by weight comes first.";
    "workers" "[N]": Number(Number::Workers),
        "Show the number of workers; set it at start.";
    "write" "[FILE|-]": Action(write),
        "Write the settings as a configuration file; - replies with it.";
};
