//! Another user of the jailed processes (`-u`) after a stop: what the manager kept for the one
//! before.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::process::Signal;

use super::{CLIENTS, answers, farm, stored};
use crate::harness::control::Control;
use crate::harness::{Port, Store, needs_root};

#[test]
fn the_control_socket_of_another_user_is_replaced_and_that_is_told() {
    if !needs_root() {
        return;
    }
    let (store, port, farm) = (Store::new(16), Port::reserve(), farm());
    let directory = tempfile::tempdir().unwrap();
    // Each user can make a socket here, and only its own.
    fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777))
        .unwrap();
    let socket: PathBuf = directory.path().join("control");
    let start = |user: &str| {
        let options = ["-C".as_ref(), socket.as_os_str(), "-u".as_ref(), user.as_ref()];
        stored(&store, port.address()).options(options).servers(&farm).start()
    };
    let kept = ["pen-control", "pen-listener", "pen-state", "pen-table"];
    let inode = || fs::metadata(&socket).unwrap().ino();
    let mut pen = start("nobody");
    let first = answers(port.address());
    store.awaits(&kept);
    let before = inode();
    pen.end_by(Signal::TERM);
    let mut pen = start("daemon");
    assert_ne!(inode(), before, "it is another socket");
    assert_eq!(fs::metadata(&socket).unwrap().uid(), 1);
    pen.hears(&format!(
        "the service manager kept what is not used: control port: {} belongs to user 65534, and \
         -u is user 1\n",
        socket.display()
    ));
    let reply = Control::Unix(socket.clone()).tell("pid");
    assert_eq!(reply, format!("{}\n", pen.supervisor().pid()));
    // All else is of no user.
    assert_eq!(answers(port.address()), first);
    assert_eq!(pen.report().clients.len(), CLIENTS.len());
    store.awaits(&kept);
    pen.end_by(Signal::TERM);
    // The same user again: nothing is to tell.
    let before = inode();
    let pen = start("daemon");
    assert_eq!(inode(), before);
    assert!(!pen.said().contains("not used"), "{}", pen.said());
}
