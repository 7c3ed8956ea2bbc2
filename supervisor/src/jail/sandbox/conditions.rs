//! What a list of system calls is made of: calls, and conditions on their arguments.

#![forbid(unsafe_code)]

use libc::c_long;

/// A system call that is allowed if one of several sets of conditions holds.
#[derive(Clone, Debug)]
pub(crate) struct CheckedCall {
    pub(crate) call: c_long,
    pub(crate) any: Vec<Vec<Check>>,
}

/// A condition on an argument.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check {
    pub(crate) argument: u8,
    pub(crate) test: Test,
}

/// What the condition is. Of most arguments only the low 32 bits count for the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Test {
    /// `argument & mask == value`, with 32 bits.
    Bits { mask: u32, value: u32 },
    /// Any value but this one, with 32 bits.
    Other(u32),
    /// Any address but this one.
    OtherAddress(u64),
}

/// The system calls of a kind of process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls {
    /// Allowed with any arguments.
    pub(crate) plain: Vec<c_long>,
    /// Allowed with certain arguments.
    pub(crate) checked: Vec<CheckedCall>,
    /// Calls that fail with EACCES instead of killing the process: libraries look for optional
    /// files and ask for information that they can do without.
    pub(crate) refused: Vec<c_long>,
}

/// These bits of an argument have this value.
pub(super) const fn bits(argument: u8, mask: u32, value: u32) -> Check {
    Check { argument, test: Test::Bits { mask, value } }
}

/// An argument has this value.
pub(super) const fn equal(argument: u8, value: u32) -> Check {
    bits(argument, u32::MAX, value)
}

/// A call with this value of an argument only.
pub(super) fn only(call: c_long, argument: u8, value: u32) -> CheckedCall {
    CheckedCall { call, any: vec![vec![equal(argument, value)]] }
}
