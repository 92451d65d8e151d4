//! Agents, hosts, their movers and a NATS server in virtual time, with whatever can go wrong: messages lost, doubled, late and out of order;
//! processes killed, stopped and continued; machines frozen; links cut; a server that fails over and forgets what it delivered, or loses messages.
//!
//! One seed is one history. A failure names its seed: `SIFAKA_SEED=n cargo nextest run -p sifaka-cluster one_history --run-ignored all` tells it step by step.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the lints do not see that functions beside tests belong to them"
)]

mod agents;
mod hosts;
mod plan;
mod random;
mod server;
mod truth;
mod world;

use plan::Plan;
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

/// How many histories of each kind: also the number within which a broken rule has to be found.
const HISTORIES: u64 = 300;

fn run(histories: std::ops::Range<u64>, plan: impl Fn(u64) -> Plan) -> world::Counts {
    let mut counts = world::Counts::default();
    for seed in histories {
        let outcome = catch_unwind(AssertUnwindSafe(|| World::new(seed, plan(seed)).run()));
        match outcome {
            Ok(more) => counts.add(&more),
            Err(_) => panic!("the history of seed {seed} broke a promise (see above)"),
        }
    }
    println!("{counts:?}");
    counts
}

#[test]
fn nothing_goes_wrong_when_nothing_fails() {
    let counts = run(0..200, Plan::calm);
    assert_eq!(counts.losses, 0);
}

/// See [`World::check_reader`].
#[test]
fn p5_a_reader_s_restore_is_behind_what_is_under_way_and_nothing_else() {
    let counts = run(40_000..40_200, Plan::busy);
    assert!(counts.readers_waited > 200, "{counts:?}");
}

#[test]
fn p3_one_result_for_each_action_whatever_fails() {
    let counts = run(10_000..10_000 + HISTORIES, Plan::wild);
    // The histories have to be what they claim to be.
    assert!(counts.crashes > HISTORIES && counts.cuts > HISTORIES && counts.pauses > HISTORIES, "{counts:?}");
    assert!(
        counts.kills > 50 && counts.losses > 50 && counts.takeovers > 200 && counts.acks > counts.grants + 50,
        "{counts:?}"
    );
    assert!(counts.cancelled > 50 && counts.forgotten > 50, "{counts:?}");
}

#[test]
fn p3_agents_that_take_over_from_one_another() {
    let counts = run(20_000..20_000 + HISTORIES, Plan::agents);
    assert!(counts.takeovers > HISTORIES / 2, "{counts:?}");
}

#[test]
fn p3_hosts_that_are_stopped_and_go_on() {
    let counts = run(30_000..30_000 + HISTORIES, Plan::pauses);
    assert!(counts.pauses > HISTORIES && counts.losses > 50, "{counts:?}");
}

#[test]
fn one_seed_is_one_history() {
    let first = World::new(77, Plan::wild(77)).run();
    let second = World::new(77, Plan::wild(77)).run();
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
}

/// Tells the history of one seed.
#[test]
#[ignore = "for looking at the history of SIFAKA_SEED"]
fn one_history() {
    let seed: u64 = std::env::var("SIFAKA_SEED").unwrap().parse().unwrap();
    let plan = match seed / 10_000 {
        0 => Plan::calm(seed),
        1 => Plan::wild(seed),
        2 => Plan::agents(seed),
        3 => Plan::pauses(seed),
        _ => Plan::busy(seed),
    };
    let mut world = World::new(seed, plan);
    world.tells = true;
    println!("{:?}", world.run());
}
