//! The queue and what has left it, as tables.

use super::table::table;
use super::units::{bytes, span};
use agent::admin::api::{ActionState, ActionView, FinishedView};

/// Actions that wait or run. `now_ms` is what ages count from.
pub(crate) fn live(actions: &[ActionView], now_ms: u64) -> String {
    let rows: Vec<_> = actions.iter().map(|action| live_row(action, now_ms)).collect();
    table(["ID", "COMMAND", "ARCHIVE", "STATE", "MOVER", "DONE", "AGE", "PATH"], &rows)
}

fn live_row(action: &ActionView, now_ms: u64) -> [String; 8] {
    let state = match action.state {
        ActionState::Queued => "queued".to_owned(),
        ActionState::Running => "running".to_owned(),
        ActionState::Retrying => {
            format!("retry {} in {}", action.attempts, span(action.not_before_ms.saturating_sub(now_ms)))
        }
        ActionState::Thawing => {
            format!("thawing for {}", span(now_ms.saturating_sub(action.thawing_since_ms.unwrap_or(now_ms))))
        }
    };
    let done = match (action.state, action.size) {
        (ActionState::Running, Some(size)) => format!("{}/{}", bytes(action.bytes_done), bytes(size)),
        (ActionState::Running, None) => bytes(action.bytes_done),
        _ => "-".to_owned(),
    };
    let path = match &action.last_error {
        Some(error) => format!("{} ({})", action.path, error.message),
        None => action.path.clone(),
    };
    [
        action.id.to_string(),
        action.command.to_string(),
        action.archive_id.to_string(),
        state,
        action.mover.clone().unwrap_or_else(|| "-".to_owned()),
        done,
        span(now_ms.saturating_sub(action.created_ms)),
        path,
    ]
}

/// Actions that ended.
pub(crate) fn finished(actions: &[FinishedView], now_ms: u64) -> String {
    let rows: Vec<_> = actions.iter().map(|action| finished_row(action, now_ms)).collect();
    table(["ID", "COMMAND", "ARCHIVE", "RESULT", "BYTES", "TOOK", "AGO", "PATH"], &rows)
}

fn finished_row(action: &FinishedView, now_ms: u64) -> [String; 8] {
    let (result, path) = match &action.error {
        None => ("ok", action.path.clone()),
        Some(error) if error.is_cancelled() => ("cancelled", action.path.clone()),
        Some(error) => ("failed", format!("{} ({})", action.path, error.message)),
    };
    [
        action.id.to_string(),
        action.command.to_string(),
        action.archive_id.to_string(),
        result.to_owned(),
        bytes(action.bytes),
        span(action.finished_ms.saturating_sub(action.created_ms)),
        span(now_ms.saturating_sub(action.finished_ms)),
        path,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{ActionId, Class, Command, Failure};

    fn action(id: u64, state: ActionState) -> ActionView {
        ActionView {
            id: ActionId(id),
            request: 3,
            command: Command::Archive,
            class: Class::Archive,
            archive_id: 1,
            path: format!("/fs/file {id}\x1b[31m"),
            state,
            fid: None,
            cookie: None,
            mover: None,
            attempts: 0,
            bytes_done: 0,
            size: Some(10 << 20),
            created_ms: 1_000,
            not_before_ms: 1_000,
            thawing_since_ms: None,
            last_error: None,
        }
    }

    #[test]
    fn what_waits_for_a_thaw_says_since_when() {
        let thawing = ActionView {
            command: Command::Restore,
            thawing_since_ms: Some(1_000),
            last_error: Some(Failure::thawing("the object is being thawed", 300)),
            ..action(12, ActionState::Thawing)
        };
        insta::assert_snapshot!(live(&[thawing], 7_321_000), @r"
        ID  COMMAND  ARCHIVE  STATE              MOVER  DONE  AGE    PATH
        12  restore  1        thawing for 2h02m  -      -     2h02m  /fs/file 12\u{1b}[31m (the object is being thawed)
        ");
    }

    #[test]
    fn the_queue() {
        let running = ActionView {
            mover: Some("lhsm-plugin-posix".into()),
            bytes_done: 3 << 20,
            ..action(7, ActionState::Running)
        };
        let failure = Failure::temporary(28, "no space in the archive");
        let retrying = ActionView {
            attempts: 2,
            not_before_ms: 63_000,
            last_error: Some(failure),
            ..action(11, ActionState::Retrying)
        };
        let actions = [running, action(10, ActionState::Queued), retrying];
        insta::assert_snapshot!(live(&actions, 61_000), @r"
        ID  COMMAND  ARCHIVE  STATE          MOVER              DONE            AGE    PATH
        7   archive  1        running        lhsm-plugin-posix  3.0 MiB/10 MiB  1m00s  /fs/file 7\u{1b}[31m
        10  archive  1        queued         -                  -               1m00s  /fs/file 10\u{1b}[31m
        11  archive  1        retry 2 in 2s  -                  -               1m00s  /fs/file 11\u{1b}[31m (no space in the archive)
        ");
    }

    #[test]
    fn the_past() {
        let ended = |id, error| FinishedView {
            id: ActionId(id),
            request: 3,
            command: Command::Restore,
            archive_id: 1,
            path: "/fs/f".into(),
            error,
            bytes: 4096,
            created_ms: 0,
            finished_ms: 250,
        };
        let all = [
            ended(3, Some(Failure::permanent(5, "the object is damaged"))),
            ended(2, Some(Failure::cancelled())),
            ended(1, None),
        ];
        insta::assert_snapshot!(finished(&all, 10_250), @r"
        ID  COMMAND  ARCHIVE  RESULT     BYTES    TOOK   AGO  PATH
        3   restore  1        failed     4.0 KiB  250ms  10s  /fs/f (the object is damaged)
        2   restore  1        cancelled  4.0 KiB  250ms  10s  /fs/f
        1   restore  1        ok         4.0 KiB  250ms  10s  /fs/f
        ");
    }
}
