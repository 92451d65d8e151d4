//! What the agent must be able to do for the admin API.

use super::api::{
    ActionReport, ActionView, ActionsQuery, CancelRequest, Cancelled, FileStatus, FilesRequest, FilesSet,
    FinishedQuery, FinishedView, Released, Reloaded, RequestStatus, SetRequest, StatusReport, SubmitRequest, Submitted,
};
use super::hosts::{DrainRequest, Draining, HostsReport};
use super::objects::{CloneRequest, Made, RetiredPage, RetiredRequest, UndeleteRequest};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use model::ActionId;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A reply, or why there is none.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, ControlError>>;

/// The operations of the admin API, one method each; see the types in [`super::api`] for what they mean.
///
/// The server has checked the limits of `api` before it calls. A future may be dropped when the client goes away: what was
/// accepted until then stays accepted. Files that cannot be worked on are in the reply, one by one; an error concerns the
/// whole call.
pub trait Control: Send + Sync + 'static {
    /// Accepts actions, durably.
    fn submit(&self, request: SubmitRequest) -> Reply<'_, Submitted>;

    /// How far a request is: at once when it is finished, else after `wait`. `NotFound` when it is not known (any more).
    fn request(&self, id: u64, wait: Duration) -> Reply<'_, RequestStatus>;

    /// The actions of a request that failed, newest first.
    fn failures(&self, id: u64, query: FinishedQuery) -> Reply<'_, Vec<FinishedView>>;

    /// Frees the blocks of files, each once it is proven that the archive holds its present content.
    fn release(&self, request: FilesRequest) -> Reply<'_, Released>;

    /// Ends actions.
    fn cancel(&self, request: CancelRequest) -> Reply<'_, Cancelled>;

    /// The state of files, in their order.
    fn files_status(&self, request: FilesRequest) -> Reply<'_, Vec<FileStatus>>;

    /// Changes flags and archive ids of files.
    fn files_set(&self, request: SetRequest) -> Reply<'_, FilesSet>;

    /// Actions that wait or run, by id.
    fn actions(&self, query: ActionsQuery) -> Reply<'_, Vec<ActionView>>;

    /// Actions that ended, newest first.
    fn finished(&self, query: FinishedQuery) -> Reply<'_, Vec<FinishedView>>;

    /// One action. `NotFound` when it never was or its result is no longer kept.
    fn action(&self, id: ActionId) -> Reply<'_, ActionReport>;

    /// Reads the configuration again. `Configuration`, with every problem on a line of its own, when it is wrong: then nothing
    /// has changed.
    fn reload(&self) -> Reply<'_, Reloaded> {
        Box::pin(async {
            Err(ControlError::new(ErrorCode::Unsupported, "this agent does not read its configuration again"))
        })
    }

    /// How the agent is.
    fn status(&self) -> Reply<'_, StatusReport>;

    /// Which hosts of movers there are.
    fn hosts(&self) -> Reply<'_, HostsReport> {
        unsupported("tell of other hosts: its transport is not \"nats\"")
    }

    /// Has a host take nothing more, and end when it has nothing left. `NotFound` when there is none of that name.
    fn drain_host(&self, _: DrainRequest) -> Reply<'_, Draining> {
        unsupported("drain other hosts: its transport is not \"nats\"")
    }

    /// Makes released files that name the objects of others.
    fn clone_files(&self, _: CloneRequest) -> Reply<'_, Made> {
        unsupported("clone files")
    }

    /// Brings deleted files back.
    fn undelete(&self, _: UndeleteRequest) -> Reply<'_, Made> {
        unsupported("undelete files")
    }

    /// Objects that wait for their removal.
    fn retired(&self, _: RetiredRequest) -> Reply<'_, RetiredPage> {
        unsupported("list what waits for its removal")
    }
}

/// What an agent without local files says.
fn unsupported<T: Send + 'static>(what: &str) -> Reply<'static, T> {
    let error = ControlError::new(ErrorCode::Unsupported, format!("this agent cannot {what}"));
    async move { Err(error) }.boxed()
}

/// What kind of error, for programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request makes no sense (400).
    Invalid,
    /// The peer may not (403).
    Forbidden,
    /// There is no such thing (404).
    NotFound,
    /// There is, but not with this method (405).
    MethodNotAllowed,
    /// The body is too large (413).
    TooLarge,
    /// A configuration file is wrong (422).
    Configuration,
    /// Something went wrong in the agent (500).
    Internal,
    /// This agent cannot do it (501).
    Unsupported,
    /// Not now: the agent starts or stops (503).
    Unavailable,
}

/// Why an operation was not done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct ControlError {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what, where, why, and what to do.
    pub message: String,
}

impl ControlError {
    /// An error of that kind.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
