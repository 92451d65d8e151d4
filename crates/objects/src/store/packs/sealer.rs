//! Small files share a pack, and a pack is one request.
//!
//! While a pack is on its way, what arrives goes into the next one: so packs grow to what arrives during a request, by themselves, and a
//! file that came alone becomes an ordinary object. Full packs do not wait for one another. Nothing here waits: what may be in memory was
//! taken before (see `memory`).

use super::known::Known;
use super::{MAX_BUILT_BYTES, keys};
use crate::Bucket;
use crate::fault::Fault;
use crate::store::memory::Taken;
use crate::store::place::Place;
use crate::store::publish::{Ending, publish, unless};
use crate::store::stage::StagedObject;
use bytes::Bytes;
use model::Digest;
use opendal::Buffer;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;
use transfer::pack::{MemberId, MemberName, PackBuilder, PackError, PackId};
use transfer::packing::Packed;
use transfer::{GivenUp, Stored, TransferError};

/// Packs that are on their way at the same time.
const MAX_UNDER_WAY: usize = 4;

/// A small file, and who is told in the end.
pub(in crate::store) struct Arrival {
    pub(in crate::store) packed: Packed,
    /// With its object's texts, should it become one.
    pub(in crate::store) place: Place,
    pub(in crate::store) memory: Taken,
    pub(in crate::store) repeated: bool,
    /// Whether it is not wanted any more. Asked as long as it is alone: a pack holds others too.
    pub(in crate::store) given_up: GivenUp,
    pub(in crate::store) ending: Ending<Stored>,
}

type Building = PackBuilder<Vec<u8>, Waiter>;

/// Somebody who waits for a pack.
struct Waiter {
    name: MemberName,
    bytes: u64,
    digest: Option<Digest>,
    _memory: Taken,
    ending: Ending<Stored>,
}

enum Next {
    One(Box<Arrival>),
    Pack(Box<Building>),
}

#[derive(Default)]
struct State {
    next: Option<Next>,
    full: VecDeque<Box<Building>>,
    under_way: usize,
}

/// Takes members, and sends packs.
pub(super) struct Sealer {
    known: Arc<Known>,
    state: Mutex<State>,
}

impl Sealer {
    pub(super) fn new(known: Arc<Known>) -> Self {
        Self { known, state: Mutex::default() }
    }

    /// Takes a member for the pack that is next.
    pub(super) fn add(self: &Arc<Self>, bucket: &Arc<Bucket>, arrival: Arrival) {
        let lost = self.state.lock().append(bucket, arrival);
        if let Some((waiting, error)) = lost {
            fail_all(bucket, None, waiting, &Fault::strange(error.to_string()));
        }
        self.send_on(bucket);
    }

    /// Sends what may be sent now.
    fn send_on(self: &Arc<Self>, bucket: &Arc<Bucket>) {
        while let Some(next) = self.state.lock().take() {
            let (sealer, held) = (self.clone(), bucket.clone());
            bucket.engine().spawn(async move {
                let under_way = UnderWay { sealer: &sealer, bucket: &held };
                match next {
                    Next::One(arrival) => store_alone(&held, *arrival).await,
                    Next::Pack(pack) => sealer.store(&held, *pack).await,
                }
                drop(under_way);
            });
        }
    }

    async fn store(&self, bucket: &Arc<Bucket>, pack: Building) {
        let id = pack.id();
        let (sealed, waiting) = pack.seal();
        let content = match sealed {
            Ok(content) => Bytes::from(content),
            Err(error) => return fail_all(bucket, Some(id), waiting, &Fault::strange(error.to_string())),
        };
        // Before it is there: who looks for what an attempt left must not overlook it.
        self.known.sending(id, waiting.iter().map(|waiter| waiter.name).collect());
        let place = Place::new(keys::pack(id));
        let put = place.put(bucket, Buffer::from(content));
        let stored = bucket.in_time(put, |late| late).await;
        self.known.sent(id);
        match stored {
            Ok(_) => waiting.into_iter().for_each(|waiter| waiter.stored(id)),
            Err(fault) => fail_all(bucket, Some(id), waiting, &fault.of_bucket()),
        }
    }
}

impl State {
    /// What it gives back is lost: the pack could not be written on.
    fn append(&mut self, bucket: &Bucket, arrival: Arrival) -> Option<(Vec<Waiter>, PackError)> {
        let mut pack = match self.next.take() {
            None => {
                self.next = Some(Next::One(Box::new(arrival)));
                return None;
            }
            Some(Next::Pack(pack)) => pack,
            Some(Next::One(first)) => {
                let most = MAX_BUILT_BYTES.min(bucket.limits().upload_memory_bytes / 4);
                match PackBuilder::begin(PackId::new(SystemTime::now()), Vec::new(), most) {
                    Ok(mut pack) => match add(&mut pack, *first) {
                        Ok(()) => Box::new(pack),
                        Err(error) => {
                            self.next = Some(Next::One(Box::new(arrival)));
                            return Some((pack.into_waiting(), error));
                        }
                    },
                    Err(error) => {
                        self.next = Some(Next::One(first));
                        return Some((vec![Waiter::of(arrival).1], error));
                    }
                }
            }
        };
        if !pack.has_room_for(&arrival.packed.member) {
            self.full.push_back(pack);
            self.next = Some(Next::One(Box::new(arrival)));
            return None;
        }
        match add(&mut pack, arrival) {
            Ok(()) => {
                self.next = Some(Next::Pack(pack));
                None
            }
            Err(error) => Some((pack.into_waiting(), error)),
        }
    }

    /// What is full goes when there is room; what is not, when nothing else is on its way.
    fn take(&mut self) -> Option<Next> {
        let next = match self.full.pop_front() {
            Some(full) if self.under_way < MAX_UNDER_WAY => Some(Next::Pack(full)),
            Some(full) => {
                self.full.push_front(full);
                None
            }
            None if self.under_way == 0 => self.next.take(),
            None => None,
        };
        self.under_way += usize::from(next.is_some());
        next
    }
}

/// Ends in any case, also when the work panics or is dropped.
struct UnderWay<'a> {
    sealer: &'a Arc<Sealer>,
    bucket: &'a Arc<Bucket>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.sealer.state.lock().under_way -= 1;
        self.sealer.send_on(self.bucket);
    }
}

fn add(pack: &mut Building, arrival: Arrival) -> Result<(), PackError> {
    let (member, waiter) = Waiter::of(arrival);
    pack.add(&member, waiter)
}

impl Waiter {
    fn of(arrival: Arrival) -> (transfer::pack::NewMember, Self) {
        let Arrival { packed: Packed { member, bytes, digest }, memory, ending, .. } = arrival;
        let name = member.name();
        (member, Self { name, bytes, digest, _memory: memory, ending })
    }

    fn stored(self, pack: PackId) {
        let Self { name, bytes, digest, ending, .. } = self;
        let id = MemberId { pack, name }.object_id().map_err(TransferError::from);
        ending.tell(id.map(|id| Stored { id, bytes, digest, at: None }));
    }
}

fn fail_all(bucket: &Bucket, pack: Option<PackId>, waiting: Vec<Waiter>, fault: &Fault) {
    let path = bucket.path(&pack.map_or_else(|| keys::PACKS.to_owned(), keys::pack));
    for waiter in waiting {
        waiter.ending.tell(Err(fault.clone().into_error("store", path.clone())));
    }
}

/// As an object of its own.
async fn store_alone(bucket: &Arc<Bucket>, arrival: Arrival) {
    let Arrival { packed, place, memory, repeated, given_up, ending } = arrival;
    let path = place.key.clone();
    let late = |fault: Fault| fault.into_error("store", bucket.path(&path));
    ending.tell(match StagedObject::of_member(bucket, packed, (place, memory), repeated) {
        Ok(object) => unless(given_up, bucket.in_time(publish(bucket, object), late)).await,
        Err(error) => Err(error),
    });
}
