//! `-H` on a relaying connection: when following begins, what an answer releases, the time limits,
//! and how a refused request ends.

use pen_config::ids::ClientKey;
use pen_config::settings::Http;
use pen_ipc::message::Event;
use pen_ipc::refusal::Refusal;

use crate::relay::Relay;
use crate::relay::connection::end::ConnectionEnd;
use crate::relay::connection::{ConnectionState, LogDue, Side, Timer};
use crate::relay::http::{Ending, Exchange, Others};
use crate::relay::request_log;
use crate::relay::request_log::shown_at;
use crate::relay::transfer::pump;

/// Milliseconds from the first byte of a head to the last.
pub const HEAD: u64 = 10_000;

/// Milliseconds for the answers to the requests before a refused one. Otherwise a server that waits
/// for the refused request would be kept as long as the client likes.
pub const ANSWERS: u64 = 60_000;

/// Milliseconds for bytes that cannot be told to be a request (`http mixed`).
pub const PROTOCOL: u64 = 2_000;

impl Relay<'_> {
    /// Begins to follow a connection whose server is connected, if the settings ask for it.
    pub(in crate::relay) fn follow_http(&mut self, slot: u32) {
        let others = match self.settings.http {
            Http::Off => return,
            Http::On => Others::Refused,
            Http::Mixed => Others::Pass,
        };
        let connection = &mut self.connections[slot];
        let https = connection.down.session.is_some();
        let client = connection.key.unwrap_or(ClientKey::UNIX);
        connection.http = Some(Box::new(Exchange::new(client, https, others)));
    }

    /// Does the follow-up work after bytes of a followed connection were moved. False: the
    /// connection is closed, or was already handled.
    pub(in crate::relay) fn after_http(&mut self, slot: u32, from: Side) -> bool {
        self.time_head(slot);
        let connection = &mut self.connections[slot];
        let Some(exchange) = &mut connection.http else { return true };
        let is_over = connection.up.recv.is_over();
        let ending = exchange.ending(is_over);
        if is_over && ending.is_none() {
            exchange.answers_end();
        }
        if exchange.is_over() {
            // From here on it is a connection like any other. A tunnel has no requests to log.
            connection.line = if exchange.is_strict() { LogDue::Never } else { LogDue::Later };
            connection.http = None;
        } else if from == Side::Up && exchange.is_resumed() {
            // Also if no bytes waited for the answer: the client's end of file may have waited.
            self.relay(slot, Side::Down);
            return self.connections[slot].state == ConnectionState::Relaying;
        }
        self.after_refusal(slot)
    }

    /// Ends a connection with a refused request, after the requests before it were answered. False:
    /// it is closed.
    fn after_refusal(&mut self, slot: u32) -> bool {
        let Some(exchange) = &mut self.connections[slot].http else { return true };
        if let Some(why) = exchange.take_refusal() {
            self.report_refusal(slot, why);
            self.note_end(slot, ConnectionEnd::HttpRefused);
            self.io.note_unfinished(&mut self.connections[slot], self.now);
        }
        let connection = &mut self.connections[slot];
        let is_over = connection.up.recv.is_over();
        let ending = connection.http.as_ref().and_then(|exchange| exchange.ending(is_over));
        match ending {
            None | Some(Ending::Later) => return true,
            Some(Ending::Status(_)) if connection.down.held.is_some() => return true,
            Some(Ending::Status(why)) => {
                let answer = status(why);
                if let Some(timings) = &mut connection.timings {
                    timings.moved(Side::Up, 0, answer.len() as u64, self.now);
                }
                pump::give(&mut connection.down, answer.as_bytes(), &mut self.io.tools);
            }
            Some(Ending::Silent) => {}
        }
        self.close_end(slot, Side::Up);
        false
    }

    /// Counts a refused request, and reports it at a limited rate.
    fn report_refusal(&mut self, slot: u32, reason: Refusal) {
        self.link.counters.requests_refused.count(reason);
        let connection = &self.connections[slot];
        let client = connection.key.unwrap_or(ClientKey::UNIX);
        if self.debug.on(1) {
            let number = connection.number;
            self.debug.log(1, format_args!("connection {number}: request refused: {reason}"));
        }
        let event = Event::RequestRefused { client: client.bytes(), reason, others: 0 };
        self.link.report_counted(event, self.now);
    }

    /// Starts or stops the time limit of an unfinished head.
    fn time_head(&mut self, slot: u32) {
        let connection = &mut self.connections[slot];
        let Some(exchange) = &mut connection.http else { return };
        let (waits, has_begun) = (exchange.waits(), exchange.take_begun());
        let timer = waits.map(Timer::Http);
        if timer == connection.timer && !(has_begun && timer.is_some()) {
            return;
        }
        match timer {
            Some(timer) => self.connections.start(slot, timer, self.now),
            None => self.connections.stop(slot),
        }
    }

    /// Handles a head that was not complete in time.
    pub(in crate::relay) fn head_is_late(&mut self, slot: u32) {
        self.connections.stop(slot);
        if let Some(exchange) = &mut self.connections[slot].http {
            exchange.refuse_late();
        }
        if self.after_refusal(slot) {
            self.time_head(slot);
            self.settle(slot);
        }
    }

    /// Handles missing answers to the requests before a refused one, after the time limit.
    pub(in crate::relay) fn answers_are_late(&mut self, slot: u32) {
        self.close_end(slot, Side::Up);
    }

    /// Passes bytes that could not be told to be a request in time.
    pub(in crate::relay) fn protocol_is_late(&mut self, slot: u32) {
        self.connections.stop(slot);
        let connection = &mut self.connections[slot];
        let Some(mut exchange) = connection.http.take() else { return };
        let given = pump::give_undecided(&mut exchange, &mut connection.up, &mut self.io.tools);
        connection.http = Some(exchange);
        self.count(slot, Side::Down, given);
        self.relay(slot, Side::Down);
    }

    /// Writes the log lines of the requests that passed.
    pub(in crate::relay) fn log_requests(&mut self, slot: u32) {
        let connection = &mut self.connections[slot];
        let (Some(log), Some(exchange)) = (&mut self.log, &mut connection.http) else { return };
        let Some(lines) = exchange.logged() else { return };
        let server = shown_at(&self.shown, connection.target, connection.route.position());
        let key = connection.key.unwrap_or(ClientKey::UNIX);
        let time = crate::clock::unix_time().0;
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            request_log::line(log, self.now, time, key, server, line);
        }
        lines.clear();
    }
}

/// The answer that gives the reason of a refusal.
fn status(why: Refusal) -> String {
    let reason = match why.status() {
        408 => "Request Timeout",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        505 => "HTTP Version Not Supported",
        _ => "Bad Request",
    };
    format!("HTTP/1.1 {} {reason}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", why.status())
}
