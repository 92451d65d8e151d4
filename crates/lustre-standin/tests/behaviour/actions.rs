//! Archive, restore, remove and cancel, as agents carry them out.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use lustreapi_standin::abi::{CurrentAction, Extent, action};
use lustreapi_standin::copyaction::llapi_hsm_action_end;
use lustreapi_standin::user::llapi_hsm_current_action;
use lustreapi_standin::{Status, control};

use crate::kit::{Agent, Item, PATIENCE, Site, c, has_data};

fn asked(site: &Site, agent: &Agent, kind: u32, path: &std::path::Path) -> Item {
    assert_eq!(site.ask(kind, &[site.fid(path)]), 0);
    agent.receive().unwrap().remove(0)
}

#[test]
fn archive_release_and_restore() {
    let site = Site::new();
    let path = site.archived("f", b"content");
    assert_eq!(site.states(&path), 0x9);
    let before = fs::metadata(&path).unwrap();
    let agent = Agent::register(site.root.top());
    assert_eq!(site.ask(12, &[site.fid(&path)]), 0);
    assert_eq!(site.states(&path), 0xd);
    let released = fs::metadata(&path).unwrap();
    assert_eq!((released.len(), released.mtime_nsec(), has_data(&path)), (7, before.mtime_nsec(), false));
    let item = asked(&site, &agent, 11, &path);
    assert_eq!((item.head.action, item.list_flags), (action::RESTORE, 0));
    let restore = agent.begin(&item).unwrap();
    restore.write(b"content");
    assert_eq!(restore.progress(0, 7), 0);
    assert_eq!(restore.end(0), 0);
    assert_eq!(fs::read(&path).unwrap(), b"content");
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.ino(), after.mtime_nsec()), (before.ino(), before.mtime_nsec()));
    assert_eq!(site.states(&path), 0x9);
}

#[test]
fn a_reader_is_blocked_until_the_restore_and_gets_enodata_when_it_fails() {
    for (errno, expected) in [(0, Ok(b"content".to_vec())), (libc::EIO, Err(libc::ENODATA))] {
        let site = Site::new();
        let path = site.released("f", b"content");
        let agent = Agent::register(site.root.top());
        let reader = std::thread::spawn({
            let path = path.clone();
            move || control::read(&path, PATIENCE).map_err(|error| error.0)
        });
        control::wait_for(&site.root, PATIENCE, |requests| requests.len() == 2).unwrap();
        let item = agent.receive().unwrap().remove(0);
        assert_eq!(item.list_flags, 4);
        let restore = agent.begin(&item).unwrap();
        restore.write(b"content");
        assert_eq!(restore.end(errno), 0);
        assert_eq!(reader.join().unwrap(), expected);
    }
}

#[test]
fn a_short_restore_is_accepted_and_cuts_the_file() {
    for len in [1000, 0] {
        let site = Site::new();
        let path = site.released("f", &[7; 5000]);
        let agent = Agent::register(site.root.top());
        let restore = agent.begin(&asked(&site, &agent, 11, &path)).unwrap();
        restore.write(&vec![7; len]);
        assert_eq!(restore.end(0), 0);
        assert_eq!((fs::metadata(&path).unwrap().len(), site.states(&path)), (len as u64, 0x9));
    }
}

#[test]
fn a_hole_is_restored_as_one() {
    let site = Site::new();
    let path = site.released("f", b"x");
    let agent = Agent::register(site.root.top());
    let restore = agent.begin(&asked(&site, &agent, 11, &path)).unwrap();
    restore.file().set_len(10 << 30).unwrap();
    assert_eq!(restore.end(0), 0);
    assert_eq!((fs::metadata(&path).unwrap().len(), has_data(&path)), (10 << 30, false));
}

#[test]
fn a_second_volatile_file_after_progress_is_refused() {
    let site = Site::new();
    let path = site.released("f", b"content");
    let agent = Agent::register(site.root.top());
    let item = asked(&site, &agent, 11, &path);
    let first = agent.begin(&item).unwrap();
    // Without progress, a second would do.
    assert_eq!(first.progress(0, 3), 0);
    let second = agent.begin(&item).unwrap();
    assert_eq!(second.progress(0, 3), -libc::EINVAL);
    assert_eq!(second.end(0), -libc::EINVAL);
    assert_eq!(agent.begin_failed(&item).unwrap().end(libc::EIO), 0);
    assert_eq!(site.requests()[1].errno, libc::EIO);
    assert_eq!(site.states(&path), 0xd);
}

#[test]
fn modified_while_archived_is_busy_and_dirty() {
    let site = Site::new();
    let path = site.file("f", b"content");
    let agent = Agent::register(site.root.top());
    let archive = agent.begin(&asked(&site, &agent, 10, &path)).unwrap();
    fs::write(&path, b"other content").unwrap();
    assert_eq!(archive.end(0), -libc::EBUSY);
    assert_eq!(site.states(&path), 0x3);
    assert_eq!((site.requests()[0].status, site.requests()[0].errno), (Status::Failed, libc::EBUSY));
}

#[test]
fn a_cancel_has_the_cookie_of_its_action() {
    let site = Site::new();
    let path = site.file("f", b"content");
    let agent = Agent::register(site.root.top());
    let item = asked(&site, &agent, 10, &path);
    let archive = agent.begin(&item).unwrap();
    let cancel = asked(&site, &agent, 14, &path);
    assert_eq!((cancel.head.action, cancel.head.cookie, cancel.head.fid), (23, item.head.cookie, item.head.fid));
    assert_eq!(archive.progress(0, 1), -libc::ECANCELED);
    assert_eq!(agent.begin(&item).err(), Some(-libc::ECANCELED));
    assert_eq!(archive.end(libc::ECANCELED), 0);
    assert_eq!(site.statuses(), [Status::Canceled, Status::Succeeded]);
    assert_eq!(site.states(&path) & 0x8, 0);
}

#[test]
fn a_cancel_may_come_with_its_action_in_one_list() {
    let site = Site::new();
    site.set("hsm_control", "disabled");
    let path = site.file("f", b"content");
    let agent = Agent::register(site.root.top());
    assert_eq!(site.ask(10, &[site.fid(&path)]), 0);
    assert_eq!(site.ask(14, &[site.fid(&path)]), 0);
    site.set("hsm_control", "enabled");
    let items = agent.receive().unwrap();
    assert_eq!(items.iter().map(|item| item.head.action).collect::<Vec<_>>(), [20, 23]);
    assert_eq!(agent.begin(&items[0]).err(), Some(-libc::ECANCELED));
    assert_eq!(agent.begin_failed(&items[0]).unwrap().end(libc::ECANCELED), 0);
    assert_eq!(site.statuses(), [Status::Canceled, Status::Succeeded]);
}

#[test]
fn success_after_a_cancel_is_recorded_canceled_and_archives_all_the_same() {
    let site = Site::new();
    let path = site.file("f", b"content");
    let agent = Agent::register(site.root.top());
    let archive = agent.begin(&asked(&site, &agent, 10, &path)).unwrap();
    asked(&site, &agent, 14, &path);
    assert_eq!(archive.end(0), 0);
    assert_eq!(site.statuses()[0], Status::Canceled);
    assert_eq!(site.states(&path), 0x9);
}

#[test]
fn an_agent_that_cannot_cancel_says_so() {
    let site = Site::new();
    let path = site.file("f", b"content");
    let agent = Agent::register(site.root.top());
    let archive = agent.begin(&asked(&site, &agent, 10, &path)).unwrap();
    asked(&site, &agent, 14, &path);
    assert_eq!(archive.end(libc::ENOSYS), 0);
    assert_eq!(site.statuses()[1], Status::Failed);
}

#[test]
fn unlinked_before_begin_is_not_there_and_after_it_does_not_matter() {
    let site = Site::new();
    let agent = Agent::register(site.root.top());
    let (early, late) = (site.file("early", b"content"), site.file("late", b"content"));
    let (first, second) = (asked(&site, &agent, 10, &early), asked(&site, &agent, 10, &late));
    fs::remove_file(&early).unwrap();
    assert_eq!(agent.begin(&first).err(), Some(-libc::ENOENT));
    assert_eq!(agent.begin_failed(&first).unwrap().end(libc::ENOENT), 0);
    let archive = agent.begin(&second).unwrap();
    fs::remove_file(&late).unwrap();
    assert_eq!(archive.end(0), 0);
    assert_eq!(site.statuses(), [Status::Failed, Status::Succeeded]);
}

#[test]
fn a_missing_file_can_be_removed_from_the_archive() {
    let site = Site::new();
    let path = site.archived("f", b"content");
    let fid = site.fid(&path);
    fs::remove_file(&path).unwrap();
    assert_eq!(site.ask(10, &[fid]), -libc::ENOENT);
    assert_eq!(site.ask(13, &[fid]), 0);
    let agent = Agent::register(site.root.top());
    let item = agent.receive().unwrap().remove(0);
    assert_eq!(item.head.action, action::REMOVE);
    assert_eq!(agent.begin(&item).unwrap().end(0), 0);
}

/// The library makes no call at the begin of a removal: who wants to know whether it is still wanted reports progress.
#[test]
fn a_removal_that_was_given_up_begins_and_only_its_progress_tells() {
    let site = Site::new();
    let (given_up, canceled) = (site.archived("f", b"content"), site.archived("g", b"content"));
    let agent = Agent::register(site.root.top());
    let first = asked(&site, &agent, 13, &given_up);
    site.set("active_request_timeout", "0");
    let deadline = Instant::now() + PATIENCE;
    // Nothing happens when a time has passed: it is the next turn that looks at the clock.
    while control::requests(&site.root).unwrap().iter().any(|request| request.status == Status::Started) {
        assert!(Instant::now() < deadline, "the request is given up");
        std::thread::sleep(Duration::from_millis(5));
        control::take_turn(&site.root).unwrap();
    }
    site.set("active_request_timeout", "3600");
    let removal = agent.begin(&first).unwrap();
    assert_eq!(removal.progress(0, 0), -libc::ENOENT);
    assert_eq!(removal.end(0), -libc::ENOENT);
    let second = asked(&site, &agent, 13, &canceled);
    asked(&site, &agent, 14, &canceled);
    let removal = agent.begin(&second).unwrap();
    assert_eq!(removal.progress(0, 0), -libc::ECANCELED);
    assert_eq!(removal.end(libc::ECANCELED), 0);
    assert_eq!((site.states(&given_up), site.states(&canceled)), (0x9, 0x9));
}

#[test]
fn remove_makes_it_an_ordinary_file() {
    let site = Site::new();
    let path = site.archived("f", b"content");
    let agent = Agent::register(site.root.top());
    let item = asked(&site, &agent, 13, &path);
    assert_eq!(agent.begin(&item).unwrap().end(0), 0);
    assert_eq!(site.states(&path), 0);
}

#[test]
fn retry_is_ignored_unless_the_policy_allows_it() {
    for (policy, again) in [("NRA", false), ("-NRA", true)] {
        let site = Site::new();
        site.set("policy", policy);
        let path = site.file("f", b"content");
        let agent = Agent::register(site.root.top());
        let item = asked(&site, &agent, 10, &path);
        assert_eq!(agent.begin(&item).unwrap().end_with(2, libc::EIO), 0);
        let cookies: Vec<_> = agent.drain().iter().map(|item| item.head.cookie).collect();
        assert_eq!(cookies, if again { vec![item.head.cookie] } else { vec![] });
    }
}

#[test]
fn progress_is_merged_and_shown() {
    let site = Site::new();
    let path = site.file("f", &[0; 100]);
    let agent = Agent::register(site.root.top());
    let archive = agent.begin(&asked(&site, &agent, 10, &path)).unwrap();
    for (offset, length) in [(0, 10), (10, 10), (10, 10), (50, 10)] {
        assert_eq!(archive.progress(offset, length), 0);
    }
    let mut current = CurrentAction::default();
    // SAFETY: a string, and a place for the result.
    assert_eq!(unsafe { llapi_hsm_current_action(c(&path).as_ptr(), &raw mut current) }, 0);
    let location = Extent { offset: 0, length: 30 };
    assert_eq!(current, CurrentAction { state: 2, action: 10, location });
}

#[test]
fn ending_twice_ends_the_process() {
    let site = Site::new();
    let path = site.file("f", b"content");
    let agent = Agent::register(site.root.top());
    let item = asked(&site, &agent, 10, &path);
    // SAFETY: what the child does with its handles is the test.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut action = agent.begin(&item).unwrap();
        let mut copy = action.handle;
        let extent = Extent::ALL;
        // SAFETY: the second use is what is tested.
        unsafe {
            llapi_hsm_action_end(&raw mut action.handle, &raw const extent, 0, libc::EIO);
            llapi_hsm_action_end(&raw mut copy, &raw const extent, 0, libc::EIO);
            libc::_exit(0);
        }
    }
    let mut status = 0;
    // SAFETY: our child.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT, "{status:#x}");
}
