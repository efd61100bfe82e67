//! What a pick costs: the load of a snapshot, the picker's choice, and the connection from its
//! slot, at 1 to 10,000 endpoints. Run it with `cargo bench --bench pick --features test-util`.

use divan::{AllocProfiler, Bencher};
use switchboard::PickRig;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

#[divan::bench(args = [1, 10, 100, 1_000, 10_000])]
fn pick(bencher: Bencher<'_, '_>, endpoints: usize) {
    let rig = PickRig::new(endpoints).expect("a runtime can be made");
    assert!(rig.pick(), "there is a connection to pick");
    bencher.bench_local(|| rig.pick());
}
