//! `-H` on a relaying connection: when following begins, what an answer sets free, and how a refused request ends.

use pen_contract::ids::ClientKey;

use super::Relay;
use super::connection::{Side, State};
use super::http::Exchange;

impl Relay<'_> {
    /// Begins to follow a connection whose server is connected, if that is asked for.
    pub(super) fn follow_http(&mut self, place: u32) {
        if self.settings.http {
            let connection = &mut self.pool[place];
            let https = connection.down.session.is_some();
            let client = connection.key.unwrap_or(ClientKey::UNIX);
            connection.http = Some(Box::new(Exchange::new(client, https)));
        }
    }

    /// What is to be done after bytes of a followed connection were moved. False: it is closed, or was seen to in another way.
    pub(super) fn after_http(&mut self, place: u32, from: Side) -> bool {
        let connection = &mut self.pool[place];
        let Some(exchange) = &mut connection.http else { return true };
        if connection.up.ended || connection.up.failed {
            exchange.answers_end();
        }
        let (is_over, is_answered) = (exchange.is_over(), exchange.is_answered());
        let (is_resumed, refused) = (from == Side::Up && exchange.is_resumed(), exchange.refused());
        if is_over {
            // From here on it is a connection like any other.
            connection.http = None;
        }
        if is_resumed {
            // Even if no bytes waited for the answer: the client's end of file may have.
            self.relay(place, Side::Down);
            return self.pool[place].state == State::Relaying;
        }
        let Some(why) = refused else { return true };
        // Requests before the refused one are still answered.
        let is_done = connection.up.held.is_none() && (is_answered || connection.up.ended);
        if !is_done {
            return true;
        }
        if self.debug.on(1) {
            let number = connection.number;
            self.debug.say(1, format_args!("connection {number}: request refused: {why}"));
        }
        self.part(place, Side::Up);
        false
    }
}
