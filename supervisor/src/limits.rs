//! How many descriptors a process may have.

#![forbid(unsafe_code)]

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit as far as it may be raised, and returns it. Workers inherit it.
pub(crate) fn raise_descriptors() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return FALLBACK };
    match soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        true => hard,
        false => soft,
    }
}

/// What to tell the administrator if `-x` is more than the limit allows for. One worker may hold all connections.
pub(crate) fn too_few_descriptors(limit: u64, connections: u32) -> Option<String> {
    let needed = 2 * u64::from(connections) + RESERVE;
    (needed > limit).then(|| {
        format!(
            "-x {connections} can need {needed} descriptors in a worker, but the limit is {limit}: beyond it, clients will \
             have to wait (raise it with ulimit -n or LimitNOFILE=, or lower -x)"
        )
    })
}

/// What a worker needs besides two descriptors per connection: the listener, the channel, logs, events, pipes.
const RESERVE: u64 = 64;

/// What POSIX guarantees.
const FALLBACK: u64 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_says_the_numbers() {
        assert_eq!(too_few_descriptors(1024, 256), None);
        assert_eq!(too_few_descriptors(576, 256), None);
        let warning = too_few_descriptors(575, 256).unwrap();
        assert!(warning.contains("-x 256") && warning.contains("576") && warning.contains("575"), "{warning}");
        assert!(too_few_descriptors(1 << 20, 1 << 20).is_some());
    }

    #[test]
    fn raising_reaches_the_hard_limit() {
        let limit = raise_descriptors();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, limit);
    }
}
