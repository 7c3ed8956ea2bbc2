//! The memory with the TLS files. An index gives their positions; they are read piece by piece and
//! wiped after use.
//!
//! All workers share the descriptor's file offset, so it is not moved. Memory that does not look as
//! the supervisor makes it is refused.

use std::os::fd::OwnedFd;

use pen_ipc::tls_files::{AUTHORITIES_LIMIT, FileIndex, INDEX_LIMIT, Part, TICKET_SECRET, TRAILER};
use rustix::io::Errno;
use zeroize::Zeroizing;

/// The memory and its index.
#[derive(Debug)]
pub struct Material<I> {
    memory: OwnedFd,
    /// The index of the files.
    pub index: I,
}

impl<I: FileIndex> Material<I> {
    /// Opens the memory.
    ///
    /// # Errors
    /// The memory does not look as the supervisor makes it.
    pub fn new(memory: OwnedFd) -> Result<Material<I>, String> {
        let broken = || "the files of TLS did not arrive whole".to_owned();
        let size =
            rustix::fs::fstat(&memory).ok().and_then(|stat| u64::try_from(stat.st_size).ok());
        let end = size.and_then(|size| size.checked_sub(TRAILER)).ok_or_else(broken)?;
        let trailer = read(&memory, end, TRAILER).ok_or_else(broken)?;
        let length = u64::from_le_bytes(trailer.as_slice().try_into().map_err(|_| broken())?);
        let start =
            end.checked_sub(length).filter(|_| length <= INDEX_LIMIT as u64).ok_or_else(broken)?;
        let bytes = read(&memory, start, length).ok_or_else(broken)?;
        let index = I::decode(&bytes).map_err(|_| broken())?;
        let fits =
            |part: &Part| part.offset.checked_add(part.length).is_some_and(|end| end <= start);
        match index.files().iter().all(|part| fits(part) && part.length <= AUTHORITIES_LIMIT) {
            true => Ok(Material { memory, index }),
            false => Err(broken()),
        }
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// The memory does not have them.
    pub fn bytes(&self, part: &Part) -> Result<Zeroizing<Vec<u8>>, String> {
        read(&self.memory, part.offset, part.length)
            .ok_or_else(|| format!("{}: did not arrive whole", part.path))
    }
}

/// A ticket secret.
pub fn secret(memory: &OwnedFd) -> Option<Zeroizing<Vec<u8>>> {
    read(memory, 0, TICKET_SECRET as u64)
}

/// Reads exactly these bytes. The buffer never grows, which would leave copies behind.
fn read(memory: &OwnedFd, offset: u64, length: u64) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; usize::try_from(length).ok()?]);
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pread(memory, &mut bytes[done..], offset + done as u64) {
            Ok(0) => return None,
            Ok(length) => done += length,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(bytes)
}
