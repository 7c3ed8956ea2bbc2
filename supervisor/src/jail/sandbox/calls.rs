//! Which system calls each kind of process may make, and with which arguments. Pure data; `filter`
//! makes programs of it.
//!
//! The lists were found with strace(1) over the test suite and long runs under load, and by reading
//! what the C library and the crates may call on paths that no run takes (abort, an old kernel, a
//! resolver's plug-ins). The rule for additions: only what cannot reach another process, a file by
//! its name, or a kernel interface that the process has no use for.

#![forbid(unsafe_code)]

use libc::c_long;

use crate::jail::sandbox::Kind;

/// A system call that is allowed if one of several sets of conditions holds.
#[derive(Clone, Debug)]
pub(in crate::jail::sandbox) struct Checked {
    pub(in crate::jail::sandbox) call: c_long,
    pub(in crate::jail::sandbox) any: Vec<Vec<Check>>,
}

/// A condition on an argument, of which only the low 32 bits count for the kernel: `argument & mask
/// == value`.
#[derive(Clone, Copy, Debug)]
pub(in crate::jail::sandbox) struct Check {
    pub(in crate::jail::sandbox) argument: u8,
    pub(in crate::jail::sandbox) mask: u32,
    pub(in crate::jail::sandbox) value: u32,
}

/// What a kind of process may call.
#[derive(Clone, Debug, Default)]
pub(in crate::jail::sandbox) struct Calls {
    /// With any arguments.
    pub(in crate::jail::sandbox) plain: Vec<c_long>,
    /// With some.
    pub(in crate::jail::sandbox) checked: Vec<Checked>,
    /// What fails with EACCES instead of ending the process: libraries look for files that need
    /// not be there, and ask what they need not know.
    pub(in crate::jail::sandbox) refused: Vec<c_long>,
}

impl Kind {
    /// The list. `own` is the pid of the process, the only one that it may signal, to abort.
    pub(in crate::jail::sandbox) fn calls(self, own: u32) -> Calls {
        let mut calls = Calls::default();
        calls.plain.extend(BASE);
        calls.checked.push(only(libc::SYS_tgkill, 0, own));
        // Names for mappings in /proc, which only this process has any use for; newer C libraries
        // give them.
        calls.checked.push(only(libc::SYS_prctl, 0, PR_SET_VMA));
        if self != Kind::Resolver {
            calls.checked.push(without_execution(libc::SYS_mmap));
            calls.checked.push(without_execution(libc::SYS_mprotect));
        }
        match self {
            Kind::Relay => {
                calls.plain.extend(EVENTS.iter().chain(SOCKETS).chain(RELAY));
                calls.refused.extend(FILES_LOOKED_FOR.iter().chain(ASKED));
                calls.checked.extend([
                    relay_sockets(),
                    options(),
                    RELAY_IOCTLS.checked(1),
                    RELAY_FCNTLS.checked(1),
                ]);
            }
            Kind::Examiner => {
                calls.plain.extend(SOCKETS);
                calls.refused.extend(FILES_LOOKED_FOR.iter().chain(ASKED));
                calls.checked.push(FCNTLS.checked(1));
            }
            Kind::Control => {
                calls.plain.extend(
                    EVENTS.iter().chain(SOCKETS).chain(FILES_LOOKED_FOR).chain(FILES_WRITTEN),
                );
                calls.checked.extend([options(), IOCTLS.checked(1), FCNTLS.checked(1)]);
            }
            Kind::Opener => {
                calls.plain.extend(
                    SOCKETS.iter().chain(FILES_LOOKED_FOR).chain(FILES_WRITTEN).chain(OPENER),
                );
                calls.checked.extend([unix_sockets(&[libc::SOCK_STREAM]), FCNTLS.checked(1)]);
                // The commands of a file go to the supervisor in memory that is sealed.
                calls.checked.push(only(libc::SYS_fcntl, 1, libc::F_ADD_SEALS.cast_unsigned()));
            }
            Kind::Writer => {
                calls.plain.extend(FILES_LOOKED_FOR.iter().chain(FILES_WRITTEN));
                calls.checked.push(FCNTLS.checked(1));
                // A file that cannot be replaced is overwritten, under a lock.
                calls.checked.push(only(libc::SYS_fcntl, 1, libc::F_SETLKW.cast_unsigned()));
            }
            Kind::Reader => {
                calls.plain.extend(SOCKETS.iter().chain(FILES_LOOKED_FOR).chain(READER));
                calls.plain.retain(|call| !FILES_OPENED.iter().any(|(opening, _)| opening == call));
                calls
                    .checked
                    .extend(FILES_OPENED.iter().map(|(call, flags)| for_reading(*call, *flags)));
                calls.checked.push(FCNTLS.checked(1));
                // What was read goes to the supervisor in memory that is sealed.
                calls.checked.push(only(libc::SYS_fcntl, 1, libc::F_ADD_SEALS.cast_unsigned()));
            }
            Kind::Reporter => {
                calls.plain.extend(
                    SOCKETS.iter().chain(FILES_LOOKED_FOR).chain(FILES_WRITTEN).chain(REPORTER),
                );
                // The syslog daemon's socket is of either kind.
                calls.checked.extend([
                    unix_sockets(&[libc::SOCK_DGRAM, libc::SOCK_STREAM]),
                    FCNTLS.checked(1),
                ]);
                // Two reports into one file wait for one another.
                calls.checked.push(only(libc::SYS_fcntl, 1, libc::F_SETLKW.cast_unsigned()));
            }
            Kind::Resolver => {
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
                // A new value is the third argument: only asking.
                calls
                    .checked
                    .push(Checked { call: libc::SYS_prlimit64, any: vec![vec![equal(2, 0)]] });
            }
        }
        calls
    }
}

/// What the supervisor and all that descend from it cannot have (EPERM): what opens the kernel,
/// other processes, or another program. What stands on no list here is checked by the kernel as
/// ever.
pub(in crate::jail::sandbox) fn never() -> Calls {
    let namespaces = Check { argument: 0, mask: NAMESPACES, value: 0 };
    let any_namespace = |bit: u32| vec![Check { mask: bit, value: bit, ..namespaces }];
    let bits = (0..32).map(|shift| 1 << shift).filter(|bit| NAMESPACES & bit != 0);
    Calls {
        plain: NEVER.to_vec(),
        checked: vec![Checked { call: libc::SYS_clone, any: bits.map(any_namespace).collect() }],
        refused: Vec::new(),
    }
}

const fn equal(argument: u8, value: u32) -> Check {
    Check { argument, mask: u32::MAX, value }
}

fn only(call: c_long, argument: u8, value: u32) -> Checked {
    Checked { call, any: vec![vec![equal(argument, value)]] }
}

/// Memory, but none that can be executed.
fn without_execution(call: c_long) -> Checked {
    Checked {
        call,
        any: vec![vec![Check { argument: 2, mask: libc::PROT_EXEC.cast_unsigned(), value: 0 }]],
    }
}

/// Files, but nothing is written, made or emptied.
fn for_reading(call: c_long, flags: u8) -> Checked {
    let mask = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC).cast_unsigned();
    Checked {
        call,
        any: vec![vec![Check { argument: flags, mask, value: libc::O_RDONLY.cast_unsigned() }]],
    }
}

/// Threads, as plug-ins of the resolver may have them, but no processes and no namespaces.
fn threads() -> Checked {
    let thread = libc::CLONE_THREAD.cast_unsigned();
    Checked {
        call: libc::SYS_clone,
        any: vec![vec![Check { argument: 0, mask: thread | NAMESPACES, value: thread }]],
    }
}

const fn family(family: i32) -> Check {
    equal(0, family.cast_unsigned())
}

/// The type without SOCK_NONBLOCK and SOCK_CLOEXEC.
const fn kind(kind: i32) -> Check {
    Check { argument: 1, mask: 0xf, value: kind.cast_unsigned() }
}

const fn protocol(protocol: i32) -> Check {
    equal(2, protocol.cast_unsigned())
}

/// TCP (not Multipath TCP, not SCTP) and Unix streams, towards servers; and UDP, by which a worker
/// learns, without sending anything, whether this machine has an address to reach a server from.
fn relay_sockets() -> Checked {
    let mut any = Vec::new();
    for inet in [libc::AF_INET, libc::AF_INET6] {
        any.push(vec![family(inet), kind(libc::SOCK_STREAM), protocol(0)]);
        any.push(vec![family(inet), kind(libc::SOCK_STREAM), protocol(libc::IPPROTO_TCP)]);
        any.push(vec![family(inet), kind(libc::SOCK_DGRAM), protocol(0)]);
    }
    any.push(vec![family(libc::AF_UNIX), kind(libc::SOCK_STREAM), protocol(0)]);
    Checked { call: libc::SYS_socket, any }
}

fn unix_sockets(of: &[i32]) -> Checked {
    let any = of.iter().map(|of| vec![family(libc::AF_UNIX), kind(*of), protocol(0)]).collect();
    Checked { call: libc::SYS_socket, any }
}

/// Name servers, local daemons (nscd, systemd-resolved, sssd, avahi), and the kernel's list of
/// addresses, by which getaddrinfo(3) sorts.
fn resolver_sockets() -> Checked {
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
    Checked { call: libc::SYS_socket, any }
}

/// Options of sockets, TCP and IP; none of packet filters, of the link layer, or of any other
/// protocol.
fn options() -> Checked {
    let levels = [libc::SOL_SOCKET, libc::IPPROTO_TCP, libc::IPPROTO_IP, libc::IPPROTO_IPV6];
    Checked {
        call: libc::SYS_setsockopt,
        any: levels.iter().map(|level| vec![equal(1, level.cast_unsigned())]).collect(),
    }
}

/// Commands of one system call.
struct Commands {
    call: c_long,
    commands: &'static [u32],
}

impl Commands {
    fn checked(&self, argument: u8) -> Checked {
        let any = self.commands.iter().map(|command| vec![equal(argument, *command)]).collect();
        Checked { call: self.call, any }
    }
}

/// How many bytes wait to be acknowledged, and to be read; and that nobody waits.
const IOCTLS: Commands = Commands {
    call: libc::SYS_ioctl,
    commands: &[libc::TIOCOUTQ as u32, libc::FIONREAD as u32, libc::FIONBIO as u32],
};

/// No FIONBIO, and no F_SETFL below: what all workers share (listener, eventfd, log) would make the
/// others wait.
const RELAY_IOCTLS: Commands =
    Commands { call: libc::SYS_ioctl, commands: &[libc::TIOCOUTQ as u32, libc::FIONREAD as u32] };

const RESOLVER_IOCTLS: Commands = Commands {
    call: libc::SYS_ioctl,
    commands: &[
        libc::FIONREAD as u32,
        libc::FIONBIO as u32,
        libc::SIOCGIFNAME as u32,
        libc::SIOCGIFINDEX as u32,
        libc::SIOCGIFFLAGS as u32,
    ],
};

const FCNTLS: Commands = Commands {
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

/// And the size of pipes. No F_SETOWN: it makes the kernel send signals.
const RELAY_FCNTLS: Commands = Commands {
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

/// What every process needs to live, allocate, tell the time, fail and end.
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

/// What can be done with sockets that are there. None can be had by it.
const SOCKETS: &[c_long] = &[
    libc::SYS_accept4,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
];

const RELAY: &[c_long] = &[
    // The local address towards servers (`source`). Where the kernel has Landlock, no port can be
    // chosen.
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getrusage,
    libc::SYS_pipe2,
    libc::SYS_splice,
];

/// Names of files. Which of them may be opened is for Landlock and the user's rights.
const FILES_LOOKED_FOR: &[c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    // Whether a link is one of /proc, and whether an access list lets strangers write a directory.
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

/// About the machine and its limits: a library of cryptography may ask, and does without an answer.
const ASKED: &[c_long] =
    &[libc::SYS_prlimit64, libc::SYS_sched_getaffinity, libc::SYS_sysinfo, libc::SYS_uname];

/// Those of [`FILES_LOOKED_FOR`] that open, and where their flags are.
const FILES_OPENED: &[(c_long, u8)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1),
    (libc::SYS_openat, 2),
];

/// What it takes to write a file, to replace one, and to say whose it is.
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
    // To the directory of a socket and back, if strangers can change the way there; to none that
    // it could not open.
    libc::SYS_fchdir,
    libc::SYS_listen,
    libc::SYS_memfd_create,
    libc::SYS_umask,
];

/// Memory, what is copied into it without being looked at, and by which user links are judged.
const READER: &[c_long] = &[
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getuid,
    libc::SYS_memfd_create,
    libc::SYS_sendfile,
];

/// The syslog daemon, and standard error when it is slow.
const REPORTER: &[c_long] = &[
    libc::SYS_connect,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
];

/// getaddrinfo(3) with whatever plug-ins nsswitch.conf(5) names.
const RESOLVER: &[c_long] = &[
    libc::SYS_bind,
    // Answered with ENOSYS by the supervisor's filter, and then clone(2) is used, whose flags can
    // be seen.
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
    // Nothing is ever executed: children are forked.
    libc::SYS_execve,
    libc::SYS_execveat,
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
