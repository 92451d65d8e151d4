//! A clone that is made while a removal of its object looks whether it may go on.

use crate::engine::{Dispatch, Engine, EngineConfig, Target, removal_action};
use crate::filesystem::{handle_of, stamp_of};
use crate::named::{Make, NewName, Source};
use crate::state::FileState;
use model::{ActionId, ArchiveRecord, Backoff, Class, FileHandle, HsmFlags, HsmState, Identity};
use parking_lot::Mutex;
use queue::{
    About, Change, Cursor, Finished, ListFilter, MemoryQueue, NewAction, ObjectRef, OrphanCheck, Queue, QueueError,
    QueuedAction, Removal, RequestId, RequestStatus, RetiredObject, Sharing, Standing, SyncedStamp, Totals,
};
use std::fs::{self, File};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use testkit::{FsKind, LoopFs};

const PATIENCE: Duration = Duration::from_secs(10);

/// A queue whose callers are stopped at two places, once each.
struct Staged {
    inner: MemoryQueue,
    /// Before a sharing is recorded.
    sharing: Mutex<Option<Stop>>,
    /// After it was found what an object's standing is.
    standing: Mutex<Option<Stop>>,
}

/// Tells that it was reached, and waits.
struct Stop {
    reached: Sender<()>,
    go_on: Receiver<()>,
}

impl Stop {
    fn new() -> (Mutex<Option<Self>>, Receiver<()>, Sender<()>) {
        let ((reached, told), (tell, go_on)) = (channel(), channel());
        (Mutex::new(Some(Self { reached, go_on })), told, tell)
    }

    fn here(place: &Mutex<Option<Self>>) {
        if let Some(stop) = place.lock().take() {
            stop.reached.send(()).unwrap();
            stop.go_on.recv_timeout(PATIENCE).unwrap();
        }
    }
}

macro_rules! as_inner {
    ($($name:ident($($argument:ident: $type:ty),*) -> $found:ty;)*) => {
        $(fn $name(&self, $($argument: $type),*) -> Result<$found, QueueError> {
            self.inner.$name($($argument),*)
        })*
    };
}

impl Queue for Staged {
    fn apply(&self, changes: &[Change]) -> Result<(), QueueError> {
        if changes.iter().any(|change| matches!(change, Change::Share { .. })) {
            Stop::here(&self.sharing);
        }
        self.inner.apply(changes)
    }

    fn standing(&self, removals: &[Removal<'_>], now_ms: u64) -> Result<Vec<Standing>, QueueError> {
        let found = self.inner.standing(removals, now_ms);
        Stop::here(&self.standing);
        found
    }

    as_inner! {
        submit(actions: &[NewAction]) -> Vec<ActionId>;
        owners(class: Class, now_ms: u64) -> Vec<u32>;
        ready(class: Class, owner: u32, after: Cursor, now_ms: u64, limit: usize) -> Vec<QueuedAction>;
        next_ready_ms(now_ms: u64) -> Option<u64>;
        get(id: ActionId) -> Option<QueuedAction>;
        of_file(file: &FileHandle) -> Vec<QueuedAction>;
        list(filter: &ListFilter, after: ActionId, limit: usize) -> Vec<QueuedAction>;
        finished(before: ActionId, limit: usize) -> Vec<Finished>;
        result(id: ActionId) -> Option<Finished>;
        request(id: RequestId) -> Option<RequestStatus>;
        totals() -> Totals;
        stamp(file: &FileHandle) -> Option<SyncedStamp>;
        orphan_checks(limit: usize) -> Vec<OrphanCheck>;
        about(file: &FileHandle) -> Option<About>;
        copies(file: &FileHandle) -> Vec<ObjectRef>;
        sharing() -> Sharing;
        referrers(archive_id: u32, uuid: &str, after: Option<&FileHandle>, limit: usize) -> Vec<FileHandle>;
        retired_object(archive_id: u32, uuid: &str, limit: usize) -> Vec<RetiredObject>;
        retired_of_file(file: &FileHandle, limit: usize) -> Vec<RetiredObject>;
        retired_in(from: &[u8], to: &[u8], after: Option<(&[u8], ActionId)>, limit: usize) -> Vec<RetiredObject>;
    }
}

/// A file that is archived as it is, as the object "u".
fn archived(loop_fs: &LoopFs) -> FileHandle {
    let path = loop_fs.path().join("original");
    fs::write(&path, "content").unwrap();
    let file = File::open(&path).unwrap();
    let (handle, now) = (handle_of(&file).unwrap(), stamp_of(&sys::file::stamp(&file).unwrap()));
    let flags = HsmFlags::EXISTS.with(HsmFlags::ARCHIVED);
    let state = FileState {
        hsm: HsmState { flags, archive_id: 1, ..HsmState::default() },
        identity: Identity { uuid: "u".into(), ..Identity::default() },
        record: Some(ArchiveRecord { size: now.size, mtime: now.mtime, inode: handle.clone() }),
    };
    state.write(&file).unwrap();
    handle
}

fn config(loop_fs: &LoopFs) -> EngineConfig {
    EngineConfig {
        root: loop_fs.path(),
        default_archive: 1,
        copies: Vec::new(),
        restore_timeout: None,
        backoff: Backoff { max_delay_ms: 100, max_attempts: 9 },
        remove_grace: Duration::ZERO,
        keep_versions: Duration::ZERO,
        snapshots: false,
        ranges: None,
    }
}

/// The removal sees no clone, since there is none yet; it says so when the clone is there and its object is held no more.
#[tokio::test]
async fn p7_a_removal_that_looked_before_a_clone_was_recorded_does_not_go_on() {
    let loop_fs = LoopFs::new(FsKind::Ext4, 0);
    let original = archived(&loop_fs);
    let (sharing, clone_is_held, let_clone_go_on) = Stop::new();
    let (standing, removal_has_looked, let_removal_go_on) = Stop::new();
    let queue = Arc::new(Staged { inner: MemoryQueue::new(), sharing, standing });
    let engine = Engine::start(config(&loop_fs), queue.clone(), None, |why| panic!("{why}")).unwrap();
    engine.archives_changed(&[(1, 10)]);

    let directory = handle_of(File::open(loop_fs.path()).unwrap()).unwrap();
    let at = NewName { directory, name: b"clone".to_vec(), path: "clone".into() };
    let source = Source::File(Target { handle: original, path: "original".into() });
    let making = tokio::spawn({
        let engine = engine.clone();
        async move { engine.make_files(vec![Make { source, at }]).await }
    });
    let reached = |place: Receiver<()>| tokio::task::spawn_blocking(move || place.recv_timeout(PATIENCE).unwrap());
    reached(clone_is_held).await.unwrap();
    let object = Identity { uuid: "u".into(), ..Identity::default() };
    let ids = engine.accept(vec![removal_action(1, object, "object u".into(), 0)]).await.unwrap();
    reached(removal_has_looked).await.unwrap();
    let_clone_go_on.send(()).unwrap();
    assert_eq!(making.await.unwrap(), [Ok(())]);
    // The brain was told already that the hold has ended: it hears of the removal after that.
    let_removal_go_on.send(()).unwrap();

    let ended = async {
        loop {
            if let Some(ended) = queue.result(ids[0]).unwrap() {
                break ended;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        works = engine.next(1) => {
            let keys: Vec<&Dispatch> = works.iter().collect();
            panic!("a mover is to remove what the clone names: {keys:?}");
        }
        ended = tokio::time::timeout(PATIENCE, ended) => assert_eq!(ended.unwrap().result, Ok(())),
    }
    assert!(loop_fs.path().join("clone").exists());
    engine.stop();
}
