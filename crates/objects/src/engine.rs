//! The threads that requests run on, and how a thread that may block waits for one.

use crate::fault::Fault;
use std::future::Future;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::AbortHandle;
use transfer::{Monitor, TransferError};

/// How soon whoever waits for a request notices that it was cancelled (P4).
const LOOK: Duration = Duration::from_millis(200);
/// They hash nothing: it is sockets and TLS.
const THREADS: usize = 4;

/// A runtime that can be dropped anywhere, also by a callback that runs on it.
#[derive(Debug)]
pub(crate) struct Engine {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Engine {
    pub(crate) fn start() -> io::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(THREADS);
        let runtime =
            Builder::new_multi_thread().worker_threads(threads).thread_name("objects").enable_all().build()?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Some(runtime), handle })
    }

    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.handle.spawn(work).abort_handle()
    }

    /// Waits for the end of some work.
    pub(crate) fn wait<T: Send + 'static, E: From<Fault> + Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E> {
        let (tell, told) = sync_channel(1);
        self.spawn(async move {
            // Nobody waits any more when this fails.
            let _ = tell.send(work.await);
        });
        told.recv().unwrap_or_else(|_| Err(gone().into()))
    }

    /// Waits likewise, unless the monitor cancels: then the work is dropped where it stands.
    pub(crate) fn wait_watched<T: Send + 'static, E: From<Fault> + Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
        monitor: &dyn Monitor,
    ) -> Result<Result<T, E>, TransferError> {
        let (tell, told) = sync_channel(1);
        let task = self.spawn(async move {
            let _ = tell.send(work.await);
        });
        loop {
            match told.recv_timeout(LOOK) {
                Ok(result) => return Ok(result),
                Err(RecvTimeoutError::Disconnected) => return Ok(Err(gone().into())),
                Err(RecvTimeoutError::Timeout) if monitor.cancelled() => {
                    task.abort();
                    return Err(TransferError::Cancelled);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// A task that ended without a word: it panicked, over an answer that no service gives.
fn gone() -> Fault {
    Fault::strange("the request ended without a result")
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not by waiting: this may be one of its own threads.
            runtime.shutdown_background();
        }
    }
}
