//! The end of all connections of a server.

#![forbid(unsafe_code)]

use pen_config::ids::Target;
use pen_config::settings::Server;
use pen_ipc::message::ClosedServer;

use crate::clock;
use crate::event_loop::Supervisor;
use crate::processes::closes::ServerClose;

impl Supervisor {
    /// Orders all workers to end the connections of a server that are open now. Workers of an
    /// earlier release that does not know this order keep theirs.
    pub(in crate::event_loop) fn close_server(&mut self, target: Target, why: ClosedServer) {
        let Some(mark) = self.context.settings.target(target).map(Server::mark) else { return };
        let order = ServerClose { server: target.code(), mark, before: clock::precise(), why };
        self.pool.workers_mut().for_each(|worker| worker.order_close_server(order));
        self.old.order_close_server(order);
        // They know a server that has moved by its address of their time.
        for mark in self.names.former.of(target) {
            self.old.order_close_server(ServerClose { mark, ..order });
        }
        self.send_due();
    }
}
