//! The names by which the page may be asked for.
//!
//! Pure. A page of a stranger that a browser shows can give its own name the address of pen (DNS
//! rebinding), and would then read pen's page. So a name is good only if no stranger can give it an
//! address: an address itself, a name without a dot, a name that ends as names of local networks
//! do, the name of this machine, and the one that the administrator wrote.

use std::net::{Ipv4Addr, Ipv6Addr};

use pen_ipc::start::Hosts;

/// Whether a reader may ask for the page by this Host.
pub fn may_ask(hosts: &Hosts, host: &str) -> bool {
    let known = match hosts {
        Hosts::Any => return true,
        Hosts::These(known) => known,
    };
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(ip, port)| {
            ip.parse::<Ipv6Addr>().is_ok()
                && port.strip_prefix(':').is_none_or(is_port)
                && (port.is_empty() || port.starts_with(':'))
        });
    }
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    let name = name.strip_suffix('.').unwrap_or(name);
    if !is_port(port) || !is_name(name) {
        return false;
    }
    name.parse::<Ipv4Addr>().is_ok()
        || !name.contains('.')
        || known.iter().any(|known| known.eq_ignore_ascii_case(name))
        || LOCAL.iter().any(|end| {
            let at = name.len().saturating_sub(end.len());
            name.get(at..).is_some_and(|found| found.eq_ignore_ascii_case(end))
        })
}

fn is_port(port: &str) -> bool {
    port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_name(name: &str) -> bool {
    let may = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.bytes().all(may)
}

/// The ends of names that the public name service never has: RFC 6761, RFC 6762, RFC 8375, and
/// `internal` by a resolution of ICANN.
const LOCAL: [&str; 4] = [".localhost", ".local", ".home.arpa", ".internal"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_no_stranger_can_give_an_address_are_good() {
        let hosts = Hosts::These(vec!["lb1.example.com".into(), "machine.example.net".into()]);
        for good in [
            "127.0.0.1",
            "127.0.0.1:8081",
            "10.1.2.3:1",
            "[::1]:8081",
            "[::1]",
            "localhost",
            "LOCALHOST:8081",
            "localhost.",
            "a.localhost",
            "pen",
            "pen:8081",
            "pen.local:80",
            "pen.svc.cluster.local",
            "lb.corp.internal",
            "router.home.arpa",
            "lb1.example.com",
            "LB1.Example.COM:8081",
            "machine.example.net.:8081",
        ] {
            assert!(may_ask(&hosts, good), "{good}");
        }
        for bad in [
            "",
            ":8081",
            "evil.com",
            "evil.com:8081",
            "127.0.0.1.evil.com",
            "lb1.example.com.evil.com",
            "local.evil.com",
            "evillocal.com",
            "x.lb1.example.com",
            "127.0.0.1:8081:1",
            "127.0.0.1:x",
            "127.0.0.1 ",
            "pen/..",
            "u@pen",
            "[::1",
            "[::1]x",
            "[evil]:1",
            "[::1]:x",
            "p\u{e9}n",
            "1.2.3",
        ] {
            assert!(!may_ask(&hosts, bad), "{bad}");
        }
        assert!(may_ask(&Hosts::Any, "evil.com"));
    }
}
