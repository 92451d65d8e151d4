//! The admin API's view of objects that several files name, or that wait for their removal.

use super::{LocalControl, control_error};
use crate::admin::api::{MAX_LIMIT, Refused, fsid_text};
use crate::admin::control::ControlError;
use crate::admin::objects::{
    CloneRequest, Made, PlaceRef, RetiredCursor, RetiredOf, RetiredPage, RetiredRequest, RetiredView, UndeleteRequest,
};
use coordinator::{Make, NewName, Source, Target};
use model::{ActionId, Failure};
use queue::{Queue, QueueError, RetiredObject};

const EXDEV: i32 = 18;
const ENOENT: i32 = 2;

impl LocalControl {
    pub(super) async fn make_clones(&self, request: CloneRequest) -> Result<Made, ControlError> {
        let own = fsid_text(self.engine.filesystem().fsid);
        let make = |clone: crate::admin::objects::Clone| {
            let at = self.place(clone.at)?;
            if !clone.source.fsid.eq_ignore_ascii_case(&own) {
                return Err(self.elsewhere(at.path));
            }
            let source = Source::File(Target { handle: clone.source.handle, path: clone.source.path });
            Ok(Make { source, at })
        };
        let makes = request.clones.into_iter().map(make).collect();
        Ok(self.make(makes).await)
    }

    pub(super) async fn undelete_files(&self, request: UndeleteRequest) -> Result<Made, ControlError> {
        let mut makes = Vec::new();
        for file in request.files {
            let at = match self.place(file.at) {
                Ok(at) => at,
                Err(refused) => {
                    makes.push(Err(refused));
                    continue;
                }
            };
            let version = match file.version {
                Some(version) => Some(version),
                None => {
                    let path = self.path_below_root(&at.directory, &at.name);
                    self.with_queue(move |q| path.map_or(Ok(None), |path| last_deleted(q, &path))).await?
                }
            };
            makes.push(match version {
                Some(version) => Ok(Make { source: Source::Retired(version), at }),
                None => Err(Refused {
                    path: at.path,
                    errno: ENOENT,
                    message: "no file that was deleted there is known: it was not archived, its grace period is over, or it had another name when it was archived (`sifaka undelete --list`)".into(),
                }),
            });
        }
        Ok(self.make(makes).await)
    }

    async fn make(&self, makes: Vec<Result<Make, Refused>>) -> Made {
        let mut refused = Vec::new();
        let mut wanted = Vec::new();
        for make in makes {
            match make {
                Ok(make) => wanted.push(make),
                Err(why) => refused.push(why),
            }
        }
        let paths: Vec<String> = wanted.iter().map(|make| make.at.path.clone()).collect();
        let results = self.engine.make_files(wanted).await;
        let mut made = Made { made: 0, refused };
        for (path, result) in paths.into_iter().zip(results) {
            match result {
                Ok(()) => made.made += 1,
                Err(Failure { errno, message, .. }) => made.refused.push(Refused { path, errno, message }),
            }
        }
        made
    }

    pub(super) async fn retired_objects(&self, request: RetiredRequest) -> Result<RetiredPage, ControlError> {
        let RetiredRequest { of, after, limit } = request;
        let gone = |path: &str| {
            control_error(Failure::permanent(
                ENOENT,
                format!("{path} is not on the filesystem that this agent manages"),
            ))
        };
        let (from, to, skip) = match of {
            RetiredOf::File(file) => {
                let found = self.with_queue(move |q| q.retired_of_file(&file.handle, limit)).await?;
                return Ok(RetiredPage { objects: found.into_iter().map(|r| view(r, 0)).collect(), next: None });
            }
            RetiredOf::Place(place) => {
                let path = self.here(&place).and_then(|()| self.path_below_root(&place.directory, &place.name));
                let path = path.ok_or_else(|| gone(&place.path))?;
                let to = [path.as_slice(), b"\0"].concat();
                (path, to, 0)
            }
            RetiredOf::Below(place) => {
                let path = self.here(&place).and_then(|()| self.path_below_root(&place.directory, b""));
                let path = path.ok_or_else(|| gone(&place.path))?;
                let skip = path.len();
                let mut to = path.clone();
                // The byte after the slash; no path below the root begins with 0xff and has no end.
                match to.last_mut() {
                    Some(last) => *last += 1,
                    None => to = vec![0xff; 4097],
                }
                (path, to, skip)
            }
        };
        let cursor = after.map(|after| (after.path, after.id));
        let found = self
            .with_queue(move |q| q.retired_in(&from, &to, cursor.as_ref().map(|(p, id)| (p.as_slice(), *id)), limit))
            .await?;
        let next = found.last().filter(|_| found.len() >= limit);
        let next = next.map(|last| RetiredCursor { path: last.retired.about.path.clone(), id: last.id });
        // Without a mode it is a record of what has no content, or nothing is known of it.
        let known = found.into_iter().filter(|r| r.retired.about.mode != 0);
        Ok(RetiredPage { objects: known.map(|r| view(r, skip)).collect(), next })
    }

    fn here(&self, place: &PlaceRef) -> Option<()> {
        place.fsid.eq_ignore_ascii_case(&fsid_text(self.engine.filesystem().fsid)).then_some(())
    }

    fn elsewhere(&self, path: String) -> Refused {
        let message = format!("it is not on {}, which this agent manages", self.mount_point.display());
        Refused { path, errno: EXDEV, message }
    }

    fn place(&self, place: PlaceRef) -> Result<NewName, Refused> {
        match self.here(&place) {
            Some(()) => Ok(NewName { directory: place.directory, name: place.name, path: place.path }),
            None => Err(self.elsewhere(place.path)),
        }
    }

    /// Of a name in a directory; of the directory itself, with a slash at its end, when the name is empty.
    fn path_below_root(&self, directory: &model::FileHandle, name: &[u8]) -> Option<Vec<u8>> {
        let mut path = self.engine.filesystem().path_of_directory(directory)?;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Some(path)
    }
}

/// The last file that was deleted at this path.
fn last_deleted(queue: &dyn Queue, path: &[u8]) -> Result<Option<ActionId>, QueueError> {
    let to = [path, b"\0"].concat();
    let mut last: Option<ActionId> = None;
    let mut after = ActionId(0);
    loop {
        let page = queue.retired_in(path, &to, Some((path, after)), MAX_LIMIT)?;
        let Some(end) = page.last() else { return Ok(last) };
        after = end.id;
        last = page.iter().filter(|r| !r.retired.replaced).map(|r| r.id).max().max(last);
    }
}

fn view(found: RetiredObject, skip: usize) -> RetiredView {
    let RetiredObject { id, object, retired, until_ms } = found;
    let about = retired.about;
    RetiredView {
        id,
        path: String::from_utf8_lossy(&about.path).into_owned(),
        name: about.path.get(skip..).unwrap_or_default().to_vec(),
        replaced: retired.replaced,
        archive_id: object.archive_id,
        uuid: object.uuid,
        size: about.size,
        mode: about.mode & 0o7777,
        uid: about.uid,
        gid: about.gid,
        mtime: about.mtime,
        retired_ms: retired.retired_ms,
        until_ms,
    }
}
