//! How fast one file goes into an archive and comes back: `large_file FILE ARCHIVE_ROOT RESTORED [raw|zstd]`.
//!
//! Prints seconds, everything durable. To be compared with `cp` and `sync`. Drop the page cache before to read from the device.

extern crate sifaka_transfer as transfer;

use model::ObjectId;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;
use transfer::{
    Compression, DigestKind, Encoding, Expected, KernelDurability, OpenFile, Origin, PosixStore, PutOptions, Store,
    Unwatched,
};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [source, root, restored, rest @ ..] = arguments.as_slice() else {
        return Err("usage: large_file FILE ARCHIVE_ROOT RESTORED [raw|zstd]".into());
    };
    let zstd = rest.first().is_some_and(|codec| codec == Path::new("zstd"));
    let compression = if zstd { Compression::On(Encoding::Zstd) } else { Compression::Off };
    let origin = Some(Origin { path: b"large", fsid: [0; 8] });
    let options =
        PutOptions { digest: Some(DigestKind::Blake3), compression, origin, pack_up_to_bytes: 0, repeated: false };
    let store = PosixStore::open(root, Arc::new(KernelDurability))?;
    let begin = Instant::now();
    let staged = store.stage(&ObjectId::parse("large-file")?, &OpenFile::for_reading(source)?, options, &Unwatched)?;
    let (tell, told) = channel();
    store.commit(staged, Box::new(move |result| drop(tell.send(result))));
    let stored = told.recv()??;
    println!("archive {:.2} s, {} bytes", begin.elapsed().as_secs_f64(), stored.bytes);
    std::fs::File::create(restored)?.set_len(stored.bytes)?;
    let target = OpenFile::for_writing(restored)?;
    let expected = Expected { size: Some(stored.bytes), digest: stored.digest };
    let begin = Instant::now();
    store.get(&stored.id, &target, expected, &Unwatched)?;
    println!("restore {:.2} s", begin.elapsed().as_secs_f64());
    Ok(())
}
