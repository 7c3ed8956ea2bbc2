//! Memory that came from another process as a descriptor (memfd_create(2)).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use pen_config::settings::Settings;

use crate::codec;

/// Reads the memory from its beginning. Its file offset, which all processes share, is neither used
/// nor moved. The one system call is pread(2), which every process may make.
///
/// # Errors
/// It has more than `most` bytes, or cannot be read.
pub fn read(memory: &File, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; PIECE];
    loop {
        match memory.read_at(&mut piece, bytes.len() as u64) {
            Ok(0) => return Ok(bytes),
            Ok(length) if length > most - bytes.len() => {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads the settings from the memory that came with a message; none if it holds no settings.
pub fn settings(memory: OwnedFd) -> Option<Settings> {
    let bytes = read(&File::from(memory), codec::SETTINGS_LIMIT).ok()?;
    codec::decode_settings(&bytes).ok()
}

/// Reads the settings, and the positions that follow from them, from the memory that came with a
/// message; none if it does not hold them.
pub fn settings_and_positions(memory: OwnedFd) -> Option<(Settings, Vec<u16>)> {
    let bytes = read(&File::from(memory), codec::SETTINGS_LIMIT).ok()?;
    codec::decode_settings_and_positions(&bytes).ok()
}

/// How much is read at once.
const PIECE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    #[test]
    fn it_is_read_whole_and_from_its_beginning_or_not_at_all() {
        let mut memory = memory(b"");
        assert_eq!(read(&memory, 0).unwrap(), b"");
        let whole = [b'x'; PIECE + 1];
        memory.write_all(&whole).unwrap();
        memory.seek(SeekFrom::Start(7)).unwrap();
        assert_eq!(read(&memory, whole.len()).unwrap(), whole);
        assert_eq!(memory.stream_position().unwrap(), 7);
        let error = read(&memory, whole.len() - 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        let (pipe, _) = io::pipe().unwrap();
        assert!(read(&File::from(OwnedFd::from(pipe)), 1).is_err());
    }

    fn memory(bytes: &[u8]) -> File {
        let mut memory = File::from(memfd_create(c"pen", MemfdFlags::CLOEXEC).unwrap());
        memory.write_all(bytes).unwrap();
        memory
    }

    #[test]
    fn settings_are_read_from_the_beginning_by_everyone() {
        let sent = Settings { generation: 7, servers: vec![None; 4096], ..Settings::default() };
        // The writer's offset, which all readers share, is at the end.
        let memory = memory(&codec::encode_settings(&sent).unwrap());
        for _ in 0..2 {
            assert_eq!(settings(memory.try_clone().unwrap().into()), Some(sent.clone()));
        }
    }

    #[test]
    fn what_is_no_settings_is_nothing() {
        let whole = codec::encode_settings(&Settings::default()).unwrap();
        let longer = [&whole[..], b"x"].concat();
        for bytes in [b"", &whole[..whole.len() - 1], &longer] {
            assert_eq!(settings(memory(bytes).into()), None);
        }
        let huge = memory(b"");
        huge.set_len(codec::SETTINGS_LIMIT as u64 * 2).unwrap();
        assert_eq!(settings(huge.into()), None);
        let (reader, _writer) = io::pipe().unwrap();
        assert_eq!(settings(reader.into()), None);
    }
}
