//! `pgsql`: SSLRequest and its answer of one byte. The server needs no database and no user for it.

use super::dialogue::{Dialogue, Farewell, Reading, Step, unexpected};

/// The length of the message, and the code 80877103.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// The dialogue.
pub(super) struct Pgsql;

impl Dialogue for Pgsql {
    fn begin(&mut self) -> Step {
        Step::Send(SSL_REQUEST.to_vec())
    }

    fn read(&mut self, input: &[u8]) -> Reading {
        match input.first() {
            None => Reading::More,
            // An end before a startup message is no error for PostgreSQL; an end instead of a
            // handshake is, and is logged.
            Some(b'N') => Reading::Done(Farewell::Close(Vec::new())),
            Some(b'S') => Reading::Done(Farewell::Handshake),
            Some(_) => Reading::Fail(unexpected("an answer to SSLRequest", input)),
        }
    }
}
