//! Random sequences of what is counted of servers, compared with plain sums: with deaths of
//! workers, numbers that are given to other servers, and tables that pass to another program.

use proptest::prelude::*;

use crate::steps::dying_after;
use crate::{
    BUCKETS, FailureClass, ServerStatistics, Shape, Table, TableDescription, Timed, WorkerTable,
};

const SHAPE: Shape = Shape { clients: 4, servers: 3, rows: 6, connections: 8 };

/// What a worker counts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Counted {
    Reached,
    Failover,
    Failed(FailureClass),
    /// Microseconds, bucket.
    Connect(u64, usize),
    Length(u64, usize),
}

/// The expected statistics of a server.
pub(super) type Model = ServerStatistics;

pub(super) fn counted() -> impl Strategy<Value = Counted> {
    // One bucket more than there are.
    let time = || (1..1_000_000u64, 0..=BUCKETS);
    prop_oneof![
        Just(Counted::Reached),
        Just(Counted::Failover),
        prop::sample::select(&FailureClass::ALL[..]).prop_map(Counted::Failed),
        time().prop_map(|(micros, bucket)| Counted::Connect(micros, bucket)),
        time().prop_map(|(micros, bucket)| Counted::Length(micros, bucket)),
    ]
}

impl Counted {
    /// Lets a worker count it, and notes it in the model.
    pub(super) fn happens(self, worker_table: &WorkerTable<'_>, server: u32, model: &mut Model) {
        match self {
            Counted::Reached => {
                worker_table.count_reached(server);
                model.reached += 1;
            }
            Counted::Failover => {
                worker_table.count_failover(server);
                model.failovers += 1;
            }
            Counted::Failed(class) => {
                worker_table.count_failure(server, class);
                model.failures[class as usize] += 1;
            }
            Counted::Connect(micros, bucket) => {
                worker_table.count_connect(server, Timed { micros, bucket });
                let Some(count) = model.connect.buckets.get_mut(bucket) else { return };
                *count += 1;
                model.connect.sum += micros;
            }
            Counted::Length(micros, bucket) => {
                worker_table.count_length(server, Timed { micros, bucket });
                let Some(count) = model.length.buckets.get_mut(bucket) else { return };
                *count += 1;
                model.length.sum += micros;
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    /// The row of the worker, the server.
    Count(u32, u32, Counted),
    /// A worker dies, and another one gets its row.
    Replace(u32),
    /// A number is given to another server.
    Reset(u32),
    /// The next program adopts the table.
    Adopt,
    /// The next program has another layout. No old worker goes on.
    Carry,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => (0..SHAPE.rows, 0..SHAPE.servers, counted())
            .prop_map(|(row, server, what)| Operation::Count(row, server, what)),
        2 => (0..SHAPE.rows).prop_map(Operation::Replace),
        1 => (0..SHAPE.servers).prop_map(Operation::Reset),
        1 => Just(Operation::Adopt),
        1 => Just(Operation::Carry),
    ]
}

fn adopted(table: &Table) -> Table {
    let text = serde_json::to_string(&table.description()).unwrap();
    let description: TableDescription = serde_json::from_str(&text).unwrap();
    Table::adopt(table.descriptor().try_clone_to_owned().unwrap(), description).unwrap()
}

fn carried(table: &Table) -> Table {
    let text = serde_json::to_string(&table.export_servers(&[])).unwrap();
    let new = Table::create(SHAPE).unwrap();
    new.import_servers(&serde_json::from_str(&text).unwrap());
    new
}

fn of_all(table: &Table) -> [ServerStatistics; 3] {
    [0, 1, 2].map(|server| table.server_statistics(server))
}

proptest! {
    #[test]
    fn everything_that_was_counted_is_in_the_sums(
        operations in prop::collection::vec(operation(), 1..60),
    ) {
        let mut table = Table::create(SHAPE).unwrap();
        let mut models = [Model::default(); 3];
        for operation in operations {
            match operation {
                Operation::Count(row, server, what) => {
                    table.use_row(row);
                    what.happens(&table.worker_table(row), server, &mut models[server as usize]);
                }
                Operation::Replace(row) => {
                    table.reclaim(row);
                    table.use_row(row);
                }
                Operation::Reset(server) => {
                    table.reset_server(server);
                    models[server as usize] = Model::default();
                }
                Operation::Adopt => table = adopted(&table),
                Operation::Carry => table = carried(&table),
            }
            prop_assert_eq!(of_all(&table), models);
            let reached = [0, 1, 2].map(|server| table.server_traffic(server).reached);
            prop_assert_eq!(reached, models.map(|model| model.reached));
        }
    }
}

#[test]
fn a_worker_that_dies_loses_only_what_it_was_about_to_count() {
    let time = Timed { micros: 700, bucket: 4 };
    for deaths in 0..10 {
        let table = Table::create(SHAPE).unwrap();
        let worker_table = table.worker_table(2);
        worker_table.count_connect(1, time);
        let survived = dying_after(deaths, || {
            worker_table.count_reached(1);
            worker_table.count_connect(1, time);
            worker_table.count_failure(1, FailureClass::Refused);
        });
        table.reclaim(2);
        let found = table.server_statistics(1);
        let counted = [
            found.reached,
            found.connect.buckets[4] - 1,
            found.connect.sum / 700 - 1,
            found.failures(FailureClass::Refused),
        ];
        let expected = [0, 1, 2, 3].map(|step| u64::from(step < deaths));
        assert_eq!(counted, expected, "after {deaths} stores");
        if survived.is_some() {
            return;
        }
    }
    panic!("too many stores");
}

#[test]
fn counts_of_servers_that_do_not_exist_count_nowhere() {
    let table = Table::create(SHAPE).unwrap();
    let worker_table = table.worker_table(5);
    for server in [3, 4, u32::MAX] {
        worker_table.count_reached(server);
        worker_table.count_length(server, Timed { micros: 1, bucket: 0 });
        table.reset_server(server);
        assert_eq!(table.server_statistics(server), ServerStatistics::default());
    }
    assert_eq!(of_all(&table), [ServerStatistics::default(); 3]);
    worker_table.count_reached(2);
    assert_eq!(of_all(&table).map(|each| each.reached), [0, 0, 1]);
}
