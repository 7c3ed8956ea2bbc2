//! The system interface that no safe crate offers: the one room of a worker where unsafe code may
//! be.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use mio::Poll;
use pen_config::settings::BufferSizes;
use rustix::io::{Errno, Result};
use rustix::ioctl::{Getter, ioctl};

/// The epoll descriptor of a mio poll, for the flags that mio does not know (EPOLLEXCLUSIVE).
pub fn epoll(poll: &Poll) -> BorrowedFd<'_> {
    // SAFETY: mio offers the number only; the descriptor stays open as long as the Poll that is
    // borrowed here.
    unsafe { BorrowedFd::borrow_raw(poll.as_raw_fd()) }
}

/// Bytes handed to a TCP socket that its peer has not acknowledged (SIOCOUTQ, tcp(7)); for a Unix
/// socket, bytes that its peer has not read.
///
/// # Errors
/// The descriptor is no socket.
pub fn unsent(socket: impl AsFd) -> Result<u32> {
    /// SIOCOUTQ is TIOCOUTQ (asm-generic/ioctls.h).
    const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;
    // SAFETY: SIOCOUTQ writes one int and reads nothing.
    let getter = unsafe { Getter::<SIOCOUTQ, i32>::new() };
    // SAFETY: the getter passes a valid int; on any descriptor that does not know the request the
    // kernel answers ENOTTY.
    let bytes = unsafe { ioctl(socket, getter) }?;
    Ok(u32::try_from(bytes).unwrap_or(0))
}

/// Gives memory that was freed back to the system. The allocator keeps what lies below anything in
/// use, for ever (malloc_trim(3)).
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim touches free memory only, and locks its arenas itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has bind(2) take an address alone; the port is found when the socket is connected, so that
/// connections to different servers can share it (IP_BIND_ADDRESS_NO_PORT, ip(7)). rustix does not
/// know the option.
///
/// # Errors
/// The descriptor is no socket of the internet families.
pub fn bind_address_without_port(socket: impl AsFd) -> Result<()> {
    set_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Has a TCP socket take no more while so many bytes wait that were not even sent
/// (TCP_NOTSENT_LOWAT, tcp(7)). What is under way is not bounded by it, so that it costs a peer who
/// reads no throughput. Sockets accepted from a listener inherit it.
///
/// # Errors
/// The descriptor is no TCP socket.
pub fn limit_unsent(socket: impl AsFd, bytes: i32) -> Result<()> {
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes)
}

/// Sets the sizes of a socket's buffers; 0 gives one back to the kernel's choice, which Linux
/// before 5.14 cannot (SO_BUF_LOCK).
///
/// # Errors
/// The descriptor is no socket.
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
    // SAFETY: setsockopt reads `length` bytes from the address, which are those of `value`; the
    // descriptor is open while it is borrowed.
    let result =
        unsafe { libc::setsockopt(descriptor, level, option, (&raw const value).cast(), length) };
    match result {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
