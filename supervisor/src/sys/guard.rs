//! The way back for a program that takes over: until it is in charge, each of its failures executes
//! the program before it again.
//!
//! A failure is an error, a panic, a crash (a handler of the signal), or too long a time (SIGALRM).
//! Each writes its reason into a descriptor, which the program before it reads. Everything that a
//! handler needs is in memory of its own, which is read-only, because the heap may be broken.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::io::{self, Write as _};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use crate::sys::inherited::{Inheritance, set_inheritance};
use crate::sys::program::{self, Program};

/// How the program before this one is executed again.
#[derive(Debug)]
pub(crate) struct Return {
    /// Its arguments; the first is its name.
    pub(crate) argv: Vec<CString>,
    /// Its environment.
    pub(crate) environment: Vec<CString>,
    /// Where the reason goes: the whole content of a file or memory that is open for writing. It
    /// stays open over the execution.
    pub(crate) report: OwnedFd,
}

/// The guard that is in force; [`Guard::disarm`] ends it.
#[derive(Debug)]
pub(crate) struct Guard {
    plan: Pages,
    stack: Pages,
    stack_before: Option<libc::stack_t>,
    actions_before: Vec<(c_int, libc::sigaction)>,
    _report: OwnedFd,
}

/// What a handler needs. It is at the start of its pages; the lists and strings follow.
#[repr(C)]
struct Plan {
    /// The process that executes. Its children have the handlers too.
    owner: libc::pid_t,
    report: c_int,
    argv: *const *const c_char,
    environment: *const *const c_char,
    /// The signals that the program before finds blocked.
    mask: libc::sigset_t,
}

/// The plan in force; null = none.
static PLAN: AtomicPtr<Plan> = AtomicPtr::new(ptr::null_mut());

/// The signals of a crash.
const CRASHES: [c_int; 7] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
    libc::SIGSYS,
    libc::SIGTRAP,
];

const STACK: usize = 1 << 16;

/// The exit status of a process that cannot execute the program before it.
const LOST: c_int = 1;

/// Puts the guard in force. From now on, a failure executes [`Program::Running`], and so does the
/// end of `patience` (zero = no limit). [`program::inherit`] must have succeeded.
///
/// The program before finds the signals blocked that are blocked now, and SIGALRM, and no timer. An
/// alarm that comes before that program ignores alarms would end it.
///
/// # Errors
/// No memory is left, or a handler cannot be set.
pub(crate) fn arm(return_to: Return, patience: Duration) -> io::Result<Guard> {
    let mut mask = blocked();
    // SAFETY: the set is initialized, and the signal is one.
    unsafe { libc::sigaddset(&raw mut mask, libc::SIGALRM) };
    let plan = write_plan(&return_to, mask)?;
    let mut guard = Guard {
        plan,
        stack: Pages::new(STACK)?,
        stack_before: None,
        actions_before: Vec::with_capacity(CRASHES.len() + 1),
        _report: return_to.report,
    };
    PLAN.store(guard.plan.start.as_ptr().cast(), SeqCst);
    let armed = guard.set_handlers().and_then(|()| set_timer(patience));
    armed?;
    // SAFETY: the handler is a function of this program, which exists until its end. It does
    // nothing when no guard is in force. Children of this process end by _exit(2).
    if unsafe { libc::atexit(at_exit) } != 0 {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    panic::set_hook(Box::new(|panic| {
        give_up(&format!("it panicked{}", at_and_why(panic)));
        // In a child, or too late.
        let _ = writeln!(io::stderr(), "pen: {panic}");
    }));
    Ok(guard)
}

/// Runs when the program calls exit(3).
extern "C" fn at_exit() {
    give_up("it ended by itself");
}

/// ` at FILE:LINE: the reason`, as far as they are known.
fn at_and_why(panic: &panic::PanicHookInfo<'_>) -> String {
    let place = panic
        .location()
        .map_or(String::new(), |place| format!(" at {}:{}", place.file(), place.line()));
    let payload = panic.payload();
    let why = payload.downcast_ref::<&str>().copied();
    let why = why.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    why.map_or(place.clone(), |why| format!("{place}: {why}"))
}

/// Whether a guard is in force in this process.
pub(crate) fn is_armed() -> bool {
    plan().is_some()
}

/// Executes the program before this one and leaves it the reason. Returns only if no guard is in
/// force, or in a child.
pub(crate) fn give_up(reason: &str) {
    if let Some(plan) = plan() {
        leave(plan, reason.as_bytes());
    }
}

impl Guard {
    /// Ends the guard: signals have their effect of before, and the panic hook is Rust's.
    pub(crate) fn disarm(self) {
        drop(self);
    }

    fn set_handlers(&mut self) -> io::Result<()> {
        let stack = libc::stack_t {
            ss_sp: self.stack.start.as_ptr().cast(),
            ss_flags: 0,
            ss_size: self.stack.bytes,
        };
        let mut before = MaybeUninit::uninit();
        // SAFETY: the memory is mapped for reading and writing, has this size, and is used for
        // nothing else. It is unmapped only after the stack of before was set again. The kernel
        // fills `before`.
        check(unsafe { libc::sigaltstack(&raw const stack, before.as_mut_ptr()) })?;
        // SAFETY: the call succeeded, so it is filled.
        self.stack_before = Some(unsafe { before.assume_init() });
        let mut unblocked = empty_set();
        for signal in CRASHES.into_iter().chain([libc::SIGALRM]) {
            // SAFETY: zeroes are a valid action: numbers, an empty set and a null pointer.
            let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
            action.sa_sigaction = on_signal as extern "C" fn(c_int) as usize;
            action.sa_mask = full_set();
            action.sa_flags = libc::SA_ONSTACK;
            let mut before = MaybeUninit::uninit();
            // SAFETY: both pointers lead to whole actions. The handler has the signature that
            // belongs to actions without SA_SIGINFO. It calls only async-signal-safe functions, or
            // plain system calls, whose C functions keep no state.
            check(unsafe { libc::sigaction(signal, &raw const action, before.as_mut_ptr()) })?;
            // SAFETY: sigaction(2) has filled it.
            self.actions_before.push((signal, unsafe { before.assume_init() }));
            // SAFETY: the set is initialized, and the signal is one.
            unsafe { libc::sigaddset(&raw mut unblocked, signal) };
        }
        set_mask(libc::SIG_UNBLOCK, &unblocked);
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = set_timer(Duration::ZERO);
        PLAN.store(ptr::null_mut(), SeqCst);
        for (signal, before) in &self.actions_before {
            // SAFETY: the action was this signal's before `arm`, so its handler is valid. The null
            // pointer asks for no answer.
            unsafe { libc::sigaction(*signal, before, ptr::null_mut()) };
        }
        if let Some(before) = &self.stack_before {
            // SAFETY: the stack of before exists as long as the thread, because Rust's runtime owns
            // it. No handler runs on the present one.
            unsafe { libc::sigaltstack(before, ptr::null_mut()) };
        }
        if !thread::panicking() {
            let _ = panic::take_hook();
        }
    }
}

extern "C" fn on_signal(signal: c_int) {
    let Some(plan) = plan() else {
        // A child, or no guard any more.
        // SAFETY: signal(2) with the default action runs no code of this program.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        // SAFETY: raise(3) is async-signal-safe. The signal takes effect when this handler returns.
        unsafe { libc::raise(signal) };
        return;
    };
    if signal == libc::SIGALRM {
        leave(plan, b"it was not ready in time");
    }
    let mut text = *b"it crashed (signal 00)";
    let tens = text.len() - 3;
    text[tens] = b'0' + (signal / 10 % 10) as u8;
    text[tens + 1] = b'0' + (signal % 10) as u8;
    leave(plan, &text)
}

/// The plan, if there is one for this process.
fn plan() -> Option<&'static Plan> {
    // SAFETY: the pointer is null or leads to a plan that `write_plan` completed. The end of a
    // guard sets it to null before the memory is unmapped. There is one thread, so nothing holds
    // the reference by then: a handler that uses it never returns.
    let plan = unsafe { PLAN.load(SeqCst).as_ref() }?;
    // SAFETY: getpid(2) always succeeds and touches no memory.
    (plan.owner == unsafe { libc::getpid() }).then_some(plan)
}

/// Leaves the reason and executes the program before. Only async-signal-safe functions are called
/// (signal-safety(7)), or plain system calls, whose C functions keep no state.
fn leave(plan: &Plan, reason: &[u8]) -> ! {
    // SAFETY: pwrite(2) reads the bytes of the slice; a descriptor that is not open gives EBADF.
    unsafe { libc::pwrite(plan.report, reason.as_ptr().cast(), reason.len(), 0) };
    // SAFETY: ftruncate(2) takes two numbers. A longer reason may have been written just before.
    unsafe { libc::ftruncate(plan.report, reason.len() as libc::off_t) };
    // The timer and the mask outlive the execution.
    let _ = set_timer(Duration::ZERO);
    set_mask(libc::SIG_SETMASK, &plan.mask);
    // SAFETY: the plan has two lists of strings, each with a null pointer at its end.
    let _ = unsafe { program::execute_raw(Program::Running, plan.argv, plan.environment) };
    // SAFETY: _exit(2) takes a number and ends the process.
    unsafe { libc::_exit(LOST) }
}

/// Writes everything that a handler needs into memory of its own, and makes that read-only.
fn write_plan(return_to: &Return, mask: libc::sigset_t) -> io::Result<Pages> {
    let Return { argv, environment, report } = return_to;
    let strings = || argv.iter().chain(environment);
    let pointers = argv.len() + environment.len() + 2;
    let lists = size_of::<Plan>();
    let texts = lists + pointers * size_of::<*const c_char>();
    let bytes = texts + strings().map(|text| text.as_bytes_with_nul().len()).sum::<usize>();
    let pages = Pages::new(bytes)?;
    let at = |offset: usize| pages.start.as_ptr().wrapping_add(offset);
    let (mut list, mut text) = (lists, texts);
    let mut begins = Vec::with_capacity(2);
    for strings in [argv, environment] {
        begins.push(at(list).cast::<*const c_char>().cast_const());
        for string in strings {
            let string = string.as_bytes_with_nul();
            // SAFETY: `bytes` has room for all strings behind the lists, and pages are writable.
            // The source is on the heap.
            unsafe { ptr::copy_nonoverlapping(string.as_ptr(), at(text), string.len()) };
            // SAFETY: there is room for all pointers, aligned because the plan's size is a multiple
            // of their alignment.
            unsafe { at(list).cast::<*const c_char>().write(at(text).cast()) };
            list += size_of::<*const c_char>();
            text += string.len();
        }
        // SAFETY: as before; this is the end of the list. (New pages are zeroes, so it is null.)
        unsafe { at(list).cast::<*const c_char>().write(ptr::null()) };
        list += size_of::<*const c_char>();
    }
    let plan = Plan {
        // SAFETY: getpid(2) always succeeds and touches no memory.
        owner: unsafe { libc::getpid() },
        report: report.as_raw_fd(),
        argv: begins[0],
        environment: begins[1],
        mask,
    };
    // SAFETY: the pages begin at an address with any alignment and have room for it in front.
    unsafe { pages.start.as_ptr().cast::<Plan>().write(plan) };
    pages.protect()?;
    set_inheritance(report.as_raw_fd(), Inheritance::Passes)?;
    Ok(pages)
}

/// Starts the timer that ends the patience, or stops it if there is none.
fn set_timer(patience: Duration) -> io::Result<()> {
    let never = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let value = libc::timeval {
        tv_sec: libc::time_t::try_from(patience.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_usec: patience.subsec_micros() as libc::suseconds_t,
    };
    let timer = libc::itimerval { it_interval: never, it_value: value };
    // SAFETY: setitimer(2) reads the whole timer; the null pointer asks for no answer.
    check(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) })
}

/// Changes the blocked signals of this thread. With a valid `how` and a valid set it cannot fail.
fn set_mask(how: c_int, set: &libc::sigset_t) {
    // SAFETY: it reads an initialized set; the null pointer asks for no answer.
    unsafe { libc::pthread_sigmask(how, set, ptr::null_mut()) };
}

fn blocked() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: with a null pointer for the change, it only fills the set.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, ptr::null(), set.as_mut_ptr()) };
    // SAFETY: the call above fills it, and cannot fail with these arguments.
    unsafe { set.assume_init() }
}

fn empty_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset(3) initializes the set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: it was initialized just now.
    unsafe { set.assume_init() }
}

fn full_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset(3) initializes the set.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    // SAFETY: it was initialized just now.
    unsafe { set.assume_init() }
}

fn check(result: c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Memory from mmap(2); unmapped when dropped.
#[derive(Debug)]
struct Pages {
    start: NonNull<u8>,
    bytes: usize,
}

impl Pages {
    /// Zeroes, for reading and writing.
    fn new(bytes: usize) -> io::Result<Pages> {
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address that the kernel chooses; no existing memory is
        // touched.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, -1, 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast::<c_void>() != libc::MAP_FAILED => {
                Ok(Pages { start, bytes })
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes them read-only.
    fn protect(&self) -> io::Result<()> {
        // SAFETY: these pages are ours, and no reference to their content exists.
        check(unsafe { libc::mprotect(self.start.as_ptr().cast(), self.bytes, libc::PROT_READ) })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: start and length are those of our own mmap. The plan is not in force and the
        // stack is not in use by now (the drop of `Guard`).
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::{FromRawFd, RawFd};
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::{env, fs};

    use nix::sys::signal::{SigSet, Signal};
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    const ROLE: &str = "PEN_TEST_GUARD";
    const REPORT: &str = "PEN_TEST_GUARD_REPORT";
    const NAME: &str = "sys::guard::tests::role";

    fn run(role: &str) -> (Option<i32>, Option<i32>, String) {
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), output.status.signal(), printed)
    }

    #[test]
    fn every_failure_executes_the_program_before_and_leaves_it_the_reason() {
        for (role, reason) in [
            ("SEGV", "it crashed (signal 11)"),
            ("overflow", "it crashed (signal 11)"),
            ("ABRT", "it crashed (signal 06)"),
            ("SYS", "it crashed (signal 31)"),
            ("late", "it was not ready in time"),
            ("panic", "it panicked at "),
            ("error", "a reason of its own"),
            ("blocked", "it crashed (signal 08)"),
            ("twice", "it was not ready in time"),
        ] {
            let (status, _, printed) = run(role);
            let wanted = format!("the program before: {reason}");
            assert!(status == Some(0) && printed.contains(&wanted), "{role}: {printed}");
        }
    }

    #[test]
    fn children_and_a_guard_that_has_ended_do_not_go_back() {
        for (role, signal) in [("child", None), ("disarmed", Some(libc::SIGSEGV))] {
            let (_, found, printed) = run(role);
            assert!(!printed.contains("the program before"), "{role}: {printed}");
            assert!(printed.contains("as it was"), "{role}: {printed}");
            assert_eq!(found, signal, "{role}: {printed}");
        }
    }

    /// Plays a role in the process that was started for it; does nothing in any other.
    #[test]
    fn role() {
        let Ok(role) = env::var(ROLE) else { return };
        if role == "before" {
            return before();
        }
        program::hold_running().unwrap();
        let report = memfd_create("report", MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&report, &[b'x'; 100]).unwrap();
        let text = |text: &str| CString::new(text).unwrap();
        let return_to = Return {
            argv: ["pen", "--exact", NAME, "--nocapture", "--test-threads=1"].map(text).into(),
            environment: vec![
                text(&format!("{ROLE}=before")),
                text(&format!("{REPORT}={}", report.as_raw_fd())),
            ],
            report,
        };
        if role == "blocked" {
            SigSet::from(Signal::SIGUSR2).thread_block().unwrap();
        }
        let patience =
            Duration::from_millis(if ["late", "twice"].contains(&&*role) { 20 } else { 60_000 });
        let alarm = action(libc::SIGALRM);
        let guard = arm(return_to, patience).unwrap();
        match &*role {
            "SEGV" => crash(Signal::SIGSEGV),
            "ABRT" => std::process::abort(),
            "SYS" => crash(Signal::SIGSYS),
            "blocked" => crash(Signal::SIGFPE),
            "overflow" => println!("{}", overflow(1)),
            "late" => loop {
                std::thread::park();
            },
            "twice" => {
                // The end of the patience comes while the handler of another failure runs.
                let mut both = SigSet::from(Signal::SIGALRM);
                both.add(Signal::SIGTRAP);
                both.thread_block().unwrap();
                crash(Signal::SIGTRAP);
                std::thread::sleep(Duration::from_millis(40));
                both.thread_unblock().unwrap();
            }
            "panic" => panic!("on purpose"),
            "error" => give_up("a reason of its own"),
            "child" => {
                let child = crate::sys::fork(|| {
                    give_up("in a child");
                    crash(Signal::SIGSEGV);
                    0
                });
                let status = nix::sys::wait::waitpid(child.unwrap(), None).unwrap();
                println!("{status:?}: as it was");
                assert!(format!("{status:?}").contains("SIGSEGV"));
            }
            "disarmed" => {
                guard.disarm();
                assert!(!is_armed() && action(libc::SIGALRM) == alarm);
                give_up("no guard any more");
                println!("as it was");
                // Rust's handler sets the default action; the second signal ends the process.
                crash(Signal::SIGSEGV);
                crash(Signal::SIGSEGV);
            }
            other => panic!("{other}"),
        }
    }

    /// The program before: prints the reason, and checks what outlives an execution.
    fn before() {
        let report: RawFd = env::var(REPORT).unwrap().parse().unwrap();
        // SAFETY: the descriptor was inherited, and nothing else owns it.
        let mut report = unsafe { fs::File::from_raw_fd(report) };
        let mut reason = String::new();
        std::io::Seek::rewind(&mut report).unwrap();
        report.read_to_string(&mut reason).unwrap();
        let blocked = SigSet::thread_get_mask().unwrap();
        for signal in CRASHES.map(|signal| Signal::try_from(signal).unwrap()) {
            assert!(!blocked.contains(signal), "{signal}");
        }
        assert!(blocked.contains(Signal::SIGALRM), "a late alarm waits until it is ignored");
        assert_eq!(blocked.contains(Signal::SIGUSR2), reason.contains("08"));
        let mut timer = MaybeUninit::uninit();
        // SAFETY: getitimer(2) fills the timer.
        unsafe { libc::getitimer(libc::ITIMER_REAL, timer.as_mut_ptr()) };
        // SAFETY: it was filled just now.
        let timer = unsafe { timer.assume_init() };
        assert_eq!((timer.it_value.tv_sec, timer.it_value.tv_usec), (0, 0));
        println!("the program before: {reason}");
    }

    fn action(signal: c_int) -> usize {
        let mut action = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: with a null pointer for the change, it only fills the action.
        unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
        // SAFETY: it was filled just now.
        unsafe { action.assume_init() }.sa_sigaction
    }

    fn crash(signal: Signal) {
        nix::sys::signal::raise(signal).unwrap();
    }

    #[expect(unconditional_recursion)]
    fn overflow(depth: u64) -> u64 {
        let room = std::hint::black_box([depth; 512]);
        overflow(depth + 1) + room[511]
    }
}
