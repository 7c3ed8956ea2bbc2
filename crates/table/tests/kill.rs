//! Tests with real processes, which are killed at random moments while they use the table, and
//! stopped while they hold a lock. This is a program without a test harness, because a process that
//! forks should have one thread.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is how a failure is said")]

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};
use pen_table::{LockStuck, NetArrival, NetLimits, Shape, Table, WorkerTable};

const WORKERS: u32 = 4;
/// A worker number that no forked worker has: for the test itself.
const OBSERVER: u32 = WORKERS;
const SLOTS: u32 = 64;
/// Most connections to servers that a worker holds. (The limits themselves are tested elsewhere: a
/// sum that is taken while others reserve and release does not belong to one moment.)
const RESERVED: usize = 6;
const MOST_OPEN: u32 = (RESERVED as u32 + 1) * WORKERS;
/// Total number of kills; the scheduler and the sleep before each kill choose its moment.
const KILLS: u32 = 2000;
const KILLS_BETWEEN_CHECKS: u32 = 50;
/// The test also ends after this time, because a slow machine needs fewer kills.
const ENOUGH: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    // Under a model checker the atomics are not real. `cargo test -- --list` only asks for the list
    // of tests.
    if cfg!(loom) || std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    for (name, test) in TESTS {
        print!("test {name} ... ");
        // A child that inherits a full buffer would print it again.
        std::io::stdout().flush().expect("standard output");
        test();
        println!("ok");
    }
    ExitCode::SUCCESS
}

const TESTS: [(&str, fn()); 2] = [
    ("killed workers leave nothing behind", killed_workers_leave_nothing_behind),
    ("a stopped owner stops nobody else", a_stopped_owner_stops_nobody_else),
];

fn killed_workers_leave_nothing_behind() {
    let table =
        Table::create(Shape { clients: SLOTS, servers: 3, rows: WORKERS + 1, connections: 32 })
            .unwrap();
    let mut random = Random(0x5eed);
    let mut children: Vec<Pid> =
        (0..WORKERS).map(|worker| start_worker(&table, worker, random.next())).collect();
    let (started, mut kills, mut rebuilds) = (Instant::now(), 0, 0);
    while kills < KILLS && started.elapsed() < ENOUGH {
        // This sleep waits for nothing; it chooses a random moment.
        std::thread::sleep(Duration::from_micros(u64::from(random.below(2000))));
        let worker = random.below(WORKERS);
        end(children[worker as usize]);
        table.reclaim(worker);
        kills += 1;
        rebuilds += observe(&table);
        children[worker as usize] = start_worker(&table, worker, random.next());
        if kills % KILLS_BETWEEN_CHECKS == 0 {
            children.iter().for_each(|child| end(*child));
            (0..WORKERS).for_each(|worker| {
                let _ = table.reclaim(worker);
            });
            nothing_is_left(&table, u64::from(kills));
            children =
                (0..WORKERS).map(|worker| start_worker(&table, worker, random.next())).collect();
        }
    }
    children.iter().for_each(|child| end(*child));
    (0..WORKERS).for_each(|worker| {
        let _ = table.reclaim(worker);
    });
    nothing_is_left(&table, u64::from(kills) + 1);
    print!("{kills} kills, at least {rebuilds} of them with a lock held ... ");
    assert!(kills >= KILLS_BETWEEN_CHECKS && rebuilds > 0);
}

/// Examines the table while the other workers continue. Returns whether the dead worker's lock was
/// found as the worker left it.
fn observe(table: &Table) -> u32 {
    for server in 0..3 {
        assert!(table.server_totals(server).connections <= MOST_OPEN);
    }
    let keys: Vec<_> = table.clients().map(|entry| entry.key).collect();
    assert!(keys.len() <= SLOTS as usize);
    assert!(
        keys.iter().all(|key| *key == client(u32::from_le_bytes(key[..4].try_into().unwrap()))),
        "a torn entry"
    );
    let worker_table = table.worker_table(OBSERVER);
    // Another worker may have been faster. On a busy machine it may even hold the lock without a
    // processor. The check that no dead worker keeps a lock follows when all are dead.
    drop(worker_table.lock(client(0)));
    u32::from(worker_table.take_rebuilt().is_some())
}

/// Checks the table when every worker is dead and reclaimed: no count, no number and no lock is
/// left. Every client is found where it is listed, and the list of the least recently used is
/// complete. Each check uses a minute of its own, later than any before, because entries that were
/// used in the same second have no order. On a busy machine, clients of one check may still be in
/// the table at the next.
fn nothing_is_left(table: &Table, minute: u64) {
    let now = u64::MAX / 2 + minute * 60_000;
    let worker_table = table.worker_table(OBSERVER);
    assert_eq!(table.connections_open(), 0);
    for server in 0..3 {
        assert_eq!(table.server_totals(server).connections, 0);
        assert!((0..5).all(|_| worker_table.reserve(server, Some(5))));
        assert!(!worker_table.reserve(server, Some(5)));
        (0..5).for_each(|_| worker_table.release(server));
    }
    worker_table.want_nets(32);
    for n in 0..NETS {
        // The first arrival has the count made anew.
        let arrivals: Vec<NetArrival> = (0..5)
            .map(|_| {
                let number = worker_table.claim_connection(32).unwrap();
                worker_table.arrive_in_net(number, client(n), MOST_OF_A_NET, now)
            })
            .collect();
        let counted = arrivals.iter().filter(|arrival| **arrival == NetArrival::Counted).count();
        assert_eq!(counted, 4, "net {n}: {arrivals:?}");
        assert_eq!(worker_table.net_use(client(n), 1, now).open, 4);
        for number in 0..5 {
            worker_table.release_net(number);
            let _ = worker_table.release_connection(number);
        }
        assert_eq!(worker_table.net_use(client(n), 1, now).open, 0);
    }
    drop(worker_table.lock(client(0)).unwrap());
    let _ = worker_table.take_rebuilt();
    let listed: Vec<_> = table.clients().collect();
    for entry in &listed {
        let arrival = worker_table.lock(entry.key).unwrap().arrive(now, 0);
        assert_eq!((arrival.client.slot, arrival.recorded), (entry.slot, entry.server));
    }
    assert_eq!(table.clients().count(), listed.len(), "a client was listed but not found");
    // The same number of new clients replaces all old ones, each slot once.
    for n in 1000..1000 + SLOTS {
        worker_table.lock(client(n)).unwrap().arrive(now + 1000, 0);
    }
    let mut keys: Vec<_> = table.clients().map(|entry| entry.key).collect();
    let mut wanted: Vec<_> = (1000..1000 + SLOTS).map(client).collect();
    keys.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(keys, wanted);
    assert_eq!(worker_table.take_rebuilt(), None, "the table contradicted itself");
}

fn a_stopped_owner_stops_nobody_else() {
    let table =
        Table::create(Shape { clients: SLOTS, servers: 3, rows: WORKERS + 1, connections: 32 })
            .unwrap();
    table.use_row(0);
    let child = start(|| {
        let worker_table = table.worker_table(0);
        let mut locked = worker_table.lock(client(1)).expect("nobody else yet");
        locked.arrive(0, 0);
        raise(Signal::SIGSTOP).expect("stopping itself");
        drop(locked);
        // Until the parent kills it.
        loop {
            std::thread::park();
        }
    });
    let stopped = waitpid(child, Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert_eq!(stopped, WaitStatus::Stopped(child, Signal::SIGSTOP));
    let worker_table = table.worker_table(1);
    assert_eq!(worker_table.lock(client(2)).unwrap_err(), LockStuck);
    assert_eq!(worker_table.lock(client(2)).unwrap_err(), LockStuck);
    // Every operation that does not need this lock continues, also the supervisor's reports.
    assert!(worker_table.reserve(0, Some(1)) && !worker_table.reserve(0, Some(1)));
    assert_eq!(worker_table.claim_connection(32), Some(0));
    assert_eq!(table.clients().count(), 1);
    kill(child, Signal::SIGCONT).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while worker_table.lock(client(2)).is_err() {
        assert!(Instant::now() < deadline, "the lock stays stuck after its owner went on");
        std::thread::yield_now();
    }
    assert_eq!(worker_table.take_rebuilt(), None);
    end(child);
}

/// A worker that does all operations, at random, for ever.
fn work(table: &Table, worker: u32, seed: u64) {
    let worker_table = table.worker_table(worker);
    let mut random = Random(seed | 1);
    let (mut numbers, mut reserved) = (Vec::with_capacity(32), Vec::with_capacity(32));
    let mut counted = Vec::with_capacity(32);
    worker_table.want_nets(32);
    let mut now = 0;
    loop {
        now += u64::from(random.below(700));
        match random.below(11) {
            8 => {
                let net = client(random.below(NETS));
                if let Some(number) = worker_table.claim_connection(32) {
                    match worker_table.arrive_in_net(number, net, MOST_OF_A_NET, now) {
                        NetArrival::Counted => counted.push(number),
                        _ => drop(worker_table.release_connection(number)),
                    }
                }
            }
            9 => {
                if let Some(number) = counted.pop() {
                    worker_table.release_net(number);
                    let _ = worker_table.release_connection(number);
                }
            }
            10 => {
                let number = counted.last().copied();
                let net = client(random.below(NETS));
                let counted = number.map(|number| worker_table.count_in_net(number, net, now));
                assert!(counted.is_none_or(|counted| matches!(
                    counted,
                    NetArrival::Counted | NetArrival::Unchecked(_)
                )));
            }
            0 => numbers.extend(worker_table.claim_connection(32)),
            1 => drop(numbers.pop().map(|number| worker_table.release_connection(number))),
            2 => reserve(&worker_table, &mut reserved, random.below(3)),
            3 => drop(reserved.pop().map(|server| worker_table.release(server))),
            4 => {
                assert!(worker_table.connections(random.below(3)) <= MOST_OPEN);
            }
            _ => {
                let Ok(mut locked) = worker_table.lock(client(random.below(100))) else { continue };
                let arrival = locked.arrive(now, 60_000);
                locked.record(arrival.client, random.below(3) as i32);
                drop(locked);
                worker_table.record(arrival.client, random.below(3) as i32);
                worker_table.add_client_bytes(arrival.client, 1, 2);
            }
        }
    }
}

/// Few nets, so that workers meet.
const NETS: u32 = 5;

const MOST_OF_A_NET: NetLimits = NetLimits { connections: Some(4), rate: None };

/// Two servers have limits; one has none.
fn reserve(worker_table: &WorkerTable<'_>, reserved: &mut Vec<u32>, server: u32) {
    let limit = [Some(3), Some(5), None][server as usize];
    if reserved.len() < RESERVED && worker_table.reserve(server, limit) {
        reserved.push(server);
    }
}

fn start_worker(table: &Table, worker: u32, seed: u64) -> Pid {
    table.use_row(worker);
    start(|| work(table, worker, seed))
}

/// Runs a closure in a child process that does not return.
#[allow(unsafe_code)]
fn start(child: impl FnOnce()) -> Pid {
    let parent = getpid();
    // SAFETY: this program has one thread (no test harness), so the child's copy of it is complete.
    // No lock of the allocator or the standard library can be held by a thread that the child does
    // not have.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            // The children die when the test ends, for any reason. The test may even have ended
            // before this line.
            set_pdeathsig(Signal::SIGKILL).expect("a signal that exists");
            if getppid() == parent {
                child();
            }
            std::process::exit(1);
        }
    }
}

/// Kills a child, which must be alive: a child that ended by itself had found an error.
fn end(child: Pid) {
    kill(child, Signal::SIGKILL).unwrap();
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Signaled(child, Signal::SIGKILL, false));
}

/// The key of client `n`; every part of it depends on `n`.
fn client(n: u32) -> [u8; 16] {
    let mut key = [0; 16];
    key.chunks_mut(4).for_each(|part| part.copy_from_slice(&n.to_le_bytes()));
    key
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u32) -> u32 {
        (self.next() >> 32) as u32 % end
    }
}
