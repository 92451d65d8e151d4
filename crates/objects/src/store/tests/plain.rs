//! What bulk jobs ask of a bucket, on real servers.

use crate::plain::{Found, Over, Plain, Put, Texts, Version};
use crate::{Bucket, Limits, Settings};
use std::time::Duration;
use transfer::Unwatched;

const PART: u64 = 5 << 20;

fn open(settings: Settings) -> Plain {
    let limits = Limits { part_bytes: PART, ..Limits::default() };
    Plain::new(Bucket::open(&Settings { prefix: String::new(), limits, ..settings }).unwrap())
}

fn texts(note: &str) -> Texts {
    Texts::from([("note".to_owned(), note.to_owned())])
}

fn put(plain: &Plain, content: &'static str, over: &Over) -> Put {
    plain.put("a/key", content.as_bytes().into(), texts(content), over).unwrap()
}

fn look(plain: &Plain) -> (Found, Version) {
    let found = plain.look("a/key").unwrap().unwrap();
    let version = found.version.clone().unwrap();
    (found, version)
}

fn large(plain: &Plain, byte: u8, over: &Over) -> Option<Put> {
    let bytes = vec![byte; 12 << 20];
    let large = plain.begin("a/large", bytes.len() as u64, texts("large"), over, &Unwatched).unwrap()?;
    for (at, step) in bytes.chunks(1 << 20).enumerate() {
        large.write(step, (at as u64) << 20).unwrap();
    }
    Some(large.complete().unwrap())
}

/// What a service makes sure of when it is told what a request depends on.
struct Heeds {
    /// That there is nothing under the key; and of the version that is read.
    absence: bool,
    /// Of the version that is replaced.
    version: bool,
}

fn only_what_was_seen_is_replaced(plain: &Plain, heeds: &Heeds) {
    assert_eq!(put(plain, "one", &Over::Nothing), Put::Done);
    if heeds.absence {
        assert_eq!(put(plain, "two", &Over::Nothing), Put::Taken);
    }
    let (found, first) = look(plain);
    assert_eq!((found.size, found.texts), (3, texts("one")));
    assert_eq!(put(plain, "second", &Over::This(first.clone())), Put::Done);
    if heeds.version {
        assert_eq!(put(plain, "third", &Over::This(first.clone())), Put::Taken);
        assert_eq!(look(plain).0.texts, texts("second"));
    }
    assert_eq!(put(plain, "fourth", &Over::Anything), Put::Done);
    let (found, _) = look(plain);
    let mut buffer = [0; 9];
    let read = plain.read("a/key", &found, &Unwatched).unwrap().read(&mut buffer, 0).unwrap();
    assert_eq!(buffer.get(..read), Some(&b"fourth"[..]));
    // What was looked at is read, and nothing that came later.
    if heeds.absence {
        let old = Found { version: Some(first), ..found };
        plain.read("a/key", &old, &Unwatched).unwrap().read(&mut buffer, 0).unwrap_err();
    }

    assert_eq!(large(plain, 1, &Over::Nothing), Some(Put::Done));
    assert_eq!(large(plain, 2, &Over::Nothing), None);
    let seen = plain.look("a/large").unwrap().unwrap();
    assert_eq!(large(plain, 3, &Over::This(seen.version.clone().unwrap())), Some(Put::Done));
    assert_eq!(large(plain, 4, &Over::This(seen.version.unwrap())), None);
    let now = plain.look("a/large").unwrap().unwrap();
    let mut last = [0; 1];
    plain.read("a/large", &now, &Unwatched).unwrap().read(&mut last, (12 << 20) - 1).unwrap();
    assert_eq!((now.size, now.texts, last), (12 << 20, texts("large"), [3]));

    for key in ["/a", "a//b", "a/../b", " a", "."] {
        assert!(plain.look(key).is_err() && plain.remove(&[key.to_owned()]).is_err(), "{key}");
        assert!(plain.put(key, "x".into(), Texts::new(), &Over::Anything).is_err(), "{key}");
    }
    plain.remove(&["a/key".to_owned(), "a/large".to_owned(), "a/none".to_owned()]).unwrap();
    assert_eq!(plain.look("a/key").unwrap(), None);
}

/// Keys that end in a slash are keys like others.
fn slashes(plain: &Plain) {
    let key = "a/directory/";
    assert_eq!(plain.look(key).unwrap(), None);
    assert_eq!(put(plain, "below", &Over::Nothing), Put::Done);
    assert_eq!(plain.look("a/").unwrap(), None, "what lies below is not it");
    assert_eq!(plain.put(key, "".into(), texts("mode"), &Over::Nothing).unwrap(), Put::Done);
    assert_eq!(plain.look(key).unwrap().map(|found| (found.size, found.texts)), Some((0, texts("mode"))));
    assert_eq!(plain.look("a/directory").unwrap(), None);
    plain.remove(&[key.to_owned()]).unwrap();
    assert_eq!(plain.look(key).unwrap(), None);
}

#[test]
fn rgw() {
    let (server, settings) = super::rgw::start();
    let plain = open(settings);
    only_what_was_seen_is_replaced(&plain, &Heeds { absence: true, version: false });
    slashes(&plain);
    // What is given up leaves nothing.
    let given_up = plain.begin("a/large", 12 << 20, Texts::new(), &Over::Nothing, &Unwatched).unwrap().unwrap();
    given_up.write(&vec![0; 11 << 20], 0).unwrap();
    drop(given_up);
    assert!(plain.settle(Duration::from_secs(20)));
    assert_eq!(server.uploads(super::rgw::BUCKET), Vec::<String>::new());
}

#[test]
fn azurite() {
    let (_server, settings) = super::azurite::start();
    let plain = open(settings);
    only_what_was_seen_is_replaced(&plain, &Heeds { absence: true, version: true });
    slashes(&plain);
}

/// The stand-in heeds no conditions, and has no keys that end in a slash.
#[test]
fn gcs() {
    let (_server, settings) = super::gcs::start();
    only_what_was_seen_is_replaced(&open(settings), &Heeds { absence: false, version: false });
}
