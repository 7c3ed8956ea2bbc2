//! Warnings about limits per client that are valid but probably wrong.

use crate::settings::Settings;

/// Adds what does not do what it seems to do, one line each.
pub(super) fn warnings(settings: &Settings, warnings: &mut Vec<String>) {
    let limits = settings.per_client;
    let without = "has no effect: there is no limit per client; see per_client_max and \
                   per_client_rate";
    if !limits.is_on() {
        if limits.tarpit > 0 {
            warnings.push(format!("tarpit {} {without}", limits.tarpit));
        }
        if limits.abuse_over {
            warnings.push(format!("abuse_over {without}"));
        }
        if let Some(list) = limits.unlimited {
            warnings.push(format!("unlimited_acl {list} {without}"));
        }
        return;
    }
    if limits.abuse_over && settings.abuse.is_none() {
        warnings.push("abuse_over has no effect: there is no abuse server; see abuse (-B)".into());
    }
    if limits.abuse_over && settings.abuse.is_some() && limits.tarpit > 0 {
        warnings.push(format!(
            "tarpit {} and abuse_over: connections beyond a limit go to the abuse server, and none \
             is kept open and silent",
            limits.tarpit
        ));
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
    if limits.max > settings.connections_max {
        warnings.push(format!(
            "per_client_max {} has no effect: there are at most {} connections (-x)",
            limits.max, settings.connections_max
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl::{AclVerdict, Net};
    use crate::address::Address;
    use crate::per_client::{ClientRate, PerClient};
    use crate::settings::Server;

    fn said(change: impl FnOnce(&mut PerClient)) -> Vec<String> {
        let mut settings = Settings::default();
        change(&mut settings.per_client);
        of(&settings)
    }

    fn of(settings: &Settings) -> Vec<String> {
        let mut found = Vec::new();
        warnings(settings, &mut found);
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
        one(
            &with(|settings| {
                settings.per_client.abuse_over = true;
                settings.abuse = Some(Server::at(Address::Inet(([10, 0, 0, 1], 80).into())));
                settings.per_client.tarpit = 9;
            }),
            "tarpit 9 and abuse_over",
        );
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
        };
        one(&with(small), "tarpit 5 has no effect: it may use a quarter");
        one(&with(|settings| settings.per_client.max = 300), "per_client_max 300 has no effect");
    }
}
