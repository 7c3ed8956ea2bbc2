//! A file system that hangs: every access waits until it is gone.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::machine::not_checked;

/// A file system in user space (fuse(4)) whose server answers nothing, not even the first request.
/// It needs root and the test's own mount namespace.
pub struct Hanging {
    place: PathBuf,
    /// When it is closed, waiting accesses fail.
    server: Option<File>,
}

impl Hanging {
    /// Covers a directory. `None`, and the test says so, if the system has no such file systems.
    pub fn over(place: &Path) -> Option<Hanging> {
        let Ok(server) = File::options().read(true).write(true).open("/dev/fuse") else {
            not_checked("it needs /dev/fuse");
            return None;
        };
        let data =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", server.as_raw_fd());
        let data = CString::new(data).unwrap();
        mount(
            "pen-test",
            place,
            "fuse",
            MountFlags::NOSUID | MountFlags::NODEV,
            Some(data.as_c_str()),
        )
        .unwrap();
        Some(Hanging { place: place.into(), server: Some(server) })
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.server = None;
        unmount(&self.place, UnmountFlags::DETACH).unwrap();
    }
}
