//! One direction of an [`Exchange`], as the pump uses it.

use crate::relay::http::Exchange;

/// Who is read from.
#[derive(Debug)]
pub enum Turn<'e> {
    /// The client.
    Requests(&'e mut Exchange),
    /// The server.
    Answers(&'e mut Exchange),
}

impl<'e> Turn<'e> {
    /// The turn of the client, or else of the server.
    pub fn of(exchange: &'e mut Exchange, is_client: bool) -> Turn<'e> {
        if is_client { Turn::Requests(exchange) } else { Turn::Answers(exchange) }
    }

    /// What is to be sent on for `bytes`, which were read: the bytes themselves, or what is put
    /// into `out`.
    pub fn pass<'b>(&mut self, bytes: &'b [u8], out: &'b mut Vec<u8>) -> &'b [u8] {
        match self {
            Turn::Requests(exchange) => exchange.request(bytes, out),
            Turn::Answers(exchange) => &bytes[..exchange.answer(bytes)],
        }
    }

    /// What is to be sent before anything more is read: what waited for an answer that has come, or
    /// for the end of file.
    pub fn due<'b>(&mut self, ended: bool, out: &'b mut Vec<u8>) -> &'b [u8] {
        match self {
            Turn::Requests(exchange) if exchange.is_resumed() => exchange.resume(out),
            Turn::Requests(exchange) if ended => exchange.end(out),
            Turn::Requests(_) | Turn::Answers(_) => &[],
        }
    }

    /// Whether nothing may be read, and no end of file passed on, before the server has answered,
    /// or because nothing passes any more.
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

    /// So many have passed unseen.
    pub fn skip(&mut self, bytes: u64) {
        match self {
            Turn::Requests(exchange) => exchange.skip_request(bytes),
            Turn::Answers(exchange) => exchange.skip_answer(bytes),
        }
    }
}
