//! Virtual time, and the network between everything.

use crate::agents::{AgentNode, ToAgent};
use crate::hosts::{HostNode, ToHost};
use crate::plan::{Fault, LEASE_MS, Plan, STORM_MS};
use crate::random::Random;
use crate::server::Server;
use crate::truth::Truth;
use model::Class;
use sifaka_cluster::desk::PullId;
use sifaka_cluster::{Group, HostId, Lane, Pool, Terms};
use std::collections::BTreeMap;
use std::time::Duration;

/// After the storm everything ends within this.
const CALM_MS: u64 = 80 * LEASE_MS;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Node {
    Agent(usize),
    Host(usize),
}

/// What arrives at the server.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Publish { lane: Lane, msg_id: String, id: u64, serial: u32, payload: Vec<u8>, epoch: u64 },
    Delete { at: u64 },
    Ask { seq: u64, payload: Vec<u8> },
    Answer { host: usize, life: u64, seq: u64, payload: Vec<u8> },
    Tell { to: Option<u128>, payload: Vec<u8> },
    Pull { pull: PullId, lane: Lane, batch: u32, expires_ms: u64 },
    Ack { ack_to: String },
    Nak { ack_to: String, delay_ms: u64 },
    Register(HostId),
    Unregister(HostId),
    Lead { attempt: u64, expected: u64, value: Vec<u8> },
    ReadLeader,
    Members { epoch: u64 },
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    Server(Node, u64, Request),
    Agent(usize, u64, ToAgent),
    Host(usize, u64, ToHost),
    Wake(Node, u64),
    Fence(usize, u64),
    MoverEnds { host: usize, life: u64, run: u64 },
    Start(Node),
    Continue(Node, u64),
    Fault(Fault),
    Cancel(u64),
    Deliver,
}

/// What happened in histories: they have to be what they claim to be.
#[derive(Clone, Default, Debug)]
pub(crate) struct Counts {
    pub(crate) events: u64,
    pub(crate) messages: u64,
    pub(crate) crashes: u64,
    pub(crate) pauses: u64,
    pub(crate) cuts: u64,
    pub(crate) kills: u64,
    /// Runs that were cut off.
    pub(crate) losses: u64,
    pub(crate) takeovers: u64,
    /// Messages acknowledged, and works begun: the others were somebody else's, or done.
    pub(crate) acks: u64,
    pub(crate) grants: u64,
    pub(crate) cancelled: u64,
    /// Deliveries that a new server did not know of.
    pub(crate) forgotten: u64,
    pub(crate) done: u64,
    pub(crate) readers_waited: u64,
    pub(crate) longest_ms: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, more: &Self) {
        self.events += more.events;
        self.messages += more.messages;
        self.crashes += more.crashes;
        self.pauses += more.pauses;
        self.cuts += more.cuts;
        self.kills += more.kills;
        self.losses += more.losses;
        self.takeovers += more.takeovers;
        self.acks += more.acks;
        self.grants += more.grants;
        self.cancelled += more.cancelled;
        self.forgotten += more.forgotten;
        self.done += more.done;
        self.readers_waited += more.readers_waited;
        self.longest_ms = self.longest_ms.max(more.longest_ms);
    }
}

pub(crate) struct World {
    pub(crate) now: u64,
    order: u64,
    events: BTreeMap<(u64, u64), Event>,
    pub(crate) random: Random,
    pub(crate) plan: Plan,
    pub(crate) truth: Truth,
    pub(crate) server: Server,
    server_down_until: u64,
    pub(crate) agents: Vec<AgentNode>,
    pub(crate) hosts: Vec<HostNode>,
    pub(crate) counts: Counts,
    pub(crate) instances: u128,
    pub(crate) tells: bool,
}

pub(crate) fn terms() -> Terms {
    Terms::new(Duration::from_millis(LEASE_MS))
}

impl World {
    pub(crate) fn new(seed: u64, plan: Plan) -> Self {
        let mut random = Random::new(seed);
        let mut truth = Truth::default();
        let groups = ["any", "tape"].map(|name| Group::new(name).unwrap());
        for key in 1..=plan.actions {
            let class = Class::ALL[random.below(4) as usize];
            let group = groups[usize::from(random.chance(250))].clone();
            let pool = Pool { archive: random.between(1, 2) as u32, group };
            truth.add(key, pool, class, random.chance(plan.failing), random.chance(plan.poison));
        }
        let mut world = Self {
            now: 0,
            order: 0,
            events: BTreeMap::new(),
            random,
            truth,
            server: Server::default(),
            server_down_until: 0,
            agents: Vec::new(),
            hosts: Vec::new(),
            counts: Counts::default(),
            instances: 0,
            tells: false,
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for agent in 0..self.plan.agents {
            let offset = self.random.below(1_000_000);
            self.agents.push(AgentNode::new(offset));
            self.at(agent as u64, Event::Start(Node::Agent(agent)));
        }
        for host in 0..self.plan.hosts {
            let offset = self.random.below(1_000_000);
            // The first one is in each group, and has everything.
            let tape = host == 0 || self.random.chance(500);
            self.hosts.push(HostNode::new(offset, tape));
            let after = self.random.below(500);
            self.at(after, Event::Start(Node::Host(host)));
        }
        let weights: u64 = self.plan.kinds.iter().map(|(_, weight)| weight).sum();
        for _ in 0..self.plan.faults {
            let mut choice = self.random.below(weights.max(1));
            let at = self.random.below(STORM_MS);
            for (kind, weight) in self.plan.kinds {
                if choice < weight {
                    self.at(at, Event::Fault(kind));
                    break;
                }
                choice -= weight;
            }
        }
        for key in 1..=self.plan.actions {
            if self.random.chance(self.plan.cancels) {
                let at = self.random.below(STORM_MS / 2);
                self.at(at, Event::Cancel(key));
            }
        }
    }

    /// Lives through the history.
    pub(crate) fn run(mut self) -> Counts {
        let mut quiet_from = None;
        loop {
            let Some(((at, _), event)) = self.events.pop_first() else { panic!("nothing happens any more") };
            self.now = at;
            self.counts.events += 1;
            self.happen(event);
            if self.truth.all_done() && (self.plan.faults == 0 || self.now > STORM_MS) {
                let since = *quiet_from.get_or_insert(self.now);
                if self.now > since + 5 * LEASE_MS {
                    break;
                }
            }
            assert!(self.now < STORM_MS + CALM_MS, "it does not end: {}", self.remains());
        }
        self.check_end();
        self.counts.longest_ms = quiet_from.unwrap_or(0);
        self.counts.done = self.truth.actions.len() as u64;
        self.counts
    }

    fn check_end(&self) {
        assert!(self.server.stream.is_empty(), "{} messages stay in the stream", self.server.stream.len());
        for (host, node) in self.hosts.iter().enumerate() {
            let held = node.desk.as_ref().map_or(0, |desk| desk.held() + desk.running());
            assert_eq!(held, 0, "host {host} has works that nobody wants");
        }
        for node in &self.agents {
            assert_eq!(node.board.as_ref().map_or(0, sifaka_cluster::board::Board::in_flight), 0);
        }
        assert!(self.truth.actions.values().all(|todo| todo.running.is_empty()));
    }

    fn remains(&self) -> String {
        let left = self.truth.actions.iter().filter(|(_, todo)| todo.stage != crate::truth::Stage::Done);
        let left: Vec<_> =
            left.map(|(key, todo)| format!("{key} {} {:?} {:?}", todo.lane, todo.stage, todo.running)).collect();
        let waits: Vec<_> = self.agents.iter().flat_map(|node| &node.board).map(|board| board.waits_for()).collect();
        let desks: Vec<_> = self.hosts.iter().map(|node| format!("{:?}", node.desk)).collect();
        format!("{left:?}, waiting for {waits:?}; {}", desks.join("\n"))
    }

    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.tells {
            println!("{:>8} {}", self.now, what());
        }
    }

    pub(crate) fn at(&mut self, after: u64, event: Event) {
        self.order += 1;
        self.events.insert((self.now + after, self.order), event);
    }

    pub(crate) fn order_of_events(&self) -> u64 {
        self.order
    }

    pub(crate) fn is_storm(&self) -> bool {
        self.now < STORM_MS && self.plan.faults > 0
    }

    fn is_cut(&self, node: Node) -> bool {
        let until = match node {
            Node::Agent(agent) => self.agents[agent].cut_until,
            Node::Host(host) => self.hosts[host].cut_until,
        };
        until > self.now || self.server_down_until > self.now
    }

    /// Something travels between a node and the server, in either direction.
    pub(crate) fn travel(&mut self, node: Node, event: Event) {
        self.counts.messages += 1;
        if self.is_cut(node) {
            return;
        }
        let storm = self.is_storm();
        let copies = 1 + u64::from(storm && self.random.chance(self.plan.doubled));
        for _ in 0..copies {
            if storm && self.random.chance(self.plan.lost) {
                continue;
            }
            let late = storm && self.random.chance(self.plan.late);
            let delay = if late { self.random.below(self.plan.late_ms) } else { self.random.below(4) };
            self.at(delay, event.clone());
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            // The link may have been cut while it was under way.
            Event::Server(node, life, request) => {
                if !self.is_cut(node) {
                    self.serve(node, life, request);
                }
            }
            Event::Agent(agent, life, message) => {
                if !self.is_cut(Node::Agent(agent)) || matches!(message, ToAgent::Unknown { .. }) {
                    self.agent_hears(agent, life, message);
                }
            }
            Event::Host(host, life, message) => {
                if !self.is_cut(Node::Host(host)) || matches!(message, ToHost::Ended(..)) {
                    self.host_hears(host, life, message);
                }
            }
            Event::Wake(Node::Agent(agent), life) => self.agent_wakes(agent, life),
            Event::Wake(Node::Host(host), life) => self.host_wakes(host, life),
            Event::Fence(host, life) => self.watchdog(host, life),
            Event::MoverEnds { host, life, run } => self.mover_ends(host, life, run),
            Event::Start(Node::Agent(agent)) => self.start_agent(agent),
            Event::Start(Node::Host(host)) => self.start_host(host),
            Event::Continue(Node::Agent(agent), life) => self.continue_agent(agent, life),
            Event::Continue(Node::Host(host), life) => self.continue_host(host, life),
            Event::Fault(fault) => self.fault(fault),
            Event::Cancel(key) => self.cancel(key),
            Event::Deliver => self.deliver(),
        }
    }

    fn fault(&mut self, fault: Fault) {
        let host = self.random.below(self.hosts.len() as u64) as usize;
        let agent = self.random.below(self.agents.len() as u64) as usize;
        // Short ones, and such that outlast everything; none outlasts the storm.
        let long = self.random.chance(500);
        let time = if long { self.random.between(LEASE_MS, 5 * LEASE_MS) } else { self.random.below(LEASE_MS) };
        let time = time.min(STORM_MS.saturating_sub(self.now)).max(1);
        self.say(|| format!("FAULT {fault:?} host {host} agent {agent} for {time}"));
        match fault {
            Fault::HostCrash => self.crash_host(host, time),
            Fault::HostStop => self.stop_host(host, time, false),
            Fault::HostFreeze => self.stop_host(host, time, true),
            Fault::HostCut => {
                self.counts.cuts += 1;
                self.hosts[host].cut_until = self.now + time;
            }
            Fault::HostDrain => self.drain_host(host),
            Fault::AgentCrash => self.crash_agent(agent, time),
            Fault::AgentStop => self.stop_agent(agent, time),
            Fault::AgentCut => {
                self.counts.cuts += 1;
                self.agents[agent].cut_until = self.now + time;
            }
            Fault::Failover => {
                let down = self.random.below(2_000).min(time);
                self.server_down_until = self.now + down;
                let loses = self.random.chance(300);
                self.counts.forgotten += self.server.fail_over(self.now, &mut self.random, loses);
                self.at(down, Event::Deliver);
            }
        }
    }

    fn serve(&mut self, node: Node, life: u64, request: Request) {
        match request {
            Request::Publish { lane, msg_id, id, serial, payload, epoch } => {
                let at = self.server.publish(lane, msg_id, payload);
                self.reply(node, life, ToAgent::Published { epoch, id, serial, at });
                self.deliver();
            }
            Request::Delete { at } => {
                self.server.stream.remove(&at);
            }
            Request::Ask { seq, payload } => {
                let Node::Host(host) = node else { unreachable!() };
                self.counts.messages += 1;
                // Whoever subscribes gets it: an agent that leads, or thinks so.
                for agent in 0..self.agents.len() {
                    if self.agents[agent].subscribes() {
                        let reply_to = format!("{host}.{life}.{seq}");
                        let event = Event::Agent(
                            agent,
                            self.agents[agent].life,
                            ToAgent::Ask { reply_to, payload: payload.clone() },
                        );
                        self.travel(Node::Agent(agent), event);
                    }
                }
            }
            Request::Answer { host, life, seq, payload } => {
                self.travel(Node::Host(host), Event::Host(host, life, ToHost::Answer { seq, payload }));
            }
            Request::Tell { to, payload } => {
                for host in 0..self.hosts.len() {
                    let node = &self.hosts[host];
                    let is_meant = to.is_none_or(|to| node.desk.as_ref().is_some_and(|desk| desk.id().instance == to));
                    if is_meant {
                        let event = Event::Host(host, node.life, ToHost::Told(payload.clone()));
                        self.travel(Node::Host(host), event);
                    }
                }
            }
            Request::Pull { pull, lane, batch, expires_ms } => {
                let Node::Host(host) = node else { unreachable!() };
                self.server.pull(host, life, pull, lane, batch, self.now + expires_ms);
                self.at(expires_ms, Event::Deliver);
                self.deliver();
            }
            Request::Ack { ack_to } => self.server.ack(&ack_to),
            Request::Nak { ack_to, delay_ms } => {
                self.server.nak(&ack_to, self.now + delay_ms);
                self.at(delay_ms, Event::Deliver);
            }
            Request::Register(id) => {
                self.server.members.insert(id);
                self.server.members.retain(|other| other.instance != id.instance || other.session >= id.session);
                let Node::Host(host) = node else { unreachable!() };
                self.travel(node, Event::Host(host, life, ToHost::Registered(id)));
            }
            Request::Unregister(id) => {
                self.server.members.remove(&id);
            }
            Request::Lead { attempt, expected, value } => {
                let revision = self.server.write_leader(expected, value);
                self.reply(node, life, ToAgent::Written { attempt, revision });
            }
            Request::ReadLeader => {
                let value = self.server.leader.clone();
                self.reply(node, life, ToAgent::Leader(value));
            }
            Request::Members { epoch } => {
                let members = self.server.members.iter().copied().collect();
                self.reply(node, life, ToAgent::Members { epoch, members });
            }
        }
    }

    fn reply(&mut self, node: Node, life: u64, message: ToAgent) {
        let Node::Agent(agent) = node else { unreachable!() };
        self.travel(node, Event::Agent(agent, life, message));
    }

    fn deliver(&mut self) {
        if self.server_down_until > self.now {
            return;
        }
        let (deliveries, over) = self.server.deliver(self.now);
        for delivery in deliveries {
            let message = ToHost::Delivered { pull: delivery.pull, ack_to: delivery.ack_to, payload: delivery.payload };
            self.travel(Node::Host(delivery.host), Event::Host(delivery.host, delivery.life, message));
            self.at(crate::server::ACK_WAIT_MS + 1, Event::Deliver);
        }
        for (host, life, pull) in over {
            self.travel(Node::Host(host), Event::Host(host, life, ToHost::PullEnded(pull)));
        }
    }
}
