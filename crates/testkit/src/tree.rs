//! File trees that have what real ones have and tests forget, and the comparison of a tree before and after.
//!
//! Not here: symbolic links, devices and sockets. HSM is for regular files, and [`snapshot`] looks at nothing else.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::random::Random;

/// A tree to make: the same specification makes the same tree.
#[derive(Debug, Clone)]
pub struct TreeSpec {
    /// Decides everything that the other fields leave open.
    pub seed: u64,
    /// How many regular files.
    pub files: usize,
    /// The I/O unit of what is tested: sizes around it and its multiples occur.
    pub chunk_bytes: u64,
    /// Files whose size is random are at most so large.
    pub max_file_bytes: u64,
}

impl TreeSpec {
    /// A small tree of `files` files: chunks of 1 MiB, and most files much smaller.
    pub fn new(seed: u64, files: usize) -> Self {
        Self { seed, files, chunk_bytes: 1 << 20, max_file_bytes: 256 << 10 }
    }

    /// Makes the tree in `root`, which must exist. Returns its files, relative to `root`, in the order of their making.
    ///
    /// The first files go through the sizes and names that break things; a tree of 40 files has them all.
    ///
    /// # Panics
    /// When something cannot be made.
    #[track_caller]
    pub fn build(&self, root: &Path) -> Vec<PathBuf> {
        let mut random = Random::new(self.seed);
        let mut dirs = vec![PathBuf::new()];
        let sizes = special_sizes(self.chunk_bytes);
        let mut files = Vec::with_capacity(self.files);
        for index in 0..self.files {
            if index % 8 == 3 {
                let dir = random.choose(&dirs).join(odd_name(index, &mut random));
                fs::create_dir(root.join(&dir)).unwrap_or_else(|error| panic!("mkdir {}: {error}", dir.display()));
                // Deep enough for tests, short enough for PATH_MAX.
                if dir.components().count() < 5 {
                    dirs.push(dir);
                }
            }
            let path = random.choose(&dirs).join(odd_name(index, &mut random));
            let size = match sizes.get(index) {
                Some(&size) => size,
                // Most files are small.
                None => {
                    let limit = random.within(1..self.max_file_bytes + 1);
                    random.within(0..limit + 1)
                }
            };
            write_file(&root.join(&path), size, &mut random)
                .unwrap_or_else(|error| panic!("make {}: {error}", path.display()));
            files.push(path);
        }
        files
    }
}

fn special_sizes(chunk: u64) -> Vec<u64> {
    let mut sizes = vec![0, 1, 2, 511, 512, 4095, 4096, 4097];
    for multiple in [chunk, 2 * chunk] {
        sizes.extend([multiple - 1, multiple, multiple + 1]);
    }
    sizes
}

/// A name that no other index has.
fn odd_name(index: usize, random: &mut Random) -> OsString {
    const ODD: [&[u8]; 14] = [
        b"new\nline",
        b"not\xff\xfeutf8",
        b" spaces ",
        b"-rf",
        b"quote\"'`",
        b"back\\slash",
        b"tab\tand\rreturn",
        b"\x1b[31mred",
        b"*?[glob]",
        b"$(command) & ;",
        b".hidden",
        b"%s%n",
        "gr\u{f6}\u{df}e\u{1f98e}".as_bytes(),
        b"long",
    ];
    let mut name = match ODD.get(index / 2) {
        Some(odd) if index.is_multiple_of(2) => odd.to_vec(),
        _ => format!("file{}", random.within(0..1000)).into_bytes(),
    };
    name.extend(format!(".{index}").into_bytes());
    if name.starts_with(b"long") {
        name.resize(255, b'x');
    }
    OsString::from_vec(name)
}

fn write_file(path: &Path, size: u64, random: &mut Random) -> io::Result<()> {
    let file = File::create_new(path)?;
    match random.within(0..8) {
        // Sparse: a hole with a little data in it.
        0 => {
            file.set_len(size)?;
            if size > 8192 {
                let at = random.within(0..size - 4096);
                write_range(&file, at, 4096, random)?;
            }
        }
        // Compressible.
        1..4 => {
            let mut line = Vec::new();
            while (line.len() as u64) < size {
                line.extend(format!("{:08} the same words again\n", random.within(0..100)).into_bytes());
            }
            line.truncate(usize::try_from(size).map_err(io::Error::other)?);
            file.write_all_at(&line, 0)?;
        }
        _ => write_range(&file, 0, size, random)?,
    }
    for number in 0..random.within(0..3) {
        let mut value = vec![0; usize::try_from(random.within(0..100)).map_err(io::Error::other)?];
        random.fill(&mut value);
        sys::xattr::set(&file, &format!("user.test{number}"), &value)?;
    }
    let (uid, gid) = (id(random)?, id(random)?);
    std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
    let mode = *random.choose(&[0o644, 0o600, 0o755, 0o400, 0o000, 0o666, 0o2755, 0o4711]);
    file.set_permissions(Permissions::from_mode(mode))?;
    let mtime = UNIX_EPOCH
        + Duration::new(
            random.within(0..1_700_000_000),
            u32::try_from(random.within(0..1_000_000_000)).map_err(io::Error::other)?,
        );
    file.set_times(FileTimes::new().set_modified(mtime))
}

fn id(random: &mut Random) -> io::Result<u32> {
    u32::try_from(*random.choose(&[0, 1000, 1001, 65_534, 4_000_000_000_u64])).map_err(io::Error::other)
}

fn write_range(file: &File, mut at: u64, mut left: u64, random: &mut Random) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    while left > 0 {
        let part = left.min(buffer.len() as u64);
        let bytes = &mut buffer[..usize::try_from(part).map_err(io::Error::other)?];
        random.fill(bytes);
        file.write_all_at(bytes, at)?;
        at += part;
        left -= part;
    }
    Ok(())
}

/// What a regular file is, as its user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileState {
    /// Size in bytes.
    pub size: u64,
    /// BLAKE3 of the content.
    pub digest: [u8; 32],
    /// Permission bits, with set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of modification in nanoseconds since 1970.
    pub mtime_ns: i128,
    /// The attributes of the `user.` namespace.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// The regular files of a tree by their path relative to its root.
pub type Snapshot = BTreeMap<PathBuf, FileState>;

/// Reads every regular file below `root`, through plain `open` and `read`.
///
/// # Panics
/// When something cannot be read.
#[track_caller]
pub fn snapshot(root: &Path) -> Snapshot {
    let mut states = BTreeMap::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(root.join(&dir)).unwrap_or_else(|error| panic!("list {}: {error}", dir.display()));
        for entry in entries {
            let entry = entry.unwrap_or_else(|error| panic!("list {}: {error}", dir.display()));
            let path = dir.join(entry.file_name());
            let kind = entry.file_type().unwrap_or_else(|error| panic!("type of {}: {error}", path.display()));
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_file() {
                let state = file_state(&root.join(&path)).unwrap_or_else(|error| panic!("read {path:?}: {error}"));
                states.insert(path, state);
            }
        }
    }
    states
}

/// Reads one file, through plain `open` and `read`.
///
/// # Errors
/// What the system says when the file cannot be read.
pub fn file_state(path: &Path) -> io::Result<FileState> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
    let meta = file.metadata()?;
    if meta.len() != size {
        return Err(io::Error::other(format!("{size} bytes could be read, stat says {}", meta.len())));
    }
    let mut xattrs = BTreeMap::new();
    for name in sys::xattr::list(&file)? {
        let name = OsStr::from_bytes(name.to_bytes()).to_owned();
        if let Some(text) = name.to_str().filter(|text| text.starts_with("user.")) {
            xattrs.insert(name.clone(), sys::xattr::get(&file, text)?.unwrap_or_default());
        }
    }
    Ok(FileState {
        size,
        digest: hasher.finalize().into(),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        xattrs,
    })
}

/// What differs between two snapshots, one line a difference, in the order of the paths.
pub fn differences(expected: &Snapshot, actual: &Snapshot) -> Vec<String> {
    let mut found = Vec::new();
    for (path, expected) in expected {
        match actual.get(path) {
            None => found.push(format!("{path:?}: missing")),
            Some(actual) if actual != expected => found.push(format!("{path:?}:{}", changed(expected, actual))),
            Some(_) => {}
        }
    }
    found
        .extend(actual.keys().filter(|path| !expected.contains_key(*path)).map(|path| format!("{path:?}: unexpected")));
    found
}

fn changed(expected: &FileState, actual: &FileState) -> String {
    let mut text = String::new();
    let mut field = |name: &str, expected: &dyn std::fmt::Debug, actual: &dyn std::fmt::Debug| {
        let (expected, actual) = (format!("{expected:?}"), format!("{actual:?}"));
        if expected != actual {
            let _ = write!(text, " {name} {expected} became {actual};");
        }
    };
    field("size", &expected.size, &actual.size);
    field(
        "content",
        &blake3::Hash::from(expected.digest).to_hex().as_str(),
        &blake3::Hash::from(actual.digest).to_hex().as_str(),
    );
    field("mode", &format_args!("{:o}", expected.mode), &format_args!("{:o}", actual.mode));
    field("uid", &expected.uid, &actual.uid);
    field("gid", &expected.gid, &actual.gid);
    field("mtime", &expected.mtime_ns, &actual.mtime_ns);
    field("xattrs", &expected.xattrs, &actual.xattrs);
    text
}

/// Fails when two snapshots differ, naming the first differences.
///
/// # Panics
/// When they do.
#[track_caller]
pub fn assert_same(expected: &Snapshot, actual: &Snapshot) {
    let found = differences(expected, actual);
    assert!(
        found.is_empty(),
        "{} of {} files differ:\n{}",
        found.len(),
        expected.len(),
        found.iter().take(20).fold(String::new(), |text, line| text + "  " + line + "\n")
    );
}
