//! The last events, newest first.

use crate::event::{EventKind, EventRecord};
use crate::page::figures::{Clock, rfc3339};
use crate::page::html::Html;
use crate::page::icon::{Icon, use_icon};

/// So many are shown at once.
const SHOWN: usize = 13;
/// So many more can be unfolded. All are in `/status.json`, and in `events` of the control port.
const FOLDED: usize = 5;

/// The section.
pub(super) fn section(html: &mut Html, events: &[EventRecord], clock: Clock) {
    html.element("section", &[("class", &"events"), ("aria-labelledby", &"events")], |html| {
        html.constant("<h2 id=\"events\">Last events</h2>");
        if events.is_empty() {
            html.constant("<p class=\"none\">Nothing has happened.</p>");
            return;
        }
        let (older, newest) = events.split_at(events.len().saturating_sub(SHOWN));
        let older = &older[older.len().saturating_sub(FOLDED)..];
        list(html, newest, clock);
        if !older.is_empty() {
            html.constant("<details><summary>");
            html.text(format_args!("{} earlier", older.len()));
            html.constant("</summary>");
            list(html, older, clock);
            html.constant("</details>");
        }
    });
}

fn list(html: &mut Html, events: &[EventRecord], clock: Clock) {
    html.element("ol", &[], |html| {
        for event in events.iter().rev() {
            let (class, icon) = look(event.kind);
            html.element("li", &[("class", &class)], |html| {
                use_icon(html, icon);
                html.element("time", &[("datetime", &rfc3339(event.time.seconds()))], |html| {
                    html.text(clock.moment(event.time.seconds()));
                });
                html.words("span", "", &event.text);
            });
        }
    });
}

fn look(kind: EventKind) -> (&'static str, Icon) {
    match kind {
        EventKind::ServerDown
        | EventKind::ReloadFailed
        | EventKind::UpgradeFailed
        | EventKind::Unserved
        | EventKind::WorkerDied => ("failed", Icon::Cross),
        EventKind::ServerPassedOver
        | EventKind::ServerLimit
        | EventKind::ConnectionsLimit
        | EventKind::ClientLimit
        | EventKind::CertificateExpires
        | EventKind::LookupFailed
        | EventKind::Shortage
        | EventKind::LogLost => ("full", Icon::Triangle),
        EventKind::Started
        | EventKind::ServerUp
        | EventKind::LookupWorks
        | EventKind::WorkerReplaced
        | EventKind::Reloaded
        | EventKind::Upgraded => ("up", Icon::Check),
        EventKind::ServerAddress
        | EventKind::ServerDrained
        | EventKind::ServerRebalanced
        | EventKind::ServerState
        | EventKind::ServerWeight
        | EventKind::Setting
        | EventKind::Operator
        | EventKind::Stopping
        | EventKind::ClientRefused
        | EventKind::Other => ("plain", Icon::Dot),
    }
}
