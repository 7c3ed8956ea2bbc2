//! The meaning of a failed connect: one pure table over the system call and its errno.
//!
//! A failed server is blacklisted for the blacklist time. An obstacle on the way to one server is
//! not a fault of that server and does not concern others: the next server is tried, and this one
//! again soon. If the machine ran short of a resource, no server can be connected to.

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

/// The kind of the server's address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// IP, with a source address that the kernel chooses.
    Ip,
    /// IP, with the source address that `source` sets.
    IpFrom,
    /// A Unix socket.
    Unix,
}

/// What a failure to connect means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The server failed.
    Server,
    /// An obstacle is in the way to this server.
    Obstacle(Obstacle),
    /// This machine ran short of descriptors or memory.
    Machine,
}

/// The meaning of a call's errno. An errno without another known meaning is a failure of the
/// server: the next one is tried, and the log shows which server it was and why.
pub fn classify(call: Call, way: Way, errno: Errno) -> Fault {
    match (call, way, errno) {
        (_, _, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => Fault::Machine,
        // The kernel does not have the family, or forbids it: other families are not concerned.
        (Call::Socket | Call::Option, _, _) => Fault::Server,
        (Call::Bind, _, Errno::ADDRINUSE | Errno::AGAIN) => Fault::Obstacle(Obstacle::Ports),
        // Mostly EADDRNOTAVAIL: the address is not an address of this machine, or no longer.
        (Call::Bind, _, _) => Fault::Obstacle(Obstacle::Source),
        // The backlog of a Unix listener is full (connect(2)). No event tells when it has room
        // again.
        (Call::Connect, Way::Unix, Errno::AGAIN) => Fault::Obstacle(Obstacle::Backlog),
        (Call::Connect, Way::Unix, _) => Fault::Server,
        // Every local port towards the server is in use.
        (Call::Connect, _, Errno::ADDRNOTAVAIL | Errno::ADDRINUSE | Errno::AGAIN) => {
            Fault::Obstacle(Obstacle::Ports)
        }
        // The source has no route to the server, for example a loopback address.
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

    /// Other errors of connect(2), ip(7), tcp(7), unix(7) and the kernel's tables of ICMP errors,
    /// without the shortages.
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
                    // bind(2) is called only for a source address.
                    (None, Call::Bind) if way != Way::IpFrom => continue,
                    (None, Call::Bind) => Fault::Obstacle(Source),
                    (None, Call::Socket | Call::Option | Call::Connect) => Fault::Server,
                };
                assert_eq!(classify(call, way, errno), expected, "{call:?} {way:?} {errno:?}");
            }
        }
    }
}
