//! System interfaces that no safe crate offers. This is the only module of a worker that may have
//! unsafe code.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use mio::Poll;
use pen_config::settings::BufferSizes;
use rustix::io::{Errno, Result};
use rustix::ioctl::{Getter, ioctl};

/// The epoll descriptor of a mio `Poll`, for flags that mio does not know (EPOLLEXCLUSIVE).
pub fn epoll(poll: &Poll) -> BorrowedFd<'_> {
    // SAFETY: mio offers only the number. The descriptor stays open as long as the `Poll` that is
    // borrowed here.
    unsafe { BorrowedFd::borrow_raw(poll.as_raw_fd()) }
}

/// For a TCP socket, bytes that the peer has not acknowledged (SIOCOUTQ, tcp(7)). For a Unix
/// socket, bytes that the peer has not read.
///
/// # Errors
/// The descriptor is not a socket.
pub fn unsent(socket: impl AsFd) -> Result<u32> {
    /// SIOCOUTQ is TIOCOUTQ (asm-generic/ioctls.h).
    const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;
    // SAFETY: SIOCOUTQ writes one int and reads nothing.
    let getter = unsafe { Getter::<SIOCOUTQ, i32>::new() };
    // SAFETY: the getter passes a valid int. On a descriptor that does not know the request, the
    // kernel answers ENOTTY.
    let bytes = unsafe { ioctl(socket, getter) }?;
    Ok(u32::try_from(bytes).unwrap_or(0))
}

/// Gives freed memory back to the system. The allocator would keep free memory below any block in
/// use for ever (malloc_trim(3)).
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim touches only free memory and locks its arenas itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Makes bind(2) take only an address. The kernel chooses the port at connect(2), so that
/// connections to different servers can share it (IP_BIND_ADDRESS_NO_PORT, ip(7)). rustix does not
/// know the option.
///
/// # Errors
/// The descriptor is not a socket of the internet families.
pub fn bind_address_without_port(socket: impl AsFd) -> Result<()> {
    set_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Makes a TCP socket take no more data while `bytes` bytes in it were not yet sent
/// (TCP_NOTSENT_LOWAT, tcp(7)). Data in flight is not bounded, so a peer that reads loses no
/// throughput. Accepted sockets inherit the option from the listener.
///
/// # Errors
/// The descriptor is not a TCP socket.
pub fn limit_unsent(socket: impl AsFd, bytes: i32) -> Result<()> {
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes)
}

/// Sets the sizes of a socket's buffers. 0 gives a size back to the kernel's choice, which Linux
/// before 5.14 cannot do (SO_BUF_LOCK).
///
/// # Errors
/// The descriptor is not a socket.
pub fn set_buffers(socket: impl AsFd, sizes: BufferSizes) -> Result<()> {
    const SO_BUF_LOCK: libc::c_int = 72;
    if sizes.receive == 0 || sizes.send == 0 {
        let _ = set_int(&socket, libc::SOL_SOCKET, SO_BUF_LOCK, 0);
    }
    for (option, size) in [(libc::SO_RCVBUF, sizes.receive), (libc::SO_SNDBUF, sizes.send)] {
        if size > 0 {
            set_int(&socket, libc::SOL_SOCKET, option, i32::try_from(size).unwrap_or(i32::MAX))?;
        }
    }
    Ok(())
}

/// Sets an option whose value is an int.
fn set_int(
    socket: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: setsockopt reads `length` bytes from the address of `value`, which has that many. The
    // descriptor is open while it is borrowed.
    let result =
        unsafe { libc::setsockopt(descriptor, level, option, (&raw const value).cast(), length) };
    match result {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
