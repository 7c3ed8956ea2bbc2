//! What tests of the sandbox need inside: forbidden actions, and a kernel without a feature.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Uid, getppid, test_kill_current_process_group, test_kill_process};
use rustix::thread::set_thread_res_uid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// Removes a kernel feature for this process that the sandbox needs, like an old kernel or a
/// container.
pub fn remove(feature: &str) {
    let (call, errno) = match feature {
        "landlock" => (libc::SYS_landlock_create_ruleset, libc::ENOSYS),
        "seccomp" => (libc::SYS_seccomp, libc::EINVAL),
        other => panic!("{other}"),
    };
    let rules = BTreeMap::from([(call, Vec::new())]);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)
            .unwrap();
    apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

/// Tries an action in a jailed process. Returns its result as a text.
pub fn attempt(action: &str) -> String {
    let root = Some(Uid::ROOT);
    let tried: std::io::Result<()> = match action {
        "open" => fs::File::open("/etc/passwd").map(drop),
        "execute" => Err(Command::new("/bin/true").exec()),
        "kill" => test_kill_process(getppid().unwrap()).map_err(Into::into),
        // The process group contains the sibling workers.
        "kill-group" => test_kill_current_process_group().map_err(Into::into),
        "packets" => {
            socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, None).map(drop)
        }
        "root" => set_thread_res_uid(root, root, root).map_err(Into::into),
        other => panic!("{other}"),
    };
    tried.map_or_else(|error| error.to_string(), |()| "it worked".into())
}
