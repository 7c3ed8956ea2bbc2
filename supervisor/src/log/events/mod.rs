//! Log lines for the events that workers report.

#![forbid(unsafe_code)]

use pen_config::checks::Admission;
use pen_config::ids::{ClientKey, Target};
use pen_config::per_client;
use pen_config::settings::Settings;
use pen_ipc::message::{
    CertificateFault, ConnectFailure, Event, HandshakeFailure, LimitsFault, Obstacle,
    PeerCertificate, PerClientLimit, SenderFault, ShortageDuring,
};
use pen_ipc::text::{errno_text, plural};

use crate::log::printable::printable;

pub(crate) mod incident;
pub(crate) mod throttle;

use crate::log::events::throttle::MergedEvent;

/// The line for an event that stands for several; otherwise as [`line()`].
pub(crate) fn merged_line(merged: &MergedEvent, settings: &Settings) -> Option<String> {
    let line = line(&merged.event, settings)?;
    Some(match merged.more {
        0 => line,
        more => format!("{line} ({more} more such messages were left out)"),
    })
}

/// The line for an event. None if it is about a server that does not exist: only a broken worker
/// sends that.
pub(crate) fn line(event: &Event, settings: &Settings) -> Option<String> {
    Some(match event {
        Event::Blacklisted { server, seconds, reason } => {
            let (name, reason) = (name(*server, settings)?, failure(*reason, settings));
            match seconds {
                0 => format!("{name} failed and is used all the same (-b 0): {reason}"),
                _ => format!("blacklisting {name} for {seconds} s: {reason}"),
            }
        }
        Event::AddressChanged { server, from, to, reason } => {
            address_changed(*server, [*from, *to], *reason, settings)?
        }
        Event::BackInUse { server } | Event::Reached { server } => {
            format!("{} is in use again", name(*server, settings)?)
        }
        Event::PassedOver { server, obstacle, errno } => {
            passed_over(*server, *obstacle, *errno, settings)?
        }
        Event::ConnectionsFull => {
            let most = settings.connections_max;
            let so = format!("{most} of {most} connections in use, clients wait; ");
            match settings.admission {
                Admission::Open => so + "raise -x (conn_max)",
                // Those who wait for its end count too, so a higher limit is not the answer.
                Admission::Paused => so + "pen is paused: give the command resume",
            }
        }
        Event::Unserved { clients } => {
            let (who, them) = match clients {
                1 => ("1 client was".to_owned(), "it"),
                _ => (format!("{clients} clients were"), "them"),
            };
            format!("{who} closed: no server could be used for {them}; see explain")
        }
        Event::Shortage { during, errno: number } => {
            let during = match during {
                ShortageDuring::Accept => "accepting clients pauses",
                ShortageDuring::Connect => "a server cannot be connected to for lack of means here",
                ShortageDuring::Watch => "a connection cannot be watched",
            };
            format!("{during}: {}", errno_text(*number))
        }
        Event::LogLost { lines, errno: number } => {
            format!("{lines} request log lines were lost: {}", log_failure(*number))
        }
        Event::ConnectionLogLost { lines, errno: number } => {
            format!("{lines} connection log lines were lost: {}", log_failure(*number))
        }
        Event::LockStuck => format!(
            "the client table was locked for too long: clients are placed without being \
             remembered{LOCKED}"
        ),
        Event::HandshakeFailed { client, reason, certificate, others } => {
            let (client, reason) = (ClientKey::from_bytes(*client), handshake(reason));
            let whose = certificate.as_ref().map_or(String::new(), whose);
            let more = more(*others, "failed");
            format!("client {client}: TLS handshake failed: {reason}{whose}{more}")
        }
        Event::RequestRefused { client, reason, others } => {
            let (client, more) = (ClientKey::from_bytes(*client), more(*others, "were refused"));
            format!("client {client}: request refused: {reason}{more}")
        }
        Event::BadSender { sender, fault, others } => {
            let (sender, fault) = (ClientKey::from_bytes(*sender), sender_fault(*fault));
            let more = more(*others, "were closed for this");
            format!("{sender} is listed by proxy_protocol in, but {fault}: closed{more}")
        }
        Event::Crowded { clients, kept } => {
            let kept = kept >> 20;
            format!(
                "{clients} clients were closed whose TLS records or HTTP headers had been \
                 unfinished for longest, or whose server had sent most without an end: all such \
                 together took too much memory in a worker, which keeps {kept} MiB of them"
            )
        }
        Event::BeyondLimit { client, length, limit, others } => {
            beyond_limit(*client, *length, *limit, *others)
        }
        Event::LimitsUnchecked { clients, why } => format!(
            "{} let in without a look at the limits per client: {why}{}",
            match clients {
                1 => "1 connection was".into(),
                more => format!("{more} connections were"),
            },
            match why {
                LimitsFault::NoPlace => "; a higher -x makes more places",
                LimitsFault::LockStuck => LOCKED,
            }
        ),
        Event::TableRebuilt { kept } => {
            format!(
                "the client table was rebuilt after the death of a worker; {kept} clients were kept"
            )
        }
    })
}

/// What is behind a lock whose owner does not go on, and what to do.
const LOCKED: &str = "; the machine is overloaded, or a worker is stopped and is replaced soon";

fn address_changed(
    server: i32,
    [from, to]: [u32; 2],
    reason: ConnectFailure,
    settings: &Settings,
) -> Option<String> {
    let target = Target::from_code(server)?;
    let found = settings.target(target)?;
    let given = found.given.as_ref().map_or(String::new(), |given| format!(" ({given})"));
    let (title, reason) = (title(target), failure(reason, settings));
    let (from, to) = (found.place_at(from), found.place_at(to));
    Some(format!("{title}{given}: {from}: {reason}; using {to}"))
}

fn passed_over(
    server: i32,
    obstacle: Obstacle,
    number: i32,
    settings: &Settings,
) -> Option<String> {
    let limit = settings.target(Target::from_code(server)?).and_then(|server| server.limit(false));
    let why = match (obstacle, limit) {
        // Its limit is meant to bound what it gets.
        (Obstacle::Limit, Some(limit)) if server == Target::Abuse.code() => {
            format!("it has {limit} of {limit} connections; further ones are not passed on to it")
        }
        (Obstacle::Limit, Some(limit)) => {
            format!("it has {limit} of {limit} connections; raise its max")
        }
        (obstacle, _) => obstacle_line(obstacle, number, settings),
    };
    Some(format!("{} is passed over: {why}", name(server, settings)?))
}

fn beyond_limit(client: [u8; 16], length: u8, limit: PerClientLimit, others: u64) -> String {
    let client = per_client::in_words(client, length);
    let more = match others {
        0 => String::new(),
        1 => " (and 1 client more)".into(),
        others => format!(" (and {others} clients more)"),
    };
    match limit {
        PerClientLimit::Connections { most } => {
            let connections = plural(most, "connection");
            format!(
                "client {client} has {connections}, and may have no more{more}; see per_client_max"
            )
        }
        PerClientLimit::Rate { connections, seconds } => format!(
            "client {client} had {} within {seconds} s, and may have no more{more}; see \
             per_client_rate",
            plural(connections, "new connection")
        ),
    }
}

/// How many others met the same, if there were any.
fn more(others: u64, what: &str) -> String {
    match others {
        0 => String::new(),
        _ => format!(" ({others} more {what} since the last such message)"),
    }
}

fn sender_fault(fault: SenderFault) -> &'static str {
    match fault {
        SenderFault::Malformed => "sent no PROXY protocol header first",
        SenderFault::Unfinished => "ended within its PROXY protocol header",
        SenderFault::Late => "sent no whole PROXY protocol header in time",
    }
}

/// The obstacle, and what to do about it.
fn obstacle_line(obstacle: Obstacle, number: i32, settings: &Settings) -> String {
    match obstacle {
        Obstacle::Ports => "no local port is free towards it, those in TIME_WAIT included; widen \
                            net.ipv4.ip_local_port_range, or see \"Local ports\" in pen(8)"
            .into(),
        Obstacle::Source => match settings.source {
            Some(source) => {
                format!("it cannot be connected to from {source} (source): {}", errno_text(number))
            }
            None => format!(
                "it could not be connected to from the source that was set: {}",
                errno_text(number)
            ),
        },
        Obstacle::Backlog => {
            "the backlog of its socket is full; it should accept faster or listen with a longer one"
                .into()
        }
        Obstacle::Limit => "it has as many connections as it may have".into(),
        Obstacle::Pending => {
            format!("{} connects to it are pending in a worker (pending_max)", settings.pending_max)
        }
    }
}

fn handshake(reason: &HandshakeFailure) -> String {
    match reason {
        HandshakeFailure::NotTls => "what it sent is no TLS".into(),
        HandshakeFailure::Timeout => "not finished in time".into(),
        HandshakeFailure::NothingInCommon => {
            "it offers no protocol, cipher suite or signature that is allowed here, or ssl_ciphers \
             has none for the \
             certificate's key"
                .into()
        }
        HandshakeFailure::NoCertificate => "it has no certificate".into(),
        HandshakeFailure::BadCertificate(fault) => fault_of_certificate(fault),
        HandshakeFailure::CertificateTime => "its certificate is not valid now".into(),
        HandshakeFailure::UnknownAuthority => {
            "its certificate comes from an authority that is not \
            known here"
                .into()
        }
        HandshakeFailure::Alert(number) => format!(
            "it gave up with alert \
            {number}{}",
            alert(*number)
        ),
        HandshakeFailure::Protocol => "it broke the protocol".into(),
    }
}

fn fault_of_certificate(fault: &CertificateFault) -> String {
    match fault {
        CertificateFault::Unreadable => "its certificate is not in order (X.509)".into(),
        CertificateFault::CriticalExtension(id) => format!(
            "its certificate has a critical extension that is not known here (object identifier \
             {})",
            printable(id)
        ),
        CertificateFault::NetscapeType => {
            "its certificate is not for clients (nsCertType without client)".into()
        }
        CertificateFault::KeyUsage => "its certificate is not for clients (keyUsage without \
            digitalSignature and keyAgreement)"
            .into(),
        CertificateFault::Authority => {
            "its certificate is that of an authority (CA:TRUE), whose key may not sign for a \
             client (keyUsage)"
                .into()
        }
        CertificateFault::Purpose => "its certificate is not for clients (extKeyUsage without \
            clientAuth)"
            .into(),
        CertificateFault::Signature => "its certificate was not signed by its issuer".into(),
        CertificateFault::Algorithm => "its certificate is signed in a way that is not taken \
            here"
            .into(),
        CertificateFault::Issuer => "a certificate above its own is that of no authority \
            (CA:FALSE)"
            .into(),
        CertificateFault::IssuerVersion(version) => {
            format!(
                "a certificate above its own is of version {version} of X.509, which does not tell \
                 authorities apart"
            )
        }
        CertificateFault::Constraint => "an authority above its certificate may not give such a \
            one"
        .into(),
    }
}

/// The owner that a certificate names.
fn whose(certificate: &PeerCertificate) -> String {
    format!(
        " (subject '{}', serial {})",
        printable(&certificate.subject),
        printable(&certificate.serial)
    )
}

/// The meaning of the more frequent alerts (RFC 8446, 6.2).
fn alert(number: u8) -> &'static str {
    match number {
        42 => " (bad certificate)",
        45 => " (certificate expired)",
        46 => " (certificate unknown)",
        48 => " (unknown authority)",
        70 => " (protocol version)",
        _ => "",
    }
}

/// The reason why a connect to a server failed.
fn failure(reason: ConnectFailure, settings: &Settings) -> String {
    match reason {
        ConnectFailure::Errno(number) => errno_text(number),
        ConnectFailure::Timeout => format!("no answer within {} s", settings.connect_timeout),
        ConnectFailure::Tls(fault) => fault.to_string(),
    }
}

/// The name of a server in messages: its first address, and how many others it has.
pub(crate) fn name(code: i32, settings: &Settings) -> Option<String> {
    let target = Target::from_code(code)?;
    let server = settings.target(target)?;
    let (title, address) = (title(target), server.place_at(0));
    Some(match server.alternatives.len() {
        0 => format!("{title} ({address})"),
        1 => format!("{title} ({address} and 1 more address)"),
        more => format!("{title} ({address} and {more} more addresses)"),
    })
}

/// What a server is called in messages.
pub(crate) fn title(target: Target) -> String {
    match target {
        Target::Server(id) => format!("server {id}"),
        Target::Emergency => "the emergency server".into(),
        Target::Abuse => "the abuse server".into(),
    }
}

/// Why a log did not take lines.
fn log_failure(errno: i32) -> String {
    match errno {
        libc::EAGAIN => "its reader is too slow".into(),
        libc::ENOTCONN => "there is no syslog daemon".into(),
        number => errno_text(number),
    }
}

#[cfg(test)]
mod tests {
    use pen_config::address::Address;
    use pen_config::settings::Server;
    use pen_ipc::refusal::Refusal;

    use super::*;

    fn settings() -> Settings {
        let server = |address: &str| Server::at(Address::Inet(address.parse().unwrap()));
        Settings {
            servers: vec![None, Some(server("10.0.0.1:80"))],
            emergency: Some(server("10.0.0.2:80")),
            ..Settings::default()
        }
    }

    #[test]
    fn a_pause_is_named_where_it_is_the_reason() {
        let mut settings = Settings { connections_max: 9, ..settings() };
        let full = |settings: &Settings| line(&Event::ConnectionsFull, settings).unwrap();
        let begins = "9 of 9 connections in use, clients wait; ";
        assert_eq!(full(&settings), begins.to_owned() + "raise -x (conn_max)");
        settings.admission = Admission::Paused;
        assert_eq!(full(&settings), begins.to_owned() + "pen is paused: give the command resume");
    }

    #[test]
    fn events_are_lines() {
        let says = |event| line(&event, &settings()).unwrap();
        let refused = ConnectFailure::Errno(libc::ECONNREFUSED);
        assert_eq!(
            says(Event::Blacklisted { server: 1, seconds: 30, reason: refused }),
            "blacklisting server 1 (10.0.0.1:80) for 30 s: connection refused"
        );
        assert_eq!(
            says(Event::Blacklisted { server: -1, seconds: 30, reason: ConnectFailure::Timeout }),
            "blacklisting the emergency server (10.0.0.2:80) for 30 s: no answer within 5 s"
        );
        assert_eq!(
            says(Event::Blacklisted { server: 1, seconds: 0, reason: refused }),
            "server 1 (10.0.0.1:80) failed and is used all the same (-b 0): connection refused"
        );
        let mut several = settings();
        if let Some(server) = &mut several.servers[1] {
            server.alternatives = vec![Address::Inet("10.0.0.9:80".parse().unwrap())];
            server.given = Some(pen_config::address::Host::Name("www3".into()));
        }
        let said = |event| line(&event, &several).unwrap();
        assert_eq!(
            said(Event::AddressChanged { server: 1, from: 0, to: 1, reason: refused }),
            "server 1 (www3): 10.0.0.1:80: connection refused; using 10.0.0.9:80"
        );
        assert_eq!(
            said(Event::Blacklisted { server: 1, seconds: 30, reason: refused }),
            "blacklisting server 1 (10.0.0.1:80 and 1 more address) for 30 s: connection refused"
        );
        assert_eq!(says(Event::BackInUse { server: 1 }), "server 1 (10.0.0.1:80) is in use again");
        assert_eq!(
            says(Event::LogLost { lines: 5, errno: libc::ENOSPC }),
            "5 request log lines were lost: no space left on device"
        );
        assert_eq!(
            says(Event::ConnectionLogLost { lines: 217, errno: libc::EAGAIN }),
            "217 connection log lines were lost: its reader is too slow"
        );
        assert_eq!(
            says(Event::ConnectionLogLost { lines: 2, errno: libc::ENOTCONN }),
            "2 connection log lines were lost: there is no syslog daemon"
        );
        let sender = ClientKey::from_ip("10.0.0.7".parse().unwrap()).bytes();
        assert_eq!(
            says(Event::RequestRefused { client: sender, reason: Refusal::NotHttp, others: 0 }),
            "client 10.0.0.7: request refused: not an HTTP/1.x request line"
        );
        assert_eq!(
            says(Event::RequestRefused { client: sender, reason: Refusal::Late, others: 7 }),
            "client 10.0.0.7: request refused: header not whole in time (7 more were refused since \
             the last such message)"
        );
        assert_eq!(
            says(Event::BadSender { sender, fault: SenderFault::Malformed, others: 0 }),
            "10.0.0.7 is listed by proxy_protocol in, but sent no PROXY protocol header first: \
             closed"
        );
        let beyond = |client: &str, length, limit, others| {
            let client = ClientKey::from_ip(client.parse().unwrap()).bytes();
            says(Event::BeyondLimit { client, length, limit, others })
        };
        assert_eq!(
            beyond("192.0.2.7", 32, PerClientLimit::Connections { most: 20 }, 0),
            "client 192.0.2.7 has 20 connections, and may have no more; see per_client_max"
        );
        for (first, length, shown) in [("::", 64, "::/64"), ("0.0.0.0", 8, "0.0.0.0/8")] {
            let said = beyond(first, length, PerClientLimit::Connections { most: 20 }, 0);
            assert!(said.starts_with(&format!("client {shown} has 20 connections")), "{said}");
        }
        let rate = PerClientLimit::Rate { connections: 9, seconds: 10 };
        assert_eq!(
            beyond("2001:db8::", 64, rate, 2),
            "client 2001:db8::/64 had 9 new connections within 10 s, and may have no more (and 2 \
             clients more); see per_client_rate"
        );
        let certificate = PeerCertificate { subject: "CN=me\n".into(), serial: "0A".into() };
        let reason =
            HandshakeFailure::BadCertificate(CertificateFault::CriticalExtension("1.2.3".into()));
        assert_eq!(
            says(Event::HandshakeFailed {
                client: sender,
                reason,
                certificate: Some(certificate),
                others: 2
            }),
            "client 10.0.0.7: TLS handshake failed: its certificate has a critical extension that \
             is not known here \
             (object identifier 1.2.3) (subject 'CN=me.', serial 0A) (2 more failed since the last \
             such message)"
        );
    }

    #[test]
    fn nonsense_is_no_line() {
        for server in [0, 2, -2, -3, i32::MIN, i32::MAX] {
            assert_eq!(line(&Event::BackInUse { server }, &settings()), None);
        }
    }
}
