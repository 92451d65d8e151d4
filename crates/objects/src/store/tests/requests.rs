//! How many requests things take, and how many connections: seen at a proxy in front of Ceph's gateway.

use super::ServerBed;
use super::rgw::{BUCKET, settings};
use super::suite::{Calls as _, described, expected};
use model::ObjectId;
use std::sync::mpsc::channel;
use testkit::FaultProxy;
use testkit::services::Rgw;
use transfer::{Encoding, OpenFile, Store as _, Unwatched};

/// As many as the mover has.
const THREADS: usize = 32;

fn start() -> (ServerBed<Rgw>, FaultProxy) {
    let server = Rgw::start();
    server.create_bucket(BUCKET);
    let proxy = FaultProxy::start(&server.server().authority());
    let settings = settings(proxy.url());
    (ServerBed::with(server, &settings), proxy)
}

fn number(n: usize) -> ObjectId {
    ObjectId::parse(&format!("{n:08x}-5ad1-4b6e-9b7a-0a4dd0c8f0aa")).unwrap()
}

/// Calls it for each number, by as many threads as the mover has.
fn by_threads(count: usize, work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for first in 0..THREADS {
            let work = &work;
            scope.spawn(move || (first..count).step_by(THREADS).for_each(work));
        }
    });
}

#[test]
fn a_small_file_is_one_request_up_and_one_down_and_connections_are_used_again() {
    let (bed, proxy) = start();
    let count = 10 * THREADS;
    for n in 0..count {
        std::fs::write(bed.scratch.join(n.to_string()), format!("content of {n}").repeat(300)).unwrap();
    }
    let (tell, told) = channel();
    by_threads(count, |n| {
        let source = OpenFile::for_reading(bed.scratch.join(n.to_string())).unwrap();
        let staged = bed.store.stage(&number(n), &source, described(Encoding::Raw), &Unwatched).unwrap();
        let tell = tell.clone();
        bed.store.commit(staged, Box::new(move |stored| tell.send(stored.unwrap()).unwrap()));
    });
    drop(tell);
    let mut stored: Vec<_> = told.iter().collect();
    assert_eq!(stored.len(), count);
    let counted = |method: &str| proxy.count(|request| request.method == method);
    assert_eq!((counted("PUT"), proxy.requests().len()), (count, count));
    let most = bed.store.bucket().limits().requests;
    assert!(proxy.connections() <= most, "{} connections for {count} requests", proxy.connections());

    stored.sort_by_key(|stored| stored.id.to_string());
    by_threads(count, |n| {
        let path = bed.scratch.join(format!("back-{n}"));
        std::fs::write(&path, "").unwrap();
        let target = OpenFile::for_writing(&path).unwrap();
        bed.store.get(&stored[n].id, &target, expected(&stored[n]), &Unwatched).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), format!("content of {n}").repeat(300).into_bytes());
    });
    assert_eq!((counted("GET"), proxy.requests().len()), (count, 2 * count));
    // Another pool of connections would be seen here.
    assert!(proxy.connections() <= most + THREADS, "{} connections", proxy.connections());
    stored.iter().for_each(|stored| bed.remove(&stored.id).unwrap());
}

/// Each part of a file that somebody reads at random asks for that part and no more, once the manifest is known.
#[test]
fn a_range_is_one_request_when_the_manifest_is_known() {
    let (bed, proxy) = start();
    let source = bed.file("source", &vec![7; 20 << 20]);
    let stored = bed.put(&number(1), &source, described(Encoding::Raw)).unwrap();
    std::fs::write(bed.scratch.join("target"), "").unwrap();
    let target = OpenFile::for_writing(bed.scratch.join("target")).unwrap();
    target.file().set_len(20 << 20).unwrap();
    let part = |mib: u64| {
        let before = proxy.requests().len();
        let extent = model::Extent { offset: mib << 20, length: 4096 };
        bed.store.get_range(&stored.id, &target, extent, expected(&stored), &Unwatched).unwrap();
        proxy.requests().len() - before
    };
    assert_eq!(part(3), 2, "the manifest, and the part");
    for mib in [17, 0, 5] {
        assert_eq!(part(mib), 1, "{:?}", proxy.requests().last());
    }
}
