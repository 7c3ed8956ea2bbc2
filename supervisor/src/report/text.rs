//! The text form of a report, for standard error or syslog. It has the lines of the original, and
//! lines about counters, refusals and the sandbox.

#![forbid(unsafe_code)]

use pen_ipc::text::date_time;
use pen_status::{ServerState, ServerStatus};

use crate::log::Logger;

use crate::report::snapshot::Snapshot;

/// Logs the report, block by block.
pub(super) fn render(snapshot: Snapshot<'_>, logger: &mut Logger) {
    let most = if logger.is_syslog() { SYSLOG_ENTRIES } else { usize::MAX };
    blocks(snapshot, most, &mut |block| logger.report(block));
}

/// Passes on the blocks of the report, with at most `most` clients and `most` connections.
fn blocks(mut snapshot: Snapshot<'_>, most: usize, block: &mut dyn FnMut(&str)) {
    let (time, servers, current) = (date_time(snapshot.time), snapshot.known(), snapshot.current);
    let (full, unix) = (snapshot.full_remark(), snapshot.time.unix_timestamp());
    block(&format!("Time {time}, {servers} servers, {current} current"));
    for server in &snapshot.servers {
        block(&format!(
            "Server {} status:\naddress {}\n{}\nport {}\n{} connections ({} soft, {} hard)\n{} \
             sent, {} received\n{}",
            server.number(),
            server.address.as_deref().unwrap_or("-"),
            server.failed_at,
            server.port,
            server.connections,
            server.max,
            server.hard,
            server.sent,
            server.received,
            remark(server, unix)
        ));
    }
    for (what, server) in [("Emergency", &snapshot.emergency), ("Abuse", &snapshot.abuse)] {
        if let Some(server) = server {
            let (place, state) = (server.name_and_address(), server.in_words(unix));
            block(&format!("{what} server: {place}, {} connections, {state}", server.connections));
        }
    }
    block(&format!("Max number of clients: {}", snapshot.clients_max));
    block("Active clients:");
    for client in snapshot.clients.by_ref().take(most) {
        block(&format!(
            "Client {} status:\naddress {}\nlast used {}\nlast server \
             {}\nconnects  {}\nsent  {}\nreceived  {}\n",
            client.slot,
            client.address,
            client.age,
            client.server,
            client.connects,
            client.sent,
            client.received
        ));
    }
    left_out(snapshot.clients.count(), "clients", block);
    block(&format!("Max number of connections: {}", snapshot.connections_max));
    full.iter().for_each(|remark| block(remark));
    block("Active connections:");
    for connection in snapshot.connections.iter().take(most) {
        block(&format!(
            "Connection {} status:\ndownfd = {}, upfd = {}\npending data {} down, {} up\nclient \
             {}, server {}\n",
            connection.number,
            connection.downfd,
            connection.upfd,
            connection.pending_down,
            connection.pending_up,
            connection.client,
            connection.server
        ));
    }
    left_out(snapshot.connections.len().saturating_sub(most), "connections", block);
    for worker in snapshot.missing {
        block(&Snapshot::remark(*worker));
    }
    for old in snapshot.old_workers {
        block(&old.to_string());
    }
    if let Some(refused) = Snapshot::refusals(&snapshot.counters.requests_refused) {
        block(&refused);
    }
    block(&Snapshot::counted(&snapshot.counters));
    block(&format!("Sandbox of the workers: {}", snapshot.sandbox));
}

/// A line about a server that gets no clients.
fn remark(server: &ServerStatus, unix: i64) -> String {
    match server.state {
        ServerState::Vacant | ServerState::Up => String::new(),
        ServerState::Full
        | ServerState::Pending
        | ServerState::Out
        | ServerState::Failed
        | ServerState::Down
        | ServerState::Drain
        | ServerState::Maint => server.in_words(unix) + "\n",
    }
}

fn left_out(number: usize, what: &str, block: &mut dyn FnMut(&str)) {
    if number > 0 {
        block(&format!("{number} more {what} are left out"));
    }
}

/// Most clients and most connections in a report to syslog: the daemon queues and stores each line.
const SYSLOG_ENTRIES: usize = 1000;

#[cfg(test)]
mod tests {
    use pen_config::ids::WorkerId;
    use pen_ipc::refusal::Refusal;

    use super::*;
    use crate::report::snapshot::tests::{connection, snapshot};
    use pen_ipc::stats::Counters;

    fn rendered(snapshot: Snapshot<'_>, most: usize) -> Vec<String> {
        let mut all = Vec::new();
        blocks(snapshot, most, &mut |block| all.push(block.into()));
        all
    }

    #[test]
    fn a_report_has_these_lines() {
        let connections = [connection(1)];
        let mut small = snapshot(&connections, 1, &[]);
        small.servers.truncate(1);
        small.counters = Counters {
            accepted: 1,
            unserved: 2,
            refused: 3,
            failed_connects: 4,
            failovers: 5,
            pauses: 6,
            shortages: 7,
            log_lines: 8,
            log_lost: 9,
            lock_timeouts: 10,
            ..Counters::default()
        };
        let expected = [
            "Time 2026-11-24 04:10:21, 1 servers, 1 current",
            "Server 0 status:\naddress 127.0.0.1\n0\nport 21000\n0 connections (20 soft, 30 \
             hard)\n28 sent, 41 received\n",
            "Max number of clients: 2048",
            "Active clients:",
            "Client 0 status:\naddress 127.0.0.1\nlast used 0\nlast server \
             1\nconnects  2\nsent  41\nreceived  28\n",
            "Max number of connections: 500",
            "Active connections:",
            "Connection 1 status:\ndownfd = 7, upfd = 8\npending data 3 down, 4 up\nclient 0, \
             server 1\n",
            "Clients since the start: 1 accepted, 2 unserved, 3 refused by client_acl\n4 connects \
             failed, 5 clients passed on to another server\nAccepting paused 6 times, 7 \
             connections closed for a shortage\n8 lines of the request log, 9 lost; 10 times the \
             client table was locked",
            "Sandbox of the workers: system calls filtered, Landlock 6, root directory empty",
        ];
        assert_eq!(rendered(small, usize::MAX), expected);
    }

    #[test]
    fn refused_requests_are_a_line_if_there_are_any() {
        let mut refusing = snapshot(&[], 0, &[]);
        for why in [Refusal::NotHttp, Refusal::Late, Refusal::NotHttp] {
            refusing.counters.requests_refused.count(why);
        }
        assert!(
            rendered(refusing, usize::MAX)
                .contains(&"Requests refused: 2 not_http, 1 late".to_string())
        );
    }

    #[test]
    fn a_server_that_is_left_out_says_by_whom() {
        let mut small = snapshot(&[], 0, &[]);
        (small.servers[0].state, small.servers[0].failed_at, small.servers[0].blacklisted) =
            (ServerState::Out, 1_795_493_409, 60);
        assert!(
            rendered(small, 9)[1].ends_with(
                "28 sent, 41 received\ntaken out by an operator 12 s ago, for 60 s more\n"
            )
        );
    }

    #[test]
    fn a_limit_says_what_it_leaves_out() {
        let connections: Vec<_> = (0..8).map(connection).collect();
        let blocks = rendered(snapshot(&connections, 12, &[WorkerId(3)]), 5);
        assert_eq!(blocks.iter().filter(|block| block.starts_with("Client ")).count(), 5);
        assert_eq!(blocks.iter().filter(|block| block.starts_with("Connection ")).count(), 5);
        assert!(blocks.contains(&"7 more clients are left out".to_string()));
        assert!(blocks.contains(&"3 more connections are left out".to_string()));
        assert!(blocks[blocks.len() - 3].starts_with("Worker 3 did not answer"));
    }
}
