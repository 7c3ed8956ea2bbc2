//! Warnings about settings that are valid but probably wrong.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::acl::Acl;
use crate::address::Address;
use crate::configuration::{check_server_tls, health, limits};
use crate::settings::{Method, Server, Settings};

/// Settings that do not do what they seem to do, one line each.
pub fn warnings(listen: &[Address], settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    for (what, server) in all_servers(settings) {
        of_server(&what, server, listen, &mut warnings);
    }
    modes(settings, &mut warnings);
    health::warnings(settings, &mut warnings);
    limits::warnings(listen, settings, &mut warnings);
    check_server_tls::warnings(settings, &mut warnings);
    for (list, what) in lists_in_use(settings) {
        if list > 0 && is_empty(settings, list) {
            warnings.push(format!(
                "{what} refers to access list {list}, which is empty and refuses nobody; see acl"
            ));
        }
    }
    if settings.abuse.is_some()
        && is_empty(settings, settings.client_acl)
        && !settings.per_client.abuse_over
    {
        let list = settings.client_acl;
        warnings.push(format!(
            "the abuse server (-B) gets no client: client_acl refers to list {list}, which is \
             empty and refuses nobody, and abuse_over is off, which sends those beyond a limit per \
             client there"
        ));
    }
    warnings
}

/// Access lists that have entries but that nothing uses, one line each. This is not for commands,
/// because they build a list before it is used.
pub fn unused_lists(settings: &Settings) -> Vec<String> {
    let unlimited = settings.per_client.unlimited;
    let used: Vec<u8> = lists_in_use(settings).map(|(list, _)| list).chain(unlimited).collect();
    let lists = (0u8..)
        .zip(&settings.acls)
        .filter(|(list, acl)| !acl.entries().is_empty() && !used.contains(list));
    let line = |(list, _): (u8, &Acl)| {
        format!(
            "access list {list} has no effect: neither client_acl, control_acl, page_acl, \
             unlimited_acl nor a server's acl refers to it"
        )
    };
    lists.map(line).collect()
}

/// The servers, each with its name in messages.
fn all_servers(settings: &Settings) -> impl Iterator<Item = (String, &Server)> {
    let regular = settings.configured().map(|(id, server)| (format!("server {id}"), server));
    let others = [("emergency server", &settings.emergency), ("abuse server", &settings.abuse)];
    regular.chain(
        others.into_iter().filter_map(|(what, server)| Some((what.to_owned(), server.as_ref()?))),
    )
}

/// The access lists in use, and what uses them. The abuse server gets the clients that a list
/// refuses, so it has no list.
fn lists_in_use(settings: &Settings) -> impl Iterator<Item = (u8, String)> {
    let own = [
        (settings.client_acl, "client_acl".to_owned()),
        (settings.control_acl, "control_acl".to_owned()),
        (settings.page_acl, "page_acl".to_owned()),
    ];
    let servers =
        settings.configured().map(|(id, server)| (server.acl, format!("server {id} acl")));
    own.into_iter().chain(servers)
}

fn is_empty(settings: &Settings, list: u8) -> bool {
    settings.acls.get(usize::from(list)).is_none_or(|acl| acl.entries().is_empty())
}

fn of_server(what: &str, server: &Server, listen: &[Address], warnings: &mut Vec<String>) {
    let address = server.place_at(0);
    let (soft, hard) = (server.soft, server.hard);
    if hard > 0 && soft == 0 {
        warnings.push(format!(
            "{what} ({address}): hard limit {hard} without a soft limit has no effect: soft limit \
             0 means unlimited"
        ));
    }
    if hard > 0 && hard < soft {
        warnings.push(format!(
            "{what} ({address}): hard limit {hard} is below soft limit {soft} and has no effect"
        ));
    }
    if server.addresses().any(needs_zone) {
        warnings.push(format!(
            "{what} ({address}): a link-local address is reached through an interface: add its \
             name, as in [fe80::1%eth0]"
        ));
    }
    let reached =
        listen.iter().find(|listen| server.addresses().any(|address| reaches(listen, address)));
    if let Some(listen) = reached {
        warnings.push(format!(
            "{what} ({address}): pen itself listens there ({listen}); its connections would come \
             back to it until all are in use"
        ));
    }
}

/// Combinations of modes in which one mode makes another useless. `hash` with `roundrobin` is not
/// one of them, because then the client's port is hashed too.
fn modes(settings: &Settings, warnings: &mut Vec<String>) {
    let modes = settings.selection;
    let hash = if modes.hash_always { "hash_always (-N)" } else { "hash (-h)" };
    let method = named(modes.method());
    for (other, what) in [
        (Method::Weight, "weights have"),
        (Method::Leastconn, "leastconn has"),
        (Method::P2c, "p2c has"),
        (Method::Maglev, "maglev has"),
    ] {
        if modes.has(other) && modes.method() != other {
            let other = named(other);
            warnings.push(format!(
                "{method} and {other}: {method} chooses the server, and {what} no effect; switch \
                 one off"
            ));
        }
    }
    if settings.slow_start > 0 && !modes.method().has_slow_start() {
        warnings.push(format!(
            "slow_start {} has no effect: with {method}, the client's address decides",
            settings.slow_start
        ));
    }
    if (modes.hash || modes.hash_always) && modes.method() != Method::Hash {
        warnings.push(format!(
            "{hash} and {method}: {method} chooses the server, and no hash does; switch one off"
        ));
    }
    if modes.roundrobin && (modes.prio || modes.weight) {
        let other = if modes.prio { "prio" } else { "weight (-W)" };
        warnings.push(format!(
            "roundrobin (-r) and {other}: {other} chooses the server, and clients are not sent \
             back to the one that they had"
        ));
    }
    if settings.tracking > 0 && (modes.roundrobin || modes.hash_always) {
        let mode = if modes.roundrobin { "roundrobin (-r)" } else { hash };
        let tracking = settings.tracking;
        warnings.push(format!(
            "tracking {tracking} (-T) has no effect: with {mode} no client is sent \
                back to its server"
        ));
    }
    if modes.stubborn && settings.emergency.is_some() {
        warnings.push(
            "stubborn (-s): a client gets its first server or none, and never the emergency \
                server (-e)"
                .into(),
        );
    }
}

/// A method with its option, if it has one.
fn named(method: Method) -> &'static str {
    match method {
        Method::Prio => "prio",
        Method::Weight => "weight (-W)",
        Method::Leastconn => "leastconn",
        Method::P2c => "p2c",
        Method::Maglev => "maglev",
        Method::Hash => "hash (-h)",
        Method::RoundRobin => "round robin",
    }
}

/// Whether a connect must fail (EINVAL) because the address has no interface.
fn needs_zone(address: &Address) -> bool {
    match address {
        Address::Inet(SocketAddr::V6(v6)) => v6.ip().is_unicast_link_local() && v6.scope_id() == 0,
        Address::Inet(SocketAddr::V4(_)) | Address::Unix(_) => false,
    }
}

/// Whether a connect to `server` certainly reaches the listener itself. The other addresses of this
/// machine are not known here.
fn reaches(listen: &Address, server: &Address) -> bool {
    match (listen, server) {
        (Address::Unix(listen), Address::Unix(server)) => listen == server,
        (Address::Inet(listen), Address::Inet(server)) if listen.port() == server.port() => {
            // Linux treats a connect to the unspecified address as one to loopback.
            let target = match server.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                ip => ip,
            };
            let wildcard = match listen.ip() {
                IpAddr::V4(ip) => ip.is_unspecified() && target.is_ipv4(),
                // A dual-stack listener: IPv4 arrives here too.
                IpAddr::V6(ip) => ip.is_unspecified(),
            };
            target == listen.ip() || (wildcard && target.is_loopback())
        }
        (Address::Inet(_), Address::Inet(_) | Address::Unix(_))
        | (Address::Unix(_), Address::Inet(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl::{AclVerdict, Net};
    use crate::settings::Selection;

    fn said(change: impl FnOnce(&mut Settings)) -> Vec<String> {
        let server = || Server::at(Address::Inet(([10, 0, 0, 1], 80).into()));
        let mut settings =
            Settings { servers: vec![Some(server()), Some(server())], ..Settings::default() };
        change(&mut settings);
        let listen = [Address::Inet(([0, 0, 0, 0], 8080).into())];
        let mut all = warnings(&listen, &settings);
        all.extend(unused_lists(&settings));
        all
    }

    fn modes(change: impl FnOnce(&mut Selection)) -> Vec<String> {
        said(|settings| change(&mut settings.selection))
    }

    #[track_caller]
    fn one(warnings: &[String], words: &[&str]) {
        assert!(
            warnings.len() == 1 && words.iter().all(|word| warnings[0].contains(word)),
            "{words:?}: {warnings:?}"
        );
    }

    #[test]
    fn lists_that_are_empty_or_that_nothing_refers_to_are_warned_of() {
        let fill = |settings: &mut Settings, list: usize| {
            assert!(
                settings.acls[list]
                    .push(AclVerdict::Permit, Net::v4_prefix([10, 0, 0, 0].into(), 8).unwrap())
            );
        };
        assert_eq!(said(|_| ()), [""; 0]);
        one(
            &said(|settings| settings.client_acl = 2),
            &["client_acl refers to access list 2, which is empty"],
        );
        one(&said(|settings| settings.control_acl = 3), &["control_acl refers to access list 3"]);
        one(&said(|settings| settings.page_acl = 3), &["page_acl refers to access list 3"]);
        let server = |settings: &mut Settings| settings.servers[1].as_mut().unwrap().acl = 5;
        one(&said(server), &["server 1 acl refers to access list 5"]);
        one(&said(|settings| fill(settings, 1)), &["access list 1 has no effect"]);
        let used = |settings: &mut Settings| {
            fill(settings, 5);
            server(settings);
        };
        assert_eq!(said(used), [""; 0]);
        let abuse = |settings: &mut Settings| settings.abuse.clone_from(&settings.servers[0]);
        one(&said(abuse), &["the abuse server (-B) gets no client", "list 0"]);
        let good = |settings: &mut Settings| {
            abuse(settings);
            fill(settings, 4);
            settings.client_acl = 4;
        };
        assert_eq!(said(good), [""; 0]);
    }

    #[test]
    fn modes_that_exclude_each_other_are_warned_of() {
        let mode = |settings: &mut Selection, words: &str| {
            for word in words.split(' ') {
                match word {
                    "r" => settings.roundrobin = true,
                    "h" => settings.hash = true,
                    "N" => settings.hash_always = true,
                    "W" => settings.weight = true,
                    "prio" => settings.prio = true,
                    "leastconn" => settings.leastconn = true,
                    "p2c" => settings.p2c = true,
                    other => panic!("{other}"),
                }
            }
        };
        for (words, told) in [
            ("W prio", "prio and weight (-W)"),
            ("r W", "roundrobin (-r) and weight (-W)"),
            ("r prio", "roundrobin (-r) and prio"),
            ("h W", "hash (-h) and weight (-W)"),
            ("N prio", "hash_always (-N) and prio"),
            ("W leastconn", "weight (-W) chooses the server, and leastconn has no effect"),
            ("p2c prio", "prio and p2c: prio chooses the server, and p2c has no effect"),
            ("leastconn p2c", "leastconn and p2c: leastconn chooses"),
            ("h p2c", "hash (-h) and p2c: p2c chooses the server, and no hash does"),
        ] {
            one(&modes(|selection| mode(selection, words)), &[told]);
        }
        for words in ["r", "h", "N", "W", "prio", "h r", "N r", "leastconn", "r leastconn", "r p2c"]
        {
            assert_eq!(modes(|selection| mode(selection, words)), [""; 0], "{words}");
        }
        for words in ["r", "N", "N r"] {
            let tracked = |settings: &mut Settings| {
                settings.tracking = 5;
                mode(&mut settings.selection, words);
            };
            one(&said(tracked), &["tracking 5 (-T) has no effect"]);
        }
        let stubborn = |settings: &mut Settings| {
            settings.emergency.clone_from(&settings.servers[0]);
            settings.selection.stubborn = true;
        };
        one(&said(stubborn), &["stubborn (-s)", "never the emergency server"]);
        let limits = |settings: &mut Settings| {
            let server = settings.servers[0].as_mut().unwrap();
            (server.soft, server.hard) = (10, 5);
        };
        one(&said(limits), &["server 0 (10.0.0.1:80): hard limit 5 is below soft limit 10"]);
    }
}
