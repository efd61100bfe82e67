//! `round_robin`: calls go to all endpoints that are READY, in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::endpoint_shards::{EndpointShards, ReadyEndpoint, Spread};
use super::{
    LbContext, LbPolicy, LbPolicyBuilder, LbPolicyConfig, Pick, PickArgs, PickResult, Picker,
};
use crate::policy::service_config::ServiceConfigError;
use crate::types::{SubchannelId, shown};

/// Spreads calls evenly, from a random start.
#[derive(Debug)]
pub(crate) struct RoundRobin;

impl Spread for RoundRobin {
    fn name(&self) -> &str {
        NAME
    }

    fn picker(&mut self, ready: &[ReadyEndpoint<'_>], cx: &mut LbContext<'_>) -> Arc<dyn Picker> {
        Arc::new(InTurn {
            subchannels: ready.iter().map(ReadyEndpoint::subchannel).collect(),
            next: AtomicUsize::new(cx.random_below(ready.len())),
        })
    }
}

/// Calls go to these subchannels in turn.
#[derive(Debug)]
struct InTurn {
    subchannels: Box<[SubchannelId]>,
    next: AtomicUsize,
}

impl Picker for InTurn {
    fn pick(&self, _: &PickArgs<'_>) -> PickResult {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let subchannel = self.subchannels[turn % self.subchannels.len()];
        PickResult::Complete(Pick::new(subchannel))
    }

    fn inspect(&self) -> String {
        format!("calls go in turn to {}", shown(self.subchannels.iter(), SHOWN))
    }
}

/// Makes `round_robin` policies.
#[derive(Debug)]
pub(crate) struct Builder;

impl LbPolicyBuilder for Builder {
    fn name(&self) -> &str {
        NAME
    }

    /// There is nothing to configure: any JSON will do.
    fn parse_config(&self, _: &Value) -> Result<LbPolicyConfig, ServiceConfigError> {
        Ok(LbPolicyConfig::new(()))
    }

    fn build(&self) -> Box<dyn LbPolicy> {
        Box::new(EndpointShards::new(RoundRobin))
    }
}

/// By which service configs know it.
pub(crate) const NAME: &str = "round_robin";

/// How many subchannels an inspection names.
const SHOWN: usize = 16;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::policy::lb::LbEvent;
    use crate::policy::lb::testing::Stage;

    fn ready(seed: u64) -> Stage<EndpointShards<RoundRobin>> {
        let mut stage = Stage::seeded(EndpointShards::new(RoundRobin), seed);
        stage.update(&[&["a"], &["b"], &["c"]]);
        for number in 0..3 {
            stage.connecting(number);
            stage.ready(number);
        }
        stage.run(LbEvent::Flush);
        stage
    }

    #[test]
    fn every_endpoint_gets_its_turn_before_any_gets_another() {
        let stage = ready(1);
        let picks = stage.picks(9);
        for round in picks.chunks(3) {
            assert_eq!(round.iter().collect::<BTreeSet<_>>().len(), 3, "{picks:?}");
            assert_eq!(round, &picks[..3], "the order stays");
        }
    }

    #[test]
    fn clients_start_at_different_endpoints() {
        let firsts: BTreeSet<_> = (0..50).flat_map(|seed| ready(seed).picks(1)).collect();
        assert_eq!(firsts.len(), 3);
    }
}
