//! Archives that Lemur wrote, built here with independent tools: gzip(1) and sha1sum(1).

use crate::harness::{Archive, id, options};
use model::Digest;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use testkit::Random;
use transfer::{DigestKind, Encoding, Expected, Store, TransferError, Unwatched};

fn run(program: &str, args: &[&str], file: &Path) -> Output {
    let output = Command::new(program).args(args).arg(file).output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
    output
}

fn sha1sum(file: &Path) -> Digest {
    let text = String::from_utf8(run("sha1sum", &["-b"], file).stdout).unwrap();
    Digest::from_hex(text.split_whitespace().next().unwrap()).unwrap()
}

fn content() -> Vec<u8> {
    let mut content = vec![b' '; 3_000_000];
    Random::new(8).fill(&mut content[1_000_000..2_000_000]);
    content
}

/// Lemur's names: a random UUID, with `.gz` when the object is compressed. The hash is of the content, not of the object.
#[test]
fn lemur_s_objects_restore_raw_and_gzip_with_and_without_hash() {
    let archive = Archive::new();
    let content = content();
    let source = archive.base.join("source");
    fs::write(&source, &content).unwrap();
    let raw = id("5b0ce9ea-7c07-4b0b-8a3d-d4b8f5a8f3f1");
    let gzip = id("7d4ee0c1-2f0e-4a56-9d5c-0f5b5a3c2e11.gz");
    for name in [&raw, &gzip] {
        fs::create_dir_all(archive.object(name).parent().unwrap()).unwrap();
    }
    fs::copy(&source, archive.object(&raw)).unwrap();
    fs::write(archive.object(&gzip), run("gzip", &["-c", "-n"], &source).stdout).unwrap();
    let hash = sha1sum(&source);

    for name in [&raw, &gzip] {
        for digest in [None, Some(hash)] {
            for size in [None, Some(content.len() as u64)] {
                let (restored, found) = archive.get_over(name, b"stale", Expected { size, digest }).unwrap();
                assert!(found == content);
                assert_eq!(restored.digest, digest);
            }
        }
        let wrong = Expected { size: None, digest: Some(Digest::Sha1([0; 20])) };
        let error = archive.store.verify(name, wrong, &Unwatched).unwrap_err();
        assert!(matches!(error, TransferError::Mismatch { found, .. } if found == hash), "{error}");
        archive.remove(name).unwrap();
        assert!(!archive.object(name).exists());
    }
}

#[test]
fn what_we_write_as_lemur_is_read_by_gzip() {
    let archive = Archive::new();
    let content = content();
    let source = archive.file("source", &content);
    let name = id("9e107d9d-372b-4c81-8d6a-b1b2d0f7a0aa");
    for encoding in [Encoding::Raw, Encoding::Gzip] {
        let stored = archive.put(&name, &source, options(encoding, Some(DigestKind::Sha1))).unwrap();
        assert_eq!(stored.digest, Some(sha1sum(source.path())));
        let object = archive.store.root().join("objects/9e/10").join(format!("{name}{}", encoding.suffix()));
        let read = match encoding {
            Encoding::Gzip => run("gzip", &["-dc"], &object).stdout,
            _ => fs::read(&object).unwrap(),
        };
        assert!(read == content);
    }
}
