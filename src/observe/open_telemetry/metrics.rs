//! The instruments: their names, units, labels and buckets are gRPC's (A66, A94, A96).

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};
use opentelemetry::{KeyValue, StringValue};

use crate::observe::{ChannelEvent, DisconnectReason};
use crate::types::{Code, ConnectivityState, SecurityLevel, Status};

/// Whether a method that the program does not know may be named.
pub(super) type MethodFilter = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Those that are on.
pub(super) struct Instruments {
    attempt_started: Option<Counter<u64>>,
    attempt_duration: Option<Histogram<f64>>,
    attempt_sent: Option<Histogram<u64>>,
    attempt_received: Option<Histogram<u64>>,
    call_duration: Option<Histogram<f64>>,
    call_ended: Option<Counter<u64>>,
    retries: Option<Histogram<u64>>,
    transparent_retries: Option<Histogram<u64>>,
    hedges: Option<Histogram<u64>>,
    retry_delay: Option<Histogram<f64>>,
    disconnections: Option<Counter<u64>>,
    connections_made: Option<Counter<u64>>,
    connections_failed: Option<Counter<u64>>,
    connection_duration: Option<Histogram<f64>>,
    open_connections: Option<UpDownCounter<i64>>,
    subchannel_states: Option<UpDownCounter<i64>>,
    /// Whether what ended a connection is a label.
    has_disconnect_error: bool,
    /// Whether how it was protected is.
    has_security_level: bool,
}

/// What is known of a call when it begins, as labels: its method and target.
pub(super) type CallLabels = [KeyValue; 2];

/// What an attempt that has ended amounts to.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttemptTotals {
    pub(super) took: Duration,
    /// Bytes of messages, without prefixes.
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// What a call that has ended amounts to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CallTotals {
    pub(super) took: Duration,
    pub(super) retries: u64,
    pub(super) transparent_retries: u64,
    pub(super) hedges: u64,
    /// How long there was no attempt under way although one was to come.
    pub(super) retry_delay: Duration,
}

impl Instruments {
    /// Makes those of which `is_on` says so, with the labels of which `has_label` does.
    pub(super) fn new(
        meter: &Meter,
        is_on: impl Fn(&str) -> bool,
        has_label: impl Fn(&str) -> bool,
    ) -> Self {
        let counter = |name: &'static str, unit: &'static str, what: &'static str| {
            let make = || meter.u64_counter(name).with_unit(unit).with_description(what).build();
            is_on(name).then(make)
        };
        let up_down = |name: &'static str, unit: &'static str, what: &'static str| {
            let builder = || meter.i64_up_down_counter(name).with_unit(unit);
            is_on(name).then(|| builder().with_description(what).build())
        };
        let seconds = |name: &'static str, what: &'static str| {
            let builder = || meter.f64_histogram(name).with_unit("s").with_description(what);
            is_on(name).then(|| builder().with_boundaries(LATENCY_BUCKETS.to_vec()).build())
        };
        let numbers = |name: &'static str, unit: &'static str, what: &'static str, at: &[f64]| {
            let builder = || meter.u64_histogram(name).with_unit(unit).with_description(what);
            is_on(name).then(|| builder().with_boundaries(at.to_vec()).build())
        };
        Self {
            attempt_started: counter(
                ATTEMPT_STARTED,
                "{attempt}",
                "Attempts that were started, including those that have not ended.",
            ),
            attempt_duration: seconds(
                ATTEMPT_DURATION,
                "Time that an attempt took, the pick of a subchannel included.",
            ),
            attempt_sent: numbers(
                ATTEMPT_SENT,
                "By",
                "Compressed bytes of all messages that an attempt sent, without framing.",
                &SIZE_BUCKETS,
            ),
            attempt_received: numbers(
                ATTEMPT_RECEIVED,
                "By",
                "Compressed bytes of all messages that an attempt received, without framing.",
                &SIZE_BUCKETS,
            ),
            call_duration: seconds(CALL_DURATION, "Time that a call took, all attempts included."),
            call_ended: counter(CALL_ENDED, "{call}", "Calls that have ended."),
            retries: numbers(RETRIES, "{retry}", "Retries of a call that had any.", &RETRY_BUCKETS),
            transparent_retries: numbers(
                TRANSPARENT_RETRIES,
                "{transparent_retry}",
                "Transparent retries of a call that had any.",
                &TRANSPARENT_RETRY_BUCKETS,
            ),
            hedges: numbers(HEDGES, "{hedge}", "Hedges of a call that had any.", &RETRY_BUCKETS),
            retry_delay: seconds(
                RETRY_DELAY,
                "Time during a call in which no attempt was under way, where there was any.",
            ),
            disconnections: counter(
                DISCONNECTIONS,
                "{disconnection}",
                "Connections that were lost, or given up.",
            ),
            connections_made: counter(CONNECTIONS_MADE, "{attempt}", "Connections that came up."),
            connections_failed: counter(
                CONNECTIONS_FAILED,
                "{attempt}",
                "Connections that did not come up.",
            ),
            connection_duration: seconds(
                CONNECTION_DURATION,
                "Time until a connection was up, all handshakes included.",
            ),
            open_connections: up_down(
                OPEN_CONNECTIONS,
                "{connection}",
                "Connections that are open.",
            ),
            subchannel_states: up_down(
                SUBCHANNEL_STATES,
                "{subchannel}",
                "Subchannels by state, those that are IDLE aside.",
            ),
            has_disconnect_error: has_label(DISCONNECT_ERROR),
            has_security_level: has_label(SECURITY_LEVEL),
        }
    }

    pub(super) fn attempt_began(&self, labels: &CallLabels) {
        if let Some(started) = &self.attempt_started {
            started.add(1, labels);
        }
    }

    pub(super) fn attempt_ended(
        &self,
        labels: &CallLabels,
        result: Result<(), &Status>,
        totals: AttemptTotals,
    ) {
        let labels = with_status(labels, result);
        if let Some(duration) = &self.attempt_duration {
            duration.record(totals.took.as_secs_f64(), &labels);
        }
        if let Some(sent) = &self.attempt_sent {
            sent.record(totals.sent, &labels);
        }
        if let Some(received) = &self.attempt_received {
            received.record(totals.received, &labels);
        }
    }

    pub(super) fn call_ended(
        &self,
        labels: &CallLabels,
        result: Result<(), &Status>,
        totals: CallTotals,
    ) {
        for (histogram, count) in [
            (&self.retries, totals.retries),
            (&self.transparent_retries, totals.transparent_retries),
            (&self.hedges, totals.hedges),
        ] {
            if let Some(histogram) = histogram.as_ref().filter(|_| count > 0) {
                histogram.record(count, labels);
            }
        }
        let delay = totals.retry_delay;
        if let Some(retry_delay) = self.retry_delay.as_ref().filter(|_| !delay.is_zero()) {
            retry_delay.record(delay.as_secs_f64(), labels);
        }
        let labels = with_status(labels, result);
        if let Some(duration) = &self.call_duration {
            duration.record(totals.took.as_secs_f64(), &labels);
        }
        if let Some(ended) = &self.call_ended {
            ended.add(1, &labels);
        }
    }

    pub(super) fn channel_event(&self, target: &str, event: &ChannelEvent<'_>) {
        let target = || KeyValue::new(TARGET, target.to_owned());
        match *event {
            ChannelEvent::ConnectionAttemptSucceeded { took, .. } => {
                add(self.connections_made.as_ref(), || [target()]);
                if let Some(duration) = &self.connection_duration {
                    duration.record(took.as_secs_f64(), &[target()]);
                }
            }
            ChannelEvent::ConnectionAttemptFailed { .. } => {
                add(self.connections_failed.as_ref(), || [target()]);
            }
            ChannelEvent::Disconnected { reason, .. } => {
                if self.has_disconnect_error {
                    let error = || KeyValue::new(DISCONNECT_ERROR, disconnect_error(reason));
                    add(self.disconnections.as_ref(), || [target(), error()]);
                } else {
                    add(self.disconnections.as_ref(), || [target()]);
                }
            }
            ChannelEvent::ConnectionOpened { security, .. } => {
                self.connections_changed(1, target, security);
            }
            ChannelEvent::ConnectionClosed { security, .. } => {
                self.connections_changed(-1, target, security);
            }
            ChannelEvent::SubchannelStateChanged { from, to, .. } => {
                if let Some(states) = &self.subchannel_states {
                    for (state, change) in [(from, -1), (to, 1)] {
                        if let Some(name) = counted(state) {
                            states.add(change, &[target(), KeyValue::new(SUBCHANNEL_STATE, name)]);
                        }
                    }
                }
            }
            ChannelEvent::StateChanged { .. }
            | ChannelEvent::Resolved { .. }
            | ChannelEvent::ResolutionFailed { .. }
            | ChannelEvent::HealthCheckUnimplemented { .. }
            | ChannelEvent::PolicyChanged { .. }
            | ChannelEvent::SubchannelCreated { .. } => {}
        }
    }

    fn connections_changed(
        &self,
        change: i64,
        target: impl Fn() -> KeyValue,
        security: SecurityLevel,
    ) {
        let Some(open) = &self.open_connections else { return };
        if self.has_security_level {
            let level = KeyValue::new(SECURITY_LEVEL, security_level(security));
            open.add(change, &[target(), level]);
        } else {
            open.add(change, &[target()]);
        }
    }
}

/// One more, of what may not be counted.
fn add<const N: usize>(counter: Option<&Counter<u64>>, labels: impl FnOnce() -> [KeyValue; N]) {
    if let Some(counter) = counter {
        counter.add(1, &labels());
    }
}

/// The labels of a call of the method that `path` names, with its slash.
pub(super) fn call_labels(
    path: &str,
    is_known: bool,
    filter: Option<&MethodFilter>,
    target: &str,
) -> CallLabels {
    let name = path.strip_prefix('/').unwrap_or(path);
    let is_named = is_known || filter.is_some_and(|filter| filter(name));
    // Shared, as each of the metrics of the call has them.
    let method = if is_named { StringValue::from(Arc::from(name)) } else { OTHER.into() };
    let target = StringValue::from(Arc::from(target));
    [KeyValue::new(METHOD, method), KeyValue::new(TARGET, target)]
}

fn with_status(labels: &CallLabels, result: Result<(), &Status>) -> [KeyValue; 3] {
    let [method, target] = labels.clone();
    [method, target, KeyValue::new(STATUS, code_name(result))]
}

/// The name of a result's code. A server can make numbers up, which must not become time series.
pub(super) fn code_name(result: Result<(), &Status>) -> &'static str {
    let code = result.err().map_or(Code::OK, Status::code);
    code.name().unwrap_or("UNKNOWN")
}

/// In the words of A94.
fn disconnect_error(reason: DisconnectReason) -> StringValue {
    match reason {
        DisconnectReason::Goaway { code } => format!("GOAWAY {code}").into(),
        DisconnectReason::SubchannelShutdown => "subchannel shutdown".into(),
        DisconnectReason::ConnectionReset => "connection reset".into(),
        DisconnectReason::ConnectionTimedOut => "connection timed out".into(),
        DisconnectReason::ConnectionAborted => "connection aborted".into(),
        DisconnectReason::SocketError => "socket error".into(),
        DisconnectReason::Unknown => "unknown".into(),
    }
}

/// In the words of A94.
fn security_level(security: SecurityLevel) -> &'static str {
    match security {
        SecurityLevel::None => "none",
        SecurityLevel::Integrity => "integrity_only",
        SecurityLevel::PrivacyAndIntegrity => "privacy_and_integrity",
    }
}

/// The name of a state in which a subchannel is counted: one that is IDLE has nothing, and one that
/// is SHUTDOWN is none.
fn counted(state: ConnectivityState) -> Option<&'static str> {
    match state {
        ConnectivityState::Connecting => Some("CONNECTING"),
        ConnectivityState::Ready => Some("READY"),
        ConnectivityState::TransientFailure => Some("TRANSIENT_FAILURE"),
        ConnectivityState::Idle | ConnectivityState::Shutdown => None,
    }
}

/// All that there are.
pub(super) const METRICS: [&str; 16] = [
    ATTEMPT_STARTED,
    ATTEMPT_DURATION,
    ATTEMPT_SENT,
    ATTEMPT_RECEIVED,
    CALL_DURATION,
    CALL_ENDED,
    RETRIES,
    TRANSPARENT_RETRIES,
    HEDGES,
    RETRY_DELAY,
    DISCONNECTIONS,
    CONNECTIONS_MADE,
    CONNECTIONS_FAILED,
    CONNECTION_DURATION,
    OPEN_CONNECTIONS,
    SUBCHANNEL_STATES,
];

/// Those that are on unless they are disabled (A66).
pub(super) const STABLE: [&str; 5] =
    [ATTEMPT_STARTED, ATTEMPT_DURATION, ATTEMPT_SENT, ATTEMPT_RECEIVED, CALL_DURATION];

const ATTEMPT_STARTED: &str = "grpc.client.attempt.started";
const ATTEMPT_DURATION: &str = "grpc.client.attempt.duration";
const ATTEMPT_SENT: &str = "grpc.client.attempt.sent_total_compressed_message_size";
const ATTEMPT_RECEIVED: &str = "grpc.client.attempt.rcvd_total_compressed_message_size";
const CALL_DURATION: &str = "grpc.client.call.duration";
const CALL_ENDED: &str = "grpc.client.call.ended";
const RETRIES: &str = "grpc.client.call.retries";
const TRANSPARENT_RETRIES: &str = "grpc.client.call.transparent_retries";
const HEDGES: &str = "grpc.client.call.hedges";
const RETRY_DELAY: &str = "grpc.client.call.retry_delay";
const DISCONNECTIONS: &str = "grpc.subchannel.disconnections";
const CONNECTIONS_MADE: &str = "grpc.subchannel.connection_attempts_succeeded";
const CONNECTIONS_FAILED: &str = "grpc.subchannel.connection_attempts_failed";
const CONNECTION_DURATION: &str = "grpc.subchannel.connection_attempt_duration";
const OPEN_CONNECTIONS: &str = "grpc.subchannel.open_connections";
const SUBCHANNEL_STATES: &str = "grpc.subchannel.states";

const METHOD: &str = "grpc.method";
const TARGET: &str = "grpc.target";
const STATUS: &str = "grpc.status";
const SUBCHANNEL_STATE: &str = "grpc.subchannel.state";
pub(super) const DISCONNECT_ERROR: &str = "grpc.disconnect_error";
pub(super) const SECURITY_LEVEL: &str = "grpc.security_level";

/// What a method is called that the program does not know.
const OTHER: &str = "other";

/// Those of A66, in seconds.
const LATENCY_BUCKETS: [f64; 41] = [
    0.0, 0.000_01, 0.000_05, 0.000_1, 0.000_3, 0.000_6, 0.000_8, 0.001, 0.002, 0.003, 0.004, 0.005,
    0.006, 0.008, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16,
    0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
];

/// Those of A66, in bytes.
const SIZE_BUCKETS: [f64; 14] = [
    0.0,
    1_024.0,
    2_048.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
];

/// Those of A96.
const RETRY_BUCKETS: [f64; 5] = [1.0, 2.0, 3.0, 4.0, 5.0];

/// Those of A96.
const TRANSPARENT_RETRY_BUCKETS: [f64; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 10.0];

#[cfg(test)]
mod tests {
    use super::*;

    // spec: A66/method-label
    #[test]
    fn a_method_that_the_program_does_not_know_is_other_unless_the_filter_takes_it() {
        let method = |known, filter: Option<&MethodFilter>| {
            call_labels("/a.B/C", known, filter, "dns:///x")[0].value.as_str().into_owned()
        };
        assert_eq!(method(true, None), "a.B/C");
        assert_eq!(method(false, None), "other");
        let filter: MethodFilter = Arc::new(|name| name == "a.B/C");
        assert_eq!(method(false, Some(&filter)), "a.B/C");
        let filter: MethodFilter = Arc::new(|_| false);
        assert_eq!(method(false, Some(&filter)), "other");
        assert_eq!(method(true, Some(&filter)), "a.B/C");
    }

    // spec: A66/status-label
    #[test]
    fn a_code_that_grpc_does_not_define_is_unknown() {
        assert_eq!(code_name(Ok(())), "OK");
        assert_eq!(code_name(Err(&Status::unavailable("no"))), "UNAVAILABLE");
        let made_up = Status::new(Code::from_number(4711), "no");
        assert_eq!(code_name(Err(&made_up)), "UNKNOWN");
    }

    // spec: A94/disconnect-error
    #[test]
    fn what_ends_a_connection_is_said_in_a_few_words() {
        for (reason, words) in [
            (DisconnectReason::Goaway { code: "ENHANCE_YOUR_CALM" }, "GOAWAY ENHANCE_YOUR_CALM"),
            (DisconnectReason::SubchannelShutdown, "subchannel shutdown"),
            (DisconnectReason::ConnectionReset, "connection reset"),
            (DisconnectReason::ConnectionTimedOut, "connection timed out"),
            (DisconnectReason::ConnectionAborted, "connection aborted"),
            (DisconnectReason::SocketError, "socket error"),
            (DisconnectReason::Unknown, "unknown"),
        ] {
            assert_eq!(disconnect_error(reason).as_str(), words);
        }
        for (level, words) in [
            (SecurityLevel::None, "none"),
            (SecurityLevel::Integrity, "integrity_only"),
            (SecurityLevel::PrivacyAndIntegrity, "privacy_and_integrity"),
        ] {
            assert_eq!(security_level(level), words);
        }
    }
}
