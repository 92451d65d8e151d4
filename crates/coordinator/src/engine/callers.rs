//! Looking at the processes behind events until it is clear what they are about.
//!
//! Mostly one look does. But the thread that raised an event may wait for a processor before it sleeps, and until then nothing can be said;
//! waiting for that costs it nothing, since it could not go on either.

use super::Msg;
use crate::guard::PendingEvent;
use model::FileHandle;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use sys::caller::{Caller, Calls};

/// Threads of a process that are looked at while the engine waits.
const QUICK_THREADS: usize = 64;
/// Threads that are looked at here.
const MOST_THREADS: usize = 4096;
const PAUSE: Duration = Duration::from_micros(500);
/// After so long it stays unclear.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is unclear may be anything.
const UNCLEAR: Calls = Calls { truncate: true, maps: true, open_flags: None, may_truncate: true };

/// One look at the process of an event.
pub(super) fn look_once(event: &PendingEvent) -> Option<Calls> {
    Caller::new(event.pid).look(QUICK_THREADS)
}

struct Suspect {
    event: PendingEvent,
    file: FileHandle,
    caller: Caller,
    until: Instant,
}

/// The thread that goes on looking.
pub(super) struct Callers(Sender<(PendingEvent, FileHandle)>);

impl Callers {
    /// Ends when it is dropped; events that it has then get EIO.
    pub(super) fn start(messages: Sender<Msg>) -> std::io::Result<Self> {
        let (sender, incoming) = channel::<(PendingEvent, FileHandle)>();
        std::thread::Builder::new().name("callers".into()).spawn(move || {
            let mut suspects: Vec<Suspect> = Vec::new();
            loop {
                let next = if suspects.is_empty() {
                    incoming.recv().map_err(|_| RecvTimeoutError::Disconnected)
                } else {
                    incoming.recv_timeout(PAUSE)
                };
                match next {
                    Ok((event, file)) => {
                        let (caller, until) = (Caller::new(event.pid), Instant::now() + PATIENCE);
                        suspects.push(Suspect { event, file, caller, until });
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                let mut at = 0;
                while let Some(suspect) = suspects.get_mut(at) {
                    let looked = suspect.caller.look(MOST_THREADS);
                    if looked.is_none() && Instant::now() < suspect.until {
                        at += 1;
                        continue;
                    }
                    let Suspect { mut event, file, .. } = suspects.swap_remove(at);
                    event.calls = Some(looked.unwrap_or(UNCLEAR));
                    let _ = messages.send(Msg::Event(event, file));
                }
            }
        })?;
        Ok(Self(sender))
    }

    /// The event comes back as a message when it is clear what its process is about.
    pub(super) fn look(&self, event: PendingEvent, file: FileHandle) {
        let _ = self.0.send((event, file));
    }
}
