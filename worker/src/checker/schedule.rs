//! When which server is checked, and what the verdict on it is. Pure: times are arguments, in
//! milliseconds of the monotonic clock, and chance comes from a random word.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use pen_config::address::Address;
use pen_config::checks::Check;
use pen_config::tls::servers::TlsName;
use pen_ipc::checks::{CheckFault, CheckResult, MOST_UNDER_WAY, Seed, Verdict};

use super::verdict::{Change, Limits, Outcome, is_in_question, judge};

/// The first checks of servers are spread over this time, or over the interval if it is shorter.
const FIRST_ROUND: u64 = 1000;

/// The shortest time between the beginnings of two checks of a server: suspicions come from
/// workers, as often as they like.
const SHORTEST: u64 = 100;

/// A server to check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// Its code ([`pen_config::ids::Target::code`]).
    pub server: i32,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// The question.
    pub check: Check,
    /// How the question travels.
    pub transport: Transport,
    /// It rises when a command gives the server another address.
    pub epoch: u32,
}

/// How the question of a check travels.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Transport {
    /// In clear text.
    Plain,
    /// In TLS that takes every certificate.
    AnyTls,
    /// In TLS as clients' data does, with the server of this name.
    ServerTls(Option<TlsName>),
}

impl Target {
    /// Whether both put the same question to the same server. The addresses behind the first one
    /// may differ: the supervisor keeps a verdict over such a change, too.
    fn asks_the_same(&self, other: &Target) -> bool {
        self.server == other.server
            && self.addresses.first() == other.addresses.first()
            && self.check == other.check
            && self.transport == other.transport
            && self.epoch == other.epoch
    }
}

/// The rhythm of checks, and what changes a verdict.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rhythm {
    /// The time between the beginnings of two checks of a server, in milliseconds.
    pub interval: u64,
    /// How many results in a row change a state.
    pub limits: Limits,
}

/// A check that shall begin. Its number names it until it is over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Order {
    /// The number; never used again.
    pub number: u64,
    /// What to check.
    pub target: Rc<Target>,
}

/// How a check ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ended {
    /// The server answered as it should.
    Success,
    /// It did not.
    Failure(CheckFault),
    /// It could not be asked: descriptors, memory or ports of this machine ran short. That says
    /// nothing of the server.
    NotAsked,
}

/// A result, and whether it is a transition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Judged {
    /// The result.
    pub result: CheckResult,
    /// What it did to the verdict.
    pub change: Change,
}

/// What is known of a server.
#[derive(Debug)]
struct Row {
    target: Rc<Target>,
    verdict: Verdict,
    knowledge: Knowledge,
    phase: Phase,
}

/// Where a verdict comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Knowledge {
    /// From nobody, or from a seed.
    Foreign,
    /// From checks of this process.
    Own,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The next check begins at `due`; the last one began at `began`.
    Waits { due: u64, began: Option<u64> },
    /// A check is under way.
    UnderWay { number: u64, began: u64, next: Next },
}

/// When the check after the one under way begins.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// After the period.
    InTurn,
    /// At once: the server came under suspicion after this check had begun.
    AtOnce,
}

/// The schedule of all checks.
#[derive(Debug)]
pub struct Schedule {
    rhythm: Rhythm,
    generation: u64,
    rows: BTreeMap<i32, Row>,
    /// The rows that wait, by the time when they are due.
    queue: BTreeSet<(u64, i32)>,
    /// The checks under way, with their server.
    under_way: BTreeMap<u64, i32>,
    last_number: u64,
    random: u64,
}

impl Schedule {
    /// A schedule without servers. `random` is a random word.
    pub fn new(rhythm: Rhythm, random: u64) -> Schedule {
        Schedule {
            rhythm,
            generation: 0,
            rows: BTreeMap::new(),
            queue: BTreeSet::new(),
            under_way: BTreeMap::new(),
            last_number: 0,
            random,
        }
    }

    /// New settings. A target with the same question as before keeps its verdict, its turn and its
    /// check under way. Of any other nothing is known. Returns the numbers of checks whose result
    /// is not wanted any more; they count as over.
    pub fn apply(
        &mut self,
        generation: u64,
        rhythm: Rhythm,
        targets: Vec<Target>,
        now: u64,
    ) -> Vec<u64> {
        self.generation = generation;
        self.rhythm = rhythm;
        let mut before = std::mem::take(&mut self.rows);
        self.queue.clear();
        let mut fresh = Vec::new();
        for target in targets {
            match before.remove(&target.server) {
                Some(mut row) if row.target.asks_the_same(&target) => {
                    row.target = Rc::new(target);
                    self.keep(row, now);
                }
                changed => {
                    // The remaining rows of `before` are those that end.
                    if let Some(row) = changed {
                        before.insert(target.server, row);
                    }
                    fresh.push(target);
                }
            }
        }
        let spread = FIRST_ROUND.min(rhythm.interval);
        let count = fresh.len() as u64;
        for (position, target) in (0..).zip(fresh) {
            let due = now.saturating_add(spread * position / count);
            self.insert(Row {
                target: Rc::new(target),
                verdict: Verdict::default(),
                knowledge: Knowledge::Foreign,
                phase: Phase::Waits { due, began: None },
            });
        }
        let ends = before.values().filter_map(|row| match row.phase {
            Phase::UnderWay { number, .. } => Some(number),
            Phase::Waits { .. } => None,
        });
        let ended: Vec<u64> = ends.collect();
        for number in &ended {
            self.under_way.remove(number);
        }
        ended
    }

    /// Takes over a row. Its turn comes no later than the rhythm says, and not that of all rows at
    /// once.
    fn keep(&mut self, mut row: Row, now: u64) {
        if let Phase::Waits { due, began } = row.phase {
            let (period, tenth) = self.usual_period(row.verdict);
            if due > now.saturating_add(period + tenth) {
                let due = now.saturating_add(self.random_below(period));
                row.phase = Phase::Waits { due, began };
            }
        }
        self.insert(row);
    }

    fn insert(&mut self, row: Row) {
        let server = row.target.server;
        if let Phase::Waits { due, .. } = row.phase {
            self.queue.insert((due, server));
        }
        self.rows.insert(server, row);
    }

    /// What an earlier checker knew of a server. Own results are newer.
    pub fn seed(&mut self, seed: &Seed) {
        if let Some(row) = self.rows.get_mut(&seed.server)
            && row.knowledge == Knowledge::Foreign
        {
            row.verdict = seed.verdict;
        }
    }

    /// The check that is due for the longest time, unless too many are under way.
    pub fn next(&mut self, now: u64) -> Option<Order> {
        if self.under_way.len() >= MOST_UNDER_WAY {
            return None;
        }
        let &(due, server) = self.queue.first().filter(|(due, _)| *due <= now)?;
        self.queue.remove(&(due, server));
        let row = self.rows.get_mut(&server)?;
        self.last_number += 1;
        let number = self.last_number;
        row.phase = Phase::UnderWay { number, began: now, next: Next::InTurn };
        self.under_way.insert(number, server);
        Some(Order { number, target: Rc::clone(&row.target) })
    }

    /// A check is over. `micros` is how long it took. There is no result if it could not be asked,
    /// or if the settings have changed meanwhile.
    pub fn finished(&mut self, number: u64, ended: Ended, micros: u32, now: u64) -> Option<Judged> {
        let server = self.under_way.remove(&number)?;
        let row = self.rows.get_mut(&server)?;
        let Phase::UnderWay { number: current, began, next } = row.phase else { return None };
        if current != number {
            return None;
        }
        let outcome = match ended {
            Ended::Success => Some((Outcome::Success, None)),
            Ended::Failure(fault) => Some((Outcome::Failure, Some(fault))),
            Ended::NotAsked => None,
        };
        let judged = outcome.map(|(outcome, fault)| {
            let (verdict, change) = judge(row.verdict, outcome, self.rhythm.limits);
            row.verdict = verdict;
            row.knowledge = Knowledge::Own;
            let generation = self.generation;
            Judged {
                result: CheckResult { server, generation, began, micros, verdict, fault },
                change,
            }
        });
        let verdict = row.verdict;
        let wait = match next {
            Next::InTurn => self.period(verdict),
            Next::AtOnce => SHORTEST,
        };
        let due = began.saturating_add(wait).max(now);
        self.wait(server, due, Some(began));
        judged
    }

    /// A server came under suspicion: it is checked at once. A check under way does not do, because
    /// it began before.
    pub fn suspect(&mut self, server: i32, now: u64) {
        let Some(row) = self.rows.get_mut(&server) else { return };
        match row.phase {
            Phase::UnderWay { number, began, .. } => {
                row.phase = Phase::UnderWay { number, began, next: Next::AtOnce };
            }
            Phase::Waits { due, began } => {
                let earliest = began.map_or(0, |began| began.saturating_add(SHORTEST));
                self.queue.remove(&(due, server));
                self.wait(server, due.min(earliest.max(now)), began);
            }
        }
    }

    fn wait(&mut self, server: i32, due: u64, began: Option<u64>) {
        if let Some(row) = self.rows.get_mut(&server) {
            row.phase = Phase::Waits { due, began };
            self.queue.insert((due, server));
        }
    }

    /// When [`Schedule::next`] is to be asked; `None`: only after a check is over.
    pub fn due(&self) -> Option<u64> {
        let may_begin = self.under_way.len() < MOST_UNDER_WAY;
        self.queue.first().filter(|_| may_begin).map(|(due, _)| *due)
    }

    /// The time to the next check of a server with this verdict: a tenth more or less than usual.
    fn period(&mut self, verdict: Verdict) -> u64 {
        let (period, tenth) = self.usual_period(verdict);
        period - tenth + self.random_below(2 * tenth + 1)
    }

    /// The interval, or the half of it while the verdict is in question; and a tenth of that.
    fn usual_period(&self, verdict: Verdict) -> (u64, u64) {
        let interval = self.rhythm.interval;
        let period = if is_in_question(verdict) { interval / 2 } else { interval };
        (period, period / 10)
    }

    /// A number below `limit`: splitmix64, which is even enough to spread checks.
    fn random_below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % limit.max(1)
    }
}

#[cfg(test)]
mod tests;
