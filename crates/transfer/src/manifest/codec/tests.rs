use super::*;
use crate::manifest::Window;
use proptest::prelude::*;

fn timestamps() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(seconds, nanos)| Timestamp { seconds, nanos })
}

fn handles() -> impl Strategy<Value = FileHandle> {
    (any::<i32>(), prop::collection::vec(any::<u8>(), 1..=128))
        .prop_map(|(kind, bytes)| FileHandle { kind, bytes: bytes.into_iter().collect() })
}

fn contents() -> impl Strategy<Value = Content> {
    let gaps = prop::collection::vec((1u64..1 << 30, 1u64..1 << 30), 0..60);
    let encoding = prop::sample::select(Encoding::ALL.to_vec());
    (gaps, 0u64..1 << 40, encoding, any::<[u8; 32]>(), any::<u64>()).prop_map(|(gaps, rest, encoding, hash, stored)| {
        let mut end = 0;
        let hole = |(gap, length)| {
            let hole = Extent { offset: end + gap, length };
            end = hole.offset + length;
            hole
        };
        let holes = gaps.into_iter().map(hole).collect();
        let size = end + rest;
        let stored_bytes = if encoding == Encoding::Raw { size } else { stored };
        Content { size, stored_bytes, encoding, hash, holes }
    })
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        contents().prop_map(Kind::File),
        Just(Kind::Directory),
        prop::collection::vec(1u8.., 1..5000).prop_map(Kind::Symlink),
        Just(Kind::Fifo),
        Just(Kind::Socket),
        any::<(u32, u32)>().prop_map(|(major, minor)| Kind::CharDevice(major, minor)),
        any::<(u32, u32)>().prop_map(|(major, minor)| Kind::BlockDevice(major, minor)),
    ]
}

prop_compose! {
    fn inodes()(
        numbers: (u32, u32, u32, u64), times in (timestamps(), timestamps(), timestamps()), fsid: [u8; 8],
        btime in prop::option::of(timestamps()), handle in prop::option::of(handles()),
    ) -> Inode {
        let (mode, uid, gid, links) = numbers;
        let (atime, mtime, ctime) = times;
        Inode { mode, uid, gid, links, atime, mtime, ctime, btime, fsid, handle }
    }
}

prop_compose! {
    fn manifests()(
        id in "[a-zA-Z0-9_-]{5,200}", kind in kinds(), inode in inodes(), made in timestamps(),
        attributes in prop::collection::vec(("[ -~]{1,255}", prop::collection::vec(any::<u8>(), 0..300)), 0..8),
        path in prop::collection::vec("[a-z ]{1,20}|\u{e4}|\\.\\.\\.", 0..10), attributes_incomplete: bool,
    ) -> Manifest {
        let attributes = attributes.into_iter().map(|(name, value)| Attribute { name: name.into_bytes(), value });
        Manifest {
            object: ObjectId::parse(&id).unwrap(), kind, inode, path: path.join("/").into_bytes(),
            attributes: attributes.collect(), attributes_incomplete, made,
        }
    }
}

proptest! {
    #[test]
    fn manifests_round_trip_whatever_follows(manifest in manifests(), behind in prop::collection::vec(any::<u8>(), 0..50)) {
        let bytes = manifest.encode().unwrap();
        let followed = [bytes.as_slice(), &behind].concat();
        prop_assert_eq!(&Manifest::decode(&followed).unwrap(), &manifest);
        prop_assert_eq!(Manifest::read(&followed).unwrap(), (manifest, bytes.len() as u64));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found(manifest in manifests(), at: usize, bit in 0u8..8, cut: usize) {
        let bytes = manifest.encode().unwrap();
        let mut flipped = bytes.clone();
        flipped[at % bytes.len()] ^= 1 << bit;
        prop_assert!(Manifest::read(&flipped).is_err());
        prop_assert!(Manifest::decode(&flipped).is_err());
        let cut = (cut % bytes.len()) as u64;
        prop_assert!(Manifest::read(&Window::new(&bytes, 0, cut)).is_err());
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, body in prop::collection::vec(any::<u8>(), FIXED_BYTES..2 * FIXED_BYTES)) {
        let _ = Manifest::read(&bytes);
        // Garbage with a good start and a good checksum.
        let mut body = body;
        body[..8].copy_from_slice(&MAGIC);
        body[8..10].copy_from_slice(&VERSION.to_le_bytes());
        let length = low32(body.len() + CHECKSUM_BYTES).to_le_bytes();
        body[12..16].copy_from_slice(&length);
        let checksum = *blake3::hash(&body).as_bytes();
        body.extend(checksum);
        let _ = Manifest::read(&body);
    }
}

fn example() -> Manifest {
    let time = |seconds| Timestamp { seconds, nanos: 5 };
    Manifest {
        object: ObjectId::parse("0e2f9a7c-5ad1-4b6e-9b7a-0a4dd0c8f0aa.zst").unwrap(),
        kind: Kind::File(Content {
            size: 3 << 20,
            stored_bytes: 777,
            encoding: Encoding::Zstd,
            hash: [0xab; 32],
            holes: vec![Extent { offset: 0, length: 4096 }, Extent { offset: 1 << 20, length: 1 << 20 }],
        }),
        inode: Inode {
            mode: 0o100_644,
            uid: 1000,
            gid: 100,
            links: 2,
            atime: time(1),
            mtime: time(-2),
            ctime: time(3),
            btime: Some(time(4)),
            fsid: *b"fsid8888",
            handle: Some(FileHandle { kind: 1, bytes: [12u8, 0, 0, 0, 9, 9, 9, 9].into_iter().collect() }),
        },
        path: b"home/user/data".to_vec(),
        attributes: vec![Attribute { name: b"user.note".to_vec(), value: b"keep".to_vec() }],
        attributes_incomplete: false,
        made: time(1_763_859_600),
    }
}

/// As version 0.1.0 wrote it; it must be readable for ever.
#[test]
fn the_frozen_manifest_is_read() {
    let frozen = include_bytes!("frozen_v1.manifest");
    assert_eq!(Manifest::decode(frozen).unwrap(), example());
    assert_eq!(example().encode().unwrap(), frozen);
}

#[test]
fn what_no_manifest_may_hold_is_refused_both_ways() {
    let content = |change: fn(&mut Content)| {
        let mut manifest = example();
        if let Kind::File(content) = &mut manifest.kind {
            change(content);
        }
        manifest
    };
    let other = |change: fn(&mut Manifest)| {
        let mut manifest = example();
        change(&mut manifest);
        manifest
    };
    let bad = [
        content(|c| c.holes[1].offset = 4096),
        content(|c| c.holes[1].length = 0),
        content(|c| c.holes[1].length = u64::MAX),
        content(|c| c.holes[1].length = 3 << 20),
        content(|c| c.size = MAX_CONTENT_BYTES + 1),
        content(|c| c.encoding = Encoding::Raw),
        other(|m| m.path = b"/etc/passwd".to_vec()),
        other(|m| m.path = b"a/../../b".to_vec()),
        other(|m| m.path = b"a//b".to_vec()),
        other(|m| m.path = b"a/".to_vec()),
        other(|m| m.path = b"a\0b".to_vec()),
        other(|m| m.path = vec![b'a'; MAX_PATH_BYTES + 1]),
        other(|m| m.made.nanos = 1_000_000_000),
        other(|m| m.attributes[0].name.clear()),
        other(|m| m.attributes[0].name = vec![b'x'; 256]),
        other(|m| m.attributes[0].value = vec![0; MAX_VALUE_BYTES + 1]),
        other(|m| m.attributes = vec![Attribute { name: vec![b'n'; 99], value: vec![0; MAX_VALUE_BYTES] }; 65]),
        other(|m| m.kind = Kind::Symlink(Vec::new())),
        other(|m| {
            m.kind = Kind::HardLink;
            m.inode.handle = None;
        }),
    ];
    for manifest in bad {
        assert!(matches!(manifest.encode(), Err(ManifestError::Unfit(_))), "{manifest:?}");
    }
    let mut bytes = example().encode().unwrap();
    bytes[8] = 2;
    assert!(matches!(Manifest::decode(&bytes), Err(ManifestError::Version(2))));
    assert!(matches!(Manifest::decode(b"something else than a manifest"), Err(ManifestError::Magic)));
}
