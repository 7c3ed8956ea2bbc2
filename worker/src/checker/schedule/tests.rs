//! The schedule, with a clock of numbers.

use proptest::prelude::*;

use pen_config::checks::CheckKind;
use pen_config::proxy::ProxyOut;
use pen_ipc::checks::{CheckState, FaultClass};

use super::*;

const RHYTHM: Rhythm = Rhythm { interval: 2000, limits: Limits { rise: 2, fall: 3 } };

fn target(server: i32) -> Target {
    let check = Check { kind: CheckKind::Tcp, host: None, port: None, proxy: ProxyOut::Off };
    let address = Address::Inet(([127, 0, 0, 1], 80).into());
    Target { server, addresses: vec![address], check, transport: Transport::Plain, epoch: 0 }
}

fn targets(count: i32) -> Vec<Target> {
    (0..count).map(target).collect()
}

fn schedule(count: i32) -> Schedule {
    let mut schedule = Schedule::new(RHYTHM, 7);
    assert!(schedule.apply(1, RHYTHM, targets(count), 0).is_empty());
    schedule
}

fn fault() -> Ended {
    Ended::Failure(CheckFault::of(FaultClass::Refused))
}

/// The checks that begin until a time, each over at once, with the time of each.
fn run(schedule: &mut Schedule, until: u64, ended: &Ended) -> Vec<(u64, i32)> {
    let mut begun = Vec::new();
    while let Some(now) = schedule.due().filter(|due| *due < until) {
        let order = schedule.next(now).unwrap();
        schedule.finished(order.number, ended.clone(), 1, now);
        begun.push((now, order.target.server));
    }
    begun
}

fn verdict(schedule: &Schedule, server: i32) -> Verdict {
    schedule.rows[&server].verdict
}

#[test]
fn the_first_checks_are_spread_evenly() {
    let mut schedule = schedule(100);
    let mut seen = Vec::new();
    for _ in 0..100 {
        let now = schedule.due().unwrap();
        seen.push((now, schedule.next(now).unwrap().target.server));
    }
    let expected: Vec<(u64, i32)> = (0..100).map(|n| (n * 10, n as i32)).collect();
    assert_eq!(seen, expected);
    assert_eq!(schedule.due(), None);
}

#[test]
fn a_period_is_the_interval_give_or_take_a_tenth_and_half_of_it_in_question() {
    let mut schedule = schedule(1);
    let begun = run(&mut schedule, 1_000_000, &Ended::Success);
    let gaps: Vec<u64> = begun.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    // Until it is up.
    assert!((900..=1100).contains(&gaps[0]), "{gaps:?}");
    assert!(gaps[1..].iter().all(|gap| (1800..=2200).contains(gap)), "{gaps:?}");
    let (low, high) = (gaps[1..].iter().min().unwrap(), gaps[1..].iter().max().unwrap());
    assert!(*low < 1850 && *high > 2150, "{low} to {high}");
    // A failure puts it in question, and it is not any more when it is down.
    let states: Vec<(CheckState, i16)> = (0..4)
        .map(|_| {
            let now = schedule.due().unwrap();
            let order = schedule.next(now).unwrap();
            let judged = schedule.finished(order.number, fault(), 1, now).unwrap();
            let gap = schedule.due().unwrap() - now;
            let half = judged.result.verdict.streak != 0;
            assert_eq!((900..=1100).contains(&gap), half, "{gap}");
            (judged.result.verdict.state, judged.result.verdict.streak)
        })
        .collect();
    let (up, down) = (CheckState::Up, CheckState::Down);
    assert_eq!(states, [(up, -1), (up, -2), (down, 0), (down, 0)]);
}

#[test]
fn at_most_200_are_under_way_and_the_oldest_are_first() {
    let mut schedule = schedule(1000);
    let mut orders: Vec<Order> = std::iter::from_fn(|| schedule.next(10_000)).collect();
    let servers: Vec<i32> = orders.iter().map(|order| order.target.server).collect();
    assert_eq!(servers, (0..200).collect::<Vec<i32>>());
    assert_eq!(schedule.due(), None);
    let order = orders.pop().unwrap();
    schedule.finished(order.number, Ended::Success, 5, 10_100);
    assert_eq!(schedule.due(), Some(200));
    assert_eq!(schedule.next(10_100).unwrap().target.server, 200);
    assert!(schedule.next(10_100).is_none());
}

#[test]
fn a_reload_keeps_the_verdicts_and_turns_of_what_stays() {
    let mut schedule = schedule(1000);
    run(&mut schedule, 10_000, &Ended::Success);
    let turns = schedule.queue.clone();
    assert!(schedule.apply(2, RHYTHM, targets(1000), 10_000).is_empty());
    assert!(schedule.queue == turns, "turns have moved");
    assert!((0..1000).all(|n| verdict(&schedule, n).state == CheckState::Up));
    // Another address, another question, another epoch, one that is gone, one that is new, and one
    // with one more address.
    let mut changed = targets(1001);
    let other = Address::Inet(([127, 0, 0, 2], 80).into());
    changed[0].addresses = vec![other.clone()];
    changed[4].addresses.push(other);
    changed[1].check.kind = CheckKind::Smtp;
    changed[2].epoch = 1;
    changed.remove(3);
    schedule.apply(3, RHYTHM, changed, 10_000);
    let unknown: Vec<i32> = schedule
        .rows
        .iter()
        .filter(|(_, row)| row.verdict.state == CheckState::Unknown)
        .map(|(server, _)| *server)
        .collect();
    assert_eq!(unknown, [0, 1, 2, 1000]);
    assert_eq!(schedule.rows[&4].target.addresses.len(), 2);
    assert_eq!(schedule.rows.len(), 1000);
    assert!(!schedule.rows.contains_key(&3));
}

#[test]
fn a_shorter_interval_holds_at_once_and_not_for_all_at_the_same_time() {
    let slow = Rhythm { interval: 3_600_000, ..RHYTHM };
    let mut schedule = Schedule::new(slow, 7);
    schedule.apply(1, slow, targets(500), 0);
    // In question, then up.
    run(&mut schedule, 2_500_000, &Ended::Success);
    let now = 2_500_000;
    schedule.apply(2, RHYTHM, targets(500), now);
    let begun = run(&mut schedule, now + 2200, &Ended::Success);
    let first_half = begun.iter().filter(|(at, _)| *at < now + 1000).count();
    assert!(begun.len() >= 500 && (150..350).contains(&first_half), "{first_half}");
}

#[test]
fn a_result_that_is_not_wanted_any_more_does_not_count() {
    let mut schedule = schedule(2);
    let stays = schedule.next(0).unwrap();
    let changes = schedule.next(500).unwrap();
    let mut settings = targets(2);
    settings[1].check.kind = CheckKind::Ldap;
    assert_eq!(schedule.apply(2, RHYTHM, settings, 600), [changes.number]);
    assert!(schedule.finished(changes.number, Ended::Success, 1, 700).is_none());
    let judged = schedule.finished(stays.number, Ended::Success, 1, 700).unwrap();
    assert_eq!((judged.result.server, judged.result.generation), (0, 2));
    assert_eq!(schedule.next(700).unwrap().target.check.kind, CheckKind::Ldap);
    // Nor one that is told twice, or never began.
    assert!(schedule.finished(stays.number, fault(), 1, 700).is_none());
    assert!(schedule.finished(99, fault(), 1, 700).is_none());
    assert!(schedule.under_way.len() == 1);
}

#[test]
fn a_shortage_of_our_own_says_nothing() {
    let mut schedule = schedule(1);
    run(&mut schedule, 10_000, &Ended::Success);
    let before = verdict(&schedule, 0);
    let now = schedule.due().unwrap();
    let order = schedule.next(now).unwrap();
    assert!(schedule.finished(order.number, Ended::NotAsked, 1, now).is_none());
    assert_eq!(verdict(&schedule, 0), before);
    assert!((1800..=2200).contains(&(schedule.due().unwrap() - now)));
}

#[test]
fn suspicion_brings_a_check_at_once_that_began_after_it() {
    let mut schedule = schedule(1);
    run(&mut schedule, 10_000, &Ended::Success);
    schedule.suspect(0, 10_000);
    assert_eq!(schedule.due(), Some(10_000));
    let first = schedule.next(10_000).unwrap();
    schedule.suspect(0, 10_500);
    schedule.finished(first.number, Ended::Success, 1, 10_600);
    assert_eq!(schedule.due(), Some(10_600));
    let second = schedule.next(10_600).unwrap();
    assert_eq!(schedule.finished(second.number, fault(), 1, 10_601).unwrap().result.began, 10_600);
    // However many suspicions there are, checks keep a distance.
    for now in 10_601..10_650 {
        schedule.suspect(0, now);
        assert_eq!(schedule.due(), Some(10_700));
    }
    schedule.suspect(77, 0);
}

#[test]
fn a_seed_counts_until_there_are_own_results() {
    let mut schedule = schedule(2);
    let down = Verdict { state: CheckState::Down, streak: 1 };
    let seed = |server| Seed { server, position: 0, verdict: down };
    schedule.seed(&seed(0));
    schedule.seed(&seed(77));
    let order = schedule.next(0).unwrap();
    let judged = schedule.finished(order.number, Ended::Success, 3, 1).unwrap();
    assert_eq!(judged.change, Change::Up);
    assert_eq!((judged.result.micros, judged.result.fault), (3, None));
    schedule.seed(&seed(0));
    assert_eq!(verdict(&schedule, 0).state, CheckState::Up);
    assert_eq!(verdict(&schedule, 1).state, CheckState::Unknown);
}

/// What may happen to a schedule.
#[derive(Clone, Debug)]
enum Happens {
    Apply(Vec<(i32, u32)>),
    Begin,
    End(usize, u8),
    Suspect(i32),
    Time(u64),
}

fn anything() -> impl Strategy<Value = Happens> {
    prop_oneof![
        prop::collection::vec((0..300, 0_u32..2), 0..300).prop_map(Happens::Apply),
        Just(Happens::Begin),
        (any::<usize>(), 0_u8..3).prop_map(|(which, how)| Happens::End(which, how)),
        (0..300).prop_map(Happens::Suspect),
        (0_u64..5000).prop_map(Happens::Time),
    ]
}

proptest! {
    #[test]
    fn every_server_waits_or_is_under_way_whatever_happens(
        happens in prop::collection::vec(anything(), 0..60),
    ) {
        let mut schedule = schedule(250);
        let (mut now, mut orders) = (0, Vec::new());
        for happens in happens {
            match happens {
                Happens::Apply(wanted) => {
                    let wanted: BTreeMap<i32, u32> = wanted.into_iter().collect();
                    let targets = wanted.iter().map(|(n, epoch)| Target { epoch: *epoch, ..target(*n) });
                    let ended = schedule.apply(now, RHYTHM, targets.collect(), now);
                    orders.retain(|number| !ended.contains(number));
                }
                Happens::Begin => {
                    while let Some(order) = schedule.next(now) {
                        orders.push(order.number);
                    }
                }
                Happens::End(which, how) if !orders.is_empty() => {
                    let number = orders.swap_remove(which % orders.len());
                    let ended = match how {
                        0 => Ended::Success,
                        1 => fault(),
                        _ => Ended::NotAsked,
                    };
                    let judged = schedule.finished(number, ended, 1, now);
                    prop_assert_eq!(judged.is_some(), how < 2);
                }
                Happens::End(..) => {}
                Happens::Suspect(server) => schedule.suspect(server, now),
                Happens::Time(passes) => now += passes,
            }
            let waits: BTreeSet<(u64, i32)> = schedule.rows.iter().filter_map(|(server, row)| {
                match row.phase {
                    Phase::Waits { due, .. } => Some((due, *server)),
                    Phase::UnderWay { .. } => None,
                }
            }).collect();
            prop_assert_eq!(&schedule.queue, &waits);
            prop_assert!(waits.iter().all(|(due, _)| *due <= now + 2200));
            prop_assert_eq!(schedule.rows.len() - waits.len(), schedule.under_way.len());
            prop_assert!(schedule.under_way.len() <= MOST_UNDER_WAY);
            let under_way: Vec<u64> = schedule.under_way.keys().copied().collect();
            orders.sort_unstable();
            prop_assert_eq!(&under_way, &orders);
        }
    }
}
