use super::*;
use crate::filesystem::handle_of;
use crate::state::FileState;
use model::{ErrorKind, HsmFlags, HsmState};
use queue::{About, Change, MemoryQueue, NewAction, ObjectRef, Retired};
use std::fs::File;
use testkit::{FsKind, LoopFs};

const NOW_MS: u64 = 100;
const DOUBTED: ActionId = ActionId(3);

struct Fixture {
    loop_fs: LoopFs,
    fs: Filesystem,
    queue: MemoryQueue,
}

impl Fixture {
    fn new() -> Self {
        let loop_fs = LoopFs::new(FsKind::Ext4, 0);
        let fs = Filesystem::at(&loop_fs.path()).unwrap();
        Self { fs, queue: MemoryQueue::new(), loop_fs }
    }

    /// A file that names this object.
    fn file(&self, name: &str, uuid: &str) -> FileHandle {
        let file = File::create_new(self.loop_fs.path().join(name)).unwrap();
        let flags = HsmFlags::EXISTS.with(HsmFlags::ARCHIVED);
        let hsm = HsmState { flags, archive_id: 1, ..HsmState::default() };
        let identity = Identity { uuid: uuid.into(), ..Identity::default() };
        FileState { hsm, identity, record: None }.write(&file).unwrap();
        handle_of(&file).unwrap()
    }

    fn share(&self, uuid: &str, complete: bool, files: Vec<FileHandle>) {
        let object = ObjectRef { archive_id: 1, uuid: uuid.into(), url: String::new() };
        self.queue.apply(&[Change::Share { object, complete, files }]).unwrap();
    }

    fn pass(&self, removals: Vec<Removal>) -> Vec<Vec<(u64, Prepared)>> {
        let gate = Gate { fs: &self.fs, queue: &self.queue, doubted: DOUBTED, now_ms: NOW_MS };
        let mut told = Vec::new();
        gate.pass(removals, |some| told.push(some));
        told
    }
}

fn removal(key: u64, uuid: &str) -> Removal {
    Removal { key, archive_id: 1, identity: Identity { uuid: uuid.into(), url: "url".into(), hash: None } }
}

fn new_action() -> NewAction {
    crate::engine::removal_action(1, Identity::default(), String::new(), 0)
}

fn waiting(uuid: &str, until_ms: u64, file: FileHandle) -> Change {
    let identity = Identity { uuid: uuid.into(), ..Identity::default() };
    let removal = NewAction { identity, not_before_ms: until_ms, ..new_action() };
    let retired = Retired { replaced: false, file, about: About::default(), retired_ms: 0 };
    Change::Retire { removal, retired }
}

fn outcome(prepared: &Prepared) -> &'static str {
    match prepared {
        Prepared::Run(None, _) => "removed",
        Prepared::Done(_) => "kept",
        Prepared::Failed(Failure { kind: ErrorKind::Permanent, errno: EBUSY, .. }) => "unproven",
        _ => "?",
    }
}

#[test]
fn p7_each_object_of_a_group_has_its_own_answer() {
    let fixture = Fixture::new();
    let (named, other) = (fixture.file("named", "shared"), fixture.file("other", "later"));
    let lost = fixture.file("lost", "left");
    std::fs::remove_file(fixture.loop_fs.path().join("lost")).unwrap();
    fixture.share("shared", true, vec![lost.clone(), other.clone(), named.clone()]);
    fixture.share("left", true, vec![lost.clone(), other.clone()]);
    fixture.share("doubtful", false, vec![other.clone()]);
    fixture.share("doubtful and named", false, vec![fixture.file("doubtful", "doubtful and named")]);
    let retired = [waiting("graced", NOW_MS + 1, named.clone()), waiting("due", NOW_MS, named)];
    fixture.queue.apply(&retired).unwrap();
    let group = [
        (10, "plain"),
        (11, "shared"),
        (12, "graced"),
        (13, "doubtful"),
        (14, "due"),
        (15, "left"),
        (16, "doubtful and named"),
        (17, ""),
        (DOUBTED.0, "plain too"),
        (18, "plain three"),
    ];
    let told = fixture.pass(group.iter().map(|(key, uuid)| removal(*key, uuid)).collect());
    let told: Vec<Vec<_>> =
        told.iter().map(|some| some.iter().map(|(key, prepared)| (*key, outcome(prepared))).collect()).collect();
    let at_once =
        vec![(10, "removed"), (12, "kept"), (14, "removed"), (17, "removed"), (DOUBTED.0, "unproven"), (18, "removed")];
    let looked = [(11, "kept"), (13, "unproven"), (15, "removed"), (16, "kept")].map(|one| vec![one]);
    assert_eq!(told, [vec![at_once], looked.to_vec()].concat());
}

#[test]
fn p7_an_action_does_not_wait_for_itself_but_for_others() {
    let fixture = Fixture::new();
    let file = fixture.file("file", "");
    let waits = [1, NOW_MS + 1].map(|until_ms| waiting("twice", until_ms, file.clone()));
    fixture.queue.apply(&(0..DOUBTED.0).map(|_| waiting("x", 0, file.clone())).collect::<Vec<_>>()).unwrap();
    fixture.queue.apply(&waits).unwrap();
    let ids: Vec<u64> = fixture.queue.retired_object(1, "twice", 9).unwrap().iter().map(|found| found.id.0).collect();
    let told = fixture.pass(ids.iter().map(|id| removal(*id, "twice")).collect());
    let outcomes: Vec<_> = told.iter().flatten().map(|(_, prepared)| outcome(prepared)).collect();
    assert_eq!(outcomes, ["kept", "removed"]);
}

#[test]
fn p7_a_file_on_a_later_page_counts() {
    let fixture = Fixture::new();
    let handles = |count: u64| {
        (0..count).map(|n| FileHandle::from_bytes(&[&[1, 0, 0, 0][..], &n.to_be_bytes()].concat()).unwrap())
    };
    let many = u64::try_from(PAGE).unwrap() * 2;
    fixture.share("gone", true, handles(many).collect());
    fixture.share("named", true, handles(many).chain([fixture.file("file", "named")]).collect());
    let told = fixture.pass(vec![removal(10, "gone"), removal(11, "named")]);
    let outcomes: Vec<_> = told.iter().flatten().map(|(key, prepared)| (*key, outcome(prepared))).collect();
    assert_eq!(outcomes, [(10, "removed"), (11, "kept")]);
}
