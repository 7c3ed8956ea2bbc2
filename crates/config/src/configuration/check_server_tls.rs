//! Finds settings of TLS towards servers that cannot work, or have no effect.

use crate::ConfigurationError;
use crate::ids::Target;
use crate::proxy::ProxyOut;
use crate::settings::Settings;

/// Finds servers whose certificates cannot be verified, because they have no name.
///
/// # Errors
/// One for each server.
pub fn check_server_tls(settings: &Settings) -> Result<(), Vec<ConfigurationError>> {
    if !settings.server_tls.verify {
        return Ok(());
    }
    let nameless = settings
        .targets()
        .filter(|(target, _)| settings.speaks_tls(*target) && settings.tls_name(*target).is_none());
    let errors: Vec<ConfigurationError> = nameless
        .map(|(target, server)| {
            ConfigurationError(format!(
                "{} ({}): no name that its certificate must have; say server_tls_name NAME, \
                 or server_tls_verify off",
                title(target),
                server.place_at(0)
            ))
        })
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn title(target: Target) -> String {
    match target {
        Target::Server(id) => format!("server {id}"),
        Target::Emergency => "the emergency server".into(),
        Target::Abuse => "the abuse server".into(),
    }
}

/// Adds what has no effect, one line each.
pub(super) fn warnings(settings: &Settings, warnings: &mut Vec<String>) {
    let tls = &settings.server_tls;
    let given = [
        ("server_tls_ca", tls.ca.is_some()),
        ("server_tls_cert", tls.certificate.is_some()),
        ("server_tls_name", tls.name.is_some()),
        ("server_tls_verify off", !tls.verify),
    ];
    let given = given.into_iter().filter(|(_, given)| *given).map(|(word, _)| word);
    if !settings.has_server_tls() {
        if tls.on {
            warnings.push(
                "server_tls has no effect: every server says tls off for itself (server N tls)"
                    .into(),
            );
        }
        warnings.extend(given.map(|word| {
            format!("{word} has no effect: no server speaks TLS; see server_tls and server N tls")
        }));
    } else if tls.ca.is_some() && !tls.verify {
        warnings.push("server_tls_ca has no effect: server_tls_verify is off".into());
    }
    if settings.has_server_tls() && settings.proxy_out != ProxyOut::Off {
        let version = settings.proxy_out;
        warnings.push(format!(
            "proxy_protocol out {version}: a server with TLS gets the header inside TLS; one that \
             reads it before TLS (nginx: listen ssl proxy_protocol, haproxy: bind ssl \
             accept-proxy) fails. There the header must be read behind TLS, or say tls off"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::settings::Server;
    use crate::tls::servers::ServerTransport;

    fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
        let inet = Server::at(Address::Inet(([10, 0, 0, 1], 443).into()));
        let unix = Server::at(Address::Unix("/run/a".into()));
        let servers = vec![Some(inet), Some(unix)];
        let mut settings = Settings { servers, ..Settings::default() };
        change(&mut settings);
        settings
    }

    fn said(settings: &Settings) -> Vec<String> {
        let mut found = Vec::new();
        warnings(settings, &mut found);
        found
    }

    #[test]
    fn a_server_without_a_name_cannot_be_verified() {
        let all = settings(|settings| settings.server_tls.on = true);
        let errors = check_server_tls(&all).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert!(errors[0].0.starts_with("server 1 (/run/a): no name"), "{}", errors[0].0);
        for change in [
            |settings: &mut Settings| settings.server_tls.name = Some("a".parse().unwrap()),
            |settings: &mut Settings| settings.server_tls.verify = false,
            |settings: &mut Settings| {
                settings.servers[1].as_mut().unwrap().transport = ServerTransport::Plain
            },
        ] {
            let mut good = all.clone();
            change(&mut good);
            assert_eq!(check_server_tls(&good), Ok(()));
        }
        assert_eq!(check_server_tls(&settings(|_| ())), Ok(()));
    }

    #[test]
    fn what_has_no_effect_is_warned_of() {
        let given = settings(|settings| {
            settings.server_tls.ca = Some("/ca".into());
            settings.server_tls.verify = false;
        });
        assert_eq!(said(&given).len(), 2);
        let on = Settings {
            server_tls: crate::tls::servers::ServerTls { on: true, ..given.server_tls.clone() },
            ..given
        };
        assert_eq!(said(&on), ["server_tls_ca has no effect: server_tls_verify is off"]);
        assert_eq!(said(&settings(|_| ())), [""; 0]);
        let exceptions = settings(|settings| {
            settings.server_tls.on = true;
            for server in settings.servers.iter_mut().flatten() {
                server.transport = ServerTransport::Plain;
            }
        });
        let [line] = &said(&exceptions)[..] else { panic!() };
        assert!(line.starts_with("server_tls has no effect: every server says tls off"), "{line}");
    }

    #[test]
    fn where_a_proxy_header_travels_is_told() {
        let mut given = settings(|settings| settings.server_tls.on = true);
        assert_eq!(said(&given), [""; 0]);
        given.proxy_out = ProxyOut::V2;
        let [line] = &said(&given)[..] else { panic!() };
        assert!(line.starts_with("proxy_protocol out v2: a server with TLS gets"), "{line}");
        given.server_tls.on = false;
        assert_eq!(said(&given), [""; 0]);
    }
}
