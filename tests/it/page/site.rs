//! Serves the page of a state that the test makes up, as the page process does.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use pen_status::{Status, page};

/// How a [`Site`] answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// With the page.
    Serves,
    /// With status 503.
    Unavailable,
    /// Not at all: it closes the connection.
    Gone,
    /// With the page of another release, which has another script.
    OtherRelease,
    /// It ends.
    Ends,
}

/// A server on the loopback network. It ends with this value.
pub struct Site {
    address: SocketAddr,
    state: Arc<Mutex<(Status, Mode)>>,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    /// Serves the page of a state.
    pub fn serve(status: Status) -> Site {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new((status, Mode::Serves)));
        let states = Arc::clone(&state);
        let thread = thread::spawn(move || {
            for client in listener.incoming() {
                let (status, mode) = states.lock().unwrap().clone();
                if mode == Mode::Ends {
                    break;
                }
                // A browser may close a connection that it opened in advance.
                let _ = answer(client.unwrap(), &status, mode);
            }
        });
        Site { address, state, thread: Some(thread) }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Changes the state from now on.
    pub fn change(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.state.lock().unwrap().0);
    }

    /// Answers in this way from now on.
    pub fn answer(&self, mode: Mode) {
        self.state.lock().unwrap().1 = mode;
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.answer(Mode::Ends);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

fn answer(client: TcpStream, status: &Status, mode: Mode) -> std::io::Result<()> {
    client.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    let mut reader = BufReader::new(client);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut line = String::from("-");
    while !line.trim_end().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
    }
    let mut client = reader.into_inner();
    let policy = page::CONTENT_SECURITY_POLICY;
    let (code, kind, body) = match mode {
        Mode::Gone | Mode::Ends => return Ok(()),
        Mode::Unavailable => ("503 Service Unavailable", "text/plain", "not now".to_owned()),
        Mode::Serves if request.starts_with("GET / ") => {
            ("200 OK", "text/html; charset=utf-8", page::render(status))
        }
        Mode::Serves if request.starts_with("GET /status.json ") => {
            ("200 OK", "application/json", serde_json::to_string(status).unwrap())
        }
        Mode::Serves => ("404 Not Found", "text/plain", "no such page".to_owned()),
        Mode::OtherRelease => {
            let page = page::render(status).replace("</script>", "//</script>");
            ("200 OK", "text/html; charset=utf-8", page)
        }
    };
    write!(
        client,
        "HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\
         Content-Security-Policy: {policy}\r\nCache-Control: no-store\r\n\r\n{body}",
        body.len()
    )
}
