//! Requests of users and policies: which of the files they name need an action, and which cannot have it.

use crate::copies::{self, Wishes};
use crate::engine::{Archives, Engine, Refusal, Target};
use crate::filesystem::{handle_of, stamp_of};
use crate::prepare::{ENOENT, EPERM, attribute, is_archived_as_it_is, system};
use crate::record::{self, Entry};
use crate::state::{FileState, read_hsm};
use model::{ActionData, ActionId, Class, Command, Failure, HsmFlags, Identity, Stamp};
use queue::{NewAction, RequestId};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use sys::OFlags;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Archive, restore or remove.
    pub command: Command,
    /// `None`: the default archive for archiving, the file's own otherwise.
    pub archive_id: Option<u32>,
    /// When archiving: the archives that each file is to have a copy in. Empty: the configured ones, or the one of `archive_id`.
    pub copies: Vec<u32>,
    /// As Lemur's policy engines pass it; see [`ActionData`].
    pub data: Vec<u8>,
    /// A request to add to; `None` for a new one.
    pub request: Option<u64>,
    /// Archive also what is archived as it is.
    pub force: bool,
    /// Whom for.
    pub files: Vec<Target>,
    /// What has no content, and is only recorded (when archiving).
    pub entries: Vec<Entry>,
}

/// What was accepted.
#[derive(Debug, Clone, Default)]
pub struct Accepted {
    /// The request's number.
    pub request: u64,
    /// The actions, in the order of the files that needed one.
    pub actions: Vec<ActionId>,
    /// Files that got actions.
    pub files: u64,
    /// How many of them only record something.
    pub records: u64,
    /// Files that were as asked for already.
    pub already: u64,
    /// Files that cannot have it.
    pub refused: Vec<Refusal>,
}

/// What a look at one file gives.
enum Look {
    Needs(Vec<NewAction>),
    Already,
    Refused(Failure),
}

/// Objects that are stored together get ids that begin alike.
const GATHERED: usize = 256;

/// Lemur's layout puts an object into a directory named by the first four characters of its id. Random ids would give nearly
/// every object of a large request a directory of its own, and making directories costs more than writing small files. So
/// the objects of a request share those characters in groups, and stay evenly spread in the long run.
fn gather_objects(looks: &mut [Look]) {
    for group in looks.chunks_mut(GATHERED) {
        let shared = uuid::Uuid::new_v4().to_string();
        let needed =
            group.iter_mut().flat_map(|look| if let Look::Needs(actions) = look { &mut actions[..] } else { &mut [] });
        for action in needed.filter(|action| action.command == Command::Archive) {
            if let (Some(first), Some(rest)) = (shared.get(..4), action.identity.uuid.get(4..)) {
                action.identity.uuid = format!("{first}{rest}");
            }
        }
    }
}

impl Engine {
    /// Accepts a request. What it says it accepted is durable.
    pub async fn request(self: &Arc<Self>, request: Request) -> Result<Accepted, Failure> {
        let number = request.request.unwrap_or_else(|| self.new_request());
        let engine = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || {
            let look = |target: &Target| engine.look(&request, target, number);
            let mut looks: Vec<Look> = request.files.iter().map(look).collect();
            gather_objects(&mut looks);
            let records = engine.records(&request, number);
            (request.files, looks, records)
        });
        let (files, looks, records) =
            looked.await.map_err(|e| Failure::temporary(5, format!("the request was cut short: {e}")))?;
        let mut accepted = Accepted { request: number, ..Accepted::default() };
        let mut actions = Vec::new();
        for (target, look) in files.into_iter().zip(looks) {
            match look {
                Look::Needs(needed) => {
                    accepted.files += 1;
                    actions.extend(needed);
                }
                Look::Already => accepted.already += 1,
                Look::Refused(failure) => accepted.refused.push(Refusal { path: target.path, failure }),
            }
        }
        for record in records {
            match record {
                Ok(action) => {
                    accepted.records += 1;
                    actions.push(action);
                }
                Err(refusal) => accepted.refused.push(refusal),
            }
        }
        if !actions.is_empty() {
            accepted.actions = self.accept(actions).await?;
        }
        Ok(accepted)
    }

    /// What is to be recorded; what is recorded as it is and what is gone needs nothing.
    fn records(&self, request: &Request, number: u64) -> Vec<Result<NewAction, Refusal>> {
        if request.command != Command::Archive {
            return Vec::new();
        }
        let archive_id = request.archive_id.unwrap_or(self.default_archive());
        let look = |entry: &Entry| match record::look(&self.shared.fs, entry, archive_id, number, self.shared.now_ms())
        {
            Ok(None) => None,
            Ok(Some(found)) => {
                let known = self.shared.queue.stamp(&found.key).ok().flatten();
                let same = known.is_some_and(|k| {
                    k.stamp == found.stamp && k.object.is_some_and(|object| object.archive_id == archive_id)
                });
                (request.force || !same).then_some(Ok(found.action))
            }
            Err(failure) if failure.errno == ENOENT => None,
            Err(failure) => Some(Err(Refusal { path: entry.path.clone(), failure })),
        };
        request.entries.iter().filter_map(look).collect()
    }

    fn look(&self, request: &Request, target: &Target, number: u64) -> Look {
        self.try_look(request, target, number).unwrap_or_else(Look::Refused)
    }

    fn try_look(&self, request: &Request, target: &Target, number: u64) -> Result<Look, Failure> {
        // Attributes alone are looked at, so a name for the file is enough: it raises no event and breaks no lease.
        let opened = self.shared.fs.open_and_look(&target.handle, OFlags::PATH);
        let (fd, stat) = opened.map_err(|e| match e.raw_os_error() {
            Some(22) => Failure::permanent(22, "it is no regular file"),
            _ => system("opening it by its handle", &e),
        })?;
        let state = match request.command {
            // The rest is looked at when its turn has come.
            Command::Restore => read_hsm(&fd).map(|hsm| FileState { hsm, ..FileState::default() }),
            _ => FileState::read(&fd),
        };
        let mut state = state.map_err(|e| attribute(&e))?;
        let own = || state.record.is_none() || handle_of(&fd).is_ok_and(|own| state.belongs_to(&own));
        if !state.hsm.is_released() && !own() {
            state = FileState::default();
        }
        let data = ActionData::parse(&request.data);
        let named =
            String::from_utf8(data.file_id).map_err(|_| Failure::permanent(22, "the request's file_id is no text"))?;
        let hsm = state.hsm;
        let own_archive = state.archive_id();
        let proposals = match request.command {
            Command::Archive => match self.archives_wanted(request, &fd, &state, &stamp_of(&stat))? {
                proposals if proposals.is_empty() => return Ok(Look::Already),
                proposals => proposals,
            },
            Command::Restore if !hsm.is_released() => return Ok(Look::Already),
            Command::Remove if hsm.is_released() => {
                return Err(Failure::permanent(
                    1,
                    "it is released: its archive copy is the only one. Restore it first",
                ));
            }
            Command::Remove if state.identity.uuid.is_empty() && named.is_empty() => return Ok(Look::Already),
            Command::Restore | Command::Remove | Command::Verify => {
                let archive_id = request.archive_id.or(own_archive).unwrap_or(self.default_archive());
                vec![(archive_id, Identity { uuid: named, ..Identity::default() })]
            }
        };
        let now_ms = self.shared.now_ms();
        let action = |(archive_id, identity)| NewAction {
            request: RequestId(number),
            class: Class::of(request.command),
            command: request.command,
            archive_id,
            owner: stat.uid,
            file: Some(target.handle.clone()),
            path: target.path.clone(),
            identity,
            data: data.mover_data.clone(),
            not_before_ms: now_ms,
            created_ms: now_ms,
        };
        Ok(Look::Needs(proposals.into_iter().map(action).collect()))
    }

    /// The archives that the file's content is to go to, with what is proposed for each. None: all is there.
    fn archives_wanted(
        &self,
        request: &Request,
        fd: &OwnedFd,
        state: &FileState,
        now: &Stamp,
    ) -> Result<Vec<(u32, Identity)>, Failure> {
        let (hsm, own) = (state.hsm, state.archive_id());
        let wanted = Wanted::of(request, &self.archives(), own);
        let clean = is_archived_as_it_is(state, now);
        let copies = if wanted.ensure { copies::read(fd, state).map_err(|e| attribute(&e))? } else { Vec::new() };
        let has = |id: u32| own == Some(id) || copies.iter().any(|copy| copy.archive_id == id);
        let whole = !clean && !hsm.is_released() || request.force;
        let missing: Vec<u32> = wanted.archives.into_iter().filter(|id| whole || !has(*id)).collect();
        if hsm.is_released() {
            let named = !request.copies.is_empty() || (request.archive_id.is_some() && wanted.ensure);
            return match missing.iter().find(|id| !has(**id)) {
                Some(id) if named => Err(Failure::permanent(
                    EPERM,
                    format!("it is released: restore it first, so that archive {id} can have a copy"),
                )),
                _ => Ok(Vec::new()),
            };
        }
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        if hsm.flags.contains(HsmFlags::NOARCHIVE) {
            return Err(Failure::permanent(
                EPERM,
                "it is marked noarchive; clear the mark with `sifaka set --clear noarchive`",
            ));
        }
        // Nothing is written here: the file's inode is not locked, and a release may be about to set its flags.
        let anew = clean && request.force && missing.iter().any(|id| has(*id));
        let wishes = Wishes { ensure: wanted.ensure, anew: anew.then_some(hsm.archive_version) };
        let propose = |archive_id| {
            let mut identity = Identity { uuid: uuid::Uuid::new_v4().to_string(), ..Identity::default() };
            wishes.write(&mut identity);
            (archive_id, identity)
        };
        Ok(missing.into_iter().map(propose).collect())
    }
}

/// Which archives an archive request is about.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    archives: Vec<u32>,
    /// Each is to have a copy. Otherwise there is one archive, and the file's copy is to be there and nowhere else.
    ensure: bool,
}

impl Wanted {
    /// `own` is the archive of the file's first copy.
    fn of(request: &Request, archives: &Archives, own: Option<u32>) -> Self {
        let Archives { default, copies: configured } = archives;
        let one = |id| Self { archives: vec![id], ensure: false };
        let listed = |id: u32| configured.contains(&id);
        match request.archive_id {
            _ if !request.copies.is_empty() => Self { archives: request.copies.clone(), ensure: true },
            Some(id) if !listed(id) || !own.is_none_or(listed) => one(id),
            Some(id) if !request.force => Self { archives: vec![id], ensure: true },
            None if configured.is_empty() => one(*default),
            // The default one first: usually it comes to hold the first copy.
            _ => {
                let mut archives = configured.clone();
                archives.sort_by_key(|id| id != default);
                Self { archives, ensure: true }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_those_named_or_those_configured() {
        let request = |archive_id, copies: &[u32], force| Request {
            command: Command::Archive,
            archive_id,
            copies: copies.to_vec(),
            data: Vec::new(),
            request: None,
            force,
            files: Vec::new(),
            entries: Vec::new(),
        };
        let archives = |configured: &[u32]| Archives { default: 2, copies: configured.to_vec() };
        let of = |archive_id, copies: &[u32], force, configured: &[u32], own| {
            let wanted = Wanted::of(&request(archive_id, copies, force), &archives(configured), own);
            (wanted.archives, wanted.ensure)
        };
        assert_eq!(of(None, &[], false, &[], Some(1)), (vec![2], false));
        assert_eq!(of(Some(3), &[], true, &[], Some(1)), (vec![3], false));
        assert_eq!(of(None, &[], false, &[1, 2, 3], None), (vec![2, 1, 3], true));
        assert_eq!(of(None, &[5, 4], false, &[1, 2], Some(1)), (vec![5, 4], true));
        // One of several that hold the file: a copy there too. Any other: the file's copy moves.
        assert_eq!(of(Some(1), &[], false, &[1, 2], Some(2)), (vec![1], true));
        assert_eq!(of(Some(1), &[], false, &[1, 2], None), (vec![1], true));
        assert_eq!(of(Some(1), &[], true, &[1, 2], Some(2)), (vec![2, 1], true));
        assert_eq!(of(Some(3), &[], false, &[1, 2], Some(2)), (vec![3], false));
        assert_eq!(of(Some(1), &[], false, &[1, 2], Some(7)), (vec![1], false));
    }
}
