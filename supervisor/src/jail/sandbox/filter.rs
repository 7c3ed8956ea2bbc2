//! Lists of system calls become programs for the kernel (seccomp(2)), and are installed.
//!
//! The kernel keeps, for each process, a bit per system call that every one of its filters allows
//! whatever the arguments are (since Linux 5.11); those are not filtered at all. That is why hot
//! calls are on the lists without conditions.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use crate::jail::sandbox::calls::{Calls, Check};
use crate::sys;

/// Installs what a jailed process may do: what is not on the list ends it. Returns how many filters
/// that took.
///
/// # Errors
/// The kernel has no such filters, or refuses them.
pub(in crate::jail::sandbox) fn allow(calls: Calls) -> io::Result<u32> {
    let Calls { plain, checked, refused } = calls;
    let refusal = (!refused.is_empty()).then(|| {
        let calls = Calls { plain: refused.clone(), ..Calls::default() };
        compile(calls, SeccompAction::Allow, SeccompAction::Errno(libc::EACCES.cast_unsigned()))
    });
    // The stricter of two answers counts, so what is refused must not be deadly.
    let plain = plain.into_iter().chain(refused).collect();
    let allowed = compile(
        Calls { plain, checked, refused: Vec::new() },
        SeccompAction::KillProcess,
        SeccompAction::Allow,
    )?;
    let programs =
        refusal.into_iter().chain([Ok(allowed)]).collect::<io::Result<Vec<BpfProgram>>>()?;
    install(&programs)
}

/// Installs what the supervisor and its children cannot do: it fails with EPERM. Returns how many
/// filters that took.
///
/// # Errors
/// As [`allow`].
pub(in crate::jail::sandbox) fn deny(calls: Calls) -> io::Result<u32> {
    let denied =
        compile(calls, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM.cast_unsigned()))?;
    install(&[gate(), denied])
}

fn install(programs: &[BpfProgram]) -> io::Result<u32> {
    for program in programs {
        let program: Vec<libc::sock_filter> = program
            .iter()
            .map(|step| libc::sock_filter { code: step.code, jt: step.jt, jf: step.jf, k: step.k })
            .collect();
        sys::filter_system_calls(&program)?;
    }
    // Two at most.
    Ok(programs.len() as u32)
}

fn compile(
    calls: Calls,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> io::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for checked in calls.checked {
        let any: Result<Vec<_>, _> = checked.any.into_iter().map(rule).collect();
        rules.entry(checked.call).or_default().extend(any.map_err(io::Error::other)?);
    }
    rules.extend(calls.plain.into_iter().map(|call| (call, Vec::new())));
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, otherwise, listed, arch).map_err(io::Error::other)?;
    BpfProgram::try_from(filter).map_err(io::Error::other)
}

fn rule(all: Vec<Check>) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition = |Check { argument, mask, value }| {
        let operator = SeccompCmpOp::MaskedEq(mask.into());
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.into())
    };
    SeccompRule::new(all.into_iter().map(condition).collect::<Result<_, _>>()?)
}

/// Two answers that no list can express. clone3(2) does not exist: its flags are in memory, where
/// no filter sees them, and the C library then uses clone(2). And on x86-64 there is no second set
/// of numbers (x32), which would pass by every list.
fn gate() -> BpfProgram {
    let step = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    let answer = |errno: i32| {
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned())
    };
    vec![
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NUMBER),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_clone3 as u32),
        answer(libc::ENOSYS),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32),
        answer(libc::EPERM),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// Where the number of the call is in `struct seccomp_data`.
const NUMBER: u32 = 0;

/// __X32_SYSCALL_BIT. No other architecture has numbers that large.
const X32: u32 = 0x4000_0000;
