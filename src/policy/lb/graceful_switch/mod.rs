//! Changes the policy of a channel without failing calls meanwhile.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::{
    FailPicker, LbContext, LbEffect, LbEvent, LbPolicy, LbUpdate, Picker, PolicyReport,
    SubchannelState, queue,
};
use crate::policy::service_config::LbConfig;
use crate::types::{ConnectivityState, Endpoint, Status, SubchannelId};

/// The root of a channel's policy tree.
///
/// ```text
///     ┌──────┐ update  ┌─────┐ update by another name  ┌─────┐
///     │ None │ ──────► │ One │ ──────────────────────► │ Two │ ──┐ update by yet another
///     └──────┘         └─────┘ ◄────────────────────── └─────┘ ◄─┘ name: a new pending one
///                              pending: not CONNECTING
///                              current: not READY
/// ```
///
/// With two, the current policy serves calls until the pending one can, or until itself no longer
/// can. Updates, resolver errors and `ExitIdle` go to the latest, events of a subchannel to its
/// owner; only the latest may ask for resolution.
#[derive(Default)]
pub(crate) struct GracefulSwitch {
    children: Children,
}

#[derive(Default)]
enum Children {
    #[default]
    None,
    One(Child),
    Two {
        current: Child,
        pending: Child,
    },
}

struct Child {
    name: String,
    policy: Box<dyn LbPolicy>,
    /// Those that it has made and not given up, to be retired with it. In order, so that a seed
    /// reproduces it.
    subchannels: BTreeSet<SubchannelId>,
    /// What it published last.
    connectivity: ConnectivityState,
    picker: Arc<dyn Picker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Current,
    Pending,
}

impl GracefulSwitch {
    /// No policy yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Applies a config and a list of endpoints.
    pub(crate) fn update(
        &mut self,
        config: &LbConfig,
        endpoints: Arc<[Endpoint]>,
        cx: &mut LbContext<'_>,
    ) {
        if self.latest().is_none_or(|child| child.name != config.name()) {
            let child = Child::new(config);
            self.children = match mem::take(&mut self.children) {
                Children::None => Children::One(child),
                Children::One(current) => Children::Two { current, pending: child },
                Children::Two { current, pending } => {
                    pending.end(cx);
                    Children::Two { current, pending: child }
                }
            };
        }
        let update = LbUpdate { endpoints, config: config.config().clone() };
        self.run(self.latest_role(), LbEvent::Update(update), cx);
    }

    /// Resolution has failed.
    pub(crate) fn resolver_failed(&mut self, status: Status, cx: &mut LbContext<'_>) {
        if self.latest().is_none() {
            let picker = Arc::new(FailPicker(status));
            return cx.publish(ConnectivityState::TransientFailure, picker);
        }
        self.run(self.latest_role(), LbEvent::ResolverFailed(status), cx);
    }

    /// A subchannel is in a new state.
    pub(crate) fn subchannel_changed(
        &mut self,
        id: SubchannelId,
        state: SubchannelState,
        cx: &mut LbContext<'_>,
    ) {
        if let Some(owner) = self.owner_of(id) {
            self.run(owner, LbEvent::SubchannelChanged { id, state }, cx);
        }
    }

    /// The server of a subchannel says otherwise whether it serves.
    pub(crate) fn health_changed(
        &mut self,
        id: SubchannelId,
        state: SubchannelState,
        cx: &mut LbContext<'_>,
    ) {
        if let Some(owner) = self.owner_of(id) {
            self.run(owner, LbEvent::HealthChanged { id, state }, cx);
        }
    }

    /// Somebody wants to use the channel.
    pub(crate) fn exit_idle(&mut self, cx: &mut LbContext<'_>) {
        self.run(self.latest_role(), LbEvent::ExitIdle, cx);
    }

    /// The time of `wake_at` has come.
    pub(crate) fn wake(&mut self, cx: &mut LbContext<'_>) {
        self.for_each(LbEvent::Wake, cx);
    }

    /// No further event is waiting.
    pub(crate) fn flush(&mut self, cx: &mut LbContext<'_>) {
        self.for_each(LbEvent::Flush, cx);
    }

    /// When it next wants to be woken.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let wishes = [Role::Current, Role::Pending].map(|role| self.child(role)?.policy.wake_at());
        wishes.into_iter().flatten().min()
    }

    /// What there is to tell; the current policy first.
    pub(crate) fn inspect(&self) -> PolicyReport {
        let children: Vec<_> = [Role::Current, Role::Pending]
            .into_iter()
            .filter_map(|role| Some(self.child(role)?.policy.inspect()))
            .collect();
        let note = match &self.children {
            Children::None | Children::One(_) => None,
            Children::Two { current, pending } => {
                Some(format!("changing from {} to {}", current.name, pending.name))
            }
        };
        let current = self.child(Role::Current);
        PolicyReport {
            policy: "graceful_switch".to_owned(),
            connectivity: current.map_or(ConnectivityState::Connecting, |c| c.connectivity),
            subchannels: Vec::new(),
            note,
            children,
        }
    }

    fn for_each(&mut self, event: LbEvent, cx: &mut LbContext<'_>) {
        // The pending one first: should it take over, it gets the event twice, which does no harm.
        // The other way round, it might not get it at all.
        self.run(Role::Pending, event.clone(), cx);
        self.run(Role::Current, event, cx);
    }

    fn run(&mut self, mut role: Role, event: LbEvent, cx: &mut LbContext<'_>) {
        let Some(child) = self.child_mut(role) else {
            return;
        };
        let run = cx.run_child(|cx| child.policy.handle(event, cx));
        child.subchannels.extend(run.created);
        for effect in run.effects {
            match effect {
                LbEffect::Publish { connectivity, picker } => {
                    match self.published(role, connectivity, picker, cx) {
                        Some(now) => role = now,
                        // It is gone, and with it whatever else it wanted.
                        None => return,
                    }
                }
                LbEffect::Retire(id) => {
                    if let Some(child) = self.child_mut(role) {
                        child.subchannels.remove(&id);
                    }
                    cx.retire(id);
                }
                LbEffect::ResolveNow => {
                    if role == self.latest_role() {
                        cx.resolve_now();
                    }
                }
                LbEffect::Connect(_) | LbEffect::WatchHealth(_) | LbEffect::RejectUpdate(_) => {
                    cx.push(effect);
                }
            }
        }
    }

    /// Takes note of what the child in `role` publishes; gives the role that it has now, if any.
    fn published(
        &mut self,
        role: Role,
        connectivity: ConnectivityState,
        picker: Arc<dyn Picker>,
        cx: &mut LbContext<'_>,
    ) -> Option<Role> {
        let child = self.child_mut(role)?;
        child.connectivity = connectivity;
        child.picker = picker;
        match mem::take(&mut self.children) {
            Children::Two { current, pending } => {
                let over = current.connectivity != ConnectivityState::Ready
                    || (role == Role::Pending && connectivity != ConnectivityState::Connecting);
                if over {
                    pending.publish(cx);
                    current.end(cx);
                    self.children = Children::One(pending);
                    return (role == Role::Pending).then_some(Role::Current);
                }
                if role == Role::Current {
                    current.publish(cx);
                }
                self.children = Children::Two { current, pending };
            }
            Children::One(child) => {
                child.publish(cx);
                self.children = Children::One(child);
            }
            Children::None => {}
        }
        Some(role)
    }

    fn owner_of(&self, id: SubchannelId) -> Option<Role> {
        [Role::Current, Role::Pending]
            .into_iter()
            .find(|&role| self.child(role).is_some_and(|child| child.subchannels.contains(&id)))
    }

    fn latest_role(&self) -> Role {
        match self.children {
            Children::None | Children::One(_) => Role::Current,
            Children::Two { .. } => Role::Pending,
        }
    }

    fn latest(&self) -> Option<&Child> {
        self.child(self.latest_role())
    }

    fn child(&self, role: Role) -> Option<&Child> {
        match (&self.children, role) {
            (Children::One(current) | Children::Two { current, .. }, Role::Current) => {
                Some(current)
            }
            (Children::Two { pending, .. }, Role::Pending) => Some(pending),
            (Children::None, Role::Current | Role::Pending) | (Children::One(_), Role::Pending) => {
                None
            }
        }
    }

    fn child_mut(&mut self, role: Role) -> Option<&mut Child> {
        match (&mut self.children, role) {
            (Children::One(current) | Children::Two { current, .. }, Role::Current) => {
                Some(current)
            }
            (Children::Two { pending, .. }, Role::Pending) => Some(pending),
            (Children::None, Role::Current | Role::Pending) | (Children::One(_), Role::Pending) => {
                None
            }
        }
    }
}

impl Child {
    fn new(config: &LbConfig) -> Self {
        Self {
            name: config.name().to_owned(),
            policy: config.builder().build(),
            subchannels: BTreeSet::new(),
            connectivity: ConnectivityState::Connecting,
            picker: queue(),
        }
    }

    fn publish(&self, cx: &mut LbContext<'_>) {
        cx.publish(self.connectivity, Arc::clone(&self.picker));
    }

    fn end(self, cx: &mut LbContext<'_>) {
        for id in self.subchannels {
            cx.retire(id);
        }
    }
}
