//! Generators of random valid commands and settings for property tests, and settings from lines.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use crate::acl::{Acl, AclVerdict, LISTS, Net};
use crate::address::{Address, Host, Local, Service};
use crate::checks::{
    Admission, Check, CheckKind, CheckText, HttpQuestion, OnDown, Records, RedisRole, ServerCheck,
    ServerMode, ServersFrom, StatusRange,
};
use crate::command::{
    Action, AfterDrain, BufferSide, COMMANDS, Command, ConnectionLogTarget, Form, LogTarget,
    Number, Query, ServerChange, Setting, SourcedCommand, Startup, Switch, is_well_formed,
    parse_any, setting_words,
};
use crate::configuration::{check_server_tls, file};
use crate::followed::SlotKeys;
use crate::grammar::{COUNT, ServerSpec};
use crate::ids::MAX_SERVERS;
use crate::per_client::{ClientNet, ClientRate, PerClient};
use crate::proxy::{MAX_SENDERS, ProxyOut, Senders};
use crate::settings::{
    BufferSizes, ConnectionLogFormat, Fastclose, Http, Maglev, Selection, Server, Settings,
    SocketBuffers,
};
use crate::tls::servers::{ServerTls, ServerTransport, TlsName};
use crate::tls::{Suite, SuiteList, Tls};

/// The setting of a line.
pub fn parsed(line: &str) -> Setting {
    match parse_any(line) {
        Ok(Some(Command::Setting(setting))) => setting,
        other => panic!("{line}: {other:?}"),
    }
}

/// The commands of a text. A line that pen offers also reads so in a file.
pub fn sourced(text: &str) -> Vec<SourcedCommand> {
    let one = |(number, line): (usize, &str)| {
        let command = parse_any(line).unwrap()?;
        if let Ok(lines) = file::parse(line.as_bytes()) {
            assert_eq!(lines.into_iter().find_map(|line| line.command).as_ref(), Some(&command));
        } else {
            assert!(!is_well_formed(&command), "{line}");
        }
        Some(SourcedCommand { source_line: (number + 1).to_string(), command })
    };
    text.lines().enumerate().filter_map(one).collect()
}

/// Every number.
pub const NUMBERS: [Number; 27] = [
    Number::AcceptBatch,
    Number::Backlog,
    Number::Blacklist,
    Number::CheckFall,
    Number::CheckInterval,
    Number::CheckRise,
    Number::CheckTimeout,
    Number::ClientAcl,
    Number::ClientsMax,
    Number::ConnMax,
    Number::ControlAcl,
    Number::Debug,
    Number::DrainTimeout,
    Number::Hold,
    Number::IdleTimeout,
    Number::Idlers,
    Number::MaxServers,
    Number::PageAcl,
    Number::PendingMax,
    Number::PerClientMax,
    Number::Rebalance,
    Number::Resolve,
    Number::SlowStart,
    Number::Tarpit,
    Number::Timeout,
    Number::Tracking,
    Number::Workers,
];

/// Every switch.
pub const SWITCHES: [Switch; 18] = [
    Switch::AbuseOver,
    Switch::Ascii,
    Switch::Dummy,
    Switch::FailOpen,
    Switch::Hash,
    Switch::HashAlways,
    Switch::Keepalive,
    Switch::Leastconn,
    Switch::P2c,
    Switch::Prio,
    Switch::RequireClientCert,
    Switch::Roundrobin,
    Switch::ServerTls,
    Switch::ServerTlsVerify,
    Switch::ServersOnly,
    Switch::Stubborn,
    Switch::TcpNodelay,
    Switch::Weight,
];

pub fn net() -> impl Strategy<Value = Net> {
    prop_oneof![
        // A mask with holes.
        (any::<u32>(), any::<u32>())
            .prop_map(|(address, mask)| Net::v4(address.into(), (mask | 0xff00_0000).into())),
        (any::<u32>(), 0u8..=32).prop_map(|(address, length)| Net::v4_prefix(
            address.into(),
            length
        )
        .unwrap()),
        (any::<u128>(), 0u8..=128).prop_map(|(address, length)| Net::v6_prefix(
            address.into(),
            length
        )
        .unwrap()),
        // IPv4-mapped addresses, from a small set, so that some are equal.
        (any::<u8>(), 96u8..=128).prop_map(|(last, length)| Net::v6_prefix(
            (0xffff_0102_0300 | u128::from(last)).into(),
            length
        )
        .unwrap()),
        (0u128..8, 120u8..=128).prop_map(|(address, length)| Net::v6_prefix(
            address.into(),
            length
        )
        .unwrap()),
    ]
}

/// Networks with a prefix, as senders have.
fn senders() -> impl Strategy<Value = Senders> {
    let net = prop_oneof![
        (any::<u32>(), 0u8..=32).prop_map(|(address, length)| Net::v4_prefix(
            address.into(),
            length
        )
        .unwrap()),
        (any::<u128>(), 0u8..=128).prop_map(|(address, length)| Net::v6_prefix(
            address.into(),
            length
        )
        .unwrap()),
    ];
    vec(net, 0..MAX_SENDERS).prop_map(Senders::new)
}

fn buffers() -> impl Strategy<Value = BufferSizes> {
    (0u32..=64 << 20, 0u32..=64 << 20).prop_map(|(receive, send)| BufferSizes { receive, send })
}

fn proxy_out() -> impl Strategy<Value = ProxyOut> {
    select(ProxyOut::WORDS.map(|(_, out)| out).to_vec())
}

pub fn verdict() -> impl Strategy<Value = AclVerdict> {
    select(&[AclVerdict::Permit, AclVerdict::Deny][..])
}

pub fn acl() -> impl Strategy<Value = Acl> {
    vec((verdict(), net()), 0..5).prop_map(|entries| {
        let mut acl = Acl::default();
        assert!(entries.into_iter().all(|(verdict, net)| acl.push(verdict, net)));
        acl
    })
}

fn list() -> impl Strategy<Value = u8> {
    0u8..LISTS as u8
}

fn count() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..20, COUNT]
}

fn path() -> impl Strategy<Value = PathBuf> {
    "/[!-~é]{0,40}".prop_map(PathBuf::from)
}

fn service() -> impl Strategy<Value = Service> {
    prop_oneof![(1u16..).prop_map(Service::Port), "[a-z][a-z0-9-]{0,12}".prop_map(Service::Name)]
}

fn remote() -> impl Strategy<Value = Host> {
    let zoned = (any::<u64>(), "[a-z]{1,5}[0-9.@_-]{0,9}")
        .prop_map(|(id, zone)| Host::Zoned((u128::from(id) | 0xfe80 << 112).into(), zone));
    prop_oneof![
        any::<IpAddr>().prop_map(Host::Ip),
        zoned,
        "[a-z][a-z0-9]{0,9}(\\.[a-z]{2,4})?".prop_map(Host::Name)
    ]
}

fn host() -> impl Strategy<Value = Host> {
    prop_oneof![3 => remote(), 1 => path().prop_map(Host::Unix)]
}

fn local() -> impl Strategy<Value = Local> {
    prop_oneof![
        3 => (of(remote()), service()).prop_map(|(host, port)| Local::Inet { host, port }),
        1 => path().prop_map(Local::Unix),
    ]
}

fn log_target() -> impl Strategy<Value = LogTarget> {
    prop_oneof![
        path().prop_map(LogTarget::File),
        "[a-z./]{1,20}".prop_map(|text| LogTarget::File(text.into())),
        (remote(), service()).prop_map(|(host, port)| LogTarget::Network(host, port)),
    ]
}

/// A destination of the connection log. No file is named as the daemon.
pub fn connection_log_target() -> impl Strategy<Value = ConnectionLogTarget> {
    prop_oneof![
        log_target()
            .prop_filter("the daemon's name", |target| target.to_string() != "syslog")
            .prop_map(ConnectionLogTarget::Log),
        Just(ConnectionLogTarget::Syslog),
    ]
}

fn log_format() -> impl Strategy<Value = ConnectionLogFormat> {
    use ConnectionLogFormat::{Haproxy, HaproxyHttp, Json, Text};
    select(&[Text, Json, Haproxy, HaproxyHttp][..])
}

fn check_text() -> impl Strategy<Value = CheckText> {
    let bytes = prop_oneof![
        3 => "[#\\\\ -~\r\n\t]{1,60}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 1..=CheckText::MOST / 2),
    ];
    bytes.prop_map(|bytes| CheckText::new(bytes).unwrap())
}

fn dns_name() -> impl Strategy<Value = String> {
    "[a-z_][a-z0-9_]{0,9}(\\.[a-z]{2,4}){0,3}\\.?"
}

fn check_kind() -> impl Strategy<Value = CheckKind> {
    let status = (StatusRange::LOWEST..=StatusRange::HIGHEST)
        .prop_flat_map(|low| (Just(low), low..=StatusRange::HIGHEST))
        .prop_map(|(low, high)| StatusRange { low, high });
    let status = prop_oneof![Just(StatusRange::default()), status];
    let question = ("/[!-\"$-~]{0,40}", status, of(check_text()))
        .prop_map(|(path, status, body)| HttpQuestion { path, status, body })
        .boxed();
    prop_oneof![
        select(vec![
            CheckKind::Tcp,
            CheckKind::Tls,
            CheckKind::Smtp,
            CheckKind::Pgsql,
            CheckKind::Ldap,
            CheckKind::Redis(RedisRole::Any),
            CheckKind::Redis(RedisRole::Master),
        ]),
        question.clone().prop_map(CheckKind::Http),
        question.prop_map(CheckKind::Https),
        "[!-\"$-~é][!-~]{0,70}".prop_map(|user| CheckKind::Mysql { user }),
        dns_name().prop_map(|name| CheckKind::Dns { name }),
        (check_text(), check_text())
            .prop_map(|(send, expect)| CheckKind::Exchange { send, expect }),
    ]
}

/// A check, not longer than a line can have it.
pub fn check() -> BoxedStrategy<Check> {
    let host = of("[a-z0-9_.:\\[\\]-]{1,30}");
    let check = (check_kind().boxed(), host, of(1u16..), proxy_out()).prop_map(
        |(kind, host, port, proxy)| {
            let host = host.filter(|_| kind.takes_host());
            Check { kind, host, port, proxy }
        },
    );
    // On the heap, like others below: a test with more beside it would have no stack left.
    check.boxed()
}

fn server_check() -> impl Strategy<Value = ServerCheck> {
    prop_oneof![
        Just(ServerCheck::Default),
        Just(ServerCheck::Off),
        check().prop_map(|check| ServerCheck::Own(Box::new(check))),
    ]
}

fn mode() -> impl Strategy<Value = ServerMode> {
    select(ServerMode::WORDS.map(|(_, mode)| mode).to_vec())
}

fn transport() -> impl Strategy<Value = ServerTransport> {
    select(ServerTransport::WORDS.map(|(_, transport)| transport).to_vec())
}

fn tls_name() -> impl Strategy<Value = TlsName> {
    prop_oneof![
        "[a-z_][a-z0-9_]{0,9}(\\.[a-z]{2,4}){0,3}".prop_map(TlsName::Dns),
        any::<IpAddr>().prop_map(TlsName::Ip),
    ]
}

fn server_tls() -> impl Strategy<Value = ServerTls> {
    let certificate = of((path(), of(path())));
    (any::<[bool; 2]>(), of(path()), of(tls_name()), certificate)
        .prop_map(|([on, verify], ca, name, certificate)| {
            let (certificate, key) =
                certificate.map_or((None, None), |(file, key)| (Some(file), key));
            ServerTls { on, verify, ca, name, certificate, key }
        })
        .boxed()
}

fn on_down() -> impl Strategy<Value = OnDown> {
    select(&[OnDown::Keep, OnDown::Close][..])
}

fn client_rate() -> impl Strategy<Value = ClientRate> {
    (1..=1_048_576u32, 1..=86_400u32)
        .prop_map(|(connections, seconds)| ClientRate { connections, seconds })
}

fn client_net() -> impl Strategy<Value = ClientNet> {
    prop_oneof![
        Just(ClientNet::default()),
        (1..=32u8, 1..=128u8).prop_map(|(v4, v6)| ClientNet { v4, v6 })
    ]
}

fn servers_from() -> impl Strategy<Value = ServersFrom> {
    let slots =
        (0..MAX_SERVERS as u16).prop_flat_map(|first| (Just(first), first..MAX_SERVERS as u16));
    (dns_name(), service(), slots, select(&[Records::Addresses, Records::Srv][..])).prop_map(
        |(name, port, (first, last), records)| ServersFrom { name, port, first, last, records },
    )
}

fn change() -> impl Strategy<Value = ServerChange> {
    prop_oneof![
        list().prop_map(ServerChange::Acl),
        host().prop_map(ServerChange::Address),
        count().prop_map(ServerChange::Blacklist),
        count().prop_map(ServerChange::Hard),
        count().prop_map(ServerChange::Max),
        service().prop_map(ServerChange::Port),
        count().prop_map(ServerChange::Prio),
        server_check().prop_map(ServerChange::Check),
        mode().prop_map(ServerChange::State),
        transport().prop_map(ServerChange::Tls),
        count().prop_map(ServerChange::Weight),
    ]
}

fn http() -> impl Strategy<Value = Http> {
    select(&[Http::Off, Http::On, Http::Mixed][..])
}

fn fastclose() -> impl Strategy<Value = Fastclose> {
    select(&[Fastclose::Off, Fastclose::Up, Fastclose::Down, Fastclose::Both][..])
}

/// A command that can be written as a line.
pub fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        4 => setting().prop_map(Command::Setting),
        2 => query().prop_map(Command::Query),
        1 => action().prop_map(Command::Action),
    ]
}

/// A setting that can be written as a line.
pub fn setting() -> impl Strategy<Value = Setting> {
    let number = select(&NUMBERS[..]).prop_flat_map(|number| {
        number.range().prop_map(move |value| Setting::Number(number, value))
    });
    let server = (count(), vec(change(), 1..9)).prop_map(|(number, changes)| {
        let mut each: Vec<ServerChange> = Vec::new();
        for change in changes {
            // A line has each key at most once.
            if each
                .iter()
                .all(|other| std::mem::discriminant(other) != std::mem::discriminant(&change))
            {
                each.push(change);
            }
        }
        // It takes the rest of the line.
        each.sort_by_key(|change| matches!(change, ServerChange::Check(_)));
        Setting::Server { number, changes: each }
    });
    let acl = (list(), verdict(), net()).prop_map(|(list, verdict, net)| Setting::Acl {
        list,
        verdict,
        net,
    });
    let suites =
        of(suites()).prop_map(|list| list.map(|suites| SuiteList { suites, unknown: Vec::new() }));
    let lists = prop_oneof![acl, list().prop_map(Setting::NoAcl)];
    let servers = prop_oneof![
        server,
        count().prop_map(Setting::NoServer),
        of(check()).prop_map(Setting::Check),
        on_down().prop_map(Setting::OnDown),
        maglev().prop_map(Setting::Maglev),
        of(client_rate()).prop_map(Setting::PerClientRate),
        client_net().prop_map(Setting::PerClientNet),
        of(list()).prop_map(Setting::UnlimitedAcl),
        servers_from().prop_map(Setting::ServersFrom),
        dns_name().prop_map(Setting::NoServersFrom),
        of(spec()).prop_map(Setting::Emergency),
        of(spec()).prop_map(Setting::Abuse),
    ];
    let connections = prop_oneof![
        of(any::<IpAddr>()).prop_map(Setting::Source),
        fastclose().prop_map(Setting::Fastclose),
        http().prop_map(Setting::Http),
        (select(&[BufferSide::Client, BufferSide::Server][..]), buffers())
            .prop_map(|(side, sizes)| Setting::SocketBuffers(side, sizes)),
        senders().prop_map(Setting::ProxyIn),
        proxy_out().prop_map(Setting::ProxyOut),
    ];
    let tls = prop_oneof![
        of((path(), of(path()))).prop_map(Setting::Certificate),
        vec(path(), 0..=2).prop_map(Setting::ClientCa),
        suites.prop_map(Setting::SslCiphers),
        select(vec![Setting::SslAlways, Setting::SslNoTls12, Setting::SslTls12]),
        count().prop_map(Setting::SslRenegotiation),
        of(path()).prop_map(Setting::SslOcsp),
        of(path()).prop_map(Setting::SslNames),
        of(path()).prop_map(Setting::ServerTlsCa),
        of((path(), of(path()))).prop_map(Setting::ServerTlsCert),
        of(tls_name()).prop_map(Setting::ServerTlsName),
    ];
    prop_oneof![
        (select(&SWITCHES[..]), any::<bool>()).prop_map(|(switch, on)| Setting::Switch(switch, on)),
        number,
        lists.boxed(),
        servers.boxed(),
        connections.boxed(),
        tls.boxed(),
        local().prop_map(Setting::Listen),
        of(log_target()).prop_map(Setting::Log),
        of(connection_log_target()).prop_map(Setting::ConnectionLog),
        log_format().prop_map(Setting::ConnectionLogFormat),
        of(path()).prop_map(Setting::WebStats),
        startup().prop_map(Setting::Startup),
    ]
}

fn query() -> impl Strategy<Value = Query> {
    let form = || select(&[Form::Plain, Form::Json][..]);
    let fixed = [
        Query::ConnectionLog,
        Query::Control,
        Query::Listen,
        Query::Log,
        Query::Metrics,
        Query::Overview,
        Query::Pid,
        Query::Sandbox,
        Query::WebStats,
    ];
    prop_oneof![
        select(fixed.to_vec()),
        select(&NUMBERS[..]).prop_map(Query::Number),
        count().prop_map(Query::Connection),
        count().prop_map(Query::Socket),
        (1_u32..=1000, form()).prop_map(|(most, form)| Query::Events(most, form)),
        any::<IpAddr>().prop_map(Query::Explain),
        of(select(COMMANDS))
            .prop_map(|entry| Query::Help(entry.map(|entry| entry.word.to_owned()))),
        form().prop_map(Query::Certificates),
        form().prop_map(Query::Mode),
        (count(), form()).prop_map(|(seconds, form)| Query::Recent(seconds, form)),
        form().prop_map(Query::Servers),
        form().prop_map(Query::Status),
        form().prop_map(Query::Watch),
        of(select(setting_words().collect::<Vec<_>>()))
            .prop_map(|word| Query::Show(word.map(str::to_owned))),
        list().prop_map(|list| Query::Show(Some(format!("acl {list}")))),
        count().prop_map(|number| Query::Show(Some(format!("server {number}")))),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let waits = prop_oneof![Just(Action::USUAL_DRAIN), 0u32..=86_400];
    let close = select(&[AfterDrain::Keep, AfterDrain::Close][..]);
    let drain = (0..MAX_SERVERS as u16, waits, close)
        .prop_map(|(server, wait, close)| Action::Drain { server, wait, close });
    prop_oneof![
        Just(Action::Exit),
        Just(Action::Upgrade),
        Just(Action::WriteHere),
        Just(Action::Pause),
        Just(Action::Resume),
        drain,
        count().prop_map(Action::Close),
        path().prop_map(Action::Include),
        of(path()).prop_map(Action::Write),
    ]
}

/// A server as an operand.
fn spec() -> impl Strategy<Value = ServerSpec> {
    // A Unix path has no colon here and no port.
    let host =
        prop_oneof![3 => remote(), 1 => "/[a-z.]{0,20}".prop_map(|path| Host::Unix(path.into()))];
    (host, of(service()), [count(), count(), count(), count()]).prop_map(
        |(host, port, [soft, hard, weight, prio])| {
            let has_port = soft > 0 || hard > 0 || weight != 1 || prio > 0;
            let port = if matches!(host, Host::Unix(_)) {
                None
            } else {
                port.or(has_port.then_some(Service::Port(80)))
            };
            ServerSpec { host, port, soft, hard, weight, prio }
        },
    )
}

/// The address of a port of pen's own. The parser adds a host to a port alone.
fn own_port() -> impl Strategy<Value = Local> {
    prop_oneof![
        (remote(), service()).prop_map(|(host, port)| Local::Inet { host: Some(host), port }),
        path().prop_map(Local::Unix),
    ]
}

/// A setting of the start.
pub fn startup() -> impl Strategy<Value = Startup> {
    prop_oneof![
        of(own_port()).prop_map(Startup::Control),
        of(own_port()).prop_map(Startup::Page),
        any::<bool>().prop_map(Startup::ExitCommand),
        of(path()).prop_map(Startup::Jail),
        of(path()).prop_map(Startup::PidFile),
        any::<bool>().prop_map(Startup::RequireSandbox),
        of("[a-z0-9_-]{1,12}").prop_map(Startup::User),
    ]
}

/// At least one suite, each at most once.
fn suites() -> impl Strategy<Value = Vec<Suite>> {
    proptest::sample::subsequence(Suite::ALL, 1..=Suite::ALL.len()).prop_shuffle()
}

/// The TLS settings that commands can express; TLS is on.
fn tls() -> impl Strategy<Value = Tls> {
    let authorities = of(vec(path(), 0..=2));
    (of(suites()), any::<bool>(), of(path()), of(path()), (path(), of(path()), authorities))
        .prop_map(|(suites, tls12, ocsp, names, (certificate, key, authorities))| {
            // Authorities are only allowed if client certificates are required.
            let required = authorities.is_some();
            let mut authorities = authorities.unwrap_or_default().into_iter();
            let suites = suites.unwrap_or_default();
            let (ca_file, ca_directory) = (authorities.next(), authorities.next());
            // TLS settings are only allowed with a certificate.
            let certificate = Some(certificate);
            Tls { certificate, key, ca_file, ca_directory, required, names, ocsp, tls12, suites }
        })
}

fn server() -> BoxedStrategy<Server> {
    let inet = (any::<IpAddr>(), 1u16..)
        .prop_map(|(ip, port)| Address::Inet(SocketAddr::new(ip.to_canonical(), port)));
    let address = prop_oneof![4 => inet, 1 => path().prop_map(Address::Unix)];
    let health = (server_check(), mode(), transport());
    (address, [count(), count(), count(), count()], list(), health)
        .prop_map(|(address, [soft, hard, weight, prio], acl, (check, mode, transport))| Server {
            soft,
            hard,
            weight,
            prio,
            acl,
            check,
            mode,
            transport,
            ..Server::at(address)
        })
        .boxed()
}

/// An emergency or abuse server, which has no access list, no check, no state and no word on TLS.
fn backup() -> impl Strategy<Value = Server> {
    let path = "/[a-z.]{0,20}".prop_map(|path| Address::Unix(path.into()));
    (server(), of(path)).prop_map(|(server, path)| {
        let address = match (path, &server.address) {
            (None, Address::Inet(address)) => Address::Inet(*address),
            (path, _) => path.unwrap_or(Address::Unix("/x".into())),
        };
        let (check, mode) = (ServerCheck::Default, ServerMode::Ready);
        let transport = ServerTransport::Default;
        Server { acl: 0, address, check, mode, transport, ..server }
    })
}

fn maglev() -> impl Strategy<Value = Maglev> {
    prop_oneof![Just(Maglev::Off), Just(Maglev::On), (100u32..=1000).prop_map(Maglev::Bounded),]
}

fn selection() -> impl Strategy<Value = Selection> {
    (any::<[bool; 6]>(), any::<[bool; 2]>(), maglev()).prop_map(|(older, later, maglev)| {
        let [leastconn, p2c] = later;
        let [roundrobin, hash, hash_always, weight, prio, stubborn] = older;
        Selection { roundrobin, hash, hash_always, weight, prio, stubborn, leastconn, p2c, maglev }
    })
}

/// Names with the number of servers that follow each.
fn names_followed() -> impl Strategy<Value = Vec<(ServersFrom, u16)>> {
    vec((servers_from(), 1u16..4), 0..3)
}

/// Adds free servers that follow these names.
fn with_names(
    mut servers: Vec<Option<Server>>,
    names: Vec<(ServersFrom, u16)>,
) -> (Vec<Option<Server>>, Vec<ServersFrom>) {
    let mut followed: Vec<ServersFrom> = Vec::new();
    for (from, count) in names {
        if followed.iter().all(|other| other.name != from.name) {
            let first = servers.len() as u16;
            servers.resize(servers.len() + usize::from(count), None);
            // No name of a service is known where settings are read again.
            let port = Service::Port(1 + first);
            followed.push(ServersFrom { port, first, last: first + count - 1, ..from });
        }
    }
    (servers, followed)
}

/// What operators set of two slots.
fn slot_keys() -> impl Strategy<Value = [SlotKeys; 2]> {
    [server(), server()].prop_map(|servers| servers.map(|server| SlotKeys::of(&server)))
}

/// The keys of the first slots that follow names.
fn vacant(names: &[ServersFrom], keys: [SlotKeys; 2]) -> BTreeMap<u16, SlotKeys> {
    let all = names.iter().zip(keys);
    let all = all.map(|(from, keys)| (from.first, keys.for_records(from.records)));
    all.filter(|(_, keys)| *keys != SlotKeys::default()).collect()
}

/// Settings with at least one server.
pub fn settings() -> impl Strategy<Value = Settings> {
    let servers = (server(), vec(of(server()), 0..6), any::<usize>()).prop_map(
        |(one, mut servers, place)| {
            servers.insert(place % (servers.len() + 1), Some(one));
            servers
        },
    );
    let servers = servers.boxed();
    let lists: [_; LISTS] = std::array::from_fn(|_| acl().boxed());
    let numbers = NUMBERS
        .map(|number| prop_oneof![1 => Just(*number.range().start()), 3 => number.range()].boxed());
    let backups = (of(backup()), of(backup()));
    let others = (
        fastclose(),
        of(any::<IpAddr>()),
        any::<[bool; 4]>(),
        http(),
        backups,
        senders(),
        proxy_out(),
        (tls(), server_tls()),
        (buffers(), buffers()),
        log_format(),
        (of(check()), on_down(), any::<bool>(), (names_followed(), slot_keys())),
        (of(client_rate()), client_net(), any::<bool>(), of(list())),
    )
        // On the heap: a test with more beside it would have no stack left.
        .boxed();
    (servers, selection(), lists, numbers, others)
        .prop_map(|(servers, selection, acls, numbers, others)| {
            let [accept_batch, backlog, numbers @ ..] = numbers;
            let [
                blacklist,
                check_fall,
                check_interval,
                check_rise,
                check_timeout,
                client_acl,
                clients_max,
                connections_max,
                control_acl,
                debug,
                drain_timeout,
                hold,
                idle_timeout,
                rest @ ..,
            ] = numbers;
            let [idlers, _max_servers, page_acl, pending_max, rest @ ..] = rest;
            let [
                per_client_max,
                rebalance,
                resolve,
                slow_start,
                tarpit,
                timeout,
                tracking,
                _workers,
            ] = rest;
            let (
                fastclose,
                source,
                [ascii, tcp_nodelay, keepalive, dummy],
                http,
                (emergency, abuse),
                proxy_in,
                proxy_out,
                (tls, server_tls),
                (client, server),
                connection_log_format,
                (check, on_down, fail_open, (servers_from, keys)),
                (rate, net, abuse_over, unlimited),
            ) = others;
            let (servers, servers_from) = with_names(servers, servers_from);
            let vacant = vacant(&servers_from, keys);
            let small = |number: u32| u8::try_from(number).unwrap();
            Settings {
                generation: 0,
                servers,
                emergency,
                abuse,
                selection,
                blacklist,
                connect_timeout: timeout,
                tracking,
                connections_max,
                clients_max,
                pending_max,
                accept_batch,
                backlog,
                debug: small(debug),
                ascii,
                connection_log_format,
                acls,
                client_acl: small(client_acl),
                control_acl: small(control_acl),
                page_acl: small(page_acl),
                idle_timeout,
                drain_timeout,
                fastclose,
                tcp_nodelay,
                keepalive,
                source,
                buffers: SocketBuffers { client, server },
                dummy,
                idlers,
                http,
                proxy_in,
                proxy_out,
                tls,
                server_tls,
                check,
                check_interval,
                check_timeout,
                check_rise,
                check_fall,
                on_down,
                fail_open,
                hold,
                admission: Admission::Open,
                rebalance,
                slow_start,
                resolve,
                servers_from,
                vacant,
                answered: BTreeMap::new(),
                per_client: PerClient {
                    max: per_client_max,
                    rate,
                    net,
                    tarpit,
                    abuse_over,
                    unlimited,
                },
            }
        })
        .prop_map(with_names_in_tls)
}

/// Settings whose servers can be verified if they are to be.
fn with_names_in_tls(mut settings: Settings) -> Settings {
    settings.server_tls.verify &= check_server_tls(&settings).is_ok();
    settings
}
