//! The code of a resolver: it confines itself, and answers one question after the other by
//! getaddrinfo(3), or by a DNS query of its own for SRV records.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, getaddrinfo};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use pen_config::address::HostAddress;
use pen_config::checks::Records;
use pen_config::followed::{MOST_RECORDS, NameRecord};
use pen_ipc::channel::{Channel, Received, Sent};

use crate::helpers::resolve::question::{MOST_FOUND, Question, ResolveFailure, ResolverAnswer};
use crate::helpers::resolve::srv;
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
                let answer = answer(&question).unwrap_or_else(ResolverAnswer::Failed);
                parts(answer).iter().all(|part| send(channel, part))
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
    Ok(match question {
        Question::Host(name) => ResolverAnswer::Host(addresses(name, MOST_FOUND)?),
        Question::TcpService(name) => ResolverAnswer::Service(port(name, libc::SOCK_STREAM)?),
        Question::UdpService(name) => ResolverAnswer::Service(port(name, libc::SOCK_DGRAM)?),
        Question::Records(name, Records::Addresses) => {
            let record = |address| NameRecord { address, service: None };
            let found = addresses(name, MOST_RECORDS)?;
            ResolverAnswer::Records(found.into_iter().map(record).collect())
        }
        Question::Records(name, Records::Srv) => {
            let found = srv::look_up(name, |host| addresses(host, MOST_RECORDS))?;
            ResolverAnswer::Records(found)
        }
    })
}

/// The addresses of a host, each once, in the order in which to try them.
fn addresses(name: &str, most: usize) -> Result<Vec<HostAddress>, ResolveFailure> {
    let found = found(Some(name), None, libc::SOCK_STREAM, most)?;
    Ok(found.into_iter().map(HostAddress::from).collect())
}

fn port(service: &str, socktype: i32) -> Result<u16, ResolveFailure> {
    let found = found(None, Some(service), socktype, 1)?;
    found.first().map(SocketAddr::port).ok_or(ResolveFailure::Unknown)
}

/// At least one and at most `most` addresses.
fn found(
    host: Option<&str>,
    service: Option<&str>,
    socktype: i32,
    most: usize,
) -> Result<Vec<SocketAddr>, ResolveFailure> {
    // Without AI_ADDRCONFIG: the address families of this machine's interfaces do not matter.
    let hints = AddrInfoHints { socktype, ..AddrInfoHints::default() };
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    for each in getaddrinfo(host, service, Some(hints)).map_err(failure)? {
        let address = each.map_err(|_| ResolveFailure::Resolver)?.sockaddr;
        if found.len() < most && seen.insert(address) {
            found.push(address);
        }
    }
    if found.is_empty() { Err(ResolveFailure::Unknown) } else { Ok(found) }
}

/// The messages of an answer. Only records can need more than one.
fn parts(answer: ResolverAnswer) -> Vec<ResolverAnswer> {
    match answer {
        ResolverAnswer::Records(mut records) => {
            let mut parts = Vec::new();
            while records.len() > MOST_OF_PART {
                let rest = records.split_off(MOST_OF_PART);
                parts.push(ResolverAnswer::Part(std::mem::replace(&mut records, rest)));
            }
            parts.push(ResolverAnswer::Records(records));
            parts
        }
        ResolverAnswer::Host(_)
        | ResolverAnswer::Service(_)
        | ResolverAnswer::Part(_)
        | ResolverAnswer::NoRecords(_)
        | ResolverAnswer::Failed(_) => vec![answer],
    }
}

/// Most records of a message. The longest takes 38 bytes.
const MOST_OF_PART: usize = 1024;

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
    use pen_config::followed::SrvFields;

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

    #[test]
    fn records_fit_into_messages_and_none_is_lost() {
        let address = HostAddress { ip: [0xffff_u16; 8].into(), scope: u32::MAX };
        let srv = SrvFields { port: u16::MAX, weight: u16::MAX, priority: u16::MAX };
        let record = NameRecord { address, service: Some(srv) };
        for count in [1, MOST_OF_PART, MOST_OF_PART + 1, MOST_RECORDS] {
            let parts = parts(ResolverAnswer::Records(vec![record; count]));
            let (mut sum, mut buffer) = (0, vec![0; pen_ipc::codec::LIMIT]);
            for (index, part) in parts.iter().enumerate() {
                assert!(pen_ipc::codec::encode(part, &mut buffer).is_ok());
                sum += match part {
                    ResolverAnswer::Part(records) if index + 1 < parts.len() => records.len(),
                    ResolverAnswer::Records(records) if index + 1 == parts.len() => records.len(),
                    other => panic!("{other:?}"),
                };
            }
            assert_eq!(sum, count);
        }
    }
}
