//! `leastconn` and `p2c`: loads of all workers together, weights, and what operators see of it.

use serde_json::Value;

use crate::harness::{Backend, Pen, eventually};
use crate::placement::{client, counts, held, pen_with};

#[test]
fn leastconn_places_clients_that_stay_by_weight_over_all_workers() {
    let farm = Backend::farm(["a", "b", "c", "d"]);
    let weights = [(&farm[0], 2), (&farm[1], 1), (&farm[2], 1), (&farm[3], 0)];
    let pen = pen_with(&["leastconn"], &weights);
    let mut all = held(&pen, 0..24);
    assert_eq!(counts(&all, ["a", "b", "c", "d"]), [12, 6, 6, 0]);
    // Where clients leave, the next ones go.
    let mut left = 0;
    all.retain(|(_, at)| {
        let leaves = at == "c" && left < 5;
        left += usize::from(leaves);
        !leaves
    });
    eventually("the clients are gone", || pen.tell("servers").contains("conn 1 "));
    let next = held(&pen, 30..35);
    assert_eq!(counts(&next, ["a", "b", "c", "d"]), [0, 0, 5, 0]);
}

#[test]
fn clients_that_come_one_after_the_other_are_shared_by_weight() {
    let farm = Backend::farm(["a", "b", "c"]);
    let pen = pen_with(&["leastconn"], &[(&farm[0], 3), (&farm[1], 2), (&farm[2], 1)]);
    for number in 0..12 {
        assert!(pen.ask(client(number)).is_some());
        eventually("it is over", || pen.tell("servers").matches("conn 0 ").count() == 3);
    }
    assert_eq!(farm.each_ref().map(Backend::accepted), [6, 4, 2]);
}

#[test]
fn p2c_takes_the_less_loaded_of_two() {
    let farm = Backend::farm(["a", "b"]);
    let pen = pen_with(&["p2c"], &[(&farm[0], 1), (&farm[1], 1)]);
    // Of two servers, it always draws both.
    assert_eq!(counts(&held(&pen, 0..20), ["a", "b"]), [10, 10]);
    drop(pen);
    let pen = pen_with(&["p2c"], &[(&farm[0], 3), (&farm[1], 1)]);
    let [a, b] = counts(&held(&pen, 0..40), ["a", "b"]);
    assert!((29..=31).contains(&a), "{a} and {b}");
}

#[test]
fn a_client_goes_back_to_its_server_unless_clients_are_not_tracked() {
    for method in ["leastconn", "p2c"] {
        let farm = Backend::farm(["a", "b"]);
        let pen = pen_with(&[method], &[(&farm[0], 1), (&farm[1], 1)]);
        let (first, at) = pen.hold(client(1)).unwrap();
        let again: Vec<_> = (0..3).map(|_| pen.hold(client(1)).unwrap()).collect();
        assert!(again.iter().all(|(_, name)| *name == at), "{method}");
        pen.tells("roundrobin", "");
        let other = pen.hold(client(1)).unwrap().1;
        assert_ne!(other, at, "{method}: the other server has none");
        drop(first);
    }
}

#[test]
fn a_server_that_fails_is_passed_over_and_comes_back() {
    for method in ["leastconn", "p2c"] {
        let farm = [Backend::named("a"), Backend::down("b"), Backend::named("c")];
        let pen =
            pen_with(&[method, "blacklist 600"], &[(&farm[0], 1), (&farm[1], 1), (&farm[2], 1)]);
        let all = held(&pen, 0..12);
        let [a, c] = counts(&all, ["a", "c"]);
        assert!(a + c == 12 && a.abs_diff(c) <= 2, "{method}: {a} and {c}");
        // It has the least load. So it is tried first, and then by nobody any more.
        let rows: Value = serde_json::from_str(&pen.tell("servers json")).unwrap();
        let failures = rows[1]["connect_failures"].as_array().unwrap();
        let count: u64 = failures.iter().map(|of| of["count"].as_u64().unwrap()).sum();
        assert_eq!(count, 1, "{method}: {rows}");
        pen.tells("server 1 blacklist 1", "");
        farm[1].start();
        let mut number = 20;
        eventually("it is used again", || {
            number += 1;
            pen.ask(client(number)).as_deref() == Some("b")
        });
    }
}

#[test]
fn what_is_in_force_is_shown_explained_written_and_warned_of() {
    let farm = Backend::farm(["a", "b"]);
    let pen = pen_with(&["leastconn"], &[(&farm[0], 1), (&farm[1], 5)]);
    pen.tells("mode", "no hash no roundrobin no stubborn no weight no prio leastconn");
    assert!(
        pen.tell("mode json").ends_with("\"leastconn\":true,\"p2c\":false,\"maglev\":false}\n")
    );
    pen.tells("show leastconn", "leastconn");
    assert!(pen.tell("write -").contains("\nleastconn\n"));
    let (_one, at) = pen.hold(client(1)).unwrap();
    let number = if at == "a" { 1 } else { 0 };
    let weight = [1, 5][number];
    let explained = pen.tell("explain 192.0.2.1");
    let reason = format!(
        "client 192.0.2.1: not tracked; by leastconn\nleast load: server {number}, with 0 \
         connections at weight {weight}; equals take turns\n"
    );
    assert!(explained.starts_with(&reason), "{explained}");
    pen.tells("p2c", "");
    assert!(pen.tell("explain 192.0.2.1").contains("; by leastconn\n"), "leastconn comes first");
    pen.tells("no leastconn", "");
    let explained = pen.tell("explain 192.0.2.1");
    assert!(
        explained.contains("; by p2c\ndrawn now, perhaps others next time: server "),
        "{explained}"
    );
    assert!(pen.tell("write -").contains("\nno leastconn\np2c\n"));
}

/// With more servers than a worker reads at each choice.
#[test]
fn a_hundred_servers_each_get_their_clients() {
    let names: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let farm: Vec<Backend> = names.iter().map(|name| Backend::named(name)).collect();
    for method in ["leastconn", "weight"] {
        let builder = Pen::builder().options(["-O", method, "-x", "400"]).servers(&farm);
        let pen = builder.control().start();
        let all = held(&pen, 0..200);
        for name in &names {
            assert_eq!(counts(&all, [name]), [2], "{method}: server {name}");
        }
    }
}
