//! How fast a directory's files go into an archive: `archive_speed SOURCE_DIR ARCHIVE_ROOT [THREADS [zstd|gzip]]`.
//!
//! Prints seconds, files and bytes, everything durable. To be compared with `rsync -a` or `cp -r`, and `sync -f` after it.

extern crate sifaka_transfer as transfer;

use model::ObjectId;
use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Instant;
use transfer::{
    Compression, DigestKind, Encoding, KernelDurability, OpenFile, Origin, PosixStore, PutOptions, Store, Unwatched,
};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [source, root, rest @ ..] = arguments.as_slice() else {
        return Err("usage: archive_speed SOURCE_DIR ARCHIVE_ROOT [THREADS [zstd|gzip]]".into());
    };
    let threads = rest.first().and_then(|n| n.to_str()).map_or(Ok(4), str::parse)?;
    let compression = match rest.get(1).and_then(|c| c.to_str()) {
        Some("zstd") => Compression::On(Encoding::Zstd),
        Some("gzip") => Compression::On(Encoding::Gzip),
        _ => Compression::Off,
    };
    let origin = Some(Origin { path: b"speed", fsid: [0; 8] });
    let options = PutOptions { digest: Some(DigestKind::Blake3), compression, origin };
    let files: Vec<PathBuf> =
        std::fs::read_dir(source)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    sys::process::raise_nofile_limit();
    let store = PosixStore::open(Path::new(root), Arc::new(KernelDurability))?;
    let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
    let (tell, told) = channel();
    let begin = Instant::now();
    std::thread::scope(|scope| -> Result<(), Box<dyn Error + Send + Sync>> {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let tell = tell.clone();
                scope.spawn(|| -> Result<(), Box<dyn Error + Send + Sync>> {
                    let tell = tell;
                    while let Some((n, path)) = take(&files, &next) {
                        // Spread over the fan-out as random ids are.
                        let id = blake3::hash(&n.to_le_bytes()).to_hex();
                        let source = OpenFile::for_reading(path)?;
                        let staged = store.stage(&ObjectId::parse(&id)?, &source, options, &Unwatched)?;
                        let tell = tell.clone();
                        store.commit(staged, Box::new(move |result| drop(tell.send(result))));
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
