//! What kind of command one is: where it may stand depends on it.

use crate::command::Command;

/// What a command is there for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Nature {
    /// It sets something, or takes it away. A file, `-O` and the control port take it.
    Sets,
    /// It shows something and changes nothing: it is for the control port, where somebody reads it.
    Shows,
    /// It does something once: it is for the control port, since a file would do it at every start.
    Does,
}

impl Command {
    /// Its kind.
    pub fn nature(&self) -> Nature {
        match self {
            Command::Number(_, None)
            | Command::Listen(None)
            | Command::Log(None)
            | Command::WebStats(None)
            | Command::Certificates(_)
            | Command::Connection(_)
            | Command::Socket(_)
            | Command::Control
            | Command::Show(_)
            | Command::Explain(_)
            | Command::Help(_)
            | Command::Mode(_)
            | Command::Overview
            | Command::Pid
            | Command::Sandbox
            | Command::Recent(_, _)
            | Command::Servers(_)
            | Command::Status(_) => Nature::Shows,
            Command::Close(_) | Command::Exit | Command::Write(_) | Command::WriteHere => {
                Nature::Does
            }
            Command::Nothing
            | Command::Number(_, Some(_))
            | Command::Listen(Some(_))
            | Command::Log(Some(_))
            | Command::WebStats(Some(_))
            | Command::Acl { .. }
            | Command::NoAcl(_)
            | Command::Switch(_, _)
            | Command::Http(_)
            | Command::Emergency(_)
            | Command::Abuse(_)
            | Command::Certificate(_)
            | Command::ClientCa(_)
            | Command::Startup(_)
            | Command::Include(_)
            | Command::NoLog
            | Command::NoServer(_)
            | Command::ProxyIn(_)
            | Command::ProxyOut(_)
            | Command::Server { .. }
            | Command::SocketBuffers(_, _)
            | Command::Source(_)
            | Command::SslCiphers(_)
            | Command::SslAlways
            | Command::SslRenegotiation(_)
            | Command::SslNoTls12
            | Command::SslTls12
            | Command::SslOcsp(_)
            | Command::SslNames(_)
            | Command::Fastclose(_)
            | Command::NoWebStats => Nature::Sets,
        }
    }
}
