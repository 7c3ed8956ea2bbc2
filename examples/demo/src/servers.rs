//! Three small web servers in this process. Each answers with its name, and can be stopped and
//! started again.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use socket2::Socket;

use crate::LIMIT;

/// A web server that answers only with its name.
pub struct Server {
    /// The name in its answers.
    pub name: &'static str,
    /// Its listen address; the same after a restart.
    pub address: SocketAddr,
    running: Option<Running>,
}

struct Running {
    listener: TcpListener,
    thread: thread::JoinHandle<()>,
}

impl Server {
    /// Starts a server on a port that the kernel chooses.
    pub fn start(name: &'static str) -> io::Result<Server> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let mut server = Server { name, address, running: None };
        server.serve(listener)?;
        Ok(server)
    }

    fn serve(&mut self, listener: TcpListener) -> io::Result<()> {
        let (accepting, name) = (listener.try_clone()?, self.name);
        let thread = thread::spawn(move || {
            // accept(2) fails, and the thread ends, when the listener is shut down.
            while let Ok((connection, _)) = accepting.accept() {
                thread::spawn(move || answer(connection, name));
            }
        });
        self.running = Some(Running { listener, thread });
        Ok(())
    }

    /// Whether it listens.
    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// Stops listening: new connections are refused.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            // The thread and this function close the listener. If shutdown(2) fails, nothing more
            // can be done.
            let _ = Socket::from(running.listener).shutdown(Shutdown::Both);
            let _ = running.thread.join();
        }
    }

    /// Listens again at the same address.
    pub fn restart(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address)?;
        self.serve(listener)
    }
}

/// Answers one request and closes. A request for `/hold` gets a line, and one more for each line
/// that the client sends, until the client leaves.
fn answer(mut connection: TcpStream, name: &str) -> io::Result<()> {
    connection.set_read_timeout(Some(LIMIT))?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    if request.starts_with(b"GET /hold ") {
        connection.set_read_timeout(None)?;
        writeln!(connection, "{name}")?;
        return io::copy(&mut connection.try_clone()?, &mut connection).map(drop);
    }
    let length = name.len();
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}"
    )
}
