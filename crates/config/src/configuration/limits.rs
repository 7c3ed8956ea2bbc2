//! Warnings about limits per client that are valid but probably wrong.

use crate::address::Address;
use crate::per_client::{ClientNet, PerClient};
use crate::settings::Settings;

/// Adds what does not do what it seems to do, one line each.
pub(super) fn warnings(listen: &[Address], settings: &Settings, warnings: &mut Vec<String>) {
    let limits = settings.per_client;
    if !limits.is_on() {
        let given = without_a_limit(&limits);
        warnings.extend(given.into_iter().map(|word| {
            format!(
                "{word} has no effect: there is no limit per client; see per_client_max and \
                 per_client_rate"
            )
        }));
        return;
    }
    if !listen.is_empty() && listen.iter().all(|address| matches!(address, Address::Unix(_))) {
        let max = (limits.max > 0).then(|| format!("per_client_max {}", limits.max));
        let rate = limits.rate.map(|rate| format!("per_client_rate {rate}"));
        warnings.extend(max.into_iter().chain(rate).map(|word| {
            format!("{word} has no effect: clients come by a Unix socket, and have no address")
        }));
    }
    if limits.abuse_over && settings.abuse.is_none() {
        warnings.push("abuse_over has no effect: there is no abuse server; see abuse (-B)".into());
    } else if limits.abuse_over && settings.dummy {
        warnings.push("abuse_over has no effect: with dummy, no server is used".into());
    }
    if let Some(list) = limits.unlimited
        && settings.acls.get(usize::from(list)).is_none_or(|acl| acl.entries().is_empty())
    {
        warnings.push(format!(
            "unlimited_acl refers to access list {list}, which is empty and permits everybody: no \
             client has a limit; see acl"
        ));
    }
    if limits.tarpit > 0 && settings.connections_max < 4 {
        warnings.push(format!(
            "tarpit {} has no effect: it may use a quarter of -x, which is {}",
            limits.tarpit, settings.connections_max
        ));
    }
    if limits.max >= settings.connections_max {
        warnings.push(format!(
            "per_client_max {} has no effect: there are at most {} connections (-x)",
            limits.max, settings.connections_max
        ));
    }
}

/// The settings that need a limit, as far as they are given.
fn without_a_limit(limits: &PerClient) -> Vec<String> {
    let mut given = Vec::new();
    if limits.net != ClientNet::default() {
        given.push(format!("per_client_net {} {}", limits.net.v4, limits.net.v6));
    }
    if limits.tarpit > 0 {
        given.push(format!("tarpit {}", limits.tarpit));
    }
    if limits.abuse_over {
        given.push("abuse_over".into());
    }
    given.extend(limits.unlimited.map(|list| format!("unlimited_acl {list}")));
    given
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl::{AclVerdict, Net};
    use crate::per_client::ClientRate;
    use crate::settings::Server;

    fn said(change: impl FnOnce(&mut PerClient)) -> Vec<String> {
        let mut settings = Settings::default();
        change(&mut settings.per_client);
        of(&settings)
    }

    fn of(settings: &Settings) -> Vec<String> {
        at(&[Address::Inet(([0, 0, 0, 0], 80).into())], settings)
    }

    fn at(listen: &[Address], settings: &Settings) -> Vec<String> {
        let mut found = Vec::new();
        warnings(listen, settings, &mut found);
        found
    }

    #[track_caller]
    fn one(found: &[String], begin: &str) {
        let [line] = found else { panic!("{found:?}") };
        assert!(line.starts_with(begin), "{line}");
    }

    #[test]
    fn what_needs_a_limit_is_told() {
        one(&said(|limits| limits.tarpit = 5), "tarpit 5 has no effect: there is no limit");
        one(
            &said(|limits| limits.abuse_over = true),
            "abuse_over has no effect: there is no limit",
        );
        one(&said(|limits| limits.unlimited = Some(3)), "unlimited_acl 3 has no effect");
        one(&said(|limits| limits.net.v4 = 24), "per_client_net 24 64 has no effect");
        assert_eq!(said(|limits| limits.max = 3), [""; 0]);
        let rate = Some(ClientRate { connections: 3, seconds: 1 });
        assert_eq!(said(|limits| (limits.rate, limits.tarpit) = (rate, 4)), [""; 0]);
    }

    #[test]
    fn what_is_useless_beside_a_limit_is_told() {
        let with = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            settings.per_client.max = 3;
            change(&mut settings);
            of(&settings)
        };
        let over: fn(&mut Settings) = |settings| settings.per_client.abuse_over = true;
        one(&with(over), "abuse_over has no effect: there is no abuse server");
        let both: fn(&mut Settings) = |settings| {
            settings.per_client.abuse_over = true;
            settings.abuse = Some(Server::at(Address::Inet(([10, 0, 0, 1], 80).into())));
        };
        assert_eq!(with(both), [""; 0]);
        let dummy: fn(&mut Settings) = |settings| {
            settings.per_client.abuse_over = true;
            settings.abuse = Some(Server::at(Address::Inet(([10, 0, 0, 1], 80).into())));
            settings.dummy = true;
        };
        one(&with(dummy), "abuse_over has no effect: with dummy");
        one(
            &with(|settings| settings.per_client.unlimited = Some(4)),
            "unlimited_acl refers to access list 4, which is empty",
        );
        let filled: fn(&mut Settings) = |settings| {
            settings.per_client.unlimited = Some(4);
            let net = Net::v4_prefix([10, 0, 0, 0].into(), 8);
            assert!(settings.acls[4].push(AclVerdict::Permit, net.unwrap()));
        };
        assert_eq!(with(filled), [""; 0]);
        let small: fn(&mut Settings) = |settings| {
            (settings.connections_max, settings.per_client.tarpit) = (3, 5);
            settings.per_client.max = 2;
        };
        one(&with(small), "tarpit 5 has no effect: it may use a quarter");
        for most in [256, 300] {
            let mut settings = Settings { connections_max: 256, ..Settings::default() };
            settings.per_client.max = most;
            one(&of(&settings), &format!("per_client_max {most} has no effect"));
        }
    }

    #[test]
    fn clients_of_unix_sockets_have_no_limits() {
        let mut settings = Settings::default();
        settings.per_client.max = 3;
        settings.per_client.rate = Some(ClientRate { connections: 3, seconds: 1 });
        let unix = Address::Unix("/run/a".into());
        let found = at(std::slice::from_ref(&unix), &settings);
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("per_client_max 3 has no effect: clients come by a Unix"));
        assert!(found[1].starts_with("per_client_rate 3 1 has no effect"));
        assert_eq!(at(&[unix, Address::Inet(([0, 0, 0, 0], 80).into())], &settings), [""; 0]);
    }
}
