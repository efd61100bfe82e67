//! Policies of the application, whose panics have bounds.
//!
//! A policy that panics over an event takes the Balancer down, which is started again with a new
//! one. Whatever else of it panics harms only whom it answers: a pick ends its call, an inspection
//! says so, a config is refused, and a drop is logged.

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use super::{
    LbContext, LbEffect, LbEvent, LbPolicy, LbPolicyBuilder, LbPolicyConfig, PickArgs, PickResult,
    Picker, PolicyReport,
};
use crate::policy::service_config::ServiceConfigError;
use crate::types::{ConnectivityState, Foreign, Panicked};

/// Makes such policies.
pub(super) struct ForeignBuilder {
    name: String,
    builder: Foreign<Arc<dyn LbPolicyBuilder>>,
}

impl ForeignBuilder {
    pub(super) fn new(builder: Arc<dyn LbPolicyBuilder>) -> Self {
        let name = builder.name().to_owned();
        Self { name, builder: Foreign::new("the builder of the load-balancing policy", builder) }
    }
}

impl LbPolicyBuilder for ForeignBuilder {
    fn name(&self) -> &str {
        &self.name
    }

    fn parse_config(&self, json: &Value) -> Result<LbPolicyConfig, ServiceConfigError> {
        let parsed = self.builder.call(|builder| builder.parse_config(json));
        parsed.unwrap_or_else(|panicked| Err(ServiceConfigError::new("", panicked.to_string())))
    }

    fn build(&self) -> Box<dyn LbPolicy> {
        let policy = self.builder.call(|builder| builder.build());
        let policy = policy.unwrap_or_else(|panicked| fail(&panicked));
        let policy = Foreign::new("the load-balancing policy", policy);
        Box::new(ForeignPolicy { name: self.name.clone(), policy })
    }
}

struct ForeignPolicy {
    name: String,
    policy: Foreign<Box<dyn LbPolicy>>,
}

impl LbPolicy for ForeignPolicy {
    fn handle(&mut self, event: LbEvent, cx: &mut LbContext<'_>) {
        if let Err(panicked) = self.policy.call_mut(|policy| policy.handle(event, cx)) {
            fail(&panicked)
        }
        for effect in &mut cx.effects {
            if let LbEffect::Publish { picker, .. } = effect {
                *picker = ForeignPicker::around(picker.clone());
            }
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        self.policy.call(|policy| policy.wake_at()).unwrap_or_else(|panicked| fail(&panicked))
    }

    fn inspect(&self) -> PolicyReport {
        self.policy.call(|policy| policy.inspect()).unwrap_or_else(|panicked| PolicyReport {
            policy: self.name.clone(),
            connectivity: ConnectivityState::Connecting,
            subchannels: Vec::new(),
            note: Some(panicked.to_string()),
            children: Vec::new(),
        })
    }
}

/// Takes the Balancer down, whose supervisor goes by that.
fn fail(panicked: &Panicked) -> ! {
    std::panic::resume_unwind(Box::new(panicked.to_string()))
}

struct ForeignPicker(Foreign<Arc<dyn Picker>>);

impl ForeignPicker {
    fn around(picker: Arc<dyn Picker>) -> Arc<dyn Picker> {
        Arc::new(Self(Foreign::new("the picker", picker)))
    }
}

impl Picker for ForeignPicker {
    fn pick(&self, args: &PickArgs<'_>) -> PickResult {
        // Not Fail: a call that waits for ready would wait for a picker that may never come.
        self.0
            .call(|picker| picker.pick(args))
            .unwrap_or_else(|it| PickResult::Drop(it.into_status()))
    }

    fn inspect(&self) -> String {
        self.0.call(|picker| picker.inspect()).unwrap_or_else(|panicked| panicked.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::picked;
    use crate::types::Status;

    struct Bad;

    impl Picker for Bad {
        fn pick(&self, _: &PickArgs<'_>) -> PickResult {
            panic!("no pick");
        }

        fn inspect(&self) -> String {
            panic!("no words");
        }
    }

    impl Drop for Bad {
        fn drop(&mut self) {
            panic!("no end");
        }
    }

    #[test]
    fn a_picker_that_panics_ends_the_calls_that_ask_it() {
        let picker = ForeignPicker::around(Arc::new(Bad));
        assert_eq!(picked(&*picker), "drop INTERNAL: the picker panicked: no pick");
        assert_eq!(picker.inspect(), "the picker panicked: no words");
        drop(picker);
        let sound = super::super::FailPicker(Status::unavailable("down"));
        assert_eq!(picked(&*ForeignPicker::around(Arc::new(sound))), "fail UNAVAILABLE: down");
    }
}
