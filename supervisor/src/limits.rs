//! Limits: descriptors of a process, and the backlog of a listener.

#![forbid(unsafe_code)]

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pen_ipc::start::enough_descriptors;
use pen_ipc::text::error_text;

/// Raises the limit as far as allowed, and returns it. Workers inherit it.
pub(crate) fn raise_descriptors() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return FALLBACK };
    match soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        true => hard,
        false => soft,
    }
}

/// A notice if `-x` is larger than the limit allows. One worker may hold all connections.
pub(crate) fn too_few_descriptors(limit: u64, connections: u32) -> Option<String> {
    let needed = enough_descriptors(connections);
    (needed > limit).then(|| {
        format!(
            "-x {connections} can need {needed} descriptors in a worker, but the limit is {limit}: \
             beyond it, clients will \
             have to wait (raise it with ulimit -n or LimitNOFILE=, or lower -x)"
        )
    })
}

/// The longest backlog that this machine allows; none = unknown.
pub(crate) fn longest_backlog() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?.trim().parse().ok()
}

/// A notice if `-q` is larger than the machine allows.
pub(crate) fn cut_backlog(longest: Option<u32>, backlog: u32) -> Option<String> {
    let longest = longest.filter(|longest| *longest < backlog)?;
    Some(format!(
        "backlog {backlog} (-q) is more than this machine gives, which is {longest}: raise \
         net.core.somaxconn with sysctl, or lower it"
    ))
}

/// The text for an error, with the limit of descriptors if that was the cause. Not for a jailed
/// process, which may not ask for the limit.
pub(crate) fn why_within_limits(error: &io::Error) -> String {
    match (error.raw_os_error(), getrlimit(Resource::RLIMIT_NOFILE)) {
        (Some(libc::EMFILE), Ok((limit, _))) => {
            format!(
                "{} (the limit is {limit}: raise it with ulimit -n or LimitNOFILE=)",
                error_text(error)
            )
        }
        _ => error_text(error),
    }
}

/// The minimum that POSIX guarantees.
const FALLBACK: u64 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_says_the_numbers() {
        assert_eq!(too_few_descriptors(1024, 256), None);
        assert_eq!(too_few_descriptors(592, 256), None);
        let warning = too_few_descriptors(591, 256).unwrap();
        assert!(
            warning.contains("-x 256") && warning.contains("592") && warning.contains("591"),
            "{warning}"
        );
        assert!(too_few_descriptors(1 << 20, 1 << 20).is_some());
    }

    #[test]
    fn a_backlog_that_the_machine_cuts_is_warned_of_with_both_numbers() {
        assert_eq!(cut_backlog(None, 500), None);
        assert_eq!(cut_backlog(Some(500), 500), None);
        let warning = cut_backlog(Some(499), 500).unwrap();
        assert!(["500", "499", "somaxconn"].iter().all(|word| warning.contains(word)), "{warning}");
        assert!(longest_backlog().is_some());
    }

    #[test]
    fn a_want_of_descriptors_names_the_limit_and_nothing_else_does() {
        let told = why_within_limits(&io::Error::from_raw_os_error(libc::EMFILE));
        assert!(
            told.starts_with("too many open files (the limit is ") && told.contains("ulimit -n"),
            "{told}"
        );
        assert_eq!(
            why_within_limits(&io::Error::from_raw_os_error(libc::EAGAIN)),
            error_text(&io::Error::from_raw_os_error(libc::EAGAIN))
        );
    }

    #[test]
    fn raising_reaches_the_hard_limit() {
        let limit = raise_descriptors();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, limit);
    }
}
