//! Tests of the lists from outside: calls that they must never contain.

mod executing;
pub(crate) mod inside;

use crate::jail::sandbox::*;

const KINDS: [ProcessKind; 10] = [
    ProcessKind::Relay,
    ProcessKind::Examiner,
    ProcessKind::Control,
    ProcessKind::Page,
    ProcessKind::Checker,
    ProcessKind::Resolver,
    ProcessKind::Opener,
    ProcessKind::Writer,
    ProcessKind::Reader,
    ProcessKind::Reporter,
];

fn allowed(kind: ProcessKind, call: libc::c_long) -> bool {
    let calls = kind.calls(1);
    calls.plain.contains(&call) || calls.checked.iter().any(|checked| checked.call == call)
}

#[test]
fn nobody_gets_what_nobody_needs() {
    let never = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_ptrace,
        libc::SYS_setresuid,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_mount,
        libc::SYS_chroot,
        libc::SYS_bpf,
        libc::SYS_pidfd_send_signal,
        libc::SYS_mknodat,
        libc::SYS_io_uring_setup,
        libc::SYS_userfaultfd,
    ];
    for kind in KINDS {
        for call in never {
            assert!(!allowed(kind, call), "{kind:?} has {call}");
        }
    }
}

#[test]
fn a_list_names_a_call_once_and_refuses_none_that_it_allows() {
    for calls in KINDS.iter().map(|kind| kind.calls(1)).chain([calls::never()]) {
        let checked = calls.checked.iter().map(|checked| &checked.call);
        let mut all: Vec<_> = calls.plain.iter().chain(&calls.refused).chain(checked).collect();
        let named = all.len();
        all.sort();
        all.dedup();
        // Calls that two parts of the list need are in both.
        assert!(calls.refused.iter().all(|call| !calls.plain.contains(call)), "{calls:?}");
        assert!(
            calls.checked.iter().all(|checked| !calls.plain.contains(&checked.call)),
            "a condition that does nothing"
        );
        assert!(named - all.len() <= 4, "{calls:?}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_changed_list_has_a_new_number() {
    let mut calls = calls::never();
    calls.checked.push(calls::executable_memory());
    let steps = filter::denial(calls).unwrap().concat();
    // FNV-1a.
    let sum = steps
        .iter()
        .flat_map(|step| [step.code.into(), step.jt.into(), step.jf.into(), step.k])
        .fold(0x811c_9dc5_u32, |sum, part: u32| (sum ^ part).wrapping_mul(0x0100_0193));
    assert_eq!(
        (calls::LIST, sum),
        (1, 2_642_724_568),
        "a new list: raise LIST, and put both numbers here"
    );
}

#[test]
fn what_jailed_processes_need_is_not_denied_to_their_parent() {
    let never = calls::never();
    for kind in KINDS {
        assert!(kind.calls(1).plain.iter().all(|call| !never.plain.contains(call)), "{kind:?}");
    }
}

#[test]
fn a_relay_has_no_file_and_no_process() {
    for call in
        [libc::SYS_openat, libc::SYS_statx, libc::SYS_clone, libc::SYS_clone3, libc::SYS_listen]
    {
        assert!(!allowed(ProcessKind::Relay, call));
    }
    assert!(ProcessKind::Relay.calls(1).refused.contains(&libc::SYS_openat));
    for call in [
        libc::SYS_openat,
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_memfd_create,
        libc::SYS_splice,
        libc::SYS_ioctl,
    ] {
        assert!(!allowed(ProcessKind::Page, call), "{call}");
    }
    for call in [
        libc::SYS_openat,
        libc::SYS_accept4,
        libc::SYS_listen,
        libc::SYS_memfd_create,
        libc::SYS_splice,
        libc::SYS_pipe2,
        libc::SYS_shutdown,
        libc::SYS_ioctl,
    ] {
        assert!(!allowed(ProcessKind::Checker, call), "{call}");
    }
    assert!(
        !allowed(ProcessKind::Control, libc::SYS_socket)
            && !allowed(ProcessKind::Control, libc::SYS_connect)
    );
}

#[test]
fn a_unix_server_needs_the_root_directory() {
    let server = |address| pen_config::settings::Server::at(address);
    let mut settings = Settings { servers: vec![None, None], ..Settings::default() };
    // Any directory; only root can make an empty root.
    let root = || Some(Rc::new(OwnedFd::from(std::fs::File::open("/").unwrap())));
    let mut sandbox = Sandbox { empty_root: root(), ..Sandbox::none() };
    let before = settings.clone();
    assert!(sandbox.suit(&settings).is_none() && sandbox.root(ProcessKind::Relay).is_some());
    settings.servers[1] = Some(server(Address::Unix("/run/server.sock".into())));
    assert!(sandbox.unreachable(&before, &settings).unwrap().contains("/run/server.sock"));
    assert!(sandbox.unreachable(&settings, &settings).is_none());
    assert!(sandbox.suit(&settings).unwrap().contains("/run/server.sock"));
    assert!(
        sandbox.root(ProcessKind::Relay).is_none()
            && sandbox.unreachable(&before, &settings).is_none()
    );
}
