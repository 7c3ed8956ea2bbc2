//! The top of the page: the headline, what listens where, and the figures of the whole program.

use std::fmt::Display;

use crate::Status;
use crate::page::chart;
use crate::page::figures::{Bytes, Clock, Count, Duration, Of, Rate, rfc3339};
use crate::page::health::{Health, Level};
use crate::page::html::Html;
use crate::page::icon::{of_level, use_icon};
use crate::page::rates::Rates;

/// The bar above everything: what this is, and of when.
pub(super) fn header(html: &mut Html, status: &Status, clock: Clock) {
    html.element("header", &[], |html| {
        html.constant("<p class=\"brand\"><b>pen</b> ");
        html.words("bdi", "", &status.version);
        html.constant("</p><p class=\"live\"><span class=\"pulse\"></span>");
        html.element("time", &[("datetime", &rfc3339(status.unix_time))], |html| {
            html.text(clock.moment(status.unix_time));
        });
        html.words("span", "zone", format_args!(" {}", clock.zone()));
        html.constant("</p>");
    });
    html.constant("<p id=\"lost\" role=\"alert\" hidden></p>");
}

/// The headline and the remarks.
pub(super) fn hero(html: &mut Html, status: &Status, health: &Health, clock: Clock) {
    html.element("section", &[("class", &Hero(health.level))], |html| {
        use_icon(html, of_level(health.level));
        html.element("div", &[], |html| {
            html.words("p", "level", health.level.words());
            html.words("h1", "", &health.headline);
            facts(html, status, clock);
        });
        if !health.remarks.is_empty() {
            html.element("ul", &[("class", &"remarks")], |html| {
                for remark in &health.remarks {
                    html.element("li", &[("class", &class(remark.level))], |html| {
                        use_icon(html, of_level(remark.level));
                        html.words("span", "", &remark.text);
                    });
                }
            });
        }
    });
}

/// A limit, and how much of it is used.
struct Limit(u64, u64);

impl Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Limit(used, most) = self;
        let share = *used as f64 * 100.0 / (*most).max(1) as f64;
        write!(f, "of {} ({share:.0}\u{202f}%)", Count(*most))
    }
}

struct Hero(Level);

impl Display for Hero {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "hero {}", class(self.0))
    }
}

/// The class of a level, which has the colours of the server state that is as bad.
pub(super) fn class(level: Level) -> &'static str {
    match level {
        Level::Well => "up",
        Level::Attention => "full",
        Level::Trouble => "failed",
    }
}

fn facts(html: &mut Html, status: &Status, clock: Clock) {
    let since = status.started_at;
    html.element("dl", &[("class", &"facts")], |html| {
        fact(html, "Listens at", &status.listen);
        let up = format!("{}, since {}", Duration(status.uptime), clock.moment(since));
        fact(html, "Running", &up);
        let workers = match status.old_workers.len() {
            0 => Of(status.workers.into(), "worker").to_string(),
            old => format!("{} and {old} old", Of(status.workers.into(), "worker")),
        };
        fact(html, "Served by", &workers);
        if !status.method.is_empty() {
            fact(html, "Servers chosen by", &status.method);
        }
    });
}

fn fact(html: &mut Html, name: &'static str, value: &dyn Display) {
    html.element("div", &[], |html| {
        html.words("dt", "", name);
        html.words("dd", "", value);
    });
}

/// The four figures.
pub(super) fn tiles(html: &mut Html, status: &Status) {
    html.element("section", &[("class", &"tiles"), ("aria-label", &"Now")], |html| {
        let (used, most) = (status.connections.into(), status.connections_max.into());
        tile(html, "Connections", "connections", &Count(used), |html| {
            let part = |count: u64, what: &str| match count {
                0 => String::new(),
                count => format!(", {} {what}", Count(count)),
            };
            let (held, kept) = (part(status.held, "held"), part(status.tarpitted, "in the tarpit"));
            html.words("small", "", format_args!("{}{held}{kept}", Limit(used, most)));
            chart::bar(html, used, most);
        });
        history(html, "New connections", "rate", &Rates::of(&status.history), |rate| {
            format!("{}/s", Rate(rate))
        });
        history(html, "Traffic", "bytes", &Rates::bytes(&status.history), |rate| {
            format!("{}/s", Bytes(rate))
        });
        let (used, most) = (status.clients.into(), status.clients_max.into());
        tile(html, "Clients remembered", "clients", &Count(used), |html| {
            html.words("small", "", Limit(used, most));
            chart::bar(html, used, most);
        });
    });
}

fn tile(
    html: &mut Html,
    title: &'static str,
    id: &'static str,
    value: &dyn Display,
    content: impl FnOnce(&mut Html),
) {
    html.element("div", &[("class", &"tile")], |html| {
        html.words("h2", "", title);
        html.element("p", &[("id", &id)], |html| html.text(value));
        content(html);
    });
}

fn history(
    html: &mut Html,
    title: &'static str,
    id: &'static str,
    rates: &Rates,
    words: impl Fn(f64) -> String,
) {
    let Some(now) = rates.now() else {
        return tile(html, title, id, &"–", |html| {
            html.constant("<small>Nothing was measured yet.</small>");
        });
    };
    tile(html, title, id, &words(now), |html| {
        let most = words(rates.most());
        let time = if rates.is_whole() { "in 5 minutes" } else { "so far" };
        html.words("small", "", format_args!("at most {most} {time}"));
        let label = format!("{title} in the last five minutes: now {}, at most {most}", words(now));
        chart::line(html, "line large", &rates.drawing(rates.periods()), rates.most(), &label);
    });
}
