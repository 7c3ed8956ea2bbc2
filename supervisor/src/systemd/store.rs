//! The file descriptor store of the service manager (sd_pid_notify_with_fds(3)): descriptors that
//! it keeps while pen restarts, and passes to the next start.
//!
//! A manager says by the variable FDSTORE that it has a store. Its answer to a message is never
//! known. So this notes what it was sent, and sends only what differs. What the manager does not
//! take now is sent at the next beat.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::SocketAddr;

use rustix::fs::fstat;
use serde::{Deserialize, Serialize};

use crate::systemd::notify::send_with;

/// A descriptor that pen stores. Each has a name of its own (`FDNAME=`).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub(crate) enum Item {
    /// What the others are.
    State,
    /// The listener.
    Listener,
    /// The control port.
    Control,
    /// The port of the page.
    Page,
    /// The shared table.
    Table,
    /// The secret of new session tickets.
    Ticket,
    /// The secret before it.
    EarlierTicket,
}

impl Item {
    /// All, in the order in which they are sent.
    pub(crate) const ALL: [Item; 7] = [
        Item::State,
        Item::Listener,
        Item::Control,
        Item::Page,
        Item::Table,
        Item::Ticket,
        Item::EarlierTicket,
    ];

    /// The name in the store.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Item::State => "pen-state",
            Item::Listener => "pen-listener",
            Item::Control => "pen-control",
            Item::Page => "pen-page",
            Item::Table => "pen-table",
            Item::Ticket => "pen-ticket-0",
            Item::EarlierTicket => "pen-ticket-1",
        }
    }

    /// The item with this name.
    pub(crate) fn named(name: &str) -> Option<Item> {
        Item::ALL.into_iter().find(|item| item.name() == name)
    }
}

/// Device and inode number of a descriptor. They identify a socket or a memory as long as it
/// exists, over execve(2) too.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Identity(u64, u64);

impl Identity {
    /// Of an open descriptor; none for one that has none.
    pub(crate) fn of(descriptor: impl AsFd) -> Option<Identity> {
        fstat(descriptor).ok().map(|found| Identity(found.st_dev, found.st_ino))
    }
}

/// The store, as far as pen knows it.
#[derive(Debug)]
pub(crate) struct Store {
    to: SocketAddr,
    slots: [Slot; Item::ALL.len()],
    /// Names of another release, which are to be removed.
    unknown: Vec<String>,
}

#[derive(Debug, Default)]
struct Slot {
    held: Held,
    wanted: Option<Identity>,
    /// The wanted descriptor, until it is sent.
    unsent: Option<OwnedFd>,
}

/// What the manager has under a name.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) enum Held {
    #[default]
    Nothing,
    This(Identity),
    /// Several descriptors, or one that cannot be told.
    Something,
}

impl Store {
    /// The store of the manager at this address, with the descriptors that it passed to this start.
    pub(crate) fn new(to: SocketAddr, found: &[(Item, OwnedFd)]) -> Store {
        let mut store = Store { to, slots: Default::default(), unknown: Vec::new() };
        for (item, descriptor) in found {
            let slot = store.slot(*item);
            slot.held = match (slot.held, Identity::of(descriptor)) {
                (Held::Nothing, Some(identity)) => Held::This(identity),
                (Held::Nothing | Held::This(_) | Held::Something, _) => Held::Something,
            };
            slot.wanted = match slot.held {
                Held::This(identity) => Some(identity),
                Held::Nothing | Held::Something => None,
            };
        }
        store
    }

    /// The store of an earlier program in this process.
    pub(crate) fn adopted(to: SocketAddr, held: &[(Item, Held)]) -> Store {
        let mut store = Store { to, slots: Default::default(), unknown: Vec::new() };
        held.iter().for_each(|(item, held)| store.slot(*item).held = *held);
        store
    }

    /// What the manager has, for [`Store::adopted`]. An earlier release does not know all items.
    pub(crate) fn held(&self) -> Vec<(Item, Held)> {
        let all = Item::ALL.into_iter().zip(self.slots.iter().map(|slot| slot.held));
        all.filter(|(_, held)| *held != Held::Nothing).collect()
    }

    /// Sets what the manager is to have under a name. [`Store::settle`] sends it. Returns whether
    /// the manager has it or gets it; if not, no descriptor was left, and it keeps nothing.
    pub(crate) fn put(&mut self, item: Item, descriptor: Option<BorrowedFd<'_>>) -> bool {
        let slot = self.slot(item);
        let wanted = descriptor.and_then(Identity::of);
        let is_there = wanted.is_some_and(|wanted| slot.held == Held::This(wanted));
        if wanted == slot.wanted && (is_there || slot.unsent.is_some()) {
            return true;
        }
        slot.unsent = match is_there {
            true => None,
            // Without a free descriptor, the manager keeps nothing under this name.
            false => descriptor.and_then(|descriptor| descriptor.try_clone_to_owned().ok()),
        };
        slot.wanted = wanted;
        descriptor.is_none() || is_there || slot.unsent.is_some()
    }

    /// The manager is to keep nothing under these names. [`Store::settle`] sends it.
    pub(crate) fn forget(&mut self, names: &[String]) {
        self.unknown.extend_from_slice(names);
    }

    /// Sends what the manager does not have yet, as far as it takes messages.
    pub(crate) fn settle(&mut self) {
        while let Some(name) = self.unknown.last() {
            if send_with(&self.to, &removal(name), None).is_err() {
                return;
            }
            self.unknown.pop();
        }
        // All removals come first: systemd ignores a descriptor that it has under another name.
        for (item, slot) in Item::ALL.into_iter().zip(&mut self.slots) {
            let is_right = match slot.held {
                Held::Nothing => true,
                Held::This(identity) => slot.wanted == Some(identity),
                Held::Something => false,
            };
            if !is_right {
                if send_with(&self.to, &removal(item.name()), None).is_err() {
                    return;
                }
                slot.held = Held::Nothing;
            }
        }
        for (item, slot) in Item::ALL.into_iter().zip(&mut self.slots) {
            if let (Held::Nothing, Some(descriptor), Some(identity)) =
                (slot.held, &slot.unsent, slot.wanted)
            {
                let text = format!("FDSTORE=1\nFDNAME={}", item.name());
                if send_with(&self.to, &text, Some(descriptor.as_fd())).is_err() {
                    return;
                }
                (slot.held, slot.unsent) = (Held::This(identity), None);
            }
        }
    }

    fn slot(&mut self, item: Item) -> &mut Slot {
        // `Item::ALL` has the order of the enum.
        &mut self.slots[item as usize]
    }
}

/// The message that removes a name.
fn removal(name: &str) -> String {
    format!("FDSTOREREMOVE=1\nFDNAME={name}")
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixDatagram;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    use super::*;
    use crate::files::memory;
    use crate::systemd::notify::tests::{manager, received};

    fn stores(item: &str) -> String {
        format!("FDSTORE=1\nFDNAME={item}")
    }

    fn removes(item: &str) -> String {
        format!("FDSTOREREMOVE=1\nFDNAME={item}")
    }

    #[test]
    fn names_come_back() {
        for (place, item) in Item::ALL.into_iter().enumerate() {
            assert_eq!((Item::named(item.name()), item as usize), (Some(item), place));
            assert!(item.name().len() < 256 && !item.name().contains(':'));
        }
        assert_eq!(Item::named("pen"), None);
    }

    #[test]
    fn only_what_differs_is_sent_and_removals_come_first() {
        let (_directory, socket, to) = manager();
        let memories: Vec<File> = (0..3).map(|_| memory::new().unwrap()).collect();
        let mut store = Store::new(to.clone(), &[]);
        store.put(Item::Ticket, Some(memories[0].as_fd()));
        store.settle();
        store.put(Item::Ticket, Some(memories[0].as_fd()));
        store.settle();
        assert_eq!(received(&socket), [stores("pen-ticket-0")]);
        store.put(Item::Ticket, Some(memories[1].as_fd()));
        store.put(Item::EarlierTicket, Some(memories[0].as_fd()));
        store.settle();
        let expected = [removes("pen-ticket-0"), stores("pen-ticket-0"), stores("pen-ticket-1")];
        assert_eq!(received(&socket), expected);
        let mut store = Store::adopted(to, &store.held());
        store.put(Item::Ticket, Some(memories[1].as_fd()));
        store.settle();
        assert_eq!(received(&socket), [removes("pen-ticket-1")], "nobody wants it now");
    }

    #[test]
    fn what_was_passed_is_known_and_two_of_a_name_are_replaced() {
        let (_directory, socket, to) = manager();
        let one = |item: Item| (item, OwnedFd::from(memory::new().unwrap()));
        let found = [one(Item::Table), one(Item::State), one(Item::State)];
        let mut store = Store::new(to, &found);
        store.put(Item::Table, Some(found[0].1.as_fd()));
        store.put(Item::State, Some(found[2].1.as_fd()));
        store.settle();
        assert_eq!(received(&socket), [removes("pen-state"), stores("pen-state")]);
    }

    /// In a child, because the limit holds for all tests of a process.
    #[test]
    fn without_descriptors_nothing_is_sent_and_later_all_is() {
        let (_directory, socket, to) = manager();
        let child = crate::sys::fork(|| {
            let (memory, mut store) = (memory::new().unwrap(), Store::new(to, &[]));
            let (before, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
            let is_short = !store.put(Item::State, Some(memory.as_fd()));
            store.settle();
            let kept_nothing = store.held().is_empty();
            setrlimit(Resource::RLIMIT_NOFILE, before, hard).unwrap();
            let is_put = store.put(Item::State, Some(memory.as_fd()));
            setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
            store.settle();
            let waits = store.held().is_empty();
            setrlimit(Resource::RLIMIT_NOFILE, before, hard).unwrap();
            store.settle();
            let is_kept = matches!(store.held()[0].1, Held::This(_));
            i32::from(!(is_short && kept_nothing && is_put && waits && is_kept))
        });
        let status = nix::sys::wait::waitpid(child.unwrap(), None).unwrap();
        assert!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)), "{status:?}");
        assert_eq!(received(&socket), [stores("pen-state")], "once, when there are descriptors");
    }

    #[test]
    fn a_busy_manager_gets_the_last_state_later() {
        let (directory, socket, to) = manager();
        drop(socket);
        std::fs::remove_file(directory.path().join("notify")).unwrap();
        let mut store = Store::new(to, &[]);
        for _ in 0..3 {
            let memory = memory::new().unwrap();
            store.put(Item::State, Some(memory.as_fd()));
            store.settle();
        }
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        store.settle();
        store.settle();
        assert_eq!(received(&socket), [stores("pen-state")]);
    }
}
