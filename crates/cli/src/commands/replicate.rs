//! `sifaka replicate`: a copy of a tree kept up to date.

use crate::bulk::{FilterArgs, Interrupt, Telling, TellingArgs, TextFile, age, ended, state_file};
use crate::exit::{CliError, Exit, Outcome};
use crate::output::{Output, complain};
use crate::render::{migrated, replicated, units::span};
use jobs::replicate::{Ended, Observer, Plan, Point, Retention, Status, look, points, promote, replicate};
use jobs::report::{Event, Tally, Watcher};
use serde::Serialize;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[derive(clap::Args, Debug)]
#[command(
    override_usage = "sifaka replicate [OPTIONS] <SRC> <DST>\n       sifaka replicate --status|--list-points|--promote <DST>",
    after_help = "What is in the directory SRC comes into the directory DST, which is made if it is not there, and what SRC does not have any more goes \
from it; what went or was replaced stays in DST/.sifaka-replica/removed for the grace period. It runs until it is ended, and goes on when it is started again."
)]
pub(crate) struct ReplicateArgs {
    /// SRC and DST: the directory whose content is copied, and the replica; the replica alone with --status, --list-points or --promote
    #[arg(value_names = ["SRC", "DST"], num_args = 1..=2, required = true)]
    paths: Vec<PathBuf>,
    /// Make one pass and end
    #[arg(long)]
    once: bool,
    /// From the end of a pass over the whole tree to the next one, such as 30m or 2d [default: 10m; 1d where the kernel tells what changes]
    #[arg(long, value_name = "TIME", value_parser = age)]
    every: Option<Duration>,
    /// Find out what changes by passes alone, also where the kernel would tell it
    #[arg(long)]
    no_events: bool,
    /// Keep what was removed or replaced in the replica for so long; 0s: not at all
    #[arg(long, value_name = "TIME", value_parser = age, default_value = "7d")]
    grace: Duration,
    /// Keep points in time: what the replica was, for so long, in DST/.sifaka-replica/points
    #[arg(long, value_name = "TIME", value_parser = age)]
    points: Option<Duration>,
    /// From one point in time to the next
    #[arg(long, value_name = "TIME", value_parser = age, default_value = "1h", requires = "points")]
    point_every: Duration,
    /// Make DST a replica of SRC whatever it was: not empty, another's replica, or promoted
    #[arg(long)]
    adopt: bool,
    /// Say how the replica DST goes; exit code 6 if it lags by more than --alarm-after
    #[arg(long, conflicts_with_all = ["promote", "list_points", "once", "every", "adopt", "points"])]
    status: bool,
    /// List the points in time of the replica DST
    #[arg(long, conflicts_with_all = ["promote", "once", "every", "adopt", "points"])]
    list_points: bool,
    /// Take DST into use: nothing is replicated into it any more, and a replicator that runs ends
    #[arg(long, conflicts_with_all = ["once", "every", "adopt", "points"])]
    promote: bool,
    /// Tell on standard error when the replica lags by more
    #[arg(long, value_name = "TIME", value_parser = age)]
    alarm_after: Option<Duration>,
    /// Run this with sh then, too, and when a point in time cannot be taken, with SIFAKA_REPLICA and SIFAKA_LAG_SECONDS or SIFAKA_TROUBLE in its environment
    #[arg(long, value_name = "COMMAND", requires = "alarm_after")]
    alarm_command: Option<String>,
    /// Write lag and counts into this file every ten seconds, in Prometheus' text format, for node_exporter's textfile collector: its name ends in .prom there
    #[arg(long, value_name = "FILE", conflicts_with_all = ["status", "list_points", "promote"])]
    metrics_file: Option<PathBuf>,
    /// Move so many bytes of content a second at most, such as 100MB/s
    #[arg(short, long, visible_alias = "bwlimit", value_name = "RATE", value_parser = crate::lustre::rate)]
    bandwidth_limit: Option<NonZeroU64>,
    /// Threads [default: adapted to what is fastest]
    #[arg(short, long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Enter other filesystems that are mounted below SRC
    #[arg(long)]
    cross_filesystems: bool,
    /// Where to keep how far a pass is [default: a file below /var/lib/sifaka/jobs, for root]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    telling: TellingArgs,
}

pub(crate) fn run(args: &ReplicateArgs) -> Outcome {
    match args.paths.as_slice() {
        [target] if args.status => tell(args, target),
        [target] if args.list_points => listed(args, target),
        [target] if args.promote => promoted(target),
        [source, target] if !(args.status || args.list_points || args.promote) => replicated(args, source, target),
        [_] => {
            let why = "SRC and DST are needed; DST alone goes with --status, --list-points or --promote";
            Err(CliError::new(Exit::Usage, why))
        }
        _ => Err(CliError::new(Exit::Usage, "with --status, --list-points or --promote only the replica is named")),
    }
}

fn now() -> u64 {
    super::now_ms() / 1000
}

#[derive(Serialize)]
struct Told<'a> {
    replica: &'a jobs::replicate::Replica,
    /// As of now, where nobody writes it any more, too.
    lag_seconds: Option<u64>,
    status: &'a Status,
}

fn tell(args: &ReplicateArgs, target: &Path) -> Outcome {
    let (replica, status) = look(target).map_err(|error| ended(&error))?;
    let now = now();
    let lag = status.lag(now);
    let mut output = Output::new();
    if args.telling.json() {
        output.json(&Told { replica: &replica, lag_seconds: lag, status: &status })?;
    } else {
        output.put(replicated::human(&replica, &status, now))?;
    }
    output.flush()?;
    let late = args.alarm_after.is_some_and(|after| lag.is_none_or(|lag| lag > after.as_secs()));
    Ok(if late && replica.promoted.is_none() { Exit::Problems } else { Exit::Ok })
}

#[derive(Serialize)]
struct Listed<'a> {
    points: &'a [Point],
}

fn listed(args: &ReplicateArgs, target: &Path) -> Outcome {
    let points = points(target).map_err(|error| ended(&error))?;
    let mut output = Output::new();
    if args.telling.json() {
        output.json(&Listed { points: &points })?;
    } else {
        output.put(replicated::points(&points))?;
    }
    output.flush()?;
    Ok(Exit::Ok)
}

fn promoted(target: &Path) -> Outcome {
    match promote(target) {
        Ok(_) => Ok(Exit::Ok),
        Err(error @ jobs::JobError::Running { .. }) => {
            let why = format!("it is promoted, but a replicator has not ended yet: {error}");
            Err(CliError::new(Exit::NotHere, why))
        }
        Err(error) => Err(ended(&error)),
    }
}

/// Tells of it while it runs.
struct Observed<'a> {
    telling: &'a Telling,
    target: &'a Path,
    command: Option<&'a str>,
    json: bool,
    metrics: Option<TextFile>,
    /// The last one could not be written.
    mute: AtomicBool,
    /// A point in time could not be taken.
    pointless: AtomicBool,
}

impl Watcher for Observed<'_> {
    fn wants_all(&self) -> bool {
        self.telling.wants_all()
    }

    fn tell(&self, event: &Event) {
        self.telling.tell(event);
    }
}

#[derive(Serialize)]
struct Line<'a> {
    status: &'a Status,
}

#[derive(Serialize)]
struct PointLine<'a> {
    point: Option<&'a Point>,
    trouble: Option<&'a str>,
}

impl Observed<'_> {
    /// Runs the command of the alarm, if there is one.
    fn run(&self, about: (&str, &str)) {
        let Some(text) = self.command else { return };
        let mut command = Command::new("sh");
        command.arg("-c").arg(text).env("SIFAKA_REPLICA", self.target).env(about.0, about.1);
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        // Nobody waits for it while it runs; it is waited for so that nothing is left of it.
        let waited = started.and_then(|mut child| {
            let wait = move || drop(child.wait());
            std::thread::Builder::new().name("alarm".to_owned()).spawn(wait).map(drop)
        });
        if let Err(error) = waited {
            complain(&format!("cannot run the command of the alarm: {error}"));
        }
    }
}

impl Observer for Observed<'_> {
    fn watcher(&self) -> &dyn Watcher {
        self
    }

    fn status(&self, status: &Status) {
        if self.json {
            self.telling.line(&Line { status }, None);
        }
        let Some(metrics) = &self.metrics else { return };
        let written = metrics.write(status);
        let was_mute = self.mute.swap(written.is_err(), Ordering::Relaxed);
        if let Err(error) = written
            && !was_mute
        {
            complain(&format!("cannot write the metrics file: {error}"));
        }
    }

    fn alarm(&self, lag: u64) {
        complain(&format!("the replica {} lags by {}", self.target.display(), span(lag.saturating_mul(1000))));
        self.run(("SIFAKA_LAG_SECONDS", &lag.to_string()));
    }

    fn point(&self, taken: Result<&Point, &str>) {
        if let Err(why) = taken {
            self.pointless.store(true, Ordering::Relaxed);
            complain(&format!("no point in time of the replica {} could be taken: {why}", self.target.display()));
            self.run(("SIFAKA_TROUBLE", why));
        }
        if self.json {
            self.telling.line(&PointLine { point: taken.ok(), trouble: taken.err() }, None);
        }
    }

    fn begins(&self) {
        self.telling.again();
    }
}

#[derive(Serialize)]
struct Totals {
    #[serde(flatten)]
    totals: jobs::report::Totals,
    promoted: bool,
}

fn replicated(args: &ReplicateArgs, source: &Path, target: &Path) -> Outcome {
    let usual = || state_file("replicate", source.as_os_str(), target.as_os_str());
    let plan = Plan {
        once: args.once,
        every: args.every,
        events: !args.no_events,
        grace: args.grace,
        adopt: args.adopt,
        filter: args.filters.filter()?,
        limit: args.bandwidth_limit,
        threads: args.jobs.map(NonZeroUsize::get),
        cross: args.cross_filesystems,
        state: args.state.clone().unwrap_or_else(usual),
        alarm_after: args.alarm_after,
        points: args.points.map(|keep| Retention { keep, every: args.point_every }),
    };
    sys::process::raise_nofile_limit();
    let interrupt = Interrupt::on_signals()?;
    let (telling, tally) = (Telling::new(&args.telling, false)?, Tally::default());
    let json = args.telling.json();
    let unusable = |error| CliError::new(Exit::Usage, format!("--metrics-file: {error}"));
    let metrics = args.metrics_file.as_deref().map(|path| TextFile::new(path, target)).transpose().map_err(unusable)?;
    let observed = Observed {
        telling: &telling,
        target,
        command: args.alarm_command.as_deref(),
        json,
        metrics,
        mute: AtomicBool::new(false),
        pointless: AtomicBool::new(false),
    };
    let job = || replicate(source, target, &plan, &tally, &observed, interrupt.flag());
    let end = telling.during(&tally, job).map_err(|error| ended(&error))?;
    let (totals, pointless) = (tally.totals(), observed.pointless.into_inner());
    telling.finish(&Totals { totals, promoted: end == Ended::Promoted }, &migrated::human(&totals, false))?;
    match end {
        Ended::Promoted => {
            Err(CliError::new(Exit::NotHere, "the replica was promoted: nothing is replicated into it any more"))
        }
        // Without --once this is how it ends.
        Ended::Interrupted if !args.once => Ok(Exit::Ok),
        Ended::Interrupted => Err(CliError::new(Exit::Interrupted, "interrupted; the same command goes on from here")),
        Ended::Done => Ok(if totals.is_complete() && !pointless { Exit::Ok } else { Exit::SomeFailed }),
    }
}
