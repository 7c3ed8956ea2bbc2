//! What a start gets back from the service manager, each part checked before it is used.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::Uid;
use pen_config::address::Address;
use pen_config::settings::Settings;
use pen_ipc::text::error_text;
use pen_ipc::tls_files::{TICKET_PERIOD, TICKET_SECRET};
use pen_table::{Imported, Shape, Table};
use pen_walk::Entry;
use rustix::fs::{FileType, fstat};
use rustix::net::{Shutdown, shutdown};
use socket2::{SockRef, Type};

use crate::clock::{from_precise, precise};
use crate::files::listener::prepare_passed;
use crate::files::made::{self, MadeFile, file_id};
use crate::files::memory;
use crate::files::tls_material::Keys;
use crate::kept::state::{End, KeptFile, KeptSocket, KeptState, KeptTable};
use crate::kept::table;
use crate::systemd::store::{Identity, Item};

/// What a manager kept for this start, as far as it is not used yet.
#[derive(Debug, Default)]
pub(crate) struct Regained {
    stored: Vec<(Item, OwnedFd)>,
    /// The description of all that, unless it is missing.
    pub(in crate::kept) state: Option<KeptState>,
    used: Vec<String>,
    unused: Vec<String>,
    /// The sockets for which this start has no place, each with its address.
    unasked: Vec<String>,
}

/// What to tell at the end of a start.
#[derive(Debug)]
pub(crate) struct Told {
    /// What became of the pen before, if that is known.
    pub(crate) before: Option<End>,
    /// What of it is used.
    pub(crate) used: Option<String>,
    /// Which sockets are closed because the configuration is another one now.
    pub(crate) unasked: Option<String>,
    /// A warning about what cannot be used.
    pub(crate) unused: Option<String>,
}

/// Why a kept socket is not used.
#[derive(Debug)]
enum Misfit {
    /// This start listens elsewhere or not at all, as it was told to.
    Unasked,
    /// Something is wrong with it.
    Faulty(String),
}

/// A listening socket that was kept.
#[derive(Debug)]
pub(crate) struct RegainedSocket {
    pub(crate) socket: OwnedFd,
    pub(crate) address: Address,
    /// Its file. Own it when the start has succeeded.
    pub(crate) file: Option<RegainedFile>,
}

/// The file of a kept socket. It stays when this is dropped, for the next start.
#[derive(Debug)]
pub(crate) struct RegainedFile {
    entry: Entry,
    id: made::FileId,
}

impl RegainedFile {
    /// From now on the file is removed with its owner.
    pub(crate) fn own(self) -> MadeFile {
        MadeFile::adopted(self.entry, self.id)
    }
}

/// A listening socket of pen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Port {
    Listener,
    /// The control port; its file must belong to this user.
    Control(Uid),
    /// The port of the page; its file must belong to this user.
    Page(Uid),
}

impl Port {
    fn item(self) -> Item {
        match self {
            Port::Listener => Item::Listener,
            Port::Control(_) => Item::Control,
            Port::Page(_) => Item::Page,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Port::Listener => "listener",
            Port::Control(_) => "control port",
            Port::Page(_) => "page",
        }
    }
}

impl Regained {
    /// Reads the description. Of two descriptors with one name the later one counts. Descriptors
    /// with unknown names are closed already.
    pub(in crate::kept) fn new(stored: Vec<(Item, OwnedFd)>, unknown: &[String]) -> Regained {
        let unused = unknown.iter().map(|name| format!("{name}: this release does not know it"));
        let mut regained = Regained { stored, unused: unused.collect(), ..Regained::default() };
        if regained.stored.is_empty() {
            return regained;
        }
        let state = regained.take(Item::State).ok_or_else(|| "it is missing".to_owned());
        match state.and_then(KeptState::read) {
            Ok(state) => regained.state = Some(state),
            Err(why) => {
                regained.unused.push(format!("description: {why}"));
                regained.refuse_table_and_tickets("without the description they mean nothing");
            }
        }
        regained
    }

    /// Gives up everything.
    pub(in crate::kept) fn refuse_all(&mut self, why: &str) {
        if self.stored.is_empty() && self.state.is_none() {
            return;
        }
        let user = Uid::current();
        for port in [Port::Listener, Port::Control(user), Port::Page(user)] {
            if let Some(socket) = self.take(port.item()) {
                self.close(port, &socket, Misfit::Faulty(why.into()));
            }
        }
        self.refuse_table_and_tickets(why);
        self.state = None;
    }

    /// Gives up the table and the secrets. Returns their items.
    pub(in crate::kept) fn refuse_table_and_tickets(&mut self, why: &str) -> [Item; 3] {
        let items = [Item::Table, Item::Ticket, Item::EarlierTicket];
        let had = self.stored.len();
        self.stored.retain(|(item, _)| !items.contains(item));
        if self.stored.len() < had {
            self.unused.push(format!("table and ticket secrets: {why}"));
        }
        if let Some(state) = &mut self.state {
            (state.table, state.tickets) = (None, None);
        }
        items
    }

    /// The kept socket for the first of these addresses that it has. One that has none of them does
    /// not listen any more, because its clients would wait for ever.
    pub(crate) fn socket(
        &mut self,
        port: Port,
        addresses: &[Address],
        backlog: u32,
    ) -> Option<RegainedSocket> {
        let socket = self.take(port.item())?;
        let found = self.fitting(port, &socket, addresses).and_then(|(address, file)| {
            prepare_passed(&socket, backlog).map_err(|error| Misfit::Faulty(error_text(&error)))?;
            Ok((address, file))
        });
        match found {
            Ok((address, file)) => {
                self.used.push(port.name().into());
                Some(RegainedSocket { socket, address, file })
            }
            Err(why) => {
                self.close(port, &socket, why);
                None
            }
        }
    }

    /// Gives up a kept socket that has none of these addresses.
    pub(crate) fn close_unfit(&mut self, port: Port, addresses: &[Address]) {
        let Some(socket) = self.take(port.item()) else { return };
        match self.fitting(port, &socket, addresses) {
            // Later than any other with this name, as before.
            Ok(_) => self.stored.push((port.item(), socket)),
            Err(why) => self.close(port, &socket, why),
        }
    }

    /// Gives up a kept socket: pen has none now, or a socket unit passed another one.
    pub(crate) fn close_unasked(&mut self, port: Port) {
        if let Some(socket) = self.take(port.item()) {
            self.close(port, &socket, Misfit::Unasked);
        }
    }

    /// The kept table, if it can be used by this start, or a new one with its clients.
    pub(crate) fn table(&mut self, shape: Shape, settings: &Settings) -> Option<Table> {
        let memory = self.take(Item::Table)?;
        let kept = self.state.as_mut().and_then(|state| state.table.take());
        let is_it = |kept: &KeptTable| Identity::of(&memory) == Some(kept.identity);
        let Some(kept) = kept.filter(is_it) else {
            self.unused.push("table: the description is not that of this table".into());
            return None;
        };
        match table::regain(memory, kept.description, &kept.servers, shape, settings) {
            Ok(table::Regained::Adopted(table)) => {
                self.used.push("table".into());
                Some(table)
            }
            Ok(table::Regained::Imported(table, Imported { kept, left_out })) => {
                self.used.push(match left_out {
                    0 => format!("{kept} clients of the table, which has other sizes or servers"),
                    _ => format!("{kept} clients of the table, without {left_out} more"),
                });
                Some(table)
            }
            Err(error) => {
                self.unused.push(format!("table: {error}"));
                None
            }
        }
    }

    /// Puts the kept secrets of session tickets into `keys`.
    pub(crate) fn tickets(&mut self, keys: &mut Keys) {
        let (current, earlier) = (self.take(Item::Ticket), self.take(Item::EarlierTicket));
        let Some(current) = current else { return };
        let kept = self.state.as_mut().and_then(|state| state.tickets.take());
        let checked = kept.ok_or("the description says nothing of them").and_then(|kept| {
            let is = |secret: &OwnedFd, identity| {
                Identity::of(secret) == Some(identity) && is_secret(secret)
            };
            if !is(&current, kept.current) {
                return Err("they are not the described ones");
            }
            let period = Duration::from_secs(TICKET_PERIOD).as_nanos() as u64;
            if precise() > kept.rotation.saturating_add(period) {
                return Err("they are too old");
            }
            let earlier =
                earlier.filter(|secret| kept.earlier.is_some_and(|identity| is(secret, identity)));
            Ok((earlier, from_precise(kept.rotation)))
        });
        match checked {
            Ok((earlier, rotation)) => {
                keys.secrets = (current, earlier);
                // At the latest when one that is new now would be replaced.
                keys.rotation = keys.rotation.min(rotation.max(Instant::now()));
                self.used.push("ticket secrets".into());
            }
            Err(why) => self.unused.push(format!("ticket secrets: {why}")),
        }
    }

    /// What to tell at the end of the start.
    pub(crate) fn tell(mut self) -> Told {
        let user = Uid::current();
        for port in [Port::Listener, Port::Control(user), Port::Page(user)] {
            self.close_unasked(port);
        }
        let line = |what: &str, parts: &[String], between| {
            (!parts.is_empty()).then(|| format!("{what}: {}", parts.join(between)))
        };
        Told {
            before: self.state.as_ref().map(|state| state.end),
            used: line("the service manager kept", &self.used, ", "),
            unasked: line(
                "closed what the service manager kept, because this start does not ask for it",
                &self.unasked,
                ", ",
            ),
            unused: line("the service manager kept what is not used", &self.unused, "; "),
        }
    }

    fn take(&mut self, item: Item) -> Option<OwnedFd> {
        let at = self.stored.iter().rposition(|(stored, _)| *stored == item)?;
        Some(self.stored.remove(at).1)
    }

    /// The kept description of a socket.
    fn described(&self, port: Port) -> Option<&KeptSocket> {
        let state = self.state.as_ref()?;
        match port {
            Port::Listener => state.listener.as_ref(),
            Port::Control(_) => state.control.as_ref(),
            Port::Page(_) => state.page.as_ref(),
        }
    }

    /// The first of these addresses at which the socket listens, and the file of that address.
    fn fitting(
        &self,
        port: Port,
        socket: &OwnedFd,
        addresses: &[Address],
    ) -> Result<(Address, Option<RegainedFile>), Misfit> {
        if !listens(socket) {
            return Err(Misfit::Faulty(NO_LISTENER.into()));
        }
        let local = SockRef::from(socket).local_addr();
        let local = local.map_err(|error| Misfit::Faulty(error_text(&error)))?;
        let kept = self.described(port).and_then(|kept| kept.file.as_ref());
        for address in addresses {
            match address {
                Address::Inet(inet) if local.as_socket() == Some(*inet) => {
                    return Ok((address.clone(), None));
                }
                Address::Unix(path) if local.is_unix() => {
                    let file = kept.map(|kept| found(kept, path, port)).transpose();
                    let file = file.map_err(Misfit::Faulty)?;
                    if let Some(file) = file.flatten() {
                        return Ok((address.clone(), Some(file)));
                    }
                    if kept.is_some_and(|kept| kept.path == *path) {
                        let why = format!("its file {} is not the one it was", path.display());
                        return Err(Misfit::Faulty(why));
                    }
                }
                Address::Inet(_) | Address::Unix(_) => {}
            }
        }
        match local.is_unix() && kept.is_none() {
            true => Err(Misfit::Faulty("its file is not known".into())),
            false => Err(Misfit::Unasked),
        }
    }

    /// Ends a socket, so that clients are refused and its address can be bound again. The manager
    /// may have it for a moment longer.
    fn close(&mut self, port: Port, socket: &OwnedFd, why: Misfit) {
        let file = self.described(port).and_then(|kept| kept.file.clone());
        let at = place(socket, file.as_ref());
        let why = if listens(socket) { why } else { Misfit::Faulty(NO_LISTENER.into()) };
        let _ = shutdown(socket, Shutdown::Both);
        if let Some(KeptFile { path, id }) = file {
            let _ = made::remove(&path, id);
        }
        match why {
            Misfit::Unasked => self.unasked.push(format!("{}{at}", port.name())),
            Misfit::Faulty(why) => self.unused.push(format!("{}: {why}", port.name())),
        }
    }
}

/// Whether a descriptor is a listening stream socket.
fn listens(socket: &OwnedFd) -> bool {
    let look = SockRef::from(socket);
    let is_stream = look.r#type().is_ok_and(|r#type| r#type == Type::STREAM);
    is_stream && look.is_listener().unwrap_or(false)
}

/// Where a socket listens, to be said behind its name.
fn place(socket: &OwnedFd, file: Option<&KeptFile>) -> String {
    let local = SockRef::from(socket).local_addr().ok().and_then(|local| local.as_socket());
    match (local, file) {
        (Some(inet), _) => format!(" at {inet}"),
        (None, Some(file)) => format!(" at {}", file.path.display()),
        (None, None) => String::new(),
    }
}

/// Why a kept descriptor cannot be a port.
const NO_LISTENER: &str = "it is no listening stream socket";

/// The file at a path, if it is still the kept one.
///
/// # Errors
/// It is, and others than the user of the port may use it.
fn found(kept: &KeptFile, path: &Path, port: Port) -> Result<Option<RegainedFile>, String> {
    let Ok(entry) = Entry::find(path) else { return Ok(None) };
    let Ok(there) = entry.stat() else { return Ok(None) };
    let is_socket = FileType::from_raw_mode(there.st_mode) == FileType::Socket;
    if !is_socket || file_id(&there) != kept.id {
        return Ok(None);
    }
    match port {
        Port::Listener => {}
        Port::Control(user) | Port::Page(user) if there.st_uid != user.as_raw() => {
            let (path, owner) = (path.display(), there.st_uid);
            return Err(format!("{path} belongs to user {owner}, and -u is user {user}"));
        }
        Port::Control(_) | Port::Page(_) => {
            if there.st_mode & 0o077 != 0 {
                return Err(format!("others may use {} (chmod 600)", path.display()));
            }
        }
    }
    Ok(Some(RegainedFile { entry, id: kept.id }))
}

/// Whether a memory can be a secret of session tickets.
fn is_secret(memory: &OwnedFd) -> bool {
    memory::is_sealed(memory).unwrap_or(false)
        && fstat(memory).is_ok_and(|found| found.st_size == TICKET_SECRET as i64)
}
