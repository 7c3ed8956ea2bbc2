//! The kernel's information about this process, read through a descriptor that was opened before
//! the process lost access to the file.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// /proc/thread-self/status, open.
#[derive(Debug)]
pub(crate) struct KernelStatus(Option<File>);

/// The part of it that concerns a sandbox.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct SeccompStatus {
    pub(crate) no_new_privileges: bool,
    /// The number of seccomp filters; all of them apply.
    pub(crate) filters: u32,
}

impl KernelStatus {
    /// Opens it. Without /proc there is none, and the results of the system calls have to do.
    pub(crate) fn open() -> KernelStatus {
        KernelStatus(File::open("/proc/thread-self/status").ok())
    }

    /// Reads it now.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn read(&self) -> io::Result<Option<SeccompStatus>> {
        let Some(file) = &self.0 else { return Ok(None) };
        let mut text = vec![0; LONGEST];
        let length = file.read_at(&mut text, 0)?;
        Ok(Some(seccomp(&String::from_utf8_lossy(&text[..length]))))
    }
}

fn seccomp(status: &str) -> SeccompStatus {
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    };
    SeccompStatus {
        no_new_privileges: number("NoNewPrivs") == 1,
        filters: number("Seccomp_filters"),
    }
}

const LONGEST: usize = 1 << 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let text = "Name:\tpen\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t4\n";
        assert_eq!(seccomp(text), SeccompStatus { no_new_privileges: true, filters: 4 });
        assert_eq!(seccomp(""), SeccompStatus::default());
    }
}
