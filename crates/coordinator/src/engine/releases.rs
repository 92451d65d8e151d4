//! Releases: tickets for sets of files, each of which is locked, proven if need be, and released in a batch.

use super::brain::Brain;
use super::job::{Holder, Job, Parked, Purpose, Ticket};
use super::{Msg, Refusal, ReleaseReport, Target};
use crate::prepare::ESTALE;
use crate::release::{BATCH, Released, release};
use model::{Class, Command, Failure, FileHandle};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::oneshot;

impl Brain {
    pub(super) fn release(&mut self, targets: Vec<Target>, reply: oneshot::Sender<ReleaseReport>) {
        let number = self.next_ticket;
        self.next_ticket += 1;
        let mut paths: HashMap<FileHandle, String> = HashMap::new();
        let mut ticket = Ticket {
            pending: 0,
            paths: HashMap::new(),
            proven: HashSet::new(),
            report: ReleaseReport::default(),
            reply: Some(reply),
        };
        if self.guard.is_none() {
            let failure = Failure::permanent(
                95,
                "nothing guards this filesystem, so nothing is released on it: see `sifaka doctor`",
            );
            let refuse = |t: Target| Refusal { path: t.path, failure: failure.clone() };
            ticket.report.refused = targets.into_iter().map(refuse).collect();
            return Self::answer(ticket);
        }
        for target in targets {
            // A second link to the same inode is one file.
            if paths.insert(target.handle.clone(), target.path).is_some() {
                ticket.report.already += 1;
            }
        }
        let files: Vec<FileHandle> = paths.keys().cloned().collect();
        ticket.pending = files.len();
        ticket.paths = paths;
        if ticket.pending == 0 {
            return Self::answer(ticket);
        }
        self.tickets.insert(number, ticket);
        let mut free = Vec::new();
        for file in files {
            self.drop_parts(&file);
            let inode = self.inodes.entry(file.clone()).or_default();
            if inode.holder.is_some() {
                inode.parked.push_back(Parked::Release(number));
            } else {
                inode.holder = Some(Holder::Release(number));
                free.push(file);
            }
        }
        for batch in free.chunks(BATCH) {
            self.release_batch(number, batch.to_vec());
        }
    }

    /// The inode became free for a release that waited for it.
    pub(super) fn release_file(&mut self, ticket: u64, file: FileHandle) {
        self.drop_parts(&file);
        self.inodes.entry(file.clone()).or_default().holder = Some(Holder::Release(ticket));
        self.release_batch(ticket, vec![file]);
    }

    fn release_batch(&mut self, ticket: u64, files: Vec<FileHandle>) {
        let Some(guard) = self.guard.clone() else { return };
        let (shared, messages) = (Arc::clone(&self.shared), self.messages.clone());
        let copies = self.config.copies.clone();
        // Whoever was put to the proof comes here again only with it.
        let proven = self.tickets.get(&ticket).map(|ticket| &ticket.proven);
        let proven = files.iter().filter(|file| proven.is_some_and(|proven| proven.contains(*file))).cloned().collect();
        self.release_pool.run(move || {
            let results = release(&shared.fs, shared.queue.as_ref(), &guard, &copies, (&files, &proven));
            let _ = messages.send(Msg::Released(ticket, files, results));
        });
    }

    pub(super) fn released(&mut self, number: u64, files: &[FileHandle], results: Vec<Released>) {
        for (file, result) in files.iter().zip(results) {
            if let Some(inode) = self.inodes.get_mut(file) {
                inode.holder = None;
            }
            match result {
                Released::NeedsProof => self.prove(number, file),
                Released::Freed(bytes) => self.file_ends(number, file, |report, _| {
                    report.released += 1;
                    report.bytes += bytes;
                }),
                Released::Already => self.file_ends(number, file, |report, _| report.already += 1),
                Released::Refused(failure) => self.refuse(number, file, failure),
            }
            self.unpark(file);
            self.reconsider_blocked(file);
            self.pump(file);
        }
    }

    /// Has a mover hash the content; the release goes on with the answer.
    fn prove(&mut self, number: u64, file: &FileHandle) {
        let Some(ticket) = self.tickets.get_mut(&number) else { return };
        if !ticket.proven.insert(file.clone()) {
            return self.refuse(number, file, Failure::temporary(16, "it is being changed"));
        }
        let path = ticket.paths.get(file).cloned().unwrap_or_default();
        let state = self.shared.fs.open(file, sys::OFlags::PATH).ok().and_then(|fd| crate::state::read_hsm(&fd).ok());
        let Some(hsm) = state else {
            return self.refuse(number, file, Failure::permanent(ESTALE, "the file does not exist any more"));
        };
        let Some(archive_id) = u32::try_from(hsm.archive_id).ok().filter(|id| *id != 0) else {
            let why =
                format!("its attribute trusted.hsm is damaged: it names archive {}, which cannot be", hsm.archive_id);
            return self.refuse(number, file, Failure::permanent(5, why));
        };
        if !self.serves(archive_id) {
            let why = format!(
                "its times or attributes changed since it was archived, or its object was imported, and no mover serves archive {archive_id} to look at it"
            );
            return self.refuse(number, file, Failure::temporary(107, why));
        }
        let key = self.ephemeral_key();
        let now_ms = self.shared.now_ms();
        let action = Self::ephemeral_action(file, Class::Archive, Command::Verify, archive_id, 0, path, now_ms);
        self.inodes.entry(file.clone()).or_default().holder = Some(Holder::Job(key));
        self.run_job(key, Job::new(Purpose::Proof(number), action, 0));
    }

    /// A mover answered, or could not.
    pub(super) fn proof(&mut self, number: u64, file: Option<FileHandle>, result: Result<(), Failure>) {
        let Some(file) = file else { return };
        match result {
            Err(failure) => self.refuse(number, &file, failure),
            Ok(()) => {
                let inode = self.inodes.entry(file.clone()).or_default();
                // The job that proved it has let go of the inode, and another may have it by now: to go on beside that one would let
                // its ignore mark come after the hold, and readers at a file that is being punched.
                match inode.holder {
                    None if inode.parked.is_empty() => {
                        inode.holder = Some(Holder::Release(number));
                        self.release_batch(number, vec![file]);
                    }
                    _ => inode.parked.push_back(Parked::Release(number)),
                }
            }
        }
    }

    fn refuse(&mut self, number: u64, file: &FileHandle, failure: Failure) {
        self.file_ends(number, file, |report, path| report.refused.push(Refusal { path, failure }));
    }

    fn file_ends(&mut self, number: u64, file: &FileHandle, note: impl FnOnce(&mut ReleaseReport, String)) {
        let Some(ticket) = self.tickets.get_mut(&number) else { return };
        let path = ticket.paths.get(file).cloned().unwrap_or_default();
        note(&mut ticket.report, path);
        ticket.pending = ticket.pending.saturating_sub(1);
        if ticket.pending == 0
            && let Some(ticket) = self.tickets.remove(&number)
        {
            Self::answer(ticket);
        }
    }

    fn answer(ticket: Ticket) {
        if let Some(reply) = ticket.reply {
            // The client may have gone; what is released is released.
            let _ = reply.send(ticket.report);
        }
    }
}
