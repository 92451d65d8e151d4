//! Copies made in directories that would give them another group, or an ACL.

use crate::nasty::set_acl;
use crate::oracle::{run, run_well};
use rustix::fs::{CWD, FileType, Mode};
use sifaka_jobs::migrate::{Existing, Options};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use testkit::{FsKind, LoopFs};

/// Files of root and of a user, whose modes say that others have no business with them.
fn grow(directory: &Path) {
    fs::create_dir_all(directory.join("sub/below")).unwrap();
    fs::set_permissions(directory.join("sub"), fs::Permissions::from_mode(0o700)).unwrap();
    for (name, owner) in [("root", 0), ("user", 1000), ("sub/root", 0), ("sub/user", 1000), ("sub/below/root", 0)] {
        let path = directory.join(name);
        fs::write(&path, name).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    }
    fs::write(directory.join("large"), vec![1; 3 << 20]).unwrap();
    rustix::fs::mknodat(CWD, directory.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o620), 0).unwrap();
    symlink("nowhere", directory.join("link")).unwrap();
}

#[test]
fn copies_have_the_group_and_the_acl_of_the_source_and_not_of_the_directory() {
    for kind in FsKind::ALL {
        let disk = LoopFs::new(kind, kind.min_size_mib().max(64));
        let (source, target) = (disk.path().join("src"), disk.path().join("dst"));
        for directory in [&source, &target] {
            fs::create_dir_all(directory.join("d")).unwrap();
        }
        for path in [target.clone(), target.join("d")] {
            chown(&path, None, Some(4242)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o2775)).unwrap();
            set_acl(&["-m", "d:u:1234:rwx,d:g:77:rwx,u:1234:rwx"], &path);
        }
        grow(&source);
        grow(&source.join("d"));
        // Without --update what was there stays as it is, and so does not hide what is made in it.
        let ran = run(&source, &target, &Options::default());
        assert_eq!(ran.problems(), Vec::<String>::new());
        assert_eq!(fs::metadata(&target).unwrap().gid(), 4242);
        for name in ["root", "d/root", "d/sub", "d/sub/below/root", "large", "pipe", "link", "d/pipe"] {
            let of = |root: &Path| fs::symlink_metadata(root.join(name)).unwrap();
            let (one, other) = (of(&source), of(&target));
            assert_eq!((one.gid(), one.mode()), (other.gid(), other.mode()), "{kind} {name}");
        }
        run_well(&source, &target, &Options { existing: Existing::Update, ..Options::default() });
        // And where the root is made in such a directory.
        let below = disk.path().join("shared");
        fs::create_dir(&below).unwrap();
        chown(&below, None, Some(4242)).unwrap();
        fs::set_permissions(&below, fs::Permissions::from_mode(0o2775)).unwrap();
        set_acl(&["-m", "d:u:1234:rwx"], &below);
        fs::set_permissions(&source, fs::Permissions::from_mode(0o700)).unwrap();
        run_well(&source, &below.join("new"), &Options::default());
    }
}
