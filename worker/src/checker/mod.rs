//! The checker: asks servers whether they are well. One process for all workers; none without
//! checks. It sees no client, and what servers send is not trusted.
//!
//! It has one thread and one event loop, and it never blocks. `schedule` says which server is asked
//! when, `probe` is one check, over a `connection` that `dial` makes, `kinds` are the questions,
//! and `verdict` is what follows from the answers. `link` is the channel to the supervisor, which
//! alone decides what a verdict means for clients.

mod connection;
mod dial;
pub mod kinds;
mod link;
mod probe;
pub mod schedule;
mod tls;
pub mod verdict;

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use pen_config::address::Host;
use pen_config::checks::{Check, CheckKind, Records, ServersFrom, without_port};
use pen_config::ids;
use pen_config::settings::{Server, Settings};
use pen_ipc::channel::Received;
use pen_ipc::checks::{MOST_UNDER_WAY, Seed};
use pen_ipc::memory;
use pen_ipc::message::{FromStartingWorker, ToChecker};
use pen_ipc::start::{Begins, CheckerStart, OWN_DESCRIPTORS};

use crate::checker::link::{Haste, SupervisorLink};
use crate::checker::probe::{Means, Probe, Progress};
use crate::checker::schedule::{Ended, Rhythm, Schedule, Target, Transport};
use crate::checker::tls::Tls;
use crate::checker::verdict::{Change, Limits};
use crate::clock;
use crate::ready::begin;

/// The channel to the supervisor is readable or writable.
const CHANNEL: Token = Token(usize::MAX);

/// Most bytes of one read.
const PIECE: usize = 16 << 10;

/// Whether checks begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Work {
    On,
    /// Those under way go on.
    Paused,
}

/// The checker and its state.
struct Checker {
    poll: Poll,
    link: SupervisorLink,
    schedule: Schedule,
    settings: Settings,
    /// Which of a server's addresses is in use, if it is not the first.
    positions: BTreeMap<i32, u32>,
    work: Work,
    /// The checks under way, by their number.
    probes: BTreeMap<u64, Probe>,
    /// Those that can go on although no event will report it.
    ready: Vec<u64>,
    /// Most checks under way, by the limit of descriptors.
    most: usize,
    tls: Tls,
    buffer: Vec<u8>,
}

/// Runs the checker until the supervisor tells it to stop or has gone. Returns the exit status.
pub fn run(start: CheckerStart) -> i32 {
    let CheckerStart { channel, begins, settings, seeds, server_tls, descriptor_limit } = start;
    let tls = match Tls::new(server_tls) {
        Ok(tls) => tls,
        Err(why) => {
            let reason = format!("checker: {why}");
            // If the supervisor cannot be told, the exit status still says that the start failed.
            let _ = channel.send(&FromStartingWorker::Failed { reason }, None);
            return 1;
        }
    };
    let Some((poll, ())) = begin(&channel, "checker", CHANNEL, |_| Ok(())) else { return 1 };
    let free = descriptor_limit.saturating_sub(OWN_DESCRIPTORS).max(1);
    let mut checker = Checker {
        poll,
        link: SupervisorLink::new(channel.into_phase()),
        // The standard library's hasher begins with a random word.
        schedule: Schedule::new(rhythm(&settings), RandomState::new().build_hasher().finish()),
        settings: Settings::default(),
        positions: BTreeMap::new(),
        work: match begins {
            Begins::AtOnce => Work::On,
            Begins::OnOrder => Work::Paused,
        },
        probes: BTreeMap::new(),
        ready: Vec::new(),
        most: usize::try_from(free).unwrap_or(usize::MAX).min(MOST_UNDER_WAY),
        tls,
        buffer: vec![0; PIECE],
    };
    checker.apply(settings);
    checker.seed(&seeds);
    checker.serve()
}

fn rhythm(settings: &Settings) -> Rhythm {
    // Within their ranges, which are smaller.
    let most = |number: u32| u16::try_from(number).unwrap_or(u16::MAX).max(1);
    Rhythm {
        interval: u64::from(settings.check_interval) * 1000,
        limits: Limits { rise: most(settings.check_rise), fall: most(settings.check_fall) },
    }
}

/// The servers to check.
fn targets(settings: &Settings) -> Vec<Target> {
    let target = |(id, server): (ids::ServerId, &Server)| {
        let target = ids::Target::Server(id);
        let check = settings.check_of(target)?;
        Some(Target {
            server: target.code(),
            addresses: [&server.address].into_iter().chain(&server.alternatives).cloned().collect(),
            check: Check { host: host(check, server, settings.followed(id)), ..check.clone() },
            transport: transport(check, target, settings),
            epoch: server.epoch,
        })
    };
    settings.configured().filter_map(target).collect()
}

/// How a check of a server travels: as the server's connections do, or in TLS of its own if its
/// kind has that. Another port may be that of another service, so it gets only what the kind says.
/// The host of a kind with TLS of its own is a name for TLS too. That of any other kind only stands
/// in its question, so the name is that of the server's connections.
fn transport(check: &Check, target: ids::Target, settings: &Settings) -> Transport {
    let is_tls = match check.kind {
        CheckKind::Tls | CheckKind::Https(_) => true,
        CheckKind::Tcp
        | CheckKind::Http(_)
        | CheckKind::Smtp
        | CheckKind::Pgsql
        | CheckKind::Mysql { .. }
        | CheckKind::Redis(_)
        | CheckKind::Ldap
        | CheckKind::Dns { .. }
        | CheckKind::Exchange { .. } => false,
    };
    match (settings.speaks_tls(target), is_tls, check.port) {
        (true, true, _) => {
            let host = check.host.as_deref().and_then(|host| without_port(host).parse().ok());
            Transport::ServerTls(host.or_else(|| settings.tls_name(target)))
        }
        (true, false, None) => Transport::ServerTls(settings.tls_name(target)),
        (false, true, _) => Transport::AnyTls,
        (true, false, Some(_)) | (false, false, _) => Transport::Plain,
    }
}

/// The host that a check asks for: the server's own name, or that whose addresses it follows, if it
/// has one and the check has no other.
fn host(check: &Check, server: &Server, follows: Option<&ServersFrom>) -> Option<String> {
    let own = match (&server.given, follows) {
        (Some(Host::Name(name)), _) => Some(name),
        (None, Some(ServersFrom { name, records: Records::Addresses, .. })) => Some(name),
        // The name of SRV records is that of a service, and no host's.
        (None, Some(ServersFrom { records: Records::Srv, .. })) => None,
        (Some(Host::Ip(_) | Host::Zoned(..) | Host::Unix(_)), _) | (None, None) => None,
    };
    let usual = match check.kind {
        CheckKind::Http(_) => 80,
        CheckKind::Https(_) | CheckKind::Tls => 443,
        CheckKind::Tcp
        | CheckKind::Smtp
        | CheckKind::Pgsql
        | CheckKind::Mysql { .. }
        | CheckKind::Redis(_)
        | CheckKind::Ldap
        | CheckKind::Dns { .. }
        | CheckKind::Exchange { .. } => return check.host.clone(),
    };
    let port = check.port.unwrap_or(server.address.port());
    check.host.clone().or_else(|| match port == usual {
        true => own.cloned(),
        false => own.map(|name| format!("{name}:{port}")),
    })
}

impl Checker {
    /// The event loop.
    fn serve(&mut self) -> i32 {
        let mut events = Events::with_capacity(2 * MOST_UNDER_WAY);
        loop {
            // What came before this moment is heard before a check is too late: this process may
            // have waited for a processor.
            let before = Instant::now();
            match self.poll.poll(&mut events, self.timeout(before)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return 1,
            }
            let mut numbers = std::mem::take(&mut self.ready);
            let mut has_messages = false;
            for event in &events {
                match event.token() {
                    CHANNEL => has_messages = true,
                    Token(number) => numbers.push(number as u64),
                }
            }
            let now = Instant::now();
            for number in numbers {
                self.with(number, |probe, means| probe.go_on(now, means), now);
            }
            self.expire(before, now);
            if has_messages && let Some(status) = self.handle_messages() {
                return status;
            }
            self.begin_due(now);
            if self.link.send_due(now).is_err() {
                return 1;
            }
        }
    }

    /// How long the next wait may be.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let probes = self.probes.values().map(Probe::due);
        let may_begin = self.work == Work::On && self.probes.len() < self.most;
        let next = self
            .schedule
            .due()
            .filter(|_| may_begin)
            .map(|due| now + Duration::from_millis(due.saturating_sub(clock::now())));
        let next = probes.chain(next).chain(self.link.due(now)).min()?;
        let wait = next.saturating_duration_since(now);
        // mio counts whole milliseconds, and rounds up.
        Some(wait)
    }

    /// Does something with a check, and notes what became of it.
    fn with(
        &mut self,
        number: u64,
        act: impl FnOnce(&mut Probe, &mut Means<'_>) -> Progress,
        now: Instant,
    ) {
        let Some(probe) = self.probes.get_mut(&number) else { return };
        let mut means = Means {
            registry: self.poll.registry(),
            tls: &mut self.tls,
            source: self.settings.source,
            buffer: &mut self.buffer,
        };
        let progress = act(probe, &mut means);
        self.note(number, progress, now);
    }

    fn note(&mut self, number: u64, progress: Progress, now: Instant) {
        match progress {
            Progress::Waits => {}
            Progress::HasMore => self.ready.push(number),
            Progress::Over(ended, micros) => {
                self.probes.remove(&number);
                self.finish(number, ended, micros, now);
            }
        }
    }

    fn finish(&mut self, number: u64, ended: Ended, micros: u32, now: Instant) {
        if let Some(judged) = self.schedule.finished(number, ended, micros, clock::now()) {
            let haste = match judged.change {
                Change::Up | Change::Down => Haste::AtOnce,
                Change::None => Haste::Soon,
            };
            self.link.result(judged.result, haste, now);
        }
    }

    /// Ends checks that were too late at this moment.
    fn expire(&mut self, moment: Instant, now: Instant) {
        let late = self.probes.values().filter(|probe| probe.due() <= moment).map(Probe::number);
        for number in late.collect::<Vec<u64>>() {
            self.with(number, |probe, means| probe.expire(moment, means), now);
        }
    }

    /// Begins the checks that are due.
    fn begin_due(&mut self, now: Instant) {
        while self.work == Work::On
            && self.probes.len() < self.most
            && let Some(order) = self.schedule.next(clock::now())
        {
            let number = order.number;
            let position = self.positions.get(&order.target.server).copied().unwrap_or(0);
            let patience = Duration::from_secs(u64::from(self.settings.check_timeout.max(1)));
            let mut means = Means {
                registry: self.poll.registry(),
                tls: &mut self.tls,
                source: self.settings.source,
                buffer: &mut self.buffer,
            };
            let (probe, progress) = Probe::begin(order, position, patience, now, &mut means);
            self.probes.insert(number, probe);
            self.note(number, progress, now);
        }
    }

    /// Reads the supervisor's messages. Some: leave with this exit status.
    fn handle_messages(&mut self) -> Option<i32> {
        loop {
            match self.link.receive() {
                Ok(Received::Message(ToChecker::Settings, Some(memory))) => {
                    let Some(settings) = memory::settings(memory) else { return Some(1) };
                    let generation = settings.generation;
                    self.apply(settings);
                    self.link.applied(generation);
                }
                Ok(Received::Message(ToChecker::ServerTls, Some(files))) => {
                    if self.tls.replace(files).is_err() {
                        return Some(1);
                    }
                }
                Ok(Received::Message(ToChecker::NoServerTls, _)) => self.tls.forget_servers(),
                Ok(Received::Message(ToChecker::Begin, _)) => self.work = Work::On,
                Ok(Received::Message(ToChecker::Pause, _)) => self.work = Work::Paused,
                Ok(Received::Message(ToChecker::Ping { serial }, _)) => self.link.pong(serial),
                Ok(Received::Message(ToChecker::Suspect { server }, _)) => {
                    self.schedule.suspect(server, clock::now());
                }
                Ok(Received::Message(ToChecker::Address { server, position }, _)) => {
                    self.positions.insert(server, position);
                }
                // Without the supervisor nobody wants to know.
                Ok(Received::Message(ToChecker::Stop | ToChecker::Leave, _) | Received::Closed) => {
                    return Some(0);
                }
                Ok(Received::Empty) => return None,
                Ok(Received::Message(ToChecker::Settings | ToChecker::ServerTls, None))
                | Err(_) => return Some(1),
            }
        }
    }

    /// Goes on by new settings.
    fn apply(&mut self, settings: Settings) {
        let targets = targets(&settings);
        // With other addresses, another one is in use.
        let moved = moved(&self.settings, &settings);
        self.positions.retain(|server, _| !moved.contains(server));
        let unwanted =
            self.schedule.apply(settings.generation, rhythm(&settings), targets, clock::now());
        for number in unwanted {
            if let Some(probe) = self.probes.remove(&number) {
                probe.abandon();
            }
        }
        self.settings = settings;
    }

    /// Takes over what an earlier checker knew.
    fn seed(&mut self, seeds: &[Seed]) {
        for seed in seeds {
            self.positions.insert(seed.server, seed.position);
            self.schedule.seed(seed);
        }
    }
}

/// The servers whose addresses differ between two settings.
fn moved(before: &Settings, after: &Settings) -> BTreeSet<i32> {
    let addresses = |server: &Server| (server.address.clone(), server.alternatives.clone());
    let differs = |id: &ids::ServerId| {
        let target = ids::Target::Server(*id);
        before.target(target).map(addresses) != after.target(target).map(addresses)
    };
    let servers = (0..before.servers.len().max(after.servers.len()) as u16).map(ids::ServerId);
    servers.filter(differs).map(|id| ids::Target::Server(id).code()).collect()
}
