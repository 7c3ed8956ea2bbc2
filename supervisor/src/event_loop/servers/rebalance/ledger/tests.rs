//! A simulated farm: clients whose connections are ended come back later, or never.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn seat(number: u16, connections: u32) -> Seat {
    Seat { server: ServerId(number), weight: 1, limit: None, connections }
}

/// Servers, clients that are on their way, and all that was ended.
struct Farm {
    ledger: Ledger,
    percent: u32,
    seats: Vec<Seat>,
    /// When a client comes back, and to which server.
    away: Vec<(Instant, ServerId)>,
    /// When a connection was ended, of which server, and how many it had then.
    ended: Vec<(Instant, ServerId, u32)>,
    news: Vec<News>,
    now: Instant,
}

impl Farm {
    fn new(percent: u32, seats: Vec<Seat>) -> Farm {
        let (ledger, now) = (Ledger::default(), Instant::now());
        let (away, ended, news) = (Vec::new(), Vec::new(), Vec::new());
        Farm { ledger, percent, seats, away, ended, news, now }
    }

    fn at(&mut self, server: ServerId) -> &mut Seat {
        self.seats.iter_mut().find(|seat| seat.server == server).unwrap()
    }

    fn counts(&self) -> Vec<u32> {
        self.seats.iter().map(|seat| seat.connections).collect()
    }

    fn total(&self) -> u64 {
        self.counts().into_iter().map(u64::from).sum::<u64>() + self.away.len() as u64
    }

    /// One turn, so many milliseconds after the last one. `returns` says when a client of a closed
    /// connection comes back, and where; `silent` how many connections of each order are silent.
    fn turn(
        &mut self,
        after: u64,
        silent: u32,
        mut returns: impl FnMut(ServerId) -> Option<(u64, ServerId)>,
    ) {
        self.now += Duration::from_millis(after);
        let now = self.now;
        let (back, away) = self.away.drain(..).partition::<Vec<_>, _>(|(at, _)| *at <= now);
        self.away = away;
        for (_, server) in back {
            self.at(server).connections += 1;
        }
        let (moves, news) = self.ledger.plan(self.percent, &self.seats, |_| false, now);
        self.news.extend(news);
        for order in moves {
            let closed = order.most.min(silent);
            for _ in 0..closed {
                let connections = self.at(order.from).connections;
                self.ended.push((now, order.from, connections));
                self.at(order.from).connections -= 1;
                if let Some((delay, to)) = returns(order.to) {
                    self.away.push((now + Duration::from_millis(delay), to));
                }
            }
            self.news.extend(self.ledger.settle(order, closed, order.most - closed));
        }
    }
}

#[test]
fn clients_move_to_a_server_that_came_back_empty_and_then_nothing_moves_any_more() {
    let mut farm = Farm::new(10, vec![seat(0, 150), seat(1, 150), seat(2, 0)]);
    for _ in 0..2000 {
        farm.turn(900, 99, |to| Some((500, to)));
    }
    assert_eq!(farm.counts(), [100, 100, 100]);
    assert_eq!(farm.ended.len(), 100, "none more often than it must");
    let began = |server| News::Began { server, connections: 150, share: 100 };
    let ended = |server| News::Ended { server, closed: 50 };
    let [one, two] = [ServerId(0), ServerId(1)];
    let news: Vec<News> = vec![began(one), began(two), ended(one), ended(two)];
    assert!(farm.news.len() == 4 && news.iter().all(|one| farm.news.contains(one)));
}

#[test]
fn if_nobody_comes_back_no_more_are_closed_than_were_to_move() {
    let mut farm = Farm::new(100, vec![seat(0, 150), seat(1, 150), seat(2, 0)]);
    for _ in 0..320 {
        farm.turn(900, 99, |_| None);
    }
    assert_eq!(farm.counts(), [100, 100, 0]);
}

#[test]
fn a_server_that_joins_or_leaves_changes_the_shares() {
    let mut farm = Farm::new(100, vec![seat(0, 100), seat(1, 100)]);
    farm.turn(900, 99, |to| Some((0, to)));
    farm.seats.push(seat(2, 0));
    for _ in 0..400 {
        farm.turn(900, 99, |to| Some((0, to)));
    }
    assert_eq!(farm.counts(), [67, 67, 66]);
    farm.seats.pop();
    let before = farm.ended.len();
    for _ in 0..400 {
        farm.turn(900, 99, |to| Some((0, to)));
    }
    assert_eq!((farm.ended.len(), farm.counts()), (before, vec![67, 67]));
}

#[test]
fn weights_and_limits_are_shares() {
    let weighted = Seat { weight: 3, ..seat(0, 10) };
    let limited = Seat { limit: Some(15), ..seat(1, 0) };
    let mut farm = Farm::new(100, vec![weighted, limited, seat(2, 110)]);
    for _ in 0..400 {
        farm.turn(900, 99, |to| Some((0, to)));
    }
    let counts = farm.counts();
    assert_eq!(counts.iter().sum::<u32>(), 120);
    assert!(counts[1] == 15 && (78..=79).contains(&counts[0]), "{counts:?}");
}

#[test]
fn nothing_is_ended_where_nobody_has_room() {
    let full = |number, connections| Seat { limit: Some(10), ..seat(number, connections) };
    let mut farm = Farm::new(100, vec![full(0, 30), full(1, 10)]);
    for _ in 0..100 {
        farm.turn(900, 99, |to| Some((0, to)));
    }
    assert_eq!(farm.counts(), [30, 10]);
}

#[test]
fn a_program_that_took_over_waits_for_what_the_one_before_may_have_ended() {
    let seats = [seat(0, 100), seat(1, 0)];
    let start = Instant::now();
    let mut ledger = Ledger::adopted(start);
    let mut plan =
        |second| ledger.plan(100, &seats, |_| false, start + Duration::from_secs(second)).0;
    assert_eq!(plan(1), []);
    assert_eq!(plan(61), []);
    assert_eq!(plan(62).len(), 1);
}

#[test]
fn an_order_under_way_is_waited_for_and_a_stop_ends_the_rest() {
    let seats = [seat(0, 100), seat(1, 0)];
    let (start, mut ledger) = (Instant::now(), Ledger::default());
    let at = |second| start + Duration::from_secs(second);
    assert_eq!(ledger.plan(60, &seats, |_| false, start).0, []);
    let (moves, _) = ledger.plan(60, &seats, |_| false, at(2));
    assert_eq!(moves.iter().map(|one| one.most).collect::<Vec<_>>(), [2]);
    assert_eq!(ledger.plan(60, &seats, |_| true, at(4)).0, []);
    let began = ledger.settle(moves[0], 1, 0);
    assert_eq!(began, Some(News::Began { server: ServerId(0), connections: 100, share: 50 }));
    assert_eq!(ledger.settle(moves[0], 1, 0), None);
    assert_eq!(ledger.stop(at(5)), [News::Ended { server: ServerId(0), closed: 2 }]);
    assert_eq!(ledger.stop(at(5)), []);
    assert!(!ledger.is_empty(), "what was ended still counts");
    ledger.stop(at(90));
    assert!(ledger.is_empty());
}

/// A farm of any counts, weights and limits.
fn seats() -> impl Strategy<Value = Vec<Seat>> {
    let one = (1u64..5, prop::option::weighted(0.2, 0u32..200), 0u32..300);
    prop::collection::vec(one, 1..8).prop_map(|each| {
        let seat = |(number, (weight, limit, connections))| Seat {
            server: ServerId(number),
            weight,
            limit,
            connections,
        };
        (0..).zip(each).map(seat).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nobody_falls_below_its_share_no_minute_has_more_than_the_percentage_and_it_comes_to_rest(
        seats in seats(),
        percent in 1u32..=100,
        steps in prop::collection::vec((1u64..3000, 0u32..30, 0u64..20_000), 200),
    ) {
        let first = seats.clone();
        let mut farm = Farm::new(percent, seats);
        let mut beyond = 0;
        for (after, silent, delay) in steps {
            farm.turn(after, silent, |to| Some((delay, to)));
            let total = farm.total();
            let shares = shares(&farm.seats, total);
            for (seat, share) in farm.seats.iter().zip(&shares) {
                let has_lost = farm.ended.last().is_some_and(|(at, server, _)| {
                    (*at, *server) == (farm.now, seat.server)
                });
                prop_assert!(!has_lost || seat.connections >= share.above, "{seat:?} {share:?}");
            }
        }
        for (at, server, most) in &farm.ended {
            let within = farm.ended.iter().filter(|(other, of, _)| {
                of == server && at <= other && *other < *at + MINUTE
            });
            // Counts only fall while connections are ended.
            let allowed = (u64::from(percent) * u64::from(*most)).div_ceil(100);
            prop_assert!(within.count() as u64 <= allowed);
        }
        // All come back; what is over then is moved, and nothing after that.
        let shares = shares(&first, farm.total());
        for (seat, share) in first.iter().zip(&shares) {
            beyond += u64::from(seat.connections.saturating_sub(share.above));
        }
        farm.percent = 100;
        for _ in 0..800 {
            farm.turn(900, 99, |to| Some((0, to)));
        }
        prop_assert!(farm.ended.len() as u64 <= beyond, "{} of {beyond}", farm.ended.len());
        let counts = farm.counts();
        farm.turn(900, 99, |to| Some((0, to)));
        prop_assert_eq!(farm.counts(), counts);
    }

    #[test]
    fn balanced_servers_lose_nothing(
        weights in prop::collection::vec(1u32..6, 1..8),
        each in 0u32..200,
        percent in 1u32..=100,
    ) {
        let balanced = (0..).zip(weights).map(|(number, weight)| Seat {
            weight: weight.into(),
            ..seat(number, weight * each)
        });
        let mut farm = Farm::new(percent, balanced.collect());
        for _ in 0..50 {
            farm.turn(5000, 99, |to| Some((0, to)));
        }
        prop_assert!(farm.ended.is_empty() && farm.news.is_empty());
    }
}
