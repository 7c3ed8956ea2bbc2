//! The link to the supervisor: the messages in both directions.
//!
//! Nothing here blocks. Events queue up to a bound; further ones are counted and dropped. Events
//! that clients can cause are reported at a limited rate. A report is sent page by page, as fast as
//! the supervisor takes it. Counters are sent at most once a second, and only if they changed.

use std::collections::{HashMap, VecDeque};

use pen_ipc::channel::{Channel, ChannelError, Received, Sent};
use pen_ipc::message::{
    CONNECTIONS_PER_PAGE, Event, FromWorker, LastingFromWorker, LimitsFault, ReportPage, ToWorker,
};
use pen_ipc::stats::{ConnectionInfo, Counters};

/// Most events that wait for the supervisor.
const EVENTS: usize = 256;

/// Milliseconds between two messages with counters.
const COUNTERS_EVERY: u64 = 1000;

/// Milliseconds between two events of a kind that a client can cause repeatedly.
pub const RATE: u64 = 1000;

/// Milliseconds between two events about the same failed server that stays in use.
const FAILED_RATE: u64 = 10_000;

/// A worker's end of the channel, with everything that waits to be sent.
#[derive(Debug)]
pub struct Link {
    channel: Channel<FromWorker, ToWorker>,
    /// Answers to commands; the supervisor waits for each.
    answers: VecDeque<FromWorker>,
    events: VecDeque<Event>,
    report: Option<OutgoingReport>,
    /// What this worker has counted.
    pub counters: Counters,
    sent_counters: Counters,
    counters_due: Option<u64>,
    last_rated: [Option<u64>; Rated::COUNT],
    /// For each kind with events that are not yet reported: the last one, and how many came before.
    pending: Vec<(Rated, Event, u64)>,
    /// When each server, by its code, was last reported as failed and still in use.
    last_failed: HashMap<i32, u64>,
}

/// A report that is being sent.
#[derive(Debug)]
struct OutgoingReport {
    serial: u32,
    counters: Counters,
    connections: Vec<ConnectionInfo>,
    sent: usize,
}

/// Kinds of events with a limited rate, each by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rated {
    /// [`Event::Shortage`].
    Shortage,
    /// [`Event::LogLost`].
    LogLost,
    /// [`Event::ConnectionLogLost`].
    ConnectionLogLost,
    /// [`Event::LockStuck`].
    LockStuck,
    /// [`Event::HandshakeFailed`].
    Handshake,
    /// [`Event::BadSender`].
    BadSender,
    /// [`Event::Crowded`].
    Crowded,
    /// [`Event::RequestRefused`].
    Request,
    /// [`Event::ConnectionsFull`].
    ConnectionsFull,
    /// [`Event::Unserved`].
    Unserved,
    /// [`Event::BeyondLimit`].
    BeyondLimit,
    /// [`Event::LimitsUnchecked`] for want of a place.
    LimitsUncheckedPlace,
    /// [`Event::LimitsUnchecked`] for want of a lock.
    LimitsUncheckedLock,
    /// [`FromWorker::NoSyslog`].
    NoSyslog,
}

impl Rated {
    const COUNT: usize = Rated::NoSyslog as usize + 1;
}

impl Link {
    /// The link over a worker's channel.
    pub fn new(channel: Channel<FromWorker, ToWorker>) -> Link {
        Link {
            channel,
            answers: VecDeque::new(),
            events: VecDeque::new(),
            report: None,
            counters: Counters::default(),
            sent_counters: Counters::default(),
            counters_due: None,
            last_rated: [None; Rated::COUNT],
            pending: Vec::new(),
            last_failed: HashMap::new(),
        }
    }

    /// The next message of the supervisor.
    ///
    /// # Errors
    /// The bytes are not a message: the worker must leave.
    pub fn receive(&self) -> Result<Received<ToWorker>, ChannelError> {
        self.channel.receive()
    }

    /// Answers a command. The answer is kept until the supervisor takes it; there are never more
    /// answers than commands.
    pub fn answer(&mut self, answer: FromWorker) {
        self.answers.push_back(answer);
        self.flush();
    }

    /// Asks for a connection to the syslog daemon, unless such a request is already queued.
    pub fn request_syslog(&mut self) {
        if !self.answers.contains(&FromWorker::NoSyslog) {
            self.answer(FromWorker::NoSyslog);
        }
    }

    /// Reports an event. If the queue is full, an event that clients caused is dropped for a
    /// transition of a server.
    pub fn report(&mut self, event: Event) {
        if self.events.len() >= EVENTS {
            self.counters.events_dropped += 1;
            let rated = self.events.iter().position(|waiting| !is_transition(waiting));
            match rated.filter(|_| is_transition(&event)) {
                Some(rated) => drop(self.events.remove(rated)),
                None => return self.flush(),
            }
        }
        self.events.push_back(event);
        self.flush();
    }

    /// Counts an event that can stand for earlier ones, and reports it if the rate of its kind
    /// allows it. Any other event is reported at once.
    pub fn report_counted(&mut self, event: Event, now: u64) {
        if let Some(kind) = self.count(event) {
            self.report_kind(kind, now);
        }
    }

    /// Counts an event that can stand for earlier ones, to be reported later, and returns its kind.
    /// Any other event is reported at once.
    pub fn count(&mut self, mut event: Event) -> Option<Rated> {
        let Some((kind, _)) = number_of(&mut event) else {
            self.report(event);
            return None;
        };
        match self.pending.iter_mut().find(|(other, ..)| *other == kind) {
            Some((_, last, before)) => (*last, *before) = (event, *before + 1),
            None => self.pending.push((kind, event, 0)),
        }
        Some(kind)
    }

    /// Reports the counted events of a kind, if there are some and its rate allows it.
    pub fn report_kind(&mut self, kind: Rated, now: u64) {
        if let Some(index) = self.pending.iter().position(|(other, ..)| *other == kind)
            && self.may_report(kind, now)
        {
            let (_, mut event, before) = self.pending.remove(index);
            if let Some((_, number)) = number_of(&mut event) {
                *number += before;
            }
            self.report(event);
        }
    }

    /// Reports all counted events whose time has come.
    pub fn report_pending(&mut self, now: u64) {
        let kinds: Vec<Rated> = self.pending.iter().map(|(kind, ..)| *kind).collect();
        kinds.into_iter().for_each(|kind| self.report_kind(kind, now));
    }

    /// When [`Link::report_pending`] is due. Without it, the last events of a flood would never be
    /// reported.
    pub fn pending_due(&self) -> Option<u64> {
        let from = |kind: Rated| self.last_rated[kind as usize].map_or(0, |last| last + RATE);
        self.pending.iter().map(|(kind, ..)| from(*kind)).min()
    }

    /// Whether the failure of a server may be reported now that is not blacklisted for it (`-b 0`).
    /// Every client meets that failure again.
    pub fn may_report_failed(&mut self, server: i32, now: u64) -> bool {
        let last = self.last_failed.get(&server);
        let may = last.is_none_or(|last| now >= last + FAILED_RATE);
        if may {
            self.last_failed.insert(server, now);
        }
        may
    }

    /// Whether an event of a rated kind may be reported now.
    pub fn may_report(&mut self, kind: Rated, now: u64) -> bool {
        let last = &mut self.last_rated[kind as usize];
        let may = last.is_none_or(|last| now >= last + RATE);
        if may {
            *last = Some(now);
        }
        may
    }

    /// Allows one more event of each rated kind: the worker ends, and there is no later one.
    pub fn lift_rates(&mut self) {
        self.last_rated = [None; Rated::COUNT];
    }

    /// Begins to answer a request for a report. An unfinished report is dropped: it is no longer
    /// awaited.
    pub fn send_report(&mut self, serial: u32, connections: Vec<ConnectionInfo>) {
        self.report =
            Some(OutgoingReport { serial, counters: self.counters, connections, sent: 0 });
        self.flush();
    }

    /// Notes that counters may have changed.
    pub fn schedule_counters(&mut self, now: u64) {
        if self.counters_due.is_none() && self.counters != self.sent_counters {
            self.counters_due = Some(now + COUNTERS_EVERY);
        }
    }

    /// When [`Link::send_counters`] is due.
    pub fn counters_due(&self) -> Option<u64> {
        self.counters_due
    }

    /// Sends the counters. If the channel is full, they are sent one second later.
    pub fn send_counters(&mut self, now: u64) {
        self.counters_due = None;
        let counters = LastingFromWorker::from(self.counters);
        match self.channel.send(&counters.into(), None) {
            Ok(Sent::Queued) => self.sent_counters = self.counters,
            // That the supervisor has gone is noticed where the channel is read.
            Ok(Sent::Full) | Err(_) => self.counters_due = Some(now + COUNTERS_EVERY),
        }
    }

    /// Whether the supervisor has everything, the last counters included.
    pub fn has_told_all(&self) -> bool {
        self.answers.is_empty()
            && self.events.is_empty()
            && self.report.is_none()
            && self.counters == self.sent_counters
    }

    /// Sends what waits, as far as the channel has room. Call it again when the channel is
    /// writable.
    pub fn flush(&mut self) {
        while let Some(answer) = self.answers.front() {
            match self.channel.send(answer, None) {
                Ok(Sent::Queued) => {
                    self.answers.pop_front();
                }
                Ok(Sent::Full) | Err(_) => return,
            }
        }
        while let Some(event) = self.events.front() {
            match self.channel.send(&LastingFromWorker::Event(event.clone()).into(), None) {
                Ok(Sent::Queued) => {
                    self.events.pop_front();
                }
                Ok(Sent::Full) | Err(_) => return,
            }
        }
        while let Some(report) = &mut self.report {
            let end = report.connections.len().min(report.sent + CONNECTIONS_PER_PAGE);
            let last = end == report.connections.len();
            let page = FromWorker::Report(ReportPage {
                serial: report.serial,
                last,
                counters: Box::new(report.counters),
                connections: report.connections[report.sent..end].to_vec(),
            });
            match self.channel.send(&page, None) {
                Ok(Sent::Queued) if last => self.report = None,
                Ok(Sent::Queued) => report.sent = end,
                Ok(Sent::Full) | Err(_) => return,
            }
        }
    }
}

/// The kind of an event that can stand for earlier ones, and the number in it.
fn number_of(event: &mut Event) -> Option<(Rated, &mut u64)> {
    match event {
        Event::HandshakeFailed { others, .. } => Some((Rated::Handshake, others)),
        Event::BadSender { others, .. } => Some((Rated::BadSender, others)),
        Event::RequestRefused { others, .. } => Some((Rated::Request, others)),
        Event::Unserved { clients } => Some((Rated::Unserved, clients)),
        Event::Crowded { clients, .. } => Some((Rated::Crowded, clients)),
        Event::BeyondLimit { others, .. } => Some((Rated::BeyondLimit, others)),
        Event::LimitsUnchecked { clients, why: LimitsFault::NoPlace } => {
            Some((Rated::LimitsUncheckedPlace, clients))
        }
        Event::LimitsUnchecked { clients, why: LimitsFault::LockStuck } => {
            Some((Rated::LimitsUncheckedLock, clients))
        }
        Event::Blacklisted { .. }
        | Event::AddressChanged { .. }
        | Event::BackInUse { .. }
        | Event::Reached { .. }
        | Event::PassedOver { .. }
        | Event::ConnectionsFull
        | Event::Shortage { .. }
        | Event::LogLost { .. }
        | Event::ConnectionLogLost { .. }
        | Event::LockStuck
        | Event::TableRebuilt { .. } => None,
    }
}

/// Whether an event is reported once for each change of a server's state.
fn is_transition(event: &Event) -> bool {
    match event {
        Event::Blacklisted { seconds, .. } => *seconds > 0,
        Event::BackInUse { .. } | Event::Reached { .. } | Event::AddressChanged { .. } => true,
        Event::Shortage { .. }
        | Event::PassedOver { .. }
        | Event::LogLost { .. }
        | Event::ConnectionLogLost { .. }
        | Event::HandshakeFailed { .. }
        | Event::LockStuck
        | Event::BadSender { .. }
        | Event::Crowded { .. }
        | Event::RequestRefused { .. }
        | Event::BeyondLimit { .. }
        | Event::LimitsUnchecked { .. }
        | Event::TableRebuilt { .. }
        | Event::ConnectionsFull
        | Event::Unserved { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use pen_ipc::message::SenderFault;

    use super::*;

    #[test]
    fn a_long_report_goes_out_in_pages_that_fit() {
        let (ours, theirs) = Channel::<FromWorker, ToWorker>::pair().unwrap();
        let mut link = Link::new(ours);
        let widest = ConnectionInfo {
            number: u32::MAX,
            state: u8::MAX,
            downfd: i32::MIN,
            upfd: i32::MIN,
            pending_down: u32::MAX,
            pending_up: u32::MAX,
            client: i32::MIN,
            server: i32::MIN,
        };
        let all = CONNECTIONS_PER_PAGE * 3 + 1;
        link.send_report(7, vec![widest; all]);
        let mut got = 0;
        loop {
            match theirs.receive().unwrap() {
                Received::Message(FromWorker::Report(page), None) => {
                    assert_eq!(page.serial, 7);
                    got += page.connections.len();
                    if page.last {
                        break;
                    }
                }
                Received::Empty => link.flush(),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(got, all);
    }

    #[test]
    fn events_wait_for_a_slow_supervisor_up_to_a_bound() {
        let (ours, theirs) = Channel::<FromWorker, ToWorker>::pair().unwrap();
        let mut link = Link::new(ours);
        for server in 0..2000 {
            link.report(Event::BackInUse { server });
        }
        let mut received = Vec::new();
        loop {
            match theirs.receive().unwrap() {
                Received::Message(
                    FromWorker::Lasting(LastingFromWorker::Event(Event::BackInUse { server })),
                    None,
                ) => received.push(server),
                Received::Empty if link.events.is_empty() => break,
                Received::Empty => link.flush(),
                other => panic!("{other:?}"),
            }
        }
        assert!(received.len() > EVENTS && received.is_sorted());
        assert_eq!(received.len() as u64 + link.counters.events_dropped, 2000);
    }

    #[test]
    fn a_transition_is_told_even_if_too_much_else_waits() {
        let (ours, theirs) = Channel::<FromWorker, ToWorker>::pair().unwrap();
        let mut link = Link::new(ours);
        (0..5000).for_each(|_| link.report(Event::LockStuck));
        link.report(Event::BackInUse { server: 7 });
        let (mut received, mut last) = (0, None);
        loop {
            match theirs.receive().unwrap() {
                Received::Message(FromWorker::Lasting(LastingFromWorker::Event(event)), None) => {
                    (received, last) = (received + 1, Some(event))
                }
                Received::Empty if link.events.is_empty() => break,
                Received::Empty => link.flush(),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(last, Some(Event::BackInUse { server: 7 }));
        assert_eq!(received + link.counters.events_dropped, 5001);
    }

    #[test]
    fn answers_are_never_lost_and_go_before_events() {
        let (ours, theirs) = Channel::<FromWorker, ToWorker>::pair().unwrap();
        let mut link = Link::new(ours);
        for server in 0..500 {
            link.report(Event::BackInUse { server });
        }
        for generation in 0..1000 {
            link.answer(FromWorker::Applied { generation });
        }
        let (mut applied, mut last_event, mut last_answer) = (Vec::new(), 0, 0);
        for n in 0.. {
            match theirs.receive().unwrap() {
                Received::Message(FromWorker::Applied { generation }, None) => {
                    applied.push(generation);
                    last_answer = n;
                }
                Received::Message(FromWorker::Lasting(LastingFromWorker::Event(_)), None) => {
                    last_event = n
                }
                Received::Empty if link.events.is_empty() => break,
                Received::Empty => link.flush(),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(applied, (0..1000).collect::<Vec<u64>>());
        assert!(last_answer < last_event);
    }

    #[test]
    fn rated_events_come_once_a_second_each_kind_by_itself() {
        let (ours, _theirs) = Channel::<FromWorker, ToWorker>::pair().unwrap();
        let mut link = Link::new(ours);
        assert!(link.may_report(Rated::Shortage, 1));
        assert!(!link.may_report(Rated::Shortage, RATE));
        assert!(link.may_report(Rated::LogLost, 2));
        assert!(link.may_report(Rated::Shortage, RATE + 1));
    }

    #[test]
    fn events_that_come_too_soon_are_counted_and_reported_with_the_last_one() {
        let (ours, theirs) = Channel::<FromWorker, ToWorker>::pair().unwrap();
        let mut link = Link::new(ours);
        let fault = SenderFault::Late;
        for sender in 1..=4 {
            let event = Event::BadSender { sender: [sender; 16], fault, others: 0 };
            link.report_counted(event, 1);
            link.report_counted(Event::Unserved { clients: 1 }, 1);
        }
        assert_eq!(link.pending_due(), Some(1 + RATE));
        link.report_pending(RATE);
        link.report_pending(1 + RATE);
        assert_eq!(link.pending_due(), None);
        let expected = [
            Event::BadSender { sender: [1; 16], fault, others: 0 },
            Event::Unserved { clients: 1 },
            Event::BadSender { sender: [4; 16], fault, others: 2 },
            Event::Unserved { clients: 3 },
        ];
        for event in expected {
            match theirs.receive().unwrap() {
                Received::Message(
                    FromWorker::Lasting(LastingFromWorker::Event(received)),
                    None,
                ) => assert_eq!(received, event),
                other => panic!("{other:?}"),
            }
        }
    }
}
