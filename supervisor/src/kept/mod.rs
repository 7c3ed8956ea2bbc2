//! What the service manager keeps over a restart, and over the death of the supervisor: listener,
//! control port, port of the page, shared table, secrets of session tickets, and a description of
//! them.
//!
//! `Keeper` tells the manager what to keep. `Regained` is what a start gets back. Nothing in it can
//! make the start fail: what cannot be used is told, and the start goes on without it.
//!
//! The description says whether pen ended in order. A start that finds that pen died notes the
//! time. After two deaths within a minute the state itself may be what kills pen. Then table and
//! secrets are given up.

#![forbid(unsafe_code)]

pub(crate) mod regained;
pub(crate) mod state;
mod table;

use std::os::fd::{AsFd, BorrowedFd};

use pen_config::ids::ServerId;
use pen_config::settings::Settings;
use pen_table::{Table, TableDescription};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::files::tls_material::Keys;
use crate::kept::regained::{Port, Regained};
use crate::kept::state::{
    End, KeptFile, KeptServers, KeptSocket, KeptState, KeptTable, KeptTickets,
};
use crate::systemd::activation::Stored;
use crate::systemd::notify::Notify;
use crate::systemd::store::{Held, Identity, Item, Store};

/// Tells the service manager what to keep. Without a manager that has a store it does nothing.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    store: Option<Store>,
    listener: Origin,
    control: Origin,
    page: Origin,
    deaths: Vec<u64>,
    /// The numbers of the servers that the configuration blacklisted.
    blacklisted: Vec<u16>,
    /// The description.
    state: Option<KeptState>,
    /// Its text as it was last written.
    written: String,
    /// Whether descriptors or memory lacked, so that the manager does not have everything.
    is_short: bool,
}

/// Where a listening socket comes from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// Pen made it.
    #[default]
    Own,
    /// A socket unit: the manager has it already.
    Passed,
}

/// What pen has now.
#[derive(Debug)]
pub(crate) struct Present<'a> {
    pub(crate) version: &'a str,
    /// The listener, with the file that pen made for it.
    pub(crate) listener: (BorrowedFd<'a>, Option<KeptFile>),
    pub(crate) control: Option<(BorrowedFd<'a>, Option<KeptFile>)>,
    pub(crate) page: Option<(BorrowedFd<'a>, Option<KeptFile>)>,
    pub(crate) table: &'a Table,
    pub(crate) settings: &'a Settings,
    pub(crate) keys: Option<&'a Keys>,
}

/// What the next program in this process must know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CarriedKeeper {
    held: Vec<(Item, Held)>,
    listener: Origin,
    control: Origin,
    #[serde(default)]
    page: Origin,
    deaths: Vec<u64>,
    #[serde(default)]
    blacklisted: Vec<u16>,
}

/// Takes what a manager kept for this start. From now on a death counts, until the start ends or
/// [`Keeper::give_back`] is called.
pub(crate) fn begin(notify: &Notify, stored: Stored) -> (Keeper, Regained) {
    let Stored { descriptors, unknown } = stored;
    let mut store = notify.store().map(|to| Store::new(to, &descriptors));
    store.iter_mut().for_each(|store| store.forget(&unknown));
    let mut regained = Regained::new(descriptors, &unknown);
    if store.is_none() {
        regained.refuse_all("the service manager says that it has no store (FDSTORE)");
    }
    let now = clock::monotonic();
    let mut deaths = Vec::new();
    if let Some(before) = &regained.state {
        deaths.extend(&before.deaths);
        deaths.extend((before.end == End::Running).then_some(now));
        deaths.retain(|death| now.saturating_sub(*death) < WINDOW);
        if before.end == End::Running && deaths.len() >= MOST_DEATHS {
            let secrets = regained.refuse_table_and_tickets("pen died twice within a minute");
            if let Some(store) = &mut store {
                secrets.into_iter().for_each(|item| {
                    store.put(item, None);
                });
            }
        }
    }
    let state = regained.state.clone();
    let mut keeper = Keeper { store, deaths, state, ..Keeper::default() };
    keeper.rewrite(End::Running);
    (keeper, regained)
}

impl Keeper {
    /// The keeper of an earlier program in this process.
    pub(crate) fn adopted(notify: &Notify, carried: Option<CarriedKeeper>) -> Keeper {
        let (Some(to), Some(carried)) = (notify.store_socket(), carried) else {
            return Keeper::default();
        };
        let CarriedKeeper { held, listener, control, page, deaths, blacklisted } = carried;
        let store = Some(Store::adopted(to, &held));
        Keeper { store, listener, control, page, deaths, blacklisted, ..Keeper::default() }
    }

    /// What the next program must know; none if nothing is kept.
    pub(crate) fn carried(&self) -> Option<CarriedKeeper> {
        let store = self.store.as_ref()?;
        Some(CarriedKeeper {
            held: store.held(),
            listener: self.listener,
            control: self.control,
            page: self.page,
            deaths: self.deaths.clone(),
            blacklisted: self.blacklisted.clone(),
        })
    }

    /// Whether a manager keeps anything.
    pub(crate) fn is_on(&self) -> bool {
        self.store.is_some()
    }

    /// Whether the manager keeps the listener, so that its file must stay.
    pub(crate) fn keeps_listener(&self) -> bool {
        self.is_on() && self.listener == Origin::Own
    }

    /// Whether the manager keeps the control port, so that its file must stay.
    pub(crate) fn keeps_control(&self) -> bool {
        self.is_on() && self.control == Origin::Own
    }

    /// Whether the manager keeps the port of the page, so that its file must stay.
    pub(crate) fn keeps_page(&self) -> bool {
        self.is_on() && self.page == Origin::Own
    }

    /// Notes where a port comes from.
    pub(crate) fn note(&mut self, port: Port, origin: Origin) {
        match port {
            Port::Listener => self.listener = origin,
            Port::Control(_) => self.control = origin,
            Port::Page(_) => self.page = origin,
        }
    }

    /// Notes which servers were blacklisted, by the configuration or by an operator. The next start
    /// ends what the configuration did, and follows its own.
    pub(crate) fn blacklisted(&mut self, servers: &[(ServerId, u32)], by_operator: bool) {
        self.blacklisted.retain(|known| servers.iter().all(|(server, _)| server.0 != *known));
        if !by_operator {
            self.blacklisted.extend(servers.iter().map(|(server, _)| server.0));
        }
    }

    /// Tells the manager what to keep from now on, as far as that differs.
    pub(crate) fn keep(&mut self, present: &Present<'_>, end: End) {
        let Some(store) = &mut self.store else { return };
        let Present { version, listener, control, page, table, settings, keys } = present;
        let listener = Some(listener).filter(|_| self.listener == Origin::Own);
        let control = control.as_ref().filter(|_| self.control == Origin::Own);
        let page = page.as_ref().filter(|_| self.page == Origin::Own);
        let secrets = keys.map(|keys| (&keys.secrets.0, keys.secrets.1.as_ref()));
        let wanted = [
            (Item::Listener, listener.map(|(socket, _)| *socket)),
            (Item::Control, control.map(|(socket, _)| *socket)),
            (Item::Page, page.map(|(socket, _)| *socket)),
            (Item::Table, Some(table.descriptor())),
            (Item::Ticket, secrets.map(|(current, _)| current.as_fd())),
            (Item::EarlierTicket, secrets.and_then(|(_, earlier)| Some(earlier?.as_fd()))),
        ];
        self.is_short = false;
        for (item, descriptor) in wanted {
            self.is_short |= !store.put(item, descriptor);
        }
        let socket = |(socket, file): &(BorrowedFd<'_>, Option<KeptFile>)| {
            Some(KeptSocket { identity: Identity::of(socket)?, file: file.clone() })
        };
        // A start reclaims all rows. Which of them had a worker is of no interest to it.
        let description = TableDescription { rows: Vec::new(), ..table.description() };
        self.state = Some(KeptState {
            version: (*version).into(),
            end,
            deaths: self.deaths.clone(),
            listener: listener.and_then(socket),
            control: control.and_then(socket),
            page: page.and_then(socket),
            table: Identity::of(table.descriptor()).map(|identity| KeptTable {
                identity,
                description,
                servers: KeptServers {
                    blacklisted: self.blacklisted.clone(),
                    ..KeptServers::of(settings)
                },
            }),
            tickets: keys.and_then(|keys| {
                Some(KeptTickets {
                    current: Identity::of(&keys.secrets.0)?,
                    earlier: keys.secrets.1.as_ref().and_then(Identity::of),
                    rotation: clock::to_precise(keys.rotation),
                })
            }),
        });
        self.rewrite(end);
    }

    /// Ends a start that failed for a reason of its own, which is no death: what the manager kept
    /// is there for the next one.
    pub(crate) fn give_back(&mut self) {
        self.rewrite(End::Orderly);
    }

    /// Whether [`Keeper::keep`] is to be tried again.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short
    }

    /// Sends what the manager did not take before.
    pub(crate) fn settle(&mut self) {
        self.store.iter_mut().for_each(Store::settle);
    }

    /// Writes the description with this end, if there is one and it differs.
    fn rewrite(&mut self, end: End) {
        let (Some(store), Some(state)) = (&mut self.store, &mut self.state) else { return };
        (state.end, state.deaths) = (end, self.deaths.clone());
        // Without a description the next start uses neither table nor secrets.
        let text = state.text().unwrap_or_default();
        if text != self.written {
            let memory = state::write(&text).ok();
            let is_put = store.put(Item::State, memory.as_ref().map(AsFd::as_fd));
            match memory.is_some() && is_put {
                true => self.written = text,
                false => (self.written, self.is_short) = (String::new(), true),
            }
        }
        store.settle();
    }
}

/// The time in which so many deaths are too many, in milliseconds.
const WINDOW: u64 = 60_000;

/// So many deaths within that time are too many.
const MOST_DEATHS: usize = 2;
