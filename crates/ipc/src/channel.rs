//! A pair of connected ends that carry typed messages, with at most one descriptor each.
//!
//! SOCK_SEQPACKET (unix(7)) keeps message boundaries, and keeps a descriptor with its message. Both
//! ends are non-blocking and close-on-exec, so no process ever waits for its peer. A sender that
//! gets [`Sent::Full`] coalesces, queues within bounds, or drops and counts.

use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::Serialize;

use crate::codec::{self, CodecError, Incoming, LIMIT};

/// One end: sends `Tx`, receives `Rx`.
#[derive(Debug)]
pub struct Channel<Tx, Rx> {
    socket: OwnedFd,
    types: PhantomData<fn(Tx) -> Rx>,
}

/// The result of sending a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sent {
    /// The message is in the peer's queue.
    Queued,
    /// The peer's queue is full; nothing was sent.
    Full,
}

/// The result of receiving.
#[derive(Debug)]
pub enum Received<Rx> {
    /// A message, and the descriptor that came with it.
    Message(Rx, Option<OwnedFd>),
    /// There is no message now.
    Empty,
    /// The peer has closed its end.
    Closed,
}

/// Why a channel is unusable: the peer is broken or gone.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The socket failed.
    #[error("channel: {0}")]
    Io(#[from] io::Error),
    /// The message is malformed.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The message is longer than this program ever sends.
    #[error("a message longer than {LIMIT} bytes")]
    Oversized,
}

impl<Tx, Rx> Channel<Tx, Rx> {
    /// Makes both ends.
    ///
    /// # Errors
    /// socketpair(2) failed: no descriptors or memory left.
    pub fn pair() -> io::Result<(Channel<Tx, Rx>, Channel<Rx, Tx>)> {
        let (left, right) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        Ok((
            Channel { socket: left, types: PhantomData },
            Channel { socket: right, types: PhantomData },
        ))
    }

    /// The end that an earlier program in this process made. The socket must be one of a
    /// SOCK_SEQPACKET pair; on another socket every message is an error.
    pub fn from_descriptor(socket: OwnedFd) -> Channel<Tx, Rx> {
        Channel { socket, types: PhantomData }
    }

    /// The same end in its next phase, which allows other messages.
    pub fn into_phase<Tx2, Rx2>(self) -> Channel<Tx2, Rx2> {
        Channel { socket: self.socket, types: PhantomData }
    }
}

impl<Tx: Serialize, Rx: Incoming> Channel<Tx, Rx> {
    /// Sends one message, with a descriptor if one is given.
    ///
    /// # Errors
    /// The message does not encode, or the peer is gone.
    pub fn send(
        &self,
        message: &Tx,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<Sent, ChannelError> {
        let mut buffer = [0; LIMIT];
        let length = codec::encode(message, &mut buffer)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::from(Errno::NOBUFS).into());
        }
        loop {
            match sendmsg(
                &self.socket,
                &[IoSlice::new(&buffer[..length])],
                &mut control,
                SendFlags::NOSIGNAL,
            ) {
                Ok(_) => return Ok(Sent::Queued),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN | Errno::NOBUFS) => return Ok(Sent::Full),
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
    }

    /// Receives one message if there is one.
    ///
    /// # Errors
    /// The socket failed, or the peer sent bytes that are not an `Rx`. The caller must not trust
    /// the peer any more.
    pub fn receive(&self) -> Result<Received<Rx>, ChannelError> {
        let mut buffer = [0; LIMIT];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let (length, flags) = loop {
            match recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut buffer)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(received) => break (received.bytes, received.flags),
                // The peer ended and left messages unread. This is said once, and before the
                // peer's own last messages.
                Err(Errno::INTR | Errno::CONNRESET) => continue,
                Err(Errno::AGAIN) => return Ok(Received::Empty),
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        };
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        if flags.contains(ReturnFlags::TRUNC) {
            return Err(ChannelError::Oversized);
        }
        if length == 0 {
            // No message is empty, so this is the end of file.
            return Ok(Received::Closed);
        }
        Ok(Received::Message(Rx::from_bytes(&buffer[..length])?, descriptor))
    }
}

impl<Tx, Rx> AsFd for Channel<Tx, Rx> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{FromWorker, LastingToWorker, ToWorker};

    #[test]
    fn messages_keep_their_boundaries_and_descriptors() {
        let (here, there) = Channel::<ToWorker, FromWorker>::pair().unwrap();
        let file = tempfile();
        assert_eq!(here.send(&ToWorker::Report { serial: 7 }, None).unwrap(), Sent::Queued);
        assert_eq!(
            here.send(&LastingToWorker::Log { network: false }.into(), Some(file.as_fd())).unwrap(),
            Sent::Queued
        );
        let Received::Message(ToWorker::Report { serial: 7 }, None) = there.receive().unwrap()
        else {
            panic!()
        };
        let Received::Message(log, Some(_)) = there.receive().unwrap() else { panic!() };
        assert_eq!(log, LastingToWorker::Log { network: false }.into());
        assert!(matches!(there.receive().unwrap(), Received::Empty));
        drop(here);
        assert!(matches!(there.receive().unwrap(), Received::Closed));
    }

    #[test]
    fn a_full_queue_is_said_and_nothing_waits() {
        let (here, there) = Channel::<ToWorker, FromWorker>::pair().unwrap();
        let queued = (0..).find(|serial| {
            here.send(&ToWorker::Report { serial: *serial }, None).unwrap() == Sent::Full
        });
        assert!(queued.unwrap() > 100);
        let Received::Message(ToWorker::Report { serial: 0 }, None) = there.receive().unwrap()
        else {
            panic!()
        };
    }

    #[test]
    fn the_last_messages_of_a_peer_that_left_some_unread_arrive() {
        let (here, there) = Channel::<ToWorker, FromWorker>::pair().unwrap();
        here.send(&ToWorker::Report { serial: 1 }, None).unwrap();
        there.send(&FromWorker::Applied { generation: 1 }, None).unwrap();
        there.send(&FromWorker::Applied { generation: 2 }, None).unwrap();
        drop(there);
        for wanted in 1..=2 {
            let Received::Message(FromWorker::Applied { generation }, None) =
                here.receive().unwrap()
            else {
                panic!()
            };
            assert_eq!(generation, wanted);
        }
        assert!(matches!(here.receive().unwrap(), Received::Closed));
    }

    #[test]
    fn nonsense_is_an_error() {
        let (here, there) = Channel::<ToWorker, FromWorker>::pair().unwrap();
        rustix::net::send(here.as_fd(), b"\xff\xff\xff\xff\xff", SendFlags::empty()).unwrap();
        assert!(matches!(there.receive(), Err(ChannelError::Codec(_))));
    }

    fn tempfile() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }
}
