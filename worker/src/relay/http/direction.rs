//! One direction of an [`Exchange`], as the pump uses it.

use crate::relay::http::Exchange;

/// The side that is read.
#[derive(Debug)]
pub enum Turn<'e> {
    /// The client.
    Requests(&'e mut Exchange),
    /// The server.
    Answers(&'e mut Exchange),
}

impl<'e> Turn<'e> {
    /// The direction from the client, or else from the server.
    pub fn of(exchange: &'e mut Exchange, is_client: bool) -> Turn<'e> {
        if is_client { Turn::Requests(exchange) } else { Turn::Answers(exchange) }
    }

    /// The data to send after a read of `bytes`: the bytes themselves, or the content of `out`.
    pub fn pass<'b>(&mut self, bytes: &'b [u8], out: &'b mut Vec<u8>) -> &'b [u8] {
        match self {
            Turn::Requests(exchange) => exchange.request(bytes, out),
            Turn::Answers(exchange) => &bytes[..exchange.answer(bytes)],
        }
    }

    /// The data to send before the next read: data that waited for an answer that has come, or for
    /// the end of file.
    pub fn due<'b>(&mut self, ended: bool, out: &'b mut Vec<u8>) -> &'b [u8] {
        match self {
            Turn::Requests(exchange) if exchange.is_resumed() => exchange.resume(out),
            Turn::Requests(exchange) if ended => exchange.end(out),
            Turn::Requests(_) | Turn::Answers(_) => &[],
        }
    }

    /// Whether no data may be read and no end of file passed on: the server has not answered yet,
    /// or no data passes any more.
    pub fn must_wait(&self, ended: bool) -> bool {
        match self {
            Turn::Requests(exchange) => exchange.is_full() || (ended && exchange.is_asking()),
            Turn::Answers(exchange) => exchange.is_broken(),
        }
    }

    /// How many bytes may pass unseen.
    pub fn unseen(&self) -> u64 {
        match self {
            Turn::Requests(exchange) => exchange.unseen_request(),
            Turn::Answers(exchange) => exchange.unseen_answer(),
        }
    }

    /// Notes that this many bytes passed unseen.
    pub fn skip(&mut self, bytes: u64) {
        match self {
            Turn::Requests(exchange) => exchange.skip_request(bytes),
            Turn::Answers(exchange) => exchange.skip_answer(bytes),
        }
    }
}
