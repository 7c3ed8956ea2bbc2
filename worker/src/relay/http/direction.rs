//! One direction of an [`Exchange`], as the pump uses it.

use crate::relay::http::Exchange;

/// The side that is read.
#[derive(Debug)]
pub enum Direction<'e> {
    /// The client.
    Requests(&'e mut Exchange),
    /// The server.
    Answers(&'e mut Exchange),
}

impl<'e> Direction<'e> {
    /// The direction from the client, or else from the server.
    pub fn of(exchange: &'e mut Exchange, is_client: bool) -> Direction<'e> {
        if is_client { Direction::Requests(exchange) } else { Direction::Answers(exchange) }
    }

    /// The data to send after a read of `bytes`: the bytes themselves, or the content of `out`.
    pub fn pass<'b>(&mut self, bytes: &'b [u8], out: &'b mut Vec<u8>) -> &'b [u8] {
        match self {
            Direction::Requests(exchange) => exchange.request(bytes, out),
            Direction::Answers(exchange) => &bytes[..exchange.answer(bytes)],
        }
    }

    /// The data to send before the next read: data that waited for an answer that has come, or for
    /// the end of file.
    pub fn due<'b>(&mut self, ended: bool, out: &'b mut Vec<u8>) -> &'b [u8] {
        match self {
            Direction::Requests(exchange) if exchange.is_resumed() => exchange.resume(out),
            Direction::Requests(exchange) if ended => exchange.end(out),
            Direction::Requests(_) | Direction::Answers(_) => &[],
        }
    }

    /// Whether no data may be read and no end of file passed on: the server has not answered yet,
    /// or no data passes any more.
    pub fn must_wait(&self, ended: bool) -> bool {
        match self {
            Direction::Requests(exchange) => exchange.is_full() || (ended && exchange.is_asking()),
            Direction::Answers(exchange) => exchange.is_broken(),
        }
    }

    /// How many bytes may pass unseen.
    pub fn unseen(&self) -> u64 {
        match self {
            Direction::Requests(exchange) => exchange.unseen_request(),
            Direction::Answers(exchange) => exchange.unseen_answer(),
        }
    }

    /// Notes that this many bytes passed unseen.
    pub fn skip(&mut self, bytes: u64) {
        match self {
            Direction::Requests(exchange) => exchange.skip_request(bytes),
            Direction::Answers(exchange) => exchange.skip_answer(bytes),
        }
    }
}
