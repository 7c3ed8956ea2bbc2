//! The user and the jail of the workers.

use std::fs;

use super::{fake, has_ids};
use crate::harness::machine::NOBODY;
use crate::harness::needs_root;

#[test]
fn a_jailed_worker_has_nothing_left() {
    if !needs_root() {
        return;
    }
    let builder = fake("works");
    let jail = builder.directory().join("jail");
    fs::create_dir(&jail).unwrap();
    let pen = builder.options(["-u", "nobody", "-j", jail.to_str().unwrap()]).start();
    let jail = fs::canonicalize(jail).unwrap();
    for worker in pen.supervisor().children() {
        for field in ["Uid", "Gid"] {
            assert!(has_ids(&worker, field, NOBODY), "{}", worker.status(field));
        }
        assert!(!worker.status("Groups").split(' ').any(|group| group == "0"));
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(worker.status(set), "0000000000000000", "{set}");
        }
        assert_eq!(worker.status("NoNewPrivs"), "1");
        for link in ["root", "cwd"] {
            assert_eq!(fs::read_link(worker.proc(link)).unwrap(), jail);
        }
        // Standard streams, channel, listener, two eventfds, log.
        assert_eq!(worker.descriptors().len(), 8, "{:?}", worker.descriptors());
    }
    assert!(pen.supervisor().descriptors().len() > 7);
}

#[test]
fn root_without_a_user_keeps_no_capability() {
    if !needs_root() {
        return;
    }
    let pen = fake("works").start();
    for worker in pen.supervisor().children() {
        assert_eq!(worker.status("CapEff"), "0000000000000000");
        assert_eq!(worker.status("CapPrm"), "0000000000000000");
        assert_eq!(worker.status("Groups"), "");
    }
}

#[test]
fn a_missing_jail_is_named() {
    if !needs_root() {
        return;
    }
    let builder = fake("works").background();
    let output = builder.options(["-j", "/no/such/jail", "-u", "nobody"]).fails();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "pen: -j /no/such/jail: no such file or directory\n");
}

#[test]
fn an_ordinary_user_needs_no_privilege_and_gets_none() {
    let pen = fake("works").by_nobody().start();
    assert_eq!(pen.supervisor().children().len(), 2);
    for (option, value, expected) in
        [("-j", "/tmp", "-j: only root"), ("-u", "root", "-u root: only root")]
    {
        let builder = fake("works").by_nobody().background();
        let said = String::from_utf8(builder.options([option, value]).fails().stderr).unwrap();
        assert!(said.starts_with(&format!("pen: {expected}")), "{said}");
    }
}
