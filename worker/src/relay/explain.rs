//! `explain ADDRESS`: which server a client would get now, and why, with one line for each step.
//!
//! It uses the same choice as for real clients ([`Placement`]) and the same state, but through a
//! view that changes nothing. No connection is reserved, no probe begins, the cursor stays, and the
//! client is not entered in the table.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt::Write;

use pen_config::checks::{Admission, ServerMode};
use pen_config::followed::Record;
use pen_config::ids::{ClientKey, ServerId, Target};
use pen_config::maglev::POSITIONS;
use pen_config::settings::{Method, Settings};
use pen_ipc::checks::words_of;
use pen_ipc::message::ConnectFailure;
use pen_ipc::message::EXPLANATION;
use pen_ipc::text::errno_text;
use pen_table::{Checks, Knows, ServerView, TableMode, WorkerTable};

use crate::relay::Relay;
use crate::relay::accept::hold::could_serve;
use crate::relay::limits::LimitsExplained;
use crate::relay::select::choices::{Choices, Choosing, position};
use crate::relay::select::farm::{Farm, Hindrance};
use crate::relay::select::slow_start::{WHOLE, share};
use crate::relay::select::{Candidate, Placement, SelectionRefusal, Usable, client_permitted};

/// A read-only view of a farm.
struct Looked<'f, F> {
    farm: &'f F,
    cursor: Cell<u32>,
    choices: RefCell<Choices>,
}

impl<F: Farm> Farm for Looked<'_, F> {
    fn server(&self, row: u32) -> ServerView {
        self.farm.server(row)
    }

    fn connections(&self, row: u32) -> u32 {
        self.farm.connections(row)
    }

    fn cursor(&self) -> u32 {
        self.cursor.get()
    }

    fn advance_cursor(&self, _: u32, to: u32) -> bool {
        self.cursor.set(to);
        true
    }

    fn now(&self) -> u64 {
        self.farm.now()
    }

    fn returned(&self, row: u32) -> u64 {
        self.farm.returned(row)
    }

    fn hindrance(&self, row: u32) -> Option<Hindrance> {
        self.farm.hindrance(row)
    }

    /// Each server has its line.
    fn is_left_out(&self, _: u32, _: Knows) -> bool {
        false
    }
}

impl<F: Farm> Choosing for Looked<'_, F> {
    fn choices(&self) -> &RefCell<Choices> {
        &self.choices
    }
}

impl Relay<'_> {
    /// Explains what a client would get now.
    pub(super) fn explain(&self, client: ClientKey) -> String {
        let tracking = u64::from(self.settings.tracking) * 1000;
        let locked = self.worker_table.lock(client.bytes()).ok();
        let recorded = locked.map(|table| table.recorded(self.now, tracking));
        let farm = self.farm();
        let explained = explanation(&self.settings, &farm, client, recorded, self.now, &|row| {
            reason_of(&self.worker_table, row)
        });
        let explained = match self.explain_limits(client) {
            None => self.passed_over_elsewhere() + &explained,
            Some(LimitsExplained::Goes(line)) => {
                let (first, rest) = explained.split_once('\n').unwrap_or((&explained, ""));
                self.passed_over_elsewhere() + &format!("{first}\n{line}\n{rest}")
            }
            Some(LimitsExplained::Stops(lines)) => format!("client {client}: {lines}\n"),
        };
        let (open, most) = (self.worker_table.connections_open(), self.settings.connections_max);
        match open >= most {
            true => format!(
                "{open} of {most} connections are in use: the client would wait for one to end \
                 (-x)\n{explained}"
            ),
            false => explained,
        }
    }

    /// The servers that another worker passes over and this one does not: the first of them.
    fn passed_over_elsewhere(&self) -> String {
        let settings = &self.settings;
        let regular = (0..settings.server_count()).map(|id| Target::Server(ServerId(id as u16)));
        let all = regular.chain([Target::Emergency, Target::Abuse]);
        let elsewhere = all.filter(|target| settings.target(*target).is_some()).filter(|target| {
            let row = target.row(settings.table_size());
            self.worker_table.is_pending(row) && !self.upstreams.is_shut(row)
        });
        let line = |target| {
            let (name, most) = (name(settings, target), settings.pending_max);
            format!(
                "{name}: another worker passes it over, {most} connects to it are pending there \
                 (pending_max)\n"
            )
        };
        elsewhere.take(FEW).map(line).collect()
    }
}

/// The end of the line about a blacklisted server: by whom, or why.
fn reason_of(worker_table: &WorkerTable<'_>, row: u32) -> String {
    if worker_table.is_taken_out(row) {
        return " by an operator".into();
    }
    match worker_table.last_failure(row).map(|failure| ConnectFailure::from_code(failure.cause)) {
        Some(ConnectFailure::Errno(errno)) => format!(": {}", errno_text(errno)),
        Some(ConnectFailure::Timeout) => ": no answer in time".into(),
        Some(ConnectFailure::Tls(fault)) => format!(": {fault}"),
        None => String::new(),
    }
}

/// Most servers that are named of those that other workers pass over.
const FEW: usize = 8;

/// The end of the line about a blacklisted server, by row.
type BlacklistReason<'w> = &'w dyn Fn(u32) -> String;

/// The explanation. `recorded` is the content of the client table, if it could be read.
fn explanation(
    settings: &Settings,
    farm: &impl Choosing,
    client: ClientKey,
    recorded: Option<i32>,
    now: u64,
    blacklist_reason: BlacklistReason<'_>,
) -> String {
    let choices = RefCell::new(farm.choices().borrow().anew(settings, farm.now()));
    let farm = Looked { farm, cursor: Cell::new(farm.cursor()), choices };
    let permitted = client_permitted(settings, client);
    let mut lines = Lines::default();
    lines.add(client_facts(settings, client, permitted, recorded));
    match settings.admission {
        Admission::Open => {}
        Admission::Paused => lines.add("new clients wait until resume (pause)".into()),
    }
    if settings.dummy && permitted {
        lines.add("dummy: every client gets the same answer, and no server is used".into());
        return lines.text();
    }
    let recorded = recorded.and_then(Target::from_code);
    let mut passed_over = Vec::new();
    let candidate = Candidate { key: client, port: 0, recorded, permitted };
    let mut placement = Placement::new(settings, &farm, candidate, &mut |id, refusal| {
        passed_over.push((id, refusal))
    });
    for (id, refusal) in
        passed_over.into_iter().filter(|(_, refusal)| *refusal != SelectionRefusal::Absent)
    {
        lines.add(why_not(settings, Target::Server(id), refusal, now, blacklist_reason));
    }
    for line in reasons_of_method(settings, &farm, client, placement.chosen(settings)) {
        lines.add(line);
    }
    let mut waits = false;
    while let Some(trial) = placement.next(settings, &farm).filter(|_| !settings.dummy) {
        let target = trial.target;
        if trial.checks == Checks::Disregarded {
            lines.add("no other server is left: checks are disregarded (fail_open)".into());
        }
        match placement.judge(settings, &farm, client, trial) {
            Ok(usable) => {
                let drains = farm.server(target.row(settings.table_size())).standing.mode;
                let how = how_used(settings, target, usable, drains);
                lines.add(name(settings, target) + &how + &secured(settings, target));
                return lines.text();
            }
            // There is no server with this number, or no abuse server.
            Err(SelectionRefusal::Absent) => {}
            Err(refusal) => {
                if let SelectionRefusal::Hindered(hindrance) = refusal {
                    placement.hold(target);
                    waits |= hindrance == Hindrance::Pending;
                }
                lines.add(why_not(settings, target, refusal, now, blacklist_reason));
            }
        }
    }
    if waits {
        lines.add("no server now: the client would wait for a pending connect to end".into());
        return lines.text();
    }
    if settings.hold > 0 && could_serve(settings, client) {
        let seconds = settings.hold;
        lines.add(format!("no server now: the client would wait up to {seconds} s (hold)"));
        return lines.text();
    }
    let why = if settings.selection.stubborn && permitted { " (stubborn)" } else { "" };
    lines.add(format!("no server: the client would be closed{why}"));
    lines.text()
}

/// The facts about the client itself, and how its first server is chosen.
fn client_facts(
    settings: &Settings,
    client: ClientKey,
    permitted: bool,
    recorded: Option<i32>,
) -> String {
    if !permitted {
        let instead = match (settings.dummy, &settings.abuse) {
            (true, _) => ", and dummy uses no abuse server",
            (false, Some(_)) => "",
            (false, None) => ", and there is no abuse server",
        };
        return format!("client {client}: refused by acl {}{instead}", settings.client_acl);
    }
    let modes = settings.selection;
    let choice = match modes.method() {
        Method::Prio => "prio",
        Method::Weight => "weight",
        Method::Leastconn => "leastconn",
        Method::P2c => "p2c",
        Method::Maglev => "maglev",
        Method::Hash if modes.roundrobin => "hash of address and port, here of port 0",
        Method::Hash => "hash",
        Method::RoundRobin => "round robin",
    };
    let recorded = match recorded.map(Target::from_code) {
        None => return format!("client {client}: the client table is locked; by {choice}"),
        Some(Some(Target::Server(id))) => id,
        Some(Some(Target::Emergency)) => {
            return format!("client {client}: was on the emergency server; by {choice}");
        }
        Some(Some(Target::Abuse)) => {
            return format!("client {client}: was on the abuse server; by {choice}");
        }
        Some(None) => return format!("client {client}: not tracked; by {choice}"),
    };
    if settings.target(Target::Server(recorded)).is_none() {
        format!("client {client}: tracked on server {recorded}, which is no more; by {choice}")
    } else if !modes.tracks() {
        format!(
            "client {client}: was on server {recorded}, but clients are not tracked; by {choice}"
        )
    } else {
        format!("client {client}: tracked on server {recorded}")
    }
}

/// Why the method in force names a server: the figures that it compared.
fn reasons_of_method(
    settings: &Settings,
    farm: &Looked<'_, impl Choosing>,
    client: ClientKey,
    first: Option<ServerId>,
) -> Vec<String> {
    let Some(id) = first else { return Vec::new() };
    let server = settings.target(Target::Server(id));
    let prio = server.map_or(0, |server| server.prio);
    let loaded = |id: ServerId| {
        let weight = settings.target(Target::Server(id)).map_or(0, |server| server.weight);
        let slow = match share(settings, farm, id.0.into()) {
            WHOLE => String::new(),
            share => format!(", of which it has {} % now (slow_start)", share / 10),
        };
        let connections = plural(farm.connections(id.0.into()), "connection");
        format!("server {id}, with {connections} at weight {weight}{slow}")
    };
    match settings.selection.method() {
        Method::Prio => vec![format!("prio: server {id} has the lowest prio, {prio}")],
        Method::Weight | Method::Leastconn => {
            vec![format!("least load: {}; equals take turns", loaded(id))]
        }
        Method::P2c => {
            let Some((one, other)) = farm.choices.borrow().compared() else {
                return vec![format!("drawn now, with no other to compare: {}", loaded(id))];
            };
            let [one, other] = [one, other].map(loaded);
            vec![format!("drawn now, perhaps others next time: {one}; {other}")]
        }
        Method::Maglev => {
            let position = position(settings, client);
            let choices = farm.choices.borrow();
            let owner = choices.walk(settings, position).next();
            let next =
                if owner == Some(id) { "" } else { ", whose clients spread over the others" };
            owner.map_or(Vec::new(), |owner| {
                vec![format!(
                    "maglev: position {position} of {POSITIONS} belongs to server {owner}{next}"
                )]
            })
        }
        Method::Hash | Method::RoundRobin => Vec::new(),
    }
}

/// A number with its noun.
fn plural(count: u32, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// The end of the line about the server that would be used.
fn how_used(settings: &Settings, target: Target, usable: Usable, mode: TableMode) -> String {
    match (usable, mode, gone_from(settings, target)) {
        (Usable::InUse, TableMode::Ready | TableMode::Maint, _) => ": would be used".into(),
        (Usable::InUse, TableMode::Drain, None) => {
            ": would be used: it is draining, but knows the client".into()
        }
        (Usable::InUse, TableMode::Drain, Some(from)) => {
            format!(": would be used: it is no longer an address of {from}, but knows the client")
        }
        (Usable::ForProbe, _, _) => {
            ": would be used, the first to try it after its blacklist time".into()
        }
    }
}

/// The name that a server followed, if it drains because its record is gone.
fn gone_from(settings: &Settings, target: Target) -> Option<&str> {
    let Target::Server(id) = target else { return None };
    let server = settings.target(target)?;
    match (server.mode, server.record) {
        (ServerMode::Ready, Record::Gone) => settings.followed(id).map(|from| from.name.as_str()),
        (ServerMode::Ready | ServerMode::Drain | ServerMode::Maint, _) => None,
    }
}

/// The end of the line about a server that speaks TLS.
fn secured(settings: &Settings, target: Target) -> String {
    if !settings.speaks_tls(target) {
        return String::new();
    }
    match (settings.server_tls.verify, settings.tls_name(target)) {
        (true, Some(name)) => format!("; with TLS, verified as {name}"),
        (true, None) => "; with TLS, but without a name that could be verified".into(),
        (false, _) => "; with TLS, not verified".into(),
    }
}

/// Why a server is not used.
fn why_not(
    settings: &Settings,
    target: Target,
    refusal: SelectionRefusal,
    now: u64,
    blacklist_reason: BlacklistReason<'_>,
) -> String {
    let name = name(settings, target);
    match refusal {
        SelectionRefusal::Absent => format!("{name}: has no address"),
        SelectionRefusal::Maintenance => format!("{name}: in maintenance"),
        SelectionRefusal::Draining => match gone_from(settings, target) {
            Some(from) => format!("{name}: no longer an address of {from}, no new clients"),
            None => format!("{name}: draining, no new clients"),
        },
        SelectionRefusal::Down(code) => {
            format!("{name}: down by check: {}", words_of(code.code()))
        }
        SelectionRefusal::Blacklisted(until) => {
            let seconds = until.saturating_sub(now).div_ceil(1000);
            format!(
                "{name}: blacklisted for {seconds} s more{}",
                blacklist_reason(target.row(settings.table_size()))
            )
        }
        SelectionRefusal::Probed => {
            format!("{name}: being tried by another connection after its blacklist time")
        }
        SelectionRefusal::Acl(list) => format!("{name}: refused by acl {list}"),
        SelectionRefusal::Full { connections, most } => {
            format!("{name}: full ({connections} of {most})")
        }
        SelectionRefusal::Hindered(Hindrance::Pending) => {
            format!(
                "{name}: passed over, {} connects to it are pending (pending_max)",
                settings.pending_max
            )
        }
        SelectionRefusal::Hindered(Hindrance::Ports) => {
            format!("{name}: passed over, no local port was free towards it")
        }
        SelectionRefusal::SlowStart(share) => format!(
            "{name}: passed over this time, it has {} % of its share now (slow_start)",
            share / 10
        ),
        SelectionRefusal::Crowded { connections, percent } => format!(
            "{name}: passed over with {}, more than {percent} % of the mean (maglev bounded)",
            plural(connections, "connection")
        ),
        SelectionRefusal::NoWeight => format!("{name}: weight 0, only when no other can be used"),
    }
}

/// The name of a server in a line.
fn name(settings: &Settings, target: Target) -> String {
    let title = match target {
        Target::Server(id) => format!("server {id}"),
        Target::Emergency => "emergency server".into(),
        Target::Abuse => "abuse server".into(),
    };
    match settings.target(target) {
        Some(server) => match server.alternatives.len() {
            0 => format!("{title} ({})", server.place_at(0)),
            1 => format!("{title} ({} and 1 more address)", server.place_at(0)),
            more => format!("{title} ({} and {more} more addresses)", server.place_at(0)),
        },
        None => title,
    }
}

/// The lines; each one occurs once.
#[derive(Default)]
struct Lines {
    all: Vec<String>,
    seen: HashSet<String>,
}

impl Lines {
    fn add(&mut self, line: String) {
        if self.seen.insert(line.clone()) {
            self.all.push(line);
        }
    }

    /// All lines, or as many as fit and then the last line, which says the result.
    fn text(self) -> String {
        let mut text = String::new();
        let last = self.all.len() - 1;
        for (n, line) in self.all.iter().enumerate() {
            if n < last && text.len() + line.len() + RESERVE > EXPLANATION {
                // Writing to a String does not fail.
                let _ = writeln!(text, "... {} more", last - n);
                text.push_str(&self.all[last]);
                text.push('\n');
                return text;
            }
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// Bytes kept free for the last line, for the line with the number of missing lines, and for the
/// lines about other workers.
const RESERVE: usize = 4096;

#[cfg(test)]
mod tests {
    use pen_config::acl::{Acl, AclVerdict, Net};
    use pen_config::address::Address;
    use pen_config::settings::{Maglev, Selection, Server};
    use pen_table::{Blacklist, DownCode, Standing};

    use super::*;

    /// Blacklist, connections and standing by row, with the cursor at 0.
    struct Model(Vec<(Blacklist, u32, Standing)>, RefCell<Choices>);

    impl Farm for Model {
        fn server(&self, row: u32) -> ServerView {
            self.0.get(row as usize).map_or(ServerView::FREE, |state| ServerView {
                blacklist: state.0,
                standing: state.2,
            })
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
        assert!(
            acl.push(AclVerdict::Deny, Net::v4_prefix("192.0.2.0".parse().unwrap(), 24).unwrap())
        );
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
        let mut settings = Settings {
            servers: vec![server(0, 0)],
            emergency: server(1, 0),
            ..Settings::default()
        };
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
        let of = |mode, down: bool| Standing {
            mode,
            down: DownCode::new(7 << 16 | 503).filter(|_| down),
        };
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
        let (busy, idle) = (
            "server 0, with 2 connections at weight 1",
            "server 1, with 0 connections at weight 1",
        );
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
        assert!(
            text.len() <= EXPLANATION && text.len() > EXPLANATION - 2 * RESERVE,
            "{}",
            text.len()
        );
        let lines: Vec<&str> = text.lines().collect();
        let [first, .., more, last] = lines[..] else { panic!() };
        assert!(first.starts_with("client "));
        assert_eq!(more, format!("... {} more", 4097 - (lines.len() - 2)));
        assert_eq!(last, "no server: the client would be closed");
    }
}
