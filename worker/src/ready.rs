//! How the processes beside the workers begin: they watch their channel, and say that they are
//! ready, or why they cannot be.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use pen_ipc::channel::{Channel, Sent};
use pen_ipc::codec::Incoming;
use pen_ipc::message::FromStartingWorker;

/// Makes a poll that watches the channel under `token`, and what else `watch` registers. Tells the
/// supervisor the outcome; `name` begins the line of a failure. `None`: the process has to end.
pub fn begin<Rx: Incoming, Watched>(
    channel: &Channel<FromStartingWorker, Rx>,
    name: &str,
    token: Token,
    watch: impl FnOnce(&Poll) -> io::Result<Watched>,
) -> Option<(Poll, Watched)> {
    let both = Interest::READABLE | Interest::WRITABLE;
    let begun = Poll::new().and_then(|poll| {
        poll.registry().register(&mut SourceFd(&channel.as_fd().as_raw_fd()), token, both)?;
        Ok((watch(&poll)?, poll))
    });
    match begun {
        Ok((watched, poll)) => match channel.send(&FromStartingWorker::Ready, None) {
            Ok(Sent::Queued) => Some((poll, watched)),
            Ok(Sent::Full) | Err(_) => None,
        },
        Err(error) => {
            let reason = format!("{name}: cannot wait for events: {error}");
            // If the supervisor cannot be told, the exit status still says that the start failed.
            let _ = channel.send(&FromStartingWorker::Failed { reason }, None);
            None
        }
    }
}
