//! What many hosts cost: one board and many desks in virtual time, with a perfect network of 1 ms each way, so that what is counted is the protocol's own.
//!
//! `cargo run --release -p sifaka-cluster --example scale -- [hosts] [credits] [actions] [mover_ms]`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for measuring")]

use model::{ActionId, Command, Extent, Identity, Outcome};
use proto::{Capabilities, Instruction, Task};
use sifaka_cluster::board::{self, Board};
use sifaka_cluster::desk::{self, Desk};
use sifaka_cluster::{Group, Lane, Pool, Served, Terms, Time};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// What arrives somewhere.
enum Event {
    Ask(usize, u64, Vec<u8>),
    Answer(usize, u64, Vec<u8>),
    Published(u64, u32),
    Work(usize, u64, Vec<u8>),
    Ended(usize, u64),
    Wake(usize),
    BoardWakes,
}

#[derive(Default, Debug)]
struct Counts {
    publishes: u64,
    publish_bytes: u64,
    pulls: u64,
    deliveries: u64,
    acks: u64,
    asks: u64,
    ask_bytes: u64,
    answer_bytes: u64,
    stream_peak: usize,
    results: u64,
}

struct Scale {
    now: u64,
    order: u64,
    events: BTreeMap<(u64, u64), Event>,
    board: Board,
    desks: Vec<Desk>,
    stream: BTreeMap<Lane, VecDeque<Vec<u8>>>,
    waiting: BTreeMap<Lane, VecDeque<(usize, u64, u32)>>,
    in_stream: usize,
    mover_ms: u64,
    counts: Counts,
    board_time: Duration,
}

fn task(id: u64) -> Task {
    Task {
        id: ActionId(id),
        command: Command::Archive,
        primary_path: format!(".lustre/fid/0x200000401:{id:#x}:0x0"),
        write_path: String::new(),
        extent: Extent::WHOLE,
        data: Vec::new(),
        identity: Identity { uuid: format!("{id:036}"), ..Identity::default() },
        file_path: format!("/mnt/lustre/projects/some/where/file-{id}"),
        expected_size: Some(1 << 20),
        tree_path: format!("projects/some/where/file-{id}").into_bytes(),
        attempted_since_ms: 0,
        metadata_only: false,
        owner: 1000,
        reader_waits: false,
        sync_target: true,
    }
}

impl Scale {
    fn at(&mut self, after: u64, event: Event) {
        self.order += 1;
        self.events.insert((self.now + after, self.order), event);
    }

    fn deliver(&mut self, lane: &Lane) {
        let (Some(stream), Some(waiting)) = (self.stream.get_mut(lane), self.waiting.get_mut(lane)) else { return };
        let mut out = Vec::new();
        while let (Some(_), Some((host, pull, left))) = (stream.front(), waiting.front_mut()) {
            *left -= 1;
            out.extend(stream.pop_front().map(|payload| (*host, *pull, payload)));
            if *left == 0 {
                waiting.pop_front();
            } else {
                waiting.rotate_left(1);
            }
        }
        for (host, pull, payload) in out {
            self.counts.deliveries += 1;
            self.at(1, Event::Work(host, pull, payload));
        }
    }

    fn board_acts(&mut self) {
        while let Some(output) = self.board.next_output() {
            match output {
                board::Output::Publish { lane, id, serial, payload, .. } => {
                    self.counts.publishes += 1;
                    self.counts.publish_bytes += payload.len() as u64;
                    self.in_stream += 1;
                    self.counts.stream_peak = self.counts.stream_peak.max(self.in_stream);
                    self.stream.entry(lane.clone()).or_default().push_back(payload);
                    self.at(1, Event::Published(id, serial));
                    self.deliver(&lane);
                }
                board::Output::Answer { reply_to, payload } => {
                    self.counts.answer_bytes += payload.len() as u64;
                    let (host, seq) = reply_to.split_once('.').unwrap();
                    self.at(1, Event::Answer(host.parse().unwrap(), seq.parse().unwrap(), payload));
                }
                board::Output::Status { status, .. } => self.counts.results += u64::from(status.completed),
                _ => {}
            }
        }
    }

    fn desk_acts(&mut self, host: usize) {
        let now = Time(self.now);
        while let Some(output) = self.desks[host].next_output() {
            match output {
                desk::Output::Register(id) => self.desks[host].registered(now, id),
                desk::Output::Ask { seq, payload } => {
                    self.counts.asks += 1;
                    self.counts.ask_bytes += payload.len() as u64;
                    self.at(1, Event::Ask(host, seq, payload));
                }
                desk::Output::Pull { id, lane, batch, .. } => {
                    self.counts.pulls += 1;
                    self.waiting.entry(lane.clone()).or_default().push_back((host, id, batch));
                    self.deliver(&lane);
                }
                desk::Output::Ack { .. } => {
                    self.counts.acks += 1;
                    self.in_stream -= 1;
                }
                desk::Output::Run { key, .. } => {
                    let time = self.mover_ms / 2 + (key * 7919) % self.mover_ms.max(1);
                    self.at(time, Event::Ended(host, key));
                }
                _ => {}
            }
        }
    }

    fn happen(&mut self, event: Event) {
        let now = Time(self.now);
        let begun = Instant::now();
        match event {
            Event::Ask(host, seq, payload) => self.board.hear(now, format!("{host}.{seq}"), &payload),
            Event::Published(id, serial) => self.board.published(now, id, serial, Some(id)),
            Event::BoardWakes => {
                self.board.tick(now);
                self.at(2_000, Event::BoardWakes);
            }
            Event::Answer(host, seq, payload) => {
                self.desks[host].answered(now, seq, &payload);
                return self.desk_acts(host);
            }
            Event::Work(host, pull, payload) => {
                self.desks[host].delivered(now, pull, "$JS.ACK.stream.consumer.1.2.3.4.5".into(), &payload);
                return self.desk_acts(host);
            }
            Event::Ended(host, key) => {
                self.desks[host].ended(now, key, Outcome::Removed);
                return self.desk_acts(host);
            }
            Event::Wake(host) => {
                self.desks[host].tick(now);
                let after = self.desks[host].wake_at(now).0.saturating_sub(self.now).max(1);
                self.at(after, Event::Wake(host));
                return self.desk_acts(host);
            }
        }
        self.board_acts();
        self.board_time += begun.elapsed();
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|arg| arg.parse::<u64>().unwrap());
    let mut next = |default| numbers.next().unwrap_or(default);
    let (hosts, credits, actions, mover_ms) = (next(1000), next(16), next(200_000), next(1000));
    let terms = Terms::new(Duration::from_secs(30));
    let pool = Pool { archive: 1, group: Group::any() };
    let mut scale = Scale {
        now: 0,
        order: 0,
        events: BTreeMap::new(),
        board: Board::new(1, terms, Some(Vec::new()), Time(u64::MAX), Time(0)),
        desks: Vec::new(),
        stream: BTreeMap::new(),
        waiting: BTreeMap::new(),
        in_stream: 0,
        mover_ms,
        counts: Counts::default(),
        board_time: Duration::ZERO,
    };
    let empty = resident_bytes();
    for host in 0..hosts as usize {
        let identity = desk::Identity {
            instance: host as u128 + 1,
            name: format!("host{host}"),
            software: "sifaka".into(),
            groups: Vec::new(),
            labels: Vec::new(),
        };
        let mut desk = Desk::new(identity, terms, Time(0));
        desk.serve(
            Time(0),
            vec![Served { archive: 1, capabilities: Capabilities::default(), credits: credits as u32 }],
        );
        scale.desks.push(desk);
        scale.at(host as u64 % 5000, Event::Wake(host));
    }
    scale.at(1, Event::BoardWakes);
    while scale.now < 20_000 {
        let ((at, _), event) = scale.events.pop_first().unwrap();
        scale.now = at;
        scale.happen(event);
    }
    println!("{hosts} hosts, idle: {} KiB resident for board and desks", (resident_bytes() - empty) / 1024);
    let (asks, pulls) = (scale.counts.asks, scale.counts.pulls);
    while scale.now < 80_000 {
        let ((at, _), event) = scale.events.pop_first().unwrap();
        scale.now = at;
        scale.happen(event);
    }
    let per_second = |n: u64| n as f64 / 60.0;
    println!(
        "idle, each second: {:.0} asks, {:.0} pulls",
        per_second(scale.counts.asks - asks),
        per_second(scale.counts.pulls - pulls)
    );
    let (begun, mut offered) = (scale.now, 0);
    scale.counts = Counts::default();
    scale.board_time = Duration::ZERO;
    let window = hosts * (credits + credits / 8 + 1);
    let mut resident = 0;
    while scale.counts.results < actions {
        while offered < actions && offered - scale.counts.results < window {
            offered += 1;
            let item = Instruction::Run(task(offered)).into();
            scale.board.offer(Time(scale.now), 0, pool.clone(), item).unwrap();
        }
        scale.board_acts();
        if offered == window {
            resident = resident_bytes();
        }
        let ((at, _), event) = scale.events.pop_first().unwrap();
        scale.now = at;
        scale.happen(event);
    }
    let Counts {
        publishes,
        publish_bytes,
        pulls,
        deliveries,
        acks,
        asks,
        ask_bytes,
        answer_bytes,
        stream_peak,
        results,
    } = scale.counts;
    let each = |n: u64| n as f64 / results as f64;
    let virtual_s = (scale.now - begun) as f64 / 1000.0;
    println!(
        "{results} actions of {mover_ms} ms in {virtual_s:.1} s of virtual time: {:.0} a second; most that fits: {:.0}",
        results as f64 / virtual_s,
        (hosts * credits) as f64 * 1000.0 / mover_ms as f64
    );
    println!(
        "messages for an action: {:.2} publishes (and as many answers of the server), {:.2} deliveries, {:.2} acks, {:.2} pulls, {:.2} asks (and as many answers)",
        each(publishes),
        each(deliveries),
        each(acks),
        each(pulls),
        each(asks)
    );
    println!(
        "bytes for an action: {:.0} published, {:.0} asked, {:.0} answered",
        each(publish_bytes),
        each(ask_bytes),
        each(answer_bytes)
    );
    println!(
        "at most in the stream: {stream_peak}; window {window}; resident with it full: {} MiB",
        resident / 1024 / 1024
    );
    println!(
        "board: {:.1} us of this machine for an action: one core does {:.0} a second",
        scale.board_time.as_secs_f64() * 1e6 / results as f64,
        results as f64 / scale.board_time.as_secs_f64()
    );
}
