//! Everybody at once: writers, truncators, renamers, unlinkers and mmap writers against archive, release and restore.
//!
//! The model is simple because each file has one writer, which knows every byte of it; readers and HSM actors take any
//! file. Every byte tells its file, its offset and roughly its generation, and none is zero, so that readers who do not know the
//! content recognise a hole, another file's bytes and bytes of another place.
//!
//! A run in which nothing met proves nothing: the tests demand releases, refused releases, and operations on released files.

use crate::support::{Hsm, LONG, StopWhenDropped, is_released, queued};
use rustix::fs::{SeekFrom, seek};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use testkit::random::rounds;
use testkit::{FsKind, Random};

const WRITERS: usize = 4;
const FILES: usize = 3 * WRITERS;
const MAX_SIZE: u64 = 300_000;
/// Operations of one writer between two pauses.
const BURST: u64 = 50;
/// The longest pause.
const QUIET: Duration = Duration::from_millis(400);

#[test]
fn p2_p5_races_on_ext4() {
    race(FsKind::Ext4);
}

#[test]
fn p2_p5_races_on_xfs() {
    race(FsKind::Xfs);
}

#[test]
fn p2_p5_races_on_btrfs() {
    race(FsKind::Btrfs);
}

/// What everybody may know of a file.
struct Slot {
    id: u8,
    dir: PathBuf,
    /// Renames move it from one name to the next.
    name: AtomicU64,
    /// Odd while it is being cut: a read at the same time may see zeros where the file ends, on any filesystem.
    cuts: AtomicU64,
}

impl Slot {
    fn path(&self) -> PathBuf {
        self.named(self.name.load(SeqCst))
    }

    fn named(&self, name: u64) -> PathBuf {
        self.dir.join(format!("file{}.{name}", self.id))
    }

    fn cutting<T>(&self, cut: impl FnOnce() -> T) -> T {
        self.cuts.fetch_add(1, SeqCst);
        let result = cut();
        self.cuts.fetch_add(1, SeqCst);
        result
    }

    /// The low half of the byte at `offset` says where it is and whose.
    fn mark(&self, offset: u64) -> u8 {
        (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as u8 ^ self.id
    }

    fn bytes(&self, generation: u64, offset: u64, length: u64) -> Vec<u8> {
        let high = ((generation % 15 + 1) as u8) << 4;
        (offset..offset + length).map(|at| high | self.mark(at)).collect()
    }
}

/// What happened, to show that something did.
#[derive(Default)]
struct Tally {
    operations: AtomicU64,
    /// Operations by a file's writer that found it released, and left it resident.
    brought_back: AtomicU64,
    foreign_reads: AtomicU64,
    releases: AtomicU64,
    archives: AtomicU64,
    restores: AtomicU64,
    refusals: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    fn note_releases(&self, report: &Value) {
        self.releases.fetch_add(report["released"].as_u64().unwrap_or(0), SeqCst);
        for refused in report["refused"].as_array().into_iter().flatten() {
            let why = refused["message"].as_str().unwrap_or_default().to_owned();
            *self.refusals.lock().unwrap().entry(why).or_default() += 1;
        }
    }
}

/// Stores through mappings, and truncations by path, which the standard library has not.
struct Python {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

const PYTHON: &str = "
import mmap, os, sys
m = None
for line in sys.stdin:
    what, *rest = line.split()
    if what == 'truncate':
        os.truncate(rest[0], int(rest[1]))
    elif what == 'map':
        fd = os.open(rest[0], os.O_RDWR)
        m = mmap.mmap(fd, 0)
        os.close(fd)
    elif what == 'store':
        at, data = int(rest[0]), bytes.fromhex(rest[1])
        m[at:at + len(data)] = data
    elif what == 'unmap':
        m.close()
    print('done', flush=True)
";

impl Python {
    fn start() -> Self {
        let mut child = Command::new("python3")
            .args(["-c", PYTHON])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let commands = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, commands, answers }
    }

    fn run(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("python lives");
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "{}", command.get(..60).unwrap_or(command));
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file as its one writer knows it.
struct Own<'a> {
    slot: &'a Slot,
    content: Vec<u8>,
    generation: u64,
}

/// Operations that a writer does; each at least once in a few dozen.
const OPERATIONS: u64 = 14;

impl Own<'_> {
    fn fresh(&mut self, offset: u64, length: u64) -> Vec<u8> {
        self.generation += 1;
        self.slot.bytes(self.generation, offset, length)
    }

    fn replace(&mut self, at: u64, data: &[u8]) {
        let at = usize::try_from(at).unwrap();
        let end = at + data.len();
        self.content.resize(self.content.len().max(end), 0);
        self.content[at..end].copy_from_slice(data);
    }

    fn len(&self) -> u64 {
        self.content.len() as u64
    }

    fn check(&self, what: &str, at: u64, got: &[u8]) {
        let want = &self.content[usize::try_from(at).unwrap()..];
        let differs = got.iter().zip(want).position(|(a, b)| a != b);
        assert!(
            differs.is_none() && got.len() <= want.len(),
            "{what} of file {} ({} bytes) at {at}: {} bytes, the first wrong one at {differs:?}, generation {}: {:x?} instead of {:x?}",
            self.slot.id,
            self.len(),
            got.len(),
            self.generation,
            differs.and_then(|d| got.get(d..got.len().min(d + 8))),
            differs.and_then(|d| want.get(d..want.len().min(d + 8))),
        );
    }

    fn check_all(&self, what: &str, got: &[u8]) {
        self.check(what, 0, got);
        assert_eq!(got.len(), self.content.len(), "{what} of file {}: its length", self.slot.id);
    }

    fn operate(&mut self, random: &mut Random, python: &mut Python) {
        let path = self.slot.path();
        let writing = || OpenOptions::new().read(true).write(true).open(&path).unwrap();
        // What ends an archived file's life comes seldom, or nothing would live until its release.
        let operation = match random.within(0..OPERATIONS) {
            5..=8 if !random.one_in(3) => 10,
            operation => operation,
        };
        match operation {
            0 => self.write_twice(random, &writing()),
            1 => {
                // An open that cannot read restores nothing by itself.
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                self.write(random, &file);
            }
            2 => {
                let data = self.fresh(self.len(), random.within(1..9000));
                OpenOptions::new().append(true).open(&path).unwrap().write_all(&data).unwrap();
                self.replace(self.len(), &data);
                if self.len() > MAX_SIZE {
                    self.shorten(random, |length| writing().set_len(length).unwrap());
                }
            }
            3 => self.shorten(random, |length| python.run(&format!("truncate {} {length}", path.display()))),
            4 => self.shorten(random, |length| writing().set_len(length).unwrap()),
            5 => {
                self.content = self.fresh(0, random.within(1..MAX_SIZE));
                self.slot.cutting(|| fs::write(&path, &self.content)).unwrap();
            }
            6 => {
                let next = self.slot.name.load(SeqCst) + 1;
                fs::rename(&path, self.slot.named(next)).unwrap();
                self.slot.name.store(next, SeqCst);
            }
            7 => {
                fs::remove_file(&path).unwrap();
                self.content = self.fresh(0, random.within(1..MAX_SIZE));
                fs::write(&path, &self.content).unwrap();
            }
            8 => {
                let temporary = path.with_extension("new");
                self.content = self.fresh(0, random.within(1..MAX_SIZE));
                fs::write(&temporary, &self.content).unwrap();
                fs::rename(&temporary, &path).unwrap();
            }
            9 => self.store(random, python, &path),
            10 => self.read_somewhere(random, &File::open(&path).unwrap()),
            11 => self.check_all("a read", &fs::read(&path).unwrap()),
            12 => self.copy(&path),
            _ => {
                let file = writing();
                self.write(random, &file);
                file.sync_all().unwrap();
            }
        }
    }

    /// Within the file or right after it: holes are nobody's but the releases'.
    fn write(&mut self, random: &mut Random, file: &File) {
        let at = random.within(0..self.len() + 1);
        let data = self.fresh(at, random.within(1..20_000));
        file.write_all_at(&data, at).unwrap();
        self.replace(at, &data);
    }

    fn write_twice(&mut self, random: &mut Random, file: &File) {
        self.write(random, file);
        pause(random);
        self.write(random, file);
        self.read_somewhere(random, file);
    }

    fn shorten(&mut self, random: &mut Random, cut: impl FnOnce(u64)) {
        let length = random.within(0..self.len() + 1);
        self.slot.cutting(|| cut(length));
        self.content.truncate(usize::try_from(length).unwrap());
    }

    /// Two stores through one mapping; between them it may be archived, and must not be released.
    fn store(&mut self, random: &mut Random, python: &mut Python, path: &Path) {
        if self.content.is_empty() {
            return;
        }
        python.run(&format!("map {}", path.display()));
        for _ in 0..2 {
            let at = random.within(0..self.len());
            let data = self.fresh(at, random.within(1..6000).min(self.len() - at));
            let text: String = data.iter().map(|b| format!("{b:02x}")).collect();
            python.run(&format!("store {at} {text}"));
            self.replace(at, &data);
            pause(random);
        }
        python.run("unmap");
    }

    fn read_somewhere(&self, random: &mut Random, file: &File) {
        let at = random.within(0..self.len() + 1);
        let mut buffer = vec![0; usize::try_from(random.within(1..20_000)).unwrap()];
        let n = file.read_at(&mut buffer, at).unwrap();
        self.check("a pread", at, &buffer[..n]);
        assert!(n > 0 || at == self.len(), "a pread at {at} of {} bytes says that it is the end", self.len());
    }

    /// `copy_file_range`, and where the data is: an open file has no holes.
    fn copy(&self, path: &Path) {
        let target = self.slot.dir.join(format!("copy{}", self.slot.id));
        let mut file = File::open(path).unwrap();
        if !self.content.is_empty() {
            assert_eq!(seek(&file, SeekFrom::Data(0)), Ok(0), "SEEK_DATA of file {}", self.slot.id);
            assert_eq!(seek(&file, SeekFrom::Hole(0)), Ok(self.len()), "SEEK_HOLE of file {}", self.slot.id);
            seek(&file, SeekFrom::Start(0)).unwrap();
        }
        std::io::copy(&mut file, &mut File::create(&target).unwrap()).unwrap();
        self.check_all("a copy", &fs::read(&target).unwrap());
    }
}

/// Lets others come in between, or not.
fn pause(random: &mut Random) {
    if random.one_in(2) {
        std::thread::sleep(Duration::from_micros(random.within(0..8000)));
    }
}

fn write_own(own: &mut [Own<'_>], count: u64, mut random: Random, tally: &Tally) {
    let mut python = Python::start();
    for number in 0..count {
        let at = usize::try_from(random.within(0..own.len() as u64)).unwrap();
        let file = &mut own[at];
        if number % BURST == 0 {
            // A file that is always being written is never released: now and then its writer waits for that, not for ever.
            let quiet = Instant::now();
            while !is_released(&file.slot.path()) && quiet.elapsed() < QUIET {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let before = is_released(&file.slot.path());
        file.operate(&mut random, &mut python);
        tally.operations.fetch_add(1, SeqCst);
        pause(&mut random);
        if before && !is_released(&file.slot.path()) {
            tally.brought_back.fetch_add(1, SeqCst);
        }
    }
}

/// Reads anybody's files. What it reads may be of any time, but not of another file or place, and never a hole.
fn read_others(slots: &[Slot], mut random: Random, tally: &Tally, stop: &AtomicBool) {
    while !stop.load(SeqCst) {
        let slot = random.choose(slots);
        let mut file = match File::open(slot.path()) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened.unwrap(),
        };
        let cuts = slot.cuts.load(SeqCst);
        let mut got = Vec::new();
        file.read_to_end(&mut got).unwrap();
        let was_cut = cuts % 2 == 1 || slot.cuts.load(SeqCst) != cuts;
        for (at, byte) in got.iter().enumerate() {
            let hole = *byte == 0 && was_cut;
            let sound = byte >> 4 != 0 && byte & 15 == slot.mark(at as u64) & 15;
            assert!(sound || hole, "file {} of {} bytes has {byte:#x} at {at}", slot.id, got.len());
        }
        tally.foreign_reads.fetch_add(1, SeqCst);
        pause(&mut random);
    }
}

fn some_paths(slots: &[Slot], random: &mut Random) -> Vec<PathBuf> {
    (0..random.within(1..6)).map(|_| random.choose(slots).path()).collect()
}

/// Says what `sifaka` printed. That some files failed is ordinary here; anything worse is not.
fn hsm_command(hsm: &Hsm, args: &[&str], paths: &[PathBuf]) -> (bool, Value) {
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let out = hsm.run(args, &paths);
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(matches!(out.status.code(), Some(0 | 1)), "sifaka {args:?}: {} {text}", out.status);
    (out.status.success(), serde_json::from_slice(&out.stdout).unwrap_or_default())
}

fn archive_some(hsm: &Hsm, slots: &[Slot], mut random: Random, tally: &Tally, stop: &AtomicBool) {
    while !stop.load(SeqCst) {
        let args: &[&str] = if random.one_in(3) { &["archive"] } else { &["archive", "--wait"] };
        let (ok, _) = hsm_command(hsm, args, &some_paths(slots, &mut random));
        tally.archives.fetch_add(u64::from(ok), SeqCst);
    }
}

fn release_some(hsm: &Hsm, slots: &[Slot], mut random: Random, tally: &Tally, stop: &AtomicBool) {
    while !stop.load(SeqCst) {
        std::thread::sleep(Duration::from_millis(random.within(0..50)));
        let (_, report) = hsm_command(hsm, &["release", "--json"], &some_paths(slots, &mut random));
        tally.note_releases(&report);
    }
}

/// The way of a policy engine: what has just been archived goes at once.
fn archive_and_release_some(hsm: &Hsm, slots: &[Slot], mut random: Random, tally: &Tally, stop: &AtomicBool) {
    while !stop.load(SeqCst) {
        let path = [random.choose(slots).path()];
        hsm_command(hsm, &["archive", "--wait"], &path);
        let (_, report) = hsm_command(hsm, &["release", "--json"], &path);
        tally.note_releases(&report);
    }
}

fn restore_some(hsm: &Hsm, slots: &[Slot], mut random: Random, tally: &Tally, stop: &AtomicBool) {
    while !stop.load(SeqCst) {
        let (ok, _) = hsm_command(hsm, &["restore", "--wait"], &some_paths(slots, &mut random));
        tally.restores.fetch_add(u64::from(ok), SeqCst);
        std::thread::sleep(Duration::from_millis(random.within(0..100)));
    }
}

fn race(kind: FsKind) {
    let mut seeds = Random::from_env();
    let hsm = Hsm::start_with(kind, 512, |site| site.add_agent_setting("remove_grace_s = 0"));
    let slots: Vec<Slot> = (0..FILES)
        .map(|i| Slot {
            id: u8::try_from(i + 1).unwrap(),
            dir: hsm.fs.path(),
            name: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
        })
        .collect();
    let mut files: Vec<Own<'_>> = slots
        .iter()
        .map(|slot| {
            let content = slot.bytes(0, 0, seeds.within(1..MAX_SIZE));
            fs::write(slot.path(), &content).unwrap();
            Own { slot, content, generation: 0 }
        })
        .collect();

    let tally = Tally::default();
    let stop = AtomicBool::new(false);
    let count = rounds(1500, 60_000);
    std::thread::scope(|scope| {
        let (hsm, slots, tally, stop) = (&hsm, &slots[..], &tally, &stop);
        let mut seed = || Random::new(seeds.next_u64());
        let actors = [
            archive_some,
            release_some,
            archive_and_release_some,
            archive_and_release_some,
            archive_and_release_some,
            restore_some,
        ];
        for actor in actors {
            let random = seed();
            scope.spawn(move || actor(hsm, slots, random, tally, stop));
        }
        for _ in 0..2 {
            let random = seed();
            scope.spawn(move || read_others(slots, random, tally, stop));
        }
        let _stop = StopWhenDropped(stop);
        let writers: Vec<_> = files
            .chunks_mut(FILES / WRITERS)
            .map(|own| {
                let random = seed();
                scope.spawn(move || write_own(own, count, random, tally))
            })
            .collect();
        for writer in writers {
            writer.join().expect("a writer saw nothing wrong");
        }
    });

    settle(&hsm);
    for file in &files {
        file.check_all("the content after the races", &fs::read(file.slot.path()).unwrap());
    }
    let paths: Vec<PathBuf> = slots.iter().map(Slot::path).collect();
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    hsm.archive(&paths);
    hsm.release(&paths);
    for file in &files {
        file.check_all("the content restored in the end", &fs::read(file.slot.path()).unwrap());
    }
    hsm.settle();
    let begun = Instant::now();
    while hsm.objects() != FILES {
        assert!(
            begun.elapsed() < LONG,
            "{} objects for {FILES} files: {}",
            hsm.objects(),
            hsm.site.sifaka_ok(&["actions", "--finished", "--json"])
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(hsm.temporary_files(), 0);
    judge(&tally, count);
}

/// As [`Hsm::settle`], and says what is left.
fn settle(hsm: &Hsm) {
    let begun = Instant::now();
    while hsm.status().is_none_or(|s| queued(&s) > 0) {
        assert!(begun.elapsed() < LONG, "never done: {}", hsm.site.sifaka_ok(&["actions", "--json"]));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The actors met.
fn judge(tally: &Tally, count: u64) {
    let refusals = tally.refusals.lock().unwrap();
    let number = |n: &AtomicU64| n.load(SeqCst);
    let (releases, brought_back) = (number(&tally.releases), number(&tally.brought_back));
    eprintln!(
        "{} operations, {brought_back} of them on released files, {} reads by others, {releases} releases, {} archive and {} \
         restore commands; refused releases: {refusals:#?}",
        number(&tally.operations),
        number(&tally.foreign_reads),
        number(&tally.archives),
        number(&tally.restores),
    );
    assert_eq!(number(&tally.operations), count * WRITERS as u64);
    let few = count / 100;
    assert!(releases > few, "{releases} releases");
    assert!(brought_back > 0, "{brought_back} operations on released files");
    let of = |what: &str| refusals.iter().filter(|(why, _)| why.contains(what)).map(|(_, n)| n).sum::<u64>();
    assert!(of("open") > 0, "no release met somebody who had the file open");
    assert!(of("archive it again") > 0, "no release met a file that had changed");
    assert!(number(&tally.archives) > 0 && number(&tally.restores) > 0 && number(&tally.foreign_reads) > 0);
}
