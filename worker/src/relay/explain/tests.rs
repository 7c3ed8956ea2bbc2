//! The lines of explanations, in every case.

use std::cell::RefCell;

use pen_config::acl::{Acl, AclVerdict, Net};
use pen_config::address::Address;
use pen_config::settings::{Maglev, Selection, Server};
use pen_ipc::message::EXPLANATION;
use pen_table::{Blacklist, DownCode, Knows, ServerView, Standing, TableMode};

use super::*;
use crate::relay::explain::lines::RESERVE;
use crate::relay::select::choices::Choices;

/// Blacklist, connections and standing by row, with the cursor at 0.
struct Model(Vec<(Blacklist, u32, Standing)>, RefCell<Choices>);

impl Farm for Model {
    fn server(&self, row: u32) -> ServerView {
        self.0
            .get(row as usize)
            .map_or(ServerView::FREE, |state| ServerView { blacklist: state.0, standing: state.2 })
    }

    fn connections(&self, row: u32) -> u32 {
        self.0.get(row as usize).map_or(0, |state| state.1)
    }

    fn cursor(&self) -> u32 {
        0
    }

    fn advance_cursor(&self, _: u32, _: u32) -> bool {
        panic!("an explanation moves nothing");
    }

    fn hindrance(&self, _: u32) -> Option<Hindrance> {
        None
    }

    fn now(&self) -> u64 {
        10_000
    }

    fn returned(&self, _: u32) -> u64 {
        0
    }

    fn is_left_out(&self, _: u32, _: Knows) -> bool {
        panic!("an explanation names all servers");
    }
}

impl Choosing for Model {
    fn choices(&self) -> &RefCell<Choices> {
        &self.1
    }
}

fn server(soft: u32, acl: u8) -> Option<Server> {
    let address = Address::Inet("10.0.0.1:80".parse().unwrap());
    Some(Server { soft, acl, ..Server::at(address) })
}

fn refusing() -> Acl {
    let mut acl = Acl::default();
    assert!(acl.push(AclVerdict::Deny, Net::v4_prefix("192.0.2.0".parse().unwrap(), 24).unwrap()));
    acl
}

fn explain(settings: &Settings, states: &[(Blacklist, u32)], recorded: Option<i32>) -> String {
    let states = states.iter().map(|(list, open)| (*list, *open, Standing::default()));
    explain_with(settings, states.collect(), recorded)
}

fn explain_with(
    settings: &Settings,
    states: Vec<(Blacklist, u32, Standing)>,
    recorded: Option<i32>,
) -> String {
    let client = ClientKey::from_ip("192.0.2.7".parse().unwrap());
    let model = Model(states, RefCell::new(Choices::new(settings, 0)));
    explanation(settings, &model, client, recorded, 10_000, &|_| String::new())
}

#[test]
fn whether_a_client_waits_is_told() {
    let mut settings = Settings { servers: vec![server(0, 0)], ..Settings::default() };
    settings.admission = Admission::Paused;
    assert_eq!(
        explain(&settings, &[FINE], None).lines().nth(1),
        Some("new clients wait until resume (pause)")
    );
    (settings.admission, settings.hold) = (Admission::Open, 7);
    let full = [(Blacklist::Until(11_000), 0)];
    let last =
        |settings: &Settings| explain(settings, &full, None).lines().last().unwrap().to_owned();
    assert_eq!(last(&settings), "no server now: the client would wait up to 7 s (hold)");
    settings.hold = 0;
    assert_eq!(last(&settings), "no server: the client would be closed");
}

const FINE: (Blacklist, u32) = (Blacklist::Clear, 0);
const OUT: (Blacklist, u32) = (Blacklist::Until(21_001), 0);

#[test]
fn every_step_has_its_reason() {
    let mut settings = Settings {
        servers: vec![server(0, 0), server(0, 0), server(10, 0), server(0, 1), server(0, 0)],
        ..Settings::default()
    };
    settings.acls[1] = refusing();
    let states =
        [(Blacklist::Probed, 0), OUT, (Blacklist::Clear, 10), FINE, (Blacklist::Expired, 0)];
    assert_eq!(
        explain(&settings, &states, Some(1)),
        "client 192.0.2.7: tracked on server 1\n\
         server 1 (10.0.0.1:80): blacklisted for 12 s more\n\
         server 2 (10.0.0.1:80): full (10 of 10)\n\
         server 3 (10.0.0.1:80): refused by acl 1\n\
         server 4 (10.0.0.1:80): would be used, the first to try it after its blacklist time\n"
    );
    assert!(
        explain(&settings, &states, Some(-3))
            .starts_with("client 192.0.2.7: not tracked; by round robin\n")
    );
    // At last, a client that waits for another's probe joins it.
    settings.servers.truncate(2);
    assert_eq!(
        explain(&settings, &states, None),
        "client 192.0.2.7: the client table is locked; by round robin\n\
         server 1 (10.0.0.1:80): blacklisted for 12 s more\n\
         server 0 (10.0.0.1:80): being tried by another connection after its blacklist time\n\
         server 0 (10.0.0.1:80): would be used\n"
    );
}

#[test]
fn a_server_with_tls_is_verified_by_its_name_or_not() {
    let mut settings = Settings { servers: vec![server(0, 0)], ..Settings::default() };
    settings.server_tls.on = true;
    let said = |settings: &Settings| explain(settings, &[FINE, FINE, FINE], None);
    assert!(said(&settings).ends_with(": would be used; with TLS, verified as 10.0.0.1\n"));
    settings.server_tls.name = Some("a.example".parse().unwrap());
    assert!(said(&settings).ends_with("; with TLS, verified as a.example\n"));
    settings.server_tls.verify = false;
    assert!(said(&settings).ends_with("; with TLS, not verified\n"));
}

#[test]
fn the_last_resorts_and_none() {
    let mut settings =
        Settings { servers: vec![server(0, 0)], emergency: server(1, 0), ..Settings::default() };
    let states = [OUT, FINE, FINE];
    assert!(
        explain(&settings, &states, Some(-1))
            .ends_with("emergency server (10.0.0.1:80): would be used\n")
    );
    let states = [OUT, (Blacklist::Clear, 1), FINE];
    assert!(explain(&settings, &states, Some(0)).ends_with(
        "emergency server (10.0.0.1:80): full (1 of 1)\nno server: the client would be closed\n"
    ));
    settings.selection.stubborn = true;
    assert_eq!(
        explain(&settings, &states, Some(0)),
        "client 192.0.2.7: tracked on server 0\nserver 0 (10.0.0.1:80): blacklisted for 12 s \
         more\n\
         no server: the client would be closed (stubborn)\n"
    );
    settings.acls[9] = refusing();
    (settings.client_acl, settings.abuse) = (9, server(0, 9));
    settings.dummy = true;
    assert_eq!(
        explain(&settings, &states, Some(0)),
        "client 192.0.2.7: refused by acl 9, and dummy uses no abuse server\nno server: the \
         client would be closed\n"
    );
    settings.dummy = false;
    assert_eq!(
        explain(&settings, &states, Some(0)),
        "client 192.0.2.7: refused by acl 9\nabuse server (10.0.0.1:80): would be used\n"
    );
}

#[test]
fn what_operators_and_checks_say_is_told() {
    let mut settings = Settings { servers: vec![server(0, 0); 4], ..Settings::default() };
    let of =
        |mode, down: bool| Standing { mode, down: DownCode::new(7 << 16 | 503).filter(|_| down) };
    let (ready, down) = (of(TableMode::Ready, false), of(TableMode::Ready, true));
    let (drain, maint) = (of(TableMode::Drain, false), of(TableMode::Maint, false));
    let states = |standings: [Standing; 4]| {
        standings.map(|standing| (Blacklist::Clear, 0, standing)).to_vec()
    };
    assert_eq!(
        explain_with(&settings, states([ready, maint, drain, down]), Some(1)),
        "client 192.0.2.7: tracked on server 1\n\
         server 1 (10.0.0.1:80): in maintenance\n\
         server 2 (10.0.0.1:80): draining, no new clients\n\
         server 3 (10.0.0.1:80): down by check: status 503\n\
         server 0 (10.0.0.1:80): would be used\n"
    );
    assert_eq!(
        explain_with(&settings, states([ready, maint, drain, down]), Some(2)),
        "client 192.0.2.7: tracked on server 2\n\
         server 2 (10.0.0.1:80): would be used: it is draining, but knows the client\n"
    );
    let out = states([down, maint, drain, down]);
    assert_eq!(
        explain_with(&settings, out.clone(), Some(0)),
        "client 192.0.2.7: tracked on server 0\n\
         server 0 (10.0.0.1:80): down by check: status 503\n\
         server 1 (10.0.0.1:80): in maintenance\n\
         server 2 (10.0.0.1:80): draining, no new clients\n\
         server 3 (10.0.0.1:80): down by check: status 503\n\
         no other server is left: checks are disregarded (fail_open)\n\
         server 3 (10.0.0.1:80): would be used\n"
    );
    settings.fail_open = false;
    assert!(explain_with(&settings, out, Some(0)).ends_with(
        "server 3 (10.0.0.1:80): down by check: status 503\nno server: the client would be closed\n"
    ));
}

#[test]
fn modes_are_named_and_what_they_pass_over() {
    let mut settings =
        Settings { servers: vec![server(0, 0), server(0, 0), None], ..Settings::default() };
    settings.servers[0].as_mut().unwrap().weight = 0;
    let modes = |settings: &mut Settings, weight, prio, roundrobin| {
        settings.selection = Selection { weight, prio, roundrobin, ..Selection::default() };
    };
    modes(&mut settings, true, false, false);
    assert_eq!(
        explain(&settings, &[], Some(2)),
        "client 192.0.2.7: tracked on server 2, which is no more; by weight\n\
         server 0 (10.0.0.1:80): weight 0, only when no other can be used\n\
         least load: server 1, with 0 connections at weight 1; equals take turns\n\
         server 1 (10.0.0.1:80): would be used\n"
    );
    modes(&mut settings, true, true, true);
    assert_eq!(
        explain(&settings, &[], Some(1)),
        "client 192.0.2.7: was on server 1, but clients are not tracked; by prio\nprio: server 0 \
         has the lowest prio, 0\nserver 0 (10.0.0.1:80): would be used\n"
    );
}

#[test]
fn draws_and_positions_are_told_with_their_figures() {
    let mut settings = Settings { servers: vec![server(0, 0)], ..Settings::default() };
    settings.selection = Selection { p2c: true, ..Selection::default() };
    assert_eq!(
        explain(&settings, &[(Blacklist::Clear, 1)], Some(-3)),
        "client 192.0.2.7: not tracked; by p2c\n\
         drawn now, with no other to compare: server 0, with 1 connection at weight 1\n\
         server 0 (10.0.0.1:80): would be used\n"
    );
    settings.servers.push(server(0, 0));
    let drawn = explain(&settings, &[(Blacklist::Clear, 2), FINE], Some(-3));
    let of =
        |one: &str, other: &str| format!("drawn now, perhaps others next time: {one}; {other}");
    let (busy, idle) =
        ("server 0, with 2 connections at weight 1", "server 1, with 0 connections at weight 1");
    assert!(drawn.contains(&of(busy, idle)) || drawn.contains(&of(idle, busy)), "{drawn}");
    assert!(drawn.ends_with("server 1 (10.0.0.1:80): would be used\n"), "{drawn}");
    settings.servers.pop();
    settings.selection = Selection { maglev: Maglev::Bounded(110), ..Selection::default() };
    assert!(explain(&settings, &[FINE], Some(-3)).contains(" of 65537 belongs to server 0\n"));
}

#[test]
fn what_is_too_long_is_cut_before_the_outcome() {
    let settings = Settings { servers: vec![server(0, 0); 4096], ..Settings::default() };
    let text = explain(&settings, &vec![OUT; 4096], None);
    assert!(text.len() <= EXPLANATION && text.len() > EXPLANATION - 2 * RESERVE, "{}", text.len());
    let lines: Vec<&str> = text.lines().collect();
    let [first, .., more, last] = lines[..] else { panic!() };
    assert!(first.starts_with("client "));
    assert_eq!(more, format!("... {} more", 4097 - (lines.len() - 2)));
    assert_eq!(last, "no server: the client would be closed");
}
