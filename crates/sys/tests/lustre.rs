//! liblustreapi's safe wrapper, against a library that behaves as Lustre's.

#![allow(clippy::unwrap_used, reason = "the lints do not see that functions beside tests belong to them")]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lustre_standin::{Root, Status, control, shared_object};
use model::{Extent, Fid, HsmFlags, Timestamp};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{FdFlags, fcntl_getfd};
use sifaka_sys::lustre::{
    Action, ActionList, Begin, Changelog, CopyAction, Copytool, Damage, Flush, Handle, Import, Item, LayoutLease,
    LeaseMode, Library, ProgressFlags, RecordKind, Request, UserAction, current_action, data_version, fid2path, import,
    mdt_index_by_fid, path2fid, request, state, state_set,
};
use tempfile::TempDir;

/// Longer than any step takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A filesystem, and the library.
struct Lustre {
    library: Library,
    root: Root,
    top: PathBuf,
    fsname: String,
    _directory: TempDir,
}

impl Lustre {
    fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        let fsname = format!("t{:x}", std::process::id());
        let root = Root::make(&top, &fsname).unwrap();
        let library = Library::load_from(&shared_object()).unwrap();
        Self { library, root, top, fsname, _directory: directory }
    }

    fn mdt(&self) -> String {
        format!("{}-MDT0000", self.fsname)
    }

    /// A file, and its FID.
    fn file(&self, name: &str, content: &[u8]) -> (PathBuf, Fid) {
        let path = self.top.join(name);
        fs::write(&path, content).unwrap();
        let fid = path2fid(&self.library, &path).unwrap();
        (path, fid)
    }

    fn register(&self) -> Copytool {
        Copytool::register(&self.library, &self.top, &[1]).unwrap()
    }

    fn ask(&self, action: UserAction, fids: &[Fid], data: &[u8]) {
        let items: Vec<_> = fids.iter().map(|fid| (*fid, Extent::WHOLE)).collect();
        let asked = Request { action, archive_id: 1, flags: 0, items: &items, data };
        request(&self.library, &self.top, &asked).unwrap();
    }

    /// Archives and releases a file of `content`.
    fn released(&self, copytool: &mut Copytool, name: &str, content: &[u8]) -> (PathBuf, Fid) {
        let (path, fid) = self.file(name, content);
        self.ask(UserAction::Archive, &[fid], b"");
        let item = next_item(copytool);
        begin(&copytool.handle(), &item).end(Extent::WHOLE, ProgressFlags::default(), 0).unwrap();
        self.ask(UserAction::Release, &[fid], b"");
        assert!(state(&self.library, &path).unwrap().flags.contains(HsmFlags::RELEASED));
        (path, fid)
    }

    fn status(&self, cookie: u64) -> (Status, i32) {
        let requests = control::requests(&self.root).unwrap();
        let found = requests.iter().find(|request| request.cookie == cookie && request.action != 23).unwrap();
        (found.status, found.errno)
    }
}

fn readable(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let timeout = Timespec::try_from(patience).unwrap();
    rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

fn next_list(copytool: &mut Copytool) -> ActionList {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(list) = copytool.recv().unwrap() {
            return list;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "no list came");
        readable(copytool.as_fd(), left);
    }
}

fn next_item(copytool: &mut Copytool) -> Item {
    let list = next_list(copytool);
    assert_eq!((list.items.len(), list.damage), (1, None));
    list.items[0].clone()
}

fn begin(handle: &Handle, item: &Item) -> CopyAction {
    CopyAction::begin(handle, item, Begin::default()).unwrap()
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn a_path_elsewhere_is_not_on_lustre() {
    let lustre = Lustre::make();
    let elsewhere = tempfile::tempdir().unwrap();
    assert_eq!(errno(path2fid(&lustre.library, elsewhere.path())), libc::ENOTTY);
}

#[test]
fn a_file_is_archived_released_and_restored() {
    let lustre = Lustre::make();
    let mut copytool = lustre.register();
    assert_eq!(copytool.recv().unwrap(), None, "with nothing there it does not wait");
    let (path, fid) = lustre.file("file", b"content");
    lustre.ask(UserAction::Archive, &[fid], b"a mover's data");
    assert!(readable(copytool.as_fd(), PATIENCE));
    let list = next_list(&mut copytool);
    assert_eq!((list.fsname.as_str(), list.archive_id), (lustre.fsname.as_str(), 1));
    let item = list.items[0].clone();
    assert_eq!(
        (item.action(), item.fid(), item.extent(), item.data()),
        (Action::Archive, fid, Extent::WHOLE, &b"a mover's data"[..])
    );
    // As a new process does with the journal of an old one.
    let item = Item::from_bytes(item.as_bytes()).unwrap();

    let mut action = begin(&copytool.handle(), &item);
    let current = current_action(&lustre.library, &path).unwrap();
    assert_eq!((current.action, current.state), (Some(UserAction::Archive), 2));
    let mut read = String::new();
    File::from(action.fd().unwrap()).read_to_string(&mut read).unwrap();
    assert_eq!(read, "content");
    assert_eq!(action.dfid().unwrap(), fid);
    action.progress(Extent { offset: 0, length: 7 }, 7, ProgressFlags::default()).unwrap();
    action.end(Extent { offset: 0, length: 7 }, ProgressFlags::default(), 0).unwrap();
    assert_eq!(lustre.status(item.cookie()), (Status::Succeeded, 0));
    let archived = HsmFlags::EXISTS.with(HsmFlags::ARCHIVED);
    let now = state(&lustre.library, &path).unwrap();
    assert_eq!((now.flags, now.archive_id), (archived, 1));
    assert_eq!(current_action(&lustre.library, &path).unwrap().action, None);

    lustre.ask(UserAction::Release, &[fid], b"");
    assert_eq!(state(&lustre.library, &path).unwrap().flags, archived.with(HsmFlags::RELEASED));
    lustre.ask(UserAction::Restore, &[fid], b"");
    let item = next_item(&mut copytool);
    let options = Begin { mdt_index: Some(0), delay_layout: true };
    let action = CopyAction::begin(&copytool.handle(), &item, options).unwrap();
    assert_ne!(action.dfid().unwrap(), fid, "a restore writes to a file of its own");
    File::from(action.fd().unwrap()).write_all(b"content").unwrap();
    action.end(Extent::WHOLE, ProgressFlags::default(), 0).unwrap();
    assert_eq!(state(&lustre.library, &path).unwrap().flags, archived);
    assert_eq!(fs::read(&path).unwrap(), b"content");
}

#[test]
fn an_action_that_is_dropped_has_ended_with_eio_and_one_that_cannot_begin_fails_with_its_reason() {
    let lustre = Lustre::make();
    let mut copytool = lustre.register();
    let (path, fid) = lustre.file("file", b"content");
    lustre.ask(UserAction::Archive, &[fid], b"");
    let item = next_item(&mut copytool);
    drop(begin(&copytool.handle(), &item));
    assert_eq!(lustre.status(item.cookie()), (Status::Failed, libc::EIO));

    lustre.ask(UserAction::Archive, &[fid], b"");
    let item = next_item(&mut copytool);
    fs::remove_file(path).unwrap();
    let fids = lustre.root.fids().join(fid.to_string());
    fs::remove_file(fids).unwrap();
    assert_eq!(errno(CopyAction::begin(&copytool.handle(), &item, Begin::default())), libc::ENOENT);
    CopyAction::fail(&copytool.handle(), &item, libc::ENOENT, ProgressFlags::default()).unwrap();
    assert_eq!(lustre.status(item.cookie()), (Status::Failed, libc::ENOENT));
}

#[test]
fn an_end_that_fails_is_an_end() {
    let lustre = Lustre::make();
    let mut copytool = lustre.register();
    let (_, fid) = lustre.file("file", b"content");
    lustre.ask(UserAction::Archive, &[fid], b"");
    let action = begin(&copytool.handle(), &next_item(&mut copytool));
    control::fail(&lustre.root, "llapi_hsm_action_end", libc::EAGAIN, Some(1)).unwrap();
    // A second end would end this process.
    assert_eq!(errno(action.end(Extent::WHOLE, ProgressFlags::default(), 0)), libc::EAGAIN);
}

#[test]
fn a_canceled_action_hears_of_it() {
    let lustre = Lustre::make();
    let mut copytool = lustre.register();
    let (_, fid) = lustre.file("file", b"content");
    lustre.ask(UserAction::Archive, &[fid], b"");
    let item = next_item(&mut copytool);
    let mut action = begin(&copytool.handle(), &item);
    lustre.ask(UserAction::Cancel, &[fid], b"");
    let cancel = next_item(&mut copytool);
    assert_eq!((cancel.action(), cancel.cookie(), cancel.fid()), (Action::Cancel, item.cookie(), fid));
    let progress = action.progress(Extent { offset: 0, length: 1 }, 7, ProgressFlags::default());
    assert_eq!(errno(progress), libc::ECANCELED);
    action.end(Extent::WHOLE, ProgressFlags::default(), libc::ECANCELED).unwrap();
    assert_eq!(lustre.status(item.cookie()).0, Status::Canceled);
}

#[test]
fn actions_run_on_other_threads_while_this_one_receives() {
    let lustre = Lustre::make();
    control::set(&lustre.root, "max_requests", "100").unwrap();
    let mut copytool = lustre.register();
    let fids: Vec<_> = (0..40).map(|n| lustre.file(&format!("file{n}"), b"content").1).collect();
    std::thread::scope(|scope| {
        for some in fids.chunks(10) {
            lustre.ask(UserAction::Archive, some, b"");
            for item in next_list(&mut copytool).items {
                let handle = copytool.handle();
                scope.spawn(move || {
                    let action = begin(&handle, &item);
                    action.end(Extent::WHOLE, ProgressFlags::default(), 0).unwrap();
                });
            }
        }
    });
    let requests = control::requests(&lustre.root).unwrap();
    assert_eq!(requests.iter().filter(|request| request.status == Status::Succeeded).count(), 40);
}

#[test]
fn what_is_behind_a_list_that_came_in_parts_is_not_lost_and_nothing_more_is_sent() {
    let lustre = Lustre::make();
    let mut copytool = lustre.register();
    let fids: Vec<Fid> = (0..3).map(|n| lustre.file(&format!("file{n}"), b"content").1).collect();
    fids[..2].iter().for_each(|fid| lustre.ask(UserAction::Archive, &[*fid], b""));
    control::fail(&lustre.root, "short_read", libc::EPROTO, Some(1)).unwrap();
    assert_eq!(errno(copytool.recv()), libc::EPROTO);
    let handle = copytool.handle();
    let lists = copytool.hang_up();
    assert_eq!(lists.iter().flat_map(|list| &list.items).map(Item::fid).collect::<Vec<_>>(), fids[1..2]);
    lustre.ask(UserAction::Archive, &fids[2..], b"");
    assert_eq!(control::clients(&lustre.root).unwrap().len(), 0, "to the coordinator it is as good as dead");
    assert_eq!(control::requests(&lustre.root).unwrap()[2].status, Status::Waiting);
    assert_eq!(copytool.recv().ok().flatten(), None);
    // What runs can still be ended.
    begin(&handle, &lists[0].items[0]).end(Extent::WHOLE, ProgressFlags::default(), 0).unwrap();
    let copytool = copytool.leave().unwrap_err();
    drop(handle);
    assert_eq!(copytool.leave().unwrap(), []);
}

#[test]
fn the_agent_is_registered_until_the_last_action_is_gone_but_hangs_up_at_once() {
    let lustre = Lustre::make();
    let mut copytool = lustre.register();
    assert_eq!(control::clients(&lustre.root).unwrap().len(), 1);
    let (_, fid) = lustre.file("file", b"content");
    lustre.ask(UserAction::Archive, &[fid], b"");
    let item = next_item(&mut copytool);
    let action = begin(&copytool.handle(), &item);
    drop(copytool);
    control::take_turn(&lustre.root).unwrap();
    assert_eq!(control::clients(&lustre.root).unwrap().len(), 0, "to the coordinator it is as good as dead");
    // The library's handle is there: it would end this process otherwise.
    action.end(Extent::WHOLE, ProgressFlags::default(), 0).unwrap();
    assert_eq!(lustre.status(item.cookie()), (Status::Succeeded, 0));
    let mut copytool = lustre.register();
    let (_, fid) = lustre.file("another", b"content");
    lustre.ask(UserAction::Archive, &[fid], b"");
    assert_eq!(next_item(&mut copytool).fid(), fid);
    drop(copytool);
    assert_eq!(control::clients(&lustre.root).unwrap().len(), 0);
}

#[test]
fn no_descriptor_of_a_copytool_or_an_action_goes_to_programs() {
    let lustre = Lustre::make();
    let inheritable = || -> Vec<PathBuf> {
        let all = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
        let number = |path: &Path| path.file_name().unwrap().to_str().unwrap().parse::<i32>().unwrap();
        let all = all.filter(|path| number(path) > 2);
        let inherited = all.filter(|path| {
            // SAFETY: only asked for its flags; EBADF when it is closed.
            let fd = unsafe { BorrowedFd::borrow_raw(number(path)) };
            fcntl_getfd(fd).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC))
        });
        inherited.filter_map(|path| fs::read_link(path).ok()).collect()
    };
    let before = inheritable();
    let mut copytool = lustre.register();
    assert_eq!(inheritable(), before);
    let (_, fid) = lustre.file("file", b"content");
    lustre.ask(UserAction::Archive, &[fid], b"");
    let action = begin(&copytool.handle(), &next_item(&mut copytool));
    let fd = action.fd().unwrap();
    assert!(fcntl_getfd(&fd).unwrap().contains(FdFlags::CLOEXEC), "{}", fd.as_raw_fd());
}

#[test]
fn a_damaged_list_gives_what_is_whole_in_it() {
    let lustre = Lustre::make();
    let mut copytool = lustre.register();
    let fid = Fid { seq: 0x2_0000_0401, oid: 1, ver: 0 };
    let item = Item::new(Action::Unknown(77), fid, fid, Extent::WHOLE, 5, 0, b"12345678").unwrap();
    let mut list = Vec::new();
    for number in [1_u32, 3, 0, 0, 0, 0, 1, 0] {
        list.extend(number.to_le_bytes());
    }
    list.extend(b"fs\0\0\0\0\0\0");
    list.extend(item.as_bytes());
    list.extend(&item.as_bytes()[..30]);
    control::inject(&lustre.root, &list).unwrap();
    let list = next_list(&mut copytool);
    assert_eq!(list.items, [item]);
    assert_eq!(list.damage, Some(Damage::ItemLength { index: 1, says: 80, left: 30 }));
    assert_eq!(copytool.recv().unwrap(), None);
}

#[test]
fn a_request_for_many_files_goes_in_parts() {
    let lustre = Lustre::make();
    let mut copytool = lustre.register();
    control::set(&lustre.root, "max_requests", "500").unwrap();
    let fids: Vec<_> = (0..120).map(|n| lustre.file(&format!("file{n}"), b"x").1).collect();
    lustre.ask(UserAction::Archive, &fids, b"data");
    let mut asked = Vec::new();
    while asked.len() < fids.len() {
        let list = next_list(&mut copytool);
        assert_eq!(list.damage, None);
        asked.extend(list.items.iter().map(Item::fid));
    }
    assert_eq!(asked, fids);
}

#[test]
fn a_request_says_how_much_of_it_was_accepted() {
    let lustre = Lustre::make();
    let (_, fid) = lustre.file("file", b"x");
    let gone = Fid { oid: 0xffff, ..fid };
    let mut items = vec![(fid, Extent::WHOLE); 50];
    items.push((gone, Extent::WHOLE));
    let asked = Request { action: UserAction::Restore, archive_id: 0, flags: 0, items: &items, data: b"" };
    let state = HsmFlags::EXISTS.with(HsmFlags::ARCHIVED);
    state_set(&lustre.library, &lustre.top.join("file"), state, HsmFlags::empty(), 1).unwrap();
    let error = request(&lustre.library, &lustre.top, &asked).unwrap_err();
    assert_eq!((error.accepted, error.source.raw_os_error()), (50, Some(libc::ENOENT)));
}

#[test]
fn names_states_and_versions_of_files() {
    let lustre = Lustre::make();
    let library = &lustre.library;
    let (path, fid) = lustre.file("file", b"content");
    assert_eq!(fid2path(library, &lustre.top, fid, 0).unwrap(), Path::new("file"));
    assert_eq!(errno(fid2path(library, &lustre.top, Fid { oid: 0xffff, ..fid }, 0)), libc::ENOENT);
    let file = File::options().append(true).open(&path).unwrap();
    assert_eq!(mdt_index_by_fid(library, &file, fid).unwrap(), 0);
    let version = data_version(library, &file, Flush::Dirty).unwrap();
    assert_eq!(data_version(library, &file, Flush::Dirty).unwrap(), version);
    (&file).write_all(b"more").unwrap();
    assert_ne!(data_version(library, &file, Flush::All).unwrap(), version);
    let lost = HsmFlags::EXISTS.with(HsmFlags::ARCHIVED).with(HsmFlags::LOST);
    state_set(library, &path, lost, HsmFlags::empty(), 3).unwrap();
    let now = state(library, &path).unwrap();
    assert!(now.flags.contains(lost) && now.archive_id == 3);
    state_set(library, &path, HsmFlags::empty(), HsmFlags::LOST, 0).unwrap();
    let now = state(library, &path).unwrap();
    assert!(!now.flags.contains(HsmFlags::LOST) && now.archive_id == 3);
}

#[test]
fn an_imported_file_is_as_it_was_described() {
    use std::os::unix::fs::MetadataExt;
    let lustre = Lustre::make();
    let path = lustre.top.join("imported");
    let file = Import {
        archive_id: 2,
        size: 1 << 40,
        uid: 12,
        gid: 34,
        permissions: 0o640,
        atime: Timestamp { seconds: 1_600_000_000, nanos: 1 },
        mtime: Timestamp { seconds: 1_500_000_000, nanos: 2 },
        ..Import::default()
    };
    let fid = import(&lustre.library, &path, &file).unwrap();
    assert_eq!(path2fid(&lustre.library, &path).unwrap(), fid);
    let made = fs::metadata(&path).unwrap();
    assert_eq!((made.len(), made.uid(), made.gid(), made.mode()), (1 << 40, 12, 34, 0o100_640));
    assert_eq!((made.mtime(), made.mtime_nsec()), (1_500_000_000, 2));
    let now = state(&lustre.library, &path).unwrap();
    assert!(now.flags.contains(HsmFlags::RELEASED) && now.archive_id == 2);
    assert_eq!(errno(import(&lustre.library, &path, &file)), libc::EEXIST);
    let special = Import { permissions: 0o6750, ..file };
    let path = lustre.top.join("special");
    import(&lustre.library, &path, &special).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode(), 0o106_750, "the library itself keeps nine bits");
}

#[test]
fn an_import_touches_nothing_that_is_there() {
    let lustre = Lustre::make();
    let file = Import { archive_id: 1, size: 5, permissions: 0o600, ..Import::default() };
    let [directory, empty, link] = ["directory", "empty", "link"].map(|name| lustre.top.join(name));
    fs::create_dir(&directory).unwrap();
    File::create(&empty).unwrap();
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    for path in [&directory, &empty, &link] {
        assert_eq!(errno(import(&lustre.library, path, &file)), libc::EEXIST, "{}", path.display());
    }
    let lost = sifaka_sys::xattr::get(File::open(&directory).unwrap(), lustre_standin::import::LAYOUT_LOST).unwrap();
    assert_eq!(lost, None);
    assert_eq!(fs::metadata(&empty).unwrap().len(), 0);
    assert!(!lustre.top.join("nowhere").exists());
}

#[test]
fn an_open_file_has_one_lease_and_a_resync_takes_its_own() {
    let lustre = Lustre::make();
    let (path, _) = lustre.file("file", b"content");
    let open = || File::options().read(true).write(true).open(&path).unwrap();
    let lease = LayoutLease::acquire(&lustre.library, open(), LeaseMode::Write).unwrap();
    for mode in [LeaseMode::Read, LeaseMode::Write] {
        assert_eq!(errno(LayoutLease::acquire(&lustre.library, &lease, mode)), libc::EBUSY);
    }
    assert_eq!(errno(LayoutLease::acquire_for_resync(&lustre.library, &lease)), libc::EBUSY);
    assert!(lease.still_held().unwrap());
    lease.release().unwrap();
    let file = open();
    assert_eq!(errno(LayoutLease::acquire_for_resync(&lustre.library, &file)), libc::EINVAL, "it has one mirror");
    // The lease of the resync that did not begin is gone.
    LayoutLease::acquire(&lustre.library, &file, LeaseMode::Write).unwrap().release().unwrap();
}

#[test]
fn what_waits_has_no_bytes_done() {
    let lustre = Lustre::make();
    let (path, fid) = lustre.file("file", b"content");
    lustre.ask(UserAction::Archive, &[fid], b"");
    let current = current_action(&lustre.library, &path).unwrap();
    assert_eq!((current.action, current.is_running()), (Some(UserAction::Archive), false));
    assert_eq!((current.extent, current.bytes_done()), (Extent::WHOLE, 0));
}

#[test]
fn errors_of_the_library_come_with_their_number() {
    let lustre = Lustre::make();
    let (path, fid) = lustre.file("file", b"content");
    let fail = |function: &str| control::fail(&lustre.root, function, libc::ESTALE, None).unwrap();
    fail("llapi_hsm_copytool_register");
    assert_eq!(errno(Copytool::register(&lustre.library, &lustre.top, &[])), libc::ESTALE);
    control::heal(&lustre.root, "llapi_hsm_copytool_register").unwrap();
    let mut copytool = lustre.register();
    lustre.ask(UserAction::Archive, &[fid], b"");
    let item = next_item(&mut copytool);
    for function in ["llapi_hsm_copytool_recv", "llapi_hsm_action_begin", "llapi_hsm_state_get", "llapi_path2fid"] {
        fail(function);
    }
    assert_eq!(errno(copytool.recv()), libc::ESTALE);
    assert_eq!(errno(CopyAction::begin(&copytool.handle(), &item, Begin::default())), libc::ESTALE);
    assert_eq!(errno(state(&lustre.library, &path)), libc::ESTALE);
    assert_eq!(errno(path2fid(&lustre.library, &path)), libc::ESTALE);
    let nul = Path::new("a\0b");
    assert_eq!(errno(path2fid(&lustre.library, nul)), libc::EINVAL);
}

#[test]
fn a_changelog_is_read_from_where_it_was_cleared() {
    let lustre = Lustre::make();
    let user = control::register_changelog_user(&lustre.root).unwrap();
    let mut copytool = lustre.register();
    let (path, fid) = lustre.released(&mut copytool, "file", b"content");
    control::log(&path, 17, 0).unwrap();
    fs::rename(&path, lustre.top.join("renamed")).unwrap();
    control::log_rename(&lustre.top.join("renamed"), &lustre.top, b"file").unwrap();

    let mut log = Changelog::start(&lustre.library, &lustre.mdt(), 0, false).unwrap();
    let mut records = Vec::new();
    while let Some(record) = log.recv().unwrap() {
        assert_eq!(record.damage, None);
        records.push(record);
    }
    assert_eq!(log.recv().unwrap(), None, "the end stays the end");
    let hsm = records.iter().filter_map(|record| record.hsm()).map(|event| event.event);
    assert!(hsm.clone().any(|event| event == 0) && hsm.clone().any(|event| event == 3), "{records:?}");
    assert!(records.iter().any(|record| record.kind == RecordKind::Mtime && record.target == fid));
    let rename = records.last().unwrap();
    assert_eq!((rename.kind, rename.name.to_str()), (RecordKind::Rename, Some("renamed")));
    let from = rename.renamed_from.as_ref().unwrap();
    assert_eq!((from.fid, from.name.to_str()), (fid, Some("file")));

    let last = rename.index;
    Changelog::clear(&lustre.library, &lustre.mdt(), &user, last - 1).unwrap();
    let mut log = Changelog::start(&lustre.library, &lustre.mdt(), 0, false).unwrap();
    assert_eq!(log.recv().unwrap().map(|record| record.index), Some(last));
    let clear = Changelog::clear(&lustre.library, &lustre.mdt(), "cl99", last);
    assert_eq!(errno(clear), libc::ENOENT);
}

#[test]
fn a_changelog_that_is_followed_says_when_there_is_more() {
    let lustre = Lustre::make();
    control::register_changelog_user(&lustre.root).unwrap();
    let (path, fid) = lustre.file("file", b"content");
    let mut log = Changelog::start(&lustre.library, &lustre.mdt(), 0, true).unwrap();
    assert!(!log.buffered().unwrap());
    control::log(&path, 11, 0).unwrap();
    assert!(readable(log.as_fd(), PATIENCE));
    let record = log.recv().unwrap().unwrap();
    assert_eq!((record.kind, record.target), (RecordKind::Close, fid));
}
