//! Formats a check as the words that the parser accepts.

use std::fmt;

use crate::checks::{
    Check, CheckKind, HttpQuestion, OnDown, Records, RedisRole, ServerCheck, ServerMode,
    ServersFrom, StatusRange,
};
use crate::proxy::ProxyOut;

/// The words after `check`, the shortest that read as the same check.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.kind.word();
        match &self.kind {
            CheckKind::Tcp
            | CheckKind::Tls
            | CheckKind::Smtp
            | CheckKind::Pgsql
            | CheckKind::Ldap
            | CheckKind::Redis(RedisRole::Any) => f.write_str(word)?,
            CheckKind::Http(question) | CheckKind::Https(question) => {
                write!(f, "{word} {}", question.path)?
            }
            CheckKind::Mysql { user } => write!(f, "{word} {user}")?,
            CheckKind::Redis(RedisRole::Master) => write!(f, "{word} master")?,
            CheckKind::Dns { name } => write!(f, "{word} {name}")?,
            CheckKind::Exchange { send, expect } => write!(f, "{word} {send} expect {expect}")?,
        }
        if let Some(host) = &self.host {
            write!(f, " host {host}")?;
        }
        if let CheckKind::Http(question) | CheckKind::Https(question) = &self.kind {
            answer(f, question)?;
        }
        if let Some(port) = self.port {
            write!(f, " port {port}")?;
        }
        match self.proxy {
            ProxyOut::Off => Ok(()),
            ProxyOut::V1 | ProxyOut::V2 => write!(f, " proxy {}", self.proxy),
        }
    }
}

/// Which answers of HTTP are good.
fn answer(f: &mut fmt::Formatter<'_>, question: &HttpQuestion) -> fmt::Result {
    let StatusRange { low, high } = question.status;
    if question.status != StatusRange::default() {
        write!(f, " status {low}-{high}")?;
    }
    question.body.iter().try_for_each(|body| write!(f, " body {body}"))
}

/// The words after `server N check`.
impl fmt::Display for ServerCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerCheck::Default => f.write_str("default"),
            ServerCheck::Off => f.write_str("off"),
            ServerCheck::Own(check) => check.fmt(f),
        }
    }
}

impl fmt::Display for OnDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnDown::Keep => "keep",
            OnDown::Close => "close",
        })
    }
}

impl fmt::Display for ServerMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The words after `servers_from`.
impl fmt::Display for ServersFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}-{}", self.name, self.port, self.first, self.last)?;
        match self.records {
            Records::Addresses => Ok(()),
            Records::Srv => f.write_str(" srv"),
        }
    }
}
