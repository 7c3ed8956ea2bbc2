//! What the supervisor says of a server, and the one decision whether a client may use it.
//!
//! **Standing word**: bits 0–23 = why the server's check fails, as a code of the supervisor's; 0 =
//! it is not down. Bit 24: drain. Bit 25: maintenance, which counts more. The other bits are 0. Any
//! value is valid.
//!
//! The supervisor is the only writer. The word is a copy of what it knows: the settings have the
//! mode, and its own memory the verdicts. So it can state all words again whenever a worker may
//! have overwritten them.
//!
//! It is a word of its own beside the blacklist word. Workers take and give that one by swap, and a
//! release without standings would take an unknown bit in it for a part of the time.

use std::num::NonZeroU32;

use crate::parts::ServerState;
use crate::servers::blacklist::{Blacklist, classify};
use crate::sync::Ordering::*;

/// Why a server is down by its check: a code of 24 bits. Only the callers know the codes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DownCode(NonZeroU32);

impl DownCode {
    /// The lower 24 bits of a code, which must not be 0.
    pub fn new(code: u32) -> Option<DownCode> {
        NonZeroU32::new(code & CODE).map(DownCode)
    }

    /// The code.
    pub fn code(self) -> u32 {
        self.0.get()
    }
}

/// Which clients an operator lets a server have.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum TableMode {
    /// All.
    #[default]
    Ready,
    /// Those that are recorded there, and no new one.
    Drain,
    /// None.
    Maint,
}

/// What the supervisor says of a server.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Standing {
    /// Which clients it may have.
    pub mode: TableMode,
    /// Why its check says that it is down. `None`: it is up, or nobody knows.
    pub down: Option<DownCode>,
}

impl Standing {
    /// The standing of a word; every word has one.
    pub fn from_word(word: u32) -> Standing {
        let mode = match (word & MAINT != 0, word & DRAIN != 0) {
            (true, _) => TableMode::Maint,
            (false, true) => TableMode::Drain,
            (false, false) => TableMode::Ready,
        };
        Standing { mode, down: DownCode::new(word) }
    }

    /// The word of a standing.
    pub fn to_word(self) -> u32 {
        let mode = match self.mode {
            TableMode::Ready => 0,
            TableMode::Drain => DRAIN,
            TableMode::Maint => MAINT,
        };
        mode | self.down.map_or(0, DownCode::code)
    }
}

const CODE: u32 = DRAIN - 1;

const DRAIN: u32 = 1 << 24;

const MAINT: u32 = 1 << 25;

/// What a choice must know of a server, from the words that all workers share.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServerView {
    /// What traffic showed, and what an operator blacklisted for a time.
    pub blacklist: Blacklist,
    /// What the supervisor says.
    pub standing: Standing,
}

impl ServerView {
    /// Nothing is against the server.
    pub const FREE: ServerView = ServerView {
        blacklist: Blacklist::Clear,
        standing: Standing { mode: TableMode::Ready, down: None },
    };

    /// Whether the server is out for a client, even for one that would join a probe.
    pub fn is_out(self, knows: Knows) -> bool {
        let ServerView { blacklist, standing } = self;
        can_use(blacklist, standing, knows, Patience::Join, Checks::Obeyed).is_err()
    }
}

impl ServerState {
    /// Inlined, because each choice asks it of at least one server, and mostly nothing is against
    /// it.
    #[inline]
    pub fn view(&self, now: u64) -> ServerView {
        let (list, standing) = (self.blacklisted.load(Acquire), self.standing.load(Acquire));
        // One comparison for both words.
        if list | u64::from(standing) == 0 {
            return ServerView::FREE;
        }
        ServerView { blacklist: classify(list, now), standing: Standing::from_word(standing) }
    }

    pub fn standing(&self) -> Standing {
        Standing::from_word(self.standing.load(Relaxed))
    }

    /// Sets the standing, if it differs: all workers read this cache line. A server that new
    /// clients can use by it, and could not before, comes back into service now. That is noted
    /// before they can: a worker must not find it with its whole share.
    pub fn set_standing(&self, standing: Standing, now: u64) {
        let (before, word) = (self.standing.load(Relaxed), standing.to_word());
        if before == word {
            return;
        }
        let is_closed = |word: u32| word & (MAINT | DRAIN | CODE) != 0;
        if is_closed(before) && !is_closed(word) {
            self.note_return(now);
        }
        // Who sees the standing sees the return.
        self.standing.store(word, Release);
    }

    /// Ends a blacklisting, because the server was seen to work or an operator says so. The return
    /// is noted first: if the caller dies in between, the server has at least not its whole share.
    /// Returns whether the server was blacklisted.
    pub fn return_to_service(&self, now: u64) -> bool {
        // A successful connect is the common case and must not write to a cache line that all
        // workers read.
        if self.blacklisted.load(Acquire) == 0 {
            return false;
        }
        self.note_return(now);
        self.clear_blacklist()
    }

    /// Notes that the server came back into service, or is new.
    pub fn note_return(&self, now: u64) {
        self.returned.store(now.max(1), Relaxed);
    }
}

/// Whether a client is recorded at the server that it asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Knows {
    /// It is: a server that drains still takes it.
    Server,
    /// It is not.
    Stranger,
}

/// Whether a server may be tried that another connection is probing after its blacklist time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Patience {
    /// No: wait for the probe's result.
    Skip,
    /// Yes: no other server is left for this client.
    Join,
}

/// Whether the verdicts of checks hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Checks {
    /// They do.
    Obeyed,
    /// They do not: no server is left, and connecting decides.
    Disregarded,
}

/// How a server can be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Usable {
    /// It is in use.
    InUse,
    /// Its blacklist time is over: one connection tries it before others do.
    ForProbe,
}

/// Why a server cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unusable {
    /// It is blacklisted until this monotonic millisecond.
    Blacklisted(u64),
    /// Another connection is probing it after its blacklist time.
    Probed,
    /// Its check fails.
    Down(DownCode),
    /// It takes only clients that it knows.
    Draining,
    /// It takes no client.
    Maintenance,
}

/// Whether a client may use a server now, as far as traffic, checks and operators say. Everything
/// that says so asks this function.
///
/// What an operator said comes first, then what traffic showed, then the check. A server that is
/// down is not probed by a client when its blacklist time is over: its check finds out.
///
/// # Errors
/// The first reason against it.
#[inline]
pub fn can_use(
    blacklist: Blacklist,
    standing: Standing,
    knows: Knows,
    patience: Patience,
    checks: Checks,
) -> Result<Usable, Unusable> {
    match (standing.mode, knows) {
        (TableMode::Maint, _) => return Err(Unusable::Maintenance),
        (TableMode::Drain, Knows::Stranger) => return Err(Unusable::Draining),
        (TableMode::Drain, Knows::Server) | (TableMode::Ready, _) => {}
    }
    let usable = match (blacklist, patience) {
        (Blacklist::Until(time), _) => return Err(Unusable::Blacklisted(time)),
        (Blacklist::Probed, Patience::Skip) => return Err(Unusable::Probed),
        (Blacklist::Clear, _) | (Blacklist::Probed, Patience::Join) => Usable::InUse,
        (Blacklist::Expired, _) => Usable::ForProbe,
    };
    match (standing.down, checks) {
        (Some(code), Checks::Obeyed) => Err(Unusable::Down(code)),
        (Some(_), Checks::Disregarded) | (None, _) => Ok(usable),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::steps::dying_after;
    use crate::{Shape, Table};

    fn table() -> Table {
        Table::create(Shape { clients: 1, servers: 3, rows: 3, connections: 8 })
            .expect("memory for a table")
    }

    const MODES: [TableMode; 3] = [TableMode::Ready, TableMode::Drain, TableMode::Maint];

    /// The whole truth table: first the states of the server, then a letter for each client. The
    /// clients: known or stranger, each that skips or joins a probe, each with checks obeyed or
    /// disregarded. `u` in use, `p` for probe, `b` blacklisted, `t` tried by another, `d` down, `n`
    /// drains, `m` in maintenance.
    const TRUTH: &str = "\
        ready up   clear   uuuuuuuu\n\
        ready up   until   bbbbbbbb\n\
        ready up   expired pppppppp\n\
        ready up   probed  ttuuttuu\n\
        ready down clear   dudududu\n\
        ready down until   bbbbbbbb\n\
        ready down expired dpdpdpdp\n\
        ready down probed  ttduttdu\n\
        drain up   clear   uuuunnnn\n\
        drain up   until   bbbbnnnn\n\
        drain up   expired ppppnnnn\n\
        drain up   probed  ttuunnnn\n\
        drain down clear   dudunnnn\n\
        drain down until   bbbbnnnn\n\
        drain down expired dpdpnnnn\n\
        drain down probed  ttdunnnn\n\
        maint up   clear   mmmmmmmm\n\
        maint up   until   mmmmmmmm\n\
        maint up   expired mmmmmmmm\n\
        maint up   probed  mmmmmmmm\n\
        maint down clear   mmmmmmmm\n\
        maint down until   mmmmmmmm\n\
        maint down expired mmmmmmmm\n\
        maint down probed  mmmmmmmm\n";

    #[test]
    fn every_state_and_every_client_has_one_answer() {
        let code = DownCode::new(3 << 16 | 503).unwrap();
        let letter = |answer| match answer {
            Ok(Usable::InUse) => 'u',
            Ok(Usable::ForProbe) => 'p',
            Err(Unusable::Blacklisted(77)) => 'b',
            Err(Unusable::Probed) => 't',
            Err(Unusable::Down(seen)) if seen == code => 'd',
            Err(Unusable::Blacklisted(_) | Unusable::Down(_)) => '?',
            Err(Unusable::Draining) => 'n',
            Err(Unusable::Maintenance) => 'm',
        };
        let mut truth = String::new();
        for mode in MODES {
            for down in [None, Some(code)] {
                for (blacklist, list) in [
                    (Blacklist::Clear, "clear"),
                    (Blacklist::Until(77), "until"),
                    (Blacklist::Expired, "expired"),
                    (Blacklist::Probed, "probed"),
                ] {
                    let standing = Standing { mode, down };
                    let words = match mode {
                        TableMode::Ready => "ready",
                        TableMode::Drain => "drain",
                        TableMode::Maint => "maint",
                    };
                    let check = if down.is_some() { "down" } else { "up" };
                    truth += &format!("{words} {check:<4} {list:<7} ");
                    for knows in [Knows::Server, Knows::Stranger] {
                        for patience in [Patience::Skip, Patience::Join] {
                            for checks in [Checks::Obeyed, Checks::Disregarded] {
                                let answer = can_use(blacklist, standing, knows, patience, checks);
                                truth.push(letter(answer));
                            }
                        }
                    }
                    truth.push('\n');
                }
            }
        }
        assert_eq!(truth, TRUTH);
    }

    #[test]
    fn a_standing_is_seen_by_all_and_outlives_what_workers_do() {
        let table = table();
        let (first, second) = (table.worker_table(0), table.worker_table(1));
        assert_eq!(first.server_view(1, 5), ServerView::FREE);
        let standing = Standing { mode: TableMode::Drain, down: DownCode::new(1 << 16) };
        table.set_standing(1, standing, 9);
        let view = ServerView { blacklist: Blacklist::Clear, standing };
        assert_eq!((first.server_view(1, 5), second.server_view(0, 5)), (view, ServerView::FREE));
        assert!(first.set_blacklist(1, 1000, 1) && second.begin_probe(1, 1000, 2000));
        second.abandon_probe(1, 1500);
        assert_eq!(
            first.server_view(1, 1500),
            ServerView { blacklist: Blacklist::Expired, standing }
        );
        assert!(second.return_to_service(1, 66));
        assert_eq!((second.returned(1), first.return_to_service(1, 67)), (66, false));
        table.reclaim(0);
        assert_eq!((second.server_view(1, 5), table.server_totals(1).standing), (view, standing));
        table.set_standing(1, Standing::default(), 70);
        table.set_standing(1, Standing::default(), 71);
        assert_eq!(first.returned(1), 70, "it came back, once");
        table.note_return(1, 77);
        table.note_return(3, 77);
        assert_eq!((second.returned(1), second.returned(0), second.returned(3)), (77, 0, 0));
        assert_eq!(second.server_view(1, 5), ServerView::FREE);
        // One that does not exist.
        table.set_standing(3, standing, 9);
        assert_eq!(first.server_view(3, 5), ServerView::FREE);
        assert_eq!(first.server_view(u32::MAX, 5), ServerView::FREE);
    }

    #[test]
    fn a_correct_standing_is_not_written() {
        let table = table();
        let standing = Standing { mode: TableMode::Maint, down: None };
        // An operation that stores nothing cannot die before a store.
        let write = || dying_after(0, || table.set_standing(2, standing, 9));
        assert_eq!(write(), None);
        table.set_standing(2, standing, 9);
        assert_eq!(write(), Some(()));
    }

    /// A server comes back when new clients can use it, whatever kept them away.
    #[test]
    fn a_server_returns_when_it_opens_to_strangers_and_not_before() {
        use TableMode::{Drain, Maint, Ready};
        let down = DownCode::new(1 << 16);
        let steps = [
            (Drain, None, 0),
            (Ready, None, 2),
            (Maint, None, 2),
            (Drain, None, 2),
            (Ready, None, 5),
            (Drain, down, 5),
            (Ready, down, 5),
            (Ready, None, 8),
            (Ready, down, 8),
            (Drain, None, 8),
            (Ready, None, 11),
        ];
        let table = table();
        for (now, (mode, down, returned)) in (1..).zip(steps) {
            table.set_standing(0, Standing { mode, down }, now);
            assert_eq!(table.worker_table(0).returned(0), returned, "step {now}");
        }
    }

    /// Wherever the caller dies, no server is in use again that did not return.
    #[test]
    fn a_return_is_noted_before_anybody_can_use_the_server() {
        let maint = Standing { mode: TableMode::Maint, down: None };
        let returns: [fn(&Table); 3] = [
            |table| {
                let _ = table.worker_table(0).return_to_service(0, 77);
            },
            |table| {
                let _ = table.lift_blacklist(0, 77);
            },
            |table| table.set_standing(0, Standing::default(), 77),
        ];
        for (number, returns) in returns.into_iter().enumerate() {
            let mut deaths = 0;
            loop {
                let table = table();
                match number {
                    2 => table.set_standing(0, maint, 5),
                    _ => assert!(table.worker_table(0).set_blacklist(0, 1000, 1)),
                }
                let survived = dying_after(deaths, || returns(&table)).is_some();
                let is_free = table.server_view(0, 2000) == ServerView::FREE;
                let returned = table.worker_table(0).returned(0);
                assert!(!is_free || returned == 77, "{number}, after {deaths} stores");
                if survived {
                    assert!(is_free && deaths == 2, "{number}: {deaths}");
                    break;
                }
                deaths += 1;
            }
        }
    }

    /// What a program of this layout leaves that knows no standing.
    #[test]
    fn a_table_of_a_release_without_standings_says_ready_and_not_down() {
        let table = table();
        let worker_table = table.worker_table(0);
        assert!(worker_table.set_blacklist(0, 1000, 77));
        worker_table.note_failure(0, 77, u16::MAX);
        assert!(worker_table.move_address(0, 0, u32::MAX));
        table.reset_server(1);
        table.take_out(2, u64::MAX, u64::MAX);
        for server in 0..3 {
            assert_eq!(table.view().server(server).unwrap().standing.load(Relaxed), 0);
            assert_eq!(table.server_totals(server).standing, Standing::default());
        }
    }

    proptest! {
        #[test]
        fn any_word_is_a_standing(word in any::<u32>(), list in any::<u64>(), now in any::<u64>()) {
            let table = table();
            let state = table.view().server(0).unwrap();
            state.standing.store(word, Relaxed);
            state.blacklisted.store(list, Relaxed);
            let worker_table = table.worker_table(0);
            let ServerView { blacklist, standing } = worker_table.server_view(0, now);
            prop_assert_eq!(blacklist, worker_table.blacklist(0, now));
            prop_assert_eq!(standing, Standing::from_word(word));
            // The free bits mean nothing, and maintenance counts more than drain.
            prop_assert_eq!(Standing::from_word(standing.to_word()), standing);
            prop_assert_eq!(standing.down.map_or(0, DownCode::code), word & CODE);
            for knows in [Knows::Server, Knows::Stranger] {
                for patience in [Patience::Skip, Patience::Join] {
                    for checks in [Checks::Obeyed, Checks::Disregarded] {
                        let answer = can_use(blacklist, standing, knows, patience, checks);
                        let is_out = ServerView { blacklist, standing }.is_out(knows);
                        // More than out is nobody, but who skips a probe or obeys a check.
                        prop_assert!(answer.is_err() || !is_out || standing.down.is_some());
                    }
                }
            }
        }

        #[test]
        fn a_standing_is_read_as_it_was_written(
            mode in prop::sample::select(MODES.to_vec()),
            code in any::<u32>(),
        ) {
            let down = DownCode::new(code);
            prop_assert_eq!(down.map_or(0, DownCode::code), code & CODE);
            let standing = Standing { mode, down };
            prop_assert_eq!(Standing::from_word(standing.to_word()), standing);
        }
    }
}
