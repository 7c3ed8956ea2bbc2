//! Why a connection ended: the words of the connection log, and the termination codes of haproxy.

use serde::{Serialize, Serializer};

/// Why a connection ended. The table in pen(8) has each of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConnectionEnd {
    /// Both sides ended, the client first.
    Client,
    /// Both sides ended, the server first.
    Server,
    /// The client reset the connection.
    ClientReset,
    /// The server reset the connection.
    ServerReset,
    /// The last server that was tried could not be connected to.
    ConnectFailed,
    /// The last server that was tried did not answer in time.
    ConnectTimeout,
    /// The only usable server had too many pending connects for too long.
    QueueTimeout,
    /// There was no traffic for `idle_timeout`.
    IdleTimeout,
    /// The TLS handshake failed, or took too long.
    HandshakeFailed,
    /// The TLS session broke after the handshake.
    TlsBroken,
    /// A listed sender sent no valid PROXY header, or not in time.
    ProxyRefused,
    /// The access list refused the client.
    RefusedAcl,
    /// There was no connection number for a client whose listener was closed (`-x`), or the client
    /// had as many connections as it may have (`per_client_max`).
    RefusedLimit,
    /// The client had as many new connections as it may have within a time (`per_client_rate`).
    RefusedRate,
    /// No server could be used.
    NoServer,
    /// A request was refused (`-H`).
    HttpRefused,
    /// An operator closed it.
    ClosedByOperator,
    /// Its server went down by its check (`on_down close`).
    ServerDown,
    /// It was silent at a server with more than its share (`rebalance`).
    Rebalanced,
    /// Unfinished data of clients and servers took too much memory.
    Crowded,
    /// This machine ran short of descriptors or memory.
    Shortage,
    /// The worker was ordered to end.
    Shutdown,
}

/// How far a connection had come when it ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Its client still had to send something: a PROXY header, a TLS handshake.
    Preface,
    /// It waited for a server that had too many pending connects.
    Queue,
    /// It was about to be connected to a server.
    Connect,
    /// It was connected.
    Data,
}

impl ConnectionEnd {
    /// All ends, in the order of the manual.
    pub const ALL: [ConnectionEnd; 22] = [
        ConnectionEnd::Client,
        ConnectionEnd::Server,
        ConnectionEnd::ClientReset,
        ConnectionEnd::ServerReset,
        ConnectionEnd::ConnectFailed,
        ConnectionEnd::ConnectTimeout,
        ConnectionEnd::QueueTimeout,
        ConnectionEnd::IdleTimeout,
        ConnectionEnd::HandshakeFailed,
        ConnectionEnd::TlsBroken,
        ConnectionEnd::ProxyRefused,
        ConnectionEnd::RefusedAcl,
        ConnectionEnd::RefusedLimit,
        ConnectionEnd::RefusedRate,
        ConnectionEnd::NoServer,
        ConnectionEnd::HttpRefused,
        ConnectionEnd::ClosedByOperator,
        ConnectionEnd::ServerDown,
        ConnectionEnd::Rebalanced,
        ConnectionEnd::Crowded,
        ConnectionEnd::Shortage,
        ConnectionEnd::Shutdown,
    ];

    /// The end as one word.
    pub fn word(self) -> &'static str {
        match self {
            ConnectionEnd::Client => "client",
            ConnectionEnd::Server => "server",
            ConnectionEnd::ClientReset => "client_reset",
            ConnectionEnd::ServerReset => "server_reset",
            ConnectionEnd::ConnectFailed => "connect_failed",
            ConnectionEnd::ConnectTimeout => "connect_timeout",
            ConnectionEnd::QueueTimeout => "queue_timeout",
            ConnectionEnd::IdleTimeout => "idle_timeout",
            ConnectionEnd::HandshakeFailed => "handshake_failed",
            ConnectionEnd::TlsBroken => "tls_broken",
            ConnectionEnd::ProxyRefused => "proxy_refused",
            ConnectionEnd::RefusedAcl => "refused_acl",
            ConnectionEnd::RefusedLimit => "refused_limit",
            ConnectionEnd::RefusedRate => "refused_rate",
            ConnectionEnd::NoServer => "no_server",
            ConnectionEnd::HttpRefused => "http_refused",
            ConnectionEnd::ClosedByOperator => "closed_by_operator",
            ConnectionEnd::ServerDown => "server_down",
            ConnectionEnd::Rebalanced => "rebalanced",
            ConnectionEnd::Crowded => "crowded",
            ConnectionEnd::Shortage => "shortage",
            ConnectionEnd::Shutdown => "shutdown",
        }
    }

    /// The termination code of haproxy (its configuration manual, "Session state at
    /// disconnection"): who ended it, and what it waited for then.
    pub fn code(self, step: Step) -> &'static str {
        use Step::{Connect, Data, Preface, Queue};
        match (self, step) {
            (ConnectionEnd::Client, Preface) | (ConnectionEnd::ClientReset, Preface) => "CR",
            (ConnectionEnd::Client | ConnectionEnd::Server, Queue | Connect | Data)
            | (ConnectionEnd::Server, Preface) => "--",
            (ConnectionEnd::ClientReset, Queue) => "CQ",
            (ConnectionEnd::ClientReset, Connect) => "CC",
            (ConnectionEnd::ClientReset, Data) => "CD",
            (ConnectionEnd::ServerReset, _) => "SD",
            (ConnectionEnd::ConnectFailed | ConnectionEnd::NoServer, _) => "SC",
            (ConnectionEnd::ConnectTimeout, _) => "sC",
            (ConnectionEnd::QueueTimeout, _) => "sQ",
            (ConnectionEnd::IdleTimeout, _) => "cD",
            (ConnectionEnd::HandshakeFailed, _)
            | (ConnectionEnd::ProxyRefused, _)
            | (ConnectionEnd::RefusedAcl, _)
            | (ConnectionEnd::HttpRefused, _) => "PR",
            (ConnectionEnd::TlsBroken, _) => "PD",
            (ConnectionEnd::RefusedLimit, _) => "PC",
            (ConnectionEnd::RefusedRate, _) => "PR",
            (ConnectionEnd::ClosedByOperator | ConnectionEnd::Shutdown, Preface) => "KR",
            (ConnectionEnd::ClosedByOperator | ConnectionEnd::Shutdown, Queue) => "KQ",
            (ConnectionEnd::ClosedByOperator | ConnectionEnd::Shutdown, Connect) => "KC",
            (ConnectionEnd::ClosedByOperator | ConnectionEnd::Shutdown, Data) => "KD",
            (ConnectionEnd::ServerDown, Preface) => "DR",
            (ConnectionEnd::ServerDown, Queue) => "DQ",
            (ConnectionEnd::ServerDown, Connect) => "DC",
            (ConnectionEnd::ServerDown, Data) => "DD",
            // As for a connection at a backup server when the others are up again.
            (ConnectionEnd::Rebalanced, _) => "UD",
            (ConnectionEnd::Crowded, Preface) => "RR",
            (ConnectionEnd::Crowded, Queue | Connect | Data) => "RD",
            (ConnectionEnd::Shortage, _) => "RC",
        }
    }
}

impl Serialize for ConnectionEnd {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_own_word_and_a_code_of_two_letters() {
        let words: std::collections::BTreeSet<&str> =
            ConnectionEnd::ALL.iter().map(|end| end.word()).collect();
        assert_eq!(words.len(), ConnectionEnd::ALL.len());
        for end in ConnectionEnd::ALL {
            for step in [Step::Preface, Step::Queue, Step::Connect, Step::Data] {
                assert_eq!(end.code(step).len(), 2, "{end:?}");
            }
        }
    }

    #[test]
    fn the_manual_has_each_end_with_its_code() {
        let manual = include_str!("../../../../docs/man/pen.8");
        for end in ConnectionEnd::ALL {
            let row = format!("\n.It Cm {} Pq ", end.word());
            let codes = manual.split_once(&row).map(|(_, rest)| rest.lines().next());
            let codes = codes.flatten().unwrap_or_else(|| panic!("{end:?} is not in the manual"));
            for step in [Step::Preface, Step::Queue, Step::Connect, Step::Data] {
                assert!(codes.contains(end.code(step)), "{end:?} {step:?}: {codes}");
            }
        }
    }
}
