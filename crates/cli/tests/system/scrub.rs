//! `sifaka scrub`, of archives that a system made and a fault changed.

use crate::support::{Hsm, LONG, noise};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use testkit::{FsKind, Random, wait_until};

fn command(hsm: &Hsm, words: &[&str]) -> Command {
    let mut command = hsm.site.command();
    command.arg("--config").arg(hsm.site.agent_config()).arg("scrub").args(words);
    command
}

fn scrub(hsm: &Hsm, words: &[&str]) -> (Output, Value) {
    let out = command(hsm, &[&["--json"], words].concat()).output().unwrap();
    let text = String::from_utf8(out.stdout.clone()).unwrap();
    let totals = text.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).unwrap());
    (out, totals)
}

/// Everything in the archive but what its movers are about to write: objects, manifests, packs.
fn everything(hsm: &Hsm) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![hsm.site.archive_root().join("objects"), hsm.site.archive_root().join("packs")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let is_dir = entry.file_type().unwrap().is_dir();
            if is_dir { dirs.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.retain(|path| fs::metadata(path).unwrap().len() > 0);
    found.sort();
    found
}

#[test]
fn every_flipped_bit_is_found_wherever_it_is() {
    let hsm = Hsm::start_with(FsKind::Ext4, 300, |site| site.add_archive_setting("compression = \"auto\""));
    let files = hsm.files(16);
    let text = "the same words again and again\n".repeat(80_000);
    let compressible = hsm.file("compressible", text.as_bytes());
    let dir = hsm.path("dir");
    fs::create_dir(&dir).unwrap();
    let mut paths: Vec<&Path> = files.iter().map(|(p, _)| p.as_path()).collect();
    paths.extend([compressible.as_path(), dir.as_path()]);
    hsm.archive(&paths);
    let (out, totals) = scrub(&hsm, &[]);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(totals["objects"], 17, "{totals}");
    assert_eq!(totals["unverified"], 0, "{totals}");
    assert!(totals["records"].as_u64() >= Some(2), "{totals}");
    let archived = everything(&hsm);
    let mut random = Random::new(5);
    for round in 0..60 {
        let path = archived.get(round).unwrap_or_else(|| random.choose(&archived));
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        let at = random.within(0..file.metadata().unwrap().len());
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        let bit = 1 << random.within(0..8);
        file.write_all_at(&[byte[0] ^ bit], at).unwrap();
        let (out, totals) = scrub(&hsm, &[]);
        let said = String::from_utf8_lossy(&out.stdout);
        assert_eq!(out.status.code(), Some(6), "bit {bit} of byte {at} of {}: {totals}\n{said}", path.display());
        file.write_all_at(&byte, at).unwrap();
    }
    assert!(scrub(&hsm, &[]).0.status.success());
    // Cut short, and gone.
    let object = archived.iter().find(|path| path.to_string_lossy().contains("objects") && path.extension().is_none());
    let object = object.unwrap();
    let whole = fs::read(object).unwrap();
    fs::write(object, &whole[..whole.len() - 1]).unwrap();
    let (out, totals) = scrub(&hsm, &[]);
    assert!(out.status.code() == Some(6) && totals["damaged"] == 1, "{totals}");
    fs::write(object, [&whole[..], b"x"].concat()).unwrap();
    let (out, totals) = scrub(&hsm, &[]);
    assert!(out.status.code() == Some(6) && totals["damaged"] == 1, "{totals}");
    fs::remove_file(object).unwrap();
    let (out, totals) = scrub(&hsm, &[]);
    assert!(out.status.code() == Some(6) && totals["lost"] == 1, "{totals}");
}

#[test]
fn damage_is_told_with_its_range_and_path() {
    let hsm = Hsm::start(FsKind::Xfs);
    let path = hsm.file("some file", &noise(1, 5 << 20));
    hsm.archive(&[&path]);
    let object = everything(&hsm).into_iter().find(|path| fs::metadata(path).unwrap().len() == 5 << 20).unwrap();
    let file = fs::File::options().write(true).open(object).unwrap();
    file.write_all_at(b"\0\0\0\0\0\0\0\0", (3 << 20) + 17).unwrap();
    file.write_all_at(b"\0\0\0\0\0\0\0\0", 0).unwrap();
    let out = command(&hsm, &[]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    for part in ["some file (object", "from byte 3145728 to byte 4194304", "from byte 0 to byte 1048576"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn a_killed_scrub_goes_on_where_it_was() {
    let hsm = Hsm::start(FsKind::Ext4);
    let files: Vec<PathBuf> = (0..200).map(|i| hsm.file(&format!("f{i}"), &noise(i, 100_000))).collect();
    hsm.archive(&files.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    let state = hsm.site.state_dir().join("scrub-1.json");
    let mut killed = command(&hsm, &["--rate", "1.5MB/s"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until(LONG, "the state is written", || state.exists());
    killed.kill().unwrap();
    killed.wait().unwrap();
    let so_far: Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    let done = so_far["counts"]["objects"].as_u64().unwrap();
    assert!((1..200).contains(&done), "{so_far}");
    let (out, totals) = scrub(&hsm, &[]);
    assert!(out.status.success() && totals["objects"] == 200, "{totals}");
    assert!(!state.exists(), "the next one begins at the beginning");
    fs::write(&state, "garbage").unwrap();
    let (out, _) = scrub(&hsm, &[]);
    assert!(out.status.code() == Some(1) && String::from_utf8_lossy(&out.stderr).contains("--restart"), "{out:?}");
    assert!(scrub(&hsm, &["--restart"]).0.status.success());
}
