//! The clients of a table in sealed memory, for a program whose tables have another layout.
//!
//! A line has a magic word, the format, and the length of a record in bytes. The records follow
//! without a gap. Later releases may add fields at the end of a record; a reader skips what it does
//! not know. All numbers are little-endian.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use pen_ipc::text::error_text;
use pen_table::ExportedClient;

use crate::files::memory;

/// The first word of the memory.
const MAGIC: &str = "pen-clients";

/// The format. Another number means that the records of this one cannot be read.
const FORMAT: u32 = 1;

/// The bytes of a record: the key, the server, and four numbers.
const RECORD: usize = 16 + 4 + 4 * 8;

/// Most bytes of a record of a later release.
const LONGEST_RECORD: usize = 4096;

/// Writes clients.
///
/// # Errors
/// No descriptors or memory left.
pub(crate) fn write(clients: impl Iterator<Item = ExportedClient>) -> io::Result<OwnedFd> {
    let mut to = BufWriter::with_capacity(PIECE, memory::new()?);
    writeln!(to, "{MAGIC} {FORMAT} {RECORD}")?;
    for client in clients {
        to.write_all(&record(client))?;
    }
    memory::seal(to.into_inner().map_err(io::IntoInnerError::into_error)?)
}

/// Passes all clients on.
///
/// # Errors
/// One line: the memory has no clients in this format.
pub(crate) fn read<T>(
    memory: &File,
    take: impl FnOnce(&mut dyn Iterator<Item = ExportedClient>) -> T,
) -> Result<T, String> {
    let mut from = BufReader::with_capacity(PIECE, FromStart { memory, at: 0 });
    let length = record_length(&mut from)?;
    let mut unknown = vec![0; length - RECORD];
    let mut failure = None;
    let mut clients = std::iter::from_fn(|| {
        next(&mut from, &mut unknown).unwrap_or_else(|error| {
            failure = Some(error);
            None
        })
    });
    let taken = take(&mut clients);
    match failure {
        Some(error) => Err(format!("the clients cannot be read: {}", error_text(&error))),
        None => Ok(taken),
    }
}

/// Reads the first line; returns the length of a record, which is at least [`RECORD`].
fn record_length(from: &mut impl BufRead) -> Result<usize, String> {
    let mut line = Vec::new();
    from.take(LONGEST_LINE)
        .read_until(b'\n', &mut line)
        .map_err(|error| format!("the clients cannot be read: {}", error_text(&error)))?;
    let mut words = std::str::from_utf8(&line).unwrap_or_default().trim_end().split(' ');
    if words.next() != Some(MAGIC) {
        return Err("the clients were not written by a pen".into());
    }
    let mut number = || words.next()?.parse::<usize>().ok();
    match (number(), number()) {
        (Some(format), Some(length @ RECORD..=LONGEST_RECORD)) if format == FORMAT as usize => {
            Ok(length)
        }
        _ => {
            Err("the clients have a format that this pen does not read: it needs a restart".into())
        }
    }
}

/// Reads a record, and what a later release has added to it; none if no record is left.
fn next(from: &mut impl BufRead, unknown: &mut [u8]) -> io::Result<Option<ExportedClient>> {
    if from.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut bytes = [0; RECORD];
    from.read_exact(&mut bytes)?;
    from.read_exact(unknown)?;
    Ok(Some(client(&bytes)))
}

fn record(client: ExportedClient) -> [u8; RECORD] {
    let ExportedClient { key, server, last_use, connects, sent, received } = client;
    let mut bytes = [0; RECORD];
    bytes[..16].copy_from_slice(&key);
    bytes[16..20].copy_from_slice(&server.to_le_bytes());
    for (place, number) in bytes[20..].chunks_exact_mut(8).zip([last_use, connects, sent, received])
    {
        place.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

/// The client in a record.
fn client(bytes: &[u8; RECORD]) -> ExportedClient {
    let (mut key, mut server, mut numbers) = ([0; 16], [0; 4], [0; 4]);
    key.copy_from_slice(&bytes[..16]);
    server.copy_from_slice(&bytes[16..20]);
    for (number, place) in numbers.iter_mut().zip(bytes[20..].as_chunks().0) {
        *number = u64::from_le_bytes(*place);
    }
    let [last_use, connects, sent, received] = numbers;
    ExportedClient { key, server: i32::from_le_bytes(server), last_use, connects, sent, received }
}

/// A memory from its beginning, without the file offset, which all processes share.
struct FromStart<'f> {
    memory: &'f File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.memory.read_at(buffer, self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

/// How much is written and read at once.
const PIECE: usize = 64 * 1024;

/// Most bytes of the first line.
const LONGEST_LINE: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn some(n: u64) -> ExportedClient {
        let mut key = [7; 16];
        key[..8].copy_from_slice(&n.to_le_bytes());
        let server = n as i32 % 9 - 3;
        ExportedClient { key, server, last_use: n, connects: n + 1, sent: n << 40, received: n * 3 }
    }

    fn memory_of(bytes: &[u8]) -> File {
        let mut memory = memory::new().unwrap();
        memory.write_all(bytes).unwrap();
        memory
    }

    fn all(memory: &File) -> Result<Vec<ExportedClient>, String> {
        read(memory, |clients| clients.collect())
    }

    #[test]
    fn clients_come_back_in_their_order() {
        for count in [0, 1, 10_000] {
            let memory = File::from(write((0..count).map(some)).unwrap());
            assert!(all(&memory).unwrap().into_iter().eq((0..count).map(some)));
            assert!(memory.set_len(0).is_err(), "it is sealed");
            let two = read(&memory, |clients| clients.take(2).count()).unwrap();
            assert_eq!(two as u64, count.min(2));
        }
    }

    /// If this fails, another release would read other clients.
    #[test]
    fn the_bytes_of_a_record_never_change_and_may_become_more() {
        let client = ExportedClient {
            key: *b"0123456789abcdef",
            server: -2,
            last_use: 1,
            connects: 2,
            sent: 3,
            received: 4,
        };
        let numbers = "\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0";
        let record = [b"0123456789abcdef\xfe\xff\xff\xff", numbers.as_bytes()].concat();
        let whole = [b"pen-clients 1 52\n".as_slice(), &record].concat();
        let written = File::from(write([client].into_iter()).unwrap());
        assert_eq!(pen_ipc::memory::read(&written, 1000).unwrap(), whole);
        let later = [b"pen-clients 1 55\n".as_slice(), &record, b"new", &record, b"new"].concat();
        assert_eq!(all(&memory_of(&later)).unwrap(), [client; 2]);
    }

    #[test]
    fn what_is_not_understood_is_refused_in_words() {
        let said = |bytes: &[u8]| all(&memory_of(bytes)).unwrap_err();
        assert_eq!(said(b""), "the clients were not written by a pen");
        assert_eq!(said(b"pen-state 1 52\n"), "the clients were not written by a pen");
        for bytes in ["pen-clients 2 52\n", "pen-clients 1 51\n", "pen-clients 1 5000\n", MAGIC] {
            assert!(said(bytes.as_bytes()).contains("it needs a restart"), "{bytes}");
        }
        let cut = [b"pen-clients 1 52\n".as_slice(), &[7; 60]].concat();
        assert!(said(&cut).starts_with("the clients cannot be read: "));
    }
}
