//! A cold storage class of S3, in front of a server that has none: objects whose content is refused until somebody asked for its thaw, and it took place.

use super::{Fault, FaultProxy, Reply, Request, RuleId, When};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const WARM: u8 = 0;
const COLD: u8 = 1;
const THAWING: u8 = 2;

const NOT_AT_ONCE: &str = "<Error><Code>InvalidObjectState</Code><Message>The operation is not valid for the object's storage class</Message></Error>";
const UNDERWAY: &str =
    "<Error><Code>RestoreAlreadyInProgress</Code><Message>Object restore is already in progress</Message></Error>";

/// The objects whose keys have a text in them. Thaws end when the test says so.
#[derive(Debug)]
pub struct Freezer {
    state: Arc<AtomicU8>,
    asked: RuleId,
}

impl Freezer {
    /// From now on the objects whose keys have `part` in them are cold for who asks by way of the proxy.
    pub fn put(proxy: &FaultProxy, part: &str) -> Self {
        let state = Arc::new(AtomicU8::new(COLD));
        let part = Arc::<str>::from(part);
        let when = |method: &'static str, wanted: u8| {
            let (state, part) = (Arc::clone(&state), Arc::clone(&part));
            let is_of = move |request: &Request| request.path.contains(&*part);
            When::method(method).and(is_of).and(move |_| wanted == state.load(Ordering::SeqCst))
        };
        for wanted in [COLD, THAWING] {
            proxy.add(when("GET", wanted), Fault::Answer(Reply::status(403).body(NOT_AT_ONCE)));
        }
        let ongoing = Fault::SetHeader("x-amz-restore", "ongoing-request=\"true\"".to_owned());
        proxy.add(when("HEAD", THAWING), ongoing);
        let underway = Fault::Answer(Reply::status(409).body(UNDERWAY));
        proxy.add(when("POST", THAWING).parameter("restore"), underway);
        let begin = Arc::clone(&state);
        let begins = move |_: &Request| {
            begin.store(THAWING, Ordering::SeqCst);
            true
        };
        let asked = proxy.add(when("POST", COLD).parameter("restore").and(begins), Fault::status(202));
        Self { state, asked }
    }

    /// How often a thaw was asked for, and begun by that.
    pub fn thaws(&self, proxy: &FaultProxy) -> usize {
        proxy.hits(self.asked)
    }

    /// The thaw is done.
    pub fn thaw(&self) {
        self.state.store(WARM, Ordering::SeqCst);
    }
}
