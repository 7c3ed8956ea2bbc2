//! The environment of the process. The kernel shows its memory in /proc/PID/environ as long as the
//! process and its children live, and service managers put passwords there.

#![allow(unsafe_code)]

use std::env;
use std::ffi::{CStr, c_char};
use std::ptr;

unsafe extern "C" {
    /// The C library's list of variables (environ(7)): pointers to strings, the last of them null.
    static mut environ: *const *const c_char;
}

/// The memory of the environment, as found at the start.
#[derive(Debug)]
pub(crate) struct Environment {
    start: *mut u8,
    /// In bytes.
    length: usize,
}

impl Environment {
    /// Finds it. Call this before anything changes a variable, and before there is a second thread.
    pub(crate) fn find() -> Environment {
        // SAFETY: nobody changes the C library's pointer during this read, because there is one
        // thread.
        let list = unsafe { environ };
        let mut block = Environment { start: ptr::null_mut(), length: 0 };
        if list.is_null() {
            return block;
        }
        for n in 0.. {
            // SAFETY: the list ends with a null pointer (environ(7)), and the entry before was not
            // null.
            let variable = unsafe { *list.wrapping_add(n) };
            // The kernel puts the strings one behind another (execve(2)); a string elsewhere is not
            // from the kernel.
            let is_next =
                n == 0 || variable.cast_mut().cast() == block.start.wrapping_add(block.length);
            if variable.is_null() || !is_next {
                break;
            }
            if n == 0 {
                block.start = variable.cast_mut().cast();
            }
            // SAFETY: each pointer of the list leads to a string that ends with a NUL. Nobody
            // changes it meanwhile.
            block.length += unsafe { CStr::from_ptr(variable) }.to_bytes_with_nul().len();
        }
        block
    }

    /// Overwrites it, for this process and all later children. The variables in `kept` are copied
    /// to other memory first.
    pub(crate) fn wipe(self, kept: &[&str]) {
        let kept: Vec<_> =
            kept.iter().filter_map(|name| Some((*name, env::var_os(name)?))).collect();
        // SAFETY: the environment may be changed because there is one thread, which `run` requires
        // of its caller.
        unsafe { libc::clearenv() };
        for (name, value) in kept {
            // SAFETY: as before. setenv(3), which this calls, copies the strings.
            unsafe { env::set_var(name, value) };
        }
        if self.length > 0 {
            // SAFETY: after clearenv(3) no list points into the block any more. No reference to it
            // is left: `std::env` copies what it returns, and the C library's loader copied what it
            // needs. The block is writable memory of the process, above all frames of its stack
            // (execve(2)). Its length was measured while it was complete.
            unsafe { ptr::write_bytes(self.start, 0, self.length) };
        }
    }
}
