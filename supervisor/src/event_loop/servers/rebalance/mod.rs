//! `rebalance`: servers that have more than their share of the connections lose silent ones, whose
//! clients come back at servers that have less.
//!
//! The supervisor decides how many, because the bound holds for all workers together, and because
//! it outlives each of them. A worker is told a number and ends at most so many, within two
//! seconds. What it does not end, because its connections are busy, goes to the next worker. A
//! worker that dies or hangs with an order delays nothing: the order is no longer valid then, but
//! counts as carried out. `shares` says what each server is to have, `account` how many it may
//! lose, and `ledger` puts both together.

#![forbid(unsafe_code)]

mod account;
mod ledger;
mod shares;
mod trips;

use std::time::{Duration, Instant};

use nix::unistd::Pid;
use pen_config::checks::Admission;
use pen_config::ids::{ServerId, Target};
use pen_config::settings::Server;
use pen_config::shares::{Shares, WHOLE, shares, slow_share};
use pen_ipc::message::Rebalance;
use pen_ipc::start::Begins;
use pen_ipc::text::plural;
use pen_status::event::EventKind;
use pen_table::{Checks, Knows, Patience, ServerView, Usable, can_use};

use crate::clock;
use crate::event_loop::Supervisor;
use crate::event_loop::servers::rebalance::ledger::{Ledger, Move, News};
use crate::event_loop::servers::rebalance::shares::Seat;
use crate::log::Severity;
use crate::log::events;
use crate::log::recent::Incident;

/// How many seconds a connection must have been silent.
const SILENT: u32 = 10;

/// How long after the end of an order its answer is still counted.
const LATE: Duration = Duration::from_secs(10);

/// The servers that have more than their share, and the orders under way.
#[derive(Debug, Default)]
pub(in crate::event_loop) struct Rebalancing {
    ledger: Ledger,
    rounds: Vec<Round>,
    /// How many rounds there were: the next one begins with another worker.
    begun: usize,
}

/// An order on its way through the workers.
#[derive(Debug)]
struct Round {
    order: Move,
    /// How many connections are not ended yet.
    left: u32,
    /// The workers that were not asked yet, the next one last.
    workers: Vec<Pid>,
}

impl Rebalancing {
    /// Those of a program that took over.
    pub(in crate::event_loop) fn adopted(now: Instant) -> Rebalancing {
        Rebalancing { ledger: Ledger::adopted(now), ..Rebalancing::default() }
    }

    /// Whether an order for a server may still be carried out.
    fn is_busy(rounds: &[Round], server: ServerId, now: Instant) -> bool {
        rounds.iter().any(|round| round.order.from == server && now < round.order.until)
    }
}

impl Supervisor {
    /// Orders what is due. Called at each heartbeat.
    pub(in crate::event_loop) fn rebalance(&mut self, now: Instant) {
        let Rebalancing { ledger, rounds, .. } = &mut self.rebalancing;
        if self.context.settings.rebalance == 0 && ledger.is_empty() && rounds.is_empty() {
            return;
        }
        rounds.retain(|round| now < round.order.until + LATE);
        let (moves, news) = match self.seats() {
            Some(seats) => {
                let percent = self.context.settings.rebalance;
                let Rebalancing { ledger, rounds, .. } = &mut self.rebalancing;
                let is_busy = |server| Rebalancing::is_busy(rounds, server, now);
                ledger.plan(percent, &seats, is_busy, now)
            }
            None => (Vec::new(), self.rebalancing.ledger.stop(now)),
        };
        news.into_iter().for_each(|news| self.tell_rebalance(news));
        for order in moves {
            let workers = self.workers_at(order.from);
            self.rebalancing.begun = self.rebalancing.begun.wrapping_add(1);
            let mut round = Round { left: order.most, order, workers };
            if self.ask_next(&mut round) {
                self.rebalancing.rounds.push(round);
            }
        }
    }

    /// Takes the answer of a worker. Only orders of this program count.
    pub(in crate::event_loop) fn rebalanced(&mut self, serial: u32, closed: u32, now: Instant) {
        let rounds = &mut self.rebalancing.rounds;
        let Some(index) = rounds.iter().position(|round| round.order.serial == serial) else {
            return;
        };
        let mut round = rounds.remove(index);
        // A worker can say anything.
        let closed = closed.min(round.left);
        round.left -= closed;
        if closed > 0 {
            let server = Target::Server(round.order.from).code();
            let count = self.past.rebalanced.entry(server).or_insert(0);
            *count = count.saturating_add(closed.into());
            if let Some(news) = self.rebalancing.ledger.settle(round.order, closed, 0) {
                self.tell_rebalance(news);
            }
        }
        if round.left == 0 {
            return;
        }
        if now >= round.order.until {
            // No worker can take it any more.
            round.workers.clear();
        }
        if self.ask_next(&mut round) {
            self.rebalancing.rounds.push(round);
        }
    }

    /// Sends the rest of an order to the next worker. False: none is left, and the rest will not be
    /// carried out.
    fn ask_next(&mut self, round: &mut Round) -> bool {
        let Move { serial, from, to, until, .. } = round.order;
        let mark = |id| self.context.settings.target(Target::Server(id)).map(Server::mark);
        if let (Some(from_mark), Some(to_mark)) = (mark(from), mark(to)) {
            let order = Rebalance {
                serial,
                from: Target::Server(from).code(),
                from_mark,
                to: Target::Server(to).code(),
                to_mark,
                most: round.left,
                silent: SILENT,
                until: clock::to_precise(until),
            };
            while let Some(pid) = round.workers.pop() {
                let worker = self.pool.workers().find(|worker| worker.peer.pid() == pid);
                let is_sent = match worker {
                    Some(worker) => worker.order_rebalance(order),
                    None => self.old.order_rebalance(pid, order),
                };
                if is_sent {
                    return true;
                }
            }
        }
        let _ = self.rebalancing.ledger.settle(round.order, 0, round.left);
        false
    }

    /// The workers that have connections to a server, in another order each time.
    fn workers_at(&self, server: ServerId) -> Vec<Pid> {
        let table = &self.context.table;
        let has = |row| table.connections_at(row, u32::from(server.0)) > 0;
        let present = self.pool.workers().filter(|worker| has(worker.row));
        let present = present.map(|worker| worker.peer.pid());
        // The counts of those with a table of their own are not known one by one.
        let old = self
            .old
            .rebalancing()
            .filter(|worker| worker.origin.row.table.is_some() || has(worker.origin.row.row));
        let mut workers: Vec<Pid> = present.chain(old.map(|worker| worker.peer.pid())).collect();
        let first = self.rebalancing.begun % workers.len().max(1);
        workers.rotate_left(first);
        workers
    }

    /// The servers that take part; none if no server is to lose connections now. In a pause their
    /// clients would have to wait, and an upgrade does not know of orders under way.
    fn seats(&self) -> Option<Vec<Seat>> {
        let (settings, table) = (&self.context.settings, &self.context.table);
        let is_possible = settings.rebalance > 0
            && settings.admission == Admission::Open
            && self.begins == Begins::AtOnce
            && self.upgrade.is_none();
        let shares = shares(settings.selection).ok().filter(|_| is_possible)?;
        let now = clock::monotonic();
        let seat = |(server, definition): (ServerId, &Server)| {
            let row = u32::from(server.0);
            let ServerView { blacklist, standing } = table.server_view(row, now);
            let usable =
                can_use(blacklist, standing, Knows::Stranger, Patience::Skip, Checks::Obeyed);
            let weight = match shares {
                Shares::Equal => 1,
                Shares::ByWeight => u64::from(definition.weight),
            };
            let part = match settings.slow_start {
                0 => WHOLE,
                seconds => slow_share(table.returned(row), now, seconds),
            };
            let takes_part =
                usable == Ok(Usable::InUse) && weight > 0 && definition.address.port() != 0;
            takes_part.then(|| Seat {
                server,
                weight: weight * u64::from(part),
                limit: definition.limit(false),
                connections: table.server_totals(row).connections,
            })
        };
        Some(settings.configured().filter_map(seat).collect())
    }

    fn tell_rebalance(&mut self, news: News) {
        let (News::Began { server, .. } | News::Ended { server, .. }) = news;
        let settings = &self.context.settings;
        let target = Target::Server(server);
        let Some(name) = events::name(target.code(), settings) else { return };
        let incident = Incident::of(EventKind::ServerRebalanced)
            .with("server", i64::from(server.0))
            .with_if("address", settings.target(target).map(|found| found.place_at(0).to_string()));
        let (line, incident) = match news {
            News::Began { connections, share, .. } => (
                format!(
                    "rebalance: {name} has {}, its share is {share}: silent ones are closed",
                    plural(connections, "connection")
                ),
                incident.with("connections", connections).with("share", share),
            ),
            News::Ended { closed, .. } => (
                format!("rebalance: {name} has no more than its share; {closed} were closed"),
                incident.with("closed", i64::try_from(closed).unwrap_or(i64::MAX)),
            ),
        };
        self.logger.event(Severity::Notice, incident, &line);
    }
}
