//! The settings that all processes use: a validated snapshot, made by the supervisor and never
//! changed in place.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::acl::{Acl, LISTS};
use crate::address::{Address, Host};
use crate::checks::records::{Record, SlotKeys};
use crate::checks::{Admission, Check, OnDown, ServerCheck, ServerMode, ServersFrom};
use crate::ids::{ServerId, Target};
use crate::per_client::PerClient;
use crate::proxy::{ProxyOut, Senders};
use crate::tls::Tls;
use crate::tls::servers::{ServerTls, ServerTransport, TlsName};

/// Whether pen adds X-Forwarded-For to HTTP requests, and how it treats other protocols.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Http {
    /// Pen does not look at the data.
    #[default]
    Off,
    /// All data is HTTP/1.x; anything else is refused (`-H`).
    On,
    /// Data that is not HTTP/1.x passes unchanged.
    Mixed,
}

/// The side whose end of file closes both sides.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Fastclose {
    /// Neither: half-closes are kept.
    #[default]
    Off,
    /// The server's.
    Up,
    /// The client's.
    Down,
    /// Either.
    Both,
}

/// The form of a line of the connection log. Old workers get it too: a new form needs a lasting
/// message of its own.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum ConnectionLogFormat {
    /// Words with their values.
    #[default]
    Text,
    /// A JSON object.
    Json,
    /// The TCP log of haproxy.
    Haproxy,
    /// The HTTP log of haproxy, which is all that halog(1) can count.
    HaproxyHttp,
}

/// The running configuration. A new one replaces the old one as a whole.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Increased with every change; workers acknowledge it.
    pub generation: u64,
    /// The regular servers by number. The length is the size of the server table (`-S`), which is
    /// fixed after the start. A number without an address is `None` and is never selected.
    pub servers: Vec<Option<Server>>,
    /// The emergency server (`-e`).
    pub emergency: Option<Server>,
    /// The abuse server, which gets refused clients (`-B`).
    pub abuse: Option<Server>,
    /// How the first server of a client is chosen.
    pub selection: Selection,
    /// How long a failed server is blacklisted, in seconds (`-b`); 0 = not at all.
    pub blacklist: u32,
    /// Connect timeout in seconds (`-t`), at least 1.
    pub connect_timeout: u32,
    /// Seconds that a client is remembered (`-T`); 0 = no limit.
    pub tracking: u32,
    /// Most simultaneous connections of all workers together (`-x`).
    pub connections_max: u32,
    /// Slots of the client table (`-c`).
    pub clients_max: u32,
    /// Most pending connects per worker and server. A server at this number is skipped, like a full
    /// one.
    pub pending_max: u32,
    /// Most connections accepted per wake-up (`-m`).
    pub accept_batch: u32,
    /// Listen backlog (`-q`); only the supervisor uses it.
    pub backlog: u32,
    /// The debug level (`-d`): 0 failures only, 1 decisions, 2 connections and dumps, 3 everything.
    pub debug: u8,
    /// Dumps in ASCII instead of hex (`-a`).
    pub ascii: bool,
    /// The form of a line of the connection log.
    #[serde(default)]
    pub connection_log_format: ConnectionLogFormat,
    /// The access lists.
    pub acls: [Acl; LISTS],
    /// The access list that governs clients.
    pub client_acl: u8,
    /// The access list that governs the control port.
    pub control_acl: u8,
    /// The access list that governs the status page.
    #[serde(default)]
    pub page_acl: u8,
    /// Seconds without traffic after which a connection is closed; 0 = never.
    pub idle_timeout: u32,
    /// Seconds after an upgrade until old workers close the connections that they have left; 0 =
    /// never. Only the supervisor uses it.
    pub drain_timeout: u32,
    /// The side whose end of file closes both sides.
    pub fastclose: Fastclose,
    /// TCP_NODELAY on both sides from the first byte.
    pub tcp_nodelay: bool,
    /// TCP keepalive towards servers.
    pub keepalive: bool,
    /// The local address for connections to servers.
    pub source: Option<IpAddr>,
    /// Sizes of socket buffers.
    pub buffers: SocketBuffers,
    /// Every client gets a fixed answer, and no server is used.
    pub dummy: bool,
    /// Idle connections to servers without a client, of all workers together.
    pub idlers: u32,
    /// X-Forwarded-For in HTTP requests (`-H`).
    pub http: Http,
    /// The trusted senders of PROXY headers.
    pub proxy_in: Senders,
    /// Whether pen sends a PROXY header to servers.
    pub proxy_out: ProxyOut,
    /// TLS towards clients.
    pub tls: Tls,
    /// TLS towards servers.
    #[serde(default)]
    pub server_tls: ServerTls,
    /// The check of all servers that have none of their own; `None` = no check.
    #[serde(default)]
    pub check: Option<Check>,
    /// Seconds from one check of a server to the next.
    #[serde(default = "defaults::check_interval")]
    pub check_interval: u32,
    /// Seconds until a check has failed.
    #[serde(default = "defaults::check_timeout")]
    pub check_timeout: u32,
    /// How many successes in a row make a server up.
    #[serde(default = "defaults::check_rise")]
    pub check_rise: u32,
    /// How many failures in a row make a server down.
    #[serde(default = "defaults::check_fall")]
    pub check_fall: u32,
    /// What happens to the connections of a server that goes down.
    #[serde(default)]
    pub on_down: OnDown,
    /// Whether checks are disregarded while all servers are down.
    #[serde(default = "defaults::fail_open")]
    pub fail_open: bool,
    /// Seconds that a client waits for whom no server can be used; 0 = it does not wait.
    #[serde(default)]
    pub hold: u32,
    /// Whether new clients are served. No command of a file sets it.
    #[serde(default)]
    pub admission: Admission,
    /// Percent of the connections of a server that are closed per minute, so that their clients
    /// come back elsewhere; 0 = none.
    #[serde(default)]
    pub rebalance: u32,
    /// Seconds in which the share of a server grows that is new or was out of service; 0 = it has
    /// its whole share at once.
    #[serde(default)]
    pub slow_start: u32,
    /// Seconds until the names of servers are looked up again; 0 = never. A release without this
    /// setting never looked them up again.
    #[serde(default)]
    pub resolve: u32,
    /// The servers that follow names, each name once.
    #[serde(default)]
    pub servers_from: Vec<ServersFrom>,
    /// What operators set of slots that follow a name and have no address now, if it is not the
    /// default.
    #[serde(default)]
    pub vacant: BTreeMap<u16, SlotKeys>,
    /// How many servers the records of each name are that servers follow, by its last answer.
    #[serde(default)]
    pub answered: BTreeMap<String, u32>,
    /// The limits per client.
    #[serde(default)]
    pub per_client: PerClient,
}

/// The values of settings that the state of an earlier release does not have. They do what that
/// release did.
mod defaults {
    pub fn check_interval() -> u32 {
        2
    }

    pub fn check_timeout() -> u32 {
        1
    }

    pub fn check_rise() -> u32 {
        2
    }

    pub fn check_fall() -> u32 {
        3
    }

    pub fn fail_open() -> bool {
        true
    }
}

/// Sizes of the kernel's buffers of a socket, in bytes (socket(7)). 0 = the kernel chooses, and
/// adapts the size to the traffic.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct BufferSizes {
    /// SO_RCVBUF.
    pub receive: u32,
    /// SO_SNDBUF.
    pub send: u32,
}

/// The buffers of both sides' sockets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct SocketBuffers {
    /// The clients' sockets.
    pub client: BufferSizes,
    /// The servers' sockets.
    pub server: BufferSizes,
}

/// A server, resolved and checked.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Its address: the first address of its name.
    pub address: Address,
    /// The other addresses of its name, in order. Pen tries one when it cannot connect to those
    /// before it. All are [`Address::Inet`].
    pub alternatives: Vec<Address>,
    /// The name, or the address with its zone, as the operator gave it; `None` if `address` is the
    /// same.
    pub given: Option<Host>,
    /// The service name of its port, if the operator gave one.
    pub service: Option<String>,
    /// Most simultaneous connections of clients for which it is not recorded; 0 = unlimited.
    pub soft: u32,
    /// Most simultaneous connections of clients for which it is recorded; it matters only above
    /// `soft`.
    pub hard: u32,
    /// Relative capacity; used only by some methods ([`Method::obeys_weights`]), where a server of
    /// weight 0 gets no new clients.
    pub weight: u32,
    /// Rank, lowest first; used only in prio mode.
    pub prio: u32,
    /// The access list of the clients that it serves.
    pub acl: u8,
    /// Its check.
    #[serde(default)]
    pub check: ServerCheck,
    /// The state in which an operator put it.
    #[serde(default)]
    pub mode: ServerMode,
    /// Whether it speaks TLS.
    #[serde(default)]
    pub transport: ServerTransport,
    /// Another number when a command puts it elsewhere ([`crate::names::places::settle_epochs`]).
    /// Then it is another server, while another answer of the resolver is the same server
    /// elsewhere.
    #[serde(default)]
    pub epoch: u32,
    /// Whether it follows a record of a name.
    #[serde(default)]
    pub record: Record,
}

impl Server {
    /// A server at an address, without limits.
    pub fn at(address: Address) -> Server {
        let (alternatives, given) = (Vec::new(), None);
        Server {
            address,
            alternatives,
            given,
            service: None,
            soft: 0,
            hard: 0,
            weight: 1,
            prio: 0,
            acl: 0,
            check: ServerCheck::Default,
            mode: ServerMode::Ready,
            transport: ServerTransport::Default,
            epoch: 0,
            record: Record::Own,
        }
    }

    /// A number for its address in use at position 0. It stands in messages to the workers of other
    /// releases, so its formula never changes: FNV-1a of the address as text.
    pub fn mark(&self) -> u64 {
        const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(PRIME);
        self.address.to_string().bytes().fold(BASIS, step)
    }

    /// Sets the port of all its addresses; a path has no port.
    pub(crate) fn set_port(&mut self, port: u16) {
        for address in std::iter::once(&mut self.address).chain(&mut self.alternatives) {
            match address {
                Address::Inet(inet) => inet.set_port(port),
                Address::Unix(_) => {}
            }
        }
    }

    /// All its addresses, in the order in which they are tried.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        std::iter::once(&self.address).chain(&self.alternatives)
    }

    /// The address at a position. The position can come from shared memory, so it is taken modulo
    /// the number of addresses.
    pub fn address_at(&self, position: u32) -> &Address {
        match self.alternatives.len() {
            0 => &self.address,
            others => match position as usize % (others + 1) {
                0 => &self.address,
                further => &self.alternatives[further - 1],
            },
        }
    }

    /// How many addresses it has.
    pub fn address_count(&self) -> u32 {
        1 + self.alternatives.len() as u32
    }

    /// The address at a position without its port, as reports and the request log show it.
    pub fn host_at(&self, position: u32) -> String {
        match &self.given {
            Some(Host::Zoned(ip, zone)) => format!("{ip}%{zone}"),
            Some(Host::Ip(_) | Host::Name(_) | Host::Unix(_)) | None => {
                self.address_at(position).host().to_string()
            }
        }
    }

    /// The address at a position as messages show it.
    pub fn place_at(&self, position: u32) -> String {
        match &self.given {
            Some(host @ Host::Zoned(_, _)) => format!("{host}:{}", self.address.port()),
            Some(Host::Ip(_) | Host::Name(_) | Host::Unix(_)) | None => {
                self.address_at(position).to_string()
            }
        }
    }

    /// Most simultaneous connections for a client; `known` says that the server is the client's
    /// recorded one. `None` = no limit.
    pub fn limit(&self, known: bool) -> Option<u32> {
        match (self.soft, known) {
            (0, _) => None,
            (soft, true) => Some(soft.max(self.hard)),
            (soft, false) => Some(soft),
        }
    }
}

/// The selection modes. They are independent; [`Selection::method`] has their precedence.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// No tracking: always round robin (`-r`).
    pub roundrobin: bool,
    /// A hash of the client's address chooses the first server (`-h`).
    pub hash: bool,
    /// As `hash`, for every connection, even if a server is recorded (`-N`).
    pub hash_always: bool,
    /// The server with the lowest load by weight comes first (`-W`).
    pub weight: bool,
    /// The server with the lowest prio comes first.
    pub prio: bool,
    /// The server with the fewest connections by weight comes first.
    #[serde(default)]
    pub leastconn: bool,
    /// The less loaded of two servers that are drawn comes first.
    #[serde(default)]
    pub p2c: bool,
    /// The server at the client's position comes first.
    #[serde(default)]
    pub maglev: Maglev,
    /// No failover (`-s`).
    pub stubborn: bool,
}

/// Whether clients get the servers at their positions, and how even the loads are kept.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Maglev {
    /// They do not.
    #[default]
    Off,
    /// They do.
    On,
    /// They do, but a server with more than this percentage of the mean is passed over.
    Bounded(u32),
}

/// How the server of a client without a recorded one is chosen. What each does stands in
/// pen.conf(5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    /// The lowest prio.
    Prio,
    /// The smallest load by weight, as the original computes it.
    Weight,
    /// The fewest connections by weight.
    Leastconn,
    /// The less loaded of two.
    P2c,
    /// The server at the client's position ([`crate::maglev`]).
    Maglev,
    /// A hash of the client's address.
    Hash,
    /// One server after the other.
    RoundRobin,
}

impl Selection {
    /// Whether a client is sent back to its recorded server.
    pub fn tracks(&self) -> bool {
        !self.roundrobin && !self.hash_always
    }

    /// The method in force: of those that are switched on, the first in this order.
    pub fn method(&self) -> Method {
        use Method::{Hash, Leastconn, P2c, Prio, Weight};
        let mut order = [Prio, Weight, Leastconn, P2c, Method::Maglev, Hash].into_iter();
        order.find(|method| self.has(*method)).unwrap_or(Method::RoundRobin)
    }

    /// Whether a method is switched on. Round robin always is.
    pub fn has(&self, method: Method) -> bool {
        match method {
            Method::Prio => self.prio,
            Method::Weight => self.weight,
            Method::Leastconn => self.leastconn,
            Method::P2c => self.p2c,
            Method::Maglev => self.maglev != Maglev::Off,
            Method::Hash => self.hash || self.hash_always,
            Method::RoundRobin => true,
        }
    }
}

impl Method {
    /// The method as one word, as `mode` and the command that switches it on have it.
    pub fn name(self) -> &'static str {
        match self {
            Method::Prio => "prio",
            Method::Weight => "weight",
            Method::Leastconn => "leastconn",
            Method::P2c => "p2c",
            Method::Maglev => "maglev",
            Method::Hash => "hash",
            Method::RoundRobin => "roundrobin",
        }
    }

    /// Whether servers begin slowly (`slow_start`). They cannot if the client's address decides.
    pub fn has_slow_start(self) -> bool {
        match self {
            Method::Hash | Method::Maglev => false,
            Method::Prio
            | Method::Weight
            | Method::Leastconn
            | Method::P2c
            | Method::RoundRobin => true,
        }
    }

    /// Whether a server of weight 0 gets no new clients.
    pub fn obeys_weights(self) -> bool {
        match self {
            Method::Weight | Method::Leastconn | Method::P2c | Method::Maglev => true,
            Method::Prio | Method::Hash | Method::RoundRobin => false,
        }
    }
}

/// The defaults of the manual page, without servers.
impl Default for Settings {
    fn default() -> Settings {
        Settings {
            generation: 0,
            servers: Vec::new(),
            emergency: None,
            abuse: None,
            selection: Selection::default(),
            blacklist: 30,
            connect_timeout: 5,
            tracking: 0,
            connections_max: 256,
            clients_max: 2048,
            pending_max: 100,
            accept_batch: 100,
            backlog: 500,
            debug: 0,
            ascii: false,
            connection_log_format: ConnectionLogFormat::Text,
            acls: Default::default(),
            client_acl: 0,
            control_acl: 0,
            page_acl: 0,
            idle_timeout: 0,
            drain_timeout: 0,
            fastclose: Fastclose::Off,
            tcp_nodelay: false,
            keepalive: false,
            source: None,
            buffers: SocketBuffers::default(),
            dummy: false,
            idlers: 0,
            http: Http::Off,
            proxy_in: Senders::default(),
            proxy_out: ProxyOut::Off,
            tls: Tls::default(),
            server_tls: ServerTls::default(),
            check: None,
            check_interval: defaults::check_interval(),
            check_timeout: defaults::check_timeout(),
            check_rise: defaults::check_rise(),
            check_fall: defaults::check_fall(),
            on_down: OnDown::Keep,
            fail_open: defaults::fail_open(),
            hold: 0,
            admission: Admission::Open,
            rebalance: 0,
            slow_start: 0,
            resolve: 60,
            servers_from: Vec::new(),
            vacant: BTreeMap::new(),
            answered: BTreeMap::new(),
            per_client: PerClient::default(),
        }
    }
}

impl Settings {
    /// The server of a target, if it is configured.
    pub fn target(&self, target: Target) -> Option<&Server> {
        match target {
            Target::Server(id) => self.servers.get(id.index())?.as_ref(),
            Target::Emergency => self.emergency.as_ref(),
            Target::Abuse => self.abuse.as_ref(),
        }
    }

    /// The server of a target, to be changed, if it is configured.
    pub fn target_mut(&mut self, target: Target) -> Option<&mut Server> {
        match target {
            Target::Server(id) => self.servers.get_mut(id.index())?.as_mut(),
            Target::Emergency => self.emergency.as_mut(),
            Target::Abuse => self.abuse.as_mut(),
        }
    }

    /// All targets that have a server: the regular ones in their order, and then the others.
    pub fn targets(&self) -> impl Iterator<Item = (Target, &Server)> {
        let regular = self.configured().map(|(id, server)| (Target::Server(id), server));
        let others = [(Target::Emergency, &self.emergency), (Target::Abuse, &self.abuse)];
        regular.chain(
            others.into_iter().filter_map(|(target, server)| Some((target, server.as_ref()?))),
        )
    }

    /// The check of a target. Only regular servers have one: the emergency and the abuse server
    /// need not answer as the others do.
    pub fn check_of(&self, target: Target) -> Option<&Check> {
        let Target::Server(id) = target else { return None };
        match &self.servers.get(id.index())?.as_ref()?.check {
            ServerCheck::Default => self.check.as_ref(),
            ServerCheck::Off => None,
            ServerCheck::Own(check) => Some(check),
        }
    }

    /// Whether the connections to a target use TLS.
    pub fn speaks_tls(&self, target: Target) -> bool {
        let Some(server) = self.target(target) else { return false };
        match server.transport {
            ServerTransport::Default => self.server_tls.on,
            ServerTransport::Tls => true,
            ServerTransport::Plain => false,
        }
    }

    /// Whether connections to a server use TLS, or will to one that a name may bring.
    pub fn has_server_tls(&self) -> bool {
        let may_come = self.server_tls.on && !self.servers_from.is_empty();
        may_come || self.targets().any(|(target, _)| self.speaks_tls(target))
    }

    /// The name that the certificate of a target must have, and that is sent to it: that of all
    /// servers, or else the host in its address as the operator gave it. `None` = there is none: it
    /// is at a Unix socket, or its host is no name of a server.
    pub fn tls_name(&self, target: Target) -> Option<TlsName> {
        if let Some(name) = &self.server_tls.name {
            return Some(name.clone());
        }
        let server = self.target(target)?;
        if let Target::Server(id) = target
            && let Some(from) = self.followed(id)
        {
            return from.domain().parse().ok();
        }
        match (&server.given, &server.address) {
            (Some(Host::Name(name)), _) => name.parse().ok(),
            (Some(Host::Ip(ip)), _) => Some(TlsName::Ip(*ip)),
            (Some(Host::Zoned(ip, _)), _) => Some(TlsName::Ip((*ip).into())),
            (Some(Host::Unix(_)), _) | (None, Address::Unix(_)) => None,
            (None, Address::Inet(address)) => Some(TlsName::Ip(address.ip())),
        }
    }

    /// Whether a server has a check.
    pub fn has_checks(&self) -> bool {
        self.configured().any(|(id, _)| self.check_of(Target::Server(id)).is_some())
    }

    /// The name that a slot of the server table follows, if it follows one.
    pub fn followed(&self, id: ServerId) -> Option<&ServersFrom> {
        self.servers_from.iter().find(|from| from.contains(id.0))
    }

    /// The same for a number as commands have it.
    pub fn followed_by(&self, number: u32) -> Option<&ServersFrom> {
        self.followed(ServerId(u16::try_from(number).ok()?))
    }

    /// The size of the server table.
    pub fn table_size(&self) -> u32 {
        self.servers.len() as u32
    }

    /// The servers that have an address, with their numbers.
    pub fn configured(&self) -> impl Iterator<Item = (ServerId, &Server)> {
        self.servers
            .iter()
            .enumerate()
            .filter_map(|(n, server)| Some((ServerId(n as u16), server.as_ref()?)))
    }

    /// The highest number that has an address, plus one: the modulus of rotation and of the hash.
    pub fn server_count(&self) -> u32 {
        self.servers.iter().rposition(Option::is_some).map_or(0, |last| last as u32 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::{CheckKind, CheckText, HttpQuestion, Records, RedisRole, StatusRange};

    /// The fields that release 0.1.0 does not have.
    const LATER: [&str; 17] = [
        "check",
        "check_interval",
        "check_timeout",
        "check_rise",
        "check_fall",
        "on_down",
        "fail_open",
        "hold",
        "admission",
        "rebalance",
        "slow_start",
        "resolve",
        "servers_from",
        "server_tls",
        "vacant",
        "answered",
        "per_client",
    ];

    fn server() -> Server {
        Server::at(Address::Inet(([10, 0, 0, 1], 80).into()))
    }

    #[test]
    fn settings_of_the_release_before_do_what_that_release_did() {
        let settings = Settings { servers: vec![Some(server())], ..Settings::default() };
        let mut json = serde_json::to_value(&settings).unwrap();
        for field in LATER {
            assert!(json.as_object_mut().unwrap().remove(field).is_some(), "{field}");
        }
        for field in ["leastconn", "p2c", "maglev"] {
            let selection = json["selection"].as_object_mut().unwrap();
            assert!(selection.remove(field).is_some(), "{field}");
        }
        for field in ["check", "mode", "epoch", "transport", "record"] {
            let server = json["servers"][0].as_object_mut().unwrap();
            assert!(server.remove(field).is_some(), "{field}");
        }
        let read: Settings = serde_json::from_value(json).unwrap();
        // That release looked names up once.
        assert_eq!(read, Settings { resolve: 0, ..settings });
    }

    #[test]
    fn a_mark_never_changes() {
        assert_eq!(server().mark(), 0x529f_5a4b_643f_a605);
        assert_eq!(Server::at(Address::Unix("/run/a".into())).mark(), 0x2762_70f9_aac3_f90b);
        let with_another = Server { alternatives: vec![Address::Unix("/b".into())], ..server() };
        assert_eq!(with_another.mark(), server().mark());
    }

    /// A renamed variant or field would make an upgrade from the release before impossible.
    #[test]
    fn the_words_of_the_state_never_change() {
        let question = || HttpQuestion {
            path: "/a".into(),
            status: StatusRange::default(),
            body: CheckText::new(*b"o k"),
        };
        let text = |text: &str| text.parse::<CheckText>().unwrap();
        let http = r#"{"path":"/a","status":{"low":200,"high":399},"body":"o\\sk"}"#;
        for (kind, json) in [
            (CheckKind::Tcp, r#""Tcp""#.to_owned()),
            (CheckKind::Tls, r#""Tls""#.into()),
            (CheckKind::Http(question()), format!(r#"{{"Http":{http}}}"#)),
            (CheckKind::Https(question()), format!(r#"{{"Https":{http}}}"#)),
            (CheckKind::Smtp, r#""Smtp""#.into()),
            (CheckKind::Pgsql, r#""Pgsql""#.into()),
            (CheckKind::Mysql { user: "u".into() }, r#"{"Mysql":{"user":"u"}}"#.into()),
            (CheckKind::Redis(RedisRole::Any), r#"{"Redis":"Any"}"#.into()),
            (CheckKind::Redis(RedisRole::Master), r#"{"Redis":"Master"}"#.into()),
            (CheckKind::Ldap, r#""Ldap""#.into()),
            (CheckKind::Dns { name: "a".into() }, r#"{"Dns":{"name":"a"}}"#.into()),
            (
                CheckKind::Exchange { send: text("a"), expect: text("\\x00") },
                r#"{"Exchange":{"send":"a","expect":"\\x00"}}"#.into(),
            ),
        ] {
            let check = ServerCheck::Own(Box::new(Check::of(kind)));
            let whole =
                format!(r#"{{"Own":{{"kind":{json},"host":null,"port":null,"proxy":"Off"}}}}"#);
            assert_eq!(serde_json::to_string(&check).unwrap(), whole);
            assert_eq!(serde_json::from_str::<ServerCheck>(&whole).unwrap(), check);
        }
        let from = ServersFrom {
            name: "a".into(),
            port: crate::address::Service::Port(80),
            first: 1,
            last: 2,
            records: Records::Srv,
        };
        let words = (
            [ServerCheck::Default, ServerCheck::Off],
            [ServerMode::Ready, ServerMode::Drain, ServerMode::Maint],
            [OnDown::Keep, OnDown::Close],
            [Admission::Open, Admission::Paused],
            (Records::Addresses, from),
            [Maglev::Off, Maglev::On, Maglev::Bounded(125)],
            ([Record::Own, Record::Present, Record::Gone], SlotKeys::default()),
        );
        let json = r#"[["Default","Off"],["Ready","Drain","Maint"],["Keep","Close"],["Open","Paused"],["Addresses",{"name":"a","port":{"Port":80},"first":1,"last":2,"records":"Srv"}],["Off","On",{"Bounded":125}],[["Own","Present","Gone"],{"soft":0,"hard":0,"weight":1,"prio":0,"acl":0,"check":"Default","mode":"Ready","transport":"Default"}]]"#;
        assert_eq!(serde_json::to_string(&words).unwrap(), json);
    }
}
