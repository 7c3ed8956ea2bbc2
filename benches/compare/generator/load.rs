//! The clients: many connections at once, each repeating the same steps.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::time::Timespec;

use super::link::{Link, Sessions, Tls};
use super::request::{Kind, Request};
use super::times::Times;

const BUFFER: usize = 1 << 20;

/// Milliseconds that connections may take after the end of the run.
const PATIENCE: u64 = 5000;

/// The kind of work of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Work {
    /// One request each.
    Short,
    /// One request after the other.
    Requests,
    /// Reading for ever.
    Down,
    /// Writing for ever.
    Up,
    /// One request, and then no traffic.
    Hold,
}

/// A load, as the command line gives it.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub work: Work,
    pub address: SocketAddrV4,
    pub at_once: usize,
    pub milliseconds: u64,
    pub units: u64,
    pub clients: u32,
    pub bytes: usize,
    pub pieces: u8,
    pub rate: Option<u64>,
    pub tls: Option<Tls>,
}

struct Client {
    link: Link,
    began: Instant,
    has_asked: bool,
    got: usize,
    is_silent: bool,
}

/// The result of an event on a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    /// The connection continues.
    Waits,
    /// A unit is done, and the connection is finished.
    Done,
    /// The connection failed.
    Failed,
}

struct Run<'l> {
    load: &'l Load,
    epoll: OwnedFd,
    sessions: Option<Sessions>,
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    open: usize,
    started: u64,
    done: u64,
    failed: u64,
    resumed: u64,
    bytes: u64,
    times: Times,
    buffer: Vec<u8>,
    request: [u8; super::request::LENGTH],
}

impl Load {
    /// Runs the load, and returns the results in JSON.
    pub fn run(&self) -> String {
        let kind = match self.work {
            Work::Short => Kind::Close,
            Work::Requests | Work::Hold => Kind::Keep,
            Work::Down => Kind::Stream,
            Work::Up => Kind::Discard,
        };
        let mut run = Run {
            load: self,
            epoll: epoll::create(CreateFlags::CLOEXEC).unwrap(),
            sessions: self.tls.map(Sessions::new),
            clients: Vec::new(),
            free: Vec::new(),
            open: 0,
            started: 0,
            done: 0,
            failed: 0,
            resumed: 0,
            bytes: 0,
            times: Times::default(),
            buffer: vec![b'u'; BUFFER],
            request: Request { kind, bytes: self.bytes, pieces: self.pieces }.encode(),
        };
        let began = Instant::now();
        run.go(began);
        let seconds = began.elapsed().as_secs_f64();
        if self.work == Work::Hold {
            println!("{{\"held\":{},\"errors\":{}}}", run.open, run.failed);
            let _ = std::io::stdin().read(&mut [0]);
        }
        let times = &run.times;
        format!(
            "{{\"units\":{},\"errors\":{},\"resumed\":{},\"bytes\":{},\"seconds\":{seconds:.4},\
             \"p50\":{},\"p99\":{},\"p999\":{},\"most\":{}}}",
            run.done,
            run.failed,
            run.resumed,
            run.bytes,
            times.quantile(0.5),
            times.quantile(0.99),
            times.quantile(0.999),
            times.most(),
        )
    }
}

impl Run<'_> {
    fn go(&mut self, began: Instant) {
        let end = began + Duration::from_millis(self.load.milliseconds);
        let mut events = Vec::with_capacity(512);
        loop {
            let now = Instant::now();
            let is_over = now >= end
                || (self.load.work == Work::Hold && self.done >= self.load.at_once as u64);
            if !is_over {
                self.start(now.duration_since(began));
            }
            let may_end = match self.load.work {
                Work::Short => is_over || self.started >= self.load.units,
                _ => is_over || self.done >= self.load.units,
            };
            let is_patient = now < end + Duration::from_millis(PATIENCE);
            if may_end && (self.open == 0 || self.load.work != Work::Short || !is_patient) {
                // A connection without an answer by now has failed.
                self.failed += if self.load.work == Work::Short { self.open as u64 } else { 0 };
                return;
            }
            let wait = if self.load.rate.is_some() { 1 } else { 20 };
            let timeout = Timespec { tv_sec: 0, tv_nsec: wait * 1_000_000 };
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&timeout),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => panic!("epoll_wait: {errno}"),
            }
            for event in events.drain(..) {
                self.on_event(event.data.u64() as usize);
            }
        }
    }

    /// Opens the connections that are missing now.
    fn start(&mut self, elapsed: Duration) {
        let wanted = match (self.load.work, self.load.rate) {
            (Work::Short, Some(rate)) => {
                (elapsed.as_micros() as u64 * rate / 1_000_000).saturating_sub(self.started)
            }
            (Work::Hold, _) => {
                // A few at a time, because this does not measure the opening rate.
                let missing = self.load.at_once as u64 - self.started.min(self.load.at_once as u64);
                missing.min(64 - (self.started - self.done - self.failed).min(64))
            }
            _ => (self.load.at_once - self.open.min(self.load.at_once)) as u64,
        };
        let most = if self.load.work == Work::Short {
            self.load.units - self.started.min(self.load.units)
        } else {
            u64::MAX
        };
        for _ in 0..wanted.min(most) {
            self.connect();
        }
    }

    fn connect(&mut self) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        let number = self.started as u32 % self.load.clients.max(1);
        self.started += 1;
        if self.load.clients > 1 {
            let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
            rustix::net::bind(&socket, &SocketAddrV4::new((first + number).into(), 0)).unwrap();
        }
        match rustix::net::connect(&socket, &self.load.address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(_) => {
                self.failed += 1;
                return;
            }
        }
        let place = self.free.pop().unwrap_or(self.clients.len());
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &socket, EventData::new_u64(place as u64), flags).unwrap();
        let link =
            Link::new(socket, self.sessions.as_mut().map(|sessions| sessions.session(place)));
        let client =
            Client { link, began: Instant::now(), has_asked: false, got: 0, is_silent: false };
        match self.clients.get_mut(place) {
            Some(free) => *free = Some(client),
            None => self.clients.push(Some(client)),
        }
        self.open += 1;
    }

    fn on_event(&mut self, place: usize) {
        let Some(mut client) = self.clients[place].take() else { return };
        match self.go_on(&mut client) {
            Outcome::Waits => return self.clients[place] = Some(client),
            Outcome::Done => {}
            Outcome::Failed => self.failed += 1,
        }
        self.open -= 1;
        self.free.push(place);
    }

    fn go_on(&mut self, client: &mut Client) -> Outcome {
        loop {
            if !client.has_asked {
                match client.link.send(&self.request) {
                    Ok(_) => client.has_asked = true,
                    Err(Errno::AGAIN) => return Outcome::Waits,
                    Err(_) => return Outcome::Failed,
                }
            }
            if self.load.work == Work::Up {
                match client.link.send(&self.buffer) {
                    Ok(length) => {
                        self.bytes += length as u64;
                        continue;
                    }
                    Err(Errno::AGAIN) => return Outcome::Waits,
                    Err(_) => return Outcome::Failed,
                }
            }
            match client.link.receive(&mut self.buffer, self.load.work == Work::Down) {
                Ok(0) if self.load.work == Work::Short && client.got == self.load.bytes => {
                    self.unit(client);
                    return Outcome::Done;
                }
                Ok(0) => return Outcome::Failed,
                Ok(length) => {
                    client.got += length;
                    self.bytes += length as u64;
                }
                Err(Errno::AGAIN) => return Outcome::Waits,
                Err(_) => return Outcome::Failed,
            }
            if client.got == self.load.bytes
                && matches!(self.load.work, Work::Requests | Work::Hold)
                && !client.is_silent
            {
                self.unit(client);
                client.is_silent = self.load.work == Work::Hold;
                if !client.is_silent {
                    (client.got, client.has_asked, client.began) = (0, false, Instant::now());
                }
            }
        }
    }

    fn unit(&mut self, client: &Client) {
        self.done += 1;
        self.resumed += u64::from(client.link.is_resumed());
        self.times.add(client.began.elapsed().as_micros() as u64);
    }
}
