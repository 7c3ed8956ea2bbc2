//! Formats a [`Command`] as a line that the parser accepts.

use std::fmt;
use std::net::IpAddr;

use crate::acl::AclVerdict;
use crate::address::Host;
use crate::command::{
    Action, AfterDrain, BufferSide, Command, ConnectionLogTarget, Form, LogTarget, Query,
    ServerChange, Setting, Startup,
};
use crate::settings::{ConnectionLogFormat, Fastclose, Http, Maglev};

/// The shortest line that reads as the same command. Exception: a path or name with a space, which
/// no command can hold.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Query(query) => query.fmt(f),
            Command::Setting(setting) => setting.fmt(f),
            Command::Action(action) => action.fmt(f),
        }
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Query::Certificates(form) => write!(f, "certificates{}", form_word(*form)),
            Query::Connection(number) => write!(f, "connection {number}"),
            Query::ConnectionLog => f.write_str("connection_log"),
            Query::Control => f.write_str("control"),
            Query::Events(most, form) => write!(f, "events {most}{}", form_word(*form)),
            Query::Explain(address) => write!(f, "explain {address}"),
            Query::Help(word) => with(f, "help", word.as_ref()),
            Query::Listen => f.write_str("listen"),
            Query::Log => f.write_str("log"),
            Query::Mode(form) => write!(f, "mode{}", form_word(*form)),
            Query::Number(number) => f.write_str(number.word()),
            Query::Metrics => f.write_str("metrics"),
            Query::Overview => f.write_str("overview"),
            Query::Pid => f.write_str("pid"),
            Query::Recent(seconds, form) => write!(f, "recent {seconds}{}", form_word(*form)),
            Query::Sandbox => f.write_str("sandbox"),
            Query::Servers(form) => write!(f, "servers{}", form_word(*form)),
            Query::Show(word) => with(f, "show", word.as_ref()),
            Query::Socket(number) => write!(f, "socket {number}"),
            Query::Status(form) => write!(f, "status{}", form_word(*form)),
            Query::Watch(form) => write!(f, "watch{}", form_word(*form)),
            Query::WebStats => f.write_str("web_stats"),
        }
    }
}

impl Action {
    /// The command's word.
    pub fn word(&self) -> &'static str {
        match self {
            Action::Close(_) => "close",
            Action::Drain { .. } => "drain",
            Action::Exit => "exit",
            Action::Include(_) => "include",
            Action::Pause => "pause",
            Action::Resume => "resume",
            Action::Upgrade => "upgrade",
            Action::Write(_) | Action::WriteHere => "write",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word();
        match self {
            Action::Close(number) => write!(f, "{word} {number}"),
            Action::Drain { server, wait, close } => {
                write!(f, "{word} {server}")?;
                if *wait != Action::USUAL_DRAIN {
                    write!(f, " wait {wait}")?;
                }
                match close {
                    AfterDrain::Keep => Ok(()),
                    AfterDrain::Close => f.write_str(" close"),
                }
            }
            Action::Exit | Action::Pause | Action::Resume | Action::Upgrade => f.write_str(word),
            Action::Include(path) => write!(f, "{word} {}", path.display()),
            Action::Write(path) => with(f, word, path.as_ref().map(|path| path.display())),
            Action::WriteHere => write!(f, "{word} -"),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word();
        match self {
            Setting::Abuse(spec) | Setting::Emergency(spec) => or_no(f, word, spec.as_ref()),
            Setting::Acl { list, verdict, net } => {
                write!(f, "{word} {list} {} {net}", verdict_word(*verdict))
            }
            Setting::Certificate(Some((file, Some(key)))) => {
                write!(f, "{word} {} {}", file.display(), key.display())
            }
            Setting::Certificate(file) => {
                or_no(f, word, file.as_ref().map(|(file, _)| file.display()))
            }
            Setting::Check(None) => write!(f, "{word} off"),
            Setting::Check(Some(check)) => write!(f, "{word} {check}"),
            Setting::ClientCa(paths) if paths.is_empty() => write!(f, "no {word}"),
            Setting::ClientCa(paths) => {
                f.write_str(word)?;
                paths.iter().try_for_each(|path| write!(f, " {}", path.display()))
            }
            Setting::ConnectionLog(target) => or_no(f, word, target.as_ref()),
            Setting::ConnectionLogFormat(form) => write!(f, "{word} {}", log_format_word(*form)),
            Setting::Fastclose(which) => write!(f, "{word} {}", fastclose_word(*which)),
            Setting::Http(Http::Off) => write!(f, "no {word}"),
            Setting::Http(Http::On) => f.write_str(word),
            Setting::Http(Http::Mixed) => write!(f, "{word} mixed"),
            Setting::Listen(local) => write!(f, "{word} {local}"),
            Setting::Log(target) => or_no(f, word, target.as_ref()),
            Setting::Maglev(Maglev::Off) => write!(f, "no {word}"),
            Setting::Maglev(Maglev::On) => f.write_str(word),
            Setting::Maglev(Maglev::Bounded(percent)) => write!(f, "{word} bounded {percent}"),
            Setting::NoAcl(number) => write!(f, "no {word} {number}"),
            Setting::NoServer(number) => write!(f, "no {word} {number}"),
            Setting::NoServersFrom(name) => write!(f, "no {word} {name}"),
            Setting::Number(_, value) => write!(f, "{word} {value}"),
            Setting::OnDown(what) => write!(f, "{word} {what}"),
            Setting::PerClientNet(net) => write!(f, "{word} {net}"),
            Setting::PerClientRate(rate) => or_no(f, word, rate.as_ref()),
            Setting::ProxyIn(senders) if senders.is_empty() => write!(f, "{word} in off"),
            Setting::ProxyIn(senders) => write!(f, "{word} in from {senders}"),
            Setting::ProxyOut(out) => write!(f, "{word} out {out}"),
            Setting::Server { number, changes } => {
                write!(f, "{word} {number}")?;
                changes.iter().try_for_each(|change| write!(f, " {change}"))
            }
            Setting::ServerTlsCa(path) => or_no(f, word, path.as_ref().map(|path| path.display())),
            Setting::ServerTlsCert(Some((file, Some(key)))) => {
                write!(f, "{word} {} {}", file.display(), key.display())
            }
            Setting::ServerTlsCert(file) => {
                or_no(f, word, file.as_ref().map(|(file, _)| file.display()))
            }
            Setting::ServerTlsName(name) => or_no(f, word, name.as_ref()),
            Setting::ServersFrom(from) => write!(f, "{word} {from}"),
            Setting::SocketBuffers(side, sizes) => {
                let side = match side {
                    BufferSide::Client => "client",
                    BufferSide::Server => "server",
                };
                write!(f, "{word} {side} {} {}", sizes.receive, sizes.send)
            }
            Setting::Source(address) => or_no(f, word, address.as_ref()),
            Setting::SslAlways => write!(f, "{word} no_sslv3"),
            Setting::SslCiphers(list) => or_no(f, word, list.as_ref()),
            Setting::SslNames(path) | Setting::SslOcsp(path) | Setting::WebStats(path) => {
                or_no(f, word, path.as_ref().map(|path| path.display()))
            }
            Setting::SslNoTls12 => write!(f, "{word} no_tlsv1.2"),
            Setting::SslRenegotiation(seconds) => write!(f, "{word} {seconds}"),
            Setting::SslTls12 => write!(f, "{word} tlsv1.2"),
            Setting::Startup(startup) => startup.fmt(f),
            Setting::Switch(_, true) => f.write_str(word),
            Setting::Switch(_, false) => write!(f, "no {word}"),
            Setting::UnlimitedAcl(list) => or_no(f, word, list.as_ref()),
        }
    }
}

impl fmt::Display for Startup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word();
        match self {
            Startup::Control(local) | Startup::Page(local) => or_no(f, word, local.as_ref()),
            Startup::ExitCommand(true) | Startup::RequireSandbox(true) => f.write_str(word),
            Startup::ExitCommand(false) | Startup::RequireSandbox(false) => write!(f, "no {word}"),
            Startup::Jail(path) | Startup::PidFile(path) => {
                or_no(f, word, path.as_ref().map(|path| path.display()))
            }
            Startup::User(user) => or_no(f, word, user.as_ref()),
        }
    }
}

/// Key and value.
impl fmt::Display for ServerChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key();
        match self {
            ServerChange::Acl(list) => write!(f, "{key} {list}"),
            // Without brackets, as the original writes it.
            ServerChange::Address(Host::Ip(IpAddr::V6(ip))) => write!(f, "{key} {ip}"),
            ServerChange::Address(Host::Zoned(ip, zone)) => write!(f, "{key} {ip}%{zone}"),
            ServerChange::Address(host) => write!(f, "{key} {host}"),
            ServerChange::Check(check) => write!(f, "{key} {check}"),
            ServerChange::Port(port) => write!(f, "{key} {port}"),
            ServerChange::State(mode) => write!(f, "{key} {mode}"),
            ServerChange::Tls(transport) => write!(f, "{key} {}", transport.word()),
            ServerChange::Blacklist(value)
            | ServerChange::Hard(value)
            | ServerChange::Max(value)
            | ServerChange::Prio(value)
            | ServerChange::Weight(value) => write!(f, "{key} {value}"),
        }
    }
}

/// The form that `log` takes and shows.
impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogTarget::File(path) => path.display().fmt(f),
            LogTarget::Network(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// The form that `connection_log` takes and shows.
impl fmt::Display for ConnectionLogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectionLogTarget::Log(target) => target.fmt(f),
            ConnectionLogTarget::Syslog => f.write_str("syslog"),
        }
    }
}

/// The word with its argument; without an argument, the word after `no`.
fn or_no(
    f: &mut fmt::Formatter<'_>,
    word: &str,
    argument: Option<impl fmt::Display>,
) -> fmt::Result {
    match argument {
        Some(argument) => write!(f, "{word} {argument}"),
        None => write!(f, "no {word}"),
    }
}

fn with(
    f: &mut fmt::Formatter<'_>,
    word: &str,
    argument: Option<impl fmt::Display>,
) -> fmt::Result {
    match argument {
        Some(argument) => write!(f, "{word} {argument}"),
        None => f.write_str(word),
    }
}

fn verdict_word(verdict: AclVerdict) -> &'static str {
    match verdict {
        AclVerdict::Permit => "permit",
        AclVerdict::Deny => "deny",
    }
}

fn form_word(form: Form) -> &'static str {
    match form {
        Form::Plain => "",
        Form::Json => " json",
    }
}

fn log_format_word(form: ConnectionLogFormat) -> &'static str {
    match form {
        ConnectionLogFormat::Text => "text",
        ConnectionLogFormat::Json => "json",
        ConnectionLogFormat::Haproxy => "haproxy",
        ConnectionLogFormat::HaproxyHttp => "haproxy_http",
    }
}

fn fastclose_word(which: Fastclose) -> &'static str {
    match which {
        Fastclose::Off => "off",
        Fastclose::Up => "up",
        Fastclose::Down => "down",
        Fastclose::Both => "both",
    }
}
