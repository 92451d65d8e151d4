//! How fast a directory's files go into an archive: `archive_speed SOURCE_DIR ARCHIVE_ROOT [THREADS [off|zstd|gzip [PACK_BYTES]]]`.
//!
//! Files up to PACK_BYTES (0: none) share packs. At most 1,024 files are on their way at once, as an agent has it.
//! Prints seconds, files and bytes, everything durable. To be compared with `rsync -a` or `cp -r`, and `sync -f` after it.

extern crate sifaka_transfer as transfer;

use model::ObjectId;
use parking_lot::Mutex;
use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::time::Instant;
use transfer::{
    Compression, DigestKind, Encoding, KernelDurability, OpenFile, Origin, PosixStore, PutOptions, Store, Unwatched,
};

const CREDITS: usize = 1024;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [source, root, rest @ ..] = arguments.as_slice() else {
        return Err("usage: archive_speed SOURCE_DIR ARCHIVE_ROOT [THREADS [off|zstd|gzip [PACK_BYTES]]]".into());
    };
    let threads = rest.first().and_then(|n| n.to_str()).map_or(Ok(4), str::parse)?;
    let compression = match rest.get(1).and_then(|c| c.to_str()) {
        Some("zstd") => Compression::On(Encoding::Zstd),
        Some("gzip") => Compression::On(Encoding::Gzip),
        _ => Compression::Off,
    };
    let pack_bytes = rest.get(2).and_then(|n| n.to_str()).map_or(Ok(0), str::parse)?;
    let origin = Some(Origin { path: b"speed", fsid: [0; 8] });
    let options = PutOptions {
        digest: Some(DigestKind::Blake3),
        compression,
        origin,
        pack_up_to_bytes: pack_bytes,
        repeated: false,
    };
    let files: Vec<PathBuf> =
        std::fs::read_dir(source)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    sys::process::raise_nofile_limit();
    let store = PosixStore::open(Path::new(root), Arc::new(KernelDurability))?;
    let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
    let (tell, told) = channel();
    let (take_credit, give_credit) = sync_channel(CREDITS);
    let give_credit = Arc::new(Mutex::new(give_credit));
    let begin = Instant::now();
    std::thread::scope(|scope| -> Result<(), Box<dyn Error + Send + Sync>> {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let (tell, take_credit, give_credit) = (tell.clone(), take_credit.clone(), give_credit.clone());
                let (files, next, store) = (&files, &next, &store);
                scope.spawn(move || -> Result<(), Box<dyn Error + Send + Sync>> {
                    while let Some((n, path)) = take(files, next) {
                        // Spread over the fan-out as random ids are.
                        let random = blake3::hash(&n.to_le_bytes());
                        let id = uuid::Uuid::from_slice(random.as_bytes().get(..16).unwrap_or_default())?.to_string();
                        take_credit.send(())?;
                        let source = OpenFile::for_reading(path)?;
                        let staged = store.stage(&ObjectId::parse(&id)?, &source, options, &Unwatched)?;
                        let (tell, give_credit) = (tell.clone(), give_credit.clone());
                        let done = move |result| {
                            drop(tell.send(result));
                            let _ = give_credit.lock().recv();
                        };
                        store.commit(staged, Box::new(done));
                    }
                    Ok(())
                })
            })
            .collect();
        drop(tell);
        for result in told {
            bytes.fetch_add(result?.bytes, Ordering::Relaxed);
        }
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err("a worker panicked".into())))
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    println!("{seconds:.2} s, {} files, {} bytes", files.len(), bytes.into_inner());
    Ok(())
}

fn take<'a>(files: &'a [PathBuf], next: &AtomicUsize) -> Option<(usize, &'a PathBuf)> {
    let n = next.fetch_add(1, Ordering::Relaxed);
    files.get(n).map(|path| (n, path))
}
