//! Registration, lists, orphans, and agents that are dropped.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use lustreapi_standin::abi::action;
use lustreapi_standin::copytool::{llapi_hsm_copytool_get_fd, llapi_hsm_copytool_unregister};
use lustreapi_standin::{Status, control};

use crate::kit::{Agent, Mount, Site, in_a_process_that_dies};

#[test]
fn an_empty_pipe_says_so_and_can_be_polled() {
    let site = Site::new();
    let agent = Agent::register(site.root.top());
    assert_eq!(agent.receive().unwrap_err(), -libc::EAGAIN);
    // SAFETY: a handle.
    let fd = unsafe { llapi_hsm_copytool_get_fd(agent.handle) };
    // SAFETY: open as long as the agent is.
    let pipe = unsafe { BorrowedFd::borrow_raw(fd) };
    let ready = |milliseconds: i64| {
        let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 };
        let mut polled = [rustix::event::PollFd::new(&pipe, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&timeout)).unwrap() == 1
    };
    assert!(!ready(0));
    let path = site.file("f", b"data");
    assert_eq!(site.ask(10, &[site.fid(&path)]), 0);
    assert!(ready(900));
    assert_eq!(agent.receive().unwrap().len(), 1);
    assert!(!ready(0));
}

#[test]
fn descriptors_are_inherited_by_programs() {
    let site = Site::new();
    let inheritable = || {
        let fds = (0..256).filter(|fd| {
            // SAFETY: asks about a number, which need not be a descriptor.
            let flags = unsafe { libc::fcntl(*fd, libc::F_GETFD) };
            flags >= 0 && flags & libc::FD_CLOEXEC == 0
        });
        fds.count()
    };
    let before = inheritable();
    let agent = Agent::register(site.root.top());
    assert_eq!(inheritable(), before + 3, "the mount, .lustre/fid and the pipe");
    drop(agent);
    assert_eq!(inheritable(), before);
}

#[test]
fn there_is_one_buffer() {
    let site = Site::new();
    let agent = Agent::register(site.root.top());
    let path = site.file("f", b"data");
    let other = site.file("g", b"data");
    assert_eq!(site.ask(10, &[site.fid(&path)]), 0);
    assert_eq!(site.ask(10, &[site.fid(&other)]), 0);
    let (first, len) = agent.receive_raw().unwrap();
    // SAFETY: received just now.
    let copy = unsafe { std::slice::from_raw_parts(first, len) }.to_vec();
    let (second, _) = agent.receive_raw().unwrap();
    assert_eq!(first, second);
    // SAFETY: the buffer is as long.
    assert_ne!(copy, unsafe { std::slice::from_raw_parts(first, len) });
}

#[test]
fn two_agents_on_one_mount_both_get_everything_and_go_together() {
    let site = Site::new();
    let (first, second) = (Agent::register(site.root.top()), Agent::register(site.root.top()));
    let path = site.file("f", b"data");
    assert_eq!(site.ask(10, &[site.fid(&path)]), 0);
    let (one, other) = (first.receive().unwrap(), second.receive().unwrap());
    assert_eq!(one[0].head.cookie, other[0].head.cookie);
    assert_eq!(first.begin(&one[0]).unwrap().end(0), 0);
    drop(first);
    assert!(control::clients(&site.root).unwrap().is_empty(), "the other was unregistered with it");
    let next = site.file("g", b"data");
    assert_eq!(site.ask(10, &[site.fid(&next)]), 0);
    assert_eq!(second.receive().unwrap_err(), -libc::EAGAIN);
    assert_eq!(site.statuses()[1], Status::Waiting);
}

#[test]
fn of_two_mounts_one_gets_a_whole_list() {
    let site = Site::new();
    let mount = Mount::of(&site);
    let (first, second) = (Agent::register(site.root.top()), Agent::register(mount.point.path()));
    let fids: Vec<_> = (0..3).map(|n| site.fid(&site.file(&format!("f{n}"), b"data"))).collect();
    assert_eq!(site.ask(10, &fids), 0);
    let (first, second) = (first.drain().len(), second.drain().len());
    assert!([(3, 0), (0, 3)].contains(&(first, second)) || first + second == 3, "{first} and {second}");
}

#[test]
fn archive_ids_decide_who_gets_it_and_without_anybody_it_waits() {
    let site = Site::new();
    let agent = Agent::try_register(site.root.top(), &[2, 3]).unwrap();
    let path = site.file("f", b"data");
    assert_eq!(site.ask(10, &[site.fid(&path)]), 0);
    assert_eq!(agent.receive().unwrap_err(), -libc::EAGAIN);
    assert_eq!(site.statuses(), [Status::Waiting]);
    site.set("default_archive_id", "3");
    let next = site.file("g", b"data");
    assert_eq!(site.ask(10, &[site.fid(&next)]), 0);
    assert_eq!(agent.receive().unwrap()[0].head.cookie, 2);
    drop(agent);
    let any = Agent::register(site.root.top());
    assert_eq!(any.receive().unwrap()[0].head.cookie, 1);
}

#[test]
fn lists_are_at_most_five_kibibytes() {
    let site = Site::new();
    site.set("max_requests", "1000");
    site.set("hsm_control", "disabled");
    let agent = Agent::register(site.root.top());
    for chunk in 0..4 {
        let file = |n| site.fid(&site.file(&format!("f{chunk}-{n}"), b"data"));
        let fids: Vec<_> = (0..50).map(file).collect();
        assert_eq!(site.ask(10, &fids), 0);
    }
    assert_eq!(agent.receive().unwrap_err(), -libc::EAGAIN);
    site.set("hsm_control", "enabled");
    let sizes: Vec<_> = std::iter::from_fn(|| agent.receive().ok()).map(|items| items.len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 200);
    assert!(sizes.iter().all(|size| *size <= 71) && sizes[0] >= 65, "{sizes:?}");
}

#[test]
fn orphans_hold_their_slots_until_the_timeout_and_are_not_sent_again() {
    let site = Site::new();
    let fids: Vec<_> = (0..5).map(|n| site.fid(&site.file(&format!("f{n}"), b"data"))).collect();
    in_a_process_that_dies(|| {
        let agent = Agent::register(site.root.top());
        assert_eq!(site.ask(10, &fids), 0);
        assert_eq!(agent.receive().unwrap().len(), 3, "max_requests");
        std::mem::forget(agent);
    });
    let agent = Agent::register(site.root.top());
    assert_eq!(agent.receive().unwrap_err(), -libc::EAGAIN, "three orphans stop everything");
    assert_eq!(site.ask(10, &fids[..1]), 0, "asked again, it is another request, which waits as well");
    assert_eq!(agent.receive().unwrap_err(), -libc::EAGAIN);
    use Status::{Canceled, Started, Waiting};
    assert_eq!(site.statuses(), [Started, Started, Started, Waiting, Waiting, Waiting]);
    site.set("active_request_timeout", "0");
    std::thread::sleep(Duration::from_millis(2)); // It counts milliseconds.
    control::take_turn(&site.root).unwrap();
    assert_eq!(site.statuses()[..3], [Canceled, Canceled, Canceled]);
    assert_eq!(agent.drain().len(), 3);
}

#[test]
fn a_dead_agent_is_unregistered_from_2_17_on() {
    for (version, listed) in [("2.17", 0), ("2.15", 1)] {
        let site = Site::new();
        site.set("version", version);
        in_a_process_that_dies(|| std::mem::forget(Agent::register(site.root.top())));
        control::take_turn(&site.root).unwrap();
        assert_eq!(control::clients(&site.root).unwrap().len(), listed, "{version}");
    }
}

#[test]
fn a_new_process_ends_what_a_dead_one_has_begun() {
    let site = Site::new();
    let path = site.file("f", b"data");
    let fid = site.fid(&path);
    let (mut reader, writer) = std::io::pipe().unwrap();
    in_a_process_that_dies(|| {
        use std::io::Write;
        let agent = Agent::register(site.root.top());
        assert_eq!(site.ask(10, &[fid]), 0);
        let item = agent.receive().unwrap().remove(0);
        let action = agent.begin(&item).unwrap();
        assert_eq!(action.progress(0, 2), 0);
        (&writer).write_all(&item.head.cookie.to_le_bytes()).unwrap();
        std::mem::forget((agent, action));
    });
    let mut cookie = [0; 8];
    std::io::Read::read_exact(&mut reader, &mut cookie).unwrap();
    let agent = Agent::register(site.root.top());
    let mut item = crate::kit::Item { head: Default::default(), data: Vec::new(), list_flags: 0 };
    (item.head.action, item.head.fid, item.head.cookie) = (action::ARCHIVE, fid, u64::from_le_bytes(cookie));
    assert_eq!(agent.begin(&item).unwrap().end(0), 0);
    assert_eq!(site.states(&path), 0x9);
    assert_eq!(site.statuses(), [Status::Succeeded]);
}

#[test]
fn shutdown_and_enable_drop_agents_silently() {
    let site = Site::new();
    let agent = Agent::register(site.root.top());
    let path = site.file("f", b"data");
    assert_eq!(site.ask(10, &[site.fid(&path)]), 0);
    let item = agent.receive().unwrap().remove(0);
    let action = agent.begin(&item).unwrap();
    site.set("hsm_control", "shutdown");
    assert_eq!(action.progress(0, 1), -libc::EAGAIN);
    assert_eq!(agent.begin(&item).err(), Some(-libc::EAGAIN));
    assert_eq!(site.ask(10, &[site.fid(&path)]), -libc::EAGAIN);
    site.set("hsm_control", "enabled");
    assert_eq!(agent.receive().unwrap_err(), -libc::EAGAIN, "the pipe shows nothing");
    assert!(control::clients(&site.root).unwrap().is_empty());
    assert_eq!(action.progress(0, 1), -libc::ENOENT);
    assert_eq!(action.end(0), -libc::ENOENT);
    assert_eq!(site.statuses(), [Status::Started]);
    let again = Agent::register(site.root.top());
    let other = site.file("g", b"data");
    assert_eq!(site.ask(10, &[site.fid(&other)]), 0);
    assert_eq!(again.receive().unwrap().len(), 1);
}

#[test]
fn a_restarted_mdt_knows_the_agents_but_not_their_work() {
    let site = Site::new();
    let agent = Agent::register(site.root.top());
    let path = site.file("f", b"data");
    assert_eq!(site.ask(10, &[site.fid(&path)]), 0);
    let item = agent.receive().unwrap().remove(0);
    let action = agent.begin(&item).unwrap();
    control::restart_mdt(&site.root).unwrap();
    assert_eq!(action.end(0), -libc::ENOENT);
    assert_eq!(site.statuses(), [Status::Started]);
    let other = site.file("g", b"data");
    assert_eq!(site.ask(10, &[site.fid(&other)]), 0);
    assert_eq!(agent.receive().unwrap().len(), 1);
}

#[test]
fn using_a_handle_twice_ends_the_process() {
    let site = Site::new();
    // SAFETY: what the child does with its handles is the test.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut agent = Agent::register(site.root.top());
        let mut copy = agent.handle;
        // SAFETY: the second use is what is tested.
        unsafe {
            llapi_hsm_copytool_unregister(&raw mut agent.handle);
            llapi_hsm_copytool_unregister(&raw mut copy);
            libc::_exit(0);
        }
    }
    let mut status = 0;
    // SAFETY: our child.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT, "{status:#x}");
}

#[test]
fn elsewhere_is_no_lustre() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(Agent::try_register(directory.path(), &[]).err(), Some(-libc::ENOTTY));
}

#[test]
fn calls_fail_when_told_to() {
    let site = Site::new();
    control::fail(&site.root, "llapi_hsm_copytool_recv", libc::EIO, Some(2)).unwrap();
    let agent = Agent::register(site.root.top());
    let results: Vec<_> = (0..3).map(|_| agent.receive().unwrap_err()).collect();
    assert_eq!(results, [-libc::EIO, -libc::EIO, -libc::EAGAIN]);
    control::fail(&site.root, "llapi_hsm_request", libc::ENOSPC, None).unwrap();
    let fid = site.fid(&site.file("f", b""));
    assert_eq!((site.ask(10, &[fid]), site.ask(10, &[fid])), (-libc::ENOSPC, -libc::ENOSPC));
    control::heal(&site.root, "llapi_hsm_request").unwrap();
    assert_eq!(site.ask(10, &[fid]), 0);
}
