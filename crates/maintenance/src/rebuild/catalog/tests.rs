use super::*;
use model::{FileHandle, ObjectId};
use transfer::Encoding;
use transfer::manifest::{Content, Inode};

/// A manifest made at second `made`, of inode `inode`.
fn manifest(id: &str, kind: Kind, path: &str, inode: u8, made: i64) -> Manifest {
    let time = Timestamp { seconds: made, nanos: 0 };
    let handle = FileHandle { kind: 1, bytes: [inode].as_slice().into() };
    let inode = Inode {
        mode: 0o644,
        uid: 0,
        gid: 0,
        links: 1,
        atime: time,
        mtime: time,
        ctime: time,
        btime: None,
        fsid: [1; 8],
        handle: Some(handle),
    };
    let object = ObjectId::parse(id).unwrap();
    let (path, attributes) = (path.as_bytes().to_vec(), Vec::new());
    Manifest { object, kind, inode, path, attributes, attributes_incomplete: false, made: time }
}

fn file(id: &str, path: &str, inode: u8, made: i64) -> Manifest {
    let content = Content { size: 7, stored_bytes: 7, encoding: Encoding::Raw, hash: [0; 32], holes: Vec::new() };
    manifest(id, Kind::File(content), path, inode, made)
}

fn linked(mut manifest: Manifest) -> Manifest {
    manifest.inode.links = 2;
    manifest
}

/// The settled catalog of these, where every file has its object but those of `lost`.
fn catalog(manifests: &[Manifest], prefix: &str, lost: &[&str]) -> Catalog {
    let mut catalog = Catalog::new().unwrap();
    let entry = |m: &Manifest| Entry::of(m.object.to_string(), m, prefix.as_bytes());
    catalog.add(&manifests.iter().filter_map(entry).collect::<Vec<_>>()).unwrap();
    let ids = manifests.iter().filter(|m| m.content().is_some()).map(|m| m.object.to_string());
    catalog.add_objects(&ids.filter(|id| !lost.contains(&id.as_str())).collect::<Vec<_>>()).unwrap();
    catalog.settle().unwrap();
    catalog
}

fn names(catalog: &Catalog) -> Vec<(String, String)> {
    let text = |path: Vec<u8>| String::from_utf8(path).unwrap();
    catalog.names(None).unwrap().into_iter().map(|name| (text(name.path), name.id)).collect()
}

fn losers(catalog: &Catalog) -> Vec<(Loser, String)> {
    let mut found = Vec::new();
    catalog.each_loser(|loser, _, id| found.push((loser, id.to_owned()))).unwrap();
    found
}

fn pair(a: &str, b: &str) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

#[test]
fn the_newest_counts_for_a_file_and_for_a_path() {
    let catalog = catalog(
        &[
            file("old-version", "a", 1, 10),
            file("new-version", "a", 1, 20),
            file("renamed-old", "before", 2, 10),
            file("renamed-new", "after", 2, 20),
            file("replaced", "b", 3, 10),
            file("replacing", "b", 4, 20),
        ],
        "",
        &[],
    );
    assert_eq!(names(&catalog), [pair("a", "new-version"), pair("after", "renamed-new"), pair("b", "replacing")]);
    let mut lost = losers(&catalog);
    lost.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(
        lost,
        [
            (Loser::Older, "old-version".to_owned()),
            (Loser::Older, "renamed-old".to_owned()),
            (Loser::Displaced, "replaced".to_owned())
        ]
    );
}

#[test]
fn a_file_has_all_its_names() {
    let catalog = catalog(
        &[
            linked(file("content", "x/one", 1, 10)),
            manifest("name1", Kind::HardLink, "x/one", 1, 11),
            manifest("name2", Kind::HardLink, "x/two", 1, 11),
            // Its own path is another file's by now.
            linked(file("moved-away", "taken", 2, 10)),
            file("taker", "taken", 3, 20),
            manifest("name3", Kind::HardLink, "still", 2, 10),
            manifest("name4", Kind::HardLink, "of-nothing", 9, 10),
        ],
        "",
        &[],
    );
    assert_eq!(names(&catalog), [pair("still", "moved-away"), pair("taken", "taker"), pair("x/one", "content")]);
    let links = catalog.links(b"").unwrap();
    let expected = Link { path: b"x/two".to_vec(), of: b"x/one".to_vec(), id: "content".to_owned() };
    assert_eq!(links, [expected]);
    assert_eq!(losers(&catalog), [(Loser::NoInode, "name4".to_owned())]);
}

#[test]
fn a_prefix_is_a_directory_and_not_a_beginning_of_names() {
    let manifests = [
        file("inside", "a/b/file", 1, 10),
        file("beside", "a/bc", 2, 10),
        linked(file("elsewhere", "other", 3, 10)),
        manifest("name1", Kind::HardLink, "a/b/link", 3, 10),
        manifest("top00", Kind::Directory, "a/b", 4, 10),
        manifest("above", Kind::Directory, "a", 5, 10),
    ];
    let catalog = catalog(&manifests, "a/b", &[]);
    assert_eq!(names(&catalog), [pair("file", "inside"), pair("link", "elsewhere")]);
    let directories = catalog.directories(None).unwrap();
    assert_eq!(directories, [Name { path: Vec::new(), id: "top00".to_owned() }]);
    assert_eq!(losers(&catalog), []);
}

#[test]
fn what_has_lost_its_content_or_its_path_is_told_and_not_made() {
    let catalog = catalog(&[file("gone0", "a", 1, 10), file("lost-path", "", 2, 10)], "", &["gone0"]);
    assert_eq!(names(&catalog), []);
    assert_eq!(losers(&catalog), [(Loser::NoObject, "gone0".to_owned())]);
    assert_eq!(catalog.nowhere("").unwrap(), ["lost-path"]);
}

#[test]
fn directories_come_before_what_is_in_them_and_are_finished_after_it() {
    let dir = |id: &str, path: &str, inode| manifest(id, Kind::Directory, path, inode, 10);
    let mut catalog = catalog(&[dir("root0", "", 1), dir("deep0", "a/b", 2), dir("upper", "a", 3)], "", &[]);
    let paths = |names: Vec<Name>| names.into_iter().map(|n| String::from_utf8(n.path).unwrap()).collect::<Vec<_>>();
    assert_eq!(paths(catalog.directories(None).unwrap()), ["", "a", "a/b"]);
    assert_eq!(paths(catalog.directories(Some(b"")).unwrap()), ["a", "a/b"]);
    catalog.changed([b"a/b".to_vec(), b"a".to_vec(), b"unrecorded".to_vec(), b"a".to_vec()]).unwrap();
    let finish = catalog.to_finish(None).unwrap();
    let expected = [("unrecorded", None), ("a/b", Some("deep0")), ("a", Some("upper"))];
    let expected = expected.map(|(path, id)| (path.as_bytes().to_vec(), id.map(str::to_owned)));
    assert_eq!(finish, expected);
    assert_eq!(catalog.to_finish(Some(b"a/b")).unwrap(), [(b"a".to_vec(), Some("upper".to_owned()))]);
}
