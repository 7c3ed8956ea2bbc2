//! The overview as a sheet: the facts about the program, a line each.

use super::{Paint, Width, cut};
use crate::overview::{Health, Overview, State};
use crate::text::{duration, shown};

/// The sheet, with its line ends. `None`: the text is not an overview.
pub fn render(overview: &[u8], paint: Paint, width: Width) -> Option<String> {
    let overview = Overview::read(overview)?;
    let fits = |text: &str| width.left(0).map_or(text.to_owned(), |columns| cut(text, columns));
    let lines = facts(&overview)
        .into_iter()
        .map(|(health, name, text)| paint.on(health, &fits(&format!("{name:<12}  {text}"))) + "\n");
    Some(lines.collect())
}

/// The facts, each with its name. A fact that needs attention has the health of a failure.
fn facts(overview: &Overview) -> Vec<(Health, &'static str, String)> {
    let mut facts = Vec::new();
    let mut fact = |health: Health, name: &'static str, text: Option<String>| {
        facts.extend(text.map(|text| (health, name, text)));
    };
    let plain = Health::Vacant;
    let of = |now: Option<u64>, most: Option<u64>| match (now?, most) {
        (now, Some(most)) => Some(format!("{now} of {most}")),
        (now, None) => Some(now.to_string()),
    };
    fact(plain, "version", overview.version.clone());
    fact(plain, "listen", overview.listen.clone());
    fact(plain, "running for", overview.uptime.map(duration));
    fact(plain, "workers", overview.workers.map(|count| count.to_string()));
    for old in &overview.old_workers {
        let text = format!("pen {}: {} connections", old.version, old.connections);
        fact(plain, "old worker", Some(text));
    }
    let full = overview.connections.is_some() && overview.connections >= overview.connections_max;
    let health = if full { Health::Out } else { plain };
    fact(health, "connections", of(overview.connections, overview.connections_max));
    let held = (overview.held > 0).then(|| format!("{} clients", overview.held));
    fact(Health::Out, "held", held);
    let kept = (overview.tarpitted > 0).then(|| format!("{} connections", overview.tarpitted));
    fact(Health::Out, "tarpit", kept);
    fact(plain, "clients", of(overview.clients, overview.clients_max));
    fact(plain, "accepted", overview.accepted.map(|count| count.to_string()));
    if overview.unserved > 0 {
        fact(Health::Out, "unserved", Some(overview.unserved.to_string()));
    }
    fact(plain, "servers", Some(overview.servers_up()));
    for server in &overview.servers {
        let (state, why) = server.state();
        let check = match (&server.state, &server.check) {
            (_, None) => String::new(),
            (State::Down, Some(check)) => {
                check.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"))
            }
            (_, Some(check)) => format!(", check {}", check.words()),
        };
        let text = format!("{}  {state}{why}{check}, {} connections", server.name, server.usage());
        fact(server.state.health(), "server", Some(format!("{} {text}", server.slot)));
    }
    for note in overview.notes() {
        fact(Health::Out, "note", Some(note));
    }
    fact(Health::Failed, "reload", overview.failed_reload.as_deref().map(shown));
    fact(Health::Failed, "upgrade", overview.failed_upgrade.as_deref().map(shown));
    for certificate in overview.expiring() {
        fact(Health::Out, "certificate", Some(certificate));
    }
    facts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_needs_attention_is_marked() {
        let overview = json!({
            "version": "0.1.0", "unix_time": 1_000_000, "uptime": 7200, "listen": "0.0.0.0:443",
            "workers": 2, "connections": 9, "connections_max": 9, "clients": 3,
            "held": 2, "paused": true,
            "servers": [{
                "number": 0, "address": "10.0.0.1", "port": 80, "state": "down", "mode": "ready",
                "check": { "kind": "tcp", "state": "down", "reason": "refused" },
            }],
            "old_workers": [{ "version": "0.0.9", "connections": 4 }],
            "reload": { "result": "failure", "text": "line 3: bad" },
            "upgrade": { "result": "success", "text": "well" },
            "certificates": [
                { "name": "CN=a", "not_after_unix": 1_000_000 + 3 * 86_400 },
                { "name": "CN=b", "not_after_unix": 1_000_000 + 300 * 86_400 },
            ],
        });
        let overview = overview.to_string();
        let sheet = render(overview.as_bytes(), Paint::Colours, Width::Any).unwrap();
        assert!(sheet.contains("\x1b[33mconnections   9 of 9\x1b[0m\n"), "{sheet}");
        assert!(sheet.contains("clients       3\n"), "{sheet}");
        assert!(sheet.contains("\x1b[31mreload        line 3: bad"), "{sheet}");
        assert!(sheet.contains("CN=a expires in 3 d") && !sheet.contains("CN=b"), "{sheet}");
        assert!(sheet.contains("\x1b[33mheld          2 clients\x1b[0m\n"), "{sheet}");
        assert!(sheet.contains("note          Paused: new clients wait"), "{sheet}");
        assert!(sheet.contains("down by check: refused, 0 conn"), "{sheet}");
        assert!(!sheet.contains("upgrade") && sheet.contains("pen 0.0.9: 4 connections"));
        let narrow = render(overview.as_bytes(), Paint::Plain, Width::Columns(20)).unwrap();
        assert!(narrow.lines().all(|line| line.chars().count() <= 20), "{narrow}");
    }
}
