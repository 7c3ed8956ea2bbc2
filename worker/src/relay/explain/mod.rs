//! `explain ADDRESS`: which server a client would get now, and why, with one line for each step.
//!
//! It uses the same choice as for real clients ([`Placement`]) and the same state, but through a
//! view that changes nothing. No connection is reserved, no probe begins, the cursor stays, and the
//! client is not entered in the table.

mod limits;
mod lines;
mod method;
#[cfg(test)]
mod tests;
mod view;
mod words;

use pen_config::checks::Admission;
use pen_config::ids::{ClientKey, ServerId, Target};
use pen_config::settings::Settings;
use pen_ipc::message::ConnectFailure;
use pen_ipc::text::errno_text;
use pen_table::{Checks, WorkerTable};

use crate::relay::Relay;
use crate::relay::accept::hold::could_serve;
use crate::relay::explain::limits::Limited;
use crate::relay::explain::lines::Lines;
use crate::relay::explain::method::reasons_of_method;
use crate::relay::explain::view::Looked;
use crate::relay::explain::words::{
    BlacklistReason, client_facts, how_used, name, secured, why_not,
};
use crate::relay::select::choices::Choosing;
use crate::relay::select::farm::{Farm, Hindrance};
use crate::relay::select::{Candidate, Placement, SelectionRefusal, client_permitted};

impl Relay<'_> {
    /// Explains what a client would get now.
    pub(super) fn explain(&self, client: ClientKey) -> String {
        let tracking = u64::from(self.settings.tracking) * 1000;
        let locked = self.worker_table.lock(client.bytes()).ok();
        let recorded = locked.map(|table| table.recorded(self.now, tracking));
        let farm = self.farm();
        let explained = explanation(&self.settings, &farm, client, recorded, self.now, &|row| {
            reason_of(&self.worker_table, row)
        });
        let explained = match self.explain_limits(client) {
            Limited::Free => self.passed_over_elsewhere() + &explained,
            Limited::Goes(line) => {
                let (first, rest) = explained.split_once('\n').unwrap_or((&explained, ""));
                self.passed_over_elsewhere() + &format!("{first}\n{line}\n{rest}")
            }
            Limited::Stops(lines) => format!("client {client}: {}\n", lines.join("\n")),
        };
        let (open, most) = (self.worker_table.connections_open(), self.settings.connections_max);
        match open >= most {
            true => format!(
                "{open} of {most} connections are in use: the client would wait for one to end \
                 (-x)\n{explained}"
            ),
            false => explained,
        }
    }

    /// The servers that another worker passes over and this one does not: the first of them.
    fn passed_over_elsewhere(&self) -> String {
        let settings = &self.settings;
        let regular = (0..settings.server_count()).map(|id| Target::Server(ServerId(id as u16)));
        let all = regular.chain([Target::Emergency, Target::Abuse]);
        let elsewhere = all.filter(|target| settings.target(*target).is_some()).filter(|target| {
            let row = target.row(settings.table_size());
            self.worker_table.is_pending(row) && !self.upstreams.is_shut(row)
        });
        let line = |target| {
            let (name, most) = (name(settings, target), settings.pending_max);
            format!(
                "{name}: another worker passes it over, {most} connects to it are pending there \
                 (pending_max)\n"
            )
        };
        elsewhere.take(FEW).map(line).collect()
    }
}

/// The end of the line about a blacklisted server: by whom, or why.
fn reason_of(worker_table: &WorkerTable<'_>, row: u32) -> String {
    if worker_table.is_taken_out(row) {
        return " by an operator".into();
    }
    match worker_table.last_failure(row).map(|failure| ConnectFailure::from_code(failure.cause)) {
        Some(ConnectFailure::Errno(errno)) => format!(": {}", errno_text(errno)),
        Some(ConnectFailure::Timeout) => ": no answer in time".into(),
        Some(ConnectFailure::Tls(fault)) => format!(": {fault}"),
        None => String::new(),
    }
}

/// The line about a pause.
fn pause(settings: &Settings) -> Option<String> {
    match settings.admission {
        Admission::Open => None,
        Admission::Paused => Some("new clients wait until resume (pause)".into()),
    }
}

/// Most servers that are named of those that other workers pass over.
const FEW: usize = 8;

/// The explanation. `recorded` is the content of the client table, if it could be read.
fn explanation(
    settings: &Settings,
    farm: &impl Choosing,
    client: ClientKey,
    recorded: Option<i32>,
    now: u64,
    blacklist_reason: BlacklistReason<'_>,
) -> String {
    let farm = Looked::new(farm, settings);
    let permitted = client_permitted(settings, client);
    let mut lines = Lines::default();
    lines.add(client_facts(settings, client, permitted, recorded));
    if let Some(line) = pause(settings) {
        lines.add(line);
    }
    if settings.dummy && permitted {
        lines.add("dummy: every client gets the same answer, and no server is used".into());
        return lines.text();
    }
    let why_not = |target, refusal| why_not(settings, target, refusal, now, blacklist_reason);
    let recorded = recorded.and_then(Target::from_code);
    let mut passed_over = Vec::new();
    let candidate = Candidate { key: client, port: 0, recorded, permitted };
    let mut placement = Placement::new(settings, &farm, candidate, &mut |id, refusal| {
        passed_over.push((Target::Server(id), refusal))
    });
    passed_over.retain(|(_, refusal)| *refusal != SelectionRefusal::Absent);
    for (target, refusal) in passed_over {
        lines.add(why_not(target, refusal));
    }
    for line in reasons_of_method(settings, &farm, client, placement.chosen(settings)) {
        lines.add(line);
    }
    let outcome = match settings.dummy {
        true => Err(Waits::No),
        false => tried(settings, &farm, client, &mut placement, &mut lines, &why_not),
    };
    lines.add(outcome.unwrap_or_else(|waits| without_server(settings, client, permitted, waits)));
    lines.text()
}

/// Whether a client without a server waits for a pending connect to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Waits {
    ForConnect,
    No,
}

/// The last line about a client that gets a server. Before it come those about the servers that are
/// tried in vain.
///
/// # Errors
/// No server can be used.
fn tried(
    settings: &Settings,
    farm: &Looked<'_, impl Choosing>,
    client: ClientKey,
    placement: &mut Placement,
    lines: &mut Lines,
    why_not: &impl Fn(Target, SelectionRefusal) -> String,
) -> Result<String, Waits> {
    let mut waits = Waits::No;
    while let Some(trial) = placement.next(settings, farm) {
        let target = trial.target;
        if trial.checks == Checks::Disregarded {
            lines.add("no other server is left: checks are disregarded (fail_open)".into());
        }
        match placement.judge(settings, farm, client, trial) {
            Ok(usable) => {
                let mode = farm.server(target.row(settings.table_size())).standing.mode;
                let how = how_used(settings, target, usable, mode);
                return Ok(name(settings, target) + &how + &secured(settings, target));
            }
            // There is no server with this number, or no abuse server.
            Err(SelectionRefusal::Absent) => {}
            Err(refusal) => {
                if let SelectionRefusal::Hindered(hindrance) = refusal {
                    placement.hold(target);
                    match hindrance {
                        Hindrance::Pending => waits = Waits::ForConnect,
                        Hindrance::Ports => {}
                    }
                }
                lines.add(why_not(target, refusal));
            }
        }
    }
    Err(waits)
}

/// The last line about a client for whom no server can be used.
fn without_server(settings: &Settings, client: ClientKey, permitted: bool, waits: Waits) -> String {
    match waits {
        Waits::ForConnect => {
            "no server now: the client would wait for a pending connect to end".into()
        }
        Waits::No if settings.hold > 0 && could_serve(settings, client) => {
            let seconds = settings.hold;
            format!("no server now: the client would wait up to {seconds} s (hold)")
        }
        Waits::No => {
            let why = if settings.selection.stubborn && permitted { " (stubborn)" } else { "" };
            format!("no server: the client would be closed{why}")
        }
    }
}
