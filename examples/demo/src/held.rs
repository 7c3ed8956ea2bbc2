//! Connections that stay open, as long downloads do: what a worker takes along when it dies, and
//! what the others keep.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::clients::{CLIENTS, address_of, connect};
use crate::{Outcome, until};

/// A connection of each client, in equal parts carried by each worker.
pub struct Held {
    carried: Vec<(i32, TcpStream)>,
}

impl Held {
    /// Opens a connection for each client. While it opens those that a worker is to carry, the
    /// other workers are stopped.
    pub fn open(target: SocketAddr, workers: &[i32]) -> Outcome<Held> {
        let mut carried = Vec::new();
        let share = CLIENTS.div_ceil(workers.len().max(1));
        let clients: Vec<usize> = (0..CLIENTS).collect();
        for (worker, clients) in workers.iter().zip(clients.chunks(share)) {
            let _stopped = Stopped::all_but(*worker, workers)?;
            for client in clients {
                let mut connection = connect(address_of(*client), target)?;
                connection.write_all(b"GET /hold HTTP/1.1\r\nHost: demo\r\n\r\n")?;
                // The answer has begun: the worker has it, and a server too.
                line(&mut connection)?;
                carried.push((*worker, connection));
            }
        }
        Ok(Held { carried })
    }

    /// How many connections there are, and how many of them a worker carries.
    pub fn count(&self, worker: i32) -> [usize; 2] {
        [self.carried.len(), self.carried.iter().filter(|(by, _)| *by == worker).count()]
    }

    /// Asks on every connection for one line more; returns how many gave none, and whether these
    /// are just those of one worker.
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

/// Workers that are stopped as long as this lives: a moment, so that pen does not take them for
/// hung.
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
        // One that is gone needs no signal.
        let _ = self.signal(Signal::CONT);
    }
}

/// Whether a process stands still, as proc_pid_stat(5) says.
fn is_stopped(process: i32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat"))
        .unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

/// A line of what a server sends.
fn line(connection: &mut TcpStream) -> io::Result<()> {
    let mut byte = [0];
    while byte != *b"\n" {
        connection.read_exact(&mut byte)?;
    }
    Ok(())
}
