//! The PROXY protocol on connections: reads the header of listed senders, and sends one to servers.

use std::net::SocketAddr;

use pen_config::ids::ClientKey;
use pen_config::proxy::ProxyOut;
use pen_ipc::message::{Event, SenderFault};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::relay::Relay;
use crate::relay::connection::end::ConnectionEnd;
use crate::relay::connection::endpoint::Endpoint;
use crate::relay::connection::{Connection, Judged};
use crate::relay::proxy;
use crate::relay::proxy::Origin;
use crate::relay::transfer::pump;

/// The result of reading a header.
enum HeaderRead {
    /// The header is not complete.
    Part,
    /// It was read and taken out of the socket.
    Header(Option<Origin>),
    /// There will be no header. There is no fault to report if the sender left without a byte, like
    /// a monitor that only checks that pen is there.
    Nothing(Option<SenderFault>),
    /// The sender reset the connection.
    Reset,
}

impl Relay<'_> {
    /// Whether a client with this socket address must send a header first.
    pub(in crate::relay) fn is_listed_sender(&self, key: ClientKey) -> bool {
        !self.settings.proxy_in.is_empty()
            && key.ip().is_some_and(|ip| self.settings.proxy_in.lists(ip))
    }

    /// Reads the header of a listed sender. True: the header is complete, and its client address is
    /// the client from now on.
    pub(in crate::relay) fn read_sender_header(&mut self, slot: u32) -> bool {
        match read_header(&self.connections[slot].down) {
            HeaderRead::Part => return false,
            HeaderRead::Header(origin) => {
                let connection = &mut self.connections[slot];
                connection.judged = Judged::Within;
                // The unspecified address belongs to no host, and a client without an address would
                // pass every access list.
                if let Some(origin) =
                    origin.filter(|origin| !origin.client.ip().to_canonical().is_unspecified())
                {
                    connection.key = Some(ClientKey::from_peer(origin.client));
                    connection.port = origin.client.port();
                    connection.origin = Some(Box::new(origin));
                }
                return true;
            }
            HeaderRead::Nothing(Some(fault)) => {
                self.report_sender(slot, fault);
                self.finish(slot, Some(ConnectionEnd::ProxyRefused));
            }
            HeaderRead::Nothing(None) => self.finish(slot, Some(ConnectionEnd::Client)),
            HeaderRead::Reset => self.finish(slot, Some(ConnectionEnd::ClientReset)),
        }
        false
    }

    /// Reports, at a limited rate, a sender that violated the protocol.
    pub(in crate::relay) fn report_sender(&mut self, slot: u32, fault: SenderFault) {
        self.link.counters.bad_senders += 1;
        let sender = self.connections[slot].key.unwrap_or(ClientKey::UNIX);
        let event = Event::BadSender { sender: sender.bytes(), fault, others: 0 };
        self.link.report_counted(event, self.now);
    }

    /// Sends a PROXY protocol header to a connected server, if the settings ask for it.
    pub(in crate::relay) fn send_header(&mut self, slot: u32) {
        let version = self.settings.proxy_out;
        if version == ProxyOut::Off {
            return;
        }
        let mut header = Vec::new();
        proxy::write(version, origin(&self.connections[slot]).as_ref(), &mut header);
        pump::give(&mut self.connections[slot].up, &header, &mut self.io.tools);
    }
}

/// Reads a header if it is complete. Until then its bytes stay in the socket, so that nothing
/// has to be kept here.
fn read_header(end: &Endpoint) -> HeaderRead {
    let Some(socket) = &end.socket else { return HeaderRead::Nothing(None) };
    let mut bytes = [0; proxy::MOST];
    let length = match rustix::net::recv(socket, &mut bytes[..], RecvFlags::PEEK) {
        Ok((0, _)) => return HeaderRead::Nothing(None),
        Ok((length, _)) => length,
        Err(Errno::AGAIN | Errno::INTR) => return HeaderRead::Part,
        Err(_) => return HeaderRead::Reset,
    };
    match proxy::read(&bytes[..length]) {
        Ok(Some((length, origin))) => {
            match rustix::net::recv(socket, &mut bytes[..length], RecvFlags::empty()) {
                Ok((taken, _)) if taken == length => HeaderRead::Header(origin),
                // Only a Unix socket could do this, whose messages end anywhere; its peers are
                // never listed.
                Ok(_) | Err(_) => HeaderRead::Nothing(Some(SenderFault::Malformed)),
            }
        }
        Ok(None) if end.hung_up => HeaderRead::Nothing(Some(SenderFault::Unfinished)),
        Ok(None) => HeaderRead::Part,
        Err(_) => HeaderRead::Nothing(Some(SenderFault::Malformed)),
    }
}

/// Source and destination of a connection: by the header of a listed sender, else by its
/// socket. None: it came over a Unix socket.
fn origin(connection: &Connection) -> Option<Origin> {
    if let Some(origin) = &connection.origin {
        return Some(**origin);
    }
    let client = SocketAddr::new(connection.key?.ip()?, connection.port);
    let local = rustix::net::getsockname(connection.down.socket.as_ref()?).ok()?;
    Some(Origin { client, local: local.try_into().ok()? })
}
