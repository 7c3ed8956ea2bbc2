//! Servers that record their input, for a comparison byte by byte.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use super::super::backend::Backend;
use super::super::wait::{eventually, until};

/// The recorded input of one connection.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Record {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// Whether an end of file or a reset came after the bytes.
    pub ended: bool,
}

/// A server that records its input.
pub struct Recorder {
    /// The backend that records.
    pub backend: Backend,
    records: Arc<Mutex<Vec<Record>>>,
}

impl Recorder {
    /// A server that sends nothing and ends when its client does.
    pub fn silent() -> Recorder {
        Recorder::answering(|_, _| Vec::new())
    }

    /// A server that answers its input. `answer` gets all bytes of the connection, and the number
    /// of bytes that it got in the call before.
    pub fn answering(answer: impl Fn(&[u8], usize) -> Vec<u8> + Send + Sync + 'static) -> Recorder {
        let records: Arc<Mutex<Vec<Record>>> = Arc::default();
        let kept = records.clone();
        let backend = Backend::with(move |mut connection| {
            let number = {
                let mut records = kept.lock().unwrap();
                records.push(Record::default());
                records.len() - 1
            };
            let mut buffer = vec![0; 256 * 1024];
            loop {
                let read = connection.read(&mut buffer).unwrap_or(0);
                let answer = {
                    let mut records = kept.lock().unwrap();
                    let record = &mut records[number];
                    let before = record.bytes.len();
                    record.bytes.extend(&buffer[..read]);
                    record.ended |= read == 0;
                    if read > 0 { answer(&record.bytes, before) } else { Vec::new() }
                };
                if read == 0 {
                    return Ok(());
                }
                connection.write_all(&answer)?;
            }
        });
        Recorder { backend, records }
    }

    /// Connections so far.
    pub fn count(&self) -> usize {
        self.records.lock().unwrap().len()
    }

    /// The input of a connection so far.
    pub fn so_far(&self, number: usize) -> Record {
        self.records.lock().unwrap().get(number).cloned().unwrap_or_default()
    }

    /// The whole input of a connection, once the connection has ended.
    #[track_caller]
    pub fn whole(&self, number: usize) -> Vec<u8> {
        until("the server's connection has ended", || {
            Some(self.so_far(number)).filter(|record| record.ended)
        })
        .bytes
    }

    /// Waits until a connection's input is exactly this, without an end.
    #[track_caller]
    pub fn has(&self, number: usize, bytes: impl AsRef<[u8]>) {
        let expected = bytes.as_ref();
        eventually("the server has got what is expected", || {
            self.so_far(number).bytes.len() >= expected.len()
        });
        let got = self.so_far(number);
        assert_eq!(shown(&got.bytes), shown(expected));
        assert!(!got.ended, "the connection has ended");
    }
}

/// Bytes as text in which every byte is visible.
pub fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
