//! The rest of the page: changes, certificates, workers and counts.

use crate::page::figures::{Bytes, Clock, Count, Duration, Of, rfc3339};
use crate::page::health::{Level, expiry};
use crate::page::html::Html;
use crate::page::icon::{of_level, use_icon};
use crate::page::overview::class;
use crate::page::servers::sum;
use crate::{ChangeResult, Counts, LastChange, ReasonCount, Status, TlsCounts};

/// The last reload and the last upgrade.
pub(super) fn changes(html: &mut Html, status: &Status, clock: Clock) {
    html.element("section", &[("aria-labelledby", &"changes")], |html| {
        html.constant("<h2 id=\"changes\">Last changes</h2><dl class=\"list\">");
        change(html, "Reload", status.reload.as_ref(), clock);
        change(html, "Upgrade", status.upgrade.as_ref(), clock);
        html.constant("</dl>");
    });
}

fn change(html: &mut Html, title: &'static str, change: Option<&LastChange>, clock: Clock) {
    html.words("dt", "", title);
    let Some(change) = change else {
        html.constant("<dd class=\"none\">none since the start</dd>");
        return;
    };
    let (level, words) = match change.result {
        ChangeResult::Success => (Level::Well, "succeeded"),
        ChangeResult::Failure => (Level::Attention, "failed"),
    };
    html.element("dd", &[("class", &class(level))], |html| {
        use_icon(html, of_level(level));
        html.words("b", "", words);
        html.constant(" ");
        html.element("time", &[("datetime", &rfc3339(change.unix_time))], |html| {
            html.text(clock.moment(change.unix_time));
        });
        html.words("small", "", &change.text);
    });
}

/// The certificates; nothing without any.
pub(super) fn certificates(html: &mut Html, status: &Status, clock: Clock) {
    if status.certificates.is_empty() {
        return;
    }
    html.element("section", &[("aria-labelledby", &"certificates")], |html| {
        html.constant("<h2 id=\"certificates\">Certificates</h2><dl class=\"list\">");
        for certificate in &status.certificates {
            html.element("dt", &[("title", &certificate.file)], |html| {
                html.words("bdi", "", &certificate.name);
                html.words("small", "", &certificate.used);
            });
            match (expiry(certificate, clock), certificate.not_after_unix) {
                (Some((level, left)), Some(end)) => {
                    html.element("dd", &[("class", &class(level))], |html| {
                        use_icon(html, of_level(level));
                        html.words("b", "", left);
                        html.words("small", "", format_args!("until {}", clock.date(end)));
                    });
                }
                (_, _) => html.constant("<dd class=\"none\">does not say until when</dd>"),
            }
        }
        html.constant("</dl>");
    });
}

/// The workers, and those of earlier programs.
pub(super) fn workers(html: &mut Html, status: &Status) {
    html.element("section", &[("aria-labelledby", &"workers")], |html| {
        html.constant(
            "<h2 id=\"workers\">Workers</h2><table><caption class=\"sr\">The worker \
            processes</caption><thead><tr><th scope=\"col\">Worker</th>\
            <th scope=\"col\">Connections</th><th scope=\"col\">CPU time</th>\
            <th scope=\"col\">Memory</th><th scope=\"col\">Replaced</th></tr></thead><tbody>",
        );
        for worker in &status.worker_list {
            html.element("tr", &[], |html| {
                html.element("th", &[("scope", &"row")], |html| {
                    html.words("b", "", worker.number);
                    match worker.pid {
                        Some(pid) => html.words("small", "", format_args!("pid {pid}")),
                        None => html.constant("<small class=\"full\">being replaced</small>"),
                    }
                });
                html.words("td", "", Count(worker.connections));
                html.words("td", "", Duration(worker.busy_ms / 1000));
                match worker.memory {
                    Some(bytes) => html.words("td", "", Bytes(bytes as f64)),
                    None => html.constant("<td class=\"none\">–</td>"),
                }
                match worker.restarts {
                    0 => html.constant("<td class=\"none\">0</td>"),
                    times => html.words("td", "", Count(times)),
                }
            });
        }
        html.constant("</tbody></table>");
        for old in &status.old_workers {
            html.words(
                "p",
                "old",
                format_args!(
                    "An old worker (version {}) still serves {}; it has taken no clients for {}.",
                    old.version,
                    Of(old.connections, "connection"),
                    Duration(old.age)
                ),
            );
        }
    });
}

/// Something that was counted.
struct Counted<'a> {
    name: &'static str,
    count: u64,
    kind: Kind,
    reasons: &'a [ReasonCount],
}

/// Whether a count should stay 0.
enum Kind {
    Plain,
    Fault,
}

/// What was counted since the start. Faults that never happened are one
/// line.
pub(super) fn counts(html: &mut Html, status: &Status) {
    let with_clients = status.counts.tls.as_ref().map(handshakes);
    let with_servers = status.counts.server_tls.as_ref().map(handshakes);
    let counted = counted(&status.counts, with_clients.as_deref(), with_servers.as_deref());
    html.element("section", &[("class", &"counts"), ("aria-labelledby", &"counts")], |html| {
        html.constant("<h2 id=\"counts\">Since the start</h2>");
        html.element("dl", &[], |html| {
            // The first one is there from the beginning.
            let first = counted.iter().take(1);
            let others = counted.iter().skip(1).filter(|counted| counted.count > 0);
            first.chain(others).for_each(|counted| count(html, counted));
        });
        let never = counted.iter().filter(|counted| counted.count == 0);
        let never: Vec<&str> = never
            .filter_map(|counted| match counted.kind {
                Kind::Plain => None,
                Kind::Fault => Some(counted.name),
            })
            .collect();
        if !never.is_empty() {
            html.words("p", "none", format_args!("Never: {}.", never.join(", ").to_lowercase()));
        }
    });
}

fn counted<'a>(
    counts: &'a Counts,
    with_clients: Option<&'a [ReasonCount]>,
    with_servers: Option<&'a [ReasonCount]>,
) -> Vec<Counted<'a>> {
    let plain = |name, count| Counted { name, count, kind: Kind::Plain, reasons: &[] };
    let fault = |name, count| Counted { name, count, kind: Kind::Fault, reasons: &[] };
    let by_reason = |name, reasons: &'a [ReasonCount]| Counted {
        name,
        count: sum(reasons),
        kind: Kind::Plain,
        reasons,
    };
    let mut all = vec![
        plain("Clients accepted", counts.accepted),
        fault("Clients without a server", counts.unserved),
        by_reason("Clients refused", &counts.refused),
        by_reason("Requests refused", &counts.requests_refused),
        by_reason("Beyond a limit per client", &counts.limited),
        fault("Let in without a look at limits", counts.limits_unchecked),
        fault("Pauses of accepting", counts.accept_pauses),
        fault("Closed for a shortage", counts.shortages),
        plain("Log lines", counts.log_lines),
        fault("Log lines lost", counts.log_lines_lost),
        fault("Events lost", counts.events_lost),
        plain("Clients forgotten for others", counts.client_evictions),
        fault("Waits for the table given up", counts.table_lock_timeouts),
        plain("Reloads", counts.reloads),
        fault("Reloads failed", counts.reloads_failed),
        fault("Lookups failed", counts.lookups_failed),
        plain("Upgrades", counts.upgrades),
        fault("Upgrades failed", counts.upgrades_failed),
    ];
    if let (Some(tls), Some(handshakes)) = (&counts.tls, with_clients) {
        all.push(by_reason("TLS handshakes", handshakes));
        all.push(by_reason("TLS handshakes failed", &tls.failures));
    }
    if let (Some(tls), Some(handshakes)) = (&counts.server_tls, with_servers) {
        all.push(by_reason("TLS handshakes with servers", handshakes));
        all.push(by_reason("TLS handshakes with servers failed", &tls.failures));
    }
    all
}

/// The finished handshakes by version, and whether they resumed a session.
fn handshakes(tls: &TlsCounts) -> Vec<ReasonCount> {
    let kinds = tls.handshakes.iter().map(|kind| ReasonCount {
        reason: format!("{}{}", kind.version, if kind.resumed { " resumed" } else { "" }),
        count: kind.count,
    });
    kinds.collect()
}

fn count(html: &mut Html, counted: &Counted<'_>) {
    let Counted { name, count, kind, reasons } = counted;
    let class = match kind {
        Kind::Plain => "plain",
        Kind::Fault => "full",
    };
    html.element("div", &[("class", &class)], |html| {
        html.words("dt", "", name);
        html.element("dd", &[], |html| {
            match kind {
                Kind::Plain => (),
                Kind::Fault => use_icon(html, of_level(Level::Attention)),
            }
            html.words("b", "", Count(*count));
            let parts = reasons.iter().filter(|reason| reason.count > 0);
            let parts: Vec<String> = parts
                .map(|part| format!("{} {}", part.reason.replace('_', " "), Count(part.count)))
                .collect();
            if !parts.is_empty() {
                html.words("small", "", parts.join(" · "));
            }
        });
    });
}
