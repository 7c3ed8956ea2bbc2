//! Bounded waits of the tests that run a whole process of this package in a thread.

use std::os::fd::AsFd;
use std::time::Duration;

use pen_ipc::channel::{Channel, Received};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The time limit of every wait. Only a failure takes that long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until one of the sockets can be read.
#[track_caller]
pub fn readable(sockets: &[&dyn AsFd]) {
    let mut events: Vec<PollFd<'_>> = sockets
        .iter()
        .map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN))
        .collect();
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    assert_ne!(poll(&mut events, Some(&patience)).unwrap(), 0, "nothing comes");
}

/// The next message of a process.
#[track_caller]
pub fn message<Tx, Rx>(channel: &Channel<Tx, Rx>) -> Rx
where
    Tx: serde::Serialize,
    Rx: serde::de::DeserializeOwned,
{
    loop {
        match channel.receive().unwrap() {
            Received::Message(message, _) => return message,
            Received::Empty => readable(&[channel]),
            Received::Closed => panic!("the process left"),
        }
    }
}
