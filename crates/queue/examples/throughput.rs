//! How many actions a second the durable queue accepts and finishes, and how long dispatch waits for its reads while
//! very many wait. `cargo run --release -p sifaka-queue --example throughput [DIRECTORY] [NUMBER WAITING]`

use model::{ActionId, Class, Command, FileHandle, Identity};
use sifaka_queue::{
    About, Change, Cursor, ListFilter, MemoryQueue, NewAction, Queue, RequestId, SqliteQueue, SyncedStamp,
};
use std::error::Error;
use std::time::Instant;

const ACTIONS: u64 = 100_000;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let waiting: u64 = std::env::args().nth(2).map_or(Ok(1_000_000), |n| n.parse())?;
    let scratch = directory.join(format!("sifaka-queue-throughput-{}", std::process::id()));
    std::fs::create_dir(&scratch)?;
    let measured = measure(&SqliteQueue::open(scratch.join("queue.db"))?, waiting);
    std::fs::remove_dir_all(&scratch)?;
    measured?;
    println!("in memory:");
    batches(&MemoryQueue::new(), 4000, false)
}

fn measure(queue: &SqliteQueue, waiting: u64) -> Result<(), Box<dyn Error>> {
    println!("empty:");
    for size in [1000, 4000] {
        batches(queue, size, false)?;
    }
    println!("with stamps:");
    batches(queue, 4000, true)?;
    for first in (0..waiting).step_by(4000) {
        let entries: Vec<_> = (first..(first + 4000).min(waiting)).map(|n| entry(n, Class::Archive)).collect();
        queue.submit(&entries)?;
    }
    println!("{waiting} waiting, {}:", resident()?);
    batches(queue, 4000, false)?;
    reads(queue)?;
    println!("  {}", resident()?);
    Ok(())
}

/// Submits and finishes [`ACTIONS`] actions in batches of `size`.
fn batches(queue: &dyn Queue, size: u64, stamps: bool) -> Result<(), Box<dyn Error>> {
    let (mut submitting, mut finishing) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
    for first in (0..ACTIONS).step_by(usize::try_from(size)?) {
        let entries: Vec<_> = (first..first + size).map(|n| entry(n, Class::Restore)).collect();
        let start = Instant::now();
        let ids = queue.submit(&entries)?;
        submitting += start.elapsed();
        let finish = |id: ActionId| Change::Finish { id, result: Ok(()), bytes: 4096, finished_ms: 1_800_000_000_000 };
        let mut changes: Vec<_> = ids.into_iter().map(finish).collect();
        if stamps {
            let stamp = SyncedStamp { stamp: model::Stamp { size: 4096, ..model::Stamp::default() }, object: None };
            // What the archive of a file records.
            changes.extend(entries.into_iter().filter_map(|e| Some((e.file?, e.path))).flat_map(|(file, path)| {
                let about = About { path: path.into(), size: 4096, mode: 0o100_644, ..About::default() };
                [Change::SetStamp { file: file.clone(), stamp: stamp.clone() }, Change::Describe { file, about }]
            }));
        }
        let start = Instant::now();
        queue.apply(&changes)?;
        finishing += start.elapsed();
    }
    let each = |d: std::time::Duration| d.as_secs_f64() * 1e6 / ACTIONS as f64;
    let both = each(submitting) + each(finishing);
    println!(
        "  batches of {size}: submit {:.1} us, finish {:.1} us, together {both:.1} us an action: {:.0} a second",
        each(submitting),
        each(finishing),
        1e6 / both
    );
    Ok(())
}

fn reads(queue: &dyn Queue) -> Result<(), Box<dyn Error>> {
    timed("owners", || Ok(queue.owners(Class::Archive, u64::MAX)?.len()))?;
    timed("next_ready_ms", || Ok(usize::from(queue.next_ready_ms(u64::MAX - 1)?.is_some())))?;
    timed("ready, first 4000 of one owner", || {
        Ok(queue.ready(Class::Archive, 3, Cursor::default(), u64::MAX, 4000)?.len())
    })?;
    let deep = queue.ready(Class::Archive, 3, Cursor::default(), u64::MAX, 9_000)?;
    let after = deep.last().map_or(Cursor::default(), |e| Cursor { not_before_ms: e.action.not_before_ms, id: e.id });
    timed("ready, 4 from far behind", || Ok(queue.ready(Class::Archive, 3, after, u64::MAX, 4)?.len()))?;
    timed("of_file", || {
        let file = entry(5, Class::Archive).file.ok_or("no handle")?;
        Ok(queue.of_file(&file)?.len())
    })?;
    timed("list of one request", || {
        let filter = ListFilter { request: Some(RequestId(99)), ..ListFilter::default() };
        Ok(queue.list(&filter, ActionId(0), 1000)?.len())
    })?;
    timed("totals", || Ok(queue.totals()?.live.len()))
}

fn timed(name: &str, read: impl Fn() -> Result<usize, Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let found = read()?;
    println!("  {name}: {found} in {:.3} ms", start.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// An entry like those of real trees: a path of some 60 bytes, ext4's handles (inode number, generation) of files made
/// one after the other, 100 owners.
fn entry(n: u64, class: Class) -> NewAction {
    let generation = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let mut handle = vec![1, 0, 0, 0];
    handle.extend_from_slice(&((n & 0xffff_ffff) | generation << 32).to_le_bytes());
    NewAction {
        request: RequestId(1 + n / 50_000),
        class,
        command: Command::Archive,
        archive_id: 1,
        owner: u32::try_from(n % 100).unwrap_or(0),
        file: FileHandle::from_bytes(&handle).ok(),
        path: format!("projects/climate/run-{:04}/output/field-{n:08}.nc", n / 1000),
        identity: Identity { uuid: format!("{n:032x}"), hash: None, url: String::new() },
        data: Vec::new(),
        not_before_ms: 1_800_000_000_000,
        created_ms: 1_800_000_000_000,
    }
}

fn resident() -> Result<String, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    Ok(status.lines().find(|l| l.starts_with("VmRSS")).unwrap_or("VmRSS unknown").replace('\t', " "))
}
