//! The servers as a choice sees them: the shared table, and what only this worker knows.

use std::cell::{Cell, RefCell};

use pen_config::ids::{ClientKey, Target};
use pen_config::settings::Settings;
use pen_ipc::message::Obstacle;
use pen_table::{Knows, ServerView, WorkerTable};

use crate::relay::Relay;
use crate::relay::select::choices::{Choices, Choosing};
use crate::relay::select::farm::{Farm, Hindrance};
use crate::relay::select::{Patience, Placement, SelectionRefusal, Trial, Usable};
use crate::relay::upstream::Upstreams;

/// A view of the servers' state in the shared table, with the time of the view.
pub struct Servers<'a> {
    /// The shared table, with this worker's rows.
    pub worker_table: &'a WorkerTable<'a>,
    /// What only this worker knows of the servers.
    pub upstreams: &'a Upstreams,
    /// What this worker derived from the settings.
    pub choices: &'a RefCell<Choices>,
    /// Most pending connects to each server.
    pub pending_max: u32,
    /// Monotonic milliseconds.
    pub now: u64,
    /// How many servers were examined.
    pub examined: Cell<u32>,
    /// A server that was passed over because of its connection limit or its pending connects, if
    /// that is to be reported.
    pub passed_over: Cell<Option<(Target, Obstacle)>>,
}

impl Farm for Servers<'_> {
    fn server(&self, row: u32) -> ServerView {
        self.examined.set(self.examined.get() + 1);
        self.worker_table.server_view(row, self.now)
    }

    fn connections(&self, row: u32) -> u32 {
        self.worker_table.connections(row)
    }

    fn cursor(&self) -> u32 {
        self.worker_table.cursor()
    }

    fn advance_cursor(&self, from: u32, to: u32) -> bool {
        self.worker_table.advance_cursor(from, to)
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn returned(&self, row: u32) -> u64 {
        self.worker_table.returned(row)
    }

    fn hindrance(&self, row: u32) -> Option<Hindrance> {
        self.upstreams.hindrance(row, self.pending_max, self.now)
    }

    fn is_left_out(&self, row: u32, knows: Knows) -> bool {
        self.server(row).is_out(knows)
    }
}

impl Choosing for Servers<'_> {
    fn choices(&self) -> &RefCell<Choices> {
        self.choices
    }
}

impl Servers<'_> {
    /// Notes that a server is passed over.
    pub fn note(&self, target: Target, row: u32, refusal: SelectionRefusal) {
        match refusal {
            SelectionRefusal::Full { .. } => self.note_obstacle(target, row, Obstacle::Limit),
            SelectionRefusal::Hindered(Hindrance::Pending) => {
                self.note_obstacle(target, row, Obstacle::Pending)
            }
            // Reported where it was found.
            SelectionRefusal::Hindered(Hindrance::Ports) => {}
            SelectionRefusal::Absent
            | SelectionRefusal::Maintenance
            | SelectionRefusal::Draining
            | SelectionRefusal::Blacklisted(_)
            | SelectionRefusal::Probed
            | SelectionRefusal::Down(_)
            | SelectionRefusal::Acl(_)
            | SelectionRefusal::NoWeight
            | SelectionRefusal::SlowStart(_)
            | SelectionRefusal::Crowded { .. } => {}
        }
    }

    /// Notes the obstacle of a server, if the rate limit of this server permits a report. So each
    /// of many such servers gets its report.
    fn note_obstacle(&self, target: Target, row: u32, obstacle: Obstacle) {
        let is_new = obstacle == Obstacle::Pending && !self.upstreams.is_shut(row);
        if self.passed_over.get().is_none()
            && (is_new || self.upstreams.is_report_due(row, self.now))
        {
            self.passed_over.set(Some((target, obstacle)));
        }
    }
}

impl Relay<'_> {
    /// The present view of the servers.
    pub(in crate::relay) fn farm(&self) -> Servers<'_> {
        let Relay { worker_table, upstreams, choices, settings, now, .. } = self;
        Servers {
            worker_table,
            upstreams,
            choices,
            pending_max: settings.pending_max,
            now: *now,
            examined: Cell::new(0),
            passed_over: Cell::new(None),
        }
    }
}

/// Reserves the next usable target of a placement.
pub fn take_next(
    placement: &mut Placement,
    settings: &Settings,
    farm: &Servers<'_>,
    client: ClientKey,
) -> Option<Target> {
    while let Some(trial) = placement.next(settings, farm) {
        let Trial { target, patience, checks: _ } = trial;
        let usable = match placement.judge(settings, farm, client, trial) {
            Ok(usable) => usable,
            Err(refusal @ SelectionRefusal::Hindered(_)) => {
                farm.note(target, target.row(settings.table_size()), refusal);
                placement.hold(target);
                continue;
            }
            Err(refusal) => {
                farm.note(target, target.row(settings.table_size()), refusal);
                continue;
            }
        };
        let row = target.row(settings.table_size());
        // Only this is exact: another worker may have been faster.
        if !farm.worker_table.reserve(row, placement.limit(settings, target)) {
            farm.note_obstacle(target, row, Obstacle::Limit);
            continue;
        }
        farm.choices.borrow_mut().note(row);
        // Only after a connection was reserved: a probe that begins without a connect would keep
        // others away until its lease ends.
        let addresses =
            settings.target(target).map_or(1, |server| u64::from(server.address_count()));
        let lease = farm.now + u64::from(settings.connect_timeout) * 1000 * addresses + 1000;
        let is_probe =
            usable == Usable::ForProbe && farm.worker_table.begin_probe(row, farm.now, lease);
        if usable == Usable::InUse || is_probe || patience == Patience::Join {
            return Some(target);
        }
        farm.worker_table.release(row);
    }
    None
}
