//! The system calls that each kind of process may make, and with which arguments. This is pure
//! data; `filter` makes seccomp programs of it.
//!
//! The lists come from strace(1) over the test suite and long runs under load. They also contain
//! calls of the C library and the crates on paths that no run takes (abort, an old kernel, resolver
//! plug-ins). The rule for additions: no call that can reach another process, a file by its name,
//! or a kernel interface that the process does not need.

#![forbid(unsafe_code)]

use libc::c_long;

use crate::jail::sandbox::conditions::{Calls, Check, CheckedCall, Test, bits, equal, only};
use crate::jail::sandbox::{ProcessKind, options};
use crate::sys::program::{EMPTY_PATH, Program};

impl ProcessKind {
    /// The list. `own` is the pid of the process, the only one that it may signal (for abort).
    pub(crate) fn calls(self, own: u32) -> Calls {
        let mut calls = Calls::default();
        calls.plain.extend(BASE);
        calls.checked.push(only(libc::SYS_tgkill, 0, own));
        // Newer C libraries name their mappings, for display in /proc. Only this process is
        // affected.
        calls.checked.push(only(libc::SYS_prctl, 0, PR_SET_VMA));
        if self != ProcessKind::Resolver {
            calls.checked.push(without_execution(libc::SYS_mmap));
            calls.checked.push(without_execution(libc::SYS_mprotect));
        }
        match self {
            ProcessKind::Relay => {
                calls.plain.extend(EVENTS.iter().chain(SOCKETS).chain(RELAY));
                calls.refused.extend(FILES_LOOKED_FOR.iter().chain(ASKED));
                calls.checked.extend([
                    relay_sockets(),
                    options::setting(options::RELAY),
                    RELAY_IOCTLS.checked(1),
                    RELAY_FCNTLS.checked(1),
                ]);
            }
            ProcessKind::Examiner => {
                calls.plain.extend(SOCKETS);
                calls.refused.extend(FILES_LOOKED_FOR.iter().chain(ASKED));
                calls.checked.push(FCNTLS.checked(1));
            }
            ProcessKind::Control => {
                calls.plain.extend(
                    EVENTS.iter().chain(SOCKETS).chain(FILES_LOOKED_FOR).chain(FILES_WRITTEN),
                );
                calls.checked.extend([
                    options::setting(options::CONTROL),
                    options::end_of_sending(),
                    IOCTLS.checked(1),
                    FCNTLS.checked(1),
                ]);
            }
            ProcessKind::Page => {
                calls.plain.extend(PAGE);
                calls.refused.extend(FILES_LOOKED_FOR.iter().chain(ASKED));
                calls.checked.extend([
                    options::setting(options::PAGE),
                    options::end_of_sending(),
                    PAGE_FCNTLS.checked(1),
                ]);
            }
            ProcessKind::Checker => {
                calls.plain.extend(CHECKER);
                calls.refused.extend(FILES_LOOKED_FOR.iter().chain(ASKED));
                calls.checked.extend([
                    relay_sockets(),
                    options::setting(options::CHECKER),
                    CHECKER_FCNTLS.checked(1),
                ]);
            }
            ProcessKind::Opener => {
                calls.plain.extend(
                    SOCKETS.iter().chain(FILES_LOOKED_FOR).chain(FILES_WRITTEN).chain(OPENER),
                );
                calls.checked.extend([unix_sockets(&[libc::SOCK_STREAM]), FCNTLS.checked(1)]);
                // The commands of a file go to the supervisor in sealed memory.
                calls.checked.push(only(libc::SYS_fcntl, 1, libc::F_ADD_SEALS.cast_unsigned()));
            }
            ProcessKind::Writer => {
                calls.plain.extend(FILES_LOOKED_FOR.iter().chain(FILES_WRITTEN));
                calls.checked.push(FCNTLS.checked(1));
                // A file that cannot be replaced is overwritten under a lock.
                calls.checked.push(only(libc::SYS_fcntl, 1, libc::F_SETLKW.cast_unsigned()));
            }
            ProcessKind::Reader => {
                calls.plain.extend(SOCKETS.iter().chain(FILES_LOOKED_FOR).chain(READER));
                calls.plain.retain(|call| !FILES_OPENED.iter().any(|(opening, _)| opening == call));
                calls
                    .checked
                    .extend(FILES_OPENED.iter().map(|(call, flags)| for_reading(*call, *flags)));
                calls.checked.push(FCNTLS.checked(1));
                // The content of files goes to the supervisor in sealed memory.
                calls.checked.push(only(libc::SYS_fcntl, 1, libc::F_ADD_SEALS.cast_unsigned()));
            }
            ProcessKind::Reporter => {
                calls.plain.extend(
                    SOCKETS.iter().chain(FILES_LOOKED_FOR).chain(FILES_WRITTEN).chain(REPORTER),
                );
                // The socket of the syslog daemon can be of either type.
                calls.checked.extend([
                    unix_sockets(&[libc::SOCK_DGRAM, libc::SOCK_STREAM]),
                    FCNTLS.checked(1),
                ]);
                // Two reports into one file wait for each other.
                calls.checked.push(only(libc::SYS_fcntl, 1, libc::F_SETLKW.cast_unsigned()));
            }
            ProcessKind::Resolver => {
                calls
                    .plain
                    .extend(EVENTS.iter().chain(SOCKETS).chain(FILES_LOOKED_FOR).chain(RESOLVER));
                calls.plain.retain(|call| !FILES_OPENED.iter().any(|(opening, _)| opening == call));
                calls
                    .checked
                    .extend(FILES_OPENED.iter().map(|(call, flags)| for_reading(*call, *flags)));
                calls.checked.extend([
                    resolver_sockets(),
                    threads(),
                    RESOLVER_IOCTLS.checked(1),
                    FCNTLS.checked(1),
                ]);
                // Only reading a limit is allowed: a new value would be the third argument.
                calls
                    .checked
                    .push(CheckedCall { call: libc::SYS_prlimit64, any: vec![vec![equal(2, 0)]] });
            }
        }
        calls
    }
}

/// The calls that fail with EPERM in the supervisor and all its descendants: those that give access
/// to the kernel, to other processes, or to another program. The kernel's usual checks apply to all
/// other calls.
pub(crate) fn never() -> Calls {
    let any_namespace = |bit: u32| vec![bits(0, bit, bit)];
    let namespaces = (0..32).map(|shift| 1 << shift).filter(|bit| NAMESPACES & bit != 0);
    Calls {
        plain: NEVER.to_vec(),
        checked: vec![
            CheckedCall { call: libc::SYS_clone, any: namespaces.map(any_namespace).collect() },
            other_programs(),
        ],
        refused: Vec::new(),
    }
}

/// The number of the list of [`never()`]. A successor with a higher number adds its own list to the
/// one in force, so each change of the list raises the number.
pub(crate) const LIST: u32 = 1;

/// The execution of anything but the running program and its successor.
fn other_programs() -> CheckedCall {
    let other = |argument, value| Check { argument, test: Test::Other(value) };
    let descriptors = [Program::Running, Program::Successor]
        .map(|program| other(0, program.descriptor().cast_unsigned()));
    let path = Check { argument: 1, test: Test::OtherAddress(EMPTY_PATH as u64) };
    let flags = other(4, libc::AT_EMPTY_PATH.cast_unsigned());
    CheckedCall { call: libc::SYS_execveat, any: vec![descriptors.into(), vec![path], vec![flags]] }
}

/// Memory with a descriptor that could be executed: no Landlock rule applies to that. Denied like
/// the calls of [`never()`] if the kernel knows memory that cannot be executed (Linux 6.3).
pub(crate) fn executable_memory() -> CheckedCall {
    let any = vec![vec![bits(1, libc::MFD_NOEXEC_SEAL, 0)]];
    CheckedCall { call: libc::SYS_memfd_create, any }
}

/// Memory that is not executable.
fn without_execution(call: c_long) -> CheckedCall {
    CheckedCall { call, any: vec![vec![bits(2, libc::PROT_EXEC.cast_unsigned(), 0)]] }
}

/// Opening files for reading: no writing, creating or truncating.
fn for_reading(call: c_long, flags: u8) -> CheckedCall {
    let mask = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC).cast_unsigned();
    CheckedCall { call, any: vec![vec![bits(flags, mask, libc::O_RDONLY.cast_unsigned())]] }
}

/// Threads, which plug-ins of the resolver may need, but no processes and no namespaces.
fn threads() -> CheckedCall {
    let thread = libc::CLONE_THREAD.cast_unsigned();
    CheckedCall { call: libc::SYS_clone, any: vec![vec![bits(0, thread | NAMESPACES, thread)]] }
}

const fn family(family: i32) -> Check {
    equal(0, family.cast_unsigned())
}

/// The type without SOCK_NONBLOCK and SOCK_CLOEXEC.
const fn kind(kind: i32) -> Check {
    bits(1, 0xf, kind.cast_unsigned())
}

const fn protocol(protocol: i32) -> Check {
    equal(2, protocol.cast_unsigned())
}

/// TCP (not Multipath TCP, not SCTP) and Unix streams towards servers. UDP too: with a connected
/// socket a worker learns, without sending anything, whether this machine has an address to reach a
/// server from.
fn relay_sockets() -> CheckedCall {
    let mut any = Vec::new();
    for inet in [libc::AF_INET, libc::AF_INET6] {
        any.push(vec![family(inet), kind(libc::SOCK_STREAM), protocol(0)]);
        any.push(vec![family(inet), kind(libc::SOCK_STREAM), protocol(libc::IPPROTO_TCP)]);
        any.push(vec![family(inet), kind(libc::SOCK_DGRAM), protocol(0)]);
    }
    any.push(vec![family(libc::AF_UNIX), kind(libc::SOCK_STREAM), protocol(0)]);
    CheckedCall { call: libc::SYS_socket, any }
}

fn unix_sockets(of: &[i32]) -> CheckedCall {
    let any = of.iter().map(|of| vec![family(libc::AF_UNIX), kind(*of), protocol(0)]).collect();
    CheckedCall { call: libc::SYS_socket, any }
}

/// Sockets to name servers, to local daemons (nscd, systemd-resolved, sssd, avahi), and to the
/// kernel's list of addresses, by which getaddrinfo(3) sorts.
fn resolver_sockets() -> CheckedCall {
    let mut any = Vec::new();
    for inet in [libc::AF_INET, libc::AF_INET6] {
        for (of, by) in
            [(libc::SOCK_DGRAM, libc::IPPROTO_UDP), (libc::SOCK_STREAM, libc::IPPROTO_TCP)]
        {
            any.push(vec![family(inet), kind(of), protocol(0)]);
            any.push(vec![family(inet), kind(of), protocol(by)]);
        }
    }
    any.push(vec![family(libc::AF_UNIX), kind(libc::SOCK_STREAM), protocol(0)]);
    any.push(vec![family(libc::AF_UNIX), kind(libc::SOCK_DGRAM), protocol(0)]);
    any.push(vec![family(libc::AF_NETLINK), protocol(libc::NETLINK_ROUTE)]);
    CheckedCall { call: libc::SYS_socket, any }
}

/// Allowed commands of one system call.
struct CheckedCommands {
    call: c_long,
    commands: &'static [u32],
}

impl CheckedCommands {
    fn checked(&self, argument: u8) -> CheckedCall {
        let any = self.commands.iter().map(|command| vec![equal(argument, *command)]).collect();
        CheckedCall { call: self.call, any }
    }
}

/// The number of bytes to acknowledge and to read, and non-blocking mode.
const IOCTLS: CheckedCommands = CheckedCommands {
    call: libc::SYS_ioctl,
    commands: &[libc::TIOCOUTQ as u32, libc::FIONREAD as u32, libc::FIONBIO as u32],
};

/// No FIONBIO, and no F_SETFL below: on descriptors that all workers share (listener, eventfd, log)
/// it would make the other workers block.
const RELAY_IOCTLS: CheckedCommands = CheckedCommands {
    call: libc::SYS_ioctl,
    commands: &[libc::TIOCOUTQ as u32, libc::FIONREAD as u32],
};

const RESOLVER_IOCTLS: CheckedCommands = CheckedCommands {
    call: libc::SYS_ioctl,
    commands: &[
        libc::FIONREAD as u32,
        libc::FIONBIO as u32,
        libc::SIOCGIFNAME as u32,
        libc::SIOCGIFINDEX as u32,
        libc::SIOCGIFFLAGS as u32,
    ],
};

const FCNTLS: CheckedCommands = CheckedCommands {
    call: libc::SYS_fcntl,
    commands: &[
        libc::F_DUPFD_CLOEXEC as u32,
        libc::F_DUPFD as u32,
        libc::F_GETFD as u32,
        libc::F_SETFD as u32,
        libc::F_GETFL as u32,
        libc::F_SETFL as u32,
    ],
};

/// Also the size of pipes. No F_SETOWN: it makes the kernel send signals.
const RELAY_FCNTLS: CheckedCommands = CheckedCommands {
    call: libc::SYS_fcntl,
    commands: &[
        libc::F_DUPFD_CLOEXEC as u32,
        libc::F_GETFD as u32,
        libc::F_SETFD as u32,
        libc::F_GETFL as u32,
        libc::F_GETPIPE_SZ as u32,
        libc::F_SETPIPE_SZ as u32,
    ],
};

/// No F_SETFL: the listener is shared with the page process that replaces this one.
const PAGE_FCNTLS: CheckedCommands = CheckedCommands {
    call: libc::SYS_fcntl,
    commands: &[libc::F_DUPFD_CLOEXEC as u32, libc::F_GETFD as u32],
};

/// Nothing that lasts longer than a check.
const CHECKER_FCNTLS: CheckedCommands = CheckedCommands {
    call: libc::SYS_fcntl,
    commands: &[libc::F_DUPFD_CLOEXEC as u32, libc::F_GETFD as u32],
};

/// The calls that every process needs to allocate memory, tell the time, fail and end.
const BASE: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

const EVENTS: &[c_long] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
];

/// The calls on existing sockets. They make no new socket, and end none.
const SOCKETS: &[c_long] = &[
    libc::SYS_accept4,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
];

const RELAY: &[c_long] = &[
    // The local address towards servers (`source`). With Landlock, the process cannot choose a
    // port.
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getrusage,
    libc::SYS_pipe2,
    // In any direction, at the listener too: a process that may call connect(2) can end a listener
    // anyway. The kernel runs no filter for a call that is allowed with all arguments, and each
    // connection has one or two of these.
    libc::SYS_shutdown,
    libc::SYS_splice,
];

/// Waiting, the channel, and the sockets that readers come with: none is made, bound or connected.
const PAGE: &[c_long] = &[
    libc::SYS_accept4,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
];

/// Waiting, the channel, and sockets to servers. Nobody connects to it.
const CHECKER: &[c_long] = &[
    // The local address towards servers (`source`). With Landlock, the process cannot choose a
    // port.
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
];

/// The calls with names of files. Landlock and the user's rights decide which files may be opened.
const FILES_LOOKED_FOR: &[c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    // Whether a link is in /proc, and whether an access list lets untrusted users write a
    // directory.
    libc::SYS_fstatfs,
    libc::SYS_getxattr,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    libc::SYS_newfstatat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    libc::SYS_openat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    libc::SYS_statfs,
    libc::SYS_statx,
];

/// Questions about the machine and its limits: a library of cryptography may ask, and works without
/// an answer.
const ASKED: &[c_long] =
    &[libc::SYS_prlimit64, libc::SYS_sched_getaffinity, libc::SYS_sysinfo, libc::SYS_uname];

/// The calls of [`FILES_LOOKED_FOR`] that open files, with the argument number of their flags.
const FILES_OPENED: &[(c_long, u8)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1),
    (libc::SYS_openat, 2),
];

/// The calls that write or replace a file, or change its owner.
const FILES_WRITTEN: &[c_long] = &[
    libc::SYS_fchmod,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getuid,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(not(target_arch = "riscv64"))]
    libc::SYS_renameat,
    libc::SYS_renameat2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    libc::SYS_unlinkat,
];

const OPENER: &[c_long] = &[
    libc::SYS_bind,
    libc::SYS_connect,
    // To the directory of a socket and back, if untrusted users can change the path to it. It gives
    // no access to a directory that the process could not open.
    libc::SYS_fchdir,
    libc::SYS_listen,
    libc::SYS_memfd_create,
    libc::SYS_umask,
];

/// Memory, copying into it within the kernel, and the user ids by which links are judged.
const READER: &[c_long] = &[
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getuid,
    libc::SYS_memfd_create,
    libc::SYS_sendfile,
];

/// The syslog daemon, and waiting for standard error.
const REPORTER: &[c_long] = &[
    libc::SYS_connect,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
];

/// getaddrinfo(3) with the plug-ins that nsswitch.conf(5) names.
const RESOLVER: &[c_long] = &[
    libc::SYS_bind,
    // The supervisor's filter answers ENOSYS, and the C library uses clone(2) instead, whose flags
    // a filter can check.
    libc::SYS_clone3,
    libc::SYS_connect,
    libc::SYS_fadvise64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getuid,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_pipe2,
    libc::SYS_pselect6,
    libc::SYS_recvmmsg,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_select,
    libc::SYS_sendmmsg,
    libc::SYS_set_robust_list,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
    libc::SYS_sysinfo,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_uname,
];

const NEVER: &[c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    // Children are only forked, and a successor is executed by execveat(2), which can be checked.
    libc::SYS_execve,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    libc::SYS_kcmp,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// The flags of clone(2) that make namespaces.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET)
    .cast_unsigned();

/// PR_SET_VMA (prctl(2)).
const PR_SET_VMA: u32 = 0x5356_4d41;
