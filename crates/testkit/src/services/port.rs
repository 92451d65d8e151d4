//! TCP ports for servers that have to be told theirs.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::Random;
use crate::random::fresh_seed;

/// Below those that the kernel gives to outgoing connections and to whoever asks for any.
const FIRST: u16 = 20_000;
const LAST: u16 = 31_999;

/// A port of 127.0.0.1 on which nothing listened when it was chosen, and that no other test chooses as long as this
/// value lives: also not while the server that used it is dead and about to be started again.
///
/// Between tests the claim is a name in the abstract namespace of Unix sockets. The kernel takes it back when the test
/// ends, however it ends, and has one such namespace for each namespace of ports.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Never accepts; its name is the claim.
    _claim: UnixListener,
}

impl Port {
    /// Claims one.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn claim() -> Self {
        let count = u64::from(LAST - FIRST) + 1;
        let start = Random::new(fresh_seed()).within(0..count);
        let mut candidates =
            (0..count).filter_map(|step| u16::try_from(u64::from(FIRST) + (start + step) % count).ok());
        candidates.find_map(Self::claim_number).expect("a free port")
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    fn claim_number(number: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("sifaka-test-port-{number}")).ok()?;
        let claim = UnixListener::bind_addr(&name).ok()?;
        // A server of a test that was killed may hold it for a moment longer, or somebody who knows nothing of claims.
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _claim: claim })
    }
}
