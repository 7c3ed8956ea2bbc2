//! Drain, maintenance and the verdicts of checks in every mode of selection.

use super::*;

/// What is said of a server.
#[derive(Clone, Copy, Debug)]
struct Said {
    list: Blacklist,
    mode: TableMode,
    down: bool,
}

impl Said {
    fn standing(self) -> Standing {
        Standing { mode: self.mode, down: DownCode::new(7 << 16 | 503).filter(|_| self.down) }
    }

    fn view(self) -> ServerView {
        ServerView { blacklist: self.list, standing: self.standing() }
    }

    /// Whether only the check keeps the client away.
    fn is_down_only(self, known: bool) -> bool {
        let closed = self.mode == TableMode::Maint || self.mode == TableMode::Drain && !known;
        self.down && !closed && !matches!(self.list, Blacklist::Until(_))
    }
}

fn said() -> impl Strategy<Value = Said> {
    let lists = [Blacklist::Clear, Blacklist::Until(9), Blacklist::Expired, Blacklist::Probed];
    let modes = [TableMode::Ready, TableMode::Drain, TableMode::Maint];
    (prop::sample::select(lists.to_vec()), prop::sample::select(modes.to_vec()), any::<bool>())
        .prop_map(|(list, mode, down)| Said { list, mode, down })
}

fn farm_where(all: &[Said]) -> Model {
    Model {
        states: all.iter().map(|said| Some(said.list)).collect(),
        standings: all.iter().map(|said| said.standing()).collect(),
        ..Model::default()
    }
}

/// The target that a client gets, with all trials until then.
fn outcome(
    settings: &Settings,
    farm: &Model,
    recorded: Option<Target>,
) -> (Option<Target>, Vec<Trial>) {
    let client = client(recorded);
    let mut placement = placed(settings, farm, client, &mut |_, _| ());
    let mut trials = Vec::new();
    while let Some(trial) = placement.next(settings, farm) {
        trials.push(trial);
        if placement.judge(settings, farm, client.key, trial).is_ok() {
            return (Some(trial.target), trials);
        }
    }
    (None, trials)
}

/// All modes: round robin, hash, hash of every connection, weight, prio, stubborn, leastconn, p2c.
fn selection(modes: [bool; 8]) -> Selection {
    let [roundrobin, hash, hash_always, weight, prio, stubborn, leastconn, p2c] = modes;
    Selection {
        roundrobin,
        hash,
        hash_always,
        weight,
        prio,
        stubborn,
        leastconn,
        p2c,
        maglev: Maglev::Off,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn who_is_closed_gets_nobody_and_who_is_not_is_found(
        all in prop::collection::vec(said(), 1..6),
        modes in any::<[bool; 8]>(),
        recorded in prop::option::of(0u16..7),
        fail_open in any::<bool>(),
        emergency in any::<bool>(),
        cursor in 0u32..6,
    ) {
        let selection = selection(modes);
        let mut settings = farm_of(all.len(), selection);
        settings.fail_open = fail_open;
        settings.emergency = emergency.then(server);
        let farm = farm_where(&all);
        farm.cursor.set(cursor);
        let (got, trials) = outcome(&settings, &farm, recorded.map(|n| Target::Server(ServerId(n))));

        let recorded = recorded.map(usize::from).filter(|n| *n < all.len());
        let known = |n: usize| recorded == Some(n) && !selection.roundrobin;
        let knows = |n| if known(n) { Knows::Server } else { Knows::Stranger };
        let is_out = |n: usize| all[n].view().is_out(knows(n));
        let all_out = (0..all.len()).all(is_out);
        let disregards = fail_open && !emergency && all_out;
        prop_assert!(trials.len() <= 4 * all.len() + 3, "{trials:?}");
        match got {
            Some(Target::Server(ServerId(n))) => {
                let n = usize::from(n);
                prop_assert_ne!(all[n].mode, TableMode::Maint);
                prop_assert!(all[n].mode != TableMode::Drain || known(n));
                prop_assert!(!matches!(all[n].list, Blacklist::Until(_)));
                prop_assert_eq!(is_out(n), disregards, "a check is obeyed unless all are out");
                prop_assert!(!disregards || all[n].is_down_only(known(n)));
            }
            Some(Target::Emergency) => prop_assert!(emergency && all_out && !selection.stubborn),
            Some(Target::Abuse) => prop_assert!(false, "no list refuses the client"),
            None if selection.stubborn => {}
            None => {
                prop_assert!(all_out && !emergency);
                prop_assert!(!fail_open || (0..all.len()).all(|n| !all[n].is_down_only(known(n))));
            }
        }
        let is_tracked = !selection.roundrobin && !selection.hash_always;
        if let Some(n) = recorded.filter(|n| is_tracked && !is_out(*n)) {
            // A probe that another connection makes is joined only when no other is left.
            let waits = all[n].list == Blacklist::Probed && !selection.stubborn;
            let own = Some(Target::Server(ServerId(n as u16)));
            prop_assert!(got == own || waits, "{got:?} instead of {n}");
        }
        if selection.stubborn && disregards {
            let own = recorded.filter(|_| is_tracked);
            let by_number = selection.method() == Method::Hash;
            let tried = own.or(by_number.then(|| trials[0].target.code() as usize));
            let expected = match tried {
                Some(n) => all[n].is_down_only(known(n)),
                None => (0..all.len()).any(|n| all[n].is_down_only(known(n))),
            };
            prop_assert_eq!(got.is_some(), expected);
        }
    }

    #[test]
    fn whoever_is_first_each_trial_comes_once(
        all in prop::collection::vec(said(), 1..6),
        modes in any::<[bool; 8]>(),
        recorded in prop::option::of(0u16..7),
    ) {
        let (settings, farm) = (farm_of(all.len(), selection(modes)), farm_where(&all));
        let client = client(recorded.map(|n| Target::Server(ServerId(n))));
        let mut placement = placed(&settings, &farm, client, &mut |_, _| ());
        let mut trials: Vec<String> = Vec::new();
        while let Some(trial) = placement.next(&settings, &farm) {
            trials.push(format!("{trial:?}"));
            prop_assert!(trials.len() <= 4 * all.len() + 3, "{trials:?}");
        }
        let count = trials.len();
        trials.sort_unstable();
        trials.dedup();
        prop_assert_eq!(trials.len(), count);
        prop_assert!(placement.is_over());
    }
}

const UP: Said = Said { list: Blacklist::Clear, mode: TableMode::Ready, down: false };
const DOWN: Said = Said { down: true, ..UP };
const DRAIN: Said = Said { mode: TableMode::Drain, ..UP };
const MAINT: Said = Said { mode: TableMode::Maint, ..UP };

fn code(target: Option<Target>) -> Option<i32> {
    target.map(Target::code)
}

#[test]
fn servers_whose_checks_are_disregarded_take_turns_in_every_mode() {
    let not_stubborn = (0..=255u8).filter(|bits| bits >> 5 & 1 == 0);
    for modes in not_stubborn.map(|bits| std::array::from_fn(|n| bits >> n & 1 == 1)) {
        let selection = selection(modes);
        let mut settings = farm_of(5, selection);
        let farm = farm_where(&[DOWN, MAINT, DOWN, DRAIN, DOWN]);
        let mut counts = [0; 5];
        for _ in 0..9 {
            counts[outcome(&settings, &farm, None).0.unwrap().code() as usize] += 1;
        }
        assert_eq!(counts, [3, 0, 3, 0, 3], "{selection:?}");
        settings.fail_open = false;
        assert_eq!(outcome(&settings, &farm, None).0, None, "{selection:?}");
    }
}

#[test]
fn a_failed_server_gives_way_to_the_next_whose_check_is_disregarded() {
    let settings = farm_of(3, Selection::default());
    let farm = farm_where(&[DOWN; 3]);
    let candidate = client(None);
    let mut placement = placed(&settings, &farm, candidate, &mut |_, _| ());
    let regardless = std::iter::from_fn(|| placement.next(&settings, &farm))
        .filter(|trial| trial.checks == Checks::Disregarded)
        .map(|trial| trial.target.code());
    assert_eq!(regardless.collect::<Vec<_>>(), [1, 2, 0]);
}

#[test]
fn stubborn_clients_of_a_server_that_is_down_go_there_only_if_all_are_out() {
    let stubborn = Selection { stubborn: true, ..Selection::default() };
    let mut settings = farm_of(2, stubborn);
    let own = Some(Target::Server(ServerId(0)));
    assert_eq!(outcome(&settings, &farm_where(&[DOWN, UP]), own).0, None);
    assert_eq!(code(outcome(&settings, &farm_where(&[DOWN, DOWN]), own).0), Some(0));
    assert_eq!(code(outcome(&settings, &farm_where(&[DOWN, MAINT]), own).0), Some(0));
    assert_eq!(outcome(&settings, &farm_where(&[MAINT, DOWN]), own).0, None);
    assert_eq!(code(outcome(&settings, &farm_where(&[DRAIN, UP]), own).0), Some(0));
    settings.emergency = Some(server());
    assert_eq!(outcome(&settings, &farm_where(&[DOWN, DOWN]), own).0, None);
}

#[test]
fn a_server_that_is_full_is_not_out() {
    let settings = settings(
        vec![Some(Server { soft: 1, hard: 1, ..server() }), Some(server())],
        Selection::default(),
    );
    let farm = Model { connections: vec![1], ..farm_where(&[UP, DOWN]) };
    assert_eq!(outcome(&settings, &farm, None).0, None);
}

#[test]
fn without_a_client_no_server_that_drains_or_is_down_comes() {
    let settings = farm_of(4, Selection::default());
    let farm = farm_where(&[DOWN, MAINT, DRAIN, DOWN]);
    let mut placement = Placement::without_client(&settings, &farm);
    assert_eq!(placement.next(&settings, &farm), None);
}
