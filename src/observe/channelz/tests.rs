//! What is kept of entities, and for how long.

use std::collections::BTreeMap;

use super::super::calls::{CallEvent, CallInfo};
use super::super::channels::{ChannelEvent, ChannelInfo};
use super::super::inspection::{ConnectionReport, Probe};
use super::*;
use crate::types::{Address, ConnectivityState, MethodPath, SecurityLevel, Status, SubchannelId};

const TARGET: &str = "dns:///greeter";

fn told(entry: &ChannelEntry, event: &ChannelEvent<'_>) {
    entry.observer().channel_event(&ChannelInfo::new(TARGET), event);
}

fn in_state(entry: &ChannelEntry, state: ConnectivityState) {
    told(entry, &ChannelEvent::StateChanged { state });
}

fn address() -> Address {
    Address::Name("server:1".into())
}

fn subchannel_made(entry: &ChannelEntry, serial: u32) -> SubchannelId {
    let subchannel = SubchannelId::new(0, serial);
    told(entry, &ChannelEvent::SubchannelCreated { subchannel, address: &address() });
    subchannel
}

fn subchannel_gone(entry: &ChannelEntry, subchannel: SubchannelId) {
    told(
        entry,
        &ChannelEvent::SubchannelStateChanged {
            subchannel,
            address: &address(),
            from: ConnectivityState::Ready,
            to: ConnectivityState::Shutdown,
            cause: None,
        },
    );
}

/// A connection that has counted nothing.
struct Idle;

impl Probe for Idle {
    fn report(&self) -> ConnectionReport {
        ConnectionReport {
            open_streams: 0,
            streams_allowed: None,
            streams: 0,
            streams_succeeded: 0,
            messages_sent: 0,
            messages_received: 0,
            bytes_sent: 0,
            bytes_received: 0,
            keepalives_sent: 0,
            last_stream: None,
            last_message_sent: None,
            last_message_received: None,
            receive_window: 65_535,
            round_trip: None,
            keepalive_time: None,
            local_address: Some(Address::Name("here".into())),
            remote_address: None,
            socket_options: BTreeMap::new(),
            security: SecurityLevel::None,
            tls: None,
        }
    }
}

fn texts(trace: &ChannelzTrace) -> Vec<&str> {
    trace.events.iter().map(|event| event.description.as_str()).collect()
}

fn ids(refs: &[ChannelzRef]) -> Vec<u64> {
    refs.iter().map(|it| it.id).collect()
}

// spec: A14/pages
#[test]
fn channels_come_in_pages_by_number_and_nested_ones_below_their_parents() {
    let channelz = Channelz::new();
    let entries: Vec<_> = (0..5).map(|_| ChannelEntry::new(&channelz, TARGET)).collect();
    let nested = entries[1].nested("dns:///control");
    let page = |start, max| {
        let page = channelz.top_channels(start, max);
        (page.items.iter().map(|it| it.itself.id).collect::<Vec<_>>(), page.is_last)
    };
    assert_eq!(page(0, 2), (vec![1, 2], false));
    assert_eq!(page(3, 2), (vec![3, 4], false));
    assert_eq!(page(4, 2), (vec![4, 5], true), "the start is included");
    assert_eq!(page(6, 2), (vec![], true));
    let parent = channelz.channel(2).unwrap();
    assert_eq!(ids(&parent.channels), [nested.id()]);
    assert_eq!(texts(&parent.trace), ["channel created", "nested channel created"]);
    assert_eq!(parent.trace.events[1].about.as_ref().unwrap().name, "dns:///control");
    assert_eq!(channelz.channel(nested.id()).unwrap().target, "dns:///control");
    assert!(channelz.subchannel(2).is_none() && channelz.socket(2).is_none());
}

// spec: A14/deletion
#[test]
fn a_channel_that_has_shut_down_stays_until_all_below_it_is_gone() {
    let channelz = Channelz::new();
    let entry = ChannelEntry::new(&channelz, TARGET);
    let subchannel = subchannel_made(&entry, 1);
    let socket = entry.opened(subchannel, Arc::new(Idle)).unwrap();
    let nested = entry.nested(TARGET);
    assert_eq!(ids(&channelz.subchannel(2).unwrap().sockets), [3]);
    assert_eq!(channelz.socket(3).unwrap().itself.name, "here -> ?");

    in_state(&entry, ConnectivityState::Shutdown);
    subchannel_gone(&entry, subchannel);
    let channel = channelz.channel(entry.id()).unwrap();
    assert_eq!(channel.state, ConnectivityState::Shutdown);
    assert_eq!(ids(&channel.subchannels), [2], "its socket is open");
    assert!(entry.opened(subchannel, Arc::new(Idle)).is_none());
    drop(socket);
    assert!(channelz.socket(3).is_none());
    assert!(channelz.channel(entry.id()).unwrap().subchannels.is_empty());
    in_state(&nested, ConnectivityState::Shutdown);
    assert!(channelz.top_channels(0, 1).items.is_empty());
    assert!((1..5).all(|id| channelz.channel(id).is_none() && channelz.subchannel(id).is_none()));
    assert!(channelz.lock().is_empty());
}

// spec: A14/trace
#[test]
fn what_a_trace_speaks_of_can_be_found_until_the_trace_forgets_it() {
    let channelz = Channelz::new();
    let entry = ChannelEntry::new(&channelz, TARGET);
    let subchannel = subchannel_made(&entry, 1);
    subchannel_gone(&entry, subchannel);
    let channel = channelz.channel(entry.id()).unwrap();
    assert!(channel.subchannels.is_empty());
    assert_eq!(
        texts(&channel.trace),
        ["channel created", "subchannel created for server:1", "subchannel deleted"]
    );
    let found = channelz.subchannel(2).expect("the trace speaks of it");
    assert_eq!(found.state, ConnectivityState::Shutdown);
    assert_eq!(texts(&found.trace), ["subchannel created", "subchannel is SHUTDOWN"]);

    for _ in 0..29 {
        in_state(&entry, ConnectivityState::Ready);
        assert!(channelz.subchannel(2).is_some());
    }
    in_state(&entry, ConnectivityState::Idle);
    assert!(channelz.subchannel(2).is_none());
    let trace = channelz.channel(entry.id()).unwrap().trace;
    assert_eq!((trace.events.len(), trace.logged), (30, 33));
    assert_eq!(texts(&trace)[29], "channel is IDLE");
}

#[test]
fn memory_does_not_grow_with_subchannels_that_come_and_go() {
    let channelz = Channelz::new();
    let entry = ChannelEntry::new(&channelz, TARGET);
    for serial in 1..1000 {
        let subchannel = subchannel_made(&entry, serial);
        drop(entry.opened(subchannel, Arc::new(Idle)));
        subchannel_gone(&entry, subchannel);
        assert!(channelz.lock().len() <= 1 + 30);
    }
    in_state(&entry, ConnectivityState::Shutdown);
    assert!(channelz.lock().is_empty());
}

// spec: A14/calls
#[test]
fn a_call_counts_once_with_its_channel_and_for_each_attempt_with_the_subchannel() {
    let channelz = Channelz::new();
    let entry = ChannelEntry::new(&channelz, TARGET);
    let first = subchannel_made(&entry, 1);
    let second = subchannel_made(&entry, 2);
    let path = MethodPath::parse("/a.B/C").unwrap();
    let call = entry.observer().call_began(&CallInfo::new(&path, true, TARGET)).unwrap();
    let unavailable = Status::unavailable("no");
    call.event(&CallEvent::SubchannelPicked { attempt: 0, subchannel: first });
    call.event(&CallEvent::AttemptEnded { attempt: 0, result: Err(&unavailable) });
    call.event(&CallEvent::SubchannelPicked { attempt: 1, subchannel: second });
    // One that has found no subchannel.
    call.event(&CallEvent::AttemptEnded { attempt: 2, result: Err(&unavailable) });
    let calls = |calls: ChannelzCalls| (calls.started, calls.succeeded, calls.failed);
    assert_eq!(calls(channelz.channel(1).unwrap().calls), (1, 0, 0));
    assert_eq!(calls(channelz.subchannel(2).unwrap().calls), (1, 0, 1));
    assert_eq!(calls(channelz.subchannel(3).unwrap().calls), (1, 0, 0));
    call.event(&CallEvent::AttemptEnded { attempt: 1, result: Ok(()) });
    call.event(&CallEvent::Ended { result: Ok(()) });
    assert_eq!(calls(channelz.channel(1).unwrap().calls), (1, 1, 0));
    assert_eq!(calls(channelz.subchannel(3).unwrap().calls), (1, 1, 0));
    assert!(channelz.subchannel(3).unwrap().calls.last_started.is_some());

    entry.own_call(first).unwrap().ended(true);
    drop(entry.own_call(first));
    assert_eq!(calls(channelz.subchannel(2).unwrap().calls), (3, 1, 2));
    assert_eq!(calls(channelz.channel(1).unwrap().calls), (1, 1, 0));
}
