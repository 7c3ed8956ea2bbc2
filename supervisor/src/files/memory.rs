//! Memory that is passed to another process as a descriptor (memfd_create(2)).

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use pen_config::settings::Settings;
use pen_ipc::codec;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;
use serde::Serialize;

/// Memory for writing, which nobody can execute if the kernel knows such memory.
///
/// # Errors
/// No descriptors left.
pub(crate) fn new() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match memfd_create(c"pen", flags | MemfdFlags::NOEXEC_SEAL) {
        // Linux before 6.3.
        Err(Errno::INVAL) => memfd_create(c"pen", flags),
        made => made,
    };
    Ok(memory?.into())
}

/// Seals memory, so that nobody can change it any more.
///
/// # Errors
/// A process has it mapped for writing.
pub(crate) fn seal(memory: File) -> io::Result<OwnedFd> {
    fcntl_add_seals(&memory, UNCHANGEABLE | SealFlags::SEAL)?;
    Ok(memory.into())
}

/// Whether nobody can change this memory any more.
///
/// # Errors
/// It is no memory.
pub(crate) fn is_sealed(memory: &impl AsFd) -> io::Result<bool> {
    Ok(fcntl_get_seals(memory)?.contains(UNCHANGEABLE))
}

/// The seals of memory that nobody can change.
const UNCHANGEABLE: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE);

/// Encodes settings in sealed memory.
///
/// # Errors
/// No descriptors or memory left, or the settings are larger than any valid ones.
pub(crate) fn encoded(settings: &Settings) -> io::Result<OwnedFd> {
    let bytes = codec::encode_settings(settings).map_err(io::Error::other)?;
    let mut memory = new()?;
    memory.write_all(&bytes)?;
    seal(memory)
}

/// Encodes a value without a size limit of its own in sealed memory.
///
/// # Errors
/// No descriptors or memory left, or the value is too large.
pub(crate) fn large(value: &impl Serialize) -> io::Result<OwnedFd> {
    let bytes = codec::encode_large(value).map_err(io::Error::other)?;
    let mut memory = new()?;
    memory.write_all(&bytes)?;
    seal(memory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn settings_travel_and_nobody_can_change_them_on_the_way() {
        let settings = Settings { generation: 7, ..Settings::default() };
        let memory = File::from(encoded(&settings).unwrap());
        assert!(is_sealed(&memory).unwrap() && !is_sealed(&new().unwrap()).unwrap());
        assert!(is_sealed(&std::io::pipe().unwrap().0).is_err());
        let bytes = pen_ipc::memory::read(&memory, codec::SETTINGS_LIMIT).unwrap();
        assert_eq!(codec::decode_settings(&bytes).unwrap(), settings);
        assert!(memory.write_at(b"x", 0).is_err() && memory.set_len(0).is_err());
    }
}
