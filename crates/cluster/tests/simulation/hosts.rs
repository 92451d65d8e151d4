//! The hosts: a desk, movers that take their time, and a watchdog that a stopped process cannot stop.

use crate::world::{Event, Node, Request, World, terms};
use model::{Failure, Outcome};
use proto::Capabilities;
use sifaka_cluster::desk::{Desk, Identity, Output, PullId};
use sifaka_cluster::{Group, HostId, Served, Time};
use std::collections::BTreeMap;

/// What arrives at a host.
#[derive(Clone, Debug)]
pub(crate) enum ToHost {
    Answer {
        seq: u64,
        payload: Vec<u8>,
    },
    Delivered {
        pull: PullId,
        ack_to: String,
        payload: Vec<u8>,
    },
    PullEnded(PullId),
    Told(Vec<u8>),
    Registered(HostId),
    /// A mover is done.
    Ended(u64, Outcome),
}

struct Run {
    action: u64,
    key: u64,
    started: bool,
    cancelled: bool,
    fails: bool,
}

pub(crate) struct HostNode {
    pub(crate) life: u64,
    up: bool,
    stopped: bool,
    frozen: bool,
    pub(crate) cut_until: u64,
    mailbox: Vec<ToHost>,
    /// Ends of movers while the machine stood still.
    late_ends: Vec<u64>,
    offset: u64,
    tape: bool,
    pub(crate) desk: Option<Desk>,
    runs: BTreeMap<u64, Run>,
    last_run: u64,
    /// What the watchdog was told.
    fence: Option<Time>,
    /// Not confirmed yet.
    registers: Option<HostId>,
    wake: u64,
}

impl HostNode {
    pub(crate) fn new(offset: u64, tape: bool) -> Self {
        Self {
            life: 0,
            up: false,
            stopped: false,
            frozen: false,
            cut_until: 0,
            mailbox: Vec::new(),
            late_ends: Vec::new(),
            offset,
            tape,
            desk: None,
            runs: BTreeMap::new(),
            last_run: 0,
            fence: None,
            registers: None,
            wake: 0,
        }
    }
}

impl HostNode {
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen
    }
}

impl World {
    fn host_time(&self, host: usize) -> Time {
        Time(self.now + self.hosts[host].offset)
    }

    pub(crate) fn start_host(&mut self, host: usize) {
        if self.hosts[host].up {
            return;
        }
        self.instances += 1;
        let now = self.host_time(host);
        let credits = self.plan.slots as u32;
        let node = &mut self.hosts[host];
        let identity = Identity {
            instance: self.instances,
            name: format!("host {host}"),
            software: "simulation".into(),
            groups: if node.tape { vec![Group::new("tape").unwrap()] } else { Vec::new() },
            labels: Vec::new(),
        };
        let mut desk = Desk::new(identity, terms(), now);
        let served = |archive| Served { archive, capabilities: Capabilities::default(), credits };
        desk.serve(now, vec![served(1), served(2)]);
        node.life += 1;
        node.up = true;
        node.stopped = false;
        node.frozen = false;
        node.desk = Some(desk);
        node.fence = None;
        node.registers = None;
        node.wake = 0;
        self.host_acts(host);
    }

    pub(crate) fn crash_host(&mut self, host: usize, down: u64) {
        self.counts.crashes += 1;
        if self.hosts[host].up {
            self.say(|| format!("host {host} crashes"));
            self.end_process(host);
            self.at(down, Event::Start(Node::Host(host)));
        }
    }

    /// Movers die with their host's process.
    fn end_process(&mut self, host: usize) {
        let node = &mut self.hosts[host];
        node.up = false;
        node.life += 1;
        node.desk = None;
        node.mailbox.clear();
        node.late_ends.clear();
        for run in std::mem::take(&mut node.runs).into_values().filter(|run| run.started) {
            self.counts.losses += 1;
            self.truth.ends(run.action, host);
        }
    }

    pub(crate) fn stop_host(&mut self, host: usize, time: u64, machine: bool) {
        self.counts.pauses += 1;
        let node = &mut self.hosts[host];
        if node.up && !node.stopped {
            node.stopped = true;
            node.frozen = machine;
            let life = node.life;
            self.at(time, Event::Continue(Node::Host(host), life));
        }
    }

    pub(crate) fn continue_host(&mut self, host: usize, life: u64) {
        if self.hosts[host].life != life {
            return;
        }
        self.say(|| format!("host {host} goes on"));
        let now = self.host_time(host);
        let frozen = std::mem::take(&mut self.hosts[host].frozen);
        self.hosts[host].stopped = false;
        self.hosts[host].wake = 0;
        if frozen {
            // The watchdog is as quick as the movers.
            self.watchdog(host, life);
            let frozen: Vec<bool> = self.hosts.iter().map(HostNode::is_frozen).collect();
            self.truth.thawed(host, |other| frozen[other]);
            for run in std::mem::take(&mut self.hosts[host].late_ends) {
                self.mover_ends(host, life, run);
            }
        }
        if let Some(desk) = &mut self.hosts[host].desk {
            desk.tick(now);
        }
        self.host_acts(host);
        for message in std::mem::take(&mut self.hosts[host].mailbox) {
            self.host_hears(host, life, message);
        }
    }

    pub(crate) fn drain_host(&mut self, host: usize) {
        let now = self.host_time(host);
        let node = &mut self.hosts[host];
        if let Some(desk) = node.desk.as_mut().filter(|_| node.up && !node.stopped) {
            desk.drain(now);
            self.host_acts(host);
        }
    }

    pub(crate) fn host_wakes(&mut self, host: usize, life: u64) {
        let now = self.host_time(host);
        let node = &mut self.hosts[host];
        if node.life != life || !node.up || node.stopped {
            return;
        }
        node.wake = 0;
        if let Some(desk) = &mut node.desk {
            desk.tick(now);
        }
        if let Some(id) = node.registers {
            self.host_sends(host, Request::Register(id));
        }
        self.host_acts(host);
    }

    pub(crate) fn host_hears(&mut self, host: usize, life: u64, message: ToHost) {
        let now = self.host_time(host);
        let node = &mut self.hosts[host];
        if node.life != life || !node.up {
            return;
        }
        if node.stopped {
            return node.mailbox.push(message);
        }
        let Some(desk) = &mut node.desk else { return };
        match message {
            ToHost::Answer { seq, payload } => desk.answered(now, seq, &payload),
            ToHost::Delivered { pull, ack_to, payload } => desk.delivered(now, pull, ack_to, &payload),
            ToHost::PullEnded(pull) => desk.pull_ended(now, pull),
            ToHost::Told(payload) => desk.told(now, &payload),
            ToHost::Registered(id) => {
                node.registers.take_if(|registers| *registers == id);
                desk.registered(now, id);
            }
            ToHost::Ended(key, outcome) => desk.ended(now, key, outcome),
        }
        self.host_acts(host);
    }

    fn host_sends(&mut self, host: usize, request: Request) {
        let life = self.hosts[host].life;
        self.travel(Node::Host(host), Event::Server(Node::Host(host), life, request));
    }

    fn host_acts(&mut self, host: usize) {
        while let Some(output) = self.hosts[host].desk.as_mut().and_then(Desk::next_output) {
            self.desk_wants(host, output);
        }
        self.start_movers(host);
        self.tell_watchdog(host);
        let now = self.host_time(host);
        let node = &mut self.hosts[host];
        let Some(desk) = &node.desk else { return };
        let most = 2 * self.plan.slots + 2 * 2 * 4;
        assert!(desk.held() as u64 <= most + 2 * self.plan.slots, "host {host} holds {}", desk.held());
        let at = desk.wake_at(now).0.saturating_sub(node.offset).max(self.now + 1);
        if node.wake == 0 || at < node.wake {
            node.wake = at;
            let life = node.life;
            let after = at - self.now;
            self.at(after, Event::Wake(Node::Host(host), life));
        }
    }

    fn desk_wants(&mut self, host: usize, output: Output) {
        match output {
            Output::Register(id) => {
                self.hosts[host].registers = Some(id);
                self.host_sends(host, Request::Register(id));
            }
            Output::Ask { seq, payload } => self.host_sends(host, Request::Ask { seq, payload }),
            Output::Pull { id, lane, batch, expires } => {
                let expires_ms = expires.as_millis() as u64;
                self.host_sends(host, Request::Pull { pull: id, lane, batch, expires_ms });
            }
            Output::Ack { ack_to } => {
                self.counts.acks += 1;
                self.host_sends(host, Request::Ack { ack_to });
            }
            Output::GiveBack { ack_to, delay } => {
                self.host_sends(host, Request::Nak { ack_to, delay_ms: delay.as_millis() as u64 });
            }
            Output::Run { key, task, .. } => {
                self.counts.grants += 1;
                let action: u64 = task.file_path.parse().unwrap();
                self.say(|| format!("host {host} is to run action {action} (work {}) as {key}", task.id));
                let fails = self.truth.actions[&action].fails;
                let node = &mut self.hosts[host];
                node.last_run += 1;
                node.runs.insert(node.last_run, Run { action, key, started: false, cancelled: false, fails });
            }
            Output::Cancel(keys) => self.cancel_runs(host, &keys),
            Output::KillMovers => {
                self.say(|| format!("host {host} kills its movers"));
                self.kill_movers(host);
            }
            Output::Left(id) => {
                self.say(|| format!("host {host} has left"));
                self.host_sends(host, Request::Unregister(id));
                self.end_process(host);
                let after = self.random.below(5_000);
                self.at(after, Event::Start(Node::Host(host)));
            }
        }
    }

    fn start_movers(&mut self, host: usize) {
        let frozen: Vec<bool> = self.hosts.iter().map(HostNode::is_frozen).collect();
        loop {
            let node = &mut self.hosts[host];
            let busy = node.runs.values().filter(|run| run.started).count();
            if busy as u64 >= 2 * self.plan.slots {
                return;
            }
            let Some((&number, run)) = node.runs.iter_mut().find(|(_, run)| !run.started) else { return };
            run.started = true;
            let action = run.action;
            let life = node.life;
            self.say(|| format!("host {host} begins action {action}"));
            self.truth.starts(action, host, |other| frozen[other]);
            self.check_reader(action);
            let time = self.random.below(self.plan.longest_ms);
            self.at(time, Event::MoverEnds { host, life, run: number });
            if self.truth.actions[&action].poison {
                self.crash_host(host, 500);
                return;
            }
        }
    }

    /// Without faults, a reader's restore is behind no more than twice what all pools' credits let be under way: what was there before it, and what went into
    /// requests of other lanes that waited already.
    fn check_reader(&mut self, action: u64) {
        let slots = self.plan.slots;
        let window = self.hosts.len() as u64 * 2 * 2 * (slots + slots / 8 + 1);
        if let Some(overtaken) = self.truth.overtaken(action).filter(|_| self.plan.faults == 0) {
            self.counts.readers_waited += u64::from(overtaken > 0);
            assert!(
                overtaken <= 2 * window,
                "{overtaken} works began before a reader's restore, {window} may be under way"
            );
        }
    }

    pub(crate) fn mover_ends(&mut self, host: usize, life: u64, number: u64) {
        let node = &mut self.hosts[host];
        if node.life != life || !node.up {
            return;
        }
        if node.frozen {
            return node.late_ends.push(number);
        }
        if !node.runs.get(&number).is_some_and(|run| run.started) {
            return;
        }
        let run = node.runs.remove(&number).unwrap();
        self.say(|| format!("host {host} ends action {}", run.action));
        self.truth.ends(run.action, host);
        let outcome = match (run.cancelled, run.fails) {
            (true, _) => Outcome::Failed(Failure::cancelled()),
            (false, true) => Outcome::Failed(Failure::permanent(5, "no")),
            (false, false) => Outcome::Removed,
        };
        self.at(0, Event::Host(host, life, ToHost::Ended(run.key, outcome)));
        if !self.hosts[host].stopped {
            self.start_movers(host);
        }
    }

    fn cancel_runs(&mut self, host: usize, keys: &[u64]) {
        let life = self.hosts[host].life;
        let runs: Vec<u64> = self.hosts[host]
            .runs
            .iter()
            .filter(|(_, run)| keys.contains(&run.key))
            .map(|(&number, _)| number)
            .collect();
        for number in runs {
            // Some movers cannot cancel.
            let obeys = self.random.chance(800);
            let after = self.random.below(300);
            let node = &mut self.hosts[host];
            let run = node.runs.get_mut(&number).unwrap();
            if !run.started {
                let run = node.runs.remove(&number).unwrap();
                self.at(0, Event::Host(host, life, ToHost::Ended(run.key, Outcome::Failed(Failure::cancelled()))));
            } else if obeys {
                run.cancelled = true;
                self.at(after, Event::MoverEnds { host, life, run: number });
            }
        }
    }

    /// All at once; what was not cancelled is begun again, or given up.
    fn kill_movers(&mut self, host: usize) {
        self.counts.kills += 1;
        let life = self.hosts[host].life;
        let wanted = self.hosts[host].desk.is_some();
        for run in std::mem::take(&mut self.hosts[host].runs).into_values() {
            if run.started {
                self.counts.losses += 1;
                self.truth.ends(run.action, host);
            }
            let outcome = if run.cancelled { Failure::cancelled() } else { Failure::temporary(107, "killed") };
            if wanted {
                self.at(0, Event::Host(host, life, ToHost::Ended(run.key, Outcome::Failed(outcome))));
            }
        }
    }

    fn tell_watchdog(&mut self, host: usize) {
        let node = &mut self.hosts[host];
        let fence = node.desk.as_ref().and_then(Desk::fence_at);
        if node.fence != fence {
            node.fence = fence;
            let (life, offset) = (node.life, node.offset);
            if let Some(at) = fence {
                let after = at.0.saturating_sub(offset).saturating_sub(self.now);
                self.at(after, Event::Fence(host, life));
            }
        }
    }

    pub(crate) fn watchdog(&mut self, host: usize, life: u64) {
        let now = self.host_time(host);
        let node = &self.hosts[host];
        if node.life == life && node.up && !node.frozen && node.fence.is_some_and(|at| at <= now) {
            self.say(|| format!("host {host}: the watchdog kills its movers"));
            self.kill_movers(host);
        }
    }
}
