//! The pool of a worker's connections.

use crate::relay::connection::{Connection, ConnectionId, ConnectionState, Side};

/// Most slots: a token has 31 bits for one ([`ConnectionId::token`]). The highest slots stay
/// unused, because the event loop has taken the highest tokens.
pub const SLOTS: usize = (1 << 31) - 8;

/// All connections of a worker. The slot that was freed last is used again first. Memory grows with
/// the highest number of open connections.
#[derive(Debug, Default)]
pub struct Pool {
    slots: Vec<Connection>,
    free: Vec<u32>,
}

impl Pool {
    /// Takes a slot for a new connection.
    pub fn take(&mut self) -> u32 {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        debug_assert!(self.slots.len() < SLOTS);
        self.slots.push(Connection::default());
        self.slots.len() as u32 - 1
    }

    /// Frees a slot: its sockets close, and its generation increases. The connection must be in no
    /// list (`Connections::free`).
    pub fn free(&mut self, slot: u32) {
        let generation = self.slots[slot as usize].generation.wrapping_add(1);
        self.slots[slot as usize] = Connection { generation, ..Connection::default() };
        self.free.push(slot);
    }

    /// The name of one end of a connection.
    pub fn id(&self, slot: u32, side: Side) -> ConnectionId {
        ConnectionId { slot, generation: self[slot].generation, side }
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The number of slots, used or not.
    pub fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The slot of the connection with a number.
    pub fn numbered(&self, number: u32) -> Option<u32> {
        let at = |connection: &Connection| {
            connection.state != ConnectionState::Free && connection.number == number
        };
        self.slots.iter().position(at).map(|slot| slot as u32)
    }

    /// The open connections.
    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.slots.iter().filter(|connection| connection.state != ConnectionState::Free)
    }

    /// The connection of a name, if that is still open.
    pub fn named(&mut self, name: ConnectionId) -> Option<&mut Connection> {
        self.slots.get_mut(name.slot as usize).filter(|connection| {
            connection.generation == name.generation && connection.state != ConnectionState::Free
        })
    }
}

impl std::ops::Index<u32> for Pool {
    type Output = Connection;

    fn index(&self, slot: u32) -> &Connection {
        &self.slots[slot as usize]
    }
}

impl std::ops::IndexMut<u32> for Pool {
    fn index_mut(&mut self, slot: u32) -> &mut Connection {
        &mut self.slots[slot as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_former_owner_names_nothing() {
        let mut pool = Pool::default();
        let slot = pool.take();
        pool[slot].state = ConnectionState::Relaying;
        let name = ConnectionId { slot, generation: pool[slot].generation, side: Side::Up };
        assert!(pool.named(name).is_some());
        pool.free(slot);
        assert!(pool.named(name).is_none());
        assert_eq!(pool.take(), slot);
        pool[slot].state = ConnectionState::Connecting;
        assert!(pool.named(name).is_none());
        assert_eq!(pool.open(), 1);
    }
}
