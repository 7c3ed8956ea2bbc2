//! Warnings about checks, states of servers and names over time that are valid but probably wrong.

use crate::address::{Address, Host};
use crate::checks::{Check, CheckKind, OnDown, ServerCheck, ServerMode, without_port};
use crate::grammar;
use crate::ids::{ServerId, Target};
use crate::proxy::ProxyOut;
use crate::settings::{Server, Settings};
use crate::shares::shares;

/// Adds what does not do what it seems to do, one line each.
pub(super) fn warnings(settings: &Settings, warnings: &mut Vec<String>) {
    if settings.has_checks() {
        times(settings, warnings);
    } else {
        without_checks(settings, warnings);
    }
    if let Some(check) = &settings.check {
        warnings.extend(of_check("check", check, settings));
    }
    for (id, server) in settings.configured() {
        of_server(id, server, settings, warnings);
    }
    if settings.hold > 0 && settings.selection.stubborn {
        warnings.push(format!(
            "hold {} and stubborn (-s): a client waits for its first server only",
            settings.hold
        ));
    }
    if let (1.., Err(mode)) = (settings.rebalance, shares(settings.selection)) {
        warnings.push(format!(
            "rebalance {} has no effect with {}: a client that comes back gets the same server",
            settings.rebalance,
            mode.mode()
        ));
    }
    let mut modes = settings.configured().map(|(_, server)| server.mode).peekable();
    if modes.peek().is_some()
        && settings.emergency.is_none()
        && modes.all(|mode| mode != ServerMode::Ready)
    {
        let fate = match settings.hold {
            0 => "no new client is served".to_owned(),
            hold => format!("new clients wait up to {hold} s for one (hold)"),
        };
        warnings
            .push(format!("all servers are in state drain or maint: {fate}; see server N state"));
    }
}

fn times(settings: &Settings, warnings: &mut Vec<String>) {
    let (timeout, interval) = (settings.check_timeout, settings.check_interval);
    if timeout >= interval {
        warnings.push(format!(
            "check_timeout {timeout} is not below check_interval {interval}: a check that fails \
             late is followed by the next one at once"
        ));
    }
}

/// What has an effect only if there are checks.
fn without_checks(settings: &Settings, warnings: &mut Vec<String>) {
    if settings.on_down == OnDown::Close {
        warnings.push(
            "on_down close has no effect: no server is checked, so none is down; see check".into(),
        );
    }
    if !settings.fail_open {
        warnings.push(
            "no fail_open has no effect: no server is checked, so none is down; see check".into(),
        );
    }
}

/// What is wrong with a check whatever the server. `what` is its name in messages.
fn of_check(what: &str, check: &Check, settings: &Settings) -> Vec<String> {
    let mut found = Vec::new();
    let is_tls = match &check.kind {
        CheckKind::Tls | CheckKind::Https(_) => true,
        CheckKind::Tcp
        | CheckKind::Http(_)
        | CheckKind::Smtp
        | CheckKind::Pgsql
        | CheckKind::Mysql { .. }
        | CheckKind::Redis(_)
        | CheckKind::Ldap
        | CheckKind::Dns { .. }
        | CheckKind::Exchange { .. } => false,
    };
    if let Some(host) = check.host.as_deref().filter(|host| is_tls && !is_name(host)) {
        found.push(format!(
            "{what} {}: host {host} is no name, and TLS sends names only: the server learns none",
            check.kind.word()
        ));
    }
    if let (ProxyOut::Off, None, out @ (ProxyOut::V1 | ProxyOut::V2)) =
        (check.proxy, check.port, settings.proxy_out)
    {
        found.push(format!(
            "{what} {} begins without a PROXY header, and clients' connections begin with one \
             (proxy_protocol out {out}): add proxy {out}",
            check.kind.word()
        ));
    }
    found
}

fn is_name(host: &str) -> bool {
    matches!(grammar::server_address(without_port(host)), Ok(Host::Name(_)))
}

fn of_server(id: ServerId, server: &Server, settings: &Settings, warnings: &mut Vec<String>) {
    match &server.check {
        ServerCheck::Own(check) => {
            warnings.extend(of_check(&format!("server {id} check"), check, settings));
            if let Some(from) = settings.followed(id) {
                warnings.push(format!(
                    "server {id} check: the server follows {}, so another one can be at this \
                     number later; check, for all, is enough if all answer alike",
                    from.name
                ));
            }
        }
        ServerCheck::Default | ServerCheck::Off => {}
    }
    let port = settings.check_of(Target::Server(id)).and_then(|check| check.port);
    if let (Some(port), Address::Unix(path)) = (port, &server.address) {
        warnings.push(format!(
            "server {id} ({}): port {port} of its check has no effect: a Unix socket has no port",
            path.display()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Service;
    use crate::checks::{HttpQuestion, Records, ServersFrom, StatusRange};
    use crate::settings::Selection;

    fn said(change: impl FnOnce(&mut Settings)) -> Vec<String> {
        let server = || Some(Server::at(Address::Inet(([10, 0, 0, 1], 80).into())));
        let mut settings = Settings { servers: vec![server(), server()], ..Settings::default() };
        change(&mut settings);
        let mut found = Vec::new();
        warnings(&settings, &mut found);
        found
    }

    #[track_caller]
    fn one(found: &[String], text: &str) {
        assert!(found.len() == 1 && found[0].contains(text), "{text}: {found:?}");
    }

    fn server(settings: &mut Settings, number: usize) -> &mut Server {
        settings.servers[number].as_mut().unwrap()
    }

    fn https(host: &str) -> Check {
        let question =
            HttpQuestion { path: "/".into(), status: StatusRange::default(), body: None };
        Check { host: Some(host.into()), ..Check::of(CheckKind::Https(question)) }
    }

    fn tcp() -> Option<Check> {
        Some(Check::of(CheckKind::Tcp))
    }

    #[test]
    fn the_defaults_and_a_plain_check_are_good() {
        assert_eq!(said(|_| ()), [""; 0]);
        assert_eq!(said(|settings| settings.check = tcp()), [""; 0]);
        let all = |settings: &mut Settings| {
            settings.check = Some(https("www.example.com"));
            settings.on_down = OnDown::Close;
            settings.fail_open = false;
            settings.hold = 10;
            server(settings, 0).mode = ServerMode::Maint;
        };
        assert_eq!(said(all), [""; 0]);
    }

    #[test]
    fn settings_of_checks_that_no_server_has_are_warned_of() {
        one(&said(|settings| settings.on_down = OnDown::Close), "on_down close has no effect");
        one(&said(|settings| settings.fail_open = false), "no fail_open has no effect");
        let off = |settings: &mut Settings| {
            settings.check = tcp();
            settings.fail_open = false;
            server(settings, 0).check = ServerCheck::Off;
        };
        assert_eq!(said(off), [""; 0], "server 1 is checked");
        let both = |settings: &mut Settings| {
            off(settings);
            server(settings, 1).check = ServerCheck::Off;
        };
        one(&said(both), "no fail_open has no effect");
        // Only regular servers are checked.
        let backup = |settings: &mut Settings| {
            settings.emergency = settings.servers[0].clone();
            settings.servers = vec![None];
            (settings.check, settings.fail_open) = (tcp(), false);
        };
        one(&said(backup), "no fail_open has no effect");
    }

    #[test]
    fn a_check_that_asks_something_else_than_it_seems_to_is_warned_of() {
        let late = |settings: &mut Settings| {
            settings.check = tcp();
            settings.check_timeout = 2;
        };
        one(&said(late), "check_timeout 2 is not below check_interval 2");
        for (host, good) in [
            ("a.example", true),
            ("10.0.0.1", false),
            ("a.example:443", true),
            ("[::1]:443", false),
        ] {
            let found = said(|settings| settings.check = Some(https(host)));
            assert_eq!(found.is_empty(), good, "{host}: {found:?}");
            let own = said(|settings| {
                server(settings, 1).check = ServerCheck::Own(Box::new(https(host)));
            });
            assert!(good || own[0].starts_with("server 1 check https: host "), "{own:?}");
        }
        let sends = |settings: &mut Settings| {
            settings.proxy_out = ProxyOut::V2;
            settings.check = tcp();
        };
        one(&said(sends), "check tcp begins without a PROXY header");
        let also = |settings: &mut Settings| {
            sends(settings);
            settings.check = Some(Check { proxy: ProxyOut::V2, ..Check::of(CheckKind::Tcp) });
        };
        assert_eq!(said(also), [""; 0]);
        let port = |settings: &mut Settings| {
            settings.check = Some(Check { port: Some(81), ..Check::of(CheckKind::Tcp) });
            server(settings, 1).address = Address::Unix("/run/x".into());
        };
        one(&said(port), "server 1 (/run/x): port 81 of its check has no effect");
    }

    #[test]
    fn states_names_and_hold_are_warned_of() {
        let away = |settings: &mut Settings| {
            server(settings, 0).mode = ServerMode::Drain;
            server(settings, 1).mode = ServerMode::Maint;
        };
        one(&said(away), "all servers are in state drain or maint");
        let saved = |settings: &mut Settings| {
            away(settings);
            settings.emergency = settings.servers[0].clone();
        };
        assert_eq!(said(saved), [""; 0]);
        let stubborn = |settings: &mut Settings| {
            settings.hold = 5;
            settings.selection.stubborn = true;
        };
        one(&said(stubborn), "hold 5 and stubborn (-s)");
        let rebalance = |change: fn(&mut Selection)| {
            said(|settings| {
                settings.rebalance = 5;
                change(&mut settings.selection);
            })
        };
        assert_eq!(rebalance(|_| ()), [""; 0]);
        assert_eq!(rebalance(|modes| modes.weight = true), [""; 0]);
        one(&rebalance(|modes| modes.hash = true), "rebalance 5 has no effect with hash (-h, -N)");
        one(&rebalance(|modes| modes.prio = true), "rebalance 5 has no effect with prio");
        one(&rebalance(|modes| modes.stubborn = true), "no effect with stubborn (-s)");
        let followed = |settings: &mut Settings| {
            settings.servers_from.push(ServersFrom {
                name: "all.example".into(),
                port: Service::Port(80),
                first: 1,
                last: 1,
                records: Records::Addresses,
            });
            server(settings, 1).check = ServerCheck::Own(Box::new(Check::of(CheckKind::Tcp)));
        };
        one(&said(followed), "server 1 check: the server follows all.example");
    }
}
