//! All operators who watch: how many there may be, and when the supervisor sends events.

use crate::control::Control;
use crate::control::operator::OperatorConnection;
use crate::control::watch::Watch;

/// Most operators who watch. They come on top of the others.
pub const WATCHERS: usize = 32;

/// Why those who watch get no more events after an upgrade.
pub const UPGRADED_WATCH: &str = "pen was upgraded; watch again";

/// The same when pen stops, and the reply to a command that has none yet (`drain` can wait long).
pub const STOPS: &str = "pen stops";

impl Control {
    /// Whether one more operator may watch.
    ///
    /// # Errors
    /// The reply: why not.
    pub(super) fn may_watch(&self, ticket: u64) -> Result<(), String> {
        if self.operators.get(&ticket).is_some_and(OperatorConnection::has_finished) {
            return Err("watch: the connection was closed with the command; keep it open".into());
        }
        match self.operators.values().filter(|operator| operator.watches()).count() {
            ..WATCHERS => Ok(()),
            WATCHERS.. => Err(format!("watch: not now: {WATCHERS} operators watch already")),
        }
    }

    /// Does something for all who watch, and sends it.
    pub(super) fn tell_watchers(&mut self, tell: impl Fn(&mut Watch)) {
        let mut told = Vec::new();
        for (ticket, operator) in &mut self.operators {
            if let Some(watch) = operator.watch() {
                tell(watch);
                told.push(*ticket);
            }
        }
        // At once: the next event comes on top.
        told.into_iter().for_each(|ticket| self.on_operator(ticket));
    }

    /// Ends the connections of all who watch.
    pub(super) fn close_watches(&mut self, why: &str) {
        self.tell_watchers(|watch| watch.close(why));
    }

    /// Has the supervisor go on with the events: an upgrade that failed has forgotten who watches.
    pub(super) fn resume_watches(&mut self) {
        let watches = self.operators.values_mut().filter_map(OperatorConnection::watch);
        if let Some(next) = watches.map(|watch| watch.next()).min() {
            self.link.watching(Some(next));
        }
    }

    /// Tells the supervisor if nobody watches any more.
    pub(super) fn unwatch(&mut self) {
        if self.is_told && !self.operators.values().any(OperatorConnection::watches) {
            self.is_told = false;
            self.link.watching(None);
        }
    }
}
