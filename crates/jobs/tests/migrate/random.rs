//! Random trees that change at random between passes, against rsync, and against the tree itself as the model.

use crate::nasty::set_acl;
use crate::oracle::{assert_same, interrupt, run_well};
use rustix::fs::{CWD, FileType, Mode};
use sifaka_jobs::migrate::{Existing, Options};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use testkit::random::rounds;
use testkit::{FsKind, LoopFs, Random};

/// All that is below `root`.
fn everything(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut directories) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                directories.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// A name that may be taken, in some directory.
fn place(root: &Path, random: &mut Random) -> PathBuf {
    let mut directories: Vec<_> = everything(root).into_iter().filter(|path| is_directory(path)).collect();
    directories.push(root.to_owned());
    random.choose(&directories).join(format!("n{}", random.within(0..12)))
}

fn clear(path: &Path) {
    if is_directory(path) {
        fs::remove_dir_all(path).unwrap();
    } else {
        let _ = fs::remove_file(path);
    }
}

fn content(random: &mut Random) -> Vec<u8> {
    let most = *random.choose(&[1, 10, 5000, 300_000, 1_500_000]);
    let mut bytes = vec![0; usize::try_from(random.within(0..most)).unwrap()];
    random.fill(&mut bytes);
    bytes
}

/// One thing that users do.
fn change(root: &Path, random: &mut Random) {
    let path = place(root, random);
    let all = everything(root);
    let some = |random: &mut Random| (!all.is_empty()).then(|| random.choose(&all).clone());
    match random.within(0..14) {
        0..=2 => {
            clear(&path);
            fs::write(&path, content(random)).unwrap();
        }
        3 => {
            clear(&path);
            fs::create_dir(&path).unwrap();
        }
        4 => {
            clear(&path);
            symlink(format!("t{}", random.within(0..5)), &path).unwrap();
        }
        5 => {
            clear(&path);
            let kind = *random.choose(&[FileType::Fifo, FileType::Socket, FileType::CharacterDevice]);
            rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o640), rustix::fs::makedev(1, 3)).unwrap();
        }
        // A further name, of whatever it is.
        6 | 7 => {
            if let Some(first) = some(random).filter(|first| !is_directory(first) && *first != path) {
                clear(&path);
                // It may have been below what was just cleared.
                let _ = fs::hard_link(first, &path);
            }
        }
        8 => {
            if let Some(gone) = some(random) {
                clear(&gone);
            }
        }
        9 => {
            // Not into itself.
            if let Some(from) = some(random).filter(|from| !path.starts_with(from) && !from.starts_with(&path)) {
                clear(&path);
                fs::rename(from, &path).unwrap();
            }
        }
        10 => {
            if let Some(file) = some(random).filter(|file| fs::symlink_metadata(file).unwrap().is_file()) {
                let file = File::options().write(true).open(file).unwrap();
                let at = random.within(0..2_000_000);
                match random.one_in(2) {
                    true => file.set_len(at).unwrap(),
                    false => file.write_all_at(b"written", at).unwrap(),
                }
            }
        }
        11 => {
            if let Some(it) = some(random) {
                let mut id = || Some(u32::try_from(random.within(0..3)).unwrap());
                lchown(it, id(), id()).unwrap();
            }
        }
        12 => {
            if let Some(it) = some(random).filter(|it| !fs::symlink_metadata(it).unwrap().is_symlink()) {
                let mode = *random.choose(&[0o644, 0o600, 0o755, 0o4755, 0o2775, 0o1777, 0o000]);
                fs::set_permissions(it, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
        _ => {
            if let Some(it) = some(random) {
                let found = fs::symlink_metadata(&it).unwrap();
                match found.is_dir() {
                    true => set_acl(&["-m", "u:1234:rwx,d:u:1234:rx"], &it),
                    false if found.is_file() => set_acl(&["-m", "u:1234:rw"], &it),
                    false => {}
                }
            }
        }
    }
}

/// Whatever the tree was and however it changed, and whatever the destination had become, a pass with all options makes it the source's likeness; the
/// next one has nothing to do.
#[test]
fn p7_every_pass_makes_the_destination_what_the_source_is() {
    let mut random = Random::from_env();
    let kinds = [(FsKind::Ext4, FsKind::Xfs), (FsKind::Btrfs, FsKind::Ext4)];
    for (from, to) in kinds {
        let (from, to) = (LoopFs::new(from, from.min_size_mib().max(300)), LoopFs::new(to, to.min_size_mib().max(300)));
        for round in 0..rounds(6, 300) {
            let (source, target) = (from.path().join(format!("s{round}")), to.path().join(format!("t{round}")));
            fs::create_dir(&source).unwrap();
            chown(&source, Some(7), Some(8)).unwrap();
            let state = Some(from.path().join("job.db"));
            let options = Options { existing: Existing::Update, delete: true, state, ..Options::default() };
            for pass in 0..4 {
                for _ in 0..random.within(1..40) {
                    change(&source, &mut random);
                }
                // What somebody does to the copy is undone.
                if pass == 2 {
                    for _ in 0..5 {
                        change(&target, &mut random);
                    }
                }
                if pass > 0 && random.one_in(2) {
                    let after = std::sync::atomic::AtomicU64::new(random.within(1..6));
                    let stops = |_: &_| after.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) <= 1;
                    interrupt(&source, &target, &options, &stops);
                    for _ in 0..random.within(0..3) {
                        change(&source, &mut random);
                    }
                    // Finished directories are not looked at again: what changed in them is for the pass after that.
                    crate::oracle::run(&source, &target, &options);
                }
                run_well(&source, &target, &options);
                let again = run_well(&source, &target, &options);
                let moved = again.files + again.directories + again.symlinks + again.specials + again.deleted;
                assert_eq!((moved, again.linked, again.updated), (0, 0, 0), "{again:?}");
            }
            fs::remove_dir_all(&source).unwrap();
            fs::remove_dir_all(&target).unwrap();
        }
    }
}

/// A tree that is changed while it is copied: no run may fail as a whole, hang, or leave anything unfinished; and when it rests, a pass makes both the same.
#[test]
fn p7_what_changes_while_it_is_copied_is_told_and_the_next_pass_has_it() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut random = Random::from_env();
    let (from, to) = (LoopFs::new(FsKind::Ext4, 600), LoopFs::new(FsKind::Ext4, 600));
    let (source, target) = (from.path().join("src"), to.path().join("dst"));
    fs::create_dir(&source).unwrap();
    for _ in 0..60 {
        change(&source, &mut random);
    }
    let options = Options { existing: Existing::Update, delete: true, verify: true, ..Options::default() };
    let options = Options { state: Some(from.path().join("job.db")), ..options };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (source, over) = (&source, &over);
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                change(source, &mut random);
            }
        });
        for _ in 0..rounds(15, 500) {
            let ran = crate::oracle::run(source, &target, &options);
            for problem in ran.problems() {
                // Nobody but the source's users is to blame.
                assert!(!problem.contains("the destination differs"), "{problem}");
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    run_well(&source, &target, &options);
    let left: Vec<_> =
        everything(&target).into_iter().filter(|path| path.to_str().unwrap().contains(".sifaka-")).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    assert_same(&source, &target);
}
