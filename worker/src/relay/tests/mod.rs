//! A whole worker in a thread, with real sockets. The test plays its supervisor.

mod closes;
pub(crate) mod commands;
mod drain;
mod hold;
mod limits;
mod lives;
mod rebalance;
mod statistics;
mod transport;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pen_config::address::Address;
use pen_config::ids::{ClientKey, WorkerId};
use pen_config::settings::{Server, Settings};
use pen_ipc::channel::{Channel, Received, Sent};
use pen_ipc::codec::encode_settings;
use pen_ipc::message::{
    Event, FromStartingWorker, FromWorker, LastingFromWorker, LastingToWorker, ToWorker,
};
use pen_ipc::start::{Begins, DebugOutput, WorkerStart};
use pen_ipc::stats::ConnectionInfo;
use pen_table::{Shape, Table, WorkerTable};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::waiting::{self, PATIENCE};

struct Rig {
    channel: Channel<ToWorker, FromWorker>,
    address: SocketAddr,
    table: &'static Table,
    /// The eventfd that wakes all workers.
    freed: OwnedFd,
    /// The eventfd that wakes one worker that waits for a connection number.
    vacancy: OwnedFd,
    settings: Settings,
    thread: Option<JoinHandle<i32>>,
    /// Events of the worker so far.
    events: Vec<Event>,
}

impl Rig {
    fn start(settings: Settings) -> Rig {
        Rig::start_among(1, settings)
    }

    /// Starts the first of `workers` workers; the test plays the others.
    fn start_among(workers: u32, settings: Settings) -> Rig {
        Rig::start_with(workers, settings, |_| {})
    }

    /// Starts the first of `workers` workers with changed resources.
    fn start_with(workers: u32, settings: Settings, change: impl FnOnce(&mut WorkerStart)) -> Rig {
        let servers = settings.table_size() + 2;
        let shape = Shape { clients: 64, servers, rows: workers, connections: 64 };
        let table: &Table = Box::leak(Box::new(Table::create(shape).unwrap()));
        (0..workers).for_each(|row| table.use_row(row));
        let (ours, theirs) = Channel::<ToWorker, FromStartingWorker>::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let freed =
            rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
        let vacancy =
            rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
        let mut start = WorkerStart {
            id: WorkerId(0),
            workers,
            row: 0,
            begins: Begins::AtOnce,
            channel: theirs,
            listener: listener.into(),
            freed: freed.try_clone().unwrap(),
            vacancy: vacancy.try_clone().unwrap(),
            settings: settings.clone(),
            log: None,
            connection_log: None,
            tls: None,
            server_tls: None,
            debug: DebugOutput::Syslog(None),
            descriptor_limit: 1024,
            host: "host".into(),
            utc_offset: |_| 0,
        };
        change(&mut start);
        let thread = std::thread::spawn(move || crate::relay::run(start, table));
        wait_readable(&ours);
        assert!(matches!(
            ours.receive().unwrap(),
            Received::Message(FromStartingWorker::Ready, None)
        ));
        let channel = ours.into_phase();
        Rig {
            channel,
            address,
            table,
            freed,
            vacancy,
            settings,
            thread: Some(thread),
            events: Vec::new(),
        }
    }

    fn send(&self, order: &ToWorker, descriptor: Option<&OwnedFd>) {
        assert_eq!(self.channel.send(order, descriptor.map(AsFd::as_fd)).unwrap(), Sent::Queued);
    }

    /// The next answer to a command.
    fn answer(&mut self) -> FromWorker {
        loop {
            wait_readable(&self.channel);
            match self.channel.receive().unwrap() {
                Received::Empty => {}
                Received::Message(FromWorker::Lasting(LastingFromWorker::Counters(_)), _) => {}
                Received::Message(FromWorker::Lasting(LastingFromWorker::Event(event)), _) => {
                    self.events.push(event)
                }
                Received::Message(answer, _) => return answer,
                Received::Closed => panic!("the worker left"),
            }
        }
    }

    /// Applies changed settings.
    fn apply(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.settings.generation += 1;
        self.send(&ToWorker::Settings, Some(&memory(&encode_settings(&self.settings).unwrap())));
        assert_eq!(self.answer(), FromWorker::Applied { generation: self.settings.generation });
    }

    fn report(&mut self) -> Vec<ConnectionInfo> {
        self.send(&ToWorker::Report { serial: 1 }, None);
        match self.answer() {
            FromWorker::Report(page) => page.connections,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the report meets a condition.
    fn report_until(&mut self, wanted: impl Fn(&[ConnectionInfo]) -> bool) -> Vec<ConnectionInfo> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = self.report();
            if wanted(&report) {
                return report;
            }
            assert!(Instant::now() < deadline, "{report:?}");
            std::thread::yield_now();
        }
    }

    fn explain(&mut self, client: &str) -> String {
        let client = ClientKey::from_ip(client.parse().unwrap()).bytes();
        self.send(&ToWorker::Explain { serial: 5, client }, None);
        match self.answer() {
            FromWorker::Explained { serial: 5, text } => text,
            other => panic!("{other:?}"),
        }
    }

    /// A sibling that the test plays, and the number of its connection. It is the only number under
    /// `-x`.
    fn sibling_with_the_only_place(&self) -> (WorkerTable<'static>, u32) {
        let sibling = self.table.worker_table(1);
        let number = sibling.claim_connection(1).unwrap();
        (sibling, number)
    }

    /// Waits until the worker has found no connection number for a client, and waits for the
    /// sibling's.
    fn wait_until_it_waits(&mut self, sibling: &WorkerTable<'_>) {
        let deadline = Instant::now() + PATIENCE;
        // Releasing a second number, which the worker may not have, tells whether a worker waits,
        // and frees no number for it.
        while !sibling.claim_connection(2).is_some_and(|second| sibling.release_connection(second))
        {
            assert!(Instant::now() < deadline, "nobody waits");
            std::thread::yield_now();
        }
        // The worker answers after the work that set its waiting flag, a last try included.
        self.report();
    }

    fn client(&self) -> TcpStream {
        patient(TcpStream::connect(self.address).unwrap())
    }

    /// The exit status of a worker that leaves by itself.
    fn status(mut self) -> i32 {
        self.wait_for_end()
    }

    /// Waits until the worker has left by itself, and returns its exit status.
    fn wait_for_end(&mut self) -> i32 {
        let thread = self.thread.take().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !thread.is_finished() {
            assert!(Instant::now() < deadline, "the worker goes on");
            std::thread::yield_now();
        }
        thread.join().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.channel.send(&LastingToWorker::Stop.into(), None);
            let status = thread.join();
            assert!(std::thread::panicking() || matches!(status, Ok(0)), "{status:?}");
        }
    }
}

/// An epoll descriptor that watches a listener as a worker does.
fn watching(listener: &TcpListener) -> OwnedFd {
    let sibling = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let flags = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
    epoll::add(&sibling, listener, epoll::EventData::new_u64(0), flags).unwrap();
    sibling
}

/// A thread that sleeps until the kernel wakes it. It returns the number of events.
fn sleeping(sibling: OwnedFd) -> JoinHandle<usize> {
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        tell.send(rustix::thread::gettid()).unwrap();
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let mut events = Vec::with_capacity(1);
        epoll::wait(&sibling, rustix::buffer::spare_capacity(&mut events), Some(&patience)).unwrap()
    });
    let status = format!("/proc/self/task/{}/stat", told.recv().unwrap().as_raw_nonzero());
    while !std::fs::read_to_string(&status).unwrap().contains(") S ") {
        std::thread::yield_now();
    }
    thread
}

#[track_caller]
fn wait_readable(socket: &impl AsFd) {
    waiting::readable(&[socket]);
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn memory(bytes: &[u8]) -> OwnedFd {
    let memory = memfd_create("settings", MemfdFlags::CLOEXEC).unwrap();
    assert_eq!(rustix::io::write(&memory, bytes).unwrap(), bytes.len());
    memory
}

/// A server that the test plays.
struct Backend {
    listener: TcpListener,
}

impl Backend {
    fn new() -> Backend {
        Backend { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    fn definition(&self) -> Option<Server> {
        Some(at(self.listener.local_addr().unwrap()))
    }

    fn accept(&self) -> TcpStream {
        wait_readable(&self.listener);
        patient(self.listener.accept().unwrap().0)
    }
}

/// A server that neither accepts nor refuses: its backlog is full.
struct Deaf {
    address: SocketAddr,
    listener: OwnedFd,
    /// The clients in its backlog, and those that wait for a place there.
    clients: Vec<OwnedFd>,
}

impl Deaf {
    fn new() -> Deaf {
        use rustix::net::{
            AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, listen, socket_with,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = || socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        let listener = socket();
        bind(&listener, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
        listen(&listener, 0).unwrap();
        let address = SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
        let mut clients = Vec::new();
        for _ in 0..4 {
            let client = socket();
            let _ = connect(&client, &address);
            clients.push(client);
        }
        Deaf { address, listener, clients }
    }

    fn definition(&self) -> Option<Server> {
        Some(at(self.address))
    }

    /// Sends its clients away, and accepts the next one.
    fn hear(self) -> TcpStream {
        self.open().1
    }

    /// The same; it goes on to listen.
    fn open(self) -> (TcpListener, TcpStream) {
        let own: Vec<Option<SocketAddr>> = self.clients.iter().map(name_of).collect();
        drop(self.clients);
        let listener = TcpListener::from(self.listener);
        loop {
            wait_readable(&listener);
            let (stream, from) = listener.accept().unwrap();
            if !own.contains(&Some(from)) {
                stream.set_nonblocking(false).unwrap();
                return (listener, patient(stream));
            }
        }
    }
}

/// The local address of a socket.
fn name_of(socket: &OwnedFd) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(socket).ok()?).ok()
}

fn at(address: SocketAddr) -> Server {
    Server::at(Address::Inet(address))
}

/// Settings with some servers in a table of four.
fn settings<const N: usize>(servers: [Option<Server>; N]) -> Settings {
    let mut servers = Vec::from(servers);
    servers.resize(4, None);
    Settings { servers, connections_max: 64, ..Settings::default() }
}

/// Both ends of a relayed connection, with a byte passed each way.
fn connected(rig: &Rig, backend: &Backend) -> (TcpStream, TcpStream) {
    let mut client = rig.client();
    client.write_all(b"?").unwrap();
    let mut server = backend.accept();
    assert_eq!(read(&mut server, 1), b"?");
    server.write_all(b"!").unwrap();
    assert_eq!(read(&mut client, 1), b"!");
    (client, server)
}

fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// How a stream ends: what comes before, and whether it was reset.
fn end_of(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => (bytes, false),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => (bytes, true),
        Err(error) => panic!("{error}"),
    }
}
