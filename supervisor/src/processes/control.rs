//! The control process as the supervisor sees it: its port, its slot, and its queued messages.
//!
//! The rights belong to the channel: every message has the rights of an operator at the control
//! port, and no more. A control process that dies is replaced; relaying is not affected.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use pen_config::address::{Address, Host, Local};
use pen_config::command::{self, Command};
use pen_config::ids::ClientKey;
use pen_ipc::channel::{Channel, Sent};
use pen_ipc::message::{
    FromControl, FromStartingWorker, Operator, Outcome, PROTOCOL_VERSION, SHORT_REPLY, ToControl,
};
use pen_ipc::start::ControlStart;
use pen_table::LAYOUT_VERSION;

use crate::ControlEntry;
use crate::files::listener::{ListenError, Listener, SocketPath};
use crate::jail::Jail;
use crate::jail::sandbox::ProcessKind;
use crate::log::errno::why;
use crate::processes::backoff::Backoff;
use crate::processes::flood::{Admission, Flood, Pace};
use crate::processes::liveness::Grace;
use crate::processes::peer::{Peer, PeerMessage};
use crate::processes::pool::killed_by;
use crate::processes::spawn::SpawnContext;
use crate::signals;
use crate::sys;

/// The control port, bound. A socket file is removed while the socket is still open.
#[derive(Debug)]
pub(crate) struct ControlPort {
    _path: Option<SocketPath>,
    socket: OwnedFd,
    /// The address as the command `control` shows it.
    pub(crate) name: String,
    entry: ControlEntry,
}

/// The address of `-C`, completed if only a port was given.
pub(crate) fn complete(local: &Local) -> Local {
    match local {
        Local::Inet { host: None, port } => {
            Local::Inet { host: Some(Host::Ip([127, 0, 0, 1].into())), port: port.clone() }
        }
        other => other.clone(),
    }
}

impl ControlPort {
    /// Binds the control port. A socket file belongs to the user of the control process only.
    ///
    /// # Errors
    /// The address is in use, not on this machine, or not permitted.
    pub(crate) fn bind(
        name: &Local,
        address: &Address,
        jail: &Jail,
        entry: ControlEntry,
    ) -> Result<ControlPort, ListenError> {
        let listener = match address {
            Address::Inet(_) => Listener::bind(address, BACKLOG)?,
            Address::Unix(_) => {
                Listener::bind_private(address, BACKLOG, jail.identity.uid, jail.identity.gid)?
            }
        };
        let (socket, path) = listener.into_parts();
        Ok(ControlPort { _path: path, socket, name: name.to_string(), entry })
    }

    /// A control port from a socket that was passed to pen, bound and listening.
    pub(crate) fn passed(name: &Local, socket: OwnedFd, entry: ControlEntry) -> ControlPort {
        ControlPort { _path: None, socket, name: name.to_string(), entry }
    }

    /// Runs the control process in the forked child; returns its exit status.
    ///
    /// The process inherits the mapping of the shared table like every child, but has no handle to
    /// it. All descriptors but its two are closed.
    fn live(
        &self,
        context: &SpawnContext,
        channel: Channel<FromStartingWorker, ToControl>,
        supervisor: Pid,
    ) -> i32 {
        sys::title::set("control");
        match self.prepare(&context.jail, &channel, supervisor) {
            Ok(listener) => {
                let hello = FromStartingWorker::Hello {
                    protocol: PROTOCOL_VERSION,
                    layout: LAYOUT_VERSION,
                };
                let settings = context.settings.clone();
                let jail = context.jail.root.clone();
                match channel.send(&hello, None) {
                    Ok(_) => (self.entry)(ControlStart { channel, listener, settings, jail }),
                    Err(_) => 1,
                }
            }
            Err(reason) => {
                let place = context.jail.place();
                let reason = format!("cannot jail the control process{place}: {reason}");
                let _ = channel.send(&FromStartingWorker::Failed { reason }, None);
                1
            }
        }
    }

    fn prepare(
        &self,
        jail: &Jail,
        channel: &Channel<FromStartingWorker, ToControl>,
        supervisor: Pid,
    ) -> Result<OwnedFd, String> {
        let at = |step: &'static str| move |error: io::Error| format!("{step}: {}", why(&error));
        signals::settle_child().map_err(at("signals"))?;
        let listener = self.socket.try_clone().map_err(at("control port"))?;
        let keep = [channel.as_fd(), listener.as_fd()];
        jail.enter(ProcessKind::Control, supervisor, &keep).map_err(|error| error.to_string())?;
        Ok(listener)
    }
}

/// The slot of the control process.
#[derive(Debug)]
pub(crate) struct Control {
    port: ControlPort,
    process: Option<ControlProcess>,
    backoff: Backoff,
    /// The time that the next process gets to become ready.
    grace: Grace,
    /// When to fill the slot, if it is empty and has to be filled.
    due: Option<Instant>,
}

#[derive(Debug)]
struct ControlProcess {
    peer: Peer<ToControl, FromControl>,
    settings_due: bool,
    stop_due: bool,
    applied: u64,
    /// A reply that the channel had no room for. There is at most one, because no further command
    /// begins while it waits.
    reply: Option<(u64, ControlReply)>,
    /// A limit for its log lines.
    refusals: Flood,
    /// A limit for the rate of its messages: clients of the control port must not keep the
    /// supervisor and a processor busy.
    pace: Pace,
}

/// A reply to an operator.
#[derive(Debug)]
pub(crate) struct ControlReply {
    pub(crate) outcome: Outcome,
    pub(crate) body: ReplyBody,
}

/// The content of a reply.
#[derive(Debug)]
pub(crate) enum ReplyBody {
    /// A text of any length.
    Text(String),
    /// The content of a memfd.
    Memory(OwnedFd),
}

impl ControlReply {
    /// An empty reply.
    pub(crate) fn none() -> ControlReply {
        ControlReply::text(String::new())
    }

    /// A reply of one line.
    pub(crate) fn line(text: impl std::fmt::Display) -> ControlReply {
        ControlReply::text(format!("{text}\n"))
    }

    /// A reply of several lines, each with its line end.
    pub(crate) fn text(text: String) -> ControlReply {
        ControlReply { outcome: Outcome::Done, body: ReplyBody::Text(text) }
    }

    /// A refusal with the reason in one line.
    pub(crate) fn refusal(why: impl std::fmt::Display) -> ControlReply {
        ControlReply { outcome: Outcome::Refused, body: ReplyBody::Text(format!("{why}\n")) }
    }
}

/// A message from the control process.
#[derive(Debug)]
pub(crate) enum ControlReport {
    /// It serves operators.
    Ready,
    /// A command.
    Command {
        /// The number of the operator.
        ticket: u64,
        /// The identity of the operator.
        by: Operator,
        /// The command.
        command: Command,
        /// The file that the command names, if it was sent along.
        file: Option<OwnedFd>,
    },
    /// A line for the log.
    Line(String),
}

impl Control {
    pub(crate) fn new(port: ControlPort) -> Control {
        Control {
            port,
            process: None,
            backoff: Backoff::default(),
            grace: Grace::default(),
            due: None,
        }
    }

    /// The control address.
    pub(crate) fn name(&self) -> &str {
        &self.port.name
    }

    /// Forks a control process into the slot.
    ///
    /// # Errors
    /// No process can be forked now.
    pub(crate) fn spawn(&mut self, context: &SpawnContext, now: Instant) -> io::Result<Pid> {
        let peer = Peer::spawn(
            context.jail.identity.uid,
            self.grace,
            |channel, supervisor| self.port.live(context, channel, supervisor),
            now,
        )?;
        let pid = peer.pid();
        self.process = Some(ControlProcess {
            peer,
            settings_due: false,
            stop_due: false,
            applied: context.settings.generation,
            reply: None,
            refusals: Flood::new(MOST_REFUSALS, Duration::from_secs(10), now),
            pace: Pace::new(MOST_MESSAGES, PERIOD, now),
        });
        self.due = None;
        Ok(pid)
    }

    /// Takes the dead process from the slot, if it was the control process, and decides when to
    /// replace it. Returns a line about its death, and the reason if it reported why it could not
    /// start.
    pub(crate) fn discharge(
        &mut self,
        pid: Pid,
        status: WaitStatus,
        now: Instant,
    ) -> Option<(String, Option<String>)> {
        let process = self.process.take_if(|process| process.peer.pid() == pid)?;
        let delay = self.backoff.after(now.saturating_duration_since(process.peer.born));
        self.due = Some(now + delay);
        self.grace = self.grace.after(process.peer.was_ready);
        let how = match status {
            WaitStatus::Signaled(_, signal, _) => killed_by(signal),
            WaitStatus::Exited(_, status) => format!("ended with status {status}"),
            _ => "ended".into(),
        };
        let reason =
            process.peer.failed.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        Some((format!("the control process (pid {pid}) {how}{reason}"), process.peer.failed))
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

    /// Whether it serves operators.
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
        let due = process.settings_due || process.stop_due || process.reply.is_some();
        Some((process.peer.channel()?, due))
    }

    /// The time until which its messages wait, if they have to wait now.
    pub(crate) fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.process.as_ref().and_then(|process| process.pace.rests_until(now))
    }

    /// The descriptor to poll for the end of the process.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.process.as_ref().map(|process| process.peer.process())
    }

    /// When to call [`Control::kill_overdue`].
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
    /// judged if its messages were not read (`unheard`).
    pub(crate) fn beat(&mut self, unheard: bool) {
        if let Some(process) = &mut self.process {
            if unheard {
                process.peer.watch.begin_anew();
            }
            process.peer.beat(|serial| ToControl::Ping { serial });
        }
    }

    /// Reads at most `most` messages.
    pub(crate) fn read(&mut self, most: usize, now: Instant) -> Vec<ControlReport> {
        let mut reports = Vec::new();
        let Some(process) = &mut self.process else { return reports };
        for _ in 0..most {
            if process.pace.rests_until(now).is_some() {
                break;
            }
            let Some(heard) = process.peer.read(now) else { break };
            process.pace.count(now);
            match heard {
                PeerMessage::Ready => reports.push(ControlReport::Ready),
                PeerMessage::Message(message, file) => {
                    reports.extend(process.hear(message, file, now))
                }
                PeerMessage::Nothing => {}
            }
        }
        reports
    }

    /// Queues the settings in force for [`Control::send_due`].
    pub(crate) fn renew_settings(&mut self) {
        if let Some(process) = &mut self.process {
            process.settings_due = true;
        }
    }

    /// Queues the order to end for [`Control::send_due`].
    pub(crate) fn order_stop(&mut self) {
        if let Some(process) = &mut self.process {
            process.stop_due = true;
        }
    }

    /// Queues the reply to a command of the process with this pid. If that process is gone, its
    /// operators are gone too.
    pub(crate) fn reply(&mut self, pid: Pid, ticket: u64, reply: ControlReply) {
        if let Some(process) = self.process.as_mut().filter(|process| process.peer.pid() == pid) {
            process.reply = Some((ticket, reply));
            process.send_reply();
        }
    }

    /// Whether a reply waits for room.
    pub(crate) fn is_choked(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.reply.is_some())
    }

    /// Whether it works by the settings of this generation.
    pub(crate) fn has_applied(&self, generation: u64) -> bool {
        let process = self.process.as_ref().filter(|process| process.peer.channel().is_some());
        process.is_none_or(|process| process.applied >= generation)
    }

    /// Sends queued messages, as far as the channel has room.
    pub(crate) fn send_due(&mut self, context: &SpawnContext) {
        let Some(process) = &mut self.process else { return };
        if process.settings_due {
            let encoded = Some(context.encoded.as_fd());
            process.settings_due =
                process.peer.send(&ToControl::Settings, encoded) == Some(Sent::Full);
        }
        process.send_reply();
        if process.stop_due && process.reply.is_none() {
            process.stop_due = process.peer.send(&ToControl::Stop, None) == Some(Sent::Full);
        }
    }

    /// Kills the process.
    pub(crate) fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.peer.kill();
        }
    }
}

impl ControlProcess {
    fn hear(
        &mut self,
        message: FromControl,
        file: Option<OwnedFd>,
        now: Instant,
    ) -> Option<ControlReport> {
        match message {
            FromControl::Command { ticket, command, by, with_file } => {
                // An honest control process sends only commands that the parser produced.
                if !command::is_well_formed(&command) {
                    self.peer.expel("it passes on what is no command");
                    return None;
                }
                Some(ControlReport::Command {
                    ticket,
                    by,
                    command,
                    file: file.filter(|_| with_file),
                })
            }
            FromControl::Refused { client } => match self.refusals.admit(now) {
                Admission::Admitted { withheld_before } => {
                    let client = ClientKey::from_bytes(client);
                    let more = match withheld_before {
                        0 => String::new(),
                        more => format!(", and {more} others before"),
                    };
                    Some(ControlReport::Line(format!(
                        "control port: {client} was refused by control_acl{more}"
                    )))
                }
                Admission::Withheld => None,
            },
            FromControl::Pong { serial } => {
                self.peer.watch.answered(serial);
                None
            }
            FromControl::Applied { generation } => {
                self.applied = generation;
                None
            }
        }
    }

    fn send_reply(&mut self) {
        let Some((ticket, reply)) = self.reply.take() else { return };
        let ControlReply { outcome, body } = reply;
        let body = match body {
            ReplyBody::Text(text) if text.len() > SHORT_REPLY => in_memory(&text),
            other => other,
        };
        let sent = match &body {
            ReplyBody::Text(text) => {
                self.peer.send(&ToControl::Reply { ticket, outcome, text: text.clone() }, None)
            }
            ReplyBody::Memory(memory) => {
                let reply = ToControl::Reply { ticket, outcome, text: String::new() };
                self.peer.send(&reply, Some(memory.as_fd()))
            }
        };
        if sent == Some(Sent::Full) {
            self.reply = Some((ticket, ControlReply { outcome, body }));
        }
    }
}

/// A long text as a descriptor. Without a descriptor, the text is cut.
fn in_memory(text: &str) -> ReplyBody {
    let write = || -> io::Result<OwnedFd> {
        let mut memory = crate::files::memory::new()?;
        io::Write::write_all(&mut memory, text.as_bytes())?;
        crate::files::memory::seal(memory)
    };
    write().map_or_else(
        |_| {
            ReplyBody::Text(
                text.chars()
                    .scan(0, |length, letter| {
                        *length += letter.len_utf8();
                        (*length <= SHORT_REPLY).then_some(letter)
                    })
                    .collect(),
            )
        },
        ReplyBody::Memory,
    )
}

/// Most operators that wait to be accepted.
pub(crate) const BACKLOG: u32 = 64;

/// Most refused operators in ten seconds that are logged.
const MOST_REFUSALS: u32 = 20;

/// Most messages in a [`PERIOD`]. Further messages wait, and so do their operators.
const MOST_MESSAGES: u32 = 200;

const PERIOD: Duration = Duration::from_millis(100);
