//! `sifaka verify --archive`, of trees whose archive a system made and a fault changed.

use crate::support::{Hsm, hsm_state, is_released, noise, uuid_of};
use model::HsmFlags;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::SystemTime;
use testkit::{FsKind, Scratch};

/// Lines by path, and the totals.
struct Verified {
    code: Option<i32>,
    lines: Vec<Value>,
    totals: Value,
    said: String,
}

impl Verified {
    fn new(out: &Output) -> Self {
        let text = String::from_utf8(out.stdout.clone()).unwrap();
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let totals = lines.pop().unwrap_or_default();
        Self { code: out.status.code(), lines, totals, said: String::from_utf8_lossy(&out.stderr).into_owned() }
    }

    #[track_caller]
    fn count(&self, what: &str) -> u64 {
        self.totals[what].as_u64().unwrap_or_else(|| panic!("{what} in {}: {}", self.totals, self.said))
    }

    #[track_caller]
    fn of(&self, path: &str) -> &Value {
        let line = self.lines.iter().find(|line| line["path"] == path);
        line.unwrap_or_else(|| panic!("{path} in {:?}", self.lines))
    }

    /// What differs of a path.
    #[track_caller]
    fn differs(&self, path: &str) -> Vec<&str> {
        let all = self.of(path)["differs"].as_array().unwrap_or_else(|| panic!("{:?}", self.lines));
        all.iter().map(|one| one["what"].as_str().unwrap()).collect()
    }
}

fn verify(hsm: &Hsm, tree: &Path, words: &[&str]) -> Verified {
    let mut command = hsm.site.command();
    command.arg("--config").arg(hsm.site.agent_config()).arg("verify").arg(tree).args(["--archive", "1", "--json"]);
    Verified::new(&command.args(words).output().unwrap())
}

fn object_of(hsm: &Hsm, path: &Path) -> PathBuf {
    let uuid = uuid_of(path);
    hsm.site.archive_root().join("objects").join(&uuid[0..2]).join(&uuid[2..4]).join(&uuid)
}

fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn a_tree_that_works_agrees_with_its_archive_and_nothing_is_restored() {
    for kind in FsKind::ALL {
        let mut hsm = Hsm::start_with(kind, 300, |site| site.add_archive_setting("compression = \"auto\""));
        let tree = hsm.path("tree");
        fs::create_dir(&tree).unwrap();
        testkit::tree::TreeSpec::new(3, 30).build(&tree);
        fs::hard_link(hsm.file("one", b"several names"), tree.join("two")).unwrap();
        fs::write(tree.join("words"), "the same words again and again\n".repeat(80_000)).unwrap();
        fs::write(tree.join("large"), noise(1, 3 << 20)).unwrap();
        let sparse = fs::File::create(tree.join("sparse")).unwrap();
        sparse.set_len(64 << 20).unwrap();
        sparse.write_all_at(b"in the middle", 30 << 20).unwrap();
        drop(sparse);
        symlink("nowhere", tree.join("link")).unwrap();
        let root = hsm.fs.path();
        hsm.archive(&[&root]);
        hsm.release(&[&tree]);
        let released: Vec<PathBuf> = ["large", "words", "sparse", "two"].map(|name| tree.join(name)).into();
        let resident = hsm.file("resident", &noise(2, 2_500_000));
        hsm.archive(&[&resident]);
        hsm.ok(&["clone"], &[&tree.join("large"), &hsm.path("clone")]);
        hsm.file("new", b"not archived");
        for agent_runs in [true, false] {
            if !agent_runs {
                hsm.stop_agent();
            }
            for words in [&[][..], &["--content"], &["--content", "--jobs", "1"]] {
                let verified = verify(&hsm, &root, words);
                assert_eq!(verified.code, Some(0), "{kind:?} {:?} {}", verified.lines, verified.said);
                assert!(verified.count("released") >= 34 && verified.count("same") > verified.count("released"));
                let others = ["unarchived", "shared", "extra", "missing"].map(|what| verified.count(what));
                assert_eq!(others, [1, 1, 0, 0], "{}", verified.totals);
                assert_eq!(verified.count("bytes") > 5_500_000, words.contains(&"--content"), "{}", verified.totals);
            }
            assert!(released.iter().all(|path| is_released(path)), "nothing was restored");
        }
    }
}

#[test]
fn each_difference_is_told() {
    let mut hsm = Hsm::start(FsKind::Ext4);
    let dir = hsm.path("d");
    fs::create_dir(&dir).unwrap();
    let names = ["mode", "owner", "attr", "moved", "dirty", "gone", "lost", "rotten", "bad", "fine"];
    let paths = names.map(|name| dir.join(name));
    for (n, path) in paths.iter().enumerate() {
        fs::write(path, noise(n as u64, (2 << 20) + 100 * n)).unwrap();
    }
    let [mode, owner, attr, moved, dirty, gone, lost, rotten, bad, _] = &paths;
    hsm.archive(&paths.each_ref().map(PathBuf::as_path));
    hsm.release(&[lost, bad]);
    fs::write(dirty, "changed").unwrap();
    hsm.stop_agent();
    fs::set_permissions(mode, fs::Permissions::from_mode(0o4600)).unwrap();
    std::os::unix::fs::chown(owner, Some(1000), None).unwrap();
    sys::xattr::set(fs::File::open(attr).unwrap(), "user.colour", b"red").unwrap();
    fs::rename(moved, dir.join("elsewhere")).unwrap();
    fs::remove_file(gone).unwrap();
    fs::remove_file(object_of(&hsm, lost)).unwrap();
    // A disk that gives back something else, and says nothing of it.
    let before = fs::metadata(rotten).unwrap().modified().unwrap();
    flip(rotten, (1 << 20) + 5);
    fs::File::options().write(true).open(rotten).unwrap().set_modified(before).unwrap();
    flip(&object_of(&hsm, bad), 77);

    let by_metadata = verify(&hsm, &hsm.fs.path(), &[]);
    assert_eq!(by_metadata.code, Some(6), "{}", by_metadata.said);
    let expected =
        [("differs", 4), ("missing", 1), ("extra", 1), ("dirty", 1), ("failed", 0), ("same", 3), ("young", 0)];
    for (what, count) in expected {
        assert_eq!(by_metadata.count(what), count, "{what}: {:?} {}", by_metadata.lines, by_metadata.totals);
    }
    assert_eq!(by_metadata.differs("d/owner"), ["owner"]);
    assert_eq!(by_metadata.differs("d/attr"), ["attribute"]);
    assert_eq!(by_metadata.of("d/mode")["differs"][0], serde_json::json!({"what": "mode", "a": "4600", "b": "644"}));
    let path = &by_metadata.of("d/elsewhere")["differs"][0];
    assert_eq!(*path, serde_json::json!({"what": "path", "a": "d/elsewhere", "b": "d/moved"}));
    assert_eq!(by_metadata.of("d/lost")["found"], "missing");
    assert_eq!(by_metadata.of("d/gone")["found"], "extra");
    assert!(by_metadata.of("d/gone")["object"].is_string());

    let by_content = verify(&hsm, &hsm.fs.path(), &["--content"]);
    assert_eq!((by_content.count("differs"), by_content.count("same")), (6, 1), "{:?}", by_content.lines);
    assert_eq!(by_content.of("d/rotten")["differs"][0]["of"], "from byte 1048576 on");
    let object = by_content.of("d/bad")["differs"][0]["of"].as_str().unwrap();
    assert!(object.starts_with("of the object from byte 0 to byte 1048576"), "{object}");
    assert!(is_released(bad) && is_released(lost));

    let ignored = verify(&hsm, &hsm.fs.path(), &["--ignore", "mode,owner,xattrs,path"]);
    assert_eq!((ignored.count("differs"), ignored.count("missing"), ignored.code), (0, 1, Some(6)));
    // Below a directory nobody is asked for what no file names.
    let below = verify(&hsm, &dir, &["--ignore", "mode,owner,xattrs,path", "--exclude", "lost"]);
    assert_eq!((below.code, below.count("filtered"), below.count("extra")), (Some(0), 1, 0), "{:?}", below.lines);
    let below = verify(&hsm, &dir, &["--ignore", "times"]);
    assert_eq!(
        (below.of("lost")["found"].as_str(), below.of("mode")["found"].as_str()),
        (Some("missing"), Some("differs"))
    );
    assert!(hsm_state(dirty).flags.contains(HsmFlags::DIRTY));
}

#[test]
fn changes_that_nobody_marked_are_changes_and_no_damage() {
    let mut hsm = Hsm::start(FsKind::Xfs);
    let [longer, later] = ["longer", "later"].map(|name| hsm.file(name, &noise(1, 100_000)));
    hsm.archive(&[&longer, &later]);
    hsm.stop_agent();
    fs::write(&longer, noise(2, 100_001)).unwrap();
    fs::File::options().write(true).open(&later).unwrap().set_modified(SystemTime::now()).unwrap();
    let verified = verify(&hsm, &hsm.fs.path(), &["--content"]);
    assert_eq!((verified.code, verified.count("dirty")), (Some(0), 2), "{:?} {}", verified.lines, verified.totals);
}

#[test]
fn lemurs_layout_is_compared_by_size_and_by_content() {
    let mut hsm = Hsm::start_with(FsKind::Ext4, 300, |site| site.add_archive_setting("format = \"lemur\""));
    let files = ["resident", "released", "rotten", "short", "bad"].map(|name| hsm.file(name, &noise(3, 2_000_000)));
    let [_, released, rotten, short, bad] = &files;
    hsm.archive(&files.each_ref().map(PathBuf::as_path));
    hsm.release(&[released, short, bad]);
    for words in [&[][..], &["--content"]] {
        let verified = verify(&hsm, &hsm.fs.path(), words);
        assert_eq!((verified.code, verified.count("same"), verified.count("undescribed")), (Some(0), 5, 5));
    }
    hsm.stop_agent();
    let before = fs::metadata(rotten).unwrap().modified().unwrap();
    flip(rotten, 5);
    fs::File::options().write(true).open(rotten).unwrap().set_modified(before).unwrap();
    let object = fs::File::options().write(true).open(object_of(&hsm, short)).unwrap();
    object.set_len(1_999_999).unwrap();
    flip(&object_of(&hsm, bad), 1_000_000);
    let verified = verify(&hsm, &hsm.fs.path(), &[]);
    assert_eq!((verified.code, verified.count("differs")), (Some(6), 1), "{:?}", verified.lines);
    assert_eq!(verified.differs("short"), ["size"]);
    let verified = verify(&hsm, &hsm.fs.path(), &["--content"]);
    assert_eq!((verified.count("differs"), verified.count("same")), (3, 2), "{:?}", verified.lines);
    assert_eq!((verified.differs("rotten"), verified.differs("bad")), (vec!["content"], vec!["content"]));
    assert!(is_released(bad) && is_released(released));
}

#[test]
fn without_a_configuration_the_archives_directory_is_named() {
    let mut hsm = Hsm::start(FsKind::Btrfs);
    let file = hsm.file("file", &noise(1, 300_000));
    hsm.archive(&[&file]);
    hsm.stop_agent();
    let scratch = Scratch::new("verify-no-config");
    let run = |words: &[&str]| {
        let mut command = hsm.site.command();
        command.arg("--config").arg(scratch.join("none")).arg("verify").args(words).output().unwrap()
    };
    let (tree, root) = (hsm.fs.path(), hsm.site.archive_root().to_owned());
    let (tree, root) = (tree.to_str().unwrap(), root.to_str().unwrap());
    let out = run(&[tree, "--archive", "1", "--root", root, "--content"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(said.starts_with("1 files are as the archive has them") && said.contains("the archive has what"), "{said}");
    // By another number everything is elsewhere, and what is there nobody's.
    let verified = Verified::new(&run(&[tree, "--archive", "2", "--root", root, "--json"]));
    assert_eq!((verified.code, verified.count("elsewhere")), (Some(0), 1), "{}", verified.totals);
    for senseless in [
        &[tree][..],
        &[tree, "--root", root],
        &[tree, tree, "--archive", "1"],
        &[tree, "--archive", "1", "--cross-filesystems"],
        &[file.to_str().unwrap(), "--archive", "1", "--root", root],
    ] {
        assert_eq!(run(senseless).status.code(), Some(2), "{senseless:?}");
    }
    let nowhere = scratch.join("nowhere");
    assert_eq!(run(&[tree, "--archive", "1", "--root", nowhere.to_str().unwrap()]).status.code(), Some(5));
}
