//! Whose fault it is that a server cannot be connected to: one table over the system call and its
//! errno. Pure.
//!
//! A server that failed is left out for the blacklist time. An obstacle on the way to one server is
//! no fault of that server, and no matter of the others: the next server is tried, and this one
//! again soon. A machine that runs short has nothing for any server.

use pen_ipc::message::Obstacle;
use rustix::io::Errno;

/// The system call that failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Call {
    /// socket(2).
    Socket,
    /// setsockopt(2) on the new socket.
    Option,
    /// bind(2) to the address that `source` sets.
    Bind,
    /// connect(2) itself, or its outcome later (SO_ERROR, socket(7)).
    Connect,
}

/// What the server's address is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// IP, from whatever address the kernel chooses.
    Ip,
    /// IP, from the address that `source` sets.
    IpFrom,
    /// A Unix socket.
    Unix,
}

/// What a failure to connect means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The server failed.
    Server,
    /// Something is in the way to this server.
    Obstacle(Obstacle),
    /// This machine ran short of descriptors or memory.
    Machine,
}

/// What an errno of a call means. Whatever is not known to be otherwise is the server's: then the
/// next one is tried, and the administrator reads which server it was and why.
pub fn classify(call: Call, way: Way, errno: Errno) -> Fault {
    match (call, way, errno) {
        (_, _, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => Fault::Machine,
        // A kernel without the family, or one that forbids it: no other family's matter.
        (Call::Socket | Call::Option, _, _) => Fault::Server,
        (Call::Bind, _, Errno::ADDRINUSE | Errno::AGAIN) => Fault::Obstacle(Obstacle::Ports),
        // Above all EADDRNOTAVAIL: the address is not, or no longer, one of this machine.
        (Call::Bind, _, _) => Fault::Obstacle(Obstacle::Source),
        // The queue of a Unix listener is full (connect(2)). It never tells when it is not.
        (Call::Connect, Way::Unix, Errno::AGAIN) => Fault::Obstacle(Obstacle::Backlog),
        (Call::Connect, Way::Unix, _) => Fault::Server,
        // Every port that this machine could use towards the server is in use.
        (Call::Connect, _, Errno::ADDRNOTAVAIL | Errno::ADDRINUSE | Errno::AGAIN) => {
            Fault::Obstacle(Obstacle::Ports)
        }
        // No way leads from the source to the server: a loopback address, say.
        (Call::Connect, Way::IpFrom, Errno::INVAL) => Fault::Obstacle(Obstacle::Source),
        (Call::Connect, Way::Ip | Way::IpFrom, _) => Fault::Server,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    const CALLS: [Call; 4] = [Call::Socket, Call::Option, Call::Bind, Call::Connect];
    const WAYS: [Way; 3] = [Way::Ip, Way::IpFrom, Way::Unix];

    /// What connect(2), ip(7), tcp(7), unix(7) and the kernel's tables of ICMP errors know, and no
    /// shortage.
    const OTHERS: [Errno; 24] = [
        Errno::ACCESS,
        Errno::ADDRINUSE,
        Errno::ADDRNOTAVAIL,
        Errno::AFNOSUPPORT,
        Errno::AGAIN,
        Errno::CONNABORTED,
        Errno::CONNREFUSED,
        Errno::CONNRESET,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::INVAL,
        Errno::IO,
        Errno::MSGSIZE,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::NOENT,
        Errno::NOPROTOOPT,
        Errno::NOTDIR,
        Errno::OPNOTSUPP,
        Errno::PERM,
        Errno::PIPE,
        Errno::PROTONOSUPPORT,
        Errno::PROTOTYPE,
        Errno::TIMEDOUT,
    ];

    #[test]
    fn descriptors_and_memory_are_the_machines() {
        for (call, way) in CALLS.into_iter().flat_map(|call| WAYS.map(|way| (call, way))) {
            for errno in MACHINE {
                assert_eq!(
                    classify(call, way, errno),
                    Fault::Machine,
                    "{call:?} {way:?} {errno:?}"
                );
            }
        }
    }

    #[test]
    fn all_else_is_a_matter_of_one_server() {
        use Obstacle::*;
        let obstacles = [
            (Call::Bind, Way::IpFrom, Errno::ADDRINUSE, Ports),
            (Call::Bind, Way::IpFrom, Errno::AGAIN, Ports),
            (Call::Connect, Way::Ip, Errno::ADDRNOTAVAIL, Ports),
            (Call::Connect, Way::Ip, Errno::ADDRINUSE, Ports),
            (Call::Connect, Way::Ip, Errno::AGAIN, Ports),
            (Call::Connect, Way::IpFrom, Errno::ADDRNOTAVAIL, Ports),
            (Call::Connect, Way::IpFrom, Errno::ADDRINUSE, Ports),
            (Call::Connect, Way::IpFrom, Errno::AGAIN, Ports),
            (Call::Connect, Way::IpFrom, Errno::INVAL, Source),
            (Call::Connect, Way::Unix, Errno::AGAIN, Backlog),
        ];
        for (call, way) in CALLS.into_iter().flat_map(|call| WAYS.map(|way| (call, way))) {
            for errno in OTHERS {
                let listed = obstacles
                    .iter()
                    .find(|row| (row.0, row.1, row.2) == (call, way, errno))
                    .map(|row| row.3);
                let expected = match (listed, call) {
                    (Some(obstacle), _) => Fault::Obstacle(obstacle),
                    // Nothing else is bound than a source.
                    (None, Call::Bind) if way != Way::IpFrom => continue,
                    (None, Call::Bind) => Fault::Obstacle(Source),
                    (None, Call::Socket | Call::Option | Call::Connect) => Fault::Server,
                };
                assert_eq!(classify(call, way, errno), expected, "{call:?} {way:?} {errno:?}");
            }
        }
    }
}
