//! The title of a process in ps(1), written over the memory of its arguments.
//!
//! The kernel shows that memory in /proc/PID/cmdline. If its last byte is not NUL, the kernel shows
//! a string instead. The string may extend into the memory of the environment (setproctitle(3);
//! get_mm_cmdline in the kernel's fs/proc/base.c). /proc/PID/comm stays, because pidof(8), `pkill
//! -x` and `start-stop-daemon --name` use it.

#![allow(unsafe_code)]

use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::{env, fs, ptr};

/// The memory that a title may use.
#[derive(Debug)]
struct TitleMemory {
    /// The address of the first argument.
    start: usize,
    /// The bytes of the arguments.
    arguments: usize,
    /// The bytes of the arguments and of the environment behind them.
    whole: usize,
}

/// The memory of this process and all its children.
static ROOM: OnceLock<TitleMemory> = OnceLock::new();

/// Gives the process the title `pen: supervisor` with its arguments. Call this when nothing needs
/// the arguments or the environment in their old memory any more. Without /proc everything stays as
/// it was.
pub(crate) fn begin() {
    let arguments: Vec<Vec<u8>> =
        env::args_os().skip(1).map(|word| word.as_bytes().to_vec()).collect();
    if let Some(room) = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| room(&stat)) {
        let _ = ROOM.set(room);
        let role = SUPERVISOR.strip_prefix(PREFIX).unwrap_or_default().to_vec();
        set_bytes(&[role].into_iter().chain(arguments).collect::<Vec<_>>().join(&b' '));
    }
}

/// Gives this process the title `pen: ROLE`, if [`begin`] found memory for it.
pub(crate) fn set(role: &str) {
    set_bytes(role.as_bytes());
}

/// Whether a process's title is complete, not cut for lack of memory.
pub(crate) fn is_whole(pid: u32, title: &[u8]) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // If the kernel does not show the size, the memory of the environment is large enough.
    title.len() < room(&stat).map_or(LONGEST, |room| (room.whole - 1).min(LONGEST))
}

/// The addresses of arguments and environment, from fields 48 to 51 of proc_pid_stat(5).
fn room(stat: &str) -> Option<TitleMemory> {
    // The second field is in parentheses, and may contain spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(45).map(str::parse::<usize>);
    let mut next = || fields.next()?.ok().filter(|address| *address > 0);
    let (start, arguments_end, environment, end) = (next()?, next()?, next()?, next()?);
    let whole = if environment == arguments_end { end } else { arguments_end };
    let room = TitleMemory {
        start,
        arguments: arguments_end.checked_sub(start)?,
        whole: whole.checked_sub(start)?,
    };
    (room.arguments > 0 && room.whole >= room.arguments).then_some(room)
}

fn set_bytes(role: &[u8]) {
    let Some(TitleMemory { start, arguments, whole }) = ROOM.get() else { return };
    let title = [PREFIX, role].concat();
    let length = title.len().min(whole - 1).min(LONGEST);
    // The memory behind that is zero already.
    let mut content = vec![0; (*whole).min(LONGEST + 1).max(*arguments)];
    content[..length].copy_from_slice(&title[..length]);
    if length + 1 < *arguments {
        // The kernel then shows the string without the NULs behind it.
        content[arguments - 1] = 1;
    }
    let memory: *mut u8 = ptr::with_exposed_provenance_mut(*start);
    // SAFETY: by the kernel's information, the arguments of this process are here, with its
    // environment behind them. `begin` requires that nothing needs them in their old memory any
    // more. It is writable memory above all frames of the stack (execve(2)), and exists as long as
    // the process. A fork has a copy at the same address. No reference to it exists: `std::env`
    // copies what it returns. There is one thread. `content` is no longer than the memory, and does
    // not overlap it.
    unsafe { ptr::copy_nonoverlapping(content.as_ptr(), memory, content.len()) };
}

/// The kernel shows at most a page of a title.
const LONGEST: usize = 4095;

/// The beginning of every title.
const PREFIX: &[u8] = b"pen: ";

/// The beginning of the supervisor's title; its arguments follow, separated by spaces.
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
        // The kernel hides the addresses from processes without the right to see them.
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
