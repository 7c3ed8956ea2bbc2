//! The link to the supervisor: the messages in both directions.
//!
//! Nothing here blocks. Events queue up to a bound; further ones are counted and dropped. A report
//! is sent page by page, as fast as the supervisor takes it. Counters are sent at most once a
//! second, and only if they changed.

use std::collections::{HashMap, VecDeque};

use pen_ipc::channel::{Channel, ChannelError, Received, Sent};
use pen_ipc::message::{CONNECTIONS_PER_PAGE, Event, FromWorker, ReportPage, ToWorker};
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
pub struct Supervisor {
    channel: Channel<FromWorker, ToWorker>,
    /// Answers to commands; the supervisor waits for each.
    answers: VecDeque<FromWorker>,
    events: VecDeque<Event>,
    report: Option<Report>,
    sent_counters: Counters,
    counters_due: Option<u64>,
    last_rated: [Option<u64>; Rated::COUNT],
    /// When each server, by its code, was last reported as failed and still in use.
    last_failed: HashMap<i32, u64>,
}

/// A report that is being sent.
#[derive(Debug)]
struct Report {
    serial: u32,
    counters: Counters,
    connections: Vec<ConnectionInfo>,
    sent: usize,
}

/// Kinds of events with a limited rate, each by itself.
#[derive(Clone, Copy, Debug)]
pub enum Rated {
    /// [`Event::Shortage`].
    Shortage,
    /// [`Event::LogLost`].
    LogLost,
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
    /// [`FromWorker::NoSyslog`].
    NoSyslog,
}

impl Rated {
    const COUNT: usize = Rated::NoSyslog as usize + 1;
}

impl Supervisor {
    /// The link over a worker's channel.
    pub fn new(channel: Channel<FromWorker, ToWorker>) -> Supervisor {
        Supervisor {
            channel,
            answers: VecDeque::new(),
            events: VecDeque::new(),
            report: None,
            sent_counters: Counters::default(),
            counters_due: None,
            last_rated: [None; Rated::COUNT],
            last_failed: HashMap::new(),
        }
    }

    /// The next message of the supervisor.
    ///
    /// # Errors
    /// The bytes are not a message: the worker must leave.
    pub fn hear(&self) -> Result<Received<ToWorker>, ChannelError> {
        self.channel.receive()
    }

    /// Answers a command. The answer is kept until the supervisor takes it; there are never more
    /// answers than commands.
    pub fn answer(&mut self, answer: FromWorker) {
        self.answers.push_back(answer);
        self.speak();
    }

    /// Asks for a connection to the syslog daemon, unless such a request is already queued.
    pub fn miss_daemon(&mut self) {
        if !self.answers.contains(&FromWorker::NoSyslog) {
            self.answer(FromWorker::NoSyslog);
        }
    }

    /// Reports an event. If the queue is full, an event that clients caused is dropped for a
    /// transition of a server.
    pub fn tell(&mut self, event: Event, counters: &mut Counters) {
        if self.events.len() >= EVENTS {
            counters.events_dropped += 1;
            let rated = self.events.iter().position(|waiting| !is_transition(waiting));
            match rated.filter(|_| is_transition(&event)) {
                Some(rated) => drop(self.events.remove(rated)),
                None => return self.speak(),
            }
        }
        self.events.push_back(event);
        self.speak();
    }

    /// Whether the failure of a server may be reported now that is not blacklisted for it (`-b 0`).
    /// Every client meets that failure again.
    pub fn may_tell_failed(&mut self, server: i32, now: u64) -> bool {
        let last = self.last_failed.get(&server);
        let may = last.is_none_or(|last| now >= last + FAILED_RATE);
        if may {
            self.last_failed.insert(server, now);
        }
        may
    }

    /// Whether an event of a rated kind may be reported now.
    pub fn may_tell(&mut self, kind: Rated, now: u64) -> bool {
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

    /// From when on an event of a rated kind may be reported.
    pub fn may_tell_from(&self, kind: Rated) -> u64 {
        self.last_rated[kind as usize].map_or(0, |last| last + RATE)
    }

    /// Begins to answer a request for a report. An unfinished report is dropped: it is no longer
    /// awaited.
    pub fn report(&mut self, serial: u32, counters: Counters, connections: Vec<ConnectionInfo>) {
        self.report = Some(Report { serial, counters, connections, sent: 0 });
        self.speak();
    }

    /// Notes that counters may have changed.
    pub fn note_counters(&mut self, now: u64, counters: &Counters) {
        if self.counters_due.is_none() && *counters != self.sent_counters {
            self.counters_due = Some(now + COUNTERS_EVERY);
        }
    }

    /// When [`Supervisor::send_counters`] is due.
    pub fn counters_due(&self) -> Option<u64> {
        self.counters_due
    }

    /// Sends the counters. If the channel is full, they are sent one second later.
    pub fn send_counters(&mut self, now: u64, counters: &Counters) {
        self.counters_due = None;
        match self.channel.send(&FromWorker::Counters(*counters), None) {
            Ok(Sent::Queued) => self.sent_counters = *counters,
            // That the supervisor has gone is noticed where the channel is read.
            Ok(Sent::Full) | Err(_) => self.counters_due = Some(now + COUNTERS_EVERY),
        }
    }

    /// Sends what waits, as far as the channel has room. Call it again when the channel is
    /// writable.
    pub fn speak(&mut self) {
        while let Some(answer) = self.answers.front() {
            match self.channel.send(answer, None) {
                Ok(Sent::Queued) => {
                    self.answers.pop_front();
                }
                Ok(Sent::Full) | Err(_) => return,
            }
        }
        while let Some(event) = self.events.front() {
            match self.channel.send(&FromWorker::Event(event.clone()), None) {
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
                counters: report.counters,
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

/// Whether an event is reported once for each change of a server's state.
fn is_transition(event: &Event) -> bool {
    match event {
        Event::Blacklisted { seconds, .. } => *seconds > 0,
        Event::BackInUse { .. } | Event::Reached { .. } | Event::AddressChanged { .. } => true,
        Event::Shortage { .. }
        | Event::PassedOver { .. }
        | Event::LogLost { .. }
        | Event::HandshakeFailed { .. }
        | Event::LockStuck
        | Event::BadSender { .. }
        | Event::Crowded { .. }
        | Event::RequestRefused { .. }
        | Event::TableRebuilt { .. }
        | Event::ConnectionsFull
        | Event::Unserved { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_report_goes_out_in_pages_that_fit() {
        let (ours, theirs) = Channel::<FromWorker, ToWorker>::pair().unwrap();
        let mut link = Supervisor::new(ours);
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
        link.report(7, Counters::default(), vec![widest; all]);
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
                Received::Empty => link.speak(),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(got, all);
    }

    #[test]
    fn events_wait_for_a_slow_supervisor_up_to_a_bound() {
        let (ours, theirs) = Channel::<FromWorker, ToWorker>::pair().unwrap();
        let (mut link, mut counters) = (Supervisor::new(ours), Counters::default());
        for server in 0..2000 {
            link.tell(Event::BackInUse { server }, &mut counters);
        }
        let mut received = Vec::new();
        loop {
            match theirs.receive().unwrap() {
                Received::Message(FromWorker::Event(Event::BackInUse { server }), None) => {
                    received.push(server)
                }
                Received::Empty if link.events.is_empty() => break,
                Received::Empty => link.speak(),
                other => panic!("{other:?}"),
            }
        }
        assert!(received.len() > EVENTS && received.is_sorted());
        assert_eq!(received.len() as u64 + counters.events_dropped, 2000);
    }

    #[test]
    fn a_transition_is_told_even_if_too_much_else_waits() {
        let (ours, theirs) = Channel::<FromWorker, ToWorker>::pair().unwrap();
        let (mut link, mut counters) = (Supervisor::new(ours), Counters::default());
        (0..5000).for_each(|_| link.tell(Event::LockStuck, &mut counters));
        link.tell(Event::BackInUse { server: 7 }, &mut counters);
        let (mut received, mut last) = (0, None);
        loop {
            match theirs.receive().unwrap() {
                Received::Message(FromWorker::Event(event), None) => {
                    (received, last) = (received + 1, Some(event))
                }
                Received::Empty if link.events.is_empty() => break,
                Received::Empty => link.speak(),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(last, Some(Event::BackInUse { server: 7 }));
        assert_eq!(received + counters.events_dropped, 5001);
    }

    #[test]
    fn answers_are_never_lost_and_go_before_events() {
        let (ours, theirs) = Channel::<FromWorker, ToWorker>::pair().unwrap();
        let (mut link, mut counters) = (Supervisor::new(ours), Counters::default());
        for server in 0..500 {
            link.tell(Event::BackInUse { server }, &mut counters);
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
                Received::Message(FromWorker::Event(_), None) => last_event = n,
                Received::Empty if link.events.is_empty() => break,
                Received::Empty => link.speak(),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(applied, (0..1000).collect::<Vec<u64>>());
        assert!(last_answer < last_event);
    }

    #[test]
    fn rated_events_come_once_a_second_each_kind_by_itself() {
        let (ours, _theirs) = Channel::<FromWorker, ToWorker>::pair().unwrap();
        let mut link = Supervisor::new(ours);
        assert!(link.may_tell(Rated::Shortage, 1));
        assert!(!link.may_tell(Rated::Shortage, RATE));
        assert!(link.may_tell(Rated::LogLost, 2));
        assert!(link.may_tell(Rated::Shortage, RATE + 1));
    }
}
