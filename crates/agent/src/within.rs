//! Work that may hang, because a filesystem's server does not answer: done on a thread of its own, and waited for so long and no longer.

use std::sync::mpsc;
use std::time::Duration;

/// What `work` gives, if it does within `limit`. Later it goes on, on a thread that nobody waits for any more. `None` also when there can be no
/// thread, or it panics.
pub fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, waiting) = mpsc::sync_channel(1);
    let work = move || {
        // Nobody waits any more.
        let _ = done.send(work());
    };
    let thread = std::thread::Builder::new().name("may-hang".into()).spawn(work);
    thread.ok().and_then(|_| waiting.recv_timeout(limit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn what_hangs_is_not_waited_for() {
        assert_eq!(within(Duration::from_secs(20), || 7), Some(7));
        let (end, hangs) = mpsc::channel::<()>();
        let start = Instant::now();
        assert_eq!(within(Duration::from_millis(20), move || hangs.recv().is_ok()), None);
        assert!(start.elapsed() < Duration::from_secs(15));
        drop(end);
    }
}
