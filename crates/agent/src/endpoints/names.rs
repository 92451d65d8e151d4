//! Which mover has which action, for people.

use super::Endpoints;
use crate::admin::api::{ActionState, ActionView};
use std::collections::HashMap;

impl Endpoints {
    /// Fills in the movers of what runs. An action's key is its id.
    pub fn name_in(&self, views: &mut [ActionView]) {
        let is_running = |view: &&mut ActionView| view.state == ActionState::Running;
        let mut wanted: HashMap<u64, &mut ActionView> =
            views.iter_mut().filter(is_running).map(|view| (view.id.0, view)).collect();
        if wanted.is_empty() {
            return;
        }
        let all: Vec<_> = self.inner.lock().by_handle.values().cloned().collect();
        for endpoint in all {
            endpoint.for_each_key(|key| {
                if let Some(view) = wanted.get_mut(&key) {
                    view.mover = Some(endpoint.called());
                }
            });
        }
    }
}
