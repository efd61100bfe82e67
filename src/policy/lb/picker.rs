//! Pickers: immutable choosers that calls read.

use std::any::Any;
use std::sync::Arc;

use crate::types::{Metadata, MethodPath, Status, SubchannelId};

/// Chooses the subchannel of an attempt.
///
/// A policy builds a new picker whenever its choice changes; calls read it on their own tasks,
/// many at once. So it is small and immutable (at most an atomic cursor or load counter inside),
/// and `pick` neither blocks nor allocates.
pub trait Picker: Send + Sync + 'static {
    /// Chooses for one attempt. An attempt asks each picker once, and again where the subchannel
    /// that the picker chose had no connection and has one now.
    fn pick(&self, args: &PickArgs<'_>) -> PickResult;

    /// What it would tell about itself, for an inspection. Default: the name of its type.
    fn inspect(&self) -> String {
        std::any::type_name::<Self>().to_owned()
    }
}

/// What a picker may look at.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PickArgs<'a> {
    /// The method that is called.
    pub method: &'a MethodPath,
    /// The metadata that the application sends, with what a
    /// [`ConfigSelector`](crate::ConfigSelector) adds.
    pub metadata: &'a Metadata,
    attribute: Option<&'a (dyn Any + Send + Sync)>,
}

impl<'a> PickArgs<'a> {
    /// The arguments for a call of `method` with `metadata`.
    pub const fn new(method: &'a MethodPath, metadata: &'a Metadata) -> Self {
        Self { method, metadata, attribute: None }
    }

    /// The same for a call that a [`ConfigSelector`](crate::ConfigSelector) has attached a value to.
    pub const fn with_attribute(mut self, attribute: &'a (dyn Any + Send + Sync)) -> Self {
        self.attribute = Some(attribute);
        self
    }

    /// What the [`ConfigSelector`](crate::ConfigSelector) has attached to the call, if it is a `T`.
    pub fn attribute<T: Any>(&self) -> Option<&'a T> {
        self.attribute?.downcast_ref()
    }
}

/// What a picker answers.
#[derive(Debug)]
pub enum PickResult {
    /// Send the attempt to this subchannel. If that has no connection at the moment, the call
    /// waits for a newer picker.
    Complete(Pick),
    /// Wait for a newer picker.
    Queue,
    /// Fail the call with this status, unless it waits for ready.
    Fail(Status),
    /// End the call with this status, even if it waits for ready, and never retry it.
    Drop(Status),
}

/// A chosen subchannel.
#[derive(Debug)]
pub struct Pick {
    subchannel: SubchannelId,
}

impl Pick {
    /// The choice of `subchannel`.
    pub const fn new(subchannel: SubchannelId) -> Self {
        Self { subchannel }
    }

    /// The subchannel.
    pub const fn subchannel(&self) -> SubchannelId {
        self.subchannel
    }
}

/// Calls wait.
#[derive(Debug)]
pub(crate) struct QueuePicker;

impl Picker for QueuePicker {
    fn pick(&self, _: &PickArgs<'_>) -> PickResult {
        PickResult::Queue
    }

    fn inspect(&self) -> String {
        "calls wait".to_owned()
    }
}

/// Calls fail, but those that wait for ready wait.
#[derive(Debug)]
pub(crate) struct FailPicker(pub(crate) Status);

impl Picker for FailPicker {
    fn pick(&self, _: &PickArgs<'_>) -> PickResult {
        PickResult::Fail(self.0.clone())
    }

    fn inspect(&self) -> String {
        format!("calls fail: {}", self.0.text())
    }
}

/// Every call ends.
#[derive(Debug)]
pub(crate) struct DropPicker(pub(crate) Status);

impl Picker for DropPicker {
    fn pick(&self, _: &PickArgs<'_>) -> PickResult {
        PickResult::Drop(self.0.clone())
    }

    fn inspect(&self) -> String {
        format!("calls end: {}", self.0.text())
    }
}

/// A picker that calls wait on.
pub(crate) fn queue() -> Arc<dyn Picker> {
    Arc::new(QueuePicker)
}
