//! The page process as the supervisor sees it: it asks what pen is doing, and gets a status.
//!
//! It can ask for nothing else. Every message has the rights of a reader of the page, and no more.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};

use nix::unistd::Pid;
use pen_ipc::channel::Sent;
use pen_ipc::message::{FromPage, ToPage};
use pen_ipc::start::{Hosts, PageStart};
use rustix::process::nice;
use rustix::system::uname;

use crate::jail::sandbox::ProcessKind;
use crate::processes::peer::Peer;
use crate::processes::ports::kind::{AcceptOrder, Heard, Order, PortKind, PortStart};
use crate::processes::ports::port::Port;
use crate::processes::ports::slot::Slot;
use crate::processes::spawn::SpawnContext;

/// The slot of the page process.
pub(crate) type Page = Slot<PageKind>;

/// The page process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PageKind {}

/// The question what pen is doing, by its number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Question(pub(crate) u32);

/// The answer.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Sealed memory with a [`pen_status::Status`].
    Status(OwnedFd),
    /// There is none now, and why.
    None(String),
}

/// An answer that the channel had no room for.
#[derive(Debug, Default)]
pub(crate) struct PendingAnswer(Option<(Question, Answer)>);

impl PortKind for PageKind {
    type Port = Port;
    type To = ToPage;
    type From = FromPage;
    type Request = Question;
    type Queued = PendingAnswer;
    type Outside = Hosts;

    const NAME: &'static str = "the page process";
    const PORT: &'static str = "page";
    const ACL: &'static str = "page_acl";
    const PROCESS: ProcessKind = ProcessKind::Page;
    const TITLE: &'static str = "page";

    fn before_jail(name: &str) -> Hosts {
        // Clients come before readers. If this fails, they only share.
        let _ = nice(NICE);
        match name.rsplit_once(':') {
            _ if name.starts_with('/') => Hosts::Any,
            Some((host, _)) => {
                let machine = uname().nodename().to_string_lossy().into_owned();
                Hosts::These(vec![host.to_owned(), machine])
            }
            None => Hosts::These(Vec::new()),
        }
    }

    fn live(start: PortStart<PageKind>, hosts: Hosts, context: &SpawnContext) -> i32 {
        let PortStart { channel, listener, begins } = start;
        let settings = context.settings.clone();
        (context.entries.page)(PageStart { channel, listener, begins, settings, hosts })
    }

    fn order(order: Order) -> ToPage {
        match order {
            Order::Settings => ToPage::Settings,
            Order::Accept(AcceptOrder::Begin) => ToPage::Begin,
            Order::Accept(AcceptOrder::Pause) => ToPage::Pause,
            Order::Stop => ToPage::Stop,
            Order::Ping(serial) => ToPage::Ping { serial },
        }
    }

    fn heard(message: FromPage, _: Option<OwnedFd>) -> Heard<Question> {
        match message {
            FromPage::Ask { serial } => Heard::Request(Question(serial)),
            FromPage::Refused { client } => Heard::Refused(client),
            FromPage::Applied { generation } => Heard::Applied(generation),
            FromPage::Pong { serial } => Heard::Pong(serial),
        }
    }

    fn is_due(queued: &PendingAnswer) -> bool {
        queued.0.is_some()
    }

    fn send(queued: &mut PendingAnswer, peer: &Peer<ToPage, FromPage>) {
        let Some((Question(serial), answer)) = queued.0.take() else { return };
        let sent = match &answer {
            Answer::Status(memory) => peer.send(&ToPage::Status { serial }, Some(memory.as_fd())),
            Answer::None(why) => peer.send(&ToPage::NoStatus { serial, why: why.clone() }, None),
        };
        if sent == Some(Sent::Full) {
            queued.0 = Some((Question(serial), answer));
        }
    }
}

/// How much less of a busy machine it gets than the workers (nice(2)).
const NICE: i32 = 10;

impl Page {
    /// Sends or queues the answer to a question of the process with this pid. If that process is
    /// gone, its readers are gone too. An answer that waits for room gives way to a later one.
    pub(crate) fn answer(&mut self, pid: Pid, question: Question, answer: Answer) {
        if let Some(queued) = self.queued_for(pid) {
            queued.0 = Some((question, answer));
            self.send_queued();
        }
    }
}
