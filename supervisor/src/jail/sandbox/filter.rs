//! Conversion of lists of system calls to seccomp(2) programs, and their installation.
//!
//! Since Linux 5.11 the kernel keeps for each process the set of system calls that all its filters
//! allow with any arguments. It does not run the filters for those calls. So frequent calls are on
//! the lists without conditions.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use crate::jail::sandbox::conditions::{Calls, Check, Test};
use crate::sys;

/// Installs the list of a jailed process: any other call kills it. Returns the number of filters.
///
/// # Errors
/// The kernel has no such filters, or refuses them.
pub(crate) fn allow(calls: Calls) -> io::Result<u32> {
    let Calls { plain, checked, refused } = calls;
    let refusal = (!refused.is_empty()).then(|| {
        let calls = Calls { plain: refused.clone(), ..Calls::default() };
        compile(calls, SeccompAction::Allow, SeccompAction::Errno(libc::EACCES.cast_unsigned()))
    });
    // The stricter of two filters wins, so the first must not kill for the calls that the second
    // refuses.
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

/// Installs the list of calls that fail with EPERM in the supervisor and its children. Returns the
/// number of filters.
///
/// # Errors
/// As [`allow`].
pub(crate) fn deny(calls: Calls) -> io::Result<u32> {
    install(&denial(calls)?)
}

/// The programs of [`deny`].
pub(crate) fn denial(calls: Calls) -> io::Result<[BpfProgram; 2]> {
    let refusal = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    Ok([gate(), compile(calls, SeccompAction::Allow, refusal)?])
}

/// Whether the kernel has memory with a descriptor that cannot be executed (Linux 6.3).
pub(crate) fn knows_memory_without_execution() -> bool {
    let made = memfd_create(c"pen", MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL);
    !matches!(made, Err(Errno::INVAL))
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
    let condition = |Check { argument, test }| {
        let (length, operator, value) = match test {
            Test::Bits { mask, value } => {
                (SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask.into()), value.into())
            }
            Test::Other(value) => (SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value.into()),
            Test::OtherAddress(address) => (SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, address),
        };
        SeccompCondition::new(argument, length, operator, value)
    };
    SeccompRule::new(all.into_iter().map(condition).collect::<Result<_, _>>()?)
}

/// Two rules that no list can express. clone3(2) fails with ENOSYS: its flags are in memory, where
/// no filter sees them, and the C library then uses clone(2). On x86-64, the second set of numbers
/// (x32) is blocked, because it would bypass every list.
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

/// The offset of the call's number in `struct seccomp_data`.
const NUMBER: u32 = 0;

/// __X32_SYSCALL_BIT. No other architecture has numbers of this size.
const X32: u32 = 0x4000_0000;
