//! What the page says, and that nobody's text gets the better of it.

use aws_lc_rs::digest::{SHA256, digest};

use crate::event::{EventKind, EventRecord, EventTime};
use crate::page::{CONTENT_SECURITY_POLICY, SCRIPT, STYLE, render};
use crate::{ServerState, ServerTlsStatus, Status, Verify, samples};

/// A digest as the policy has it, in base64. 32 bytes are ten groups of three and one of two.
fn hash(text: &str) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = digest(&SHA256, text.as_bytes()).as_ref().to_vec();
    bytes.push(0);
    let mut encoded = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        for shift in [18, 12, 6, 0] {
            encoded.push(char::from(alphabet[(bits >> shift & 63) as usize]));
        }
    }
    encoded.pop();
    format!("'sha256-{encoded}='")
}

/// The text of a page: without style, script and markup.
fn text(status: &Status) -> String {
    let page = render(status);
    let body = page.split("<body>").nth(1).unwrap().split("<script>").next().unwrap();
    let mut text = String::new();
    for part in body.split('<') {
        text.push_str(part.split_once('>').map_or("", |(_, text)| text));
        text.push(' ');
    }
    let text = text.replace(['\u{a0}', '\u{202f}'], " ");
    text.split_whitespace().collect::<Vec<&str>>().join(" ")
}

fn headline(status: &Status) -> String {
    let page = render(status);
    page.split("<h1>").nth(1).unwrap().split("</h1>").next().unwrap().to_owned()
}

#[test]
fn the_policy_names_exactly_the_style_and_the_script() {
    let policy = CONTENT_SECURITY_POLICY;
    for (directive, content) in [("style-src", STYLE), ("script-src", SCRIPT)] {
        let wanted = format!("{directive} {};", hash(content));
        assert!(policy.contains(&wanted), "put this into CONTENT_SECURITY_POLICY: {wanted}");
    }
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("-inline"));
    // A browser hashes what it finds between the tags.
    let page = render(&samples::fine(3));
    assert!(page.contains(&format!("<style>{STYLE}</style>")));
    assert!(page.contains(&format!("<script>{SCRIPT}</script>")));
    assert!(!STYLE.contains("</") && !SCRIPT.contains("</") && !SCRIPT.contains("<!--"));
}

#[test]
fn nothing_is_loaded_from_elsewhere_and_nothing_needs_an_inline_exception() {
    for status in [samples::fine(3), samples::half_down(200), samples::hostile()] {
        let page = render(&status);
        for part in page.split('<').filter(|part| part.starts_with(|c: char| c.is_alphabetic())) {
            let tag = part.split('>').next().unwrap();
            assert!(!tag.contains(" style="), "{tag}");
            assert!(!tag.contains(" on"), "{tag}");
            assert!(!tag.contains(" src="), "{tag}");
            for href in tag.split(" href=\"").skip(1) {
                let inside =
                    ["#i-", "data:image/svg+xml,", "status.json\"", "metrics\"", "health\""];
                assert!(inside.iter().any(|start| href.starts_with(start)), "{tag}");
            }
        }
    }
}

#[test]
fn hostile_texts_stay_texts() {
    let page = render(&samples::hostile());
    assert_eq!(page.matches("<script").count(), 1);
    assert_eq!(page.matches("</script").count(), 1);
    assert_eq!(page.matches("<style").count(), 1);
    assert!(page.contains("&lt;script&gt;alert(document.cookie)&lt;/script&gt;:8080"));
    assert!(page.contains("&quot; onmouseover=&quot;alert(1)&quot;"));
    let shown = page.replace(STYLE, "").replace(SCRIPT, "");
    assert!(!shown.trim_end().chars().any(|c| c.is_control() || c == '\u{202e}'));
}

#[test]
fn elements_are_closed_in_order_and_ids_are_unique() {
    for status in [
        samples::fine(3),
        samples::half_down(30),
        samples::every_state(),
        samples::paused(),
        samples::hostile(),
        samples::empty(),
    ] {
        let page = render(&status).replace(STYLE, "").replace(SCRIPT, "");
        let mut open: Vec<&str> = Vec::new();
        let mut ids: Vec<&str> = Vec::new();
        for part in page.split('<').skip(1) {
            let tag = part.split('>').next().unwrap();
            ids.extend(tag.split(" id=\"").nth(1).map(|id| id.split('"').next().unwrap()));
            let name = tag.split([' ', '/']).find(|word| !word.is_empty()).unwrap();
            match tag {
                _ if tag.starts_with('/') => assert_eq!(open.pop(), Some(name), "{tag}"),
                _ if tag.starts_with('!') || tag.ends_with('/') => (),
                _ if ["meta", "link"].contains(&name) => (),
                _ => open.push(name),
            }
        }
        assert_eq!(open, Vec::<&str>::new());
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }
}

#[test]
fn a_server_with_tls_says_so_and_whose_certificate_is_good() {
    let with = |verify, name: Option<&str>| {
        let mut status = samples::fine(1);
        let name = name.map(str::to_owned);
        status.servers[0].tls = Some(ServerTlsStatus { verify, name });
        text(&status)
    };
    for (verify, name, words) in [
        (Verify::On, Some("www1.example.org"), "10.0.0.1 · TLS "),
        (Verify::On, Some("10.0.0.1"), "10.0.0.1 · TLS "),
        (Verify::On, Some("a.example"), "10.0.0.1 · TLS, verified as a.example "),
        (Verify::On, None, "10.0.0.1 · TLS, without a name that could be verified "),
        (Verify::Off, Some("www1.example.org"), "10.0.0.1 · TLS, not verified "),
    ] {
        let text = with(verify, name);
        assert!(text.contains(&format!("0 www1.example.org:8080 {words}")), "{words}: {text}");
    }
    assert!(!text(&samples::fine(1)).contains("10.0.0.1 · TLS"));
}

#[test]
fn the_figures_are_those_of_the_status() {
    let status = samples::fine(3);
    let text = text(&status);
    for wanted in [
        "All is well 3 of 3 servers are up",
        "Listens at 0.0.0.0:443",
        "Running 12 d 4 h, since 12 Nov 01:09",
        "Served by 2 workers",
        "Servers chosen by leastconn",
        "pen 0.1.0 05:10:21 UTC+1",
        "Clients remembered 1203 of 2048 (59 %)",
        "0 www1.example.org:8080 10.0.0.1",
        "2 www3.example.org:8080 10.0.0.3 · weight 3",
        "www.example.org server 71 days left until 3 Feb 2027",
        "Reload succeeded 02:10:21 configuration read again: server 2 has weight 3",
        "Clients accepted 4 310 224",
        "TLS handshakes 4 300 403 TLSv1.3 1 900 112 · TLSv1.3 resumed 2 300 421 · TLSv1.2 99 870",
        "Beyond a limit per client 902 per client max 812 · per client rate 90",
        "Never: clients without a server, let in without a look at limits, pauses of accepting, \
         closed for a shortage, log lines lost,",
        "05:00:19 server 0 (www1.example.org:8080) is in use again",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in: {text}");
    }
    for server in &status.servers {
        assert!(text.contains(&format!("{} of 200", server.connections)), "{text}");
    }
}

#[test]
fn the_headline_tells_what_clients_find() {
    assert_eq!(headline(&samples::fine(1)), "The server is up");
    let mut status = samples::half_down(4);
    assert_eq!(headline(&status), "2 of 4 servers are up");
    for server in &mut status.servers {
        (server.state, server.blacklisted) = (ServerState::Failed, 18);
    }
    assert_eq!(
        headline(&status),
        "The emergency server serves all new clients: all servers are down"
    );
    status.emergency = None;
    assert_eq!(headline(&status), "Clients are turned away: all servers are down");
    status.servers[2].state = ServerState::Full;
    assert_eq!(headline(&status), "Clients are turned away: all servers that are up are full");
    status.servers[2].state = ServerState::Pending;
    assert_eq!(headline(&status), "1 of 4 servers are up");
    assert_eq!(headline(&samples::empty()), "Clients are turned away: no server is configured");
    status.servers[0].state = ServerState::Vacant;
    assert_eq!(headline(&status), "1 of 3 servers are up");
}

#[test]
fn the_headline_and_health_agree() {
    let agree = |status: &Status, wanted: &str| {
        assert_eq!(headline(status), wanted);
        let serves = !["Clients are turned away", "Clients wait: no worker"]
            .iter()
            .any(|begin| wanted.starts_with(begin));
        assert_eq!(status.health().is_ok(), serves, "{wanted}");
    };
    let mut status = samples::fine(2);
    for server in &mut status.servers {
        (server.state, server.blacklisted) = (ServerState::Failed, 18);
    }
    agree(&status, "Clients are turned away: all servers are down");
    status.servers[1].blacklisted = 0;
    agree(&status, "The next client tries a server again: all servers are down");
    let mut status = samples::empty();
    agree(&status, "Clients are turned away: no server is configured");
    status.dummy = true;
    agree(&status, "pen answers all clients itself (dummy)");
    status.worker_list.clear();
    agree(&status, "Clients wait: no worker is running");
    agree(&samples::paused(), "Paused: new clients wait until the command resume");
    agree(&samples::disregarding(), "Checks are disregarded (fail_open): all servers are down");
    let mut status = samples::paused();
    status.worker_list.iter_mut().for_each(|worker| worker.pid = None);
    status.servers.clear();
    assert_eq!(status.health(), Err("no worker is running"));
    let mut status = samples::fine(2);
    status.worker_list.iter_mut().for_each(|worker| worker.pid = None);
    agree(&status, "Clients wait: no worker is running");
}

#[test]
fn each_state_is_said_with_what_the_check_says_and_since_when() {
    let text = text(&samples::every_state());
    for wanted in [
        "5 of 9 servers are up",
        "1 failed 1 down 1 taken out 1 maintenance 2 draining 1 full 1 passed over 1 up",
        "up http up 2.3 ms for 25 h",
        "full http up 2.3 ms for 25 h",
        "passed over too many connects to it are pending (pending_max) http up",
        "taken out by an operator 5 min ago, for 25 min more 73 of 200",
        "failed 12 s ago, left out for 18 s more: connection refused http unknown for 3 min",
        "down http down for 3 min: status 503",
        "draining gets no new clients http up 2.3 ms",
        "draining gets no new clients http down for 3 min: status 503",
        "maintenance gets no clients http unknown for 3 min",
        "Server 5 (www6.example.org:8080): down by check: status 503.",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in: {text}");
    }
    assert!(!text.contains("no address"), "{text}");
    // Every server has its part of the bar.
    let page = render(&samples::every_state());
    let bar = page.split("<svg class=\"parts\"").nth(1).unwrap().split("</svg>").next().unwrap();
    let widths = bar.split(" width=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let sum: f64 = widths.map(|width| width.parse::<f64>().unwrap()).sum();
    assert!((sum - 100.0).abs() < 0.1, "{sum}: {bar}");
}

#[test]
fn connections_in_the_tarpit_are_told() {
    let mut status = samples::fine(3);
    assert!(!text(&status).contains("tarpit"));
    status.tarpitted = 1200;
    assert!(text(&status).contains(", 1200 in the tarpit"), "{}", text(&status));
}

#[test]
fn clients_that_wait_are_told() {
    let paused = text(&samples::paused());
    for wanted in [
        "Clients are affected Paused: new clients wait until the command resume",
        "12 clients wait until the command resume.",
        "of 1000 (25 %), 12 held",
    ] {
        assert!(paused.contains(wanted), "{wanted} is not in: {paused}");
    }
    let holding = samples::holding();
    assert_eq!(headline(&holding), "New clients wait (hold): all servers are down");
    let holding = text(&holding);
    let wanted = "1 client waits until a server can be used, as long as hold says.";
    assert!(holding.contains(wanted), "{holding}");
    let open = text(&samples::disregarding());
    assert!(
        open.contains("Clients get servers that are down, because no other is left."),
        "{open}"
    );
    assert!(!open.contains("held") && !text(&samples::fine(3)).contains("held"));
}

#[test]
fn a_hard_limit_without_a_soft_one_is_none() {
    let mut status = samples::fine(1);
    let server = &mut status.servers[0];
    (server.connections, server.max, server.hard) = (250, 0, 240);
    assert!(!text(&status).contains("of 240"));
    status.servers[0].max = 200;
    assert!(text(&status).contains("250 of 200 , hard limit 240"), "{}", text(&status));
}

#[test]
fn what_is_not_well_is_remarked() {
    let text = text(&samples::half_down(8));
    for wanted in [
        "Needs attention 4 of 8 servers are up",
        "4 servers failed: 1, 3, 5 and 1 more.",
        "Server 6 (www7.example.org:8080): full.",
        "Worker 1 is being replaced.",
        "The last reload failed 3 min 10 s ago: /etc/pen/pen.conf:7:",
        "The certificate of api.example.org: 6 days left.",
        "An old worker (version 0.0.9) still serves 3 connections",
        "Log lines lost 431",
        "emergency sorry.example.org:8080",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in: {text}");
    }
    let mut full = samples::fine(2);
    full.connections_max = full.connections;
    let page = render(&full);
    assert!(page.contains("Clients wait: ") && page.contains("Clients are affected"));
    let many = render(&samples::half_down(100));
    assert!(many.contains("40 servers failed: 1, 3, 5 and 37 more."));
}

#[test]
fn lost_log_lines_need_attention_for_some_minutes() {
    let lost = |ago: i64, log: &str, text: &str| EventRecord {
        id: 1,
        time: EventTime((samples::fine(2).unix_time - ago) as u64 * 1000),
        kind: EventKind::LogLost,
        text: text.to_owned(),
        fields: [("log".to_owned(), log.into())].into(),
    };
    let mut status = samples::fine(2);
    status.events.push(lost(301, "connection_log", "9 connection log lines were lost"));
    assert!(text(&status).contains("All is well"));
    status.events.push(lost(200, "log", "3 request log lines were lost: no space left"));
    status.events.push(lost(12, "connection_log", "5 connection log lines were lost"));
    status.events.push(lost(10, "connection_log", "217 connection log lines were lost"));
    let text = text(&status);
    for wanted in [
        "Needs attention 2 of 2 servers are up",
        "10 s ago, 217 connection log lines were lost.",
        "3 min 20 s ago, 3 request log lines were lost: no space left.",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in: {text}");
    }
    assert!(!text.contains("12 s ago, 5"), "only the last of each log: {text}");
}

#[test]
fn many_servers_begin_with_those_in_trouble() {
    let order = |status: &Status| -> Vec<String> {
        let page = render(status);
        let rows = page.split("<tr id=\"s").skip(1);
        rows.map(|row| row.split('"').next().unwrap().to_owned()).collect()
    };
    assert_eq!(order(&samples::half_down(4)), ["0", "1", "2", "3"]);
    let many = order(&samples::half_down(40));
    assert_eq!(many.len(), 40);
    assert_eq!(many[..5], ["1", "3", "5", "7", "11"]);
}

#[test]
fn the_page_is_small() {
    let size = render(&samples::fine(3)).len();
    assert!(size < 31_000, "{size} bytes");
    let thousand = render(&samples::fine(1000)).len();
    assert!(thousand < 1_600_000, "{thousand} bytes");
}

#[test]
fn any_state_can_be_shown() {
    let mut status = samples::hostile();
    status.unix_time = i64::MIN;
    status.uptime = u64::MAX;
    status.history.period = 0;
    status.servers[0].history.connections = vec![u32::MAX];
    status.servers[1].history.connections.clear();
    status.servers[2].name = None;
    status.servers[2].address = None;
    (status.servers[3].sent, status.servers[3].received) = (u64::MAX, u64::MAX);
    assert!(render(&status).contains("<tr id=\"s2\""));
    assert!(render(&Status::default()).contains("no server is configured"));
}

/// The luminance of a colour `#rrggbb` or `#rgb`, as WCAG defines it.
fn luminance(colour: &str) -> f64 {
    let digits = colour.trim_start_matches('#');
    let wide = digits.len() / 3;
    let part = |index: usize| {
        let digits = &digits[index * wide..][..wide];
        let value = u8::from_str_radix(&digits.repeat(2 / wide), 16).unwrap();
        let value = f64::from(value) / 255.0;
        if value <= 0.03928 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * part(0) + 0.7152 * part(1) + 0.0722 * part(2)
}

#[test]
fn every_text_has_enough_contrast() {
    let schemes: Vec<&str> = STYLE.split(":root{").skip(1).collect();
    assert_eq!(schemes.len(), 2, "light and dark");
    for scheme in schemes {
        let colours = scheme.split('}').next().unwrap();
        let colour = |name: &str| {
            let value = colours.split(&format!("--{name}:")).nth(1).unwrap();
            luminance(value.split(';').next().unwrap())
        };
        let pairs = [
            ("text", "bg"),
            ("soft", "bg"),
            ("accent", "bg"),
            ("text", "panel"),
            ("soft", "panel"),
            ("accent", "panel"),
            ("up", "panel"),
            ("full", "panel"),
            ("failed", "panel"),
            ("text", "upbg"),
            ("text", "fullbg"),
            ("text", "failedbg"),
            ("soft", "failedbg"),
            ("failed", "failedbg"),
            ("full", "fullbg"),
            ("up", "upbg"),
        ];
        for (text, ground) in pairs {
            let (one, other) = (colour(text), colour(ground));
            let contrast = (one.max(other) + 0.05) / (one.min(other) + 0.05);
            assert!(contrast >= 4.5, "{text} on {ground}: {contrast:.2}");
        }
    }
}
