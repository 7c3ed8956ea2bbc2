//! One check of a server: connects, with the other addresses of the server if the first cannot be
//! reached, finishes a handshake if the kind has one, and has the machine of the kind talk.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use pen_config::address::Address;
use pen_config::checks::Check;
use pen_ipc::checks::{CheckFault, FaultClass};
use pen_ipc::server_tls::TlsFault;
use rustix::net::sockopt;

use crate::checker::connection::{Came, Connection, of_tls, reset};
use crate::checker::dial::{Speech, dial, fault};
use crate::checker::kinds::{Farewell, Machine, Step, machine, proxy_header};
use crate::checker::schedule::{Ended, Order, Transport};
use crate::checker::tls::{CheckTls, Tls};

/// What checks need of their process.
pub(super) struct Means<'m> {
    pub(super) registry: &'m Registry,
    pub(super) tls: &'m mut Tls,
    /// From which address servers are reached.
    pub(super) source: Option<IpAddr>,
    pub(super) buffer: &'m mut [u8],
}

/// A check under way.
pub(super) struct Probe {
    order: Order,
    began: Instant,
    deadline: Instant,
    /// The addresses that were not tried yet, in order.
    untried: VecDeque<Address>,
    /// Why the first address could not be reached.
    missed: Option<CheckFault>,
    phase: Phase,
}

enum Phase {
    /// Nothing is under way.
    Idle,
    Connecting {
        socket: OwnedFd,
        address: Address,
        /// When the next address is tried, if there is one.
        until: Instant,
    },
    /// The handshake before the dialogue.
    Shaking(Connection, Machine),
    Talking(Connection, Machine),
    /// The server is well, found after so many microseconds. It waits for a handshake.
    Parting(Connection, u32),
}

/// What became of a check in this turn.
#[derive(Debug)]
pub(super) enum Progress {
    /// It waits for an event or its deadline.
    Waits,
    /// It can go on without an event.
    HasMore,
    /// It is over, after so many microseconds.
    Over(Ended, u32),
}

/// How to go on with a phase.
enum Next {
    Waits(Phase),
    HasMore(Phase),
    GoOn(Phase),
    Over(Ended, u32),
}

/// How often a check reads in one turn. The others come next.
const READS: u32 = 4;

impl Probe {
    /// Begins a check. `position` is that of the address in use.
    pub(super) fn begin(
        order: Order,
        position: u32,
        patience: Duration,
        now: Instant,
        means: &mut Means<'_>,
    ) -> (Probe, Progress) {
        let addresses = &order.target.addresses;
        let first = position as usize % addresses.len().max(1);
        let (before, after) = addresses.split_at(first);
        let port = order.target.check.port;
        let untried = after.iter().chain(before).map(|address| at_port(address, port)).collect();
        let deadline = now + patience;
        let phase = Phase::Idle;
        let mut probe = Probe { order, began: now, deadline, untried, missed: None, phase };
        let next = probe.connect(now, means);
        let progress = probe.put(next);
        (probe, progress)
    }

    /// Its number.
    pub(super) fn number(&self) -> u64 {
        self.order.number
    }

    /// When to call [`Probe::expire`].
    pub(super) fn due(&self) -> Instant {
        match &self.phase {
            Phase::Connecting { until, .. } => *until,
            Phase::Idle | Phase::Shaking(..) | Phase::Talking(..) | Phase::Parting(..) => {
                self.deadline
            }
        }
    }

    /// Goes on after an event.
    pub(super) fn go_on(&mut self, now: Instant, means: &mut Means<'_>) -> Progress {
        let mut phase = std::mem::replace(&mut self.phase, Phase::Idle);
        loop {
            let next = match phase {
                Phase::Idle => Next::Waits(Phase::Idle),
                Phase::Connecting { socket, address, .. } => {
                    self.connected(socket, address, now, means)
                }
                Phase::Shaking(connection, machine) => self.shake(connection, machine, means),
                Phase::Talking(connection, machine) => self.talk(connection, machine, means),
                Phase::Parting(connection, micros) => part(connection, micros, means),
            };
            match next {
                Next::GoOn(next) => phase = next,
                next => return self.put(next),
            }
        }
    }

    /// Goes on after time has passed.
    pub(super) fn expire(&mut self, now: Instant, means: &mut Means<'_>) -> Progress {
        if now < self.due() {
            return Progress::Waits;
        }
        let micros = self.micros();
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Connecting { .. } if now < self.deadline => {
                self.miss(CheckFault::of(FaultClass::Timeout));
                let next = self.connect(now, means);
                self.put(next)
            }
            Phase::Connecting { .. } | Phase::Idle => {
                let late = CheckFault::of(FaultClass::Timeout);
                Progress::Over(Ended::Failure(self.missed.take().unwrap_or(late)), micros)
            }
            Phase::Shaking(..) => {
                let late = of_tls(FaultClass::Timeout, TlsFault::Timeout);
                Progress::Over(Ended::Failure(late), micros)
            }
            Phase::Talking(_, machine) => Progress::Over(Ended::Failure(machine.late()), micros),
            Phase::Parting(_, micros) => Progress::Over(Ended::Success, micros),
        }
    }

    fn put(&mut self, next: Next) -> Progress {
        match next {
            Next::Waits(phase) | Next::GoOn(phase) => {
                self.phase = phase;
                Progress::Waits
            }
            Next::HasMore(phase) => {
                self.phase = phase;
                Progress::HasMore
            }
            Next::Over(ended, micros) => Progress::Over(ended, micros),
        }
    }

    fn check(&self) -> &Check {
        &self.order.target.check
    }

    fn micros(&self) -> u32 {
        u32::try_from(self.began.elapsed().as_micros()).unwrap_or(u32::MAX)
    }

    fn over(&self, ended: Ended) -> Next {
        Next::Over(ended, self.micros())
    }

    /// The first reason is that of the address in use.
    fn miss(&mut self, why: CheckFault) {
        self.missed.get_or_insert(why);
    }

    /// Connects to the next address that can be tried.
    fn connect(&mut self, now: Instant, means: &mut Means<'_>) -> Next {
        while let Some(address) = self.untried.pop_front() {
            let ended = match dial(&address, means.source, self.speech()) {
                Ok(socket) => {
                    // Each address gets its share of the time that is left.
                    let shares = u32::try_from(self.untried.len() + 1).unwrap_or(u32::MAX);
                    let until = now + self.deadline.saturating_duration_since(now) / shares;
                    let token = Token(self.order.number as usize);
                    let both = Interest::READABLE | Interest::WRITABLE;
                    let descriptor = socket.as_raw_fd();
                    match means.registry.register(&mut SourceFd(&descriptor), token, both) {
                        Ok(()) => {
                            return Next::Waits(Phase::Connecting { socket, address, until });
                        }
                        Err(_) => Ended::NotAsked,
                    }
                }
                Err(ended) => ended,
            };
            match ended {
                Ended::Failure(why) => self.miss(why),
                Ended::Success | Ended::NotAsked => return self.over(Ended::NotAsked),
            }
        }
        match self.missed.take() {
            Some(why) => self.over(Ended::Failure(why)),
            None => self.over(Ended::NotAsked),
        }
    }

    fn speech(&self) -> Speech {
        let check = self.check();
        let says_nothing = matches!(check.kind, pen_config::checks::CheckKind::Tcp)
            && self.order.target.transport == Transport::Plain
            && proxy_header(check).is_empty();
        if says_nothing { Speech::Silent } else { Speech::Talks }
    }

    fn connected(
        &mut self,
        socket: OwnedFd,
        address: Address,
        now: Instant,
        means: &mut Means<'_>,
    ) -> Next {
        let ended = match sockopt::socket_error(&socket) {
            Ok(Ok(())) => None,
            Ok(Err(errno)) | Err(errno) => Some(fault(errno)),
        };
        match ended {
            Some(Ended::Failure(why)) => {
                self.miss(why);
                return self.connect(now, means);
            }
            Some(ended @ (Ended::Success | Ended::NotAsked)) => return self.over(ended),
            None => {}
        }
        let check = self.check();
        let machine = machine(check, &address);
        let header = match &self.order.target.transport {
            Transport::Plain | Transport::AnyTls => proxy_header(check),
            Transport::ServerTls(_) => Default::default(),
        };
        let mut connection = Connection::new(socket, header);
        match means.tls.of(&self.order.target.transport, check, &address) {
            CheckTls::Plain => self.greet(connection, machine, means),
            CheckTls::Client(client) => {
                connection.begin_tls(*client);
                Next::GoOn(Phase::Shaking(connection, machine))
            }
            CheckTls::Fault(fault) => self.over(Ended::Failure(of_tls(FaultClass::Tls, fault))),
            CheckTls::NotAsked => self.over(Ended::NotAsked),
        }
    }

    fn shake(
        &mut self,
        mut connection: Connection,
        machine: Machine,
        means: &mut Means<'_>,
    ) -> Next {
        for _ in 0..READS {
            if let Err(ended) = connection.flush() {
                return self.over(ended);
            }
            if !connection.is_shaking_hands() {
                return self.greet(connection, machine, means);
            }
            match connection.read(means.buffer) {
                Ok(Came::Bytes(_)) => {}
                Ok(Came::Nothing) => return Next::Waits(Phase::Shaking(connection, machine)),
                Ok(Came::End) => {
                    let closed = of_tls(FaultClass::Closed, TlsFault::Closed);
                    return self.over(Ended::Failure(closed));
                }
                Err(ended) => return self.over(ended),
            }
        }
        Next::HasMore(Phase::Shaking(connection, machine))
    }

    /// The connection is there.
    fn greet(
        &mut self,
        mut connection: Connection,
        mut machine: Machine,
        means: &mut Means<'_>,
    ) -> Next {
        if let Transport::ServerTls(_) = self.order.target.transport {
            // Within TLS, as clients' connections have it.
            connection.send(proxy_header(self.check()));
        }
        let step = machine.connected();
        self.step(step, connection, machine, means)
    }

    fn talk(
        &mut self,
        mut connection: Connection,
        mut machine: Machine,
        means: &mut Means<'_>,
    ) -> Next {
        if let Err(ended) = connection.flush() {
            // It may have said why before it closed the connection.
            return match self.last_words(&mut connection, &mut machine, means) {
                Some(Step::Done(_)) => self.over(Ended::Success),
                Some(Step::Fail(why)) => self.over(Ended::Failure(why)),
                Some(Step::Send(_) | Step::Await) | None => self.over(ended),
            };
        }
        for _ in 0..READS {
            match connection.read(means.buffer) {
                Ok(Came::Bytes(0)) => {}
                Ok(Came::Bytes(length)) => {
                    let step = machine.received(&means.buffer[..length]);
                    return self.step(step, connection, machine, means);
                }
                Ok(Came::Nothing) => return Next::Waits(Phase::Talking(connection, machine)),
                Ok(Came::End) => return self.over(Ended::Failure(machine.ended())),
                Err(ended) => return self.over(ended),
            }
        }
        Next::HasMore(Phase::Talking(connection, machine))
    }

    fn last_words(
        &self,
        connection: &mut Connection,
        machine: &mut Machine,
        means: &mut Means<'_>,
    ) -> Option<Step> {
        match connection.read(means.buffer) {
            Ok(Came::Bytes(length)) if length > 0 => {
                Some(machine.received(&means.buffer[..length]))
            }
            Ok(Came::Bytes(_) | Came::Nothing | Came::End) | Err(_) => None,
        }
    }

    /// Does what the machine wants.
    fn step(
        &mut self,
        step: Step,
        mut connection: Connection,
        machine: Machine,
        means: &mut Means<'_>,
    ) -> Next {
        match step {
            Step::Await => Next::GoOn(Phase::Talking(connection, machine)),
            Step::Send(bytes) => {
                connection.send(&bytes);
                Next::GoOn(Phase::Talking(connection, machine))
            }
            Step::Fail(why) => self.over(Ended::Failure(why)),
            Step::Done(Farewell::Reset) => {
                let next = self.over(Ended::Success);
                // A PROXY header.
                let _ = connection.flush();
                connection.reset();
                next
            }
            Step::Done(Farewell::Close(last)) => {
                let next = self.over(Ended::Success);
                connection.send(&last);
                connection.say_end();
                // What the socket does not take at once is not worth a wait.
                let _ = connection.flush();
                next
            }
            // What the server waits for is TLS within TLS.
            Step::Done(Farewell::Handshake) if connection.has_tls() => self.over(Ended::Success),
            Step::Done(Farewell::Handshake) => {
                let client = {
                    let address = self.order.target.addresses.first();
                    address.map(|address| means.tls.client(self.check(), address))
                };
                match client {
                    Some(Ok(client)) => {
                        connection.begin_tls(client);
                        Next::GoOn(Phase::Parting(connection, self.micros()))
                    }
                    Some(Err(_)) | None => self.over(Ended::Success),
                }
            }
        }
    }

    /// Ends it without a result.
    pub(super) fn abandon(self) {
        match self.phase {
            Phase::Connecting { socket, .. } => reset(&socket),
            Phase::Idle | Phase::Shaking(..) | Phase::Talking(..) | Phase::Parting(..) => {}
        }
    }
}

/// Finishes the handshake that the server waits for. Nothing that comes of it counts.
fn part(mut connection: Connection, micros: u32, means: &mut Means<'_>) -> Next {
    for _ in 0..READS {
        if connection.flush().is_err() {
            return Next::Over(Ended::Success, micros);
        }
        if !connection.is_shaking_hands() {
            connection.say_end();
            let _ = connection.flush();
            return Next::Over(Ended::Success, micros);
        }
        match connection.read(means.buffer) {
            Ok(Came::Bytes(_)) => {}
            Ok(Came::Nothing) => return Next::Waits(Phase::Parting(connection, micros)),
            Ok(Came::End) | Err(_) => return Next::Over(Ended::Success, micros),
        }
    }
    Next::HasMore(Phase::Parting(connection, micros))
}

/// The address with the port of the check, if it has one. A Unix socket has none.
fn at_port(address: &Address, port: Option<u16>) -> Address {
    match (address, port) {
        (Address::Inet(inet), Some(port)) => {
            let mut inet = *inet;
            inet.set_port(port);
            Address::Inet(inet)
        }
        (Address::Inet(_) | Address::Unix(_), _) => address.clone(),
    }
}
