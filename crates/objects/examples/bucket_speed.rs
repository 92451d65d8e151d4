//! How fast an archive in a bucket takes files in and gives them back: `bucket_speed ENDPOINT BUCKET DIRECTORY COUNT SIZE`.
//!
//! Keys and region come from the environment, as everybody's do. The directory gets COUNT files of SIZE bytes, and what is restored.

#![allow(clippy::unwrap_used, reason = "for whoever measures")]

extern crate sifaka_objects as objects;

use model::ObjectId;
use objects::{Bucket, ObjectStore, S3, Service, Settings};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;
use transfer::{Compression, DigestKind, Expected, OpenFile, Origin, PutOptions, Store, Unwatched};

/// As many as a mover has.
const THREADS: u64 = 16;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, bucket, directory, count, size] = arguments.as_slice() else {
        eprintln!("usage: bucket_speed ENDPOINT BUCKET DIRECTORY COUNT SIZE");
        std::process::exit(2);
    };
    let (count, size): (u64, usize) = (count.parse().unwrap(), size.parse().unwrap());
    let service = Service::S3(S3 { checksums: true, ..S3::default() });
    let prefix = format!("speed-{}", std::process::id());
    let endpoint = Some(endpoint.clone());
    let settings = Settings { service, bucket: bucket.clone(), prefix, endpoint, ..Settings::memory() };
    let store = Arc::new(ObjectStore::new(Bucket::open(&settings).unwrap()));
    let path = |what: &str, n: u64| std::path::Path::new(directory).join(format!("{what}{n}"));
    let id = |n: u64| ObjectId::parse(&format!("{n:08x}-5ad1-4b6e-9b7a-0a4dd0c8f0aa")).unwrap();
    for n in 0..count {
        let content: Vec<u8> = (0..size).map(|at| (at as u64 * 31 + n) as u8).collect();
        std::fs::write(path("source", n), content).unwrap();
    }
    let options = PutOptions {
        digest: Some(DigestKind::Blake3),
        compression: Compression::Off,
        origin: Some(Origin { path: b"a/path", fsid: [1; 8] }),
        pack_up_to_bytes: 0,
        repeated: false,
    };
    let report = |what: &str, begun: Instant| {
        let seconds = begun.elapsed().as_secs_f64();
        let mebibytes = count as f64 * size as f64 / f64::from(1 << 20);
        println!("{what}: {seconds:.2} s, {:.0} files/s, {:.0} MiB/s", count as f64 / seconds, mebibytes / seconds);
    };
    let begun = Instant::now();
    let (tell, told) = channel();
    std::thread::scope(|scope| {
        for first in 0..THREADS.min(count) {
            let (store, tell) = (&store, tell.clone());
            scope.spawn(move || {
                for n in (first..count).step_by(THREADS as usize) {
                    let source = OpenFile::for_reading(path("source", n)).unwrap();
                    let staged = store.stage(&id(n), &source, options, &Unwatched).unwrap();
                    let tell = tell.clone();
                    store.commit(staged, Box::new(move |result| tell.send((n, result.unwrap())).unwrap()));
                }
            });
        }
    });
    drop(tell);
    let stored: Vec<_> = told.iter().collect();
    report("up", begun);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for part in stored.chunks(stored.len().div_ceil(THREADS as usize)) {
            let store = &store;
            scope.spawn(move || {
                for (n, stored) in part {
                    let path = path("restored", *n);
                    std::fs::write(&path, b"").unwrap();
                    let target = OpenFile::for_writing(path).unwrap();
                    let expected = Expected { size: Some(stored.bytes), digest: stored.digest };
                    store.get(&stored.id, &target, expected, &Unwatched).unwrap();
                }
            });
        }
    });
    report("down", begun);
}
