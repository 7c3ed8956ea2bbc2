//! What processes that share a listener may do to a socket for good: the options that each kind may
//! set, and the direction in which those may shut one down that cannot end it otherwise.
//!
//! A filter does not see which socket a call is for. So what is allowed for a connection is allowed
//! for the listener too, which outlives the process, and passes on in an upgrade. A packet filter
//! there (SO_ATTACH_FILTER) would decide who reaches pen from then on, and a lock (SO_LOCK_FILTER)
//! would keep it.

#![forbid(unsafe_code)]

use libc::c_int;

use crate::jail::sandbox::conditions::{CheckedCall, equal, only};

/// An option: its level and its name.
type SocketOption = (c_int, c_int);

/// Setting one of these options.
pub(super) fn setting(options: &[SocketOption]) -> CheckedCall {
    let one = |(level, name): &SocketOption| {
        vec![equal(1, level.cast_unsigned()), equal(2, name.cast_unsigned())]
    };
    CheckedCall { call: libc::SYS_setsockopt, any: options.iter().map(one).collect() }
}

/// The end of what this process sends. In the other direction, shutdown(2) ends a listener for all
/// who share it (tcp_disconnect in the kernel). A worker may do that too: its connect(2) can.
pub(super) fn end_of_sending() -> CheckedCall {
    only(libc::SYS_shutdown, 1, libc::SHUT_WR.cast_unsigned())
}

/// The worker: TCP_QUICKACK first, which it sets most often.
pub(super) const RELAY: &[SocketOption] = &[
    (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_RCVBUF),
    (libc::SOL_SOCKET, libc::SO_SNDBUF),
    (libc::SOL_SOCKET, SO_BUF_LOCK),
    (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT),
];

/// The control process: a reset, and the kernel's question whether a watcher is still there.
pub(super) const CONTROL: &[SocketOption] = &[
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
];

/// The page process: a reset.
pub(super) const PAGE: &[SocketOption] = &[(libc::SOL_SOCKET, libc::SO_LINGER)];

/// The checker: a reset, an acknowledgement that waits for data, and `source`.
pub(super) const CHECKER: &[SocketOption] = &[
    (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT),
];

/// The same number on x86-64, aarch64 and riscv64.
const SO_BUF_LOCK: c_int = 72;
