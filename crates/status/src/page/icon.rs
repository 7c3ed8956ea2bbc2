//! Icons: each has a shape of its own, so that its colour is not needed.

use crate::ServerState;
use crate::page::health::Level;
use crate::page::html::Html;

/// An icon.
#[derive(Clone, Copy)]
pub(super) enum Icon {
    /// A circle with a check mark.
    Check,
    /// A triangle with an exclamation mark.
    Triangle,
    /// An octagon with a cross.
    Cross,
    /// A square that is filled.
    Full,
    /// A circle with a bar.
    Out,
    /// A dot.
    Dot,
}

/// The drawings, once for the whole page.
pub(super) const DRAWINGS: &str = "<svg class=\"sprite\" aria-hidden=\"true\">\
    <symbol id=\"i-ok\" viewBox=\"0 0 16 16\"><circle cx=\"8\" cy=\"8\" r=\"7\"/>\
    <path d=\"M5 8.2l2.1 2.1L11.2 6\"/></symbol>\
    <symbol id=\"i-warn\" viewBox=\"0 0 16 16\"><path d=\"M8 1.5l7 12.5h-14z\"/>\
    <path d=\"M8 6v3.5M8 11.6v.3\"/></symbol>\
    <symbol id=\"i-bad\" viewBox=\"0 0 16 16\">\
    <path d=\"M5 1h6l4 4v6l-4 4h-6l-4-4v-6z\"/><path d=\"M5.5 5.5l5 5m0-5l-5 5\"/></symbol>\
    <symbol id=\"i-full\" viewBox=\"0 0 16 16\">\
    <rect x=\"1.5\" y=\"1.5\" width=\"13\" height=\"13\" rx=\"2\"/>\
    <path d=\"M5 5h6M5 8h6M5 11h6\"/></symbol>\
    <symbol id=\"i-out\" viewBox=\"0 0 16 16\"><circle cx=\"8\" cy=\"8\" r=\"7\"/>\
    <path d=\"M4.8 8h6.4\"/></symbol>\
    <symbol id=\"i-dot\" viewBox=\"0 0 16 16\"><circle cx=\"8\" cy=\"8\" r=\"2.5\"/></symbol>\
    </svg>";

/// Puts an icon in. The words beside it say the same, so it is hidden from those who hear the page.
pub(super) fn use_icon(html: &mut Html, icon: Icon) {
    html.constant(match icon {
        Icon::Check => "<svg class=\"i\" aria-hidden=\"true\"><use href=\"#i-ok\"/></svg>",
        Icon::Triangle => "<svg class=\"i\" aria-hidden=\"true\"><use href=\"#i-warn\"/></svg>",
        Icon::Cross => "<svg class=\"i\" aria-hidden=\"true\"><use href=\"#i-bad\"/></svg>",
        Icon::Full => "<svg class=\"i\" aria-hidden=\"true\"><use href=\"#i-full\"/></svg>",
        Icon::Out => "<svg class=\"i\" aria-hidden=\"true\"><use href=\"#i-out\"/></svg>",
        Icon::Dot => "<svg class=\"i\" aria-hidden=\"true\"><use href=\"#i-dot\"/></svg>",
    });
}

/// The icon of a server's state.
pub(super) fn of_state(state: ServerState) -> Icon {
    match state {
        ServerState::Up => Icon::Check,
        ServerState::Full => Icon::Full,
        ServerState::Pending | ServerState::Drain => Icon::Triangle,
        ServerState::Out | ServerState::Maint | ServerState::Vacant => Icon::Out,
        ServerState::Failed | ServerState::Down => Icon::Cross,
    }
}

/// The icon of a level.
pub(super) fn of_level(level: Level) -> Icon {
    match level {
        Level::Well => Icon::Check,
        Level::Attention => Icon::Triangle,
        Level::Trouble => Icon::Cross,
    }
}
