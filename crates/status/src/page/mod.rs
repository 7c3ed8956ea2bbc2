//! The page that shows a [`Status`] to people. One file: style and script are inside, nothing comes
//! from elsewhere. Without script it loads itself again; with script only what changed is changed.

mod chart;
mod details;
mod events;
mod figures;
mod health;
mod html;
mod icon;
mod overview;
mod rates;
mod servers;
#[cfg(test)]
mod tests;

use crate::Status;
use crate::page::figures::Clock;
use crate::page::health::{Health, Level};
use crate::page::html::Html;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The header `Content-Security-Policy` for the page: only its own style and script apply, and the
/// script asks nobody but its origin. The two hashes are those of `style.css` and `script.js`.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; \
    style-src 'sha256-BKElcweV1iSLgXSlUoQFk2ObQqsztcpcwLI6MwvfJf8='; \
    script-src 'sha256-A5+g2A7ANMuVZr6WWM3cHmzw2Ri+9Cen0BFAf4CYkaM='; \
    img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page as HTML in UTF-8.
pub fn render(status: &Status) -> String {
    let clock = Clock::new(status.unix_time, &status.time);
    let health = Health::new(status, clock);
    let mut html = Html::with_capacity(32_768 + status.servers.len() * 1500);
    html.constant("<!DOCTYPE html><html lang=\"en\">");
    head(&mut html, status, &health);
    html.element("body", &[], |html| {
        html.constant(icon::DRAWINGS);
        overview::header(html, status, clock);
        html.element("main", &[], |html| {
            overview::hero(html, status, &health, clock);
            overview::tiles(html, status);
            servers::section(html, status, clock);
            html.constant("<div class=\"columns\">");
            events::section(html, &status.events, clock);
            html.constant("<div class=\"side\">");
            details::changes(html, status, clock);
            details::certificates(html, status, clock);
            details::workers(html, status);
            html.constant("</div></div>");
            details::counts(html, status);
        });
        html.constant(FOOTER);
        html.constant("<script>");
        html.constant(SCRIPT);
        html.constant("</script>");
    });
    html.constant("</html>\n");
    html.finish()
}

/// The same figures for programs.
const FOOTER: &str = "<footer><nav aria-label=\"For programs\">For programs: \
    <a href=\"status.json\">status.json</a> <a href=\"metrics\">metrics</a> \
    <a href=\"health\">health</a></nav></footer>";

fn head(html: &mut Html, status: &Status, health: &Health) {
    html.element("head", &[], |html| {
        html.constant(
            "<meta charset=\"utf-8\">\
            <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
            <meta name=\"color-scheme\" content=\"light dark\">\
            <noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>",
        );
        html.element("title", &[], |html| {
            html.text(format_args!("{} – pen {}", health.headline, status.listen));
        });
        html.constant(match health.level {
            Level::Well => WELL,
            Level::Attention => ATTENTION,
            Level::Trouble => TROUBLE,
        });
        html.constant("<style>");
        html.constant(STYLE);
        html.constant("</style>");
    });
}

// The icons of a tab: the same shapes as in the page.
const WELL: &str = "<link rel=\"icon\" href=\"data:image/svg+xml,\
    %3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
    %3Ccircle cx='8' cy='8' r='8' fill='%231a7f4b'/%3E\
    %3Cpath d='M4.5 8.3l2.4 2.4L11.7 6' stroke='%23fff' stroke-width='2' fill='none'/%3E\
    %3C/svg%3E\">";
const ATTENTION: &str = "<link rel=\"icon\" href=\"data:image/svg+xml,\
    %3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
    %3Cpath d='M8 0l8 15h-16z' fill='%23d9930d'/%3E\
    %3Cpath d='M8 5v5m0 1.5v2' stroke='%23000' stroke-width='2'/%3E%3C/svg%3E\">";
const TROUBLE: &str = "<link rel=\"icon\" href=\"data:image/svg+xml,\
    %3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
    %3Cpath d='M4.7 0h6.6L16 4.7v6.6L11.3 16H4.7L0 11.3V4.7z' fill='%23c62f2f'/%3E\
    %3Cpath d='M5 5l6 6m0-6l-6 6' stroke='%23fff' stroke-width='2'/%3E%3C/svg%3E\">";
