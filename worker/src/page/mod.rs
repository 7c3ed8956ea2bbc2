//! The page process: shows to readers over HTTP what pen is doing. It is jailed like a worker, and
//! has nothing but its readers and a channel, on which it can ask the supervisor what pen is doing.
//!
//! It has one thread and one event loop, and it never blocks. `reader` is the life of one
//! connection, `request` and `response` are HTTP, `hosts` says by which names the page may be asked
//! for, `stream` is a stream of events, `shown` has the forms of what the supervisor said, and
//! `link` is the channel.
//!
//! However many readers there are, the supervisor is asked at most once a second, and only if one
//! of them waits for it.

pub mod hosts;
mod link;
mod reader;
pub mod request;
mod response;
mod shown;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use pen_config::acl::Acl;
use pen_config::ids::ClientKey;
use pen_config::settings::Settings;
use pen_ipc::channel::Received;
use pen_ipc::memory;
use pen_ipc::message::ToPage;
use pen_ipc::start::{Hosts, PageStart};
use pen_status::event::EventTime;
use time::OffsetDateTime;

use crate::page::link::SupervisorLink;
use crate::page::reader::{ANSWER_TIME, Idleness, Next, Reader};
use crate::page::request::{Request, Stays};
use crate::page::response::{Code, Response};
use crate::page::shown::{Form, Shown};
use crate::page::stream::{Since, Stream};
use crate::port::{Arrival, Port, Stop, reset};
use crate::ready::begin;

/// The channel to the supervisor is readable or writable.
const CHANNEL: Token = Token(usize::MAX);
/// A reader waits to be accepted.
const LISTENER: Token = Token(usize::MAX - 1);

/// Most readers at once, without those of events. For one more, the idlest is closed.
const READERS: usize = 64;

/// Most readers that have their response and are to close the connection. They come on top.
const ENDING: usize = 64;

/// Most readers of events. They do not count as others do, so that scrapes still work.
const STREAMS: usize = 32;

/// Readers accepted in a row, before the open connections are served.
const ACCEPT_BATCH: usize = 16;

/// Least time between two questions to the supervisor.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait before a message is sent again that the supervisor's queue had no room for.
const RETRY: Duration = Duration::from_millis(100);

/// How long a page process that leaves waits for requests on their way.
const LEAVE_TIME: Duration = Duration::from_secs(1);

/// How old a status may be that a process shows when it leaves.
const LAST_TIME: Duration = Duration::from_secs(5);

/// What a reader waits for.
#[derive(Debug)]
struct Wanted {
    form: Form,
    request: Request,
}

/// The page process and its state.
struct Page {
    poll: Poll,
    port: Port,
    link: SupervisorLink,
    /// The access list in force.
    acl: Acl,
    hosts: Hosts,
    /// By number, that is, in order of arrival.
    readers: BTreeMap<usize, Reader<Wanted>>,
    next_number: usize,
    /// Readers that can go on although no event will report it.
    ready: Vec<usize>,
    /// What the supervisor said last.
    shown: Option<Shown>,
    question: Question,
    /// Another page process serves readers, and this one leaves: when at the latest.
    leaving: Option<Instant>,
}

/// The last question to the supervisor.
#[derive(Debug, Default)]
struct Question {
    serial: u32,
    asked: Option<Instant>,
    state: Answered,
}

/// What became of the last question.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Answered {
    /// Nothing was asked, or there was no status.
    #[default]
    No,
    /// The answer may still come.
    NotYet,
    /// What is shown is the answer.
    Yes,
}

/// Runs the page process until the supervisor tells it to stop or has gone. Returns the exit
/// status.
pub fn run(start: PageStart) -> i32 {
    let PageStart { channel, listener, begins, settings, hosts } = start;
    let listen = |poll: &Poll| Port::new(listener, LISTENER, begins, poll);
    let Some((poll, port)) = begin(&channel, "page", CHANNEL, listen) else { return 1 };
    let mut page = Page {
        poll,
        port,
        link: SupervisorLink::new(channel.into_phase()),
        acl: governing(settings),
        hosts,
        readers: BTreeMap::new(),
        next_number: 0,
        ready: Vec::new(),
        shown: None,
        question: Question::default(),
        leaving: None,
    };
    page.serve()
}

/// The access list for the page.
fn governing(mut settings: Settings) -> Acl {
    settings.acls.get_mut(usize::from(settings.page_acl)).map(std::mem::take).unwrap_or_default()
}

/// The present Unix time in seconds.
fn unix() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// Events from this moment on.
fn from_now_on() -> Since {
    let now = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    Since::Moment(EventTime(u64::try_from(now).unwrap_or(0)))
}

impl Page {
    /// The event loop.
    fn serve(&mut self) -> i32 {
        let mut events = Events::with_capacity(2 * (READERS + STREAMS));
        loop {
            match self.poll.poll(&mut events, self.timeout()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return 1,
            }
            let mut arrivals = false;
            for event in &events {
                match event.token() {
                    CHANNEL => {
                        if let Some(status) = self.handle_messages() {
                            self.readers.values().for_each(Reader::cut_off);
                            return status;
                        }
                    }
                    LISTENER => arrivals = true,
                    Token(number) => self.on_reader(number),
                }
            }
            self.go_on_with_ready();
            let now = Instant::now();
            if arrivals || self.port.due().is_some_and(|at| at <= now) {
                self.accept(now);
            }
            self.look_after_readers(now);
            if self.has_left() {
                return 0;
            }
            if self.ask_if_wanted(now).is_err() || self.link.send_queued().is_err() {
                return 1;
            }
        }
    }

    /// How long the next wait may be.
    fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let deadlines = self.readers.values().map(Reader::deadline);
        let retry = self.link.has_queued().then(|| now + RETRY);
        let question = self.next_question(now);
        let leaving = self.leaving.filter(|until| *until > now);
        let next = deadlines.chain(self.port.due()).chain(retry).chain(question).chain(leaving);
        // mio counts whole milliseconds. One more avoids repeated wake-ups that are too early.
        Some(next.min()?.saturating_duration_since(now) + Duration::from_millis(1))
    }

    /// Reads the supervisor's messages. Some: leave with this exit status.
    fn handle_messages(&mut self) -> Option<i32> {
        loop {
            match self.link.receive() {
                Ok(Received::Message(ToPage::Status { serial }, Some(memory))) => {
                    let Some(shown) = Shown::read(memory, Instant::now()) else { return Some(1) };
                    if serial == self.question.serial {
                        self.show(shown);
                    }
                }
                Ok(Received::Message(ToPage::NoStatus { serial, why }, _)) => {
                    if serial == self.question.serial {
                        self.question.state = Answered::No;
                        self.answer_waiting(|_| Response::line(Code::Unavailable, &why));
                    }
                }
                Ok(Received::Message(ToPage::Settings, Some(memory))) => {
                    let Some(settings) = memory::settings(memory) else { return Some(1) };
                    self.link.applied(settings.generation);
                    self.acl = governing(settings);
                    self.turn_away_refused();
                }
                Ok(Received::Message(ToPage::Begin, _)) => {
                    if self.port.begin(&self.poll).is_err() {
                        return Some(1);
                    }
                }
                Ok(Received::Message(ToPage::Pause, _)) => self.port.pause(&self.poll),
                Ok(Received::Message(ToPage::Leave, _)) => self.leave(),
                Ok(Received::Message(ToPage::Ping { serial }, _)) => self.link.pong(serial),
                // Without the supervisor there is nothing to show.
                Ok(Received::Message(ToPage::Stop, _) | Received::Closed) => return Some(0),
                Ok(Received::Empty) => return None,
                Ok(Received::Message(ToPage::Status { .. } | ToPage::Settings, None)) | Err(_) => {
                    return Some(1);
                }
            }
        }
    }

    /// Shows a new status to all who wait for it.
    fn show(&mut self, shown: Shown) {
        let now = Instant::now();
        self.question.state = Answered::Yes;
        for (number, reader) in &mut self.readers {
            if let Some(stream) = reader.stream() {
                stream.add_events(&shown.status().events, now);
                self.ready.push(*number);
            }
        }
        self.answer_waiting(|form| shown.response(form));
        self.shown = Some(shown);
    }

    /// Responds to all who wait for a status.
    fn answer_waiting(&mut self, response: impl Fn(Form) -> Response) {
        let unix = unix();
        for (number, reader) in &mut self.readers {
            let Some(Wanted { form, request }) = reader.wanted() else { continue };
            let (response, mut request) = (response(*form), request.clone());
            if self.leaving.is_some() {
                request.connection = Stays::Closes;
            }
            reader.respond(&response, &request, unix);
            self.ready.push(*number);
        }
    }

    /// When the supervisor is to be asked, if somebody waits for that.
    fn next_question(&self, now: Instant) -> Option<Instant> {
        let wants = |reader: &Reader<Wanted>| reader.is_streaming() || reader.wanted().is_some();
        if self.leaving.is_some() || !self.readers.values().any(wants) {
            return None;
        }
        let Some(asked) = self.question.asked else { return Some(now) };
        let pause = match self.question.state {
            Answered::No | Answered::Yes => INTERVAL,
            Answered::NotYet => ANSWER_TIME,
        };
        Some(asked + pause)
    }

    /// Asks the supervisor if somebody waits for that and it is time.
    fn ask_if_wanted(&mut self, now: Instant) -> Result<(), pen_ipc::channel::ChannelError> {
        if self.next_question(now).is_none_or(|at| at > now) {
            return Ok(());
        }
        let serial = self.question.serial.wrapping_add(1);
        self.question = Question { serial, asked: Some(now), state: Answered::NotYet };
        self.link.ask(serial).map(drop)
    }

    /// What is shown, if it is not too old. It may be older if nothing newer will come.
    fn fresh(&self, now: Instant) -> Option<&Shown> {
        let is_fresh = self.question.state == Answered::Yes
            && self.question.asked.is_some_and(|asked| now < asked + INTERVAL);
        let is_last = self.leaving.is_some();
        self.shown.as_ref().filter(|shown| is_fresh || is_last && shown.age(now) < LAST_TIME)
    }

    /// Another page process serves readers from now on.
    fn leave(&mut self) {
        self.port.pause(&self.poll);
        let now = Instant::now();
        self.leaving = Some(now + LEAVE_TIME);
        // Their answers would come to nobody: the supervisor is another one.
        let shown = self.shown.take().filter(|shown| shown.age(now) < LAST_TIME);
        self.answer_waiting(|form| match &shown {
            Some(shown) => shown.response(form),
            None => Response::line(Code::Unavailable, UPGRADED),
        });
        self.shown = shown;
        self.readers.values_mut().for_each(Reader::end);
        self.go_on_with_ready();
    }

    /// Whether the process leaves and has no reader any more. Who gets a response gets all of it.
    fn has_left(&self) -> bool {
        self.leaving.is_some() && self.readers.is_empty()
    }

    /// Accepts readers that wait.
    fn accept(&mut self, now: Instant) {
        let (arrivals, stop) = self.port.accept(ACCEPT_BATCH, now);
        for arrival in arrivals {
            self.on_arrival(arrival, now);
        }
        match stop {
            Stop::Short => drop(self.close_idlest(now, |_| true)),
            Stop::Empty | Stop::Enough => {}
        }
    }

    /// Ends the readers whom the access list in force refuses.
    fn turn_away_refused(&mut self) {
        let now = Instant::now();
        let (acl, link) = (&self.acl, &mut self.link);
        self.readers.retain(|_, reader| {
            let permits = acl.permits(reader.peer());
            if !permits {
                link.refused(reader.peer(), now);
                reader.turn_away();
            }
            permits
        });
    }

    /// Adds a reader.
    fn on_arrival(&mut self, Arrival { socket, address }: Arrival, now: Instant) {
        let peer = address.unwrap_or(ClientKey::UNIX);
        if !self.acl.permits(peer) {
            self.link.refused(peer, now);
            reset(&socket);
            return;
        }
        let places = self.readers.values().filter(|reader| reader.has_place()).count();
        let streams = self.readers.values().filter(|reader| reader.is_streaming()).count();
        if self.readers.len() - places - streams >= ENDING {
            self.close_idlest(now, |idleness| idleness == Idleness::Ending);
        }
        let descriptor = socket.as_raw_fd();
        let mut reader = Reader::new(socket, peer, now);
        if places >= READERS && !self.close_idlest(now, |idleness| idleness != Idleness::Ending) {
            reader.refuse(&Response::line(Code::Unavailable, BUSY), unix());
        }
        let number = self.next_number;
        let both = Interest::READABLE | Interest::WRITABLE;
        let mut source = SourceFd(&descriptor);
        if self.poll.registry().register(&mut source, Token(number), both).is_ok() {
            self.next_number += 1;
            self.readers.insert(number, reader);
            self.on_reader(number);
        }
    }

    /// Closes the reader that can be spared best, of those that are idle in such a way. Returns
    /// whether there is one.
    fn close_idlest(&mut self, now: Instant, may_go: impl Fn(Idleness) -> bool) -> bool {
        let idle = self.readers.iter().filter_map(|(number, reader)| {
            let (idleness, since) = reader.idleness(now)?;
            may_go(idleness).then_some((idleness, since, *number))
        });
        let idlest = idle.min().and_then(|(_, _, number)| self.readers.remove(&number));
        idlest.inspect(Reader::cut_off).is_some()
    }

    /// Serves the readers in `ready`.
    fn go_on_with_ready(&mut self) {
        for number in std::mem::take(&mut self.ready) {
            self.on_reader(number);
        }
    }

    /// Serves a reader after an event at its socket, or when it has more to do. A reader that has
    /// left is ignored.
    fn on_reader(&mut self, number: usize) {
        // So that a reader with many requests does not hold up the others.
        for _ in 0..REQUESTS {
            let Some(reader) = self.readers.get_mut(&number) else { return };
            match reader.go_on(unix()) {
                Next::Wait => return,
                Next::Again => break,
                Next::Request(request) => self.on_request(number, request),
            }
        }
        self.ready.push(number);
    }

    /// Responds to a request, or has its reader wait.
    fn on_request(&mut self, number: usize, mut request: Request) {
        if self.leaving.is_some() {
            request.connection = Stays::Closes;
        }
        let now = Instant::now();
        let host = request.host.as_deref();
        if !host.is_none_or(|host| hosts::may_ask(&self.hosts, host)) {
            return self.respond(number, &request, &Response::line(Code::MisdirectedRequest, HOST));
        }
        if request.path == "/events" {
            return self.on_event_reader(number, request, now);
        }
        let Some(form) = Form::at(&request.path, &request.accept) else {
            return self.respond(number, &request, &Response::line(Code::NotFound, NO_PAGE));
        };
        match self.fresh(now).map(|shown| shown.response(form)) {
            Some(response) => self.respond(number, &request, &response),
            None if self.leaving.is_some() => {
                let gone = Response::line(Code::Unavailable, UPGRADED);
                self.respond(number, &request, &gone);
            }
            None => {
                if let Some(reader) = self.readers.get_mut(&number) {
                    reader.wait(Wanted { form, request });
                }
            }
        }
    }

    /// Begins to stream events to a reader.
    fn on_event_reader(&mut self, number: usize, mut request: Request, now: Instant) {
        let streams = self.readers.values().filter(|reader| reader.is_streaming()).count();
        if self.leaving.is_some() || streams >= STREAMS {
            let busy = Response::line(Code::Unavailable, MANY_STREAMS);
            return self.respond(number, &request, &busy);
        }
        match request.method {
            request::Method::Get => {
                if let Some(reader) = self.readers.get_mut(&number) {
                    let since = request.last_event.map_or_else(from_now_on, Since::Event);
                    reader.begin_stream(Stream::new(since, unix(), now));
                }
            }
            request::Method::Head => {
                request.connection = Stays::Closes;
                let empty = Response::shown(response::Content::Events, std::rc::Rc::default());
                self.respond(number, &request, &empty);
            }
        }
    }

    fn respond(&mut self, number: usize, request: &Request, response: &Response) {
        if let Some(reader) = self.readers.get_mut(&number) {
            reader.respond(response, request, unix());
        }
    }

    /// Ends the readers whose time is up, and keeps streams alive.
    fn look_after_readers(&mut self, now: Instant) {
        let unix = unix();
        let mut served = Vec::new();
        for (number, reader) in &mut self.readers {
            if let Some(stream) = reader.stream() {
                stream.comment(now);
                if stream.is_behind() {
                    reader.end();
                    continue;
                }
                if !stream.pending().is_empty() {
                    served.push(*number);
                }
                reader.keep_stream(now);
            }
            if reader.deadline() <= now {
                match reader.wanted().map(|wanted| wanted.request.clone()) {
                    Some(request) => {
                        let late = Response::line(Code::Unavailable, NO_ANSWER);
                        reader.respond(&late, &request, unix);
                    }
                    None => reader.expire(unix),
                }
                served.push(*number);
            }
        }
        served.into_iter().for_each(|number| self.on_reader(number));
        // Whoever has sent no request by then comes to the other process.
        let is_late = self.leaving.is_some_and(|until| until <= now);
        self.readers
            .retain(|_, reader| !(reader.is_over() || is_late && reader.is_without_response()));
    }
}

/// Most requests of one reader in one turn.
const REQUESTS: usize = 8;

const NO_PAGE: &str = "there is no such page; there are /, /metrics, /status.json, /events and \
                       /health";
const HOST: &str = "the page is not asked for by this name: use the address, or say \
                    page NAME:PORT in pen's configuration";
const BUSY: &str = "too many readers at once";
const MANY_STREAMS: &str = "too many readers of events";
const NO_ANSWER: &str = "pen's supervisor does not answer";
const UPGRADED: &str = "pen is being upgraded";
