//! The code of a resolver: it confines itself, and answers one question after the other by
//! getaddrinfo(3).

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, getaddrinfo};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use pen_config::address::HostAddress;
use pen_ipc::channel::{Channel, Received, Sent};

use crate::helpers::resolve::question::{MOST_FOUND, Question, ResolveFailure, ResolverAnswer};
use crate::jail::Jail;
use crate::jail::sandbox::ProcessKind;
use crate::signals;

type ToSupervisor = Channel<ResolverAnswer, Question>;

/// Answers questions until the supervisor closes the channel.
pub(super) fn serve(jail: &Jail, supervisor: Pid, channel: &ToSupervisor) -> i32 {
    if confine(jail, supervisor, channel).is_err() {
        let _ = channel.send(&ResolverAnswer::Failed(ResolveFailure::Confinement), None);
        return 1;
    }
    loop {
        let goes_on = match channel.receive() {
            Ok(Received::Message(question, _)) => {
                send(channel, &answer(&question).unwrap_or_else(ResolverAnswer::Failed))
            }
            Ok(Received::Empty) => {
                let _ =
                    poll(&mut [PollFd::new(channel.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
                true
            }
            Ok(Received::Closed) | Err(_) => false,
        };
        if !goes_on {
            return 0;
        }
    }
}

fn confine(jail: &Jail, supervisor: Pid, channel: &ToSupervisor) -> io::Result<()> {
    signals::reset_for_child()?;
    jail.enter(ProcessKind::Resolver, supervisor, &[channel.as_fd()]).map_err(io::Error::other)
}

/// Sends an answer. The child has nothing else to do, so it may wait for room in the channel.
pub(super) fn send(channel: &ToSupervisor, answer: &ResolverAnswer) -> bool {
    loop {
        match channel.send(answer, None) {
            Ok(Sent::Queued) => return true,
            Ok(Sent::Full) => {
                let _ = poll(
                    &mut [PollFd::new(channel.as_fd(), PollFlags::POLLOUT)],
                    PollTimeout::NONE,
                );
            }
            Err(_) => return false,
        }
    }
}

fn answer(question: &Question) -> Result<ResolverAnswer, ResolveFailure> {
    match (question, look_up(question)) {
        // Many services databases list a service for TCP only, although its number is registered
        // for both protocols.
        (Question::UdpService(name), Err(ResolveFailure::Unknown)) => {
            look_up(&Question::TcpService(name.clone()))
        }
        (_, answer) => answer,
    }
}

fn look_up(question: &Question) -> Result<ResolverAnswer, ResolveFailure> {
    // Without AI_ADDRCONFIG: the address families of this machine's interfaces do not matter.
    let hints = |socktype| AddrInfoHints { socktype, ..AddrInfoHints::default() };
    let (host, service, socktype) = match question {
        Question::Host(name) => (Some(name.as_str()), None, libc::SOCK_STREAM),
        Question::TcpService(name) => (None, Some(name.as_str()), libc::SOCK_STREAM),
        Question::UdpService(name) => (None, Some(name.as_str()), libc::SOCK_DGRAM),
    };
    let mut found = Vec::new();
    for each in getaddrinfo(host, service, Some(hints(socktype))).map_err(failure)? {
        let address = each.map_err(|_| ResolveFailure::Resolver)?.sockaddr;
        if !found.contains(&address) && found.len() < MOST_FOUND {
            found.push(address);
        }
    }
    let first = found.first().ok_or(ResolveFailure::Unknown)?;
    Ok(match question {
        Question::TcpService(_) | Question::UdpService(_) => ResolverAnswer::Service(first.port()),
        Question::Host(_) => {
            ResolverAnswer::Host(found.into_iter().map(HostAddress::from).collect())
        }
    })
}

fn failure(error: LookupError) -> ResolveFailure {
    match error.kind() {
        LookupErrorKind::NoName | LookupErrorKind::NoData | LookupErrorKind::Service => {
            ResolveFailure::Unknown
        }
        LookupErrorKind::Again => ResolveFailure::Unavailable,
        _ => ResolveFailure::Resolver,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_local_databases_are_found() {
        let localhost = answer(&Question::Host("localhost".into())).unwrap();
        assert!(matches!(&localhost, ResolverAnswer::Host(found) if !found.is_empty()
                && found.iter().all(|one| one.ip.is_loopback())));
        let Ok(ResolverAnswer::Host(zoned)) = answer(&Question::Host("fe80::1%lo".into())) else {
            panic!("lo is everywhere")
        };
        assert_eq!(zoned, [HostAddress { ip: "fe80::1".parse().unwrap(), scope: 1 }]);
        assert_eq!(
            answer(&Question::Host("fe80::1%no-such-one".into())),
            Err(ResolveFailure::Unknown)
        );
        assert_eq!(answer(&Question::TcpService("0".into())), Ok(ResolverAnswer::Service(0)));
        assert_eq!(
            answer(&Question::TcpService("no-such-service".into())),
            Err(ResolveFailure::Unknown)
        );
    }
}
