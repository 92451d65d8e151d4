//! The queue of a filesystem: what is to be done, and what became of it. Checks the promises.

use model::{Class, Command, Extent, Identity};
use proto::{Instruction, Task, pdm};
use sifaka_cluster::{Lane, Pool};
use std::collections::BTreeMap;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// Not before this time.
    Waiting(u64),
    /// With this process of an agent, under this epoch and id.
    With {
        agent: usize,
        epoch: u64,
        id: u64,
    },
    Done,
}

pub(crate) struct Todo {
    pub(crate) lane: Lane,
    pub(crate) stage: Stage,
    pub(crate) cancelled: bool,
    pub(crate) fails: bool,
    pub(crate) poison: bool,
    attempts: u32,
    /// How many less urgent works had begun when it was offered.
    begun_before: u64,
    /// The hosts whose movers run it at this moment.
    pub(crate) running: Vec<usize>,
}

#[derive(Default)]
pub(crate) struct Truth {
    pub(crate) actions: BTreeMap<u64, Todo>,
    /// Works begun for which nobody waits.
    begun: u64,
}

impl Truth {
    pub(crate) fn add(&mut self, key: u64, pool: Pool, class: Class, fails: bool, poison: bool) {
        let stage = Stage::Waiting(0);
        let lane = Lane { pool, class };
        let todo =
            Todo { lane, stage, cancelled: false, fails, poison, attempts: 0, begun_before: 0, running: Vec::new() };
        self.actions.insert(key, todo);
    }

    pub(crate) fn all_done(&self) -> bool {
        self.actions.values().all(|todo| todo.stage == Stage::Done)
    }

    /// What an agent takes next: the most urgent of a pool.
    pub(crate) fn next(&self, now: u64, pool: &Pool) -> Option<u64> {
        let ready = |todo: &Todo| matches!(todo.stage, Stage::Waiting(at) if at <= now) && todo.lane.pool == *pool;
        let ready = self.actions.iter().filter(|(_, todo)| ready(todo));
        ready.min_by_key(|&(&key, todo)| (todo.lane.class, key)).map(|(&key, _)| key)
    }

    /// What the agent took is nobody's again: it is gone, or another one leads.
    pub(crate) fn orphan(&mut self, now: u64, of: impl Fn(usize, u64) -> bool) {
        for todo in self.actions.values_mut() {
            if matches!(todo.stage, Stage::With { agent, epoch, .. } if of(agent, epoch)) {
                todo.stage = Stage::Waiting(now);
            }
        }
    }

    /// An agent gives the result; `false` if the action is not with it any more.
    pub(crate) fn result(
        &mut self,
        now: u64,
        key: u64,
        from: Stage,
        status: &pdm::ActionStatus,
        frozen: impl Fn(usize) -> bool,
    ) -> bool {
        let todo = self.actions.get_mut(&key).unwrap();
        if todo.stage != from {
            return false;
        }
        // Whoever leads next waits until nothing of it runs.
        if status.error_text.contains("leads no more") {
            todo.stage = Stage::Waiting(now);
            return true;
        }
        let running: Vec<usize> = todo.running.iter().copied().filter(|&host| !frozen(host)).collect();
        assert!(running.is_empty(), "action {key} has a result ({}) and still runs on {running:?}", status.error_text);
        todo.attempts += 1;
        let again = status.error != 0 && status.error_kind == i32::from(pdm::ErrorKind::Temporary);
        assert!(status.error != 125 || todo.cancelled, "action {key} was cancelled, and nobody asked for it");
        assert!(status.error == 0 || status.error == 125 || status.error == 107 || todo.fails, "{status:?}");
        todo.stage = if again && !todo.cancelled && !(todo.poison && todo.attempts > 1) {
            Stage::Waiting(now + 500)
        } else {
            Stage::Done
        };
        true
    }

    pub(crate) fn starts(&mut self, key: u64, host: usize, frozen: impl Fn(usize) -> bool) {
        let todo = self.actions.get_mut(&key).unwrap();
        let others: Vec<usize> = todo.running.iter().copied().filter(|&other| !frozen(other)).collect();
        assert!(others.is_empty(), "action {key} begins on host {host} and runs on {others:?}");
        assert!(todo.stage != Stage::Done, "action {key} begins on host {host} and is done");
        todo.running.push(host);
        self.begun += u64::from(todo.lane.class != Class::Reader);
    }

    /// An agent gives it to its board.
    pub(crate) fn offered(&mut self, key: u64, stage: Stage) {
        let todo = self.actions.get_mut(&key).unwrap();
        (todo.stage, todo.begun_before) = (stage, self.begun);
    }

    /// How many less urgent works began since it was offered, if somebody waits for it.
    pub(crate) fn overtaken(&self, key: u64) -> Option<u64> {
        let todo = &self.actions[&key];
        (todo.lane.class == Class::Reader).then(|| self.begun - todo.begun_before)
    }

    pub(crate) fn ends(&mut self, key: u64, host: usize) {
        let running = &mut self.actions.get_mut(&key).unwrap().running;
        let at = running.iter().position(|&other| other == host).expect("a mover ends what it runs");
        running.remove(at);
    }

    /// A machine that stood still goes on: whatever it runs is alone, but for machines that still stand.
    pub(crate) fn thawed(&self, host: usize, frozen: impl Fn(usize) -> bool) {
        for (key, todo) in &self.actions {
            let others = todo.running.iter().filter(|&&other| other != host && !frozen(other)).count();
            assert!(others == 0 || !todo.running.contains(&host), "action {key} runs on {:?}", todo.running);
        }
    }

    /// The action as an agent gives it to its endpoint.
    pub(crate) fn item(&self, key: u64, id: u64) -> pdm::ActionItem {
        let todo = &self.actions[&key];
        let command = match todo.lane.class {
            Class::Reader | Class::Restore => Command::Restore,
            Class::Remove => Command::Remove,
            Class::Archive => Command::Archive,
        };
        let task = Task {
            id: model::ActionId(id),
            command,
            primary_path: String::new(),
            write_path: String::new(),
            extent: Extent::WHOLE,
            data: Vec::new(),
            identity: Identity { uuid: "u".into(), ..Identity::default() },
            file_path: key.to_string(),
            expected_size: None,
            tree_path: Vec::new(),
            attempted_since_ms: 0,
            metadata_only: false,
            owner: 0,
            reader_waits: todo.lane.class == Class::Reader,
            sync_target: false,
        };
        Instruction::Run(task).into()
    }
}
