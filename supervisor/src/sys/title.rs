//! How ps(1) shows a process: the memory of its arguments, which is written over.
//!
//! The kernel shows that memory in /proc/PID/cmdline. If its last byte is not NUL, it shows a
//! string instead, which may go on into the memory of the environment (setproctitle(3);
//! get_mm_cmdline in the kernel's fs/proc/base.c). /proc/PID/comm stays: pidof(8), `pkill -x` and
//! `start-stop-daemon --name` go by it.

#![allow(unsafe_code)]

use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::{env, fs, ptr};

/// The memory that a title may take.
#[derive(Debug)]
struct Room {
    /// The address of the first argument.
    start: usize,
    /// Bytes of the arguments.
    arguments: usize,
    /// Bytes of the arguments and of the environment behind them.
    whole: usize,
}

/// Of this process and all that it forks.
static ROOM: OnceLock<Room> = OnceLock::new();

/// Gives the process the title `pen: supervisor` with the arguments that it was started with. To be
/// called when nobody needs the arguments or the environment in their old place any more. Without
/// /proc everything stays as it was.
pub(crate) fn begin() {
    let arguments: Vec<Vec<u8>> =
        env::args_os().skip(1).map(|word| word.as_bytes().to_vec()).collect();
    if let Some(room) = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| room(&stat)) {
        let _ = ROOM.set(room);
        let role = SUPERVISOR.strip_prefix(PREFIX).unwrap_or_default().to_vec();
        set_bytes(&[role].into_iter().chain(arguments).collect::<Vec<_>>().join(&b' '));
    }
}

/// Gives this process the title `pen: ROLE`, if [`begin`] found room for one.
pub(crate) fn set(role: &str) {
    set_bytes(role.as_bytes());
}

/// Whether nothing of a process's title was cut off for want of room.
pub(crate) fn is_whole(pid: u32, title: &[u8]) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Where the kernel does not say, there is an environment, which is room enough.
    title.len() < room(&stat).map_or(LONGEST, |room| (room.whole - 1).min(LONGEST))
}

/// Where the kernel put arguments and environment, as proc_pid_stat(5) says in its fields 48 to 51.
fn room(stat: &str) -> Option<Room> {
    // The second field is in parentheses, and may have spaces and parentheses in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(45).map(str::parse::<usize>);
    let mut next = || fields.next()?.ok().filter(|address| *address > 0);
    let (start, arguments_end, environment, end) = (next()?, next()?, next()?, next()?);
    let whole = if environment == arguments_end { end } else { arguments_end };
    let room = Room {
        start,
        arguments: arguments_end.checked_sub(start)?,
        whole: whole.checked_sub(start)?,
    };
    (room.arguments > 0 && room.whole >= room.arguments).then_some(room)
}

fn set_bytes(role: &[u8]) {
    let Some(Room { start, arguments, whole }) = ROOM.get() else { return };
    let title = [PREFIX, role].concat();
    let length = title.len().min(whole - 1).min(LONGEST);
    // Behind that it is zeros already.
    let mut content = vec![0; (*whole).min(LONGEST + 1).max(*arguments)];
    content[..length].copy_from_slice(&title[..length]);
    if length + 1 < *arguments {
        // The kernel then shows the string, and not the NULs behind it.
        content[arguments - 1] = 1;
    }
    let memory: *mut u8 = ptr::with_exposed_provenance_mut(*start);
    // SAFETY: the kernel says that the arguments of this process are here, with its environment
    // behind them, which `begin` was told nobody needs in its old place any more. It is
    // writable memory above all frames of the stack (execve(2)), and stays the process's as long as
    // it lives; a fork has a copy of it at the same place. No reference to it exists: `std::env`
    // copies what it returns. There is one thread. `content` is no longer than the memory, and
    // elsewhere.
    unsafe { ptr::copy_nonoverlapping(content.as_ptr(), memory, content.len()) };
}

/// The kernel shows no more than a page of a title.
const LONGEST: usize = 4095;

/// What every title begins with.
const PREFIX: &[u8] = b"pen: ";

/// What the supervisor's begins with; its arguments follow, with spaces between them.
pub(crate) const SUPERVISOR: &[u8] = b"pen: supervisor";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_what_the_kernel_says() {
        let stat = |addresses: &str| format!("7 (a) b (c) S {} {addresses} 0", ["1"; 44].join(" "));
        let found = |addresses: &str| {
            room(&stat(addresses)).map(|room| (room.start, room.arguments, room.whole))
        };
        assert_eq!(found("100 130 130 200"), Some((100, 30, 100)));
        assert_eq!(found("100 130 140 200"), Some((100, 30, 30)), "the environment is elsewhere");
        // To whom it may not be shown.
        for nonsense in
            ["0 0 0 0", "100 100 100 200", "100 90 90 200", "100 130", "100 130 130 120", "x 1 1 2"]
        {
            assert_eq!(found(nonsense), None, "{nonsense}");
        }
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        let own = room(&own).unwrap();
        assert_eq!(own.arguments, fs::read("/proc/self/cmdline").unwrap().len());
    }
}
