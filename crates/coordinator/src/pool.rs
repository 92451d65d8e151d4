//! A few threads for calls that block on a disk.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Shared {
    jobs: Mutex<(VecDeque<Job>, bool)>,
    wake: Condvar,
}

/// Runs jobs in the order they come, on a fixed number of threads; ends them when dropped, queued jobs first.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(crate) fn new(name: &str, threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let spawn = |i| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("{name}-{i}")).spawn(move || work(&shared))
        };
        let threads = (0..threads).map(spawn).collect::<Result<_, _>>()?;
        Ok(Self { shared, threads })
    }

    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.shared.jobs.lock().0.push_back(Box::new(job));
        self.shared.wake.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.jobs.lock().1 = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work(shared: &Shared) {
    loop {
        let job = {
            let mut jobs = shared.jobs.lock();
            loop {
                if let Some(job) = jobs.0.pop_front() {
                    break job;
                }
                if jobs.1 {
                    return;
                }
                shared.wake.wait(&mut jobs);
            }
        };
        job();
    }
}
