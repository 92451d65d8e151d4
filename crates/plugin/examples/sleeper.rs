//! A whole mover: it sleeps. The data of an action says how: `sleep MS` looks every 10 ms whether it was cancelled,
//! `until PATH` too, and ends when there is such a file; `hang` never looks. It says when it begins an action, and when it
//! begins no more.
//!
//! Started by an agent as any mover is; arguments: threads (1), and how long to wait for running actions at the end in
//! milliseconds (30000).

use model::ActionId;
use sifaka_plugin::{Archive, Capabilities, Environment, Handler, Mover, Plugin, PluginError, Reply, Task, Workers};
use std::error::Error;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Sleeper;

impl Mover for Sleeper {
    fn run(&self, task: Task, reply: Reply) {
        println!("begun {}", task.id);
        let data = String::from_utf8_lossy(&task.data);
        if data == "hang" {
            std::thread::sleep(Duration::MAX);
        }
        let begun = Instant::now();
        let is_over = || match data.split_once(' ') {
            Some(("sleep", ms)) => ms.parse().ok().map(|ms| begun.elapsed() >= Duration::from_millis(ms)),
            Some(("until", path)) => Some(Path::new(path).exists()),
            _ => None,
        };
        loop {
            match is_over() {
                Some(true) => break,
                Some(false) => {}
                None => return reply.fail(model::Failure::permanent(22, format!("{data:?} is nothing to do"))),
            }
            if reply.is_cancelled() {
                return reply.fail(model::Failure::cancelled());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        reply.done(task.identity);
    }
}

/// Says so when it is told to drain.
struct Telling(Workers);

impl Handler for Telling {
    fn accept(&self, task: Task, reply: Reply) {
        self.0.accept(task, reply);
    }

    fn cancel(&self, id: ActionId) {
        self.0.cancel(id);
    }

    fn drain(&self) {
        self.0.drain();
        println!("draining");
    }
}

fn serve() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().map_or(Ok(NonZeroUsize::MIN), |text| text.parse())?;
    let drain_ms = arguments.next().map_or(Ok(30_000), |text| text.parse())?;
    let archive = Archive {
        id: 1,
        capabilities: Capabilities::default(),
        credits: 0,
        handler: Arc::new(Telling(Workers::start("sleeper", threads, Sleeper)?)),
    };
    let plugin = Plugin::new(Environment::from_env()?, "sleeper").drain_timeout(Duration::from_millis(drain_ms));
    plugin.run(vec![archive])?;
    Ok(())
}

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let gone = matches!(error.downcast_ref(), Some(PluginError::AgentGone(_)));
            eprintln!("sleeper: {error}");
            // What still runs ends with the process, at once.
            ExitCode::from(if gone { 1 } else { 2 })
        }
    }
}
