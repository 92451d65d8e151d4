//! Both implementations pass the suite.

use sifaka_queue::{MemoryQueue, Queue, SqliteQueue, suite};
use std::cell::Cell;

#[test]
fn memory() {
    suite::run(|| Box::new(MemoryQueue::new()));
}

#[test]
fn sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let number = Cell::new(0);
    suite::run(|| {
        number.set(number.get() + 1);
        let queue: Box<dyn Queue> =
            Box::new(SqliteQueue::open(directory.path().join(format!("{number:?}.db"))).unwrap());
        queue
    });
}

#[test]
fn sqlite_survives_reopening() {
    let directory = tempfile::tempdir().unwrap();
    suite::survives_reopening(|| Box::new(SqliteQueue::open(directory.path().join("queue.db")).unwrap()));
}
