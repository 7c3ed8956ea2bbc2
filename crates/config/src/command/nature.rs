//! The kind of a command, which decides where the command is allowed.

use crate::command::Command;

/// The kind of a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Nature {
    /// It sets or removes a setting. A file, `-O` and the control port accept it.
    Sets,
    /// It shows something and changes nothing. Only the control port accepts it, because only there
    /// somebody reads the reply.
    Shows,
    /// It does something once. Only the control port accepts it, because a file would do it at
    /// every start.
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
