//! What every process works by: one validated snapshot, made by the supervisor, never changed in
//! place.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::acl::{Acl, LISTS};
use crate::address::{Address, Host};
use crate::command::Fastclose;
use crate::ids::{ServerId, Target};
use crate::proxy::{ProxyOut, Senders};
use crate::tls::Tls;

/// Whether HTTP requests say who the client is, and what becomes of other protocols.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Http {
    /// Nothing is looked at.
    #[default]
    Off,
    /// All is HTTP/1.x; what is not is refused (`-H`).
    On,
    /// What is not HTTP/1.x passes unchanged.
    Mixed,
}

/// The running configuration. A new one replaces the old one as a whole.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Raised with every change; workers acknowledge it.
    pub generation: u64,
    /// The regular servers by number. Its length is the size of the server table (`-S`), which is
    /// fixed after the start; a number that was never given an address is `None` and is never
    /// selected.
    pub servers: Vec<Option<Server>>,
    /// The server of last resort (`-e`).
    pub emergency: Option<Server>,
    /// Where refused clients go (`-B`).
    pub abuse: Option<Server>,
    /// How the first server of a client is chosen.
    pub selection: Selection,
    /// How long a server that failed is left out, in seconds (`-b`); 0 = it never is.
    pub blacklist: u32,
    /// Seconds that a connect may take (`-t`), at least 1.
    pub connect_timeout: u32,
    /// Seconds that a client is remembered (`-T`); 0 = for ever.
    pub tracking: u32,
    /// Most simultaneous connections of all workers together (`-x`).
    pub connections_max: u32,
    /// Slots of the client table (`-c`).
    pub clients_max: u32,
    /// Most connects under way per worker and server; a server with so many is passed over, as a
    /// full one is.
    pub pending_max: u32,
    /// Most connections accepted per wake-up (`-m`).
    pub accept_batch: u32,
    /// Connections that wait to be accepted, at most (`-q`); the supervisor's business.
    pub backlog: u32,
    /// How much is said: 0 failures only, 1 decisions, 2 connections and dumps, 3 everything
    /// (`-d`).
    pub debug: u8,
    /// Dumps in ASCII instead of hex (`-a`).
    pub ascii: bool,
    /// The access lists.
    pub acls: [Acl; LISTS],
    /// Which of them governs clients.
    pub client_acl: u8,
    /// Which of them governs the control port.
    pub control_acl: u8,
    /// Seconds without traffic after which a connection is closed; 0 = never.
    pub idle_timeout: u32,
    /// When an end of file closes both sides.
    pub fastclose: Fastclose,
    /// TCP_NODELAY on both sides from the first byte.
    pub tcp_nodelay: bool,
    /// TCP keepalive towards servers.
    pub keepalive: bool,
    /// The local address towards servers.
    pub source: Option<IpAddr>,
    /// Sizes of socket buffers.
    pub buffers: SocketBuffers,
    /// Every client gets a fixed answer, and no server is used.
    pub dummy: bool,
    /// Connections to servers without a client, of all workers together.
    pub idlers: u32,
    /// X-Forwarded-For in HTTP requests (`-H`).
    pub http: Http,
    /// Who says whom its connections come from.
    pub proxy_in: Senders,
    /// Whether servers are told whom a connection comes from.
    pub proxy_out: ProxyOut,
    /// TLS towards clients.
    pub tls: Tls,
}

/// Sizes of the kernel's buffers of a socket, in bytes (socket(7)); 0 = the kernel's own choice,
/// which follows the traffic.
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
    /// Towards clients.
    pub client: BufferSizes,
    /// Towards servers.
    pub server: BufferSizes,
}

/// A server, resolved and checked.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Where it is: the first address of its name.
    pub address: Address,
    /// The further addresses of its name, in order: one is tried when those before it cannot be
    /// connected to. All are [`Address::Inet`].
    pub alternatives: Vec<Address>,
    /// The name, or the address with its zone, that the operator gave; none if the address says it
    /// all.
    pub given: Option<Host>,
    /// The name of its port's service, if the operator gave that.
    pub service: Option<String>,
    /// Most simultaneous connections for clients that it does not know; 0 = unlimited.
    pub soft: u32,
    /// Most simultaneous connections for clients whose recorded server it is; matters only above
    /// `soft`.
    pub hard: u32,
    /// Relative capacity; used only in weight mode, where 0 keeps new clients away.
    pub weight: u32,
    /// Rank, lowest first; used only in prio mode.
    pub prio: u32,
    /// The access list of clients that it serves.
    pub acl: u8,
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
        }
    }

    /// Gives it the addresses of a host that the operator gave. Those that it had by the same host
    /// keep their order: answers of a name server that come in turns move nothing.
    pub(crate) fn relocate(&mut self, found: Vec<Address>, given: Option<Host>) {
        let is_same = given.is_some() && given == self.given;
        let mut ordered: Vec<Address> = self
            .addresses()
            .filter(|address| is_same && found.contains(address))
            .cloned()
            .collect();
        for address in found {
            if !ordered.contains(&address) {
                ordered.push(address);
            }
        }
        let mut ordered = ordered.into_iter();
        if let Some(first) = ordered.next() {
            (self.address, self.alternatives, self.given) = (first, ordered.collect(), given);
        }
    }

    /// Gives all its addresses this port; a path has none.
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

    /// The address at a position, which may come from shared memory: beyond the last it begins
    /// again.
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
            _ => self.address_at(position).host().to_string(),
        }
    }

    /// The address at a position as messages show it.
    pub fn place_at(&self, position: u32) -> String {
        match &self.given {
            Some(host @ Host::Zoned(_, _)) => format!("{host}:{}", self.address.port()),
            _ => self.address_at(position).to_string(),
        }
    }

    /// Most simultaneous connections for a client, by whether the server is its recorded one; none
    /// = no limit.
    pub fn limit(&self, known: bool) -> Option<u32> {
        match (self.soft, known) {
            (0, _) => None,
            (soft, true) => Some(soft.max(self.hard)),
            (soft, false) => Some(soft),
        }
    }
}

/// The modes of selection, independent of each other; the order of precedence is that of the
/// algorithm.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// No tracking: round robin straight away (`-r`).
    pub roundrobin: bool,
    /// A hash of the client's address chooses the first server (`-h`).
    pub hash: bool,
    /// As `hash`, for every connection, whatever is recorded (`-N`).
    pub hash_always: bool,
    /// The least loaded server by weight first (`-W`).
    pub weight: bool,
    /// The lowest prio first.
    pub prio: bool,
    /// No failover (`-s`).
    pub stubborn: bool,
}

/// The manual page's defaults, and no server.
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
            acls: Default::default(),
            client_acl: 0,
            control_acl: 0,
            idle_timeout: 0,
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
        }
    }
}

impl Settings {
    /// The definition that a target stands for, if there is one.
    pub fn target(&self, target: Target) -> Option<&Server> {
        match target {
            Target::Server(id) => self.servers.get(id.index())?.as_ref(),
            Target::Emergency => self.emergency.as_ref(),
            Target::Abuse => self.abuse.as_ref(),
        }
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

    /// One more than the highest number that has an address: the modulus of rotation and of the
    /// hash.
    pub fn server_count(&self) -> u32 {
        self.servers.iter().rposition(Option::is_some).map_or(0, |last| last as u32 + 1)
    }
}
