//! How the workers share the clients.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::TcpStream;

use crate::harness::client::ANYONE;
use crate::harness::{Backend, Client, Pen, Port, Process, eventually, needs_root};
use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

const WORKERS: u32 = 8;

/// A server whose kernel accepts connections that the test never uses: all together they take one
/// descriptor of the test.
struct Silent {
    listener: Socket,
    port: Port,
}

impl Silent {
    fn new() -> Silent {
        let port = Port::reserve();
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.set_reuse_address(true).unwrap();
        listener.bind(&port.address().into()).unwrap();
        listener.listen(4096).unwrap();
        Silent { listener, port }
    }
}

/// Raises the limit of descriptors to the maximum and returns the number of clients that it allows,
/// at most `wanted`.
fn clients_possible(wanted: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let most = limit.maximum.unwrap_or(u64::MAX);
    wanted.min(usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(1000))
}

/// Sockets of each worker, two per connection.
fn sockets(workers: &[Process]) -> Vec<usize> {
    let is_socket = |(_, target): &&(i32, String)| target.starts_with("socket:");
    workers.iter().map(|worker| worker.descriptors().iter().filter(is_socket).count()).collect()
}

/// How often a process has slept.
fn sleeps(process: &Process) -> u64 {
    process.status("voluntary_ctxt_switches").parse().unwrap()
}

fn has_news(client: &TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    !client.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn thousands_of_connections_are_shared_out_evenly_and_a_death_costs_no_other_one() {
    if !needs_root() {
        return;
    }
    let all = clients_possible(10_000);
    let servers: Vec<Silent> = (0..all.div_ceil(4000)).map(|_| Silent::new()).collect();
    let builder = Pen::builder().workers(WORKERS).options(["-r", "-x", "11000"]);
    let builder = servers
        .iter()
        .fold(builder, |builder, server| builder.server_as(server.port.address().to_string()));
    let pen = builder.start();
    let workers = pen.workers();
    let own = sockets(&workers)[0];
    let connections = |workers: &[Process]| -> Vec<usize> {
        sockets(workers).iter().map(|sockets| sockets.saturating_sub(own) / 2).collect()
    };
    let connect = |_| TcpStream::connect(pen.address()).expect("pen listens");
    let clients: Vec<TcpStream> = (0..all).map(connect).collect();
    eventually("all clients are served", || connections(&workers).iter().sum::<usize>() == all);
    let open_now = connections(&workers);
    let (most, fewest) = (open_now.iter().max().unwrap(), open_now.iter().min().unwrap());
    assert!(most * 10 < fewest * 12, "at most 1.2 times as many: {open_now:?}");

    workers[0].kill();
    eventually("the dead worker's clients know", || {
        clients.iter().filter(|client| has_news(client)).count() == open_now[0]
    });
    let workers = pen.workers();
    eventually("the others keep theirs", || {
        connections(&workers).iter().sum::<usize>() == all - open_now[0]
    });
    assert!(servers.iter().all(|server| server.listener.take_error().unwrap().is_none()));
}

#[test]
fn a_replacement_takes_the_clients_until_it_has_its_share() {
    if !needs_root() {
        return;
    }
    let backend = Backend::named("one");
    let pen = Pen::builder().workers(3).server(&backend).options(["-x", "400"]).start();
    let hold = |clients: usize| -> Vec<Client> {
        (0..clients).map(|_| pen.hold(ANYONE).expect("a server takes the client").0).collect()
    };
    let before: Vec<i32> = pen.workers().iter().map(Process::pid).collect();
    let _clients = hold(150);
    pen.workers()[0].kill();
    let workers = pen.workers();
    let new = workers.iter().find(|worker| !before.contains(&worker.pid())).expect("a replacement");
    eventually("the replacement waits for clients", || new.state() == Some('S'));
    let had = sockets(std::slice::from_ref(new))[0];
    let _more = hold(24);
    let got = (sockets(std::slice::from_ref(new))[0] - had) / 2;
    assert!(got >= 16, "the replacement got {got} of 24");
}

#[test]
fn a_lead_costs_nothing_while_all_is_quiet() {
    let backend = Backend::named("one");
    let pen = Pen::builder().workers(2).server(&backend).start();
    let workers = pen.workers();
    // One worker cannot keep up, so the other one takes more clients.
    workers[1].stop();
    let _clients: Vec<_> =
        (0..40).map(|_| pen.hold(ANYONE).expect("a server takes the client")).collect();
    workers[1].resume();
    let before = [sleeps(&workers[0]), sleeps(&workers[1])];
    // Each is woken once a second, by the supervisor's ping.
    eventually("some seconds have passed", || sleeps(&workers[1]) >= before[1] + 8);
    let slept = sleeps(&workers[0]) - before[0];
    assert!(slept < 100, "the worker that is ahead went to sleep {slept} times");
    // It still takes the clients that the other one leaves.
    workers[1].stop();
    assert_eq!(pen.ask(ANYONE).as_deref(), Some("one"));
    workers[1].resume();
}

#[test]
fn a_client_wakes_one_worker_and_not_the_herd() {
    if !needs_root() {
        return;
    }
    const CLIENTS: u64 = 300;
    let backend = Backend::named("one");
    let pen = Pen::builder().workers(WORKERS).server(&backend).start();
    pen.ask(ANYONE);
    let workers = pen.workers();
    let before: HashMap<i32, u64> =
        workers.iter().map(|worker| (worker.pid(), sleeps(worker))).collect();
    for _ in 0..CLIENTS {
        assert_eq!(pen.ask(ANYONE).as_deref(), Some("one"));
    }
    let mut woken: Vec<u64> =
        workers.iter().map(|worker| sleeps(worker) - before[&worker.pid()]).collect();
    woken.sort_unstable();
    // A worker that serves a client sleeps several times meanwhile. With a thundering herd, each
    // client would wake all others.
    let others: u64 = woken.iter().sum::<u64>();
    assert!(others < CLIENTS * 10, "{woken:?} wake-ups for {CLIENTS} clients");
    let least = woken[0];
    assert!(least < CLIENTS, "every worker was woken by every client: {woken:?}");
}
