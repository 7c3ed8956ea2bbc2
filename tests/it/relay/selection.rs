//! Which server a client is given (pen(8), Server selection), as one program whatever the number of
//! workers.

use std::net::Ipv4Addr;

use crate::harness::{Backend, Client, Pen, eventually};

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 2, 0, number)
}

/// The answers to clients 1 to `count`, each new, each taken by the next worker in turn.
fn answers(pen: &Pen, workers: usize, count: u8) -> String {
    (1..=count)
        .map(|n| {
            pen.only(usize::from(n) % workers, || {
                pen.ask(client(n)).unwrap_or_else(|| "-".to_string())
            })
        })
        .collect()
}

#[test]
fn round_robin_is_one_sequence_over_all_workers_and_begins_with_server_1() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = Pen::builder().options(["-r"]).servers(&farm).start();
    assert_eq!(answers(&pen, 3, 12), "bcabcabcabca");
}

#[test]
fn round_robin_moves_on_for_the_same_client_too() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = Pen::builder().options(["-r"]).servers(&farm).start();
    let sequence: String = (0..6).map(|_| pen.ask(client(1)).unwrap()).collect();
    assert_eq!(sequence, "bcabca");
}

#[test]
fn new_clients_take_turns_without_any_option() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = Pen::builder().servers(&farm).start();
    assert_eq!(answers(&pen, 3, 7), "bcabcab");
}

#[test]
fn prio_sends_new_clients_to_the_lowest_rank_that_is_up_and_moves_nobody_back() {
    let farm = Backend::farm(["a", "b", "c"]);
    let ranked = |n: usize, prio: u32| format!("{}:0:0:1:{prio}", farm[n].operand());
    let pen = Pen::builder()
        .options(["--prio"])
        .server_as(ranked(0, 2))
        .server_as(ranked(1, 0))
        .server_as(ranked(2, 1))
        .start();
    assert_eq!(answers(&pen, 3, 4), "bbbb");
    farm[1].stop();
    assert_eq!(pen.ask(client(1)).as_deref(), Some("c"), "failover goes by prio, not by number");
    assert_eq!(pen.ask(client(9)).as_deref(), Some("c"));
}

#[test]
fn a_single_server_serves_everybody() {
    let farm = Backend::farm(["a"]);
    let pen = Pen::builder().options(["-r"]).servers(&farm).start();
    assert_eq!(answers(&pen, 3, 4), "aaaa");
}

#[test]
fn the_same_server_given_twice_is_two_servers() {
    let farm = Backend::farm(["a", "b"]);
    let pen =
        Pen::builder().options(["-r"]).server(&farm[0]).server(&farm[0]).server(&farm[1]).start();
    assert_eq!(answers(&pen, 3, 6), "abaaba");
    let report = pen.report();
    assert_eq!(report.servers.len(), 3);
    let received: Vec<i64> = (0..3).map(|n| report.server(n, "received")).collect();
    assert_eq!(received, [4, 4, 4], "each place counts for itself: two answers of two bytes");
}

#[test]
fn failover_goes_on_with_the_server_after_the_failed_one_and_wraps_round() {
    let farm = [Backend::named("a"), Backend::down("b"), Backend::down("c"), Backend::down("d")];
    let pen = Pen::builder().servers(&farm).start();
    assert_eq!(answers(&pen, 3, 3), "aaa");
    for server in ["1", "2", "3"] {
        pen.hears(&format!("blacklisting server {server} ("));
    }
    assert!(!pen.said().contains("blacklisting server 0"));
}

#[test]
fn failover_does_not_move_the_round_robin_cursor() {
    let farm = [Backend::named("a"), Backend::down("b"), Backend::named("c")];
    let pen = Pen::builder().options(["-r"]).servers(&farm).start();
    // The first selection is 1, which fails over to 2; the cursor stays at 1.
    assert_eq!(answers(&pen, 3, 5), "ccaca");
}

#[test]
fn what_a_client_sent_before_the_failover_reaches_the_next_server() {
    let farm = [Backend::named("a"), Backend::down("b")];
    let pen = Pen::builder().servers(&farm).start();
    let client = pen.connect(client(1));
    client.send("early words");
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"a\nearly words");
}

#[test]
fn a_client_moved_by_failover_stays_where_it_is_when_its_old_server_recovers() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = Pen::builder().options(["-b", "1"]).servers(&farm).start();
    assert_eq!(answers(&pen, 3, 3), "bca");
    farm[1].die();
    assert_eq!(pen.ask(client(1)).as_deref(), Some("c"));
    farm[1].start();
    // A new client finds b in use again ...
    let mut newcomers = 10..;
    eventually("b is in use again", || {
        pen.ask(client(newcomers.next().unwrap())).as_deref() == Some("b")
    });
    // ... and no client with a recorded server is moved.
    assert_eq!(pen.ask(client(1)).as_deref(), Some("c"));
    assert_eq!(pen.ask(client(2)).as_deref(), Some("c"));
    assert_eq!(pen.ask(client(3)).as_deref(), Some("a"));
}

#[test]
fn clients_of_other_servers_do_not_notice_a_dead_server() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = Pen::builder().servers(&farm).start();
    assert_eq!(answers(&pen, 3, 6), "bcabca");
    farm[0].die();
    assert_eq!(
        answers(&pen, 3, 6),
        "bcbbcb",
        "the clients of a go to the next server, the others stay"
    );
}

#[test]
fn stubborn_closes_a_new_client_whose_first_choice_fails_and_then_skips_that_server() {
    let farm = [Backend::named("a"), Backend::down("b"), Backend::named("c")];
    let pen = Pen::builder().options(["-s"]).servers(&farm).start();
    assert_eq!(answers(&pen, 3, 4), "-cac");
}

#[test]
fn stubborn_keeps_a_client_on_its_server_through_an_outage() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().options(["-s", "-b", "1"]).servers(&farm).start();
    assert_eq!(pen.ask(client(1)).as_deref(), Some("b"));
    farm[1].die();
    for worker in 0..3 {
        assert_eq!(pen.only(worker, || pen.ask(client(1))), None);
    }
    farm[1].start();
    eventually("the client's server is tried again", || match pen.ask(client(1)).as_deref() {
        None => false,
        Some("b") => true,
        Some(other) => panic!("the client was sent to {other}"),
    });
}

#[test]
fn stubborn_bars_the_emergency_server() {
    let (down, emergency) = (Backend::down("a"), Backend::named("e"));
    let pen = Pen::builder().options(["-s", "-e", &emergency.operand()]).server(&down).start();
    assert_eq!(answers(&pen, 3, 2), "--");
    assert_eq!(emergency.accepted(), 0);
}

#[test]
fn the_hash_depends_on_the_address_alone_in_every_worker_and_every_run() {
    let farm = Backend::farm(["a", "b", "c", "d"]);
    let runs = [1, 3].map(|workers| {
        let pen = Pen::builder().options(["-h"]).workers(workers).servers(&farm).start();
        answers(&pen, workers as usize, 40)
    });
    assert_eq!(runs[0], runs[1]);
    for name in ["a", "b", "c", "d"] {
        assert!(runs[0].contains(name), "one subnet is spread over all servers: {}", runs[0]);
    }
}

#[test]
fn a_hashed_client_is_tracked_but_with_n_it_returns_to_its_hashed_server() {
    for (option, comes_back) in [("-h", false), ("-N", true)] {
        let farm = Backend::farm(["a", "b"]);
        let pen = Pen::builder().options([option, "-b", "1"]).servers(&farm).start();
        let home = pen.ask(client(1)).unwrap();
        let (old, new) = if home == "a" { (&farm[0], "b") } else { (&farm[1], "a") };
        old.die();
        assert_eq!(pen.ask(client(1)).as_deref(), Some(new));
        old.start();
        let mut others = 10..;
        eventually("the server is in use again", || {
            pen.ask(client(others.next().unwrap())).as_deref() == Some(home.as_str())
        });
        assert_eq!(
            pen.ask(client(1)).unwrap(),
            if comes_back { home.as_str() } else { new },
            "{option}"
        );
    }
}

#[test]
fn with_round_robin_the_hash_takes_the_port_too() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder().options(["-h", "-r"]).servers(&farm).start();
    eventually("one client reaches both servers", || {
        pen.ask(client(1));
        farm.iter().all(|backend| backend.accepted() > 0)
    });
}

#[test]
fn weight_splits_open_connections_two_to_one() {
    let farm = Backend::farm(["a", "b"]);
    let [a, b] = [0, 1].map(|n| farm[n].operand());
    let pen = Pen::builder()
        .options(["-W"])
        .server_as(format!("{a}:0:0:2"))
        .server_as(format!("{b}:0:0:1"))
        .start();
    let held: Vec<(Client, String)> =
        (1..=6).map(|n| pen.only(usize::from(n) % 3, || pen.hold(client(n)).unwrap())).collect();
    let of_a = held.iter().filter(|(_, name)| name == "a").count();
    assert_eq!((of_a, held.len() - of_a), (4, 2));
    let report = pen.report();
    assert_eq!((report.server(0, "connections"), report.server(1, "connections")), (4, 2));
}

#[test]
fn weight_gives_clients_that_come_one_by_one_to_all_servers() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = Pen::builder().options(["-W"]).servers(&farm).start();
    for n in 1..=12 {
        pen.ask(client(n)).unwrap();
    }
    let clients: Vec<usize> = farm.iter().map(Backend::accepted).collect();
    assert!(clients.iter().all(|accepted| *accepted >= 3), "{clients:?}");
}

#[test]
fn weight_0_keeps_new_clients_away_until_nobody_else_is_left() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Pen::builder()
        .options(["-W"])
        .server_as(format!("{}:0:0:0", farm[0].operand()))
        .server_as(format!("{}:0:0:5", farm[1].operand()))
        .start();
    assert_eq!(answers(&pen, 3, 4), "bbbb");
    farm[1].die();
    assert_eq!(pen.ask(client(9)).as_deref(), Some("a"));
}

#[test]
fn the_weight_and_prio_fields_mean_nothing_without_their_modes() {
    let farm = Backend::farm(["a", "b", "c"]);
    let operands = [0, 1, 2].map(|n| farm[n].operand());
    let pen = Pen::builder()
        .options(["-r"])
        .server_as(format!("{}:0:0:1:9", operands[0]))
        .server_as(format!("{}:0:0:0:1", operands[1]))
        .server_as(format!("{}:0:0:9:5", operands[2]))
        .start();
    assert_eq!(answers(&pen, 3, 6), "bcabca");
    let report = pen.report();
    let column = |name| (0..3).map(|n| report.server(n, name)).collect::<Vec<_>>();
    assert_eq!((column("weight"), column("prio")), (vec![1, 0, 9], vec![9, 1, 5]));
}

#[test]
fn the_emergency_server_takes_clients_only_while_nobody_else_can() {
    let farm = [Backend::named("a"), Backend::named("b")];
    let emergency = Backend::named("e");
    let pen =
        Pen::builder().options(["-b", "1", "-e", &emergency.operand()]).servers(&farm).start();
    assert_eq!(answers(&pen, 3, 2), "ba");
    farm.iter().for_each(Backend::die);
    assert_eq!(answers(&pen, 3, 4), "eeee");
    let report = pen.report();
    assert_eq!(report.client(&client(1).to_string()).unwrap()["last server"], "-1");
    farm[0].start();
    eventually("a regular server is used again", || pen.ask(client(1)).as_deref() == Some("a"));
    let after = emergency.accepted();
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"), "the client was placed as a new one");
    assert_eq!(emergency.accepted(), after);
}

#[test]
fn without_an_emergency_server_a_client_of_a_dead_farm_is_closed() {
    let farm = [Backend::down("a"), Backend::down("b")];
    let pen = Pen::builder().servers(&farm).start();
    assert_eq!(answers(&pen, 3, 3), "---");
    pen.settle();
}
