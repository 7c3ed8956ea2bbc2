//! Formats a [`Command`] as a line that the parser accepts.

use std::fmt;
use std::net::IpAddr;

use crate::acl::AclVerdict;
use crate::address::Host;
use crate::command::{
    BufferSide, Command, Fastclose, Form, LogTarget, ServerChange, Startup, Switch,
};
use crate::settings::Http;

/// The shortest line that reads as the same command. Exception: a path or name with a space, which
/// no command can hold.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Nothing => Ok(()),
            Command::Acl { list, verdict, net } => {
                write!(f, "acl {list} {} {net}", verdict_word(*verdict))
            }
            Command::NoAcl(list) => write!(f, "no acl {list}"),
            Command::Switch(switch, true) => f.write_str(switch.word()),
            Command::Http(Http::Off) => f.write_str("no http"),
            Command::Http(Http::On) => f.write_str("http"),
            Command::Http(Http::Mixed) => f.write_str("http mixed"),
            Command::Switch(switch, false) => write!(f, "no {}", switch.word()),
            Command::Number(number, value) => with(f, number.word(), value.as_ref()),
            Command::Certificates(form) => write!(f, "certificates{}", form_word(*form)),
            Command::Close(number) => write!(f, "close {number}"),
            Command::Connection(number) => write!(f, "connection {number}"),
            Command::Socket(number) => write!(f, "socket {number}"),
            Command::Control => f.write_str("control"),
            Command::Emergency(spec) => or_no(f, "emergency", spec.as_ref()),
            Command::Abuse(spec) => or_no(f, "abuse", spec.as_ref()),
            Command::Certificate(Some((file, Some(key)))) => {
                write!(f, "certificate {} {}", file.display(), key.display())
            }
            Command::Certificate(file) => {
                or_no(f, "certificate", file.as_ref().map(|(file, _)| file.display()))
            }
            Command::ClientCa(paths) if paths.is_empty() => f.write_str("no client_ca"),
            Command::ClientCa(paths) => {
                f.write_str("client_ca")?;
                paths.iter().try_for_each(|path| write!(f, " {}", path.display()))
            }
            Command::Startup(startup) => startup.fmt(f),
            Command::Show(word) => with(f, "show", word.as_ref()),
            Command::Exit => f.write_str("exit"),
            Command::Explain(address) => write!(f, "explain {address}"),
            Command::Help(word) => with(f, "help", word.as_ref()),
            Command::Include(path) => write!(f, "include {}", path.display()),
            Command::Listen(local) => with(f, "listen", local.as_ref()),
            Command::Log(target) => with(f, "log", target.as_ref()),
            Command::NoLog => f.write_str("no log"),
            Command::Mode(form) => write!(f, "mode{}", form_word(*form)),
            Command::Overview => f.write_str("overview"),
            Command::Pid => f.write_str("pid"),
            Command::NoServer(number) => write!(f, "no server {number}"),
            Command::ProxyIn(senders) if senders.is_empty() => f.write_str("proxy_protocol in off"),
            Command::ProxyIn(senders) => write!(f, "proxy_protocol in from {senders}"),
            Command::ProxyOut(out) => write!(f, "proxy_protocol out {out}"),
            Command::Sandbox => f.write_str("sandbox"),
            Command::Recent(seconds, form) => write!(f, "recent {seconds}{}", form_word(*form)),
            Command::Server { number, changes } => {
                write!(f, "server {number}")?;
                changes.iter().try_for_each(|change| write!(f, " {change}"))
            }
            Command::Servers(form) => write!(f, "servers{}", form_word(*form)),
            Command::Source(Some(address)) => write!(f, "source {address}"),
            Command::Source(None) => f.write_str("no source"),
            Command::SslCiphers(list) => or_no(f, "ssl_ciphers", list.as_ref()),
            Command::SslAlways => f.write_str("ssl_option no_sslv3"),
            Command::SslRenegotiation(seconds) => {
                write!(f, "ssl_client_renegotiation_interval {seconds}")
            }
            Command::SslNoTls12 => f.write_str("ssl_option no_tlsv1.2"),
            Command::SslTls12 => f.write_str("ssl_option tlsv1.2"),
            Command::SslOcsp(path) => {
                or_no(f, "ssl_ocsp_response", path.as_ref().map(|path| path.display()))
            }
            Command::SslNames(path) => {
                or_no(f, "ssl_sni_path", path.as_ref().map(|path| path.display()))
            }
            Command::Status(form) => write!(f, "status{}", form_word(*form)),
            Command::SocketBuffers(side, sizes) => {
                let side = match side {
                    BufferSide::Client => "client",
                    BufferSide::Server => "server",
                };
                write!(f, "socket_buffers {side} {} {}", sizes.receive, sizes.send)
            }
            Command::Fastclose(which) => write!(f, "tcp_fastclose {}", fastclose_word(*which)),
            Command::WebStats(path) => {
                with(f, "web_stats", path.as_ref().map(|path| path.display()))
            }
            Command::NoWebStats => f.write_str("no web_stats"),
            Command::WriteHere => f.write_str("write -"),
            Command::Write(path) => with(f, "write", path.as_ref().map(|path| path.display())),
        }
    }
}

impl fmt::Display for Startup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word();
        match self {
            Startup::Control(local) => or_no(f, word, local.as_ref()),
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
        match self {
            ServerChange::Acl(list) => write!(f, "acl {list}"),
            // Without brackets, as the original writes it.
            ServerChange::Address(Host::Ip(IpAddr::V6(ip))) => write!(f, "address {ip}"),
            ServerChange::Address(Host::Zoned(ip, zone)) => write!(f, "address {ip}%{zone}"),
            ServerChange::Address(host) => write!(f, "address {host}"),
            ServerChange::Blacklist(seconds) => write!(f, "blacklist {seconds}"),
            ServerChange::Hard(limit) => write!(f, "hard {limit}"),
            ServerChange::Max(limit) => write!(f, "max {limit}"),
            ServerChange::Port(port) => write!(f, "port {port}"),
            ServerChange::Prio(prio) => write!(f, "prio {prio}"),
            ServerChange::Weight(weight) => write!(f, "weight {weight}"),
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

impl Switch {
    /// The command's word.
    pub fn word(self) -> &'static str {
        match self {
            Switch::Ascii => "ascii",
            Switch::Dummy => "dummy",
            Switch::Hash => "hash",
            Switch::HashAlways => "hash_always",
            Switch::Keepalive => "keepalive",
            Switch::Prio => "prio",
            Switch::RequireClientCert => "require_client_cert",
            Switch::Roundrobin => "roundrobin",
            Switch::ServersOnly => "servers_only",
            Switch::Stubborn => "stubborn",
            Switch::TcpNodelay => "tcp_nodelay",
            Switch::Weight => "weight",
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

fn fastclose_word(which: Fastclose) -> &'static str {
    match which {
        Fastclose::Off => "off",
        Fastclose::Up => "up",
        Fastclose::Down => "down",
        Fastclose::Both => "both",
    }
}
