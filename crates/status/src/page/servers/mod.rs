//! The table of servers. With script, its columns sort and its rows are filtered.

mod state;

use crate::histogram::CONNECT;
use crate::page::chart;
use crate::page::figures::{Bytes, Clock, Count, Duration, Micros, Rate};
use crate::page::health::Tally;
use crate::page::html::Html;
use crate::page::icon;
use crate::page::rates::Rates;
use crate::{ReasonCount, ServerState, ServerStatus, ServerTlsStatus, Status, Verify};

/// The line of a server has so many points.
const POINTS: usize = 30;
/// With more servers, those with trouble come first.
const IN_ORDER: usize = 12;

/// The section.
pub(super) fn section(html: &mut Html, status: &Status, clock: Clock) {
    let tally = Tally::new(&status.servers);
    html.element("section", &[("aria-labelledby", &"servers")], |html| {
        html.element("div", &[("class", &"head")], |html| {
            html.constant("<h2 id=\"servers\">Servers</h2>");
            states(html, tally);
        });
        if tally.all > 1 {
            chart::parts(
                html,
                &[
                    ("failed", tally.failed + tally.down),
                    ("out", tally.out + tally.maint + tally.drain),
                    ("full", tally.full),
                    ("pending", tally.pending),
                    ("up", tally.up),
                ],
            );
        }
        if tally.all == 0 && status.emergency.is_none() && status.abuse.is_none() {
            html.constant(
                "<p class=\"none\">There is no server. Add one with the command \
                <code>server</code>.</p>",
            );
            return;
        }
        html.element("table", &[("class", &"servers")], |html| {
            html.constant(HEAD);
            rows(html, status, clock);
        });
    });
}

const HEAD: &str = "<caption class=\"sr\">The servers: state, connections, times and failures. \
    The lines of all servers have the same scale.</caption><thead><tr>\
    <th scope=\"col\">Server</th><th scope=\"col\">State <small>and check</small></th>\
    <th scope=\"col\">Connections</th><th scope=\"col\">New per second</th>\
    <th scope=\"col\">Share of new</th>\
    <th scope=\"col\">Connect time <small>p50 / p99</small></th>\
    <th scope=\"col\">Failures</th><th scope=\"col\">Traffic <small>to / from</small></th>\
    </tr></thead>";

/// How many there are in each state: with script, these are filters.
fn states(html: &mut Html, tally: Tally) {
    html.element("ul", &[("class", &"states")], |html| {
        let counts = [
            (ServerState::Failed, tally.failed),
            (ServerState::Down, tally.down),
            (ServerState::Out, tally.out),
            (ServerState::Maint, tally.maint),
            (ServerState::Drain, tally.drain),
            (ServerState::Full, tally.full),
            (ServerState::Pending, tally.pending),
            (ServerState::Up, tally.up),
        ];
        for (state, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            html.element(
                "li",
                &[("class", &state::tone(state)), ("data-state", &state.name())],
                |html| {
                    icon::use_icon(html, icon::of_state(state));
                    html.text(format_args!("{} {}", Count(count), state::words(state)));
                },
            );
        }
    });
}

fn rows(html: &mut Html, status: &Status, clock: Clock) {
    let mut servers: Vec<&ServerStatus> =
        status.servers.iter().filter(|server| server.state != ServerState::Vacant).collect();
    if servers.len() > IN_ORDER {
        servers.sort_by_key(|server| state::urgency(server.state));
    }
    let scale = Scale::new(&servers);
    html.element("tbody", &[], |html| {
        for server in servers {
            row(html, server, Title::Number(server.number.unwrap_or_default()), &scale, clock);
        }
    });
    let backups =
        [(Title::Emergency, status.emergency.as_ref()), (Title::Abuse, status.abuse.as_ref())];
    let backups = backups.into_iter().filter_map(|(title, server)| Some((title, server?)));
    let backups: Vec<(Title, &ServerStatus)> = backups.collect();
    if !backups.is_empty() {
        html.element("tbody", &[("class", &"backups")], |html| {
            for (title, server) in backups {
                row(html, server, title, &scale, clock);
            }
        });
    }
}

/// What all rows have in common.
struct Scale {
    /// The highest rate of any server, for the lines.
    most: f64,
    /// New connections of all servers in the last minutes, or since the start.
    connections: f64,
}

impl Scale {
    fn new(servers: &[&ServerStatus]) -> Scale {
        let most =
            servers.iter().map(|server| Rates::of(&server.history).most()).fold(0.0, f64::max);
        let connections = servers.iter().map(|server| recent(server)).sum();
        Scale { most, connections }
    }
}

/// The new connections of the last minutes.
fn recent(server: &ServerStatus) -> f64 {
    server.history.connections.iter().map(|count| f64::from(*count)).sum()
}

/// What a row begins with.
#[derive(Clone, Copy)]
enum Title {
    Number(u32),
    Emergency,
    Abuse,
}

fn row(html: &mut Html, server: &ServerStatus, title: Title, scale: &Scale, clock: Clock) {
    let id = match title {
        Title::Number(number) => format!("s{number}"),
        Title::Emergency => "emergency".into(),
        Title::Abuse => "abuse".into(),
    };
    let state = server.state.name();
    let tone = state::tone(server.state);
    html.element("tr", &[("id", &id), ("class", &tone), ("data-state", &state)], |html| {
        name(html, server, title);
        state::cell(html, server, clock);
        connections(html, server);
        rate(html, server, scale);
        of_new(html, server, title, scale);
        connect_time(html, server);
        failures(html, server, clock);
        traffic(html, server);
    });
}

fn name(html: &mut Html, server: &ServerStatus, title: Title) {
    html.element("th", &[("scope", &"row")], |html| {
        match title {
            Title::Number(number) => html.words("span", "number", number),
            Title::Emergency => html.constant("<span class=\"role\">emergency</span>"),
            Title::Abuse => html.constant("<span class=\"role\">abuse</span>"),
        }
        html.words("bdi", "", server.given());
        let mut more = Vec::new();
        if server.name.is_some() {
            more.extend(server.address.clone());
        }
        // Each server has weight 1 unless it is given.
        if server.weight > 1 {
            more.push(format!("weight {}", server.weight));
        }
        if server.prio > 0 {
            more.push(format!("priority {}", server.prio));
        }
        more.extend(server.tls.as_ref().map(|tls| secured(server, tls)));
        if !more.is_empty() {
            html.words("small", "", more.join(" · "));
        }
    });
}

/// That its connections use TLS, and what is not to be expected of it.
fn secured(server: &ServerStatus, tls: &ServerTlsStatus) -> String {
    // The name is beside it already.
    let is_its_own = [&server.name, &server.address].contains(&&tls.name);
    match (tls.verify, is_its_own && tls.name.is_some()) {
        (Verify::On, true) => "TLS".into(),
        (Verify::On, false) | (Verify::Off, _) => format!("TLS, {}", tls.in_words()),
    }
}

fn connections(html: &mut Html, server: &ServerStatus) {
    let (used, soft, hard) = (server.connections, server.max, server.hard);
    html.element("td", &[("class", &"connections"), ("data-v", &used)], |html| {
        html.words("b", "", Count(used.into()));
        // Without a soft limit, the hard one has no effect.
        if soft > 0 {
            html.words("span", "of", format_args!(" of {}", Count(soft.into())));
            // Before that it is of no interest.
            if hard > soft && used >= soft {
                html.words("span", "of", format_args!(", hard limit {}", Count(hard.into())));
            }
            chart::bar(html, used.into(), soft.into());
        }
    });
}

fn rate(html: &mut Html, server: &ServerStatus, scale: &Scale) {
    let rates = Rates::of(&server.history);
    let Some(now) = rates.now() else {
        html.constant("<td class=\"rate none\" data-v=\"0\">–</td>");
        return;
    };
    let sort = format!("{now:.1}");
    html.element("td", &[("class", &"rate"), ("data-v", &sort)], |html| {
        html.words("b", "", Rate(now));
        let most = scale.most.max(rates.most());
        chart::line(
            html,
            "line",
            &rates.drawing(POINTS),
            most,
            &format_args!("at most {}", Rate(rates.most())),
        );
    });
}

/// Its share of the new connections to all servers in the last minutes.
fn of_new(html: &mut Html, server: &ServerStatus, title: Title, scale: &Scale) {
    let counts = match title {
        Title::Number(_) => scale.connections > 0.0,
        Title::Emergency | Title::Abuse => false,
    };
    if !counts {
        html.constant("<td class=\"share none\" data-v=\"0\">–</td>");
        return;
    }
    let share = recent(server) * 100.0 / scale.connections;
    let sort = format!("{share:.2}");
    html.element("td", &[("class", &"share"), ("data-v", &sort)], |html| {
        let decimals = if share > 0.0 && share < 9.95 { 1 } else { 0 };
        html.text(format_args!("{share:.decimals$}\u{202f}%"));
    });
}

fn connect_time(html: &mut Html, server: &ServerStatus) {
    let quantile = |share| server.connect.quantile(&CONNECT, share);
    let (Some(half), Some(most)) = (quantile(0.5), quantile(0.99)) else {
        html.constant("<td class=\"time none\" data-v=\"0\">–</td>");
        return;
    };
    html.element("td", &[("class", &"time"), ("data-v", &half)], |html| {
        html.text(Micros(half));
        html.words("span", "of", format_args!(" / {}", Micros(most)));
    });
}

fn failures(html: &mut Html, server: &ServerStatus, clock: Clock) {
    let failed = sum(&server.connect_failures);
    html.element("td", &[("class", &"failures"), ("data-v", &failed)], |html| {
        match failed {
            0 => html.constant("<span class=\"none\">0</span>"),
            _ => html.words("b", "", Count(failed)),
        }
        // The state of a server that is down has said it.
        if let Some(last) = &server.last_failure
            && server.state != ServerState::Failed
        {
            let ago = Duration(clock.since(i64::try_from(last.unix_time).unwrap_or(i64::MAX)));
            html.words("small", "", format_args!("{}, {ago} ago", last.reason));
        }
    });
}

fn traffic(html: &mut Html, server: &ServerStatus) {
    let (sent, received) = (server.sent, server.received);
    let both = sent.saturating_add(received);
    html.element("td", &[("class", &"traffic"), ("data-v", &both)], |html| {
        html.text(Bytes(sent as f64));
        html.words("span", "of", format_args!(" / {}", Bytes(received as f64)));
    });
}

/// All of them, whatever the reason.
pub(super) fn sum(reasons: &[ReasonCount]) -> u64 {
    reasons.iter().fold(0, |sum, reason| sum.saturating_add(reason.count))
}
