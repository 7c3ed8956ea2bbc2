//! `send TEXT expect TEXT`: the server is well if the text is anywhere in what it sends.

use pen_ipc::checks::CheckFault;

use super::dialogue::{Dialogue, Farewell, Reading, Step, escaped, find, unexpected};

/// The dialogue.
pub(super) struct Exchange {
    send: Vec<u8>,
    expect: Vec<u8>,
    /// How many bytes do not contain the text.
    seen: usize,
}

impl Exchange {
    pub(super) fn new(send: &[u8], expect: &[u8]) -> Exchange {
        Exchange { send: send.to_vec(), expect: expect.to_vec(), seen: 0 }
    }
}

impl Dialogue for Exchange {
    fn begin(&mut self) -> Step {
        Step::Send(self.send.clone())
    }

    fn read(&mut self, input: &[u8]) -> Reading {
        if find(input, &self.expect, self.seen).is_some() {
            return Reading::Done(Farewell::Close(Vec::new()));
        }
        self.seen = input.len();
        Reading::More
    }

    fn missing(&self, input: &[u8]) -> Option<CheckFault> {
        let expected = format!("\"{}\"", escaped(&self.expect));
        (!input.is_empty()).then(|| unexpected(&expected, input))
    }
}
