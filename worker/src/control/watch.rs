//! What an operator who watches is sent: each event as a line, as long as it reads them.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

use pen_config::command::Form;
use rustix::io::Errno;
use rustix::net::{SendFlags, send, sockopt};

/// Most bytes that wait for an operator beside those in its socket. One that is slower than the
/// events is cut off.
const BACKLOG: usize = 256 * 1024;

/// What an operator who watches is still to be sent.
#[derive(Debug)]
pub struct Watch {
    form: Form,
    /// The number of the next event for it.
    next: u64,
    unsent: VecDeque<u8>,
    /// A part of a line was sent.
    within_line: bool,
    /// It gets no more events.
    closed: bool,
}

impl Watch {
    /// From the event with this number on, after `head`.
    pub fn new(form: Form, next: u64, head: &str) -> Watch {
        let unsent = head.bytes().collect();
        Watch { form, next, unsent, within_line: false, closed: false }
    }

    /// The number of the next event for it.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether it gets no more events.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Adds an event, and before it how many are missing. One that it had is left out.
    pub fn add(&mut self, id: u64, line: &str, json: &str) {
        if self.closed || id < self.next {
            return;
        }
        let missing = id - self.next;
        if missing > 0 {
            self.push(&match self.form {
                Form::Plain => format!("watch: {missing} events are missing here"),
                Form::Json => format!("{{\"missing\":{missing}}}"),
            });
        }
        self.push(match self.form {
            Form::Plain => line,
            Form::Json => json,
        });
        self.next = id + 1;
        if self.unsent.len() > BACKLOG {
            // The rest of a line that it has a part of stays.
            let rest = self.unsent.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            self.unsent.truncate(if self.within_line { rest } else { 0 });
            self.close("it was read too slowly");
        }
    }

    /// Adds the last line, which says why no event follows it. `why` has no quotes.
    pub fn close(&mut self, why: &str) {
        if !self.closed {
            self.push(&match self.form {
                Form::Plain => format!("watch: closed: {why}"),
                Form::Json => format!("{{\"closed\":\"{why}\"}}"),
            });
            self.closed = true;
        }
    }

    fn push(&mut self, line: &str) {
        self.unsent.extend(line.bytes().chain([b'\n']));
    }

    /// Sends the next piece. `Ok(0)`: everything was sent.
    ///
    /// # Errors
    /// The socket takes nothing now, or the operator has gone.
    pub fn send_some(&mut self, socket: &OwnedFd) -> Result<usize, Errno> {
        let (piece, _) = self.unsent.as_slices();
        if piece.is_empty() {
            return Ok(0);
        }
        let sent = rustix::io::retry_on_intr(|| send(socket, piece, SendFlags::NOSIGNAL))?;
        self.within_line = sent.checked_sub(1).is_some_and(|last| piece[last] != b'\n');
        self.unsent.drain(..sent);
        match sent {
            0 => Err(Errno::IO),
            sent => Ok(sent),
        }
    }
}

/// Makes the kernel ask whether an operator is still there: a quiet pen sends nothing for days, so
/// that the loss of its machine would not be noticed.
pub fn keep_alive(socket: &OwnedFd) {
    // A Unix socket needs none of this, and knows no option of TCP.
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, KEEPALIVE);
    let _ = sockopt::set_tcp_keepintvl(socket, KEEPALIVE);
    let _ = sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES);
}

/// The time without traffic until the kernel asks, and between two questions.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Questions without an answer until the operator has gone.
const KEEPALIVE_PROBES: u32 = 4;

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn told(watch: &mut Watch) -> String {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let ours = OwnedFd::from(ours);
        while watch.send_some(&ours).unwrap() > 0 {}
        drop(ours);
        let mut text = String::new();
        theirs.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn missing_events_are_told_and_those_that_it_had_are_not() {
        for (form, lines) in [
            (Form::Plain, "head\nb\nwatch: 2 events are missing here\ne\nwatch: closed: end\n"),
            (Form::Json, "head\nB\n{\"missing\":2}\nE\n{\"closed\":\"end\"}\n"),
        ] {
            let mut watch = Watch::new(form, 2, "head\n");
            for (id, line, json) in [(1, "a", "A"), (2, "b", "B"), (2, "b", "B"), (5, "e", "E")] {
                watch.add(id, line, json);
            }
            assert_eq!(watch.next(), 6);
            watch.close("end");
            watch.close("again");
            watch.add(6, "f", "F");
            assert_eq!(told(&mut watch), lines);
        }
    }

    #[test]
    fn a_slow_reader_gets_whole_lines_and_then_why_there_are_no_more() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = OwnedFd::from(ours);
        let mut watch = Watch::new(Form::Plain, 0, "");
        let line = "x".repeat(10_000);
        let mut id = 0;
        while !watch.is_closed() {
            watch.add(id, &line, "");
            id += 1;
            while watch.send_some(&ours).is_ok_and(|sent| sent > 0) {}
        }
        assert!(watch.unsent.len() <= line.len() + 100);
        let mut text = String::new();
        let reader = std::thread::spawn(move || {
            theirs.read_to_string(&mut text).unwrap();
            text
        });
        loop {
            match watch.send_some(&ours) {
                Ok(0) => break,
                Ok(_) | Err(Errno::AGAIN) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        drop(ours);
        let text = reader.join().unwrap();
        let (last, lines) = text
            .lines()
            .collect::<Vec<_>>()
            .split_last()
            .map(|(last, lines)| {
                (
                    (*last).to_owned(),
                    lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(),
                )
            })
            .unwrap();
        assert_eq!(last, "watch: closed: it was read too slowly");
        assert!(!lines.is_empty() && lines.iter().all(|got| *got == line));
    }
}
