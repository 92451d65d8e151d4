//! Real filesystems on sparse image files, one a test, gone when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

/// A mounted filesystem of its own.
pub struct LoopFs {
    directory: TempDir,
    #[allow(dead_code, reason = "not every test binary needs it")]
    pub kind: &'static str,
}

impl LoopFs {
    pub fn new(kind: &'static str) -> Self {
        let directory = tempfile::Builder::new().prefix("sifaka-sys.").tempdir().unwrap();
        let filesystem = Self { directory, kind };
        // A space, because mountinfo escapes it.
        std::fs::create_dir(filesystem.root()).unwrap();
        if kind == "tmpfs" {
            run(Command::new("mount").args(["-t", kind, kind]).arg(filesystem.root()));
            return filesystem;
        }
        // Each near the least its filesystem takes; ext4 would choose 1 KiB blocks for so small a device.
        let (mebibytes, options) = match kind {
            "ext4" => (64, ["-qF", "-b4096"].as_slice()),
            "xfs" => (320, ["-qf"].as_slice()),
            "btrfs" => (128, ["-qf"].as_slice()),
            other => panic!("no recipe for {other}"),
        };
        let image = filesystem.directory.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        run(Command::new(format!("mkfs.{kind}")).args(options).arg(&image));
        mount(kind, &image, &filesystem.root());
        filesystem
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("mount point")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// A place on the filesystem that holds the image, not on this one.
    #[allow(dead_code, reason = "not every test binary needs it")]
    pub fn outside(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        // Lazily, so that a failed test with open files leaves no mount behind; `-o loop` frees the device with it.
        let _ = sifaka_sys::mounts::unmount(self.root(), true);
    }
}

/// With a loop device that is free. Another test may be faster to take it: then with another one.
fn mount(kind: &str, image: &Path, root: &Path) {
    for attempt in 1.. {
        let output = Command::new("mount").args(["-t", kind, "-o", "loop"]).arg(image).arg(root).output().unwrap();
        if output.status.success() {
            return;
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let lost_race = text.contains("loop device") || text.contains("busy");
        assert!(lost_race && attempt < 50, "mount of {kind} (attempt {attempt}): {text}");
        std::thread::sleep(Duration::from_millis(20 * attempt));
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes one test per filesystem of a function that takes a [`LoopFs`].
#[allow(unused_macros, reason = "not every test binary needs it")]
macro_rules! on_every_filesystem {
    ($($name:ident),+ $(,)?) => { $(
        mod $name {
            #[test]
            fn on_ext4() { super::$name(&crate::loopfs::LoopFs::new("ext4")); }
            #[test]
            fn on_xfs() { super::$name(&crate::loopfs::LoopFs::new("xfs")); }
            #[test]
            fn on_btrfs() { super::$name(&crate::loopfs::LoopFs::new("btrfs")); }
        }
    )+ };
}
#[allow(unused_imports, reason = "not every test binary needs it")]
pub(crate) use on_every_filesystem;
