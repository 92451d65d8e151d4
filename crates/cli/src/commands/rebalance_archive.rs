//! `sifaka rebalance --archive`: objects moved between the roots of an archive in directories.

use crate::archives;
use crate::bulk::Interrupt;
use crate::exit::{CliError, Exit, Outcome};
use crate::lustre::CrewArgs;
use crate::output::{escaped, escaped_path};
use crate::render::rebalanced::human;
use crate::render::units::bytes as readable;
use crate::watch::Told;
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use transfer::{Limiter, MovesWatcher, Rebalance, Rebalanced};

/// Tells of each object.
struct Telling {
    told: Told,
    dry_run: bool,
    moved: AtomicU64,
    bytes: AtomicU64,
}

/// An object for programs.
#[derive(Serialize)]
struct Line<'a> {
    what: &'a str,
    did: &'static str,
    from: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
}

impl MovesWatcher for Telling {
    fn moved(&self, what: &str, from: &Path, to: &Path, bytes: u64) {
        let moved = self.moved.fetch_add(1, Ordering::Relaxed) + 1;
        let all = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.dry_run {
            let line = Line { what, did: "would move", from, to: Some(to), bytes: Some(bytes), why: None };
            self.told.line(&line, None);
            self.told.say(Path::new(what), &format!("move from {} to {}:", escaped_path(from), escaped_path(to)));
        }
        self.told.at(&format!("{moved} objects and packs moved ({})", readable(all)));
    }

    fn stays(&self, what: &str, root: &Path, why: &str) {
        let line = Line { what, did: "failed", from: root, to: None, bytes: None, why: Some(why) };
        self.told.line(&line, Some(&format!("{} stays in {}: {}", escaped(what), escaped_path(root), escaped(why))));
    }
}

/// The result for programs.
#[derive(Serialize)]
struct Report {
    done: bool,
    interrupted: bool,
    moved: u64,
    moved_bytes: u64,
    duplicates_removed: u64,
    failed: u64,
    roots: Vec<RootReport>,
}

/// Levels in parts of 1.
#[derive(Serialize)]
struct RootReport {
    root: std::path::PathBuf,
    before: f64,
    after: f64,
    drained: bool,
}

pub(super) fn run(config_file: &Path, id: u32, drain: Option<&Path>, within: f64, args: &CrewArgs) -> Outcome {
    // Each file that is being moved takes two descriptors.
    sys::process::raise_nofile_limit();
    let interrupt = Interrupt::on_signals()?;
    let tier = archives::open_tier(id, config_file)?;
    if tier.paths().count() < 2 {
        let why = format!("archive {id} has one root: there is nothing to move its objects to");
        return Err(CliError::new(Exit::NotHere, why));
    }
    let limiter = Limiter::new(args.bandwidth_limit);
    let (dry_run, stop) = (args.dry_run, interrupt.flag());
    let how = Rebalance { drain, within, dry_run, limiter: &limiter, stop };
    let told = Told::with_lines(args.json, args.quiet);
    let telling = Telling { told, dry_run, moved: AtomicU64::new(0), bytes: AtomicU64::new(0) };
    let done = tier.rebalance(&how, &telling);
    let done = done.map_err(|error| CliError::new(Exit::NotHere, error.to_string()))?;
    let text = human(&done, drain.is_some(), dry_run);
    let exit = exit_of(&done);
    telling.told.finish(&report(done), &text)?;
    exit
}

fn exit_of(done: &Rebalanced) -> Outcome {
    if done.interrupted {
        return Err(CliError::new(Exit::Interrupted, "interrupted; the same command goes on from here"));
    }
    Ok(if done.done && done.failed == 0 { Exit::Ok } else { Exit::SomeFailed })
}

fn report(done: Rebalanced) -> Report {
    let Rebalanced { roots, moved, moved_bytes, twins, failed, done, interrupted } = done;
    let roots = roots.into_iter().map(|root| RootReport {
        root: root.path,
        before: root.before,
        after: root.after,
        drained: root.drained,
    });
    Report { done, interrupted, moved, moved_bytes, duplicates_removed: twins, failed, roots: roots.collect() }
}
