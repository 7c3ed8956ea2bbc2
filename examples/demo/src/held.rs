//! Connections that stay open, like long downloads. They show which connections a dying worker
//! loses, and which the other workers keep.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::clients::{CLIENTS, address_of, connect};
use crate::{Outcome, until};

/// One connection per client, divided equally among the workers.
pub struct Held {
    carried: Vec<(i32, TcpStream)>,
}

impl Held {
    /// Opens a connection for each client. While it opens the connections of one worker, the other
    /// workers are stopped.
    pub fn open(target: SocketAddr, workers: &[i32]) -> Outcome<Held> {
        let mut carried = Vec::new();
        let share = CLIENTS.div_ceil(workers.len().max(1));
        let clients: Vec<usize> = (0..CLIENTS).collect();
        for (worker, clients) in workers.iter().zip(clients.chunks(share)) {
            let _stopped = Stopped::all_but(*worker, workers)?;
            for client in clients {
                let mut connection = connect(address_of(*client), target)?;
                connection.write_all(b"GET /hold HTTP/1.1\r\nHost: demo\r\n\r\n")?;
                // The answer has begun, so a worker and a server have the connection.
                line(&mut connection)?;
                carried.push((*worker, connection));
            }
        }
        Ok(Held { carried })
    }

    /// The number of connections, and the number of those that a worker carries.
    pub fn count(&self, worker: i32) -> [usize; 2] {
        [self.carried.len(), self.carried.iter().filter(|(by, _)| *by == worker).count()]
    }

    /// Asks for one more line on every connection. Returns how many gave none, and whether these
    /// are exactly the connections of one worker.
    pub fn lost(&mut self, worker: i32) -> (usize, bool) {
        let mut lost = 0;
        let mut only_its = true;
        for (by, connection) in &mut self.carried {
            let answered = connection.write_all(b"more\n").is_ok() && line(connection).is_ok();
            lost += usize::from(!answered);
            only_its &= answered != (*by == worker);
        }
        (lost, only_its)
    }
}

/// Workers that are stopped while this value lives. The time is short, so that pen does not take
/// them for hung.
struct Stopped(Vec<i32>);

impl Stopped {
    fn all_but(one: i32, workers: &[i32]) -> Outcome<Stopped> {
        let others: Vec<i32> = workers.iter().copied().filter(|worker| *worker != one).collect();
        let stopped = Stopped(others);
        stopped.signal(Signal::STOP)?;
        until("the other workers stand still", || {
            stopped.0.iter().all(|worker| is_stopped(*worker)).then_some(())
        })?;
        Ok(stopped)
    }

    fn signal(&self, signal: Signal) -> Outcome<()> {
        for worker in &self.0 {
            kill_process(Pid::from_raw(*worker).ok_or("pen has no worker")?, signal)?;
        }
        Ok(())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // A worker that is gone needs no signal.
        let _ = self.signal(Signal::CONT);
    }
}

/// Whether a process is stopped, according to proc_pid_stat(5).
fn is_stopped(process: i32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat"))
        .unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

/// A line that a server sent.
fn line(connection: &mut TcpStream) -> io::Result<()> {
    let mut byte = [0];
    while byte != *b"\n" {
        connection.read_exact(&mut byte)?;
    }
    Ok(())
}
