//! Real servers in threads of the test.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use socket2::{Domain, SockAddr, Socket, Type};

use super::super::port::Port;
use super::super::wait::{PATIENCE, eventually};

/// The function that serves a connection. When it returns, the connection is closed.
pub type Behaviour = dyn Fn(&Socket) -> io::Result<()> + Send + Sync;

/// A server. While it is down its port refuses connections, because the port stays reserved.
pub struct Backend {
    place: Place,
    shared: Arc<Shared>,
    listener: Mutex<Option<Socket>>,
}

enum Place {
    Tcp(Port),
    Unix(PathBuf),
}

struct Shared {
    behave: Box<Behaviour>,
    accepted: AtomicUsize,
    open: Mutex<Vec<(usize, Socket)>>,
}

impl Backend {
    /// A server that sends `name` in a line and then echoes its input until end of file.
    pub fn named(name: &str) -> Backend {
        Backend::named_on(Ipv4Addr::LOCALHOST.into(), name)
    }

    /// [`Backend::named`] at another address of this machine.
    pub fn named_on(ip: IpAddr, name: &str) -> Backend {
        Backend::with_on(ip, greeter(name))
    }

    /// [`Backend::named`] at a Unix socket.
    pub fn named_unix(path: &Path, name: &str) -> Backend {
        Backend::at(Place::Unix(path.to_path_buf()), Box::new(greeter(name)))
    }

    /// A server with the given behaviour.
    pub fn with(behave: impl Fn(&Socket) -> io::Result<()> + Send + Sync + 'static) -> Backend {
        Backend::with_on(Ipv4Addr::LOCALHOST.into(), behave)
    }

    /// [`Backend::with`] at another address of this machine.
    pub fn with_on(
        ip: IpAddr,
        behave: impl Fn(&Socket) -> io::Result<()> + Send + Sync + 'static,
    ) -> Backend {
        Backend::at(Place::Tcp(Port::reserve_on(ip)), Box::new(behave))
    }

    /// [`Backend::named`] at a port that the test has reserved.
    pub fn named_at(port: Port, name: &str) -> Backend {
        Backend::at(Place::Tcp(port), Box::new(greeter(name)))
    }

    /// [`Backend::with`] at a Unix socket.
    pub fn with_unix(
        path: &Path,
        behave: impl Fn(&Socket) -> io::Result<()> + Send + Sync + 'static,
    ) -> Backend {
        Backend::at(Place::Unix(path.to_path_buf()), Box::new(behave))
    }

    /// One server for each name.
    pub fn farm<const N: usize>(names: [&str; N]) -> [Backend; N] {
        names.map(Backend::named)
    }

    /// A server that is down: its port is reserved and refuses until [`Backend::start`].
    pub fn down(name: &str) -> Backend {
        let backend = Backend::named(name);
        backend.stop();
        backend
    }

    fn at(place: Place, behave: Box<Behaviour>) -> Backend {
        let shared = Shared { behave, accepted: AtomicUsize::new(0), open: Mutex::default() };
        let backend = Backend { place, shared: Arc::new(shared), listener: Mutex::new(None) };
        backend.start();
        backend
    }

    /// Starts listening (again).
    pub fn start(&self) {
        let listener = match &self.place {
            Place::Tcp(port) => {
                let socket =
                    Socket::new(Domain::for_address(port.address()), Type::STREAM, None).unwrap();
                socket.set_reuse_address(true).unwrap();
                socket.bind(&port.address().into()).unwrap();
                socket
            }
            Place::Unix(path) => {
                let _ = std::fs::remove_file(path);
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
                socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
                socket
            }
        };
        listener.listen(1024).unwrap();
        let shared = self.shared.clone();
        let accepting = listener.try_clone().unwrap();
        thread::spawn(move || {
            // shutdown(2) on a listening socket makes accept(2) fail, which ends this loop.
            while let Ok((connection, _)) = accepting.accept() {
                let shared = shared.clone();
                thread::spawn(move || shared.serve(&connection));
            }
        });
        *self.listener.lock().unwrap() = Some(listener);
    }

    /// Stops listening: the port refuses from now on. Open connections continue.
    pub fn stop(&self) {
        if let Some(listener) = self.listener.lock().unwrap().take() {
            let _ = listener.shutdown(Shutdown::Both);
        }
        if let Place::Tcp(port) = &self.place {
            let address = port.address();
            eventually("a stopped backend refuses", || {
                std::net::TcpStream::connect(address).is_err()
            });
        }
    }

    /// Stops listening and closes every open connection.
    pub fn die(&self) {
        self.stop();
        for (_, connection) in self.shared.open.lock().unwrap().iter() {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// The address as a server operand of pen.
    pub fn operand(&self) -> String {
        match &self.place {
            Place::Tcp(port) => port.address().to_string(),
            Place::Unix(path) => path.to_str().unwrap().to_string(),
        }
    }

    /// The address.
    pub fn address(&self) -> SocketAddr {
        match &self.place {
            Place::Tcp(port) => port.address(),
            Place::Unix(path) => panic!("{} is no TCP address", path.display()),
        }
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.lock().unwrap().take() {
            let _ = listener.shutdown(Shutdown::Both);
        }
        for (_, connection) in self.shared.open.lock().unwrap().iter() {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn serve(&self, connection: &Socket) {
        let number = self.accepted.fetch_add(1, SeqCst);
        let Ok(twin) = connection.try_clone() else { return };
        self.open.lock().unwrap().push((number, twin));
        // A backend waits for its client as long as a test may last, but not for ever.
        let _ = connection.set_read_timeout(Some(PATIENCE * 2));
        let _ = connection.set_write_timeout(Some(PATIENCE * 2));
        let _ = (self.behave)(connection);
        self.open.lock().unwrap().retain(|(other, _)| *other != number);
    }
}

/// The behaviour of [`Backend::named`].
pub fn greeter(name: &str) -> impl Fn(&Socket) -> io::Result<()> + Send + Sync + 'static {
    let greeting = format!("{name}\n");
    move |mut connection| {
        connection.write_all(greeting.as_bytes())?;
        echo(connection)
    }
}

/// Sends its input back until end of file.
pub fn echo(mut connection: &Socket) -> io::Result<()> {
    let mut buffer = vec![0; 65536];
    loop {
        match connection.read(&mut buffer)? {
            0 => return Ok(()),
            read => connection.write_all(&buffer[..read])?,
        }
    }
}

/// A gate at which backends wait until the test opens it.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// A closed gate.
    pub fn closed() -> Gate {
        Gate::default()
    }

    /// Lets all threads pass from now on.
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open.
    pub fn pass(&self) {
        let (open, news) = &*self.0;
        drop(news.wait_timeout_while(open.lock().unwrap(), PATIENCE * 2, |open| !*open).unwrap());
    }
}

/// A server that never answers: its accept queue is full, so the kernel drops every connect.
pub struct Blackhole {
    listener: Socket,
    fillers: Vec<Socket>,
}

impl Blackhole {
    /// Makes a black hole on a port.
    pub fn on(port: &Port) -> Blackhole {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.set_reuse_address(true).unwrap();
        listener.bind(&port.address().into()).unwrap();
        listener.listen(0).unwrap();
        let fillers = (0..4)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.connect(&port.address().into());
                socket
            })
            .collect();
        Blackhole { listener, fillers }
    }

    /// Starts to accept: pending connects succeed when the kernel repeats them, and `behave` serves
    /// them.
    pub fn revive(
        self,
        behave: impl Fn(&Socket) -> io::Result<()> + Send + Sync + 'static,
    ) -> Revived {
        drop(self.fillers);
        self.listener.listen(1024).unwrap();
        let accepting = self.listener.try_clone().unwrap();
        thread::spawn(move || {
            while let Ok((connection, _)) = accepting.accept() {
                let _ = connection.set_read_timeout(Some(PATIENCE));
                let _ = behave(&connection);
            }
        });
        Revived(self.listener)
    }
}

/// A [`Blackhole`] that now serves, one connection after the other.
pub struct Revived(Socket);

impl Drop for Revived {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
