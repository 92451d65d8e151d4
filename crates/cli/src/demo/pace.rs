//! How the demo goes on: steps with their times, files spread over threads, progress on a terminal, and the end when a signal
//! asks for it.

use super::processes;
use super::report::Step;
use crate::exit::{CliError, Exit};
use crate::output::complain;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use sys::signals::Signals;

/// After a signal, the step that is being done has so long to notice. Then what it may be waiting for is killed.
const PATIENCE: Duration = Duration::from_secs(15);
/// Threads that work on files. Most wait: for the disk, or for the agent.
pub(super) const THREADS: usize = 16;

/// Whether somebody asked the demo to end. Every loop looks at it.
pub(super) struct Stop {
    asked: Arc<AtomicBool>,
    over: Sender<()>,
}

impl Stop {
    /// Takes SIGINT, SIGTERM and SIGHUP. To be called before any thread is started.
    pub(super) fn on_signals() -> io::Result<Self> {
        let signals = Signals::block(&[Signal::INT, Signal::TERM, Signal::HUP].map(Signal::as_raw))?;
        let asked = Arc::new(AtomicBool::new(false));
        let (over, is_over) = channel();
        let flag = asked.clone();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || watch(&signals, &flag, &is_over))?;
        Ok(Self { asked, over })
    }

    /// An error once the demo is to end.
    pub(super) fn check(&self) -> Result<(), CliError> {
        if self.asked.load(Ordering::Relaxed) {
            Err(CliError::new(Exit::Interrupted, "demo: interrupted"))
        } else {
            Ok(())
        }
    }

    /// From now on there is nothing that could hang in the agent: nothing is killed any more.
    pub(super) fn work_is_over(&self) {
        // Nobody listens when no signal came and the thread has failed.
        let _ = self.over.send(());
    }
}

fn watch(signals: &Signals, asked: &AtomicBool, over: &Receiver<()>) {
    loop {
        match signals.next() {
            Ok(Some(_)) => break,
            Ok(None) => {
                // An interrupted wait is as good as another look.
                let _ = poll(&mut [PollFd::new(signals, PollFlags::IN)], None);
            }
            Err(_) => return,
        }
    }
    asked.store(true, Ordering::Relaxed);
    complain("interrupted: cleaning up");
    if over.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
        complain("the step does not end: killing the agent and what it started");
        processes::kill_descendants();
    }
}

/// The steps done so far, and how the present one is shown.
pub(super) struct Pace<'a> {
    pub(super) stop: &'a Stop,
    steps: Vec<Step>,
}

impl<'a> Pace<'a> {
    pub(super) fn new(stop: &'a Stop) -> Self {
        Self { stop, steps: Vec::new() }
    }

    pub(super) fn into_steps(self) -> Vec<Step> {
        self.steps
    }

    /// Does a step, which is about `files` files with `bytes` bytes, and notes how long it took.
    pub(super) fn step(
        &mut self,
        name: &'static str,
        (files, bytes): (u64, u64),
        work: impl FnOnce(&ProgressBar) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        self.stop.check()?;
        complain(&format!("demo: {name} …"));
        // Shown on a terminal only.
        let bar = ProgressBar::new(files);
        let style = ProgressStyle::with_template("[{elapsed}] {wide_bar} {pos}/{len} files");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let began = Instant::now();
        let done = work(&bar);
        bar.finish_and_clear();
        done?;
        self.steps.push(Step { step: name, files, bytes, seconds: began.elapsed().as_secs_f64() });
        self.stop.check()
    }
}

/// Calls `work` for every item, on several threads, until one fails or the demo is to end. Gives the first error.
pub(super) fn each<T: Sync>(
    items: &[T],
    stop: &Stop,
    work: impl Fn(&T) -> Result<(), CliError> + Sync,
) -> Result<(), CliError> {
    spread(items, |item| stop.check().and_then(|()| work(item)))
}

/// As [`each`], also when the demo is to end.
pub(super) fn spread<T: Sync, E: Send>(items: &[T], work: impl Fn(&T) -> Result<(), E> + Sync) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<E>> = Mutex::new(None);
    let worker = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(item) {
                // The others end with the item they have.
                next.store(items.len(), Ordering::Relaxed);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(items.len()) {
            scope.spawn(worker);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
