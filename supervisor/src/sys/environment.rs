//! The environment that the process was started with. The kernel shows that memory in
//! /proc/PID/environ for as long as the process and its children live, and what starts services
//! puts passwords there.

#![allow(unsafe_code)]

use std::env;
use std::ffi::{CStr, c_char};
use std::ptr;

unsafe extern "C" {
    /// The C library's list of variables (environ(7)): pointers to strings, the last of them null.
    static mut environ: *const *const c_char;
}

/// The memory of the environment, as it was found at the start.
#[derive(Debug)]
pub(crate) struct Environment {
    start: *mut u8,
    /// In bytes.
    length: usize,
}

impl Environment {
    /// Finds it. To be called before anything changes a variable, and before there is a second
    /// thread.
    pub(crate) fn find() -> Environment {
        // SAFETY: nobody changes the C library's pointer while it is read here, because there is
        // one thread.
        let list = unsafe { environ };
        let mut block = Environment { start: ptr::null_mut(), length: 0 };
        if list.is_null() {
            return block;
        }
        for n in 0.. {
            // SAFETY: the list ends with a null pointer (environ(7)), and it was not the one
            // before.
            let variable = unsafe { *list.wrapping_add(n) };
            // The kernel puts the strings one behind another (execve(2)); what is elsewhere is not
            // the kernel's.
            let is_next =
                n == 0 || variable.cast_mut().cast() == block.start.wrapping_add(block.length);
            if variable.is_null() || !is_next {
                break;
            }
            if n == 0 {
                block.start = variable.cast_mut().cast();
            }
            // SAFETY: each pointer of the list leads to a string that ends with a NUL and that
            // nobody changes meanwhile.
            block.length += unsafe { CStr::from_ptr(variable) }.to_bytes_with_nul().len();
        }
        block
    }

    /// Overwrites it, for this process and all that it forks from now on. The variables in `kept`
    /// are kept elsewhere.
    pub(crate) fn wipe(self, kept: &[&str]) {
        let kept: Vec<_> =
            kept.iter().filter_map(|name| Some((*name, env::var_os(name)?))).collect();
        // SAFETY: the environment may be changed because there is one thread, the first thing that
        // `run` asks of its caller.
        unsafe { libc::clearenv() };
        for (name, value) in kept {
            // SAFETY: as before. setenv(3), which this calls, copies.
            unsafe { env::set_var(name, value) };
        }
        if self.length > 0 {
            // SAFETY: after clearenv(3) no list points into the block any more. No reference to it
            // is left: `std::env` copies what it returns, and the C library's loader
            // copied what it needs. The block is the process's own writable memory, above all
            // frames of its stack (execve(2)), and it was found with this length while
            // it was whole.
            unsafe { ptr::write_bytes(self.start, 0, self.length) };
        }
    }
}
