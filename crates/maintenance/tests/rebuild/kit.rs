//! Trees with everything in them, archives of them, and their comparison.

use model::{FileHandle, ObjectId};
use sifaka_maintenance::rebuild::Options;
use sifaka_maintenance::report::{Finding, Problem, Watcher};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, UNIX_EPOCH};
use testkit::Scratch;
use testkit::tree::TreeSpec;
use transfer::manifest::describe_beneath;
use transfer::{Compression, DigestKind, KernelDurability, OpenFile, Origin, PutOptions, Store, TierStore, Unwatched};

/// Files as [`TreeSpec`] makes them, and what it leaves out.
pub(crate) fn build(root: &Path) {
    TreeSpec::new(11, 60).build(root);
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("dirs/empty")).unwrap();
    fs::create_dir(at("dirs/odd")).unwrap();
    fs::write(at("dirs/one"), "several names").unwrap();
    fs::hard_link(at("dirs/one"), at("dirs/odd/two")).unwrap();
    fs::hard_link(at("dirs/one"), at("three")).unwrap();
    symlink("/no/such/target", at("dirs/dangling")).unwrap();
    symlink(std::ffi::OsString::from_vec(b"bytes\xff\n".to_vec()), at("dirs/odd/bytes")).unwrap();
    std::os::unix::fs::lchown(at("dirs/dangling"), Some(5), Some(6)).unwrap();
    for (name, kind, device) in [
        ("fifo", rustix::fs::FileType::Fifo, 0),
        ("socket", rustix::fs::FileType::Socket, 0),
        ("null", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        ("block", rustix::fs::FileType::BlockDevice, rustix::fs::makedev(7, 99)),
    ] {
        let mode = rustix::fs::Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(rustix::fs::CWD, at("dirs").join(name), kind, mode, device).unwrap();
    }
    acl(&at("dirs/one"), "system.posix_acl_access");
    acl(&at("dirs/odd"), "system.posix_acl_default");
    fs::set_permissions(at("dirs/odd"), fs::Permissions::from_mode(0o2731)).unwrap();
    std::os::unix::fs::chown(at("dirs/odd"), Some(12), Some(13)).unwrap();
    fs::set_permissions(at("dirs/empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(root, fs::Permissions::from_mode(0o751)).unwrap();
    for (seconds, path) in
        [(1_000, at("dirs/odd")), (2_000, at("dirs/empty")), (3_000, at("dirs")), (4_000, root.into())]
    {
        let time = UNIX_EPOCH + Duration::new(seconds, 123_456_789);
        File::open(path).unwrap().set_times(fs::FileTimes::new().set_modified(time)).unwrap();
    }
}

/// user::rw-, user:9:r--, group::r--, mask::rw-, other::---.
fn acl(path: &Path, name: &str) {
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, u32::MAX), (2, 4, 9), (4, 4, u32::MAX), (0x10, 6, u32::MAX), (0x20, 0, u32::MAX)];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    sys::xattr::set(File::open(path).unwrap(), name, &bytes).unwrap();
}

/// What a name stands for, but for its content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    mode: u32,
    owner: (u32, u32),
    size: u64,
    links: u64,
    mtime: (i64, i64),
    device: u64,
    target: Option<PathBuf>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path of the same inode.
    first: PathBuf,
}

pub(crate) fn relative_paths(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let path = dir.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                dirs.push(path.clone());
            }
            found.push(String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned());
        }
    }
    found.sort();
    found
}

/// Of everything below the root and of the root itself, but for what making a filesystem leaves.
pub(crate) fn facts(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut found = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut dirs = vec![PathBuf::new()];
    let mut paths = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let path = dir.join(entry.file_name());
            if path == Path::new("lost+found") {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                dirs.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let kind = meta.file_type();
        let first = inodes.entry((meta.dev(), meta.ino())).or_insert_with(|| path.clone()).clone();
        let mut attributes = BTreeMap::new();
        if !kind.is_symlink() {
            let fd = rustix::fs::open(&full, sys::OFlags::PATH | sys::OFlags::NOFOLLOW, sys::Mode::empty()).unwrap();
            for name in sys::xattr::list(&fd).unwrap() {
                if let Some(text) = name.to_str().ok().filter(|name| !name.starts_with("trusted.")) {
                    attributes.insert(text.as_bytes().to_vec(), sys::xattr::get(&fd, text).unwrap().unwrap());
                }
            }
        }
        let has_size = kind.is_file() || kind.is_symlink();
        let is_device = kind.is_block_device() || kind.is_char_device();
        let facts = Facts {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            size: if has_size { meta.len() } else { 0 },
            links: if kind.is_dir() { 0 } else { meta.nlink() },
            mtime: (meta.mtime(), meta.mtime_nsec()),
            device: if is_device { meta.rdev() } else { 0 },
            target: fs::read_link(&full).ok(),
            attributes,
            first,
        };
        found.insert(path, facts);
    }
    found
}

#[track_caller]
pub(crate) fn assert_same(expected: &BTreeMap<PathBuf, Facts>, actual: &BTreeMap<PathBuf, Facts>) {
    let missing: Vec<_> = expected.keys().filter(|path| !actual.contains_key(*path)).collect();
    let more: Vec<_> = actual.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(missing.is_empty() && more.is_empty(), "missing {missing:?}, unexpected {more:?}");
    for (path, expected) in expected {
        assert_eq!(expected, &actual[path], "{path:?}");
    }
}

/// A tree in an archive, as a mover stores it.
pub(crate) struct Archived {
    pub(crate) store: TierStore,
    scratch: Scratch,
    ids: BTreeMap<PathBuf, String>,
}

impl Archived {
    pub(crate) fn of(root: &Path) -> Self {
        let scratch = Scratch::new("archive");
        let store = TierStore::open(&[scratch.path()], &(Arc::new(KernelDurability) as Arc<_>)).unwrap();
        let mut archived = Self { store, scratch, ids: BTreeMap::new() };
        let fsid = sys::mounts::filesystem_of(root).unwrap().fsid;
        let mut inodes: BTreeMap<FileHandle, String> = BTreeMap::new();
        for (number, path) in facts(root).into_keys().enumerate() {
            let full = root.join(&path);
            let meta = fs::symlink_metadata(&full).unwrap();
            if !meta.is_file() || meta.nlink() > 1 {
                archived.record(root, &path, fsid, number);
            }
            if meta.is_file() {
                let raw = sys::handle::name_to_handle(File::open(&full).unwrap()).unwrap();
                let handle = FileHandle { kind: raw.kind, bytes: raw.bytes.into() };
                let id = inodes.entry(handle).or_insert_with(|| archived.put(&full, &path, fsid, number));
                archived.ids.insert(path, id.clone());
            }
        }
        archived
    }

    fn put(&self, full: &Path, path: &Path, fsid: [u8; 8], number: usize) -> String {
        let id = ObjectId::parse(&format!("{:04x}{number:04x}-object", number % 7)).unwrap();
        let encoded = number.is_multiple_of(3);
        let compression = if encoded { Compression::On(transfer::Encoding::Zstd) } else { Compression::Off };
        let origin = Some(Origin { path: path.as_os_str().as_bytes(), fsid });
        let options =
            PutOptions { digest: Some(DigestKind::Blake3), compression, origin, pack_up_to_bytes: 0, repeated: false };
        let file = OpenFile::for_reading(full).unwrap();
        let staged = self.store.stage(&id, &file, options, &Unwatched).unwrap();
        let (done, stored) = mpsc::channel();
        self.store.commit(staged, Box::new(move |result| done.send(result.unwrap().id.to_string()).unwrap()));
        stored.recv().unwrap()
    }

    fn record(&self, root: &Path, path: &Path, fsid: [u8; 8], number: usize) {
        let dir = File::open(root).unwrap();
        let (description, kind) = describe_beneath(&dir, path.as_os_str().as_bytes(), fsid).unwrap();
        let id = ObjectId::parse(&format!("{:04x}{number:04x}.rec", number % 7)).unwrap();
        let (done, stored) = mpsc::channel();
        let record = description.with_kind(id, kind);
        self.store.put_record(&record, Box::new(move |result| done.send(result.map(drop)).unwrap()));
        stored.recv().unwrap().unwrap();
    }

    pub(crate) fn id_of(&self, path: &str) -> &str {
        &self.ids[Path::new(path)]
    }

    pub(crate) fn object_of(&self, path: &str) -> PathBuf {
        let id = self.id_of(path);
        self.scratch.join("objects").join(&id[0..2]).join(&id[2..4]).join(id)
    }

    pub(crate) fn manifest_of(&self, path: &str) -> PathBuf {
        let mut name = self.object_of(path).into_os_string();
        name.push(".manifest");
        name.into()
    }

    /// Every file of the tree is released, and names its object.
    #[track_caller]
    pub(crate) fn assert_released(&self, root: &Path) {
        for (path, id) in &self.ids {
            let flags = sys::OFlags::PATH | sys::OFlags::NOFOLLOW;
            let fd = rustix::fs::open(root.join(path), flags, sys::Mode::empty()).unwrap();
            let state = coordinator::FileState::read(&fd).unwrap();
            assert!(state.hsm.is_released() && state.identity.uuid == *id, "{path:?}: {state:?}");
            assert!(state.belongs_to(&coordinator::handle_of(&fd).unwrap()));
            assert_eq!(state.record.unwrap().size, fs::metadata(root.join(path)).unwrap().len());
        }
    }
}

pub(crate) fn options(into: &Path) -> Options {
    Options {
        into: into.to_owned(),
        archive_id: 1,
        prefix: Vec::new(),
        shared: false,
        dry_run: false,
        orphans: None,
        threads: 3,
    }
}

/// Keeps what is found.
#[derive(Default)]
pub(crate) struct Collected(Mutex<Vec<Finding>>);

impl Collected {
    pub(crate) fn problems(&self) -> Vec<(Problem, String)> {
        let found = self.0.lock().unwrap();
        let text = |f: &Finding| {
            let path = f.path.as_ref().map(|path| String::from_utf8_lossy(path).into_owned());
            format!("{path:?} {:?}: {}", f.object, f.what)
        };
        found.iter().map(|f| (f.problem, text(f))).collect()
    }
}

impl Watcher for Collected {
    fn phase(&self, _: &'static str, _: Option<u64>) {}
    fn advanced(&self, _: u64) {}
    fn found(&self, finding: Finding) {
        self.0.lock().unwrap().push(finding);
    }
}
