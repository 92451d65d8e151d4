//! A walk whose number of threads is adapted to what is fastest.

use crate::climber::Climber;
use crate::walk::{Pace, Visitor, Walker};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Between two looks at the rate.
const TICK: Duration = Duration::from_secs(1);

/// Walks all below `root`. `done` grows with the work; `None`: the number of threads stays.
///
/// # Errors
/// See [`Walker::run`].
pub(crate) fn walk<V: Visitor>(
    walker: &Walker<'_, V>,
    root: OwnedFd,
    pace: &Pace,
    done: Option<&(dyn Fn() -> u64 + Sync)>,
) -> io::Result<()> {
    let Some(done) = done else { return walker.run(root) };
    let (ended, end) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut climber, mut last) = (Climber::new(pace.limit(), pace.most()), done());
            while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(TICK) {
                let now = done();
                pace.set(climber.step(now.saturating_sub(last)));
                last = now;
                walker.wake();
            }
        });
        let walked = walker.run(root);
        drop(ended);
        walked
    })
}
