//! Memory that is passed to another process as a descriptor (memfd_create(2)).

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use pen_config::settings::Settings;
use pen_ipc::codec;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use serde::Serialize;

/// Memory for writing.
///
/// # Errors
/// No descriptors left.
pub(crate) fn new() -> io::Result<File> {
    Ok(memfd_create(c"pen", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into())
}

/// Seals memory, so that nobody can change it any more.
///
/// # Errors
/// A process has it mapped for writing.
pub(crate) fn seal(memory: File) -> io::Result<OwnedFd> {
    fcntl_add_seals(
        &memory,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    Ok(memory.into())
}

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
        let mut bytes = vec![0; memory.metadata().unwrap().len() as usize];
        memory.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(codec::decode_settings(&bytes).unwrap(), settings);
        assert!(memory.write_at(b"x", 0).is_err() && memory.set_len(0).is_err());
    }
}
