//! What holds in every order.

use std::sync::Arc;

use loom::future::block_on;
use loom::thread;

use super::activity::Activity;
use super::slot::{SlotTable, SubchannelSlot};
use super::snapshot::{Snapshot, SnapshotCell};
use crate::policy::lb::Mute;
use crate::policy::service_config::ServiceConfig;
use crate::transport::Connection;
use crate::types::{ConnectivityState, Generation, SubchannelId};

/// Tries every order: none is left out, however often it switches between threads.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = None;
    builder.check(model);
}

fn slot() -> Arc<SubchannelSlot> {
    Arc::new(SubchannelSlot::new(SubchannelId::new(0, 1)))
}

fn snapshot(connectivity: ConnectivityState) -> Snapshot {
    Snapshot {
        generation: Generation::default(),
        connectivity,
        is_resolved: true,
        picker: Arc::new(Mute),
        slots: SlotTable::default(),
        config: Arc::new(ServiceConfig),
    }
}

fn cell() -> Arc<SnapshotCell> {
    Arc::new(SnapshotCell::new(snapshot(ConnectivityState::Connecting)))
}

/// As a pick does that chose the subchannel of `slot`: looks, and waits where it finds nothing.
async fn pick(cell: &SnapshotCell, slot: &SubchannelSlot) -> Connection {
    loop {
        let seen = cell.load().generation;
        if let Some(connection) = slot.connection() {
            return connection;
        }
        cell.newer_than(seen, Some(slot)).await;
    }
}

/// As a pick does that the picker tells to wait until the channel is READY.
async fn until_ready(cell: &SnapshotCell) {
    loop {
        let (seen, connectivity) = {
            let snapshot = cell.load();
            (snapshot.generation, snapshot.connectivity)
        };
        if connectivity == ConnectivityState::Ready {
            return;
        }
        cell.newer_than(seen, None).await;
    }
}

#[test]
fn a_slot_gives_the_sibling_without_a_gap() {
    check(|| {
        let slot = slot();
        let first = Connection::first();
        first.join().expect("the first is there");
        drop(slot.fill(first.clone()));
        let stopping = thread::spawn({
            let (slot, first) = (slot.clone(), first.clone());
            move || {
                first.stop();
                slot.renew();
            }
        });
        let is_known = !first.is_usable();
        let found = slot.connection().expect("a pick between the two would wait for nothing");
        assert!(!is_known || !found.is(&first), "a pick would get what it knows to have stopped");
        stopping.join().unwrap();
        assert!(slot.has_connection());
    });
}

#[test]
fn a_connection_that_joins_while_the_last_one_stops_is_found_or_does_not_join() {
    check(|| {
        let slot = slot();
        let first = Connection::first();
        drop(slot.fill(first.clone()));
        let joining = thread::spawn({
            let first = first.clone();
            move || first.join()
        });
        let renewing = thread::spawn({
            let (slot, first) = (slot.clone(), first.clone());
            move || {
                first.stop();
                slot.renew();
            }
        });
        let joined = joining.join().unwrap();
        renewing.join().unwrap();
        let found = slot.connection();
        assert_eq!(joined.is_some(), found.is_some());
        assert!(joined.iter().zip(&found).all(|(joined, found)| joined.is(found)));
    });
}

#[test]
fn a_pick_that_found_the_slot_empty_is_woken_when_it_is_filled() {
    check(|| {
        let (cell, slot) = (cell(), slot());
        let filling = thread::spawn({
            let (cell, slot) = (cell.clone(), slot.clone());
            move || {
                drop(slot.fill(Connection::first()));
                drop(cell.slot_filled());
            }
        });
        block_on(pick(&cell, &slot));
        filling.join().unwrap();
    });
}

#[test]
fn a_pick_under_a_goaway_and_a_new_dial_is_not_forgotten() {
    check(|| {
        let (cell, slot) = (cell(), slot());
        let first = Connection::first();
        drop(slot.fill(first.clone()));
        let replacing = thread::spawn({
            let (cell, slot) = (cell.clone(), slot.clone());
            move || {
                first.stop();
                slot.renew();
                drop(slot.fill(Connection::first()));
                drop(cell.slot_filled());
            }
        });
        block_on(pick(&cell, &slot));
        replacing.join().unwrap();
    });
}

#[test]
fn whoever_waits_for_a_snapshot_is_woken_by_it_whoever_else_has_the_turn() {
    check(|| {
        let (cell, slot) = (cell(), slot());
        let publishing = thread::spawn({
            let cell = cell.clone();
            move || drop(cell.publish(snapshot(ConnectivityState::Ready)))
        });
        let filling = thread::spawn({
            let cell = cell.clone();
            move || {
                drop(slot.fill(Connection::first()));
                drop(cell.slot_filled());
            }
        });
        block_on(until_ready(&cell));
        publishing.join().unwrap();
        filling.join().unwrap();
    });
}

#[test]
fn two_who_publish_at_once_give_their_snapshots_two_generations() {
    check(|| {
        let cell = cell();
        let first = cell.load().generation;
        let publishing = thread::spawn({
            let cell = cell.clone();
            move || drop(cell.publish(snapshot(ConnectivityState::Connecting)))
        });
        drop(cell.publish(snapshot(ConnectivityState::Connecting)));
        publishing.join().unwrap();
        assert_eq!(cell.load().generation, first.next().next());
    });
}

#[test]
fn whoever_sees_no_call_waiting_sees_when_the_last_one_ended() {
    check(|| {
        let activity = Arc::new(Activity::new(1));
        let calling = thread::spawn({
            let activity = activity.clone();
            move || drop(activity.wait())
        });
        let before = activity.last().is_some();
        let waiting = activity.waiting();
        assert!(waiting == 0 || waiting == 1);
        calling.join().unwrap();
        assert_eq!(activity.waiting(), 0);
        assert!(activity.last().is_some() || before);
    });
}
