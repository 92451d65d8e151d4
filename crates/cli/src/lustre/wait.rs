//! Waiting for actions that the coordinator has accepted. It tells nobody of an end: each file is asked for its state, and some that are
//! not yet what they are to be, in turn, for what is under way. The second is dear: the MDT looks through all it remembers for each answer.
//!
//! Memory is bounded: who submits waits as soon as [`WINDOW`] actions are outstanding.

use super::ask::Outstanding;
use super::off_thread;
use crate::exit::CliError;
use crate::output::{complain, escaped};
use crate::submit::Shown;
use agent::admin::api::{FinishedView, RequestStatus};
use model::{ActionId, Command, Failure, HsmFlags};
use nix::libc::EIO;
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};
use sys::lustre::{UserAction, current_action, state};

/// Actions that are waited for at the same time.
const WINDOW: usize = 4000;
/// Files that are looked at in one round, in turn.
const ROUND: usize = 500;
/// Files whose action is asked for in one round, in turn.
const SCANS: usize = 20;
/// Between rounds: the first pause, and the longest. It is as long as the round took, at least: half of the time is the MDS's.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);
/// Failures that are kept for the answer; all are told and counted.
const MAX_FAILURES: usize = 1000;
/// Waiting without anybody at work is worth a remark after so long.
const IDLE: Duration = Duration::from_secs(30);

/// Whether a file is what the action is to make of it.
pub(super) fn is_reached(action: UserAction, flags: HsmFlags) -> bool {
    let has = |flag| flags.contains(flag);
    match action {
        UserAction::Archive => has(HsmFlags::EXISTS.with(HsmFlags::ARCHIVED)) && !has(HsmFlags::DIRTY),
        UserAction::Restore => !has(HsmFlags::RELEASED),
        UserAction::Remove => !has(HsmFlags::EXISTS) && !has(HsmFlags::ARCHIVED),
        UserAction::Release => has(HsmFlags::RELEASED),
        UserAction::Cancel => true,
    }
}

/// Actions that are waited for, and what became of those before.
#[derive(Debug)]
pub(crate) struct Waiting {
    action: UserAction,
    command: Command,
    outstanding: VecDeque<Outstanding>,
    status: RequestStatus,
    failures: Vec<FinishedView>,
    /// When something was last seen to run or to end.
    busy: Instant,
    idle_told: bool,
}

enum Look {
    /// As it was; nobody was asked for its action.
    Unknown,
    Open {
        running: bool,
        done: u64,
    },
    Reached,
    Failed(String),
}

impl Waiting {
    pub(crate) fn new(action: UserAction, command: Command) -> Self {
        Self {
            action,
            command,
            outstanding: VecDeque::new(),
            status: RequestStatus::default(),
            failures: Vec::new(),
            busy: Instant::now(),
            idle_told: false,
        }
    }

    /// Takes actions in, and waits until there is room for more.
    pub(crate) async fn add(&mut self, accepted: Vec<Outstanding>, shown: &Shown) -> Result<(), CliError> {
        self.status.total += accepted.len() as u64;
        self.outstanding.extend(accepted);
        self.wait_until(WINDOW, shown).await
    }

    /// Waits for all. Gives how it went, and the first failures.
    pub(crate) async fn finish(mut self, shown: &Shown) -> Result<(RequestStatus, Vec<FinishedView>), CliError> {
        self.wait_until(0, shown).await?;
        Ok((self.status, self.failures))
    }

    async fn wait_until(&mut self, left: usize, shown: &Shown) -> Result<(), CliError> {
        let mut pause = SHORTEST;
        let mut told = Instant::now();
        while self.outstanding.len() > left {
            let begun = Instant::now();
            let progressed = self.round().await?;
            if self.outstanding.len() <= left {
                break;
            }
            if told.elapsed() >= shown.interval() {
                told = Instant::now();
                shown.progress(&self.status);
            }
            self.tell_if_idle();
            pause = if progressed { SHORTEST } else { (pause * 2).min(LONGEST) };
            tokio::time::sleep(pause.max(begun.elapsed())).await;
        }
        Ok(())
    }

    /// Looks at the next files. Whether any of them has ended.
    async fn round(&mut self) -> Result<bool, CliError> {
        let action = self.action;
        let part: Vec<_> = self.outstanding.drain(..self.outstanding.len().min(ROUND)).collect();
        let seen = off_thread(move || {
            let mut scans = SCANS;
            part.into_iter().map(|one| (look(action, &one, &mut scans), one)).collect::<Vec<_>>()
        });
        let ended = self.status.ended();
        let mut scanned = Vec::new();
        for (look, mut one) in seen.await? {
            match look {
                Look::Unknown => self.outstanding.push_back(one),
                Look::Open { running, done } => {
                    if running {
                        self.busy = Instant::now();
                    }
                    one.done = done.min(one.size);
                    scanned.push(one);
                }
                Look::Reached => {
                    self.status.succeeded += 1;
                    self.status.bytes += if self.action == UserAction::Remove { 0 } else { one.size };
                }
                Look::Failed(why) => self.fail(&one, why),
            }
        }
        // Others are asked for next.
        self.outstanding.extend(scanned);
        self.status.in_flight_bytes = self.outstanding.iter().map(|one| one.done).sum();
        let progressed = self.status.ended() > ended;
        if progressed {
            self.busy = Instant::now();
        }
        Ok(progressed)
    }

    fn fail(&mut self, one: &Outstanding, why: String) {
        self.status.failed += 1;
        let refused = one.file.refused(EIO, why);
        complain(&format!("{}: {}", escaped(&refused.path), escaped(&refused.message)));
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(FinishedView {
                id: ActionId(0),
                request: 0,
                command: self.command,
                archive_id: 0,
                path: refused.path,
                error: Some(Failure::permanent(EIO, refused.message)),
                bytes: 0,
                created_ms: 0,
                finished_ms: 0,
            });
        }
    }

    fn tell_if_idle(&mut self) {
        if !self.idle_told && self.busy.elapsed() >= IDLE {
            self.idle_told = true;
            complain(
                "nothing is being done: Lustre keeps requests until an agent takes them. Does one run that is registered for the \
                 archive (`lctl get_param mdt.*.hsm.agents` on the MDS)?",
            );
        }
    }
}

/// `scans` is how many may still be asked for their action.
fn look(action: UserAction, one: &Outstanding, scans: &mut usize) -> Look {
    let library = &one.filesystem.library;
    let gone = |why: io::Error| match why.kind() {
        io::ErrorKind::NotFound => {
            "the file is gone, so nobody tells how the action ends; see the agent's log".to_owned()
        }
        _ => format!("how far the action is cannot be found out: {why}"),
    };
    match state(library, one.path()) {
        Ok(found) if is_reached(action, found.flags) => return Look::Reached,
        Ok(_) if *scans == 0 => return Look::Unknown,
        Ok(_) => *scans -= 1,
        Err(why) => return Look::Failed(gone(why)),
    }
    match current_action(library, one.path()) {
        Ok(current) if current.action == Some(action) => {
            return Look::Open { running: current.is_running(), done: current.bytes_done() };
        }
        // Another action may be there by now; ours is over. The MDT changes the state before it forgets the action.
        Ok(_) => {}
        Err(why) => return Look::Failed(gone(why)),
    }
    match state(library, one.path()) {
        Ok(found) if is_reached(action, found.flags) => Look::Reached,
        Ok(_) => Look::Failed("it failed or was cancelled; see the agent's log".to_owned()),
        Err(why) => Look::Failed(gone(why)),
    }
}
