//! What a mover's `GetActions` call yields.

use super::Endpoint;
use crate::Endpoints;
use futures_util::Stream;
use proto::pdm;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Everything queued for one endpoint, as messages. Ends when the endpoint is closed. When it is dropped (the mover went
/// away, or closed the call), the mover gets nothing more, and what it has not reported when its reports end goes elsewhere.
pub struct ActionStream {
    endpoints: Arc<Endpoints>,
    endpoint: Arc<Endpoint>,
    taken: VecDeque<pdm::ActionItem>,
}

impl ActionStream {
    pub(crate) fn new(endpoints: Arc<Endpoints>, endpoint: Arc<Endpoint>) -> Self {
        Self { endpoints, endpoint, taken: VecDeque::new() }
    }
}

impl Stream for ActionStream {
    type Item = Result<pdm::ActionItem, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.taken.is_empty() && !std::task::ready!(this.endpoint.poll_drain(&mut this.taken, cx)) {
            return Poll::Ready(None);
        }
        Poll::Ready(this.taken.pop_front().map(Ok))
    }
}

impl Drop for ActionStream {
    fn drop(&mut self) {
        self.endpoints.leave(self.endpoint.handle());
    }
}
