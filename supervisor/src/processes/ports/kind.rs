//! What distinguishes the kinds of processes with a slot of their own, and what all of them are
//! told and say. All but the checker serve a port.

#![forbid(unsafe_code)]

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::unistd::Pid;
use pen_config::ids::ClientKey;
use pen_ipc::channel::Channel;
use pen_ipc::codec::Incoming;
use pen_ipc::message::FromStartingWorker;
use pen_ipc::start::Begins;
use serde::Serialize;

use crate::jail::sandbox::ProcessKind;
use crate::processes::peer::Peer;
use crate::processes::ports::port::Port;
use crate::processes::spawn::SpawnContext;

/// The port of a kind of process, or what it gets instead of one.
pub(crate) trait ProcessPort: Debug {
    /// What each process gets of it.
    type Given: Debug;

    /// What the next process gets.
    ///
    /// # Errors
    /// No descriptors left.
    fn give(&self) -> io::Result<Self::Given>;

    /// The descriptor in it, which the process keeps in the jail.
    fn descriptor(given: &Self::Given) -> Option<BorrowedFd<'_>>;

    /// The address as its command shows it.
    fn name(&self) -> &str;
}

impl ProcessPort for Port {
    type Given = OwnedFd;

    fn give(&self) -> io::Result<OwnedFd> {
        self.duplicate()
    }

    fn descriptor(given: &OwnedFd) -> Option<BorrowedFd<'_>> {
        Some(given.as_fd())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// A kind of process with a slot of its own.
pub(crate) trait PortKind: Debug + Sized {
    /// Its port, or what it gets instead.
    type Port: ProcessPort;
    /// The messages to it.
    type To: Serialize + Incoming + Debug;
    /// The messages from it.
    type From: Incoming + Debug;
    /// What it asks the supervisor for.
    type Request: Debug;
    /// What waits to be sent to it beside the orders.
    type Queued: Default + Debug;
    /// What it has to know of the world outside its jail.
    type Outside;

    /// What messages call it.
    const NAME: &'static str;
    /// What messages call its port.
    const PORT: &'static str;
    /// The command of its access list.
    const ACL: &'static str;
    /// Its restrictions.
    const PROCESS: ProcessKind;
    /// Its process title.
    const TITLE: &'static str;

    /// What the process does before it enters the jail. `name` is the name of the port.
    fn before_jail(name: &str) -> Self::Outside;

    /// Its own code, in the jail; returns the exit status.
    fn live(start: PortStart<Self>, outside: Self::Outside, context: &SpawnContext) -> i32;

    /// An order as a message to it.
    fn order(order: Order) -> Self::To;

    /// What a message from it means.
    fn heard(message: Self::From, file: Option<OwnedFd>) -> Heard<Self::Request>;

    /// Whether anything waits to be sent beside the orders.
    fn is_due(queued: &Self::Queued) -> bool;

    /// Sends what the process must have before new settings. False: the channel has no room.
    fn send_before_settings(_: &mut Self::Queued, _: &Peer<Self::To, Self::From>) -> bool {
        true
    }

    /// Sends what the process must not have before the newest settings.
    fn send_after_settings(_: &mut Self::Queued, _: &Peer<Self::To, Self::From>) {}

    /// Sends the rest of that, as far as the channel has room.
    fn send(queued: &mut Self::Queued, peer: &Peer<Self::To, Self::From>);
}

/// What every such process gets at its start.
#[derive(Debug)]
pub(crate) struct PortStart<K: PortKind> {
    pub(crate) channel: Channel<FromStartingWorker, K::To>,
    pub(crate) listener: <K::Port as ProcessPort>::Given,
    pub(crate) begins: Begins,
}

/// An order of the supervisor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Order {
    /// Use the settings of this message's descriptor.
    Settings,
    /// Accept or not.
    Accept(AcceptOrder),
    /// End.
    Stop,
    /// Answer.
    Ping(u32),
}

/// Whether the process accepts clients of its port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AcceptOrder {
    /// From now on.
    Begin,
    /// Not for now. They wait in the queue of the listener.
    Pause,
}

/// What a message means.
#[derive(Debug)]
pub(crate) enum Heard<Request> {
    /// It asks for something.
    Request(Request),
    /// Its access list refused a client with this address.
    Refused([u8; 16]),
    /// It works by the settings of this generation.
    Applied(u64),
    /// It answers this ping.
    Pong(u32),
    /// No honest process sends this: why it is killed.
    Dishonest(&'static str),
}

/// What follows for the event loop from a message.
#[derive(Debug)]
pub(crate) enum PortReport<Request> {
    /// It serves its port.
    Ready,
    /// It asks for something.
    Request(Request),
    /// The access list refused a client of its port.
    Refused {
        /// The client's address.
        client: ClientKey,
        /// The line for the log, which may stand for several.
        line: String,
    },
}

/// The death of such a process.
#[derive(Debug)]
pub(crate) struct PortDeath {
    /// The title of the process.
    pub(crate) process: &'static str,
    pub(crate) pid: Pid,
    /// How it ended.
    pub(crate) how: String,
    /// What happened.
    pub(crate) line: String,
    /// Why it could not start, as it reported it, or why it was killed.
    pub(crate) reason: Option<String>,
}
