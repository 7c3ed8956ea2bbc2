//! The slot of a process that has a task of its own, mostly a port: the process, its replacement
//! when it dies, and its queued messages.
//!
//! The kinds of such processes differ in what they ask for and what they are answered
//! ([`PortKind`]). All have orders and reports in common. If such a process dies, relaying is not
//! affected.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, Uid};
use pen_config::ids::ClientKey;
use pen_ipc::channel::Sent;
use pen_ipc::start::Begins;

use crate::flood::{Admission, Flood, Pace};
use crate::processes::backoff::Backoff;
use crate::processes::ending::Ending;
use crate::processes::liveness::Grace;
use crate::processes::peer::{AdoptedProcess, Peer, PeerMessage};
use crate::processes::ports::child;
use crate::processes::ports::kind::{AcceptOrder, Heard, Order, PortDeath, PortKind, PortReport};
use crate::processes::spawn::SpawnContext;

/// The slot.
#[derive(Debug)]
pub(crate) struct Slot<K: PortKind> {
    port: K::Port,
    process: Option<PortProcess<K>>,
    backoff: Backoff,
    /// The time that the next process gets to become ready.
    grace: Grace,
    /// When to fill the slot, if it is empty and has to be filled.
    due: Option<Instant>,
}

#[derive(Debug)]
struct PortProcess<K: PortKind> {
    peer: Peer<K::To, K::From>,
    settings_due: bool,
    /// Whether to accept clients, if that is to change.
    accept_due: Option<AcceptOrder>,
    stop_due: bool,
    applied: u64,
    queued: K::Queued,
    /// A limit for log lines about refused clients.
    refusals: Flood,
    /// A limit for the rate of its messages: clients of its port must not keep the supervisor and a
    /// processor busy.
    pace: Pace,
}

impl<K: PortKind> Slot<K> {
    pub(crate) fn new(port: K::Port) -> Slot<K> {
        let (backoff, grace) = (Backoff::default(), Grace::default());
        Slot { port, process: None, backoff, grace, due: None }
    }

    /// A slot with the process that an earlier run of this program forked.
    pub(crate) fn adopted(
        port: K::Port,
        process: Option<AdoptedProcess>,
        generation: u64,
        user: Uid,
        now: Instant,
    ) -> Slot<K> {
        let adopt = |process| PortProcess::new(Peer::adopted(process, user, now), generation, now);
        let process = process.map(adopt);
        let due = process.is_none().then_some(now);
        Slot { process, due, ..Slot::new(port) }
    }

    /// The port.
    pub(crate) fn port(&self) -> &K::Port {
        &self.port
    }

    /// The port.
    pub(crate) fn port_mut(&mut self) -> &mut K::Port {
        &mut self.port
    }

    /// The process, if there is one.
    pub(crate) fn peer(&self) -> Option<&Peer<K::To, K::From>> {
        self.process.as_ref().map(|process| &process.peer)
    }

    /// Whether the process, if there is one, is ready and no message for it is queued.
    pub(crate) fn is_settled(&self) -> bool {
        self.process.is_none() || (self.is_ready() && self.channel().is_none_or(|(_, due)| !due))
    }

    /// Forks a process into the slot.
    ///
    /// # Errors
    /// No process can be forked now.
    pub(crate) fn spawn(
        &mut self,
        begins: Begins,
        context: &SpawnContext,
        now: Instant,
    ) -> io::Result<Pid> {
        let peer = Peer::spawn(
            context.jail.identity.uid,
            self.grace,
            |channel, supervisor| child::run::<K>(&self.port, begins, context, channel, supervisor),
            now,
        )?;
        let pid = peer.pid();
        self.process = Some(PortProcess::new(peer, context.settings.generation, now));
        self.due = None;
        Ok(pid)
    }

    /// The pid of the process, if an earlier program in this process has reaped it.
    pub(crate) fn reaped_pid(&self) -> Option<Pid> {
        self.peer().filter(|peer| peer.is_reaped()).map(Peer::pid)
    }

    /// Takes the dead process from the slot, if it was there, and decides when to replace it.
    pub(crate) fn take_dead(
        &mut self,
        pid: Pid,
        ending: Ending,
        now: Instant,
    ) -> Option<PortDeath> {
        let process = self.process.take_if(|process| process.peer.pid() == pid)?;
        let delay = self.backoff.after(now.saturating_duration_since(process.peer.born));
        self.due = Some(now + delay);
        self.grace = self.grace.after(process.peer.was_ready);
        let how = ending.how();
        let reason =
            process.peer.failed.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        let line = format!("{} (pid {pid}) {how}{reason}", K::NAME);
        let reason = process.peer.failed;
        Some(PortDeath { process: K::TITLE, pid, how, line, reason })
    }

    /// When to fill the slot.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Postpones the filling of the slot, because it failed now. Returns the delay.
    pub(crate) fn postpone(&mut self, now: Instant) -> Duration {
        let delay = self.backoff.after(Duration::ZERO);
        self.due = Some(now + delay);
        delay
    }

    /// Whether it serves its port.
    pub(crate) fn is_ready(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.peer.is_ready())
    }

    /// Whether the slot is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.process.is_none()
    }

    /// The pid of the process, if there is one.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.process.as_ref().map(|process| process.peer.pid())
    }

    /// The channel to poll for reading, and whether to poll it for writing too.
    pub(crate) fn channel(&self) -> Option<(BorrowedFd<'_>, bool)> {
        let process = self.process.as_ref()?;
        let due = process.settings_due
            || process.accept_due.is_some()
            || process.stop_due
            || K::is_due(&process.queued);
        Some((process.peer.channel()?, due))
    }

    /// The time until which its messages wait, if they have to wait now.
    pub(crate) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.process.as_ref().and_then(|process| process.pace.paused_until(now))
    }

    /// The descriptor to poll for the end of the process.
    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.process.as_ref().map(|process| process.peer.pidfd())
    }

    /// When to call [`Slot::kill_overdue`].
    pub(crate) fn overdue(&self) -> Option<Instant> {
        self.process.as_ref().and_then(|process| process.peer.overdue())
    }

    /// Kills a process that has closed its channel and does not end.
    pub(crate) fn kill_overdue(&mut self, now: Instant) {
        if let Some(process) = &mut self.process {
            process.peer.kill_overdue(now);
        }
    }

    /// Asks for a sign of life, and kills a process that has given none for too long. It is not
    /// judged if its messages were not read (`unread`).
    pub(crate) fn beat(&mut self, unread: bool) {
        if let Some(process) = &mut self.process {
            if unread {
                process.peer.watch.reset();
            }
            process.peer.beat(|serial| K::order(Order::Ping(serial)));
        }
    }

    /// Reads at most `most` messages.
    pub(crate) fn read(&mut self, most: usize, now: Instant) -> Vec<PortReport<K::Request>> {
        let mut reports = Vec::new();
        let Some(process) = &mut self.process else { return reports };
        for _ in 0..most {
            if process.pace.paused_until(now).is_some() {
                break;
            }
            let Some(message) = process.peer.read(now) else { break };
            process.pace.count(now);
            match message {
                PeerMessage::Ready => reports.push(PortReport::Ready),
                PeerMessage::Message(message, file) => {
                    reports.extend(process.handle(K::heard(message, file), now))
                }
                PeerMessage::NoAction => {}
            }
        }
        reports
    }

    /// Queues the settings in force for [`Slot::send_due`].
    pub(crate) fn renew_settings(&mut self) {
        if let Some(process) = &mut self.process {
            process.settings_due = true;
        }
    }

    /// Queues an order about accepting clients for [`Slot::send_due`].
    pub(crate) fn order_accept(&mut self, order: AcceptOrder) {
        if let Some(process) = &mut self.process {
            process.accept_due = Some(order);
        }
    }

    /// Queues the order to end for [`Slot::send_due`].
    pub(crate) fn order_stop(&mut self) {
        if let Some(process) = &mut self.process {
            process.stop_due = true;
        }
    }

    /// What is queued for the process with this pid beside the orders. None if that process is
    /// gone: its clients are gone too.
    pub(in crate::processes::ports) fn queued_for(&mut self, pid: Pid) -> Option<&mut K::Queued> {
        let process = self.process.as_mut().filter(|process| process.peer.pid() == pid)?;
        Some(&mut process.queued)
    }

    /// What is queued beside the orders, if there is a process.
    pub(in crate::processes::ports) fn queued(&self) -> Option<&K::Queued> {
        self.process.as_ref().map(|process| &process.queued)
    }

    /// What is queued beside the orders, if there is a process.
    pub(in crate::processes::ports) fn queued_mut(&mut self) -> Option<&mut K::Queued> {
        self.process.as_mut().map(|process| &mut process.queued)
    }

    /// Sends what is queued beside the orders, as far as the channel has room.
    pub(in crate::processes::ports) fn send_queued(&mut self) {
        if let Some(process) = &mut self.process {
            K::send(&mut process.queued, &process.peer);
        }
    }

    /// Whether it works by the settings of this generation.
    pub(crate) fn has_applied(&self, generation: u64) -> bool {
        let process = self.process.as_ref().filter(|process| process.peer.channel().is_some());
        process.is_none_or(|process| process.applied >= generation)
    }

    /// Sends queued messages, as far as the channel has room.
    pub(crate) fn send_due(&mut self, context: &SpawnContext) {
        let Some(process) = &mut self.process else { return };
        let full =
            |order, descriptor| process.peer.send(&K::order(order), descriptor) == Some(Sent::Full);
        let may_send = K::send_before_settings(&mut process.queued, &process.peer);
        if process.settings_due && may_send {
            process.settings_due = full(Order::Settings, Some(context.encoded.as_fd()));
        }
        if !process.settings_due {
            K::send_after_settings(&mut process.queued, &process.peer);
        }
        process.accept_due = process.accept_due.filter(|order| full(Order::Accept(*order), None));
        K::send(&mut process.queued, &process.peer);
        if process.stop_due && !K::is_due(&process.queued) {
            process.stop_due = full(Order::Stop, None);
        }
    }

    /// Kills the process.
    pub(crate) fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.peer.kill();
        }
    }
}

impl<K: PortKind> PortProcess<K> {
    /// A process that works by the settings of this generation.
    fn new(peer: Peer<K::To, K::From>, generation: u64, now: Instant) -> PortProcess<K> {
        PortProcess {
            peer,
            settings_due: false,
            accept_due: None,
            stop_due: false,
            applied: generation,
            queued: K::Queued::default(),
            refusals: Flood::new(MOST_REFUSALS, Duration::from_secs(10), now),
            pace: Pace::new(MOST_MESSAGES, PERIOD, now),
        }
    }

    fn handle(&mut self, heard: Heard<K::Request>, now: Instant) -> Option<PortReport<K::Request>> {
        match heard {
            Heard::Request(request) => return Some(PortReport::Request(request)),
            Heard::Refused(client) => match self.refusals.admit(now) {
                Admission::Admitted { withheld_before } => {
                    let client = ClientKey::from_bytes(client);
                    let more = match withheld_before {
                        0 => String::new(),
                        more => format!(", and {more} others before"),
                    };
                    let (port, acl) = (K::PORT, K::ACL);
                    let line = format!("{port}: {client} was refused by {acl}{more}");
                    return Some(PortReport::Refused { client, line });
                }
                Admission::Withheld => {}
            },
            Heard::Applied(generation) => self.applied = generation,
            Heard::Pong(serial) => self.peer.watch.answered(serial),
            Heard::Dishonest(why) => self.peer.kill_for(why),
        }
        None
    }
}

/// Most refused clients in ten seconds that are logged.
const MOST_REFUSALS: u32 = 20;

/// Most messages in a [`PERIOD`]. Further messages wait, and so do the clients of the port.
const MOST_MESSAGES: u32 = 200;

const PERIOD: Duration = Duration::from_millis(100);
