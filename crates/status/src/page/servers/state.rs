//! The state of a server in words, and what its check says.

use std::fmt::{self, Display};

use crate::page::figures::{Clock, Micros};
use crate::page::html::Html;
use crate::page::icon;
use crate::words::duration;
use crate::{CheckState, CheckStatus, ServerState, ServerStatus};

/// The class that gives a state its colours. The word and the icon say what it is.
pub(super) fn tone(state: ServerState) -> &'static str {
    match state {
        ServerState::Down => ServerState::Failed.name(),
        ServerState::Drain | ServerState::Maint => ServerState::Out.name(),
        ServerState::Vacant
        | ServerState::Up
        | ServerState::Full
        | ServerState::Pending
        | ServerState::Out
        | ServerState::Failed => state.name(),
    }
}

/// A state in one or two words.
pub(super) fn words(state: ServerState) -> &'static str {
    match state {
        ServerState::Vacant => "no address",
        ServerState::Up => "up",
        ServerState::Full => "full",
        ServerState::Pending => "passed over",
        ServerState::Out => "taken out",
        ServerState::Failed => "failed",
        ServerState::Down => "down",
        ServerState::Drain => "draining",
        ServerState::Maint => "maintenance",
    }
}

/// Small numbers first: the worst states.
pub(super) fn urgency(state: ServerState) -> u8 {
    match state {
        ServerState::Failed => 0,
        ServerState::Down => 1,
        ServerState::Out => 2,
        ServerState::Maint => 3,
        ServerState::Drain => 4,
        ServerState::Full => 5,
        ServerState::Pending => 6,
        ServerState::Up => 7,
        ServerState::Vacant => 8,
    }
}

/// The cell of the state, with what the check says.
pub(super) fn cell(html: &mut Html, server: &ServerStatus, clock: Clock) {
    let state = server.state;
    html.element("td", &[("class", &"state"), ("data-v", &urgency(state))], |html| {
        icon::use_icon(html, icon::of_state(state));
        html.words("b", "", words(state));
        if let Some(more) = more_about(server) {
            html.words("small", "", more);
        }
        if let Some(check) = &server.check {
            html.words("small", "", Checked { check, clock });
        }
    });
}

/// The text of a state without the word that is already there. `None`: nothing is left, or the
/// check says it.
fn more_about(server: &ServerStatus) -> Option<&str> {
    let text = server.state_text.trim();
    match (server.state, &server.check) {
        (ServerState::Down, Some(_)) => None,
        (ServerState::Maint, _) => text.strip_prefix("in maintenance"),
        (state, _) => Some(text.strip_prefix(words(state)).unwrap_or(text)),
    }
    .map(|text| text.trim_start_matches([',', ' ']))
    .filter(|text| !text.is_empty())
}

/// What the check of a server says, and since when: `http up 2.3 ms for 25 h`.
struct Checked<'a> {
    check: &'a CheckStatus,
    clock: Clock,
}

impl Display for Checked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CheckStatus { kind, state, since, duration_us, reason, .. } = self.check;
        // The largest unit is enough, and has room.
        let time = duration(self.clock.since(*since)).replace(' ', "\u{a0}");
        match (state, duration_us, reason) {
            (CheckState::Unknown, _, _) => write!(f, "{kind} unknown for {time}"),
            (CheckState::Up, Some(micros), _) => {
                write!(f, "{kind} up {} for {time}", Micros((*micros).into()))
            }
            (CheckState::Up, None, _) => write!(f, "{kind} up for {time}"),
            (CheckState::Down, _, Some(reason)) => write!(f, "{kind} down for {time}: {reason}"),
            (CheckState::Down, _, None) => write!(f, "{kind} down for {time}"),
        }
    }
}
