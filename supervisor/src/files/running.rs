//! Comparison of the options of a `--check` with those of the running pen.
//!
//! A reload reads the files again, but not the options. After a change of options, a reload
//! succeeds and the change has no effect: a service may stay open that was meant to be closed. So
//! the check before the reload reports the difference.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::files::pid_file;
use crate::sys::title;
use crate::sys::title::SUPERVISOR;

/// The line for the administrator if the pen of this pid file runs with other options than this
/// process. None if they are equal or cannot be determined.
pub(crate) fn has_other_options(file: &Path) -> Option<String> {
    let pid = pid_file::running(file)?;
    let shown = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let title = shown.split(|byte| *byte == 0).next().unwrap_or_default();
    let given: Vec<Vec<u8>> =
        std::env::args_os().skip(1).map(|word| word.as_bytes().to_vec()).collect();
    (title::is_whole(pid, title) && differ(title, &given)).then(|| {
        format!(
            "options changed since the running pen (pid {pid}) was started: only a restart \
            puts them in force"
        )
    })
}

/// Whether a supervisor's title shows other options than these. False if it is no such title.
fn differ(title: &[u8], given: &[Vec<u8>]) -> bool {
    let Some(started) = title.strip_prefix(SUPERVISOR) else { return false };
    !counting(started).eq(counting(&given.join(&b' ')))
}

/// The words of the command line that affect serving: all but `--check`, `--show` and `-f`.
fn counting(arguments: &[u8]) -> impl Iterator<Item = &[u8]> {
    const OTHERS: [&[u8]; 5] = [b"", b"--check", b"--show", b"-f", b"--foreground"];
    arguments.split(|byte| *byte == b' ').filter(|word| !OTHERS.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<Vec<u8>> {
        line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn only_what_says_how_pen_serves_is_compared() {
        let shown = b"pen: supervisor -f -u pen -F /etc/pen/www.conf -x 100";
        for (given, other) in [
            ("--check -u pen -F /etc/pen/www.conf -x 100", false),
            ("-u pen -F /etc/pen/www.conf -x 100 --check --show", false),
            ("--check -u pen -F /etc/pen/www.conf -x 10", true),
            ("--check -u pen -F /etc/pen/www.conf", true),
            ("--check -u pen -F /etc/pen/www.conf -x 100 -R", true),
        ] {
            assert_eq!(differ(shown, &words(given)), other, "{given}");
        }
        assert!(!differ(b"pen: supervisor", &words("--check")), "none at all");
        let spaces = [b"--check".to_vec(), b"-O".to_vec(), b"blacklist 77".to_vec()];
        assert!(!differ(b"pen: supervisor -O blacklist 77", &spaces));
    }

    #[test]
    fn other_processes_are_not_judged() {
        for shown in [&b""[..], b"nginx: master process", b"/usr/bin/pen", b"pen: worker 0"] {
            assert!(!differ(shown, &words("--check -x 5")), "{}", String::from_utf8_lossy(shown));
        }
    }
}
