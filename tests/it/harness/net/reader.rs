//! Readers of pen's page: plain HTTP over a socket.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::super::port::Port;
use super::super::wait::PATIENCE;

/// Where the page is.
#[derive(Debug)]
pub enum Site {
    /// At a port of 127.0.0.1.
    Tcp(Port),
    /// At a Unix socket.
    Unix(PathBuf),
}

/// A response.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// A connection to the page.
#[derive(Debug)]
pub struct Reader(Socket);

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Site {
    /// A free port.
    pub fn reserve() -> Site {
        Site::Tcp(Port::reserve())
    }

    /// The command that serves the page there.
    pub fn command(&self) -> String {
        match self {
            Site::Tcp(port) => format!("page {}", port.address()),
            Site::Unix(path) => format!("page {}", path.display()),
        }
    }

    /// The address of the port.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        match self {
            Site::Tcp(port) => port.address(),
            Site::Unix(path) => panic!("{} has no address", path.display()),
        }
    }

    /// Connects a reader.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(&self) -> io::Result<Reader> {
        Ok(Reader(match self {
            Site::Tcp(port) => {
                let socket = TcpStream::connect(port.address())?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Socket::Tcp(socket)
            }
            Site::Unix(path) => {
                let socket = UnixStream::connect(path)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Socket::Unix(socket)
            }
        }))
    }

    /// Asks for a path, on a connection of its own.
    ///
    /// # Errors
    /// There is no whole answer.
    pub fn try_get(&self, path: &str) -> io::Result<Answer> {
        let mut reader = self.connect()?;
        reader.ask(path)?;
        reader.answer()
    }

    /// [`Site::try_get`], which must succeed.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.try_get(path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The present `/status.json`.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        let answer = self.get("/status.json");
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str(&answer.body).unwrap()
    }
}

impl Reader {
    /// Sends bytes.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.write_all(bytes.as_ref())
    }

    /// Sends a request.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn ask(&mut self, path: &str) -> io::Result<()> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: pen\r\n\r\n"))
    }

    /// Reads the next answer.
    ///
    /// # Errors
    /// There is no whole one.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let head = self.head()?;
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let mut body = vec![0; length.unwrap_or("0").parse().unwrap()];
        self.read_exact(&mut body)?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Ok(Answer { status, head, body: String::from_utf8(body).unwrap() })
    }

    /// Reads the next head.
    ///
    /// # Errors
    /// There is no whole one.
    pub fn head(&mut self) -> io::Result<String> {
        self.until("\r\n\r\n")
    }

    /// Reads until this text has come.
    ///
    /// # Errors
    /// The connection ends before.
    pub fn until(&mut self, end: &str) -> io::Result<String> {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            let mut byte = [0];
            self.read_exact(&mut byte)?;
            text.push(byte[0]);
        }
        Ok(String::from_utf8(text).unwrap())
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Socket::Tcp(socket) => socket.read(buffer),
            Socket::Unix(socket) => socket.read(buffer),
        }
    }
}

impl Write for Reader {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Socket::Tcp(socket) => socket.write(buffer),
            Socket::Unix(socket) => socket.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
