//! Limits that change while the agent runs.

use crate::kit::{Fixture, TestMover, noop_plugin};
use proto::Capabilities;
use proto::pdm::ActionStatus;
use sifaka_agent::PluginState;

#[tokio::test]
async fn a_mover_changes_how_many_actions_it_takes() {
    let fixture = Fixture::start().await;
    let mut mover = fixture.mover(2).await;
    assert_eq!(fixture.source.room(1), Some(2));
    fixture.push(0..12);
    let first = mover.take(2).await;
    mover.assert_quiet().await;

    mover.report(ActionStatus { credits: 5, ..ActionStatus::default() });
    let more = mover.take(3).await;
    mover.assert_quiet().await;
    assert_eq!(fixture.source.room(1), Some(5));
    assert_eq!(fixture.agent.status().movers[0].credits, 5);

    // Fewer: what it has, it keeps, and gets nothing until it has less.
    mover.report(ActionStatus { credits: 1, ..ActionStatus::default() });
    first.iter().chain(&more[..2]).for_each(|id| mover.done(*id));
    fixture.results(4).await;
    mover.assert_quiet().await;
    mover.done(more[2]);
    let next = mover.take(1).await;
    mover.assert_quiet().await;
    assert_eq!(fixture.source.room(1), Some(1));

    // No number anybody can send does harm.
    mover.report(ActionStatus { credits: u32::MAX, ..ActionStatus::default() });
    let rest = mover.take(6).await;
    next.iter().chain(&rest).for_each(|id| mover.done(*id));
    fixture.results(12).await;
    fixture.wait_idle().await;
}

#[tokio::test]
async fn the_number_of_actions_in_flight_changes_while_they_run() {
    let fixture = Fixture::start().await;
    let mut mover = fixture.mover(0).await;
    fixture.source.generate(1, 1000);
    let first = mover.take(20).await;
    mover.assert_quiet().await;
    let mut config = crate::kit::config(&fixture.dir);
    config.handler_count = 3;
    assert!(fixture.agent.reload(&config).is_empty());
    let more = mover.take(10).await;
    mover.assert_quiet().await;
    assert_eq!(fixture.agent.status().in_flight_limit, 30);

    config.handler_count = 1;
    fixture.agent.reload(&config);
    first.iter().for_each(|id| mover.done(*id));
    fixture.results(20).await;
    mover.assert_quiet().await;
    more.iter().for_each(|id| mover.done(*id));
    let last = mover.take(10).await;
    mover.assert_quiet().await;
    assert_eq!(fixture.agent.status().in_flight, 10);
    drop(last);
    fixture.agent.stop().await;
}

/// The signal would end them.
#[tokio::test]
async fn only_movers_that_say_so_and_were_started_here_are_told_to_reload() {
    let fixture = Fixture::start_with(|dir, config, _| {
        config.enabled_plugins = vec![noop_plugin(dir, "lhsm-plugin-noop", "archive \"4\" { id = 4 }")];
    })
    .await;
    fixture.wait_status("the plugin runs", |status| status.plugins[0].state == PluginState::Running).await;
    // This very process says that it understands, and nobody here has started it: it would be the end of the test.
    let capabilities = Capabilities { reload: true, ..Capabilities::default() };
    let _mover = TestMover::start(&fixture, 1, capabilities.bits(), 0).await;
    let before = fixture.agent.status().plugins[0].clone();
    let told = fixture.agent.reload(&crate::kit::config(&fixture.dir));
    assert_eq!(told.iter().map(|mover| (mover.pid, mover.told)).collect::<Vec<_>>(), [(before.pid, false)]);
    assert_eq!(fixture.agent.status().plugins[0], before);
    fixture.agent.stop().await;
}
