//! The agents: each wants the lead, and who has it gives what is to be done to a board.

use crate::truth::Stage;
use crate::world::{Event, Node, Request, World, terms};
use proto::cluster::Member;
use sifaka_cluster::board::{Board, Output};
use sifaka_cluster::lease::{self, Contender, Written};
use sifaka_cluster::{HostId, Pool, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// What arrives at an agent.
#[derive(Clone, Debug)]
pub(crate) enum ToAgent {
    Ask {
        reply_to: String,
        payload: Vec<u8>,
    },
    Published {
        epoch: u64,
        id: u64,
        serial: u32,
        at: u64,
    },
    /// There was no answer to a publication, perhaps.
    Unknown {
        epoch: u64,
        id: u64,
        serial: u32,
    },
    Written {
        attempt: u64,
        revision: Option<u64>,
    },
    Leader(Option<(u64, Vec<u8>)>),
    Members {
        epoch: u64,
        members: Vec<HostId>,
    },
}

pub(crate) struct AgentNode {
    pub(crate) life: u64,
    up: bool,
    stopped: bool,
    pub(crate) cut_until: u64,
    mailbox: Vec<ToAgent>,
    offset: u64,
    contender: Option<Contender>,
    pub(crate) board: Option<Board>,
    /// It leads, and has yet to read the registry.
    leads: Option<(u64, Time)>,
    epoch: u64,
    last_id: u64,
    given: BTreeMap<u64, u64>,
    credits: BTreeMap<Pool, u32>,
    wake: u64,
}

impl AgentNode {
    pub(crate) fn new(offset: u64) -> Self {
        Self {
            life: 0,
            up: false,
            stopped: false,
            cut_until: 0,
            mailbox: Vec::new(),
            offset,
            contender: None,
            board: None,
            leads: None,
            epoch: 0,
            last_id: 0,
            given: BTreeMap::new(),
            credits: BTreeMap::new(),
            wake: 0,
        }
    }

    pub(crate) fn subscribes(&self) -> bool {
        self.up && self.board.is_some()
    }
}

impl World {
    fn agent_time(&self, agent: usize) -> Time {
        Time(self.now + self.agents[agent].offset)
    }

    pub(crate) fn start_agent(&mut self, agent: usize) {
        if self.agents[agent].up {
            return;
        }
        self.instances += 1;
        let ttl = Duration::from_millis(self.plan.ttl_ms);
        let contender = Contender::new(self.instances, format!("agent {agent}"), ttl);
        let node = &mut self.agents[agent];
        node.life += 1;
        node.up = true;
        node.stopped = false;
        node.contender = Some(contender);
        node.wake = 0;
        self.agent_wakes(agent, self.agents[agent].life);
    }

    pub(crate) fn crash_agent(&mut self, agent: usize, down: u64) {
        self.counts.crashes += 1;
        let node = &mut self.agents[agent];
        if node.up {
            node.up = false;
            node.life += 1;
            node.board = None;
            node.contender = None;
            node.leads = None;
            node.given.clear();
            node.credits.clear();
            node.mailbox.clear();
            let now = self.now;
            self.truth.orphan(now, |of, _| of == agent);
            self.at(down, Event::Start(Node::Agent(agent)));
        }
    }

    pub(crate) fn stop_agent(&mut self, agent: usize, time: u64) {
        self.counts.pauses += 1;
        let node = &mut self.agents[agent];
        if node.up && !node.stopped {
            node.stopped = true;
            let life = node.life;
            self.at(time, Event::Continue(Node::Agent(agent), life));
        }
    }

    pub(crate) fn continue_agent(&mut self, agent: usize, life: u64) {
        if self.agents[agent].life != life {
            return;
        }
        self.agents[agent].stopped = false;
        self.agents[agent].wake = 0;
        for message in std::mem::take(&mut self.agents[agent].mailbox) {
            self.agent_hears(agent, life, message);
        }
        self.agent_wakes(agent, life);
    }

    pub(crate) fn agent_wakes(&mut self, agent: usize, life: u64) {
        let now = self.agent_time(agent);
        let node = &mut self.agents[agent];
        if node.life != life || !node.up || node.stopped {
            return;
        }
        node.wake = 0;
        if let Some(contender) = &mut node.contender {
            contender.tick(now);
        }
        if let Some(board) = &mut node.board {
            board.tick(now);
        }
        let leads = node.leads;
        self.agent_sends(agent, Request::ReadLeader);
        if let Some((epoch, _)) = leads {
            self.agent_sends(agent, Request::Members { epoch });
        }
        self.agent_acts(agent);
    }

    fn agent_sends(&mut self, agent: usize, request: Request) {
        let life = self.agents[agent].life;
        self.travel(Node::Agent(agent), Event::Server(Node::Agent(agent), life, request));
    }

    pub(crate) fn agent_hears(&mut self, agent: usize, life: u64, message: ToAgent) {
        let now = self.agent_time(agent);
        let node = &mut self.agents[agent];
        if node.life != life || !node.up {
            return;
        }
        if node.stopped {
            return node.mailbox.push(message);
        }
        let current = node.epoch;
        match (message, &mut node.contender, &mut node.board) {
            (ToAgent::Ask { reply_to, payload }, _, Some(board)) => board.hear(now, reply_to, &payload),
            (ToAgent::Published { epoch, id, serial, at }, _, Some(board)) if epoch == current => {
                board.published(now, id, serial, Some(at));
            }
            (ToAgent::Unknown { epoch, id, serial }, _, Some(board)) if epoch == current => {
                board.published(now, id, serial, None);
            }
            (ToAgent::Written { attempt, revision }, Some(contender), _) => {
                contender.written(now, attempt, revision.map_or(Written::Refused, Written::At));
            }
            (ToAgent::Leader(value), Some(contender), _) => {
                let revision = value.as_ref().map_or(0, |(revision, _)| *revision);
                contender.seen(now, revision, value.as_ref().map(|(_, value)| &value[..]));
            }
            (ToAgent::Members { epoch, members }, _, None) => {
                if let Some((_, until)) = node.leads.take_if(|(leads, _)| *leads == epoch) {
                    let members = members.into_iter().map(|id| Member { id, name: String::new() }).collect();
                    node.board = Some(Board::new(epoch, terms(), Some(members), until, now));
                    node.epoch = epoch;
                    self.counts.takeovers += 1;
                    // What others were given is this one's now.
                    let at = self.now;
                    self.truth.orphan(at, |_, of| of < epoch);
                }
            }
            _ => {}
        }
        self.agent_acts(agent);
    }

    /// Does what its machines want, and gives them more.
    fn agent_acts(&mut self, agent: usize) {
        loop {
            let before = self.order_of_events();
            while let Some(output) = self.agents[agent].contender.as_mut().and_then(Contender::next_output) {
                self.contender_wants(agent, output);
            }
            while let Some(output) = self.agents[agent].board.as_mut().and_then(Board::next_output) {
                self.board_wants(agent, output);
            }
            self.offer(agent);
            if before == self.order_of_events() {
                break;
            }
        }
        let now = self.agent_time(agent);
        let node = &mut self.agents[agent];
        let contender = node.contender.as_ref().map(|contender| contender.wake_at(now));
        let board = node.board.as_ref().map(|board| board.wake_at(now));
        let Some(at) = [contender, board].into_iter().flatten().min() else { return };
        let at = (at.0.saturating_sub(node.offset)).max(self.now + 1);
        if node.wake == 0 || at < node.wake {
            node.wake = at;
            let life = node.life;
            let after = at - self.now;
            self.at(after, Event::Wake(Node::Agent(agent), life));
        }
    }

    fn contender_wants(&mut self, agent: usize, output: lease::Output) {
        match output {
            lease::Output::Write { attempt, expected, value } => {
                self.agent_sends(agent, Request::Lead { attempt, expected, value });
            }
            lease::Output::Lead { epoch, until } => {
                self.say(|| format!("agent {agent} leads with epoch {epoch}"));
                self.agents[agent].leads = Some((epoch, until));
                self.agent_sends(agent, Request::Members { epoch });
            }
            lease::Output::Until(until) => {
                let node = &mut self.agents[agent];
                if let Some(board) = &mut node.board {
                    board.lead_until(until);
                }
                if let Some((_, leads)) = &mut node.leads {
                    *leads = until;
                }
            }
            lease::Output::Lost => self.depose(agent),
        }
    }

    fn depose(&mut self, agent: usize) {
        self.say(|| format!("agent {agent} leads no more"));
        self.agents[agent].leads = None;
        if let Some(board) = &mut self.agents[agent].board {
            board.depose();
            while let Some(output) = self.agents[agent].board.as_mut().and_then(Board::next_output) {
                self.board_wants(agent, output);
            }
            let node = &mut self.agents[agent];
            node.board = None;
            node.credits.clear();
            assert!(node.given.is_empty(), "works without results: {:?}", node.given);
        }
    }

    fn board_wants(&mut self, agent: usize, output: Output) {
        let epoch = self.agents[agent].epoch;
        match output {
            Output::Publish { lane, msg_id, id, serial, payload } => {
                self.say(|| format!("agent {agent} publishes {msg_id}"));
                self.agent_sends(agent, Request::Publish { lane, msg_id, id, serial, payload, epoch });
                let life = self.agents[agent].life;
                self.at(400, Event::Agent(agent, life, ToAgent::Unknown { epoch, id, serial }));
            }
            Output::Delete { at } => self.agent_sends(agent, Request::Delete { at }),
            Output::Answer { reply_to, payload } => {
                let parts: Vec<u64> = reply_to.split('.').map(|part| part.parse().unwrap()).collect();
                let (host, life, seq) = (parts[0] as usize, parts[1], parts[2]);
                self.agent_sends(agent, Request::Answer { host, life, seq, payload });
            }
            Output::Tell { to, payload } => self.agent_sends(agent, Request::Tell { to, payload }),
            Output::Status { status, .. } => {
                let ends = status.completed || status.error != 0;
                let given = &mut self.agents[agent].given;
                assert!(
                    given.contains_key(&status.id),
                    "a status of an action that has its result, or none: {status:?}"
                );
                if ends {
                    let key = given.remove(&status.id).unwrap();
                    self.say(|| {
                        format!(
                            "agent {agent}: action {key} as {} ended: {} {}",
                            status.id, status.error, status.error_text
                        )
                    });
                    self.counts.cancelled += u64::from(status.error == 125);
                    let from = Stage::With { agent, epoch, id: status.id };
                    let frozen: Vec<bool> = self.hosts.iter().map(|node| node.is_frozen()).collect();
                    self.truth.result(self.now, key, from, &status, |host| frozen[host]);
                }
            }
            Output::Serve { pool, credits, .. } => {
                self.agents[agent].credits.insert(pool, credits);
            }
            Output::Unregister(id) => self.agent_sends(agent, Request::Unregister(id)),
            Output::Deposed { epoch } => {
                let now = self.agent_time(agent);
                if let Some(contender) = &mut self.agents[agent].contender {
                    contender.deposed(now, epoch);
                }
            }
        }
    }

    fn offer(&mut self, agent: usize) {
        let now = self.agent_time(agent);
        let pools: Vec<(Pool, u32)> = self.agents[agent].credits.clone().into_iter().collect();
        for (pool, credits) in pools {
            loop {
                let node = &self.agents[agent];
                let given = node.given.values().filter(|key| self.truth.actions[*key].lane.pool == pool).count();
                if node.board.is_none() || given >= credits as usize {
                    break;
                }
                let Some(key) = self.truth.next(self.now, &pool) else { break };
                let node = &mut self.agents[agent];
                node.last_id += 1;
                let id = node.last_id;
                let item = self.truth.item(key, id);
                self.truth.offered(key, Stage::With { agent, epoch: node.epoch, id });
                node.given.insert(id, key);
                let board = node.board.as_mut().unwrap();
                board.offer(now, self.now, pool.clone(), item).unwrap();
                if self.truth.actions[&key].cancelled {
                    board.cancel(now, id);
                }
                while let Some(output) = self.agents[agent].board.as_mut().and_then(Board::next_output) {
                    self.board_wants(agent, output);
                }
            }
        }
    }

    /// Somebody wants an action stopped.
    pub(crate) fn cancel(&mut self, key: u64) {
        let todo = self.truth.actions.get_mut(&key).unwrap();
        todo.cancelled = true;
        let Stage::With { agent, epoch, id } = todo.stage else { return };
        let now = self.agent_time(agent);
        let node = &mut self.agents[agent];
        if node.epoch == epoch && !node.stopped {
            if let Some(board) = &mut node.board {
                board.cancel(now, id);
            }
            self.agent_acts(agent);
        }
    }
}
