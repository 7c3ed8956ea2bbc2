//! `dummy`: every client gets the same answer, and no server is used. It is for load tests.

use crate::relay::Relay;
use crate::relay::connection::end::ConnectionEnd;
use crate::relay::connection::{ConnectionState, Side};
use crate::relay::request_log;
use crate::relay::transfer::pump;

/// The answer to the client's first bytes, whatever they are. Then the connection closes.
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\nContent-Type: text/html\r\n\r\nUlric was here.";

/// The request log shows this instead of a server.
const NO_SERVER: &str = "-";

impl Relay<'_> {
    /// Waits for the client's first bytes.
    pub(in crate::relay) fn await_request(&mut self, slot: u32) {
        self.connections[slot].state = ConnectionState::Dummy;
        self.connections.watch_silence(slot, self.now);
        if self.connections[slot].down.recv.is_readable() {
            // The data came before the socket was watched.
            self.answer(slot);
        }
    }

    /// Answers a client that has sent data.
    pub(in crate::relay) fn answer(&mut self, slot: u32) {
        let connection = &mut self.connections[slot];
        let request = pump::take(&mut connection.down, &mut self.io.tools);
        if request.is_empty() {
            if connection.down.recv.is_over() {
                self.finish(slot, None);
            }
            return;
        }
        if self.debug.dumps() {
            self.debug.dump(request);
        }
        if let (Some(log), Some(key)) = (&mut self.log, connection.key) {
            let time = crate::clock::unix_time().0;
            request_log::line(log, self.now, time, key, NO_SERVER, request);
        }
        self.worker_table.add_client_bytes(
            connection.client,
            ANSWER.len() as u64,
            request.len() as u64,
        );
        let connection = &mut self.connections[slot];
        if let Some(timings) = &mut connection.timings {
            timings.moved(Side::Down, request.len() as u64, 0, self.now);
            timings.moved(Side::Up, 0, ANSWER.len() as u64, self.now);
        }
        pump::give(&mut connection.down, ANSWER, &mut self.io.tools);
        self.note_end(slot, ConnectionEnd::Server);
        self.begin_linger(slot);
    }
}
