//! Moving bytes between two sockets: read, write and splice.

pub(crate) mod pump;
pub(crate) mod splice;
pub(crate) mod splice_recheck;
pub(crate) mod undelivered;
pub(crate) mod unfinished;

use crate::relay::connection::Connection;
use crate::relay::transfer::pump::Tools;
use crate::relay::transfer::splice_recheck::SpliceRechecks;
use crate::relay::transfer::undelivered::Undelivered;
use crate::relay::transfer::unfinished::Unfinished;

/// What a worker needs to move bytes, and what it keeps of them.
#[derive(Debug)]
pub struct Io {
    /// The buffers and the pipes.
    pub tools: Tools,
    /// Unfinished data of clients and servers.
    pub unfinished: Unfinished,
    undelivered: Undelivered,
    /// Ends that a short splice(2) is believed to have emptied.
    pub rechecks: SpliceRechecks,
}

impl Io {
    /// For one worker, which may have `most_pipes` pipes.
    pub fn new(most_pipes: usize) -> Io {
        Io {
            tools: Tools::new(most_pipes),
            unfinished: Unfinished::default(),
            undelivered: Undelivered::default(),
            rechecks: SpliceRechecks::default(),
        }
    }

    /// Updates the bytes kept for a connection until its ends take them, after data was moved. The
    /// more is kept, the less is read.
    pub fn note_undelivered(&mut self, connection: &mut Connection) {
        let bytes = connection.undelivered_bytes();
        self.set_undelivered(connection, bytes);
    }

    /// Updates the unfinished bytes of a connection after data of a session or an HTTP client.
    pub fn note_unfinished(&mut self, connection: &mut Connection, now: u64) {
        let bytes = connection.unfinished_bytes();
        self.unfinished.note(&mut connection.unfinished, bytes, now);
    }

    /// Forgets the bytes kept for a connection that ends.
    pub fn forget(&mut self, connection: &mut Connection) {
        self.unfinished.forget(connection.unfinished);
        self.set_undelivered(connection, 0);
    }

    fn set_undelivered(&mut self, connection: &mut Connection, bytes: u32) {
        if bytes != connection.undelivered {
            self.undelivered.note(&mut connection.undelivered, bytes);
            self.tools.set_room(self.undelivered.room());
        }
    }
}
