//! `dummy`: every client gets the same answer, and no server is used. It is for load tests.

use crate::relay::Relay;
use crate::relay::connection::ConnectionState;
use crate::relay::transfer::pump;

/// The answer to the client's first bytes, whatever they are. Then the connection closes.
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\nContent-Type: text/html\r\n\r\nUlric was here.";

/// The request log shows this instead of a server.
const NO_SERVER: &str = "-";

impl Relay<'_> {
    /// Waits for the client's first bytes.
    pub(in crate::relay) fn await_request(&mut self, slot: u32) {
        self.pool[slot].state = ConnectionState::Dummy;
        self.idle.join(&mut self.pool, slot, self.now);
        if self.pool[slot].down.readable {
            // The data came before the socket was watched.
            self.answer(slot);
        }
    }

    /// Answers a client that has sent data.
    pub(in crate::relay) fn answer(&mut self, slot: u32) {
        let connection = &mut self.pool[slot];
        let request = pump::take(&mut connection.down, &mut self.tools);
        if request.is_empty() {
            if connection.down.ended || connection.down.failed {
                self.finish(slot);
            }
            return;
        }
        if self.debug.dumps() {
            self.debug.dump(request);
        }
        if let (Some(log), Some(key)) = (&mut self.log, connection.key) {
            log.line(self.now, crate::relay::clock::unix_time().0, key, NO_SERVER, request);
        }
        self.worker_table.add_client_bytes(
            connection.client,
            ANSWER.len() as u64,
            request.len() as u64,
        );
        pump::give(&mut connection.down, ANSWER, &mut self.tools);
        self.begin_linger(slot);
    }
}
