//! `sifaka demo`: what Sifaka does, shown on a filesystem made for it, with an agent of its own, and undone again.
//!
//! * [`tree`]: which files are used. * [`site`]: the directory everything is in, and its end. * [`loop_fs`]: the filesystem.
//! * [`service`]: the agent. * [`ask`]: what the agent is asked. * [`full`]: the steps, with an agent. * [`plain`]: what is left of
//!   them where nothing can be released. * [`pace`]: threads, progress, interruption. * [`report`]: what came out.
//!
//! The demo uses the product as an administrator does: configuration files, `sifaka agent`, the admin socket, plain file access.
//! Everything that it makes is below one directory, and every process that it starts is its descendant: so it can find them all.

mod ask;
mod content;
mod full;
mod loop_fs;
mod pace;
mod plain;
mod processes;
pub(crate) mod report;
mod service;
mod site;
mod tree;

use crate::exit::{CliError, Exit, Outcome};
use crate::output::{Output, complain};
use crate::render;
use loop_fs::FsKind;
use pace::{Pace, Stop};
use report::{Mode, Report};
use site::Site;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use transfer::{PosixStore, Store};
use tree::Tree;

#[derive(clap::Args, Debug)]
pub(crate) struct DemoArgs {
    /// The filesystem to make
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = FsKind::Ext4)]
    fs: FsKind,
    /// Where the demo makes its directory, and removes it again [default: TMPDIR, else /tmp]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The files to use, and directories with all that is below them [default: about 500 MB of /usr/share and /usr/lib]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    source: Vec<PathBuf>,
    /// Leave the directory, with the filesystem's image, the archive and the agent's log
    #[arg(long)]
    keep: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: DemoArgs) -> Outcome {
    // First of all: threads that are started later inherit the signal mask.
    let stop = Stop::on_signals().map_err(cannot("watch for signals"))?;
    processes::adopt_orphans().map_err(cannot("become the parent of orphans"))?;
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut site = Site::create(&parent)?;
    let mut pace = Pace::new(&stop);
    let mut report = Report::new(args.fs.name());
    let shown = show(&args, &mut site, &mut pace, &mut report);
    // Whatever went wrong after that came of it.
    let shown = shown.map_err(|error| stop.check().err().unwrap_or(error));
    stop.work_is_over();
    report.steps = pace.into_steps();
    if let Err(error) = &shown
        && error.exit != Exit::Interrupted
        && let Some(tail) = site.log_tail()
    {
        complain(&format!("the last of the agent's log:\n{tail}"));
    }
    let cleaned = site.clean(args.keep);
    if let Err(error) = shown.as_ref().and(cleaned.as_ref()) {
        report.error = Some(error.message().to_owned());
    }
    print(&report, args.json)?;
    if shown.is_err()
        && let Err(error) = &cleaned
    {
        error.report();
    }
    shown.and(cleaned)?;
    Ok(Exit::Ok)
}

fn show(args: &DemoArgs, site: &mut Site, pace: &mut Pace<'_>, report: &mut Report) -> Result<(), CliError> {
    let tree = if args.source.is_empty() { Tree::of_machine(pace.stop)? } else { Tree::of(&args.source, pace.stop)? };
    report.tree(&tree);
    site.needs_space(&tree)?;
    report.missing = loop_fs::make(site, args.fs, &tree)?;
    pace.stop.check()?;
    if report.missing.is_empty() {
        report.mode = Mode::Full;
        full::show(site, args.fs, &tree, pace, report)
    } else {
        complain("demo: files cannot be released here (why is told at the end): showing archive, verify and restore");
        report.mode = Mode::WithoutRelease;
        plain::show(site, &tree, pace, report)
    }
}

fn print(report: &Report, json: bool) -> Result<(), CliError> {
    let mut output = Output::new();
    if json {
        output.json(report)?;
    } else {
        output.put(render::demo::human(report))?;
    }
    output.flush()
}

/// How many objects an archive holds.
fn objects(store: &PosixStore) -> Result<u64, CliError> {
    let mut count = 0;
    let counted = store.list(&mut |_| {
        count += 1;
        ControlFlow::Continue(())
    });
    counted.map(|()| count).map_err(|error| wrong(error.to_string()))
}

/// For `map_err`: something of the system that failed.
fn cannot(what: impl Into<String>) -> impl FnOnce(io::Error) -> CliError {
    let what = what.into();
    move |error| CliError::new(Exit::SomeFailed, format!("demo: cannot {what}: {error}"))
}

/// The same, about a path.
fn cannot_at(what: &str, path: &Path) -> impl FnOnce(io::Error) -> CliError {
    cannot(format!("{what} {}", crate::output::escaped_path(path)))
}

/// A file's content, attribute or object that is not as it has to be.
fn wrong(what: impl Into<String>) -> CliError {
    CliError::new(Exit::SomeFailed, format!("demo: {}", what.into()))
}
