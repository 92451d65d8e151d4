//! Actions coming in, from all registrations, in one poll loop: no task and no switch a message.

use crate::lane::Lane;
use futures_util::TryFutureExt;
use proto::pdm::{self, data_mover_client::DataMoverClient};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio_stream::Stream;
use tonic::{Status, transport::Channel};

/// Messages of one lane taken before the others, and other tasks, get their turn.
const BATCH: usize = 256;

type Items = Pin<Box<dyn Stream<Item = Result<pdm::ActionItem, Status>> + Send>>;

/// Ends when the first of the streams ends, with the reason: the agent is gone. Dropping it closes the streams, which
/// tells the agent that the mover is gone; what was not read yet stays with the agent.
pub(crate) struct Intake {
    lanes: Vec<(Arc<Lane>, Items)>,
}

impl Intake {
    pub(crate) fn open(client: &DataMoverClient<Channel>, lanes: &[Arc<Lane>]) -> Self {
        let open = |lane: &Arc<Lane>| (lane.clone(), actions(client.clone(), lane.handle()));
        Self { lanes: lanes.iter().map(open).collect() }
    }
}

/// Some servers answer only with their first message, so the answer is part of the stream and not waited for.
fn actions(mut client: DataMoverClient<Channel>, handle: u64) -> Items {
    let stream = async move { client.get_actions(pdm::Handle { id: handle }).await };
    Box::pin(stream.map_ok(tonic::Response::into_inner).try_flatten_stream())
}

impl Future for Intake {
    type Output = String;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<String> {
        let mut again = false;
        for (lane, items) in &mut self.lanes {
            match poll_lane(lane, items, cx) {
                Batch::Gone(why) => return Poll::Ready(why),
                Batch::Full => again = true,
                Batch::Empty => {}
            }
        }
        if again {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

enum Batch {
    Empty,
    Full,
    Gone(String),
}

fn poll_lane(lane: &Arc<Lane>, items: &mut Items, cx: &mut Context<'_>) -> Batch {
    // Handlers that answer at once write a whole batch of reports before the sender wakes.
    let _cork = lane.outbox().cork();
    for _ in 0..BATCH {
        match items.as_mut().poll_next(cx) {
            Poll::Ready(Some(Ok(item))) => lane.take(item),
            Poll::Ready(Some(Err(status))) => return Batch::Gone(describe(&status)),
            Poll::Ready(None) => return Batch::Gone("it closed the stream of actions".to_owned()),
            Poll::Pending => return Batch::Empty,
        }
    }
    Batch::Full
}

/// A status for people: what the other side said, or that it said nothing.
pub(crate) fn describe(status: &Status) -> String {
    match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    }
}
