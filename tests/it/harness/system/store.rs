//! The file descriptor store of a service manager played by the test (sd_pid_notify_with_fds(3)):
//! it keeps what pen sends, and passes it to the next start.

use std::ffi::OsString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, memfd_create};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tempfile::TempDir;

use super::super::pen::Builder;
use super::super::wait::{eventually, until};
use super::manager::NAMED;

/// A notification socket with a store. A thread reads it all the time.
#[derive(Debug)]
pub struct Store {
    directory: TempDir,
    held: Arc<Mutex<Held>>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Held {
    descriptors: Vec<(String, OwnedFd)>,
    /// `FileDescriptorStoreMax=`
    most: usize,
    /// Messages about the store.
    messages: Vec<String>,
    /// How often [`Store::settle`] was heard.
    heard: usize,
}

impl Store {
    /// A store for this many descriptors.
    pub fn new(most: usize) -> Store {
        let directory = TempDir::new().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        let held = Held { descriptors: Vec::new(), most, messages: Vec::new(), heard: 0 };
        let held = Arc::new(Mutex::new(held));
        let shared = held.clone();
        let reader = std::thread::spawn(move || while read(&socket, &shared) {});
        Store { directory, held, reader: Some(reader) }
    }

    /// Passes everything in the store to a start, as systemd does.
    pub fn passes_to(&self, builder: Builder) -> Builder {
        self.settle();
        let held = self.held.lock().unwrap();
        let names: Vec<&str> = held.descriptors.iter().map(|(name, _)| name.as_str()).collect();
        let mut builder = builder
            .through(NAMED)
            .env("NOTIFY_SOCKET", self.name())
            .env("FDSTORE", held.most.to_string())
            .env("NAME_ME", "LISTEN_PID")
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
        for (_, descriptor) in &held.descriptors {
            builder = builder.socket(descriptor.try_clone().unwrap());
        }
        builder
    }

    /// Waits until all messages so far are read. systemd also reads them before it notices the end
    /// of their sender.
    fn settle(&self) {
        let before = self.held.lock().unwrap().heard;
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to(b"HEARD", self.directory.path().join("notify")).unwrap();
        eventually("all messages are read", || self.held.lock().unwrap().heard > before);
    }

    /// The value of NOTIFY_SOCKET.
    pub fn name(&self) -> OsString {
        self.directory.path().join("notify").into_os_string()
    }

    /// The names in the store, sorted.
    pub fn names(&self) -> Vec<String> {
        self.settle();
        let held = self.held.lock().unwrap();
        let mut names: Vec<String> =
            held.descriptors.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Waits until exactly these are in the store.
    #[track_caller]
    pub fn awaits(&self, names: &[&str]) {
        eventually(&format!("{names:?} are in the store"), || self.names() == names);
    }

    /// The messages about the store so far.
    pub fn messages(&self) -> Vec<String> {
        self.settle();
        self.held.lock().unwrap().messages.clone()
    }

    /// A duplicate of the descriptor with this name.
    #[track_caller]
    pub fn descriptor(&self, name: &str) -> OwnedFd {
        self.settle();
        until(&format!("{name} is in the store"), || {
            let held = self.held.lock().unwrap();
            let found = held.descriptors.iter().find(|(stored, _)| stored == name);
            found.map(|(_, descriptor)| descriptor.try_clone().unwrap())
        })
    }

    /// Puts another descriptor under a name.
    pub fn put(&self, name: &str, descriptor: impl Into<OwnedFd>) {
        let mut held = self.held.lock().unwrap();
        held.descriptors.retain(|(stored, _)| stored != name);
        held.descriptors.push((name.into(), descriptor.into()));
    }

    /// Removes a name.
    pub fn remove(&self, name: &str) {
        self.held.lock().unwrap().descriptors.retain(|(stored, _)| stored != name);
    }

    /// The text of the description.
    #[track_caller]
    pub fn description(&self) -> String {
        use std::os::unix::fs::FileExt;
        let memory = std::fs::File::from(self.descriptor("pen-state"));
        let mut text = vec![0; memory.metadata().unwrap().len() as usize];
        memory.read_exact_at(&mut text, 0).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// Replaces the description.
    pub fn describe(&self, text: &str) {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = memfd_create(c"state", flags).unwrap();
        rustix::io::pwrite(&memory, text.as_bytes(), 0).unwrap();
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        fcntl_add_seals(&memory, seals).unwrap();
        self.put("pen-state", memory);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let socket = UnixDatagram::unbound().unwrap();
        let told = socket.send_to(b"END", self.directory.path().join("notify"));
        if let (Ok(_), Some(reader)) = (told, self.reader.take()) {
            let _ = reader.join();
        }
    }
}

/// Reads one message. False: it was the last one.
fn read(socket: &UnixDatagram, held: &Mutex<Held>) -> bool {
    let mut buffer = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let Ok(message) = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) else {
        return false;
    };
    let text = std::str::from_utf8(&buffer[..message.bytes]).unwrap().to_owned();
    let descriptors: Vec<OwnedFd> = control
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
            _ => Vec::new(),
        })
        .collect();
    let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored");
    let mut held = held.lock().unwrap();
    held.heard += usize::from(text == "HEARD");
    if text.contains("FDSTORE") {
        held.messages.push(text.clone());
    }
    if text.lines().any(|line| line == "FDSTOREREMOVE=1") {
        held.descriptors.retain(|(stored, _)| stored != name);
    }
    if text.lines().any(|line| line == "FDSTORE=1") {
        for descriptor in descriptors {
            let id = |descriptor: &OwnedFd| {
                let found = fstat(descriptor).unwrap();
                (found.st_dev, found.st_ino)
            };
            let is_there = held.descriptors.iter().any(|(_, there)| id(there) == id(&descriptor));
            if !is_there && held.descriptors.len() < held.most {
                held.descriptors.push((name.into(), descriptor));
            }
        }
    }
    text != "END"
}
