//! Signals to the supervisor, and that an orderly end leaves nothing behind (pen(8), SIGNALS).

use std::fs;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use crate::harness::{Backend, Client, Pen, SetOnDrop, eventually, needs_root};
use rustix::process::Signal;

const ME: Ipv4Addr = Ipv4Addr::new(127, 8, 0, 1);

#[test]
fn term_int_and_quit_end_it_cleanly_with_connections_open() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let server = Backend::named("a");
        let mut pen = Pen::builder().server(&server).start();
        let held: Vec<(Client, String)> = (0..10).map(|_| pen.hold(ME).unwrap()).collect();
        pen.end_by(signal);
        for (client, _) in held {
            assert!(
                client.read(1).is_ok_and(|bytes| bytes.is_empty()) || client.read(1).is_err(),
                "closed"
            );
        }
        assert!(Client::connect(ME.into(), pen.address()).is_err(), "nobody listens any more");
        eventually("the backends' connections are closed", || server.open() == 0);
    }
}

#[test]
fn term_ends_it_in_the_background_too() {
    let server = Backend::named("a");
    let mut pen = Pen::builder().background().server(&server).start();
    assert_eq!(pen.ask(ME).as_deref(), Some("a"));
    pen.end_by(Signal::TERM);
}

#[test]
fn term_ends_it_while_a_worker_hangs() {
    let server = Backend::named("a");
    let mut pen = Pen::builder().server(&server).start();
    let workers = pen.workers();
    workers[1].stop();
    pen.end_by(Signal::TERM);
    assert!(workers.iter().all(crate::harness::Process::gone));
}

#[test]
fn a_second_term_while_it_ends_changes_nothing() {
    let server = Backend::named("a");
    let mut pen = Pen::builder().server(&server).start();
    pen.workers()[0].stop();
    pen.supervisor().signal(Signal::TERM);
    pen.end_by(Signal::TERM);
}

#[test]
fn a_second_term_loses_no_line_and_blames_nobody() {
    let server = Backend::named("a");
    let builder = Pen::builder().workers(1);
    let log = builder.directory().join("log");
    let mut pen = builder.options(["-d", "-l", log.to_str().unwrap()]).server(&server).start();
    let (held, _) = pen.hold(ME).unwrap();
    let worker = &pen.workers()[0];
    // The worker has the line when it stops.
    held.echoes("the last line");
    worker.stop();
    let taken = |pen: &Pen| {
        eventually("the signal is taken", || {
            ["SigPnd", "ShdPnd"]
                .iter()
                .all(|field| pen.supervisor().status(field).trim_matches('0').is_empty())
        });
    };
    pen.supervisor().signal(Signal::TERM);
    taken(&pen);
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        pen.supervisor().signal(signal);
        taken(&pen);
    }
    worker.resume();
    pen.ends_when(|_| {});
    assert!(fs::read_to_string(&log).unwrap().ends_with(" the last line\n"));
    assert!(!pen.said().contains("did not stop"), "{}", pen.said());
}

#[test]
fn an_interrupt_from_the_terminal_reaches_every_process_and_is_a_clean_end() {
    let server = Backend::named("a");
    let mut pen = Pen::builder().server(&server).start();
    // The terminal signals the whole process group.
    pen.workers().iter().for_each(|worker| worker.signal(Signal::INT));
    pen.end_by(Signal::INT);
    assert!(!pen.said().contains("worker "), "no worker's end is alarming: {}", pen.said());
}

#[test]
fn signals_to_workers_from_a_closed_terminal_do_not_end_them() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).start();
    let before: Vec<i32> = pen.workers().iter().map(crate::harness::Process::pid).collect();
    for worker in pen.workers() {
        for signal in [Signal::HUP, Signal::PIPE, Signal::USR1, Signal::USR2, Signal::ALARM] {
            worker.signal(signal);
        }
    }
    pen.report();
    let after: Vec<i32> = pen.workers().iter().map(crate::harness::Process::pid).collect();
    assert_eq!(before, after);
}

#[test]
fn alrm_and_pipe_are_ignored_and_usr2_closes_nothing() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).start();
    let (held, _) = pen.hold(ME).unwrap();
    for signal in [Signal::USR2, Signal::ALARM, Signal::PIPE] {
        pen.supervisor().signal(signal);
    }
    pen.report();
    held.echoes("still here");
}

#[test]
fn hup_without_a_log_changes_nothing() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).start();
    let (held, _) = pen.hold(ME).unwrap();
    for _ in 0..10 {
        pen.supervisor().signal(Signal::HUP);
    }
    pen.report();
    held.echoes("still here");
    assert_eq!(pen.ask(ME).as_deref(), Some("a"));
}

#[test]
fn ignored_and_blocked_signals_are_not_inherited() {
    let server = Backend::named("a");
    let ignoring = ["sh", "-c", "trap '' TERM HUP USR1 CHLD INT PIPE; exec \"$0\" \"$@\""];
    let blocking = ["env", "--block-signal=TERM", "--block-signal=USR1", "--block-signal=CHLD"];
    for wrapper in [&ignoring[..], &blocking[..]] {
        let mut pen = Pen::builder().through(wrapper).server(&server).start();
        let workers = pen.workers();
        workers[0].kill();
        eventually("the worker is replaced", || {
            let now = pen.workers();
            now.iter().all(|worker| worker.pid() != workers[0].pid())
        });
        pen.report();
        pen.end_by(Signal::TERM);
    }
}

#[test]
fn closed_standard_streams_harm_nobody() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let closing = ["sh", "-c", "exec \"$0\" \"$@\" <&- >&- 2>&-"];
    let pen = Pen::builder().through(closing).server(&server).start();
    for worker in 0..3 {
        assert_eq!(pen.only(worker, || pen.ask(ME)).as_deref(), Some("a"));
    }
    for process in pen.workers() {
        let descriptors = process.descriptors();
        for number in 0..3 {
            let target =
                &descriptors.iter().find(|(n, _)| *n == number).expect("0, 1 and 2 are open").1;
            assert_eq!(target, "/dev/null");
        }
    }
}

#[test]
fn inherited_descriptors_reach_no_worker() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let leaking = ["sh", "-c", "exec \"$0\" \"$@\" 7</etc/passwd 8>/dev/full 9</"];
    let pen = Pen::builder().through(leaking).server(&server).start();
    for worker in pen.workers() {
        for (number, target) in worker.descriptors() {
            assert!(
                !["/etc/passwd", "/dev/full", "/"].contains(&target.as_str()),
                "{number} is {target}"
            );
        }
    }
}

#[test]
fn it_ends_cleanly_under_load_and_the_log_is_complete() {
    let server = Backend::named("a");
    let builder = Pen::builder();
    let log = builder.directory().join("log");
    let mut pen = builder.options(["-l", log.to_str().unwrap()]).server(&server).start();
    let address = pen.address();
    let over = AtomicBool::new(false);
    let served = thread::scope(|scope| {
        let ends = SetOnDrop(&over);
        let crowd: Vec<_> = (0..8)
            .map(|n| {
                let over = &over;
                scope.spawn(move || {
                    let mut served = Vec::new();
                    for round in 0.. {
                        if over.load(SeqCst) {
                            break;
                        }
                        let Ok(client) = Client::connect(ME.into(), address) else { break };
                        let request = format!("request {n} {round}");
                        let Some(_) = client.line() else { break };
                        use std::io::Write;
                        if client.socket().write_all(format!("{request}\n").as_bytes()).is_err() {
                            break;
                        }
                        if client.line().as_ref() != Some(&request) {
                            break;
                        }
                        served.push(request);
                    }
                    served
                })
            })
            .collect();
        eventually("there is some load", || server.accepted() > 200);
        pen.end_by(Signal::TERM);
        drop(ends);
        crowd.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<String>>()
    });
    let text = fs::read_to_string(&log).unwrap();
    let logged: std::collections::HashSet<&str> =
        text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    assert!(served.len() >= 100);
    for request in &served {
        assert!(logged.contains(request.as_str()), "{request:?} was served and is not in the log");
    }
}
