//! Reports on their way to the agent: written from any thread, read by the one status stream.
//!
//! The stream yields all that is buffered without a task switch a message, so that the encoder above it packs many
//! reports into one frame.

use parking_lot::Mutex;
use proto::{Report, pdm};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio_stream::Stream;

/// Above this many waiting reports progress is held back. Ends never are: there is at most one for each action that
/// the agent handed out.
const PROGRESS_LIMIT: usize = 1 << 16;

#[derive(Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reports: VecDeque<pdm::ActionStatus>,
    /// The stream's task, when it found nothing to send.
    reader: Option<Waker>,
    corks: usize,
    closed: bool,
}

impl State {
    /// Who is to be woken: nobody while somebody is about to write more.
    fn take_reader(&mut self) -> Option<Waker> {
        if self.corks == 0 && (self.closed || !self.reports.is_empty()) { self.reader.take() } else { None }
    }
}

impl Outbox {
    /// Adds a report. After [`Outbox::close`] it is dropped: nobody would read it.
    pub(crate) fn push(&self, report: Report) {
        let status = report.into();
        self.change(|state| {
            if !state.closed {
                state.reports.push_back(status);
            }
        });
    }

    /// Whether progress has to wait, because the agent reads more slowly than we write.
    pub(crate) fn is_full(&self) -> bool {
        self.state.lock().reports.len() >= PROGRESS_LIMIT
    }

    /// Ends the stream once what is buffered was read.
    pub(crate) fn close(&self) {
        self.change(|state| state.closed = true);
    }

    /// Until the guard is dropped the reader is not woken: many reports then cost one wake-up. To be held for
    /// microseconds.
    pub(crate) fn cork(&self) -> Cork<'_> {
        self.state.lock().corks += 1;
        Cork(self)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let waker = {
            let mut state = self.state.lock();
            change(&mut state);
            state.take_reader()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

pub(crate) struct Cork<'a>(&'a Outbox);

impl Drop for Cork<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.corks -= 1);
    }
}

/// The reading end. The reports taken from the outbox in one go are yielded without taking its lock again.
pub(crate) struct Reports {
    outbox: Arc<Outbox>,
    taken: VecDeque<pdm::ActionStatus>,
}

impl Reports {
    /// There is one reader; a second would steal its reports.
    pub(crate) fn of(outbox: Arc<Outbox>) -> Self {
        Self { outbox, taken: VecDeque::new() }
    }
}

impl Stream for Reports {
    type Item = pdm::ActionStatus;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { outbox, taken } = &mut *self;
        if let Some(status) = taken.pop_front() {
            return Poll::Ready(Some(status));
        }
        let mut state = outbox.state.lock();
        std::mem::swap(&mut state.reports, taken);
        match taken.pop_front() {
            Some(status) => Poll::Ready(Some(status)),
            None if state.closed => Poll::Ready(None),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use model::{ActionId, Extent};
    use proto::ReportBody;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio_stream::StreamExt;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl std::task::Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn report(id: u64) -> Report {
        Report { id: ActionId(id), handle: None, body: ReportBody::Progress(Extent::WHOLE) }
    }

    #[test]
    fn a_cork_makes_many_reports_one_wake_up() {
        let (outbox, wakes) = (Arc::new(Outbox::default()), Arc::new(Wakes::default()));
        let mut reports = Reports::of(outbox.clone());
        let waker = Waker::from(wakes.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(Pin::new(&mut reports).poll_next(&mut cx).is_pending());
        let cork = outbox.cork();
        (0..100).for_each(|id| outbox.push(report(id)));
        assert_eq!(wakes.0.load(Ordering::SeqCst), 0);
        drop(cork);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        for id in 0..100 {
            assert!(matches!(Pin::new(&mut reports).poll_next(&mut cx), Poll::Ready(Some(s)) if s.id == id));
        }
        assert!(Pin::new(&mut reports).poll_next(&mut cx).is_pending());
    }

    #[test]
    fn what_was_written_before_the_close_is_read() {
        let outbox = Arc::new(Outbox::default());
        outbox.push(report(1));
        outbox.close();
        outbox.push(report(2));
        let read: Vec<_> = Reports::of(outbox).map(|s| s.id).collect().now_or_never().unwrap();
        assert_eq!(read, [1]);
    }
}
