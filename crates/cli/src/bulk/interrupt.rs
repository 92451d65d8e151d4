//! The end that a user asks for: the job finishes what is under way, notes how far it is, and ends.

use crate::exit::{CliError, Exit};
use crate::output::complain;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use sys::signals::Signals;

/// See the module.
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes SIGINT, SIGTERM and SIGHUP; the second one ends the program at once. To be called before any thread is started.
    pub(crate) fn on_signals() -> Result<Self, CliError> {
        let failed = |why| CliError::new(Exit::SomeFailed, format!("cannot take signals: {why}"));
        let signals = Signals::block(&[Signal::INT, Signal::TERM, Signal::HUP].map(Signal::as_raw)).map_err(failed)?;
        let flag = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&flag);
        let watch = move || {
            for again in [false, true] {
                if !arrived(&signals) {
                    return;
                }
                if again {
                    std::process::exit(Exit::Interrupted as i32);
                }
                asked.store(true, Ordering::Relaxed);
                complain("interrupted: finishing what is under way; interrupt once more to end at once");
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(watch).map_err(failed)?;
        Ok(Self(flag))
    }

    /// Set when the job is to end.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.0
    }
}

fn arrived(signals: &Signals) -> bool {
    loop {
        match signals.next() {
            Ok(Some(_)) => return true,
            Ok(None) => {
                // An interrupted wait is as good as another look.
                let _ = poll(&mut [PollFd::new(signals, PollFlags::IN)], None);
            }
            Err(_) => return false,
        }
    }
}
