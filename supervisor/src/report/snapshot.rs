//! The data of a report about everything, for every form.

#![forbid(unsafe_code)]

use pen_config::ids::{Target, WorkerId};
use pen_config::settings::Settings;
use pen_ipc::refusal::Refusals;
use pen_ipc::stats::{ConnectionInfo, Counters};
use pen_status::{ServerState, ServerStatus};
use pen_table::Table;
use time::OffsetDateTime;

use crate::clock;
use crate::jail::display::Summary;
use crate::processes::old::OldWorkerSummary;
use crate::report::Program;
use crate::report::gather::Gathered;
use crate::report::rows::{ClientRow, backup, clients, servers};

/// The state of the whole program at one moment, as exact as possible without stopping it.
pub(super) struct Snapshot<'a> {
    pub(super) time: OffsetDateTime,
    pub(super) program: Program<'a>,
    pub(super) emergency: Option<ServerStatus>,
    pub(super) abuse: Option<ServerStatus>,
    /// The server of the last connection.
    pub(super) current: i32,
    pub(super) servers: Vec<ServerStatus>,
    pub(super) clients_max: u32,
    /// The used client slots, read during the rendering: there may be millions.
    pub(super) clients: Box<dyn Iterator<Item = ClientRow> + 'a>,
    pub(super) connections_max: u32,
    pub(super) connections_used: u32,
    pub(super) connections: &'a [ConnectionInfo],
    pub(super) missing: &'a [WorkerId],
    /// Workers of earlier programs that still have connections.
    pub(super) old_workers: &'a [OldWorkerSummary],
    /// The counters of all workers since the start, summed.
    pub(super) counters: Counters,
    /// The restrictions of the workers.
    pub(super) sandbox: &'a Summary,
}

impl<'a> Snapshot<'a> {
    pub(super) fn take(
        gathered: &'a Gathered,
        program: &Program<'a>,
        (settings, table): (&'a Settings, &'a Table),
        sandbox: &'a Summary,
    ) -> Snapshot<'a> {
        Snapshot {
            time: clock::now(),
            program: *program,
            emergency: backup(Target::Emergency, settings, table, program.lookups),
            abuse: backup(Target::Abuse, settings, table, program.lookups),
            current: table.current(),
            servers: servers(settings, table, program.checks, program.lookups).collect(),
            clients_max: settings.clients_max,
            clients: Box::new(clients(settings, table)),
            connections_max: settings.connections_max,
            connections_used: table.connections_open(),
            connections: &gathered.connections,
            missing: &gathered.missing,
            old_workers: &gathered.old_workers,
            counters: gathered.counters,
            sandbox,
        }
    }

    /// The number of regular servers; a number without an address does not count.
    pub(super) fn known(&self) -> usize {
        self.servers.iter().filter(|server| server.state != ServerState::Vacant).count()
    }

    /// Whether further clients have to wait for the end of a connection.
    pub(super) fn connections_full(&self) -> bool {
        self.connections_used >= self.connections_max
    }

    /// The remark for people that clients have to wait.
    pub(super) fn full_remark(&self) -> Option<String> {
        let (used, most) = (self.connections_used, self.connections_max);
        self.connections_full()
            .then(|| format!("{used} of {most} connections are in use: further clients wait (-x)"))
    }

    /// The highest connection number in use; 0 if none is.
    pub(super) fn connections_last(&self) -> u32 {
        self.connections.last().map_or(0, |connection| connection.number)
    }

    /// The number of refused requests for each reason; none if there were none.
    pub(super) fn refusals(refused: &Refusals) -> Option<String> {
        let counts = refused.iter().filter(|(_, count)| *count > 0);
        let all: Vec<String> =
            counts.map(|(why, count)| format!("{count} {}", why.name())).collect();
        (!all.is_empty()).then(|| format!("Requests refused: {}", all.join(", ")))
    }

    /// The connections beyond a limit per client; none if there were none.
    pub(super) fn limited(counters: &Counters) -> Option<String> {
        let (max, rate) = (counters.beyond_max, counters.beyond_rate);
        let unchecked = match counters.limits_unchecked {
            0 => String::new(),
            unchecked => format!("; {unchecked} let in unchecked"),
        };
        (max > 0 || rate > 0 || !unchecked.is_empty()).then(|| {
            format!(
                "{max} connections beyond per_client_max, {rate} beyond per_client_rate; {} of \
                 them kept open and silent{unchecked}",
                counters.tarpitted
            )
        })
    }

    /// What workers counted, for a reader.
    pub(super) fn counted(counters: &Counters) -> String {
        let Counters { accepted, unserved, refused, failed_connects, failovers, .. } = counters;
        let Counters { pauses, shortages, log_lines, log_lost, lock_timeouts, .. } = counters;
        let connections = match (counters.connection_log_lines, counters.connection_log_lost) {
            (0, 0) => String::new(),
            (lines, lost) => format!("\n{lines} lines of the connection log, {lost} lost"),
        };
        let limited = Snapshot::limited(counters).map_or(String::new(), |line| format!("\n{line}"));
        format!(
            "Clients since the start: {accepted} accepted, {unserved} unserved, {refused} refused \
             by client_acl\n{failed_connects} connects failed, {failovers} clients passed on to \
             another server\nAccepting paused {pauses} times, {shortages} connections closed for a \
             shortage\n{log_lines} lines of the request log, {log_lost} lost; {lock_timeouts} \
             times the client table was locked{connections}{limited}"
        )
    }

    /// The remark about a worker that did not answer.
    pub(super) fn remark(worker: WorkerId) -> String {
        format!("Worker {worker} did not answer in time; its connections are left out.")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::jail::display::WorkerRoot;

    pub(in crate::report) fn connection(number: u32) -> ConnectionInfo {
        ConnectionInfo {
            number,
            state: 2,
            downfd: 7,
            upfd: 8,
            pending_down: 3,
            pending_up: 4,
            client: 0,
            server: 1,
        }
    }

    pub(in crate::report) fn client(slot: u32) -> ClientRow {
        ClientRow {
            slot,
            address: "127.0.0.1".into(),
            age: 0,
            server: 1,
            server_name: Some("127.0.0.1:21001".into()),
            connects: 2,
            sent: 41,
            received: 28,
        }
    }

    pub(in crate::report) fn snapshot<'a>(
        connections: &'a [ConnectionInfo],
        clients: u32,
        missing: &'a [WorkerId],
    ) -> Snapshot<'a> {
        let server = |number: u32, address: &str| ServerStatus {
            number: Some(number),
            address: Some(address.into()),
            last_failure: None,
            failed_at: 0,
            port: 21000 + number as u16,
            connections: number,
            max: 20,
            hard: 30,
            sent: 28,
            received: 41,
            weight: 1,
            prio: 2,
            acl: 0,
            blacklisted: 0,
            state: ServerState::Up,
            mode: pen_status::Mode::Ready,
            name: None,
            ..ServerStatus::default()
        };
        Snapshot {
            time: OffsetDateTime::from_unix_timestamp(1_795_493_421).unwrap(),
            program: Program {
                uptime: std::time::Duration::from_secs(7300),
                listen: "www:80",
                workers: 2,
                version: "0.1.0",
                checks: Box::leak(Box::default()),
                lookups: Box::leak(Box::default()),
            },
            emergency: None,
            abuse: None,
            current: 1,
            servers: vec![server(0, "127.0.0.1"), server(1, "/run/<&\">.sock")],
            clients_max: 2048,
            clients: Box::new((0..clients).map(client)),
            connections_max: 500,
            connections_used: connections.len() as u32,
            connections,
            missing,
            old_workers: &[],
            counters: Counters::default(),
            sandbox: &Summary { seccomp: true, landlock: 6, root: WorkerRoot::Empty },
        }
    }

    #[test]
    fn connections_are_full_when_all_are_in_use() {
        let snapshot = Snapshot { connections_used: 500, ..snapshot(&[], 0, &[]) };
        assert_eq!(
            snapshot.full_remark().as_deref(),
            Some("500 of 500 connections are in use: further clients wait (-x)")
        );
        assert_eq!(Snapshot { connections_used: 499, ..snapshot }.full_remark(), None);
    }

    #[test]
    fn the_last_connection_is_the_highest_number() {
        let connections = [connection(3), connection(9)];
        assert_eq!(snapshot(&connections, 0, &[]).connections_last(), 9);
        assert_eq!(snapshot(&[], 0, &[]).connections_last(), 0);
    }
}
