//! Helpers for tests of commands: a pen with a control port, and checks of each worker's behaviour.

use std::fs;
use std::net::Ipv4Addr;

use super::super::{Backend, Builder, Pen};

/// A client address of its own for each number.
pub fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 20, 0, number)
}

/// A pen with a control port and these servers.
pub fn steered<'b>(servers: impl IntoIterator<Item = &'b Backend>) -> Builder {
    Pen::builder().servers(servers).control()
}

/// Asks each worker, with a client of its own, and returns the backend that it chose.
#[track_caller]
pub fn each_worker(pen: &Pen, from: u8) -> [Option<String>; 3] {
    [0, 1, 2].map(|worker| pen.only(usize::from(worker), || pen.ask(client(from + worker))))
}

/// Checks that each worker chooses this backend.
#[track_caller]
pub fn all_give(pen: &Pen, from: u8, name: &str) {
    assert_eq!(each_worker(pen, from).map(Option::unwrap_or_default), [name; 3]);
}

/// Checks that each worker closes the client without an answer.
#[track_caller]
pub fn all_refuse(pen: &Pen, from: u8) {
    assert_eq!(each_worker(pen, from), [None, None, None]);
}

/// The backend that each worker chooses for one client.
#[track_caller]
pub fn each_worker_for(pen: &Pen, number: u8) -> [String; 3] {
    [0, 1, 2].map(|worker| pen.only(worker, || pen.ask(client(number)).unwrap()))
}

/// The directory of pen, with search permission for all users.
pub fn open_directory(pen: &Pen) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(pen.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    pen.directory().to_path_buf()
}
